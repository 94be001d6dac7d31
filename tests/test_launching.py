"""One command that starts a search, goes on with it, or finds it completed."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path

import pytest
from command_line import SCRIPTED, nas
from facts import lacking, refusal
from scripted_searches import Silent, configure

import nas as package
from nas import launching
from nas.errors import ConfigError, HeadLost, NasError, Stillborn, Unready
from nas.launching import launched
from nas.storage import lease
from nas.storage.columns import now
from nas.storage.store import Store
from nas.testing.stores import another_driver
from nas.verbs import Session

RUN = ("run", *SCRIPTED, "--trials=4", "--resume-or-start=s")


def states(store: Store) -> list[str]:
    return [trial.state for trial in store.trials(store.search("s").id)]


def test_the_same_command_starts_goes_on_and_is_done(db: Path, store: Store) -> None:
    code, _, err = nas(*RUN)
    assert (code, len(states(store))) == (0, 4), err
    row = store.search("s")
    store.acquire(row.id, total=6)  # extended, and its driver died
    store.release(row.id, "interrupted")
    assert nas(*RUN)[0] == 0
    assert len(states(store)) == 6
    before = store.search("s").finished_at
    code, _, err = nas(*RUN)
    assert (code, lacking(err, "completed", "nas leaderboard --search s")) == (0, [])
    assert (len(states(store)), store.search("s").finished_at) == (6, before)


@pytest.mark.parametrize(
    "error",
    [HeadLost("The head is gone."), Unready("node1", "no data there."), Stillborn("6 workers died.")],
    ids=["head", "unready", "stillborn"],
)
def test_the_command_that_goes_on_is_told_once(
    db: Path, monkeypatch: pytest.MonkeyPatch, error: NasError
) -> None:
    def lose(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(Session, "run", lose)
    code, _, err = nas(*RUN)
    assert (code, err.count("hen continue: `")) == (error.exit_code, 1), err


@pytest.mark.parametrize("submitted", [None, "nas submit 'my search.toml' --name s"])
def test_who_stops_a_search_is_told_how_its_driver_ran(
    db: Path, store: Store, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, submitted: str | None
) -> None:
    job = {"metadata": {"search": "s", "command": submitted}} if submitted else {}
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", json.dumps(job))
    folder = tmp_path / "my files"
    with launched(store, configure(name="s", trials=2), lambda words: None) as session:
        assert session is not None
        replace(session, address="head:6379").run(Silent(), folder, named=True)
    command = submitted or f"nas resume s --ray-address head:6379 --artifacts '{folder}'"
    for verb in ("stop", "watch"):
        store.release(store.acquire(store.search("s").id, again=command).id, "interrupted")
        assert f"`{command}`" in nas(verb, "s")[2]


def test_what_a_job_prints_is_for_readers_elsewhere(
    db: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = "nas submit search.toml --name s"
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", json.dumps({"metadata": {"command": command}}))
    monkeypatch.setenv("RAY_ADDRESS", "head:6379")

    def lose(*_: object, **__: object) -> None:
        raise HeadLost("The head is gone.")

    assert "`nas resume s --trials +N --ray-address head:6379`" in nas(*RUN)[2]
    store.acquire(store.search("s").id, total=6)
    store.release(store.search("s").id, "interrupted")
    monkeypatch.setattr(Session, "run", lose)
    assert f"hen continue: `{command}`" in nas(*RUN)[2]


def test_python_does_so_too(db: Path) -> None:
    def search(**changes: object) -> package.Search:
        values = {option.partition("=")[0][2:]: option.partition("=")[2] for option in SCRIPTED}
        return package.search(**values | changes, trials=2, resume_or_start=True, quiet=True)  # type: ignore[arg-type]

    assert len(search(name="s").trials) == len(search(name="s").trials) == 2
    with refusal(ConfigError, "resume_or_start", "name"):
        search()


def test_other_settings_under_the_same_name_are_refused(db: Path, store: Store) -> None:
    assert nas(*RUN)[0] == 0
    code, _, err = nas(*RUN[:-2], "--trials=5", "--set=tasks.shots=3", RUN[-1], "--workers=1")
    assert (code, lacking(err, "tasks.shots", 3, 5, "trials", 4, "nas resume s")) == (2, [])
    assert "workers" not in err
    code, _, err = nas(*RUN, "--name=t")
    assert (code, lacking(err, "--name t", "--resume-or-start s")) == (2, [])
    assert len(states(store)) == 4


def test_a_driver_that_died_is_waited_for(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its kernel cannot be asked, so that its last sign of life has to grow old."""
    config = configure(name="s", trials=3)
    said: list[str] = []
    with launched(store, config, said.append) as session:
        assert session is not None
        row = session.row
    with monkeypatch.context() as elsewhere:
        silence = lease.SILENCE.total_seconds()
        elsewhere.setattr(lease, "holder", lambda: lease.Holder("elsewhere", 7, "kernel/name"))
        elsewhere.setattr("nas.storage.store.now", lambda: now() + lease.SILENCE * (8 / silence - 1))
        store.acquire(row.id)
    assert lease.driven(store.search("s"))
    said.clear()
    began = time.monotonic()
    with launched(store, config, said.append) as session:
        assert session is not None
        assert session.run(Silent(), Path()).state == "completed"
    assert time.monotonic() - began > 1
    assert lacking(said[0], "elsewhere", 7, "s") == []
    assert states(store) == ["completed"] * 3


def test_a_driver_that_lives_is_not_disturbed(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launching, "PATIENCE", 0.1)
    config = configure(name="s", trials=3)
    with launched(store, config, lambda words: None) as session:
        assert session is not None
    with another_driver() as driver:
        with monkeypatch.context() as elsewhere:
            elsewhere.setattr(lease, "holder", lambda: driver)
            store.acquire(session.row.id)
        with (
            refusal(ConfigError, driver.pid, "nas stop s"),
            launched(store, config, lambda words: None),
        ):
            pass
