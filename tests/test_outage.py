"""A PostgreSQL that goes away while a search writes to it: nothing is lost, nothing doubled."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import psycopg
import pytest
from databases import on_postgres
from facts import refusal
from scripted_searches import Silent, configure, reopen, results, run, start
from sqlalchemy import create_engine, make_url, text

from nas.controller import Outcome
from nas.driver.trials import executor
from nas.errors import HeadLost, StorageError, Unreachable
from nas.evaluator import AnyJob
from nas.executors.base import Executor, Workload
from nas.storage import outage
from nas.storage.database import Database
from nas.storage.schema import Search
from nas.storage.store import Store
from nas.testing.stores import begin, outcome, search
from nas.verbs import started

TRIALS = 24


@pytest.fixture
def url() -> Iterator[str]:
    with on_postgres() as url:
        yield url


class Relay:
    """Passes connections on to a server; `away` cuts them and refuses others."""

    def __init__(self, url: str) -> None:
        parsed = make_url(url)
        self._server = parsed.host or "127.0.0.1", parsed.port or 5432
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._port = self._listener.getsockname()[1]
        self.url = parsed.set(host="127.0.0.1", port=self._port).render_as_string(hide_password=False)
        self._listen()

    def _listen(self) -> None:
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def _accept(self, listener: socket.socket) -> None:
        with suppress(OSError):
            while True:
                client, _ = listener.accept()
                server = socket.create_connection(self._server)
                self._pairs.append((client, server))
                for source, sink in ((client, server), (server, client)):
                    threading.Thread(target=_pass, args=(source, sink), daemon=True).start()

    def leave(self) -> None:
        """Cut every connection, and take no other."""
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for pair in self._pairs:
            for end in pair:
                _cut(end)
                end.close()
        self._pairs.clear()

    def come_back(self) -> None:
        """Take connections again."""
        self._listener = socket.create_server(("127.0.0.1", self._port))
        self._listen()


@pytest.fixture
def relay(url: str) -> Iterator[Relay]:
    made = Relay(url)
    yield made
    made.leave()


def _pass(source: socket.socket, sink: socket.socket) -> None:
    with suppress(OSError):
        while some := source.recv(65536):
            sink.sendall(some)
    _cut(sink)


def _cut(end: socket.socket) -> None:
    with suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)


def undisturbed(store: Store) -> list[tuple[Any, ...]]:
    return run(store, configure(trials=TRIALS, name="undisturbed"))


def complete(store: Store, name: str) -> bool:
    """Return whether a search has each trial once, in one order."""
    trials = store.trials(store.search(name).id)
    numbers, places = [trial.number for trial in trials], [trial.observed for trial in trials]
    return numbers == [*range(TRIALS)] and sorted(places) == [*range(1, TRIALS + 1)]  # type: ignore[type-var]


@contextmanager
def terminating(url: str, name: str) -> Iterator[list[int]]:
    """Terminate the connections of an application ten times; give how many at a time."""
    ended, counts = threading.Event(), list[int]()
    engine = create_engine(url)
    kill = text(
        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name = :name"
    )

    def go_on() -> None:
        while len(counts) < 10 and not ended.wait(0.2):
            with engine.connect() as connection:
                counts.append(connection.scalar(kill, {"name": name}) or 0)

    thread = threading.Thread(target=go_on)
    thread.start()
    try:
        yield counts
    finally:
        ended.set()
        thread.join()
        engine.dispose()


def test_connections_that_are_terminated_cost_nothing(url: str) -> None:
    name = f"nas-outage-{os.getpid()}"
    ours = make_url(url).update_query_dict({"application_name": name}).render_as_string(hide_password=False)
    with Store(ours, create=True) as store:
        expected = undisturbed(store)
        slow = {"name": "nas.testing.evaluators:Scripted", "seconds": 0.1}
        search = start(store, config := configure(trials=TRIALS, name="s", evaluator=slow))
        with terminating(url, name) as counts:
            assert search.run(executor(config, config.make_source())) == "completed"
        assert results(store, "s") == expected
        assert complete(store, "s")
    assert sum(counts) > 1


def test_a_commit_in_doubt_is_not_doubled(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each third commit is done, but the driver does not hear of it."""
    with Store(url, create=True) as store:
        expected = undisturbed(store)
        search = start(store, config := configure(trials=TRIALS, name="s"))
        commits = [0]
        dialect = store._database.dialect
        commit = dialect.do_commit

        def unheard(connection: Any) -> None:
            commit(connection)
            commits[0] += 1
            if commits[0] % 3 == 1:
                connection.dbapi_connection.close()
                raise psycopg.OperationalError("the connection is lost")

        with monkeypatch.context() as patch:
            patch.setattr(dialect, "do_commit", unheard)
            assert search.run(executor(config, config.make_source())) == "completed"
        assert results(store, "s") == expected
        assert complete(store, "s")
    assert commits[0] > 4 * TRIALS


