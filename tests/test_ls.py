"""`nas ls --watch` and `nas show --watch`: what they show, again and again."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
import time
from pathlib import Path

import pytest
import typer
from command_line import nas

from nas.cli import looks
from nas.controller import Outcome, Score
from nas.space import Architecture
from nas.states import TrialState
from nas.storage.store import Store
from nas.testing.stores import begin, search

SCORED = Outcome(TrialState.COMPLETED, Architecture("toy", (0,)), Score(0.5, 0.01, 9), seconds=2.0)


def steps(monkeypatch: pytest.MonkeyPatch, *actions: object) -> list[float]:
    """Do one of these things at each pause, then press Ctrl-C; return how long the pauses were to be."""
    todo, paused = iter(actions), list[float]()

    def sleep(seconds: float) -> None:
        paused.append(seconds)
        action = next(todo, None)
        if action is None:
            raise KeyboardInterrupt
        action()  # type: ignore[operator]

    monkeypatch.setattr(looks.time, "sleep", sleep)
    return paused


def test_a_pipe_gets_what_has_changed(store: Store, db: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old, row = search(store, name="old"), search(store, name="s", trials=3)
    store.acquire(row.id)
    trial = begin(store, row, 0)
    assert old.id < row.id
    paused = steps(
        monkeypatch,
        lambda: store.finish(trial, SCORED),
        lambda: store.heartbeat(row.id),
        lambda: store.release(row.id, "stopped"),
    )
    code, out, err = nas("ls", "--watch", "-f", "ndjson")
    rows = [json.loads(line) for line in out.splitlines()]
    assert (code, err) == (0, "")
    assert [(found["search"], found["state"], found["done"]) for found in rows] == [
        ("s", "running", 0),
        ("old", "interrupted", 0),
        ("s", "running", 1),
        ("s", "stopped", 1),
    ]
    assert min(paused) >= 2


def test_a_slow_database_is_asked_rarely(store: Store, db: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 1.0, 30.0, 30.0])
    paused = steps(monkeypatch, lambda: None)
    monkeypatch.setattr(looks.time, "monotonic", lambda: next(clock))
    assert nas("ls", "--watch")[0] == 0
    assert paused == [20.0, 2.0]


def test_only_the_trials_of_what_is_listed_are_read(store: Store) -> None:
    for name in ("a", "b", "c"):
        row = search(store, name=name)
        store.acquire(row.id)
        store.finish(begin(store, row, 0), SCORED)
    assert [(found.search.name, found.trials) for found in store.searches(2)] == [
        ("c", {"completed": 1}),
        ("b", {"completed": 1}),
    ]
    assert len(store.searches()) == 3


@pytest.mark.parametrize("form", ["json", "csv", "markdown"])
def test_what_has_an_end_cannot_be_watched(store: Store, db: Path, form: str) -> None:
    code, _, err = nas("ls", "--watch", "-f", form)
    assert (code, "ndjson" in err) == (2, True)


def test_a_terminal_is_refreshed_in_place_until_ctrl_c(store: Store, tmp_path: Path) -> None:
    search(store, name="first", trials=3)
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "nas", "ls", "--watch", f"--db=sqlite:///{tmp_path}/nas.db"]
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "100", "LINES": "30"}
    # The terminal of a session of its own: its Ctrl-C is a signal to this process alone.
    running = subprocess.Popen(
        command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment, start_new_session=True
    )
    os.close(theirs)
    seen, stopped = b"", False
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        try:
            seen += os.read(ours, 4096)
        except OSError:  # it has ended
            break
        if b"first" in seen and b"second" not in seen and store.searches()[0].search.name != "second":
            search(store, name="second")
        if b"second" in seen and not stopped:
            stopped = True
            running.send_signal(2)
    os.close(ours)
    assert running.wait(60) == 0
    assert b"\x1b[1A" in seen or b"\x1b[2A" in seen  # up, over what was there


def test_a_search_is_watched_until_its_driver_has_left_it(
    store: Store, db: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = search(store, name="s", trials=2)
    store.acquire(row.id)
    first = begin(store, row, 0)
    steps(
        monkeypatch,
        lambda: (store.finish(first, SCORED), begin(store, row, 1)),
        lambda: store.heartbeat(row.id),
        lambda: (store.interrupt(row.id), store.release(row.id, "stopped")),
    )
    code, out, err = nas("show", "s", "--watch", "-f", "ndjson")
    rows = [json.loads(line) for line in out.splitlines()]
    assert (code, err) == (0, "")
    assert [(found["trial"], found["state"]) for found in rows] == [
        (0, "running"),
        (0, "completed"),
        (1, "running"),
        (1, "interrupted"),
    ]


def test_a_watched_search_fits_the_terminal(store: Store, db: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    row = search(store, name="s", trials=60)
    store.acquire(row.id)
    for number in range(50):
        store.finish(begin(store, row, number), SCORED)
    store.release(row.id, "stopped")
    monkeypatch.setenv("LINES", "20")
    monkeypatch.setattr(looks, "on_terminal", lambda form: True)
    monkeypatch.setattr(looks, "in_place", lambda draw: typer.echo(draw()))
    code, out, _ = nas("show", "s", "--watch")
    lines = out.splitlines()
    assert (code, lines.pop(), len(lines) < 20) == (0, "False", True)
    assert [line.split()[0] for line in lines[-2:]] == ["48", "49"]
    assert "60 (50 completed)" in out


@pytest.mark.parametrize("options", [["s/0"], ["s", "--layers"], ["s", "-f", "csv"]])
def test_what_does_not_change_cannot_be_watched(store: Store, db: Path, options: list[str]) -> None:
    search(store, name="s")
    assert nas("show", "--watch", *options)[0] == 2
