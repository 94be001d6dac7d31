"""What a driver writes for TensorBoard while it runs a search (extra `tensorboard`): a run each training.

The database stays the truth: what the folder lacks of it, after a crash or from before the folder was given,
is written when the search is taken up again, and a run that was cut off is begun anew. So no point is there
twice.
"""

from __future__ import annotations

import errno
import json
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas.costs import COSTS
from nas.errors import ConfigError
from nas.files import replacing, unwritable, writing
from nas.settings.paths import flat
from nas.states import TrialState

if TYPE_CHECKING:
    from nas.controller import Outcome
    from nas.driver.search import SearchObserver
    from nas.evaluator import AnyJob
    from nas.settings.search import SearchConfig
    from nas.space import Architecture
    from nas.storage.schema import Search, Trial
    from nas.storage.store import Store

UNTRAINED = (TrialState.REUSED.value, TrialState.INFEASIBLE.value)
"""How trials end that trained nothing; they have no run."""

SECTIONS = ("seed", "controller", "space", "tasks", "learner", "budget", "scheduler", "evaluator")
"""Of the configuration, what is told of each run as its hyper-parameters."""

OWNER = "nas.json"
"""File of a search's folder that says which search it is."""

EVENTS = "*.tfevents.*"
"""Names of event files."""

INSTEAD = ", or give another folder with --tensorboard"


def refuse_unwritable(folder: Path) -> None:
    """Look whether event files can be written, before a search is.

    Raises:
        ConfigError: tensorboardX is not installed.
        Unwritable: it is no folder, or cannot be written.
    """
    if find_spec("tensorboardX") is None:
        raise ConfigError("--tensorboard needs tensorboardX: run `pip install 'nas-service[tensorboard]'`.")
    there = next(place for place in (folder.absolute(), *folder.absolute().parents) if place.exists())
    with writing(folder, INSTEAD):
        if not there.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        if not os.access(there, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))


@contextmanager
def recording(
    folder: Path | None,
    row: Search,
    config: SearchConfig,
    store: Store,
    say: Callable[[str], None],
    observer: SearchObserver,
) -> Iterator[SearchObserver]:
    """Write event files of a search while the block runs, what happened before it first.

    Args:
        folder: gets a folder of the search's name; None: nothing is written.
        row: the search.
        config: its configuration.
        store: of its trials so far.
        say: is told once that no more can be written; the search goes on.
        observer: told of all that happens.

    Raises:
        ConfigError: the folder has another search of this name.
        Unwritable: it cannot be written.
    """
    if folder is None:
        yield observer
        return
    with writing(folder, INSTEAD):
        runs = _Runs(folder / row.name, row, config, store)
    try:
        yield _Recorder(runs, say, observer)
    finally:
        runs.close()


class _Recorder:
    """Tells runs and an observer what happens; where the disk is full, the observer alone."""

    def __init__(self, runs: _Runs, say: Callable[[str], None], observer: SearchObserver) -> None:
        self._runs: _Runs | None = runs
        self._say, self._observer = say, observer

    def started(self, job: AnyJob) -> None:
        self._observer.started(job)
        self._tell(lambda runs: runs.start(job.number))

    def reported(self, job: AnyJob, outcome: Outcome) -> None:
        self._observer.reported(job, outcome)
        self._tell(lambda runs: runs.report(job.number, outcome))

    def recorded(self, number: int, outcome: Outcome) -> None:
        self._observer.recorded(number, outcome)
        self._tell(lambda runs: runs.end(number, outcome))

    def retried(self, job: AnyJob, error: str) -> None:
        self._observer.retried(job, error)
        self._tell(lambda runs: runs.forget(job.number))

    def _tell(self, what: Callable[[_Runs], None]) -> None:
        if self._runs is not None:
            try:
                what(self._runs)
            except OSError as error:
                self._say(f"{unwritable(error, self._runs.folder)} The search goes on without.")
                self._runs = None


