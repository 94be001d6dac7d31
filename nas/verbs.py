"""What the command line and Python do alike: start, resume and run a search; evaluate."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from nas import executors, submission
from nas.controller import Outcome
from nas.counts import counted
from nas.driver import search as driver
from nas.driver.creation import create, supernet
from nas.driver.records import configuration
from nas.driver.search import SearchObserver
from nas.driver.trials import executor as executor_of
from nas.errors import ConfigError
from nas.evaluation.artifacts import marked
from nas.evaluation.driver import EvaluationDriver
from nas.evaluation.plan import Plan
from nas.evaluation.targets import Targets
from nas.evaluation.work import EvaluationJob, Report, Trainings
from nas.evaluator import AnyJob
from nas.executors import capacity
from nas.executors.base import Executor
from nas.progress.evaluations import watching
from nas.progress.events import Log
from nas.settings.search import SearchConfig, default_executor
from nas.storage.lease import driven, refuse
from nas.storage.schema import Evaluation, Search
from nas.storage.store import Store
from nas.tasks.base import ScoreSource
from nas.training.provenance import environment, machine, machines

Say = Callable[[str], None]
"""Prints a line of words."""


@dataclass(frozen=True, slots=True)
class Ended:
    """How a search ended.

    Attributes:
        state: `completed`, or `stopped` on request.
        infeasible: how many trials were infeasible, and why most of them; None: none was.
        ending: why it does not go on if more trials are asked for; None: it does.
    """

    state: str
    infeasible: str | None
    ending: str | None


@dataclass(frozen=True, slots=True)
class Session:
    """A search that is about to run: it is in the database, and what its workers run on is there.

    Attributes:
        store: the database.
        row: the search.
        config: its configuration.
        tasks: that the configuration names.
        executor: where its trials run.
        at_a_time: trials at a time that there is room for.
        address: of the Ray cluster that they run on; None: they run on this machine.
    """

    store: Store
    row: Search
    config: SearchConfig
    tasks: ScoreSource
    executor: Executor[AnyJob, Outcome]
    at_a_time: int
    address: str | None = None

    @property
    def plan(self) -> str:
        """What is to run, in a sentence."""
        row, config = self.row, self.config
        shared = supernet(config, config.make_space(), self.tasks)
        plan = counted(row.trials, "trial")
        if shared is not None:
            derived = f"a supernet, then what it derives: {shared.derive} at most"
            plan = derived if shared.whole else f"{plan}, of which the first trains a supernet"
        normalization = (config.learner or {}).get("normalization")
        learner = "" if config.learner is None else f"{row.learner}, "
        if normalization:
            learner += f"{normalization} normalization, "
        return (
            f"Search '{row.name}': {row.controller} in {row.space} on {row.task_label}, {learner}"
            f"{plan}, {self.at_a_time} at a time, seed {row.seed}."
        )

    def run(self, observer: SearchObserver, folder: Path, *, named: bool = False) -> Ended:
        """Run the search to its end.

        Args:
            observer: told of all that happens.
            folder: of checkpoints.
            named: whether that is another than the database's own.

        Raises:
            NasError, KeyboardInterrupt: as `nas.driver.search.SearchDriver.run`.
        """
        space = self.config.make_space()
        again = self._again(folder if named else None)
        search = driver.SearchDriver(
            self.store, self.row, self.config, space, self.tasks, observer, folder, again
        )
        state = search.run(self.executor)
        return Ended(state, search.infeasible, search.ending)

    def _again(self, artifacts: Path | None) -> str | None:
        """Return the command that goes on with the search from anywhere; None: it needs no options."""
        if (submitted := submission.command()) is not None:
            return submitted
        options = {"--ray-address": self.address, "--artifacts": artifacts}
        said = [f"{option} {shlex.quote(str(value))}" for option, value in options.items() if value]
        return " ".join(["nas resume", self.row.name, *said]) if said else None


def fill_in(values: dict[str, Any], executor: str | None = None) -> None:
    """Say where trials run, and how many at a time, where the settings of a search do not.

    Args:
        values: the settings, changed in place.
        executor: where trials run; None: on Ray, or in this process where nothing is trained.

    Raises:
        UnknownName: no such evaluator.
    """
    values.setdefault("executor", executor or default_executor(values))
    values.setdefault("workers", 1 if values["executor"] == "inline" else capacity.cores())


def place(ray_address: str | None, usual: executors.Name) -> executors.Name:
    """Return where jobs run if nobody says: on a cluster whose address is given, else as usual."""
    return "ray" if _given(ray_address) else usual


def _address(config: SearchConfig, ray_address: str | None) -> str | None:
    """Return the address of the cluster that a search's trials run on; None: they run on this machine."""
    return (ray_address or os.environ.get("RAY_ADDRESS") or None) if config.executor == "ray" else None


