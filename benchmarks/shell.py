"""The command line, as the benchmarks use it."""

from __future__ import annotations

import subprocess
import sys


def nas(*arguments: str, db: str) -> str:
    """Run `nas` and return what it printed on stdout; end this process if it fails."""
    command = [sys.executable, "-m", "nas", *arguments, "--db", db]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command)} ended with {done.returncode}")
    return done.stdout
