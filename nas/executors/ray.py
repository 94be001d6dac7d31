"""Jobs on Ray: `ray.tune` with warm actors, on this machine or a cluster.

Tune only moves jobs and results: the workload is behind a searcher, early stopping behind a scheduler, and
nothing of what Tune writes is ever read back (`nas resume` replays the database).
"""

from __future__ import annotations

import base64
import logging
import math
import os
import pickle
import re
import secrets
import signal
import socket
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Generic

_ENVIRONMENT = {
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "3600",
    "TUNE_WARN_THRESHOLD_S": "60",
}
for _name, _value in _ENVIRONMENT.items():  # Ray reads some of them when it is imported
    os.environ.setdefault(_name, _value)

import ray  # noqa: E402
from ray import tune  # noqa: E402
from ray.exceptions import OutOfMemoryError, RayError  # noqa: E402
from ray.tune.experiment import Trial  # noqa: E402
from ray.tune.schedulers import FIFOScheduler, TrialScheduler  # noqa: E402
from ray.tune.search import Searcher  # noqa: E402

from nas.errors import ConfigError, NasError, Unwritable  # noqa: E402
from nas.executors.base import Executor, JobT, MakeRunner, Report, ReportT, Workload  # noqa: E402
from nas.executors.capacity import Machine  # noqa: E402
from nas.executors.worker import reports  # noqa: E402

_JOB, _REPORT, _UNWRITABLE = "job", "report", "unwritable"

_MEMORY = re.compile(r"NODE_OUT_OF_MEMORY|running low on memory")
_NODE = re.compile(r"node (?:has |was |is )?(?:died|dead|terminated)|NODE_DIED", re.IGNORECASE)
_TOLD = re.compile(
    r"Worker exit detail: (.+?)(?: Some common causes| There are some potential|$)", re.MULTILINE
)

SOCKET_ROOM = 36
"""Bytes that are left for a folder in the path of a socket: 107, less what Ray appends."""


class RayExecutor(Executor[JobT, ReportT]):
    """Runs jobs on a local Ray that it starts, or on the cluster at `address` (or `RAY_ADDRESS`).

    Args:
        make: makes the runner of a worker; what it holds is put into Ray's object store once.
        workers: jobs at a time.
        cpus: cores that a job takes.
        gpus: share of a GPU that a job takes; None: all of them, split evenly over the workers.
        address: of the cluster.
    """

    def __init__(
        self,
        make: MakeRunner[JobT, ReportT],
        workers: int,
        cpus: int = 1,
        gpus: float | None = None,
        address: str | None = None,
    ) -> None:
        self._make, self._workers, self._cpus, self._gpus = make, workers, cpus, gpus
        self._address = address or os.environ.get("RAY_ADDRESS")

    def run(self, workload: Workload[JobT, ReportT]) -> None:
        """Run every job, so many workers at a time."""
        cpus = self._workers * self._cpus
        with start(cpus, self._address), tempfile.TemporaryDirectory(prefix="nas-") as folder:
            bridge = _Bridge(workload)
            trainable = tune.with_parameters(_Actor, make=self._make)
            tuner = tune.Tuner(
                tune.with_resources(trainable, self._resources()),
                tune_config=tune.TuneConfig(
                    metric=None,
                    search_alg=_Jobs(bridge),
                    scheduler=_Verdicts(bridge),
                    num_samples=-1,
                    max_concurrent_trials=self._workers,
                    reuse_actors=True,
                    trial_dirname_creator=lambda trial: str(trial.trial_id),
                ),
                run_config=tune.RunConfig(
                    name="jobs",
                    storage_path=folder,
                    verbose=0,
                    failure_config=tune.FailureConfig(max_failures=0),
                    checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
                ),
            )
            try:
                tuner.fit()
            except Exception as error:  # Tune wraps what its searcher or scheduler raises
                raise bridge.error or error from None
            if bridge.error:
                raise bridge.error

    def _resources(self) -> dict[str, float]:
        gpus = self._gpus
        if gpus is None:
            available = ray.cluster_resources().get("GPU", 0)
            gpus = 1 / math.ceil(self._workers / available) if available else 0
        return {"cpu": self._cpus, "gpu": gpus}