def _given(ray_address: str | None) -> bool:
    """Return whether an address is other than RAY_ADDRESS, which may be there for other commands."""
    return ray_address not in (None, os.environ.get("RAY_ADDRESS"))


def _refuse_address(executor: executors.Name, ray_address: str | None) -> None:
    if executor != "ray" and _given(ray_address):
        raise ConfigError(
            f"--ray-address {ray_address}: nothing runs there, since the executor is '{executor}'. Leave it "
            "out, or choose --executor ray."
        )


@contextmanager
def started(
    store: Store, config: SearchConfig, say: Say, *, source: str | None = None, ray_address: str | None = None
) -> Iterator[Session]:
    """Write a new search, once all is in order and what its workers run on is there.

    Args:
        store: where to.
        config: what was resolved.
        say: told what is odd, and what takes long.
        source: the file that it came from, verbatim.
        ray_address: of a cluster.

    Raises:
        NasError: as `nas.driver.creation.create` and `ready`; nothing is written.
    """
    tasks = config.make_source()
    executor = executor_of(config, tasks, ray_address, say)
    rooms: list[int] = []
    with ExitStack() as running:

        def start() -> None:
            rooms.append(running.enter_context(ready(config, say, ray_address)))

        row = create(store, config, tasks, source, say, start)
        yield Session(store, row, config, tasks, executor, rooms[0], _address(config, ray_address))


@contextmanager
def resumed(
    store: Store,
    row: Search,
    say: Say,
    *,
    trials: int | None = None,
    workers: int | None = None,
    ray_address: str | None = None,
) -> Iterator[Session]:
    """Take up a search where it was.

    Args:
        store: where it is.
        row: the search.
        say: told what is odd, and what takes long.
        trials: how many it is to have; None: as many as before.
        workers: trials at a time; None: as before.
        ray_address: of a cluster.

    Raises:
        ConfigError: a live process drives it, or what it asks for is not there.
        PluginError: a plug-in has changed since the search began.
    """
    if driven(row):
        raise refuse(row)
    row.trials = row.trials if trials is None else trials
    config = configuration(row, **({} if workers is None else {"workers": workers}))
    before, here = machines(row.environment), machine(environment())
    if before and before[-1] != here and not config.looks_up:
        say(
            f"The trials so far ran on another kind of machine: {before[-1]}; here it is {here}. "
            "Rounding differs, so that under one seed the same network scores otherwise here."
        )
    tasks = config.make_source()
    executor = executor_of(config, tasks, ray_address, say)
    with ready(config, say, ray_address) as at_a_time:
        yield Session(store, row, config, tasks, executor, at_a_time, _address(config, ray_address))


def total(text: str, before: int) -> int:
    """Return the number of trials that `+N` or `N` asks for, of a search that has some.

    Raises:
        ConfigError: it is no number, too many, or fewer than before.
    """
    try:
        wanted = before + int(text[1:]) if text.startswith("+") else int(text)
    except ValueError:
        raise ConfigError(f"--trials {text}: expected a number, or +N to add trials.") from None
    if wanted >= 2**31:
        raise ConfigError(f"--trials {text}: at most {2**31 - 1} trials.")
    if wanted < before:
        raise ConfigError(
            f"--trials {text}: the search is set to {before} trials; give more, or +N to add N."
        )
    return wanted


@contextmanager
def ready(config: SearchConfig, say: Say, ray_address: str | None = None) -> Iterator[int]:
    """Start what the workers of a search run on; give how many trials run at a time, and say if it is less.

    Raises:
        NasError: it cannot start.
        ConfigError: no machine has what one trial is to get, or there is an address and the executor is
            another than Ray.
    """
    _refuse_address(config.executor, ray_address)
    demand, workers = config.resources.demand, config.workers
    address = _address(config, ray_address)
    if not address:
        room = capacity.check(demand, workers, [capacity.here()], cluster=False)
        for warning in room.warnings:
            say(warning)
        workers = room.jobs
    if config.executor != "ray":
        yield room.jobs
        return
    with cluster(demand, workers, say, address) as (machines, grows):
        if address:
            room = capacity.check(demand, workers, machines, cluster=True, grows=grows)
            for warning in room.warnings:
                say(warning)
        yield room.jobs


