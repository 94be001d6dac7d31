"""What a driver tells Prometheus while it runs a search (extra `metrics`)."""

from __future__ import annotations

import socket
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, NamedTuple

from nas.errors import ConfigError
from nas.states import TrialState

if TYPE_CHECKING:
    from nas.controller import Outcome
    from nas.driver.search import SearchObserver
    from nas.evaluator import AnyJob
    from nas.storage.schema import Search
    from nas.storage.store import Store

LOCAL = "127.0.0.1"
"""Where metrics are served if nobody says: for this machine alone."""

BUCKETS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 60.0)
"""Upper limits of seconds that a transaction takes, as they are counted."""


class Address(NamedTuple):
    """Where to serve metrics; port 0 stands for a free one."""

    host: str
    port: int


def address(text: str) -> Address:
    """Read `[HOST:]PORT`.

    Raises:
        ConfigError: it is none.
    """
    host, _, port = text.rpartition(":")
    if not port.isdecimal():
        raise ConfigError(f"--metrics {text}: expected [HOST:]PORT, such as 9464 or 0.0.0.0:9464.")
    if int(port) >= 2**16:
        raise ConfigError(
            f"--metrics {text}: there is no port {port}. Give one up to {2**16 - 1}, such as 9464."
        )
    return Address(host.strip("[]") or LOCAL, int(port))


def refuse_unserved(where: Address) -> None:
    """Look whether metrics can be served, before a search is written.

    Raises:
        ConfigError: prometheus-client is not installed, or the port is taken.
    """
    if find_spec("prometheus_client") is None:
        raise ConfigError("--metrics needs prometheus-client: run `pip install 'nas-service[metrics]'`.")
    try:
        socket.create_server(where, family=_family(where)).close()
    except OSError as error:
        raise _taken(where, error) from None


def _family(where: Address) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in where.host else socket.AF_INET


def _taken(where: Address, error: OSError) -> ConfigError:
    why, *_ = (error.strerror or str(error)).split(" (while")
    return ConfigError(f"--metrics {where.host}:{where.port}: {why}. Give a free port of this machine.")


@contextmanager
def serving(
    where: Address | None, row: Search, workers: int, store: Store, observer: SearchObserver
) -> Iterator[SearchObserver]:
    """Serve the metrics of a search at `/metrics` while the block runs.

    Args:
        where: to serve them; None: nowhere.
        row: the search.
        workers: trials at a time.
        store: of its trials so far.
        observer: told of all that happens.

    Raises:
        ConfigError: the port is taken.
    """
    if where is None:
        yield observer
        return
    from prometheus_client import start_http_server

    metrics = _Metrics(row, workers, store, observer)
    try:
        server, thread = start_http_server(where.port, where.host, metrics.registry)
    except OSError as error:
        raise _taken(where, error) from None
    store.timed = metrics.took
    try:
        yield metrics
    finally:
        store.timed = None
        server.shutdown()
        server.server_close()
        thread.join()


class _Metrics:
    """Counts what an observer is told, and tells it."""

    def __init__(self, row: Search, workers: int, store: Store, observer: SearchObserver) -> None:
        from prometheus_client import CollectorRegistry, Gauge, Histogram, ProcessCollector
        from prometheus_client import Counter as Count

        self.registry, self._observer = CollectorRegistry(), observer
        ProcessCollector(registry=self.registry)
        name = {"search": row.name}

        def gauge(metric: str, words: str) -> Any:
            return Gauge(metric, words, [*name], registry=self.registry).labels(**name)

        self._trials = Gauge("nas_trials", "Trials by state.", [*name, "state"], registry=self.registry)
        gauge("nas_trials_planned", "Trials that the search is to have.").set(row.trials)
        gauge("nas_slots", "Trials that run at a time at most.").set(workers)
        self._busy = gauge("nas_slots_busy", "Trials that are with a worker now.")
        self._best = gauge("nas_best_score", "Best score of a whole training; NaN: none yet.")
        self._retries = Count(
            "nas_trial_retries",
            "Attempts that failed or died and were tried again.",
            [*name],
            registry=self.registry,
        ).labels(**name)
        gauge("nas_search_created_time_seconds", "When the search began, since 1970.").set(
            row.created_at.timestamp()
        )
        gauge("nas_driver_start_time_seconds", "When this driver took it up, since 1970.").set(time.time())
        self._sign = gauge(
            "nas_sign_of_life_time_seconds", "When the driver last reached the database, since 1970."
        )
        self._took = Histogram(
            "nas_database_seconds",
            "Seconds that a transaction of the driver took.",
            ["kind"],
            buckets=BUCKETS,
            registry=self.registry,
        )
        self._name, self._counts = row.name, Counter[str]()
        self._running = set[int]()
        self._highest = float("nan")
        for trial in store.history(row.id):
            self._ended(trial.state)
            if trial.state == TrialState.COMPLETED and not trial.repeat:
                self._improve(trial.score)
        self._best.set(self._highest)
        self._show()

    def took(self, kind: str, seconds: float) -> None:
        """Count a transaction that succeeded."""
        self._took.labels(kind).observe(seconds)
        self._sign.set_to_current_time()

    def started(self, job: AnyJob) -> None:
        """Count a busy slot."""
        self._running.add(job.number)
        self._show()
        self._observer.started(job)

    def reported(self, job: AnyJob, outcome: Outcome) -> None:
        """Nothing of a running trial is counted."""
        self._observer.reported(job, outcome)

    def recorded(self, number: int, outcome: Outcome) -> None:
        """Count a trial that ended."""
        self._running.discard(number)
        self._ended(outcome.state.value)
        whole = outcome.state is TrialState.COMPLETED and outcome.repeat == 0
        self._improve(outcome.score.value if whole and outcome.score else None)
        self._show()
        self._observer.recorded(number, outcome)

    def retried(self, job: AnyJob, error: str) -> None:
        """Count an attempt."""
        self._running.discard(job.number)
        self._retries.inc()
        self._show()
        self._observer.retried(job, error)

    def _ended(self, state: str) -> None:
        self._counts[state] += 1

    def _improve(self, score: float | None) -> None:
        if score is not None and not score <= self._highest:
            self._highest = score
            self._best.set(score)

    def _show(self) -> None:
        self._busy.set(len(self._running))
        for state in TrialState:
            count = len(self._running) if state is TrialState.RUNNING else self._counts[state.value]
            self._trials.labels(self._name, state.value).set(count)