class _Bridge(Generic[JobT, ReportT]):
    """The workload, and which Tune trial runs which job.

    Tune pickles its searcher and scheduler into a folder that nobody reads; what is behind this object must
    not go there (database connections), so it pickles as an empty one.
    """

    def __init__(self, workload: Workload[JobT, ReportT] | None) -> None:
        self._workload = workload
        self._jobs: dict[str, JobT] = {}
        self._deaths: dict[str, str] = {}
        self.error: Exception | None = None

    def __reduce__(self) -> tuple[type[_Bridge[JobT, ReportT]], tuple[None]]:
        return _Bridge, (None,)

    @contextmanager
    def workload(self) -> Iterator[Workload[JobT, ReportT]]:
        """Give the workload, and keep what it raises: it ends the run, but Tune would hide it, or go on."""
        assert self._workload is not None, "a copy that was unpickled has no workload"
        if self.error is not None:
            raise self.error
        try:
            yield self._workload
        except Exception as error:
            self.error = error
            raise

    def suggest(self, trial: str) -> dict[str, Any] | str | None:
        with self.workload() as workload:
            job = workload.next()
            if job is None:
                finished: str = Searcher.FINISHED
                return finished if workload.done else None
        self._jobs[trial] = job
        return {_JOB: _pack(job)}

    def go_on(self, trial: str, result: dict[str, Any]) -> bool:
        with self.workload() as workload:
            return workload.report(self._jobs[trial], _unpack(result[_REPORT]))

    def died(self, trial: Trial) -> None:
        error: object = ""
        with suppress(OSError):  # Tune's own way to it looks where nothing is saved to
            error = pickle.loads(Path(trial.pickled_error_file).read_bytes())
        self._deaths[trial.trial_id] = death(error)

    def complete(self, trial: str, result: dict[str, Any] | None, error: bool) -> None:
        job = self._jobs.pop(trial)
        with self.workload() as workload:
            if error or not result:
                workload.lost(job, f"The worker died: {self._deaths.pop(trial, '') or death('')}.")
                return
            if _UNWRITABLE in result:
                raise Unwritable(result[_UNWRITABLE])
            workload.finish(job, _unpack(result[_REPORT]))


class _Jobs(Searcher):
    """Gives Tune the workload's jobs as its suggestions."""

    def __init__(self, bridge: _Bridge[Any, Any]) -> None:
        super().__init__()
        self._bridge = bridge

    def suggest(self, trial_id: str) -> Any:
        return self._bridge.suggest(trial_id)

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        self._bridge.complete(trial_id, result, error)

    def save(self, checkpoint_path: str) -> None:
        """Nothing to save: the database is the only truth."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing to restore."""


