"""`nas watch`, `nas note` and the completion of names: what is read of searches that others run."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from command_line import nas
from rich.console import Console

from nas.cli import watch as watching
from nas.controller import Outcome, Score
from nas.space import Architecture
from nas.states import TrialState
from nas.storage.store import Store
from nas.testing.stores import begin, search
from nas.testing.stores.rows import columns


def finish(store: Store, trial: int, score: float) -> None:
    store.finish(
        trial, Outcome(TrialState.COMPLETED, Architecture("toy", (0,)), Score(score, 0.01, 9), seconds=2.0)
    )


def test_a_search_is_followed_until_it_ends(store: Store, db: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between two looks its driver records a trial, and at last leaves."""
    row = search(store, name="s", trials=3)
    store.acquire(row.id)
    finish(store, begin(store, row, 0), 0.5)
    second = begin(store, row, 1)
    steps = iter(
        [
            lambda: finish(store, second, 0.75),
            lambda: (finish(store, begin(store, row, 2), 0.25), store.release(row.id, "completed")),
        ]
    )
    monkeypatch.setattr(watching.time, "sleep", lambda seconds: next(steps)())
    code, out, err = nas("watch", "s")
    assert (code, out) == (0, "")
    first, *lines, last = err.strip().splitlines()
    assert "1/3 trials · best 0.5000" in first
    assert [line.partition(" ")[2].partition(" | ")[0] for line in lines] == [
        "trial 1 completed 0.7500 ± 0.0100 in 2.0 s",
        "trial 2 completed 0.2500 ± 0.0100 in 2.0 s",
    ]
    assert "3/3 trials · best 0.7500 ± 0.0100 (trial 1)" in lines[-1]
    assert "completed" in last


def test_watching_is_interrupted_alone(store: Store, db: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    row = search(store, name="s")
    store.acquire(row.id)

    def interrupt(seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(watching.time, "sleep", interrupt)
    code, _, err = nas("watch", "s")
    assert (code, "nas stop s" in err) == (0, True)
    assert (store.search("s").state, store.search("s").stop_requested) == ("running", False)


@pytest.mark.parametrize(("state", "command"), [("stopped", "nas resume s"), ("completed", "nas show s")])
def test_a_search_that_ended_is_summed_up(store: Store, db: Path, state: str, command: str) -> None:
    row = search(store, name="s")
    store.acquire(row.id)
    finish(store, begin(store, row, 0), 0.5)
    store.release(row.id, state)
    code, _, err = nas("watch", "s")
    assert (code, "best 0.5000" in err, command in err) == (0, True, True)
    assert nas("watch", "other")[0] == 3


def test_a_terminal_sees_what_runs(store: Store, db: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from nas.progress import searches as progress

    row = search(store, name="s", config={"budget": {"train_episodes": 300}})
    store.acquire(row.id)
    begin(store, row, 0)
    panel = progress._Panel(progress.Tally(row, store), 300)
    panel.running = progress._running(row, store)
    panel.ended("trial 9 completed")
    [number] = panel.running
    assert number == 0
    console = Console(width=80, file=io.StringIO(), record=True)
    console.print(panel)
    shown = console.export_text()
    assert "trial 0: running" in shown
    assert "trial 9 completed" in shown


def test_a_note_is_kept_shown_and_removed(store: Store, db: Path) -> None:
    search(store, name="s")
    assert nas("note", "s", "wide\nnetworks ü")[0] == 0
    [listed] = json.loads(nas("ls", "-f", "json")[1])
    assert listed["note"] == "wide networks ü"  # a line of a table
    assert json.loads(nas("show", "s", "-f", "json")[1])["note"] == "wide networks ü"
    assert "networks ü" in nas("show", "s")[1]
    assert nas("note", "s", "")[0] == 0
    assert json.loads(nas("ls", "-f", "json")[1])[0]["note"] is None
    assert "note" not in nas("ls")[1]
    assert nas("note", "other", "x")[0] == 3


def test_a_note_is_words_and_one_that_is_replaced_is_told(store: Store, db: Path) -> None:
    search(store, name="small")
    code, _, err = nas("note", "small", "first", "try")
    assert (code, "first try" in err) == (0, False)
    assert store.search("small").note == "first try"
    code, _, err = nas("note", "@last", "second")
    assert (code, "first try" in err) == (0, True)
    code, _, err = nas("note", "small", "")
    assert (code, "second" in err) == (0, True)
    assert store.search("small").note is None


@pytest.mark.parametrize(
    "words", [("note", "smal", "x"), ("stop", "smal"), ("resume", "smal"), ("rm", "smal")]
)
def test_a_search_is_changed_by_its_whole_name_alone(store: Store, db: Path, words: tuple[str, ...]) -> None:
    search(store, name="small")
    before = columns(store.search("small"))
    code, _, err = nas(*words)
    assert (code, "'small'" in err) == (2, True)
    assert columns(store.search("small")) == before


def complete(words: str, db: str, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return what a shell is offered at the end of a command."""
    from typer.testing import CliRunner

    from nas.cli.main import app

    environment = {"_NAS_COMPLETE": "complete_bash", "COMP_WORDS": words, "NAS_DB": db}
    environment["COMP_CWORD"] = str(len(words.split(" ")) - 1)
    monkeypatch.delenv("NAS_DB", raising=False)
    result = CliRunner().invoke(app, [], prog_name="nas", env=environment)
    assert result.stderr == ""
    return result.stdout.split()


def test_names_are_completed_newest_first(store: Store, db: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("alpha", "beta", "alps"):
        search(store, name=name)
    url = f"sqlite:///{db}"
    for verb in (
        "show",
        "resume",
        "stop",
        "rm",
        "watch",
        "note",
        "rerun",
        "export",
        "evaluate",
        "score",
        "compare",
        "plot",
    ):
        assert complete(f"nas {verb} al", url, monkeypatch) == ["alps", "alpha"], verb
    assert complete("nas leaderboard --search be", url, monkeypatch) == ["beta"]
    assert complete("nas show @", url, monkeypatch) == ["@last"]


def test_without_a_database_there_is_nothing_to_complete_and_nothing_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for url in (f"sqlite:///{tmp_path}/none.db", "nonsense", f"sqlite:///{tmp_path}"):
        assert complete("nas show a", url, monkeypatch) == []
    assert list(tmp_path.iterdir()) == []
