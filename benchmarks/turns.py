"""Methods that take turns, each in its own process, so that what else the machine does hits all alike."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any


def take_turns(
    command: Sequence[str], methods: Sequence[str], rounds: int
) -> tuple[dict[str, list[list[float]]], dict[str, dict[str, Any]]]:
    """Let each method take `rounds` steps, after one to warm up.

    Args:
        command: of a process that calls `serve`; the method's name is added.
        methods: in the order of their turns.
        rounds: 1 at least.

    Returns:
        What each step took, and what each method said at its end.
    """
    processes: dict[str, subprocess.Popen[str]] = {}
    taken: dict[str, list[list[float]]] = {method: [] for method in methods}
    try:
        for method in methods:
            processes[method] = subprocess.Popen(
                [sys.executable, *command, method], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
        for _ in range(1 + rounds):
            for method, process in processes.items():
                taken[method].append(_ask(method, process))
        ends = {method: json.loads(process.communicate()[0]) for method, process in processes.items()}
    finally:
        for process in processes.values():
            process.kill()
            _close(process)
    return {method: steps[1:] for method, steps in taken.items()}, ends


def _ask(method: str, process: subprocess.Popen[str]) -> list[float]:
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        process.stdin.write("\n")
        process.stdin.flush()
        answer = process.stdout.readline()
    except BrokenPipeError:
        answer = ""
    if not answer:
        sys.exit(f"The process of '{method}' ended with {process.wait()}; its own words are above.")
    return [float(number) for number in answer.split()]


def _close(process: subprocess.Popen[str]) -> None:
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with suppress(BrokenPipeError):
                pipe.close()
    process.wait()


def serve(step: Callable[[], Sequence[float]], end: Callable[[], dict[str, Any]]) -> None:
    """Answer each line of input with what a step took; at the end of the input, with the last words."""
    for _ in sys.stdin:
        print(*step(), flush=True)
    print(json.dumps(end()), flush=True)
