"""The command line, in this process or in one of its own."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from functools import cache
from pathlib import Path

from typer import testing
from typer.main import get_command

from nas.cli.main import app
from nas.cli.messages import laid_out
from nas.errors import NasError

built = testing._get_command = cache(get_command)
"""To build all verbs takes longer than most of them take to run."""

SCRIPTED = (
    "--space=nas.testing.toys:Toy",
    "--controller=evolution",
    "--tasks=sinusoid",
    "--learner=maml",
    "--evaluator=nas.testing.evaluators:Scripted",
    "--executor=inline",
)
"""Options of a search that trains nothing."""


def nas(*arguments: str) -> tuple[int, str, str]:
    """Run the app here; an error of ours becomes its exit code and message, as `main` prints it.

    Returns:
        The exit code, stdout and stderr.
    """
    result = testing.CliRunner().invoke(app, arguments)
    if isinstance(result.exception, NasError):
        message = laid_out(f"error: {result.exception}", None)
        return result.exception.exit_code, result.stdout, f"{result.stderr}{message}"
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


def start(*arguments: str, folder: Path) -> subprocess.Popen[str]:
    """Start the app as a process, at the head of a group of its own, with no settings of this environment."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("NAS_")}
    return subprocess.Popen(
        [sys.executable, "-m", "nas", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=folder,
        env=environment,
        start_new_session=True,
    )


def process(*arguments: str, folder: Path) -> tuple[int, str, str]:
    """Run the app as a process to its end.

    Returns:
        The exit code, stdout and stderr.
    """
    running = start(*arguments, folder=folder)
    out, err = running.communicate()
    return running.returncode, out, err


def living(group: int) -> list[int]:
    """Return the processes of a group that are not dead, perhaps unmourned."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, _, of = stat.read_text().rpartition(")")[2].split()[:3]
            if int(of) == group and state != "Z":
                found.append(int(stat.parent.name))
    return found