class _Verdicts(FIFOScheduler):
    """Asks the workload at each report whether the trial should go on."""

    def __init__(self, bridge: _Bridge[Any, Any]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._bridge = bridge

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        go_on = self._bridge.go_on(trial.trial_id, result)
        verdict: str = TrialScheduler.CONTINUE if go_on else TrialScheduler.STOP
        return verdict

    def on_trial_error(self, tune_controller: Any, trial: Trial) -> None:
        self._bridge.died(trial)

    def choose_trial_to_run(self, tune_controller: Any) -> Trial | None:
        with self._bridge.workload() as workload:
            workload.tick()
        return super().choose_trial_to_run(tune_controller)


class _Actor(tune.Trainable):
    """A warm worker: keeps its runner, takes a new job at each reset; one step is one report."""

    _reports: Iterator[Report]

    def setup(self, config: dict[str, Any], **parameters: Any) -> None:
        _quiet()
        self._runner = parameters["make"]()
        self.reset_config(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self._reports = reports(self._runner, _unpack(new_config[_JOB]))
        return True

    def step(self) -> dict[str, Any]:
        try:
            report = next(self._reports)
        except Unwritable as error:
            return {_UNWRITABLE: str(error), "done": True}
        return {_REPORT: _pack(report), "done": report.final}


def death(error: object) -> str:
    """Return why a worker died in one line, as far as Ray's error tells."""
    words = str(error)
    if getattr(error, "preempted", False):
        return "its machine was taken away"
    if isinstance(error, OutOfMemoryError) or _MEMORY.search(words):
        return "its machine ran out of memory; try fewer --workers"
    if _NODE.search(words):
        return "its machine is gone"
    told = _TOLD.search(words) or re.search(r"(\S.*)\s*$", words)
    return told[1].strip().rstrip(".") if told else "Ray gives no reason"


def _pack(what: object) -> str:
    """Return what Tune may copy, print and save without a look into it."""
    return base64.b64encode(pickle.dumps(what)).decode()


def _unpack(packed: str) -> Any:
    return pickle.loads(base64.b64decode(packed))


def _quiet() -> None:
    for name in ("ray", "ray.train", "ray.data", "ray.air"):
        logging.getLogger(name).setLevel(logging.ERROR)
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # its errors are kept, and raised where it ends


def _reach(address: str) -> None:
    """Ask whether something listens, for Ray itself takes minutes to give up."""
    host, _, port = address.rpartition("/")[2].rpartition(":")
    if not port.isdecimal():  # `auto` and the like: Ray's own affair
        return
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except OSError as error:
        raise ConfigError(
            f"No Ray cluster answers at {address} ({error.strerror or error}): give --ray-address HOST:PORT, "
            "or leave it out (and RAY_ADDRESS unset) to start Ray on this machine."
        ) from None


def _temporary() -> str | None:
    """Return a folder for Ray's files; None: Ray's own choice, by RAY_TMPDIR and TMPDIR, will do.

    Raises:
        NasError: no folder will do.
    """
    chosen = os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp"
    if _usable(chosen):
        return None
    for other in ("/tmp", "/var/tmp", "/dev/shm"):
        if _usable(other):
            return f"{other}/ray"
    raise NasError(
        f"Ray cannot put its files into {chosen}, nor into /tmp: it needs a folder that can be written and "
        f"whose path has at most {SOCKET_ROOM} characters. Set RAY_TMPDIR to one, or use --executor inline."
    )


def _usable(folder: str) -> bool:
    return len(os.fsencode(folder)) <= SOCKET_ROOM and Path(folder).is_dir() and os.access(folder, os.W_OK)


def _own_token() -> None:
    """Give a Ray started here its token in the environment, where it cannot be kept in the home folder."""
    try:
        kept = Path.home() / ".ray" / "auth_token"
    except RuntimeError:  # this user has no home
        kept = Path("/nonexistent")
    named = any(name in os.environ for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"))
    nearest = next(folder for folder in kept.parents if folder.exists())
    if not named and not kept.exists() and not os.access(nearest, os.W_OK):
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)


@contextmanager
def _own_signals() -> Iterator[None]:
    """Keep this process's handlers: Ray sets its own, by which SIGTERM aborts."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    except SystemExit:  # by Ray's handler
        if callable(own := before[signal.SIGTERM]):
            own(signal.SIGTERM, None)
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def machines() -> list[Machine]:
    """Return what the machines offer that Ray runs on."""
    found = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return [Machine(offer.get("CPU", 0.0), offer.get("GPU", 0.0)) for offer in found]


@contextmanager
def start(cpus: int = 1, address: str | None = None) -> Iterator[None]:
    """Use this process's Ray if there is one, else connect to a cluster or start Ray here; end it after.

    Raises:
        ConfigError: no cluster answers at `address`.
    """
    if ray.is_initialized():
        yield
        return
    if address:
        _reach(address)
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    try:
        with _own_signals():
            if address:
                ray.init(address=address, **quiet)
            else:
                _own_token()
                quiet |= {"include_dashboard": False, "_temp_dir": _temporary()}
                ray.init(address="local", num_cpus=cpus, **quiet)
    except UnicodeEncodeError as error:
        raise NasError(
            "Ray takes no path that is not UTF-8, in the command or as the folder that it runs in. Give "
            "the path by a symbolic link with another name, or choose --executor inline."
        ) from error
    except (OSError, ValueError, RuntimeError, RayError) as error:
        what = f"Cannot {f'connect to the Ray cluster at {address}' if address else 'start Ray here'}"
        kind = ConfigError if address else NasError
        raise kind(f"{what}: {str(error).rstrip('.')}. `nas doctor` checks the set-up.") from error
    _quiet()
    try:
        yield
    finally:
        ray.shutdown()
