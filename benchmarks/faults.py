"""Strike searches on a cluster at random moments, and look whether a result is lost, doubled or stuck.

    python benchmarks/faults.py -o docs/results/faults

Starts the cluster of `scripts/local_cluster.sh` (a head, two nodes, a PostgreSQL), and runs searches on it, a
few at a time, each by `nas run FILE --resume-or-start=NAME`, again and again until it is completed. Meanwhile
drivers and workers, nodes, the network and PostgreSQL are struck. Then each search is compared with what its
drivers had said was recorded, with a replay, and, where its proposals do not depend on which trial ends
first, with a run that nothing disturbed. Goes on where it was: what FILE.json has is not done again.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import shlex
import signal
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
import traceback
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from itertools import chain
from pathlib import Path
from typing import Any, ClassVar

from arguments import at_least
from silent import Silent
from sqlalchemy import create_engine, text

from nas.cli.document import toml
from nas.counts import counted
from nas.driver.creation import create
from nas.driver.records import configuration
from nas.driver.search import SearchDriver
from nas.driver.trials import executor
from nas.settings.search import validate
from nas.states import SearchState, TrialState
from nas.storage.store import Store
from nas.training.provenance import environment

ROOT = Path(__file__).parent.parent

KILLED, TERMINATED, HUNG_UP = "driver: kill -9", "driver: SIGTERM", "driver: SIGHUP"
ASLEEP = "driver: stopped for seconds, continued"
OUTLIVED = "driver: stopped, taken over from another machine, continued"
WORKER = "worker: kill -9"
NODE = "node: killed, started again"
RESTARTED, CRASHED = "PostgreSQL: restarted", "PostgreSQL: crashed, restarted"
CUT, CUT_LONG = "node: cut off for seconds, and back", "node: cut off until the head gave it up, and back"
DISCONNECTED = "PostgreSQL: all connections terminated"

SHARES = {
    "drivers": [KILLED, TERMINATED, HUNG_UP, ASLEEP, KILLED, TERMINATED, KILLED, HUNG_UP, KILLED, OUTLIVED],
    "workers": [WORKER],
    "nodes": [NODE],
    "restarts": [RESTARTED, CRASHED],
    "cuts": [CUT, DISCONNECTED, CUT_LONG, DISCONNECTED],
}
"""Kinds of faults by option; so many are taken in turn."""

KINDS = tuple(dict.fromkeys(chain(*SHARES.values())))

OF_ONE = {KILLED: signal.SIGKILL, TERMINATED: signal.SIGTERM, HUNG_UP: signal.SIGHUP}

TOY = {
    "space": "nas.testing.toys:Toy",
    "tasks": "sinusoid",
    "learner": "maml",
    "evaluator": {"name": "nas.testing.evaluators:Scripted", "seconds": 0.5},
}
REAL = {
    "space": "mlp",
    "tasks": "sinusoid",
    "learner": "maml",
    "budget": {"train_episodes": 100, "validation_episodes": 50},
}
SEARCHES: dict[str, dict[str, Any]] = {
    "random": {**TOY, "controller": "random", "deduplicate": False, "workers": 2},
    "trainings": {**REAL, "controller": "random", "deduplicate": False, "workers": 1},
    "evolution": {**TOY, "controller": {"name": "evolution", "population": 10, "sample": 5}, "workers": 1},
    "asynchronous": {**TOY, "controller": {"name": "evolution", "population": 10, "sample": 5}, "workers": 2},
}
"""Kinds of searches, in turn."""

TIMELESS = ("random", "trainings", "evolution")
"""Those whose proposals do not depend on which trial ends first."""

TESTS = {
    "driver killed": {
        "tests/test_kill.py::test_killed_at_random_moments": 6,
        "tests/test_kill.py::test_killed_on_ray": 2,
        "tests/test_evaluate_kill.py::test_killed_three_times_it_ends_as_if_it_had_not_been": 3,
        "nas/testing/stores/processes.py::test_a_killed_driver_leaves_every_trial_it_committed": 1,
    },
    "SIGTERM": {
        "tests/test_kill.py::test_an_interrupt_saves_and_says_how_to_go_on": 2,
        "tests/test_kill.py::test_an_interrupt_on_ray": 2,
    },
    "SIGHUP": {"tests/test_kill.py::test_an_interrupt_saves_and_says_how_to_go_on": 1},
    "driver stopped and continued": {
        "tests/test_lease.py::test_a_driver_that_is_stopped_drives_on_and_one_that_is_killed_does_not": 1,
        "tests/test_search_resume.py::test_a_driver_that_was_taken_over_writes_nothing": 1,
        "nas/testing/stores/leases.py::test_a_driver_that_was_taken_over_writes_nothing_more": 5,
        "tests/test_head.py::test_a_head_that_answers_again_is_not_lost": 1,
    },
    "worker killed": {
        "tests/test_search_failures.py::test_a_killed_process_costs_no_trial": 1,
        "nas/testing/executors.py::test_a_killed_worker_costs_one_job": 1,
        "tests/test_evaluate_kill.py::test_a_killed_worker_costs_one_evaluation": 1,
        "tests/test_attempts.py::test_deaths_of_workers_leave_a_network_its_retries": 1,
    },
    "drivers, workers, a node, the network and PostgreSQL, at random": {
        "tests/test_faults.py::test_a_search_survives_what_strikes_at_random": 10,
    },
    "head killed": {
        "tests/test_faults.py::test_a_head_that_is_killed_ends_the_search_which_goes_on_when_it_is_back": 1,
        "tests/test_cluster.py::test_a_head_that_is_killed_ends_the_search_with_the_way_to_go_on": 1,
        "tests/test_head.py::test_a_head_that_is_silent_for_long_is_lost": 1,
    },
    "PostgreSQL away": {
        "tests/test_outage.py::test_a_server_that_is_away_for_a_while_costs_nothing": 1,
        "tests/test_outage.py::test_a_search_that_is_to_start_or_go_on_waits_for_the_server": 2,
        "tests/test_outage.py::test_one_that_stays_away_ends_the_search_which_goes_on_later": 1,
        "tests/test_outage.py::test_who_was_taken_over_in_an_outage_writes_nothing": 1,
    },
    "PostgreSQL crashed, away for 60 s": {
        "tests/test_faults.py::test_a_database_that_is_away_for_a_minute_costs_nothing": 1,
    },
    "connections terminated": {
        "tests/test_outage.py::test_connections_that_are_terminated_cost_nothing": 10,
        "tests/test_outage.py::test_a_commit_in_doubt_is_not_doubled": 24,
    },
    "disk full: the database": {
        "tests/test_store.py::test_a_full_disk_loses_nothing_committed": 1,
        "tests/test_unwritable.py::test_a_full_database_says_how_to_go_on": 1,
        "tests/test_unwritable.py::test_a_full_disk_is_told_from_other_errors_of_a_database": 3,
    },
    "disk full: the artifacts": {
        "tests/test_unwritable.py::test_a_supernet_that_cannot_be_saved_is_interrupted": 4,
        "tests/test_unwritable.py::test_an_evaluation_that_cannot_be_saved_is_interrupted": 1,
        "tests/test_unwritable.py::test_a_worker_on_ray_tells_its_driver": 1,
    },
    "disk full: Ray's own folder": {"tests/test_unwritable.py::test_a_full_disk_of_ray_s_own_is_named": 2},
    "a checkpoint cut in half": {
        "tests/test_oneshot.py::test_a_checkpoint_that_does_not_fit_is_passed_over": 4,
        "tests/test_evaluation.py::test_a_checkpoint_that_does_not_fit_is_passed_over": 4,
        "tests/test_evaluation.py::test_a_process_may_die_while_it_writes": 2,
        "tests/test_unwritable.py::test_a_checkpoint_that_fails_keeps_the_one_before": 1,
    },
    "two drivers at once": {
        "tests/test_search_resume.py::test_of_several_resumes_at_once_one_extends": 1,
        "tests/test_launching.py::test_a_driver_that_lives_is_not_disturbed": 1,
        "nas/testing/stores/leases.py::test_a_live_driver_is_not_disturbed": 4,
        "tests/test_evaluate_kill.py::test_another_process_s_evaluation_is_left_alone": 1,
    },
    "a clock that jumps": {
        "tests/test_search_resume.py::test_a_clock_that_jumps_changes_nothing": 60,
        "nas/testing/stores/leases.py::test_a_live_driver_is_one_whatever_the_clock_says": 2,
        "nas/testing/stores/leases.py::test_a_driver_that_cannot_be_asked_for_is_believed_for_a_minute": 2,
    },
}
"""The tests of each fault, and how often it strikes there."""

WIDTH = 100
"""Of the page."""

SOME = 5
"""Rows in which a search differs from an undisturbed one, that are recorded."""

STUCK_SECONDS = 600.0
"""So long without a result or a strike, and a search is stuck."""

LONG_SECONDS = 80.0
"""How long a node is cut off for the head to give it up: five checks of 13 s, and some more."""


class Cluster:
    """The cluster of `scripts/local_cluster.sh`, and what a driver needs to use it.

    Args:
        folder: of all its files; at most 30 characters.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        ports = {"NAS_CLUSTER_PORT": "6680", "NAS_CLUSTER_JOBS_PORT": "8566", "NAS_CLUSTER_DB_PORT": "5734"}
        own = {"NAS_CLUSTER_CPUS": "3", "NAS_CLUSTER_SUBNET": "10.89.80", **ports}
        self._own = {
            **own,
            **os.environ,
            "NAS_CLUSTER_DIR": str(folder),
            "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
            "RAY_worker_niceness": "0",  # on a busy machine Ray's 15 keeps workers from starting
        }
        self.environment = self._own
        self._scripts: list[subprocess.Popen[Any]] = []
        self.struck = 0.0
        self.results = 0

    def script(self, *words: str) -> str:
        """Run a verb of the script; return what it prints."""
        command = [str(ROOT / "scripts" / "local_cluster.sh"), *words]
        with tempfile.TemporaryFile("w+") as told, tempfile.TemporaryFile("w+") as said:
            # To files: what it starts in the background may hold their ends for long.
            process = subprocess.Popen(
                command, env=self._own, stdout=told, stderr=said, start_new_session=True
            )
            self._scripts.append(process)
            code = process.wait()
            for file in (told, said):
                file.seek(0)
            if code:
                raise RuntimeError(f"{' '.join(words)}: {said.read()}")
            return told.read()

    @contextmanager
    def running(self) -> Iterator[None]:
        """Start it, and end it after."""
        try:
            self.script("down")
            words = shlex.split(self.script("up", "2"))
            self.environment = self._own | dict(word.split("=", 1) for word in words if "=" in word)
            os.environ["PGPASSFILE"] = self.environment["PGPASSFILE"]
            yield
        finally:
            started: list[subprocess.Popen[Any]] = [driver.process for driver in Driver.started]
            for script in self._scripts:  # with what it waits for
                with suppress(ProcessLookupError):
                    os.killpg(script.pid, signal.SIGKILL)
            for process in (*self._scripts, *started):
                process.kill()
                process.wait()
            self.script("down")

    @property
    def url(self) -> str:
        return self.environment["NAS_DB"]

    @property
    def can_cut(self) -> bool:
        return (self.folder / "namespaces").exists()

    def workers(self) -> list[int]:
        """Return the processes of workers that run a job."""
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                if (process / "cmdline").read_bytes().startswith(b"ray::_Actor.begin"):
                    marks = (process / "environ").read_bytes().split(b"\0")
                    if f"NAS_LOCAL_CLUSTER={self.folder}".encode() in marks:
                        found.append(int(process.name))
        return found

    def _kill_worker(self, chance: random.Random) -> bool:
        if found := self.workers():
            with suppress(ProcessLookupError):  # it may end by itself
                os.kill(chance.choice(found), signal.SIGKILL)
                return True
        return False

    def strike(self, fault: str, chance: random.Random) -> None:
        """Strike a worker, a node, the network or PostgreSQL, and bring it back."""
        number = str(chance.randint(1, 2))
        self.struck = time.monotonic()
        if fault == WORKER:
            wait_until(lambda: self._kill_worker(chance), STUCK_SECONDS)
        elif fault == NODE:
            self.script("kill", number)
            time.sleep(chance.uniform(0, 4))
            self.script("up", "2")
        elif fault in (RESTARTED, CRASHED):
            self.script("database", "stop" if fault == RESTARTED else "crash")
            time.sleep(chance.uniform(0, 3))
            self.script("database", "start")
        elif fault == DISCONNECTED:
            others = "usename = 'nas' AND pid <> pg_backend_pid()"
            end = f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {others}"
            engine = create_engine(self.url)
            with engine.connect() as connection:
                connection.execute(text(end))
            engine.dispose()
        else:
            self.script("cut", number)
            time.sleep(chance.uniform(3, 10) if fault == CUT else LONG_SECONDS)
            self.script("join", number)
            if fault == CUT_LONG:  # it hears that it was given up, and ends
                process = int((self.folder / f"node{number}.pid").read_text())
                wait_until(lambda: not _lives(process), 60)
                self.script("kill", number)
                self.script("up", "2")


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