class _Runs:
    """The runs of a search: each training's, and one of the best score so far, outcome by outcome.

    The latter tells which outcomes are there.
    """

    def __init__(self, folder: Path, row: Search, config: SearchConfig, store: Store) -> None:
        self.folder = folder
        self._space = config.make_space()
        values = flat(config.model_dump(mode="json")).items()
        self._settings = {path: value for path, value in values if path.partition(".")[0] in SECTIONS}
        self._live: dict[int, _Run] = {}
        self._best, self._seconds, self._count = math.nan, 0.0, 0
        self._claim(row)
        known = _last_step(folder)
        self._whole = _File(folder)
        for trial in store.history(row.id):
            new = self._count >= known
            if new and trial.state not in UNTRAINED:
                self._past(row.id, trial, store)
            whole = trial.state == TrialState.COMPLETED and trial.repeat == 0
            self._add(trial.score if whole else None, trial.seconds, _moment(trial), new=new)

    def start(self, number: int) -> None:
        """Begin a run; what an attempt before wrote of it does not count."""
        self._live[number] = _Run(self._place(number))

    def forget(self, number: int) -> None:
        """Close a run whose attempt failed."""
        self._live.pop(number).close()

    def report(self, number: int, outcome: Outcome) -> None:
        """Write what was measured since the report before."""
        self._live[number].write(_measured(outcome), time.time())

    def end(self, number: int, outcome: Outcome) -> None:
        """Write what else is known of a run, and close it."""
        now, run = time.time(), self._live.pop(number, None)
        score = None if outcome.score is None else outcome.score.value
        if run is not None and outcome.state.value in UNTRAINED:
            run.close()
        elif run is not None:
            told = {"score": score, "seconds": outcome.seconds, **outcome.costs}
            settings = {**self._settings, **self._values(outcome.architecture)}
            step, state = outcome.train_episodes, outcome.state.value
            run.end(_measured(outcome), told, settings, step, state, now)
        whole = outcome.state is TrialState.COMPLETED and outcome.repeat == 0
        self._add(score if whole else None, outcome.seconds, now)

    def close(self) -> None:
        """Close all files."""
        self._whole.close()
        for run in self._live.values():
            run.close()

    def _past(self, search: int, trial: Trial, store: Store) -> None:
        """Write the run of a trial that ended before."""
        measured = store.measurements(search, number=trial.number)
        seen = {(one.metric, one.step): one.value for one in measured if one.value is not None}
        told = {name: getattr(trial, name) for name in ("score", *COSTS)}
        text = trial.architecture
        settings = {**self._settings, **self._values(None if text is None else self._space.decode(text))}
        step, state = trial.train_episodes or 0, trial.state
        _Run(self._place(trial.number)).end(seen, told, settings, step, state, _moment(trial))

    def _values(self, architecture: Architecture | None) -> dict[str, Any]:
        """Return what a candidate chose; None: it is a supernet."""
        return {} if architecture is None else self._space.values(architecture)

    def _add(self, score: float | None, seconds: float | None, moment: float, *, new: bool = True) -> None:
        """Count one more outcome; write what the search has reached by it, if that is not there yet."""
        self._count += 1
        self._seconds += seconds or 0.0
        if score is not None and not score <= self._best:
            self._best = score
        if new:
            reached = {"best": self._best, "score": score, "seconds": self._seconds}
            values = {f"search/{name}": value for name, value in reached.items() if value is not None}
            self._whole.write(values, self._count, moment)
            self._whole.flush()

    def _claim(self, row: Search) -> None:
        """Write whose folder it is.

        Raises:
            ConfigError: it is another search's, or has something else.
        """
        file, mine = self.folder / OWNER, row.created_at.isoformat()
        if file.is_file():
            if json.loads(file.read_text()) == {"created_at": mine}:
                return
        elif not self.folder.exists() or not any(self.folder.iterdir()):
            with replacing(file) as temporary:
                temporary.write_text(json.dumps({"created_at": mine}))
            return
        raise ConfigError(
            f"--tensorboard: {self.folder} has other runs than those of this search. Delete it, or give "
            "another folder."
        )

    def _place(self, number: int) -> Path:
        return self.folder / f"trial-{number:05}"