@contextmanager
def cluster(
    demand: capacity.Demand, workers: int, say: Say, address: str | None
) -> Iterator[tuple[list[capacity.Machine], bool]]:
    """Connect to a Ray cluster, or start Ray here for so many workers; give its machines, and if it may grow.

    Raises:
        NasError: it cannot start.
        ConfigError: no cluster answers at the address.
    """
    from nas.executors import ray

    say("Starting Ray…")
    with ray.start(workers * demand.cpus, address, workers * (demand.memory or 0) or None):
        yield ray.machines(), ray.grows()


@contextmanager
def evaluating(
    name: executors.Name,
    targets: Targets,
    folder: Path,
    say: Say,
    *,
    trainings: int,
    workers: int | None = None,
    ray_address: str | None = None,
) -> Iterator[Executor[EvaluationJob, Report]]:
    """Give an executor of evaluations, once what its workers run on is there.

    Args:
        name: of the executor.
        targets: where the task sources are. Processes of this machine read them again; other workers are
            given these.
        folder: of checkpoints and weights: workers on Ray must see it.
        say: told what is odd, and what takes long.
        trainings: how many there are.
        workers: how many run at a time at most; None: one a GPU, or one a core without any.
        ray_address: of a cluster.

    Raises:
        ConfigError: several are to run at a time where only one does, or no cluster answers at the address.
        NasError: Ray cannot start.
        Unwritable: the folder cannot be created or written.
    """
    executors.check_workers(name, workers or 1)
    with ExitStack() as running:
        machines = [capacity.here()]
        make = partial(Trainings, () if name == "process" else targets.sources)
        if name == "ray":
            most = workers or capacity.one_each(machines)
            machines, _ = running.enter_context(cluster(capacity.Demand(), most, say, ray_address))
            make = partial(Trainings, targets.sources, running.enter_context(marked(folder)))
        usual = 1 if name == "inline" else capacity.one_each(machines)
        at_a_time, cores = min(workers or usual, trainings), int(sum(machine.cpus for machine in machines))
        if at_a_time > cores:
            say(
                f"warning: --workers {at_a_time}: each training takes a core, and there are {cores}. "
                "More at a time do not end sooner."
            )
        yield executors.make_executor(name, make, workers=at_a_time, address=ray_address, say=say)


def evaluated(
    store: Store,
    targets: Targets,
    plan: Plan,
    folder: Path,
    say: Say,
    *,
    seeds: int,
    executor: executors.Name,
    workers: int | None = None,
    ray_address: str | None = None,
    lost_weights: bool = False,
    quiet: bool = False,
    log: Log | None = None,
) -> list[list[Evaluation]]:
    """Train all of a plan to the end, and test it; return the rows of each of `plan.everything`, by seed.

    Args:
        store: where results are, and go to.
        targets: that the plan was made of.
        plan: what to evaluate.
        folder: of checkpoints and weights.
        say: told what is odd, and what takes long.
        seeds: trainings of each architecture.
        executor: where trainings run.
        workers: how many run at a time at most; None: one a GPU, or one a core without any.
        ray_address: of a cluster.
        lost_weights: whether what is completed is run again where its weights are gone.
        quiet: whether to show no progress.
        log: where events go, in place of progress; None: nowhere.

    Raises:
        ConfigError: `seeds` or `workers` is wrong, or there is an address and the executor is another.
        NasError, KeyboardInterrupt: as `evaluating` and `nas.evaluation.driver.Driver.run`.
    """
    if seeds < 1:
        raise ConfigError(f"seeds={seeds}: each architecture takes at least one training.")
    _refuse_address(executor, ray_address)
    for remark in targets.remarks:
        say(f"warning: {remark}")
    say(plan.said(seeds))
    trainings = seeds * len(plan.everything)
    runs = evaluating(
        executor, targets, folder, say, trainings=trainings, workers=workers, ray_address=ray_address
    )
    with runs as runner, watching(trainings, say, quiet=quiet, log=log) as observer:
        driver = EvaluationDriver(store, folder, observer, lost_weights=lost_weights)
        return driver.run(plan.everything, seeds, runner)