class Leaving(Silent):
    """Has the server leave when a trial was recorded."""

    def __init__(self, relay: Relay, trial: int, seconds: float | None) -> None:
        self._relay, self._trial, self._seconds = relay, trial, seconds

    def recorded(self, number: int, outcome: Outcome) -> None:
        if number == self._trial:
            self._relay.leave()
            if self._seconds is not None:
                threading.Timer(self._seconds, self._relay.come_back).start()

    def started(self, job: AnyJob) -> None:
        """Pass over a job."""


def test_a_server_that_is_away_for_a_while_costs_nothing(relay: Relay) -> None:
    with Store(relay.url, create=True) as store:
        expected = undisturbed(store)
        start(store, config := configure(trials=TRIALS, name="s"))
        search = reopen(store, "s", Leaving(relay, 10, seconds=1.0))
        assert search.run(executor(config, config.make_source())) == "completed"
        assert results(store, "s") == expected
        assert complete(store, "s")


def test_a_search_that_is_to_start_or_go_on_waits_for_the_server(relay: Relay) -> None:
    Store(relay.url, create=True).close()
    relay.leave()
    with pytest.raises(Unreachable):
        Store(relay.url)
    threading.Timer(0.3, relay.come_back).start()
    with Store(relay.url, patient=True) as store:
        relay.leave()
        threading.Timer(0.3, relay.come_back).start()
        assert search(store, name="s").name == "s"
        assert store.names() == ["s"]


def test_a_server_that_lets_nobody_in_is_not_waited_for(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def wait(seconds: float) -> None:
        raise AssertionError("waited")

    monkeypatch.setattr(outage.time, "sleep", wait)
    absent = make_url(url).set(database="absent").render_as_string(hide_password=False)
    with refusal(StorageError, "absent"):
        Store(absent, patient=True)


def test_one_that_stays_away_ends_the_search_which_goes_on_later(
    relay: Relay, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outage, "OUTAGE_SECONDS", 0.3)
    with Store(relay.url, create=True) as store:
        expected = undisturbed(store)
        start(store, config := configure(trials=TRIALS, name="s"))
        search = reopen(store, "s", Leaving(relay, 10, seconds=None))
        with pytest.raises(Unreachable):
            search.run(executor(config, config.make_source()))
        relay.come_back()
        assert len(store.history(store.search("s").id)) == 11
        again = reopen(store, "s")
        assert again.run(executor(config, config.make_source())) == "completed"
        assert results(store, "s") == expected


def test_who_was_taken_over_in_an_outage_writes_nothing(url: str, relay: Relay) -> None:
    with Store(relay.url, create=True) as store, Store(url) as other:
        row = store.acquire(search(store).id)
        trial = begin(store, row, 0)
        relay.leave()
        with other._database.edit() as session:
            session.get_one(Search, row.id).driver = "another"
        threading.Timer(0.3, relay.come_back).start()
        with refusal(StorageError, "nas ls"):
            store.finish(trial, outcome(0.5))
        assert other.trial(row.id, 0).observed is None


def test_no_password_is_quoted(url: str) -> None:
    bad = make_url(url).set(password="se:cret").update_query_dict({"se:cret": "1"})
    with refusal(StorageError) as refused:
        Store(bad.render_as_string(hide_password=False))
    assert "se:cret" not in str(refused.value)


def test_a_head_that_is_lost_while_the_database_is_away_is_told(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both may be of one machine; Ray would end this process without a word."""

    class OnNothing(Executor[AnyJob, Outcome]):
        def look(self) -> None:
            raise HeadLost("The head is gone.")

        def run(self, workload: Workload[AnyJob, Outcome]) -> None:
            assert workload.next() is not None
            for method in ("read", "edit", "write"):
                gone.setattr(Database, method, away)
            store.heartbeat(1)

    def away(*_: object) -> NoReturn:
        raise Unreachable("away")

    config = configure(name="s", trials=3)
    with (
        monkeypatch.context() as gone,
        started(store, config, lambda words: None) as session,
        refusal(HeadLost, "The head is gone."),
    ):
        replace(session, executor=OnNothing()).run(Silent(), Path())
    assert [trial.state for trial in store.trials(store.search("s").id)] == ["running"]
    assert store.search("s").state == "running"


def test_an_interrupt_ends_the_wait_and_what_follows_does_not_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(seconds: float) -> None:
        pauses.append(seconds)
        raise KeyboardInterrupt

    def away() -> None:
        raise Unreachable("away")

    pauses: list[float] = []
    monkeypatch.setattr(outage.time, "sleep", interrupt)
    patience = outage.Patience(lambda: None)
    with pytest.raises(KeyboardInterrupt):
        patience.outlast(away)
    for _ in range(2):
        with pytest.raises(Unreachable):
            patience.outlast(away)
    assert len(pauses) == 1
    assert patience.outlast(lambda: 7) == 7
    with pytest.raises(KeyboardInterrupt):
        patience.outlast(away)