class _Run:
    """One training; what its folder has of it from before does not count, and stays: a viewer may read it."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._began = folder, time.time()
        self._open()

    def _open(self) -> None:
        self._file = _File(self._folder)
        self._file.begin()
        self._written: dict[str, set[int]] = {}

    def write(self, values: Mapping[tuple[str, int], float], moment: float) -> None:
        """Write what is not there yet, by metric and step."""
        for (metric, step), value in sorted(values.items(), key=lambda item: item[0][1]):
            steps = self._written.setdefault(metric, set())
            if step not in steps:
                steps.add(step)
                self._file.write({metric: value}, step, moment)
        self._file.flush()

    def end(
        self,
        seen: Mapping[tuple[str, int], float],
        told: Mapping[str, float | None],
        settings: Mapping[str, Any],
        step: int,
        state: str,
        moment: float,
    ) -> None:
        """Write what was measured, the score and the costs at the last step, and the hyper-parameters."""
        if any(early < max(self._written.get(metric, {early})) for metric, early in self._missing(seen)):
            self._file.close()
            self._open()  # points come in the order of their steps
        self.write(seen, moment)
        costs = {f"trial/{name}": value for name, value in told.items() if value is not None}
        self._file.write(costs, step, moment)
        self._file.tell(settings, state == TrialState.FAILED, min(self._began, moment), moment)
        self.close()

    def _missing(self, seen: Mapping[tuple[str, int], float]) -> list[tuple[str, int]]:
        return [(metric, step) for metric, step in seen if step not in self._written.get(metric, ())]

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class _File:
    """A new event file of a run, read after those that are there."""

    def __init__(self, folder: Path) -> None:
        from tensorboardX.event_file_writer import EventsWriter

        folder.mkdir(parents=True, exist_ok=True)
        suffix = f".{len([*folder.glob(EVENTS)]):04}"  # two files may be of one second
        self._writer = EventsWriter(str(folder / "events"), suffix)

    def begin(self) -> None:
        """Let all points of the files before count for nothing, if each of them began so."""
        from tensorboardX.proto.event_pb2 import Event, SessionLog

        begun = SessionLog(status=SessionLog.START)
        self._writer.write_event(Event(session_log=begun, step=0, wall_time=time.time()))

    def write(self, values: Mapping[str, float], step: int, moment: float) -> None:
        """Write values of one step, those that are finite, as one record."""
        from tensorboardX.proto.summary_pb2 import Summary

        some = [
            Summary.Value(tag=tag, simple_value=value)
            for tag, value in values.items()
            if math.isfinite(value)
        ]
        if some:
            self._put(Summary(value=some), step, moment)

    def tell(self, settings: Mapping[str, Any], failed: bool, began: float, ended: float) -> None:
        """Write what TensorBoard's page of hyper-parameters reads."""
        from tensorboardX.proto.api_pb2 import Status
        from tensorboardX.proto.plugin_hparams_pb2 import HParamsPluginData, SessionEndInfo, SessionStartInfo
        from tensorboardX.proto.summary_pb2 import Summary, SummaryMetadata

        start = SessionStartInfo(start_time_secs=began)
        for name, value in settings.items():
            if isinstance(value, bool):
                start.hparams[name].bool_value = value
            elif isinstance(value, int | float):
                start.hparams[name].number_value = value
            elif value is not None:
                start.hparams[name].string_value = value if isinstance(value, str) else json.dumps(value)
        status = Status.Value("STATUS_FAILURE" if failed else "STATUS_SUCCESS")
        end = SessionEndInfo(status=status, end_time_secs=ended)
        for tag, told in (
            ("session_start_info", HParamsPluginData(version=0, session_start_info=start)),
            ("session_end_info", HParamsPluginData(version=0, session_end_info=end)),
        ):
            data = SummaryMetadata.PluginData(plugin_name="hparams", content=told.SerializeToString())
            value = Summary.Value(tag=f"_hparams_/{tag}", metadata=SummaryMetadata(plugin_data=data))
            self._put(Summary(value=[value]), 0, ended)

    def flush(self) -> None:
        """Let a viewer see what is written."""
        self._writer.flush()

    def close(self) -> None:
        """Write what is left, and close the file."""
        self._writer.close()

    def _put(self, summary: Any, step: int, moment: float) -> None:
        from tensorboardX.proto.event_pb2 import Event

        self._writer.write_event(Event(summary=summary, step=step, wall_time=moment))


def _last_step(folder: Path) -> int:
    """Return the last step that the event files of a folder have; 0: none.

    A record is its length in 8 bytes, 4 of a checksum, the event, and 4 of another.
    """
    from tensorboardX.proto.event_pb2 import Event

    last = 0
    for file in folder.glob(EVENTS):
        data, place = file.read_bytes(), 0
        while place + 12 <= len(data):
            end = place + 12 + int.from_bytes(data[place : place + 8], "little")
            if end + 4 > len(data):  # cut off by a crash
                break
            last = max(last, Event.FromString(data[place + 12 : end]).step)
            place = end + 4
    return last


def _measured(outcome: Outcome) -> dict[tuple[str, int], float]:
    return {(one.metric, one.step): one.value for one in outcome.measurements}


def _moment(trial: Trial) -> float:
    assert trial.finished_at is not None  # it ended
    return trial.finished_at.timestamp()
