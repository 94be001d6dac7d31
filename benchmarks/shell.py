"""The command line, as the benchmarks use it."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any


def nas(*arguments: str, db: str) -> str:
    """Run `nas` and return what it printed on stdout; end this process if it fails."""
    command = [sys.executable, "-m", "nas", *arguments, "--db", db]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command)} ended with {done.returncode}")
    return done.stdout


def run_search(config: Mapping[str, Any], db: str) -> str:
    """Make a search of its settings and sections by `nas run`; return what it printed."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "search.toml")
        file.write_text("\n".join(_toml(config)))
        return nas("run", str(file), db=db)


def _toml(config: Mapping[str, Any]) -> Iterator[str]:
    sections = {name: value for name, value in config.items() if isinstance(value, Mapping)}
    yield from (f"{key} = {json.dumps(value)}" for key, value in config.items() if key not in sections)
    for name, settings in sections.items():
        yield f"[{name}]"
        yield from (f"{key} = {json.dumps(value)}" for key, value in settings.items())