def wait_until(true: Callable[[], bool], seconds: float) -> bool:
    """Wait so long at most; return whether it became true."""
    deadline = time.monotonic() + seconds
    while not (found := true()) and time.monotonic() < deadline:
        time.sleep(0.1)
    return found


class Plan:
    """Faults that are still to come, in an order of chance; threads take from it, until its time is over."""

    def __init__(self, faults: Mapping[str, int], chance: random.Random, until: float = math.inf) -> None:
        self._faults = sorted(Counter(faults).elements())
        chance.shuffle(self._faults)
        self._until = until
        self._lock = threading.Lock()

    def __bool__(self) -> bool:
        return bool(self._faults) and time.monotonic() < self._until

    def take(self) -> str | None:
        with self._lock:
            return self._faults.pop() if self else None


def wanted(counts: Mapping[str, int], can_cut: bool) -> Counter[str]:
    """Return how often each kind of fault is to come."""
    kinds = Counter[str]()
    for group, count in counts.items():
        shares = [kind for kind in SHARES[group] if can_cut or kind not in (CUT, CUT_LONG)]
        kinds.update(shares[n % len(shares)] for n in range(count))
    return kinds


class Driver:
    """One process that runs a search, and what it says.

    Args:
        words: the command.
        environment: of the process.
        heard: told each trial that it says is recorded: number, state and score.
    """

    started: ClassVar[list[Driver]] = []

    def __init__(
        self, words: list[str], environment: Mapping[str, str], heard: Callable[[int, str, float], None]
    ) -> None:
        self._heard = heard
        self.results = 0
        self.started.append(self)
        self.said: list[str] = []
        self.retried: list[str] = []
        self.process = subprocess.Popen(
            words,
            env={**environment, "PYTHONFAULTHANDLER": "1"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        with self.process.stderr as lines:
            for line in lines:
                try:
                    event = json.loads(line)
                except ValueError:  # cut in half, or no event
                    self.said.append(line.rstrip())
                    continue
                if event["event"] == "trial_ended":
                    self.results += 1
                    self._heard(event["trial"], event["state"], event["score"])
                elif event["event"] in ("message", "error", "trial_retried"):
                    self.said.append(event.get("text") or event["error"])
                    if event["event"] == "trial_retried":
                        self.retried.append(f"trial {event['trial']}: {event['error']}")

    def end(self, number: int, seconds: float) -> int | None:
        """Send a signal; return the exit code, or None if it did not end in time and was killed."""
        with suppress(ProcessLookupError):
            self.process.send_signal(number)
        with suppress(subprocess.TimeoutExpired):
            return self.wait(seconds)
        self.process.send_signal(signal.SIGABRT)  # by which Python tells where it is
        self.wait()
        return None

    def wait(self, seconds: float | None = None) -> int:
        """Return the exit code, when all that it said is heard."""
        code = self.process.wait(seconds)
        self._reader.join(10)
        return code


class Struck:
    """A search that is struck again and again until it is completed.

    Args:
        cluster: that it runs on.
        name: of the search; its first part is a key of `SEARCHES`.
        trials: how many it has.
        plan: where faults come from.
        chance: when they come.
        folder: for its files.
    """

    def __init__(
        self, cluster: Cluster, name: str, trials: int, plan: Plan, chance: random.Random, folder: Path
    ) -> None:
        self.name, self.kind = name, name.rpartition("-")[0]
        self._cluster, self._plan, self._chance = cluster, plan, chance
        values = {"seed": int(name.rpartition("-")[2]), "trials": trials, **SEARCHES[self.kind]}
        self._config = validate(values)
        self._file = folder / f"{name}.toml"
        self._file.write_text("\n".join(f"{key} = {toml(value)}" for key, value in values.items()))
        self._boot = folder / f"{name}.boot"
        self._elsewhere = False
        self._lock = threading.Lock()
        self.told: dict[int, list[tuple[str, float]]] = {}
        self._last = time.monotonic()
        self._silence = 0.0
        self.faults, self._ends, self._drivers = Counter[str](), Counter[str](), list[Driver]()
        self.said: list[str] = []

    # What drivers do

    def start(self) -> Driver:
        """Start a driver."""
        words = [sys.executable, "-m", "nas", "run", str(self._file), f"--resume-or-start={self.name}"]
        words.append("--log-format=json")
        if (
            self._elsewhere
        ):  # another boot, another host name: a driver that cannot ask whether this one lives
            script = (
                'mount --bind "$0" /proc/sys/kernel/random/boot_id && hostname "$1" && shift && exec "$@"'
            )
            other = ["unshare", "--mount", "--uts", "sh", "-c", script, str(self._boot), "elsewhere"]
            words = [*other, *words]
        driver = Driver(words, self._cluster.environment, self._heard)
        self._drivers.append(driver)
        return driver

    def _heard(self, number: int, state: str, score: float) -> None:
        now = time.monotonic()
        with self._lock:
            self.told.setdefault(number, []).append((state, score))
            self._cluster.results += 1
            self._silence = max(self._silence, now - self._last)
            self._last = now

    def run(self) -> dict[str, Any]:
        """Run it to its end; return what came out."""
        began = self._last = time.monotonic()
        driver, stuck = self.start(), False
        strike = self._next(0.0)
        while True:
            if driver.process.poll() is not None:
                code = driver.wait()
                if code == 0:
                    break
                self._ended(driver, f"by itself with exit code {code}")
                driver = self.start()
            if time.monotonic() - max(self._last, self._cluster.struck) > STUCK_SECONDS:
                stuck = True
                self._ended(driver, "stuck")
                driver.end(signal.SIGKILL, 10)
                break
            if strike():
                fault = self._plan.take()
                if fault is not None:
                    driver = self._strike(fault, driver)
                strike = self._next(0.5)
            time.sleep(0.05)
        print(f"{self.name}: {sum(self.faults.values())} faults, {len(self._drivers)} drivers", flush=True)
        return {
            "name": self.name,
            "kind": self.kind,
            "trials": self._config.trials,
            "seconds": round(time.monotonic() - began, 1),
            "drivers": len(self._drivers),
            "faults": dict(self.faults),
            "ends": dict(self._ends),
            "said": self.said,
            "retried": [words for one in self._drivers for words in one.retried],
            "longest_silence_s": round(self._silence, 1),
            "stuck": stuck,
            **self.compare(),
        }

    def _ended(self, driver: Driver, how: str) -> None:
        self._ends[how] += 1
        self.said.append(f"{how}: {' | '.join(driver.said[-5:])}")
        print(f"{self.name}: {self.said[-1]}", flush=True)

    def _next(self, share: float) -> Callable[[], bool]:
        """Return what tells when the next fault is due: after a while, mostly after a further result."""
        count, pause = len(self.told) + (self._chance.random() < share), self._chance.uniform(0, 5)
        due: list[float] = []

        def strike() -> bool:
            if not due and len(self.told) >= count:
                due.append(time.monotonic() + pause)
            return bool(due) and time.monotonic() >= due[0]

        return strike

    def _strike(self, fault: str, driver: Driver) -> Driver:
        """Strike; return the driver that there is afterwards."""
        self.faults[fault] += 1
        print(f"{self.name}: {fault}", flush=True)
        if fault == ASLEEP:
            driver.process.send_signal(signal.SIGSTOP)
            time.sleep(self._chance.uniform(2, 10))
            driver.process.send_signal(signal.SIGCONT)
            return driver
        if fault == OUTLIVED:
            return self._take_over(driver)
        code = driver.end(OF_ONE[fault], 30)
        if code is None:
            self._ended(driver, f"not within 30 s of {fault}")
        return self.start()

    def _take_over(self, driver: Driver) -> Driver:
        """Stop a driver until another one, which cannot ask for it, has taken over; then let it go on."""
        wait_until(lambda: driver.results > 0 or driver.process.poll() is not None, STUCK_SECONDS)
        driver.process.send_signal(signal.SIGSTOP)
        self._elsewhere = True
        self._boot.write_text(f"{uuid.uuid4()}\n")
        other = self.start()
        wait_until(lambda: other.results > 0 or other.process.poll() is not None, STUCK_SECONDS)
        code = driver.end(signal.SIGCONT, 120)
        said = driver.said[-1] if driver.said else ""
        if code is None or "took it over" not in said:
            self._ended(driver, f"taken over, with exit code {code}")
        return other

    # What came out

    def compare(self) -> dict[str, Any]:
        """Compare the database with what was said, with a replay, and with an undisturbed run."""
        with Store(self._cluster.url) as store:
            row = store.search(self.name)
            found = store.trials(row.id)
            there = {trial.number: (trial.state, trial.score) for trial in found}
            rows = _rows(store, self.name)
            config = configuration(row)
            again = SearchDriver(store, row, config, config.make_space(), config.make_source(), Silent())
            inline = config.model_copy(update={"executor": "inline", "workers": 1})
            again.run(executor(inline, inline.make_source()))
            replayed = _rows(store, self.name) == rows
        places = Counter(trial.observed or 0 for trial in found)
        same, differs = None, list[Any]()
        if self.kind in TIMELESS:
            alone = undisturbed(self._config.model_dump(mode="json"))
            same = rows == alone
            pairs = chain.from_iterable(zip(*parts, strict=False) for parts in zip(rows, alone, strict=True))
            differs = [pair for pair in pairs if pair[0] != pair[1]]
        return {
            "state": row.state,
            "ended": sum(trial.observed is not None for trial in found),
            "failed": sum(trial.state == TrialState.FAILED for trial in found),
            "told": len(self.told),
            "lost": sum(there.get(number) not in told for number, told in self.told.items()),
            "doubled": sum(len(told) > 1 for told in self.told.values())
            + sum(count > 1 for count in places.values())
            + len(found)
            - len(there),
            "complete": sorted(there) == [*range(self._config.trials)]
            and sorted(places) == [*range(1, self._config.trials + 1)]
            and row.state == SearchState.COMPLETED,
            "repeated": sum(trial.attempt for trial in found),
            "replayed": replayed,
            "undisturbed": same,
            "differs": differs[:SOME],
        }


def _rows(store: Store, name: str) -> list[Any]:
    """Return all that a search recorded but the times, its attempts, and the order of its outcomes."""
    row = store.search(name)
    numbers = {trial.id: trial.number for trial in store.trials(row.id)}
    return [
        [(t.number, t.state, t.architecture, t.score, t.ci95, t.seed) for t in store.trials(row.id)],
        [(numbers[m.trial_id], m.metric, m.step, m.value) for m in store.measurements(row.id)],
    ]


def undisturbed(values: dict[str, Any]) -> list[Any]:
    """Return what the same search records in this process, on a database in a file."""
    values["evaluator"].pop("seconds", None)
    config = validate({**values, "executor": "inline", "workers": 1, "name": "undisturbed"})
    tasks = config.make_source()
    with tempfile.TemporaryDirectory() as folder, Store(f"sqlite:///{folder}/nas.db", create=True) as store:
        row = create(store, config, tasks)
        SearchDriver(store, row, config, config.make_space(), tasks, Silent()).run(executor(config, tasks))
        return _rows(store, "undisturbed")


class Benchmark:
    """All searches and faults, and the file that keeps them.

    Args:
        cluster: that is up.
        report: what was done so far, which grows.
        save: writes it.
        faults: how often each kind is still to come.
        trials: of each search.
        seed: of everything random.
        folder: for files of searches.
        minutes: after which nothing is struck any more.
    """

    def __init__(
        self,
        cluster: Cluster,
        report: dict[str, Any],
        save: Callable[[], None],
        faults: Counter[str],
        trials: int,
        seed: int,
        folder: Path,
        minutes: float = math.inf,
    ) -> None:
        self._cluster, self._report, self._save = cluster, report, save
        self._trials, self._seed, self._folder = trials, seed, folder
        begun = len(report["searches"])
        chance = random.Random(f"{seed} {begun}")
        own, until = {*SHARES["drivers"]}, time.monotonic() + 60 * minutes
        self._own = Plan({kind: n for kind, n in faults.items() if kind in own}, chance, until)
        self._common = Plan({kind: n for kind, n in faults.items() if kind not in own}, chance, until)
        self._lock, self._begun, self._running = threading.Lock(), begun, set[str]()
        self._striking = False
        self._failed: list[BaseException] = []

    def run(self, lanes: int) -> None:
        """Strike until no fault is left, and all searches have ended."""
        works = [self._lane] * lanes + [self._strikes]
        threads = [threading.Thread(target=self._guarded, args=(work,), daemon=True) for work in works]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if self._failed:
            raise self._failed[0]

    def _guarded(self, work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:
            traceback.print_exc()  # the other threads may take minutes to end
            self._failed.append(error)

    @property
    def _more(self) -> bool:
        return not self._failed and bool(self._own or self._common or self._striking)

    def _lane(self) -> None:
        while self._more:
            with self._lock:
                number = self._begun
                self._begun += 1
                name = f"{[*SEARCHES][number % len(SEARCHES)]}-{number}"
                self._running.add(name)
            chance = random.Random(f"{self._seed} {name}")
            search = Struck(self._cluster, name, self._trials, self._own, chance, self._folder)
            found = search.run()
            with self._lock:
                self._running.discard(name)
                self._report["searches"].append(found)
                self._save()

    def _strikes(self) -> None:
        """Strike what searches have in common, one after the other."""
        chance = random.Random(f"{self._seed} common {len(self._report['common'])}")
        while not self._failed and (fault := self._take()) is not None:
            before = self._cluster.results  # strikes that follow each other faster let no worker get ready
            wait_until(lambda: self._cluster.results > before, 60)  # noqa: B023
            time.sleep(chance.uniform(0, 5))
            with self._lock:
                running = sorted(self._running)
            began = time.monotonic()
            self._cluster.strike(fault, chance)
            print(f"{fault}, {time.monotonic() - began:.0f} s", flush=True)
            with self._lock:
                self._report["common"].append({"fault": fault, "searches": running})
                self._save()
            self._striking = False

    def _take(self) -> str | None:
        self._striking = bool(self._common)
        return self._common.take()


def page(report: dict[str, Any]) -> str:
    searches, (before, after) = report["searches"], report["load"]
    counts, ends = Counter[str](one["fault"] for one in report["common"]), Counter[str]()
    for search in searches:
        counts.update(search["faults"])
        ends.update(search["ends"])

    def total(key: str) -> int:
        return sum(int(search[key]) for search in searches)

    trials, every = total("trials"), len(searches)
    compared = [search["undisturbed"] for search in searches if search["undisturbed"] is not None]
    silence = max(search["longest_silence_s"] for search in searches)
    facts = [
        f"**{total('lost')} results lost**: each of the {total('told'):,} outcomes that drivers said they "
        "had recorded is in the database, as they said.",
        f"**{total('doubled')} doubled**: each number, and each place among the outcomes, is there once, and "
        "no two drivers said that they had recorded the same trial.",
        f"**{total('stuck')} stuck**: the longest time without a result was {silence:.0f} s.",
        f"**{total('complete')} of {every} at their full count**: {total('ended'):,} of {trials:,} trials "
        f"have an outcome; {total('failed')} of them failed.",
        f"**{total('replayed')} of {every} replayed**: taken up again after its end, a search runs no trial "
        "and changes nothing.",
        f"**{sum(compared)} of {len(compared)} as if nothing had happened**: architectures, scores, seeds "
        "and measurements equal those of a run in one process. In the other searches proposals depend on "
        "which trial ends first.",
        f"{total('drivers')} drivers were started, and {counted(total('repeated'), 'attempt')} repeated "
        "because a worker died under them.",
    ]
    lines = [
        "# Faults",
        "",
        f"`{report['command']}`",
        "",
        *textwrap.wrap(
            "Searches on a cluster of one machine: a Ray head and two nodes, each in a network namespace of "
            f"its own, and a PostgreSQL. The machine has {report['cores']} cores, which others used, too: "
            f"its load was {before:.1f} at the beginning and {after:.1f} at the end. {report['lanes']} "
            "searches at a time, each by `nas run FILE --resume-or-start=NAME`, which was started again "
            "after each end of its driver, until the search was completed.",
            WIDTH,
        ),
        "",
        "| struck at random moments | times |",
        "|---|---|",
        *(f"| {kind} | {counts[kind]} |" for kind in KINDS if counts[kind]),
        f"| **all** | **{counts.total()}** |",
        "",
        f"Of {every} searches with {trials:,} trials:",
        "",
        *chain(*(textwrap.wrap(f"- {fact}", WIDTH, subsequent_indent="  ") for fact in facts)),
        "",
        "| search | trials | its drivers were struck | drivers | repeated | longest time without a result | whole time |",  # noqa: E501
        "|---|---|---|---|---|---|---|",
    ]
    for search in searches:
        cells = [
            search["name"],
            f"{search['ended']} of {search['trials']}",
            sum(search["faults"].values()),
            search["drivers"],
            search["repeated"],
            f"{search['longest_silence_s']:.0f} s",
            f"{search['seconds']:.0f} s",
        ]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    lines += [
        "",
        "`random`, `evolution` (one worker) and `asynchronous` (evolution, two workers) have scripted trials",
        "of 0.5 s; `trainings` has real ones: MAML on sinusoids, with networks of the space `mlp`.",
    ]
    if ends:
        lines += ["", "Drivers that ended otherwise than by what struck them, and were started again:", ""]
        lines += [f"- {how}: {count}" for how, count in sorted(ends.items())]
    if missing := Counter[str](report["wanted"]) - counts:
        shown = ", ".join(f"{kind} {count}" for kind, count in missing.items())
        told = f"Not all that the command asks for has struck yet; run again, it goes on. To come: {shown}."
        lines += ["", *textwrap.wrap(told, WIDTH)]
    lines += [
        "",
        "## Each fault has a test",
        "",
        "Slow tests are those of `make test-slow`. Of a suite in `nas.testing` the name is that of the "
        "suite.",
        "",
        "| fault | test | times it strikes |",
        "|---|---|---|",
        *(
            f"| {fault} | `{test}` | {times} |"
            for fault, tests in TESTS.items()
            for test, times in tests.items()
        ),
    ]
    return "\n".join([*lines, ""])


def left(report: dict[str, Any], faults: Counter[str]) -> Counter[str]:
    """Return the faults still to come; what struck only searches that never ended is to come again."""
    names = {search["name"] for search in report["searches"]}
    report["common"] = [one for one in report["common"] if names & {*one["searches"]}]
    done = Counter[str](one["fault"] for one in report["common"])
    for search in report["searches"]:
        done.update(search["faults"])
    return faults - done


def right(search: Mapping[str, Any]) -> bool:
    """Return whether a search came out as it has to."""
    wrong = search["lost"] or search["doubled"] or search["failed"] or search.get("stuck")
    return search["complete"] and search["replayed"] and not wrong and search["undisturbed"] is not False


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    asked = {"--drivers": 100, "--workers": 50, "--nodes": 20, "--restarts": 10, "--cuts": 10}
    for option, count in asked.items():
        parser.add_argument(option, type=at_least(0), default=count, help=f"by default {count}")
    parser.add_argument("--trials", type=at_least(1), default=40, help="of each search")
    parser.add_argument("--lanes", type=at_least(1), default=6, help="searches at a time")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--minutes", type=float, default=math.inf, help="end after so many and what then runs; go on later"
    )
    parser.add_argument("--folder", type=Path, default=Path("/tmp/nas-faults"), help="of the cluster")
    parser.add_argument("-o", "--output", type=Path, required=True)
    arguments = parser.parse_args()
    counts = {group: getattr(arguments, group) for group in SHARES}
    given = {**counts, "trials": arguments.trials, "lanes": arguments.lanes, "seed": arguments.seed}
    shown = " ".join(f"--{name} {value}" for name, value in given.items())
    file = arguments.output.with_suffix(".json")
    report: dict[str, Any] = {
        "command": f"python benchmarks/faults.py {shown}",
        "environment": environment(),
        "cores": os.cpu_count(),
        "lanes": arguments.lanes,
        "load": [round(os.getloadavg()[0], 1)] * 2,
        "wanted": wanted(counts, can_cut=True),
        "common": [],
        "searches": [],
    }
    if file.exists():
        before = json.loads(file.read_text())
        if before["command"] != report["command"]:
            parser.error(f"{file} is of another command: {before['command']}")
        report |= {key: before[key] for key in ("load", "common", "searches")}

    def save() -> None:
        report["load"][1] = round(os.getloadavg()[0], 1)
        file.write_text(json.dumps(report, indent=1) + "\n")

    cluster = Cluster(arguments.folder)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # under `nohup` drivers would ignore it, too
    if left(report, wanted(counts, can_cut=True)):
        with cluster.running(), tempfile.TemporaryDirectory() as folder:
            faults = left(report, wanted(counts, cluster.can_cut))
            limits = arguments.trials, arguments.seed, Path(folder), arguments.minutes
            work = Benchmark(cluster, report, save, faults, *limits)
            work.run(arguments.lanes)
    arguments.output.with_suffix(".md").write_text(page(report))
    bad = [search["name"] for search in report["searches"] if not right(search)]
    if bad:
        sys.exit(f"error: not as it has to be: {', '.join(bad)}; see {file}")


if __name__ == "__main__":
    main()
