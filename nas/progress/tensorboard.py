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
import shlex
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

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


def refuse_taken(folder: Path, name: str) -> None:
    """Look whether a new search can have its runs in a folder, before it is written to the database.

    Args:
        folder: of event files.
        name: that the search is to have.

    Raises:
        ConfigError: what is there under this name is not empty.
        Unwritable: it cannot be written.
    """
    place = folder / name
    with writing(place, INSTEAD):
        if _taken(place):
            raise _others(place, "another folder or name")
    refuse_unwritable(place)


def _taken(place: Path) -> bool:
    """Return whether there is anything but an empty folder."""
    return os.path.lexists(place) and not (place.is_dir() and not any(place.iterdir()))


def _others(place: Path, otherwise: str) -> ConfigError:
    old = shlex.quote(str(place))
    return ConfigError(
        f"--tensorboard: {place} is there, and is not a folder of this search's runs. Move it away, "
        f"`mv {old} {old}.old`, or give {otherwise}."
    )


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
        ConfigError: the folder has something else of this name.
        Unwritable: it cannot be written.
    """
    if folder is None:
        yield observer
        return
    place = folder / row.name
    with writing(place, INSTEAD):
        recorder = _Recorder(_Runs(place, row, config, store), say, observer)
    try:
        yield recorder
    finally:
        recorder.close()


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

    def close(self) -> None:
        """Close all files."""
        self._tell(_Runs.close)

    def _tell(self, what: Callable[[_Runs], None]) -> None:
        if self._runs is not None:
            try:
                what(self._runs)
            except OSError as error:
                self._say(f"{unwritable(error, self._runs.folder)} The search goes on without.")
                with suppress(OSError):
                    self._runs.close()
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
        self._whole.flush()

    def start(self, number: int) -> None:
        """Begin a run; what an attempt before wrote of it does not count."""
        self._live[number] = _Run(self._place(number))

    def forget(self, number: int) -> None:
        """Close a run whose attempt failed."""
        self._live[number].close()
        del self._live[number]

    def report(self, number: int, outcome: Outcome) -> None:
        """Write what was measured since the report before."""
        self._live[number].write(_measured(outcome), time.time())

    def end(self, number: int, outcome: Outcome) -> None:
        """Write what else is known of a run, and close it."""
        now, run = time.time(), self._live.get(number)
        score = None if outcome.score is None else outcome.score.value
        if run is not None and outcome.state.value in UNTRAINED:
            run.close()
        elif run is not None:
            told = {"score": score, "seconds": outcome.seconds, **outcome.costs}
            settings = {**self._settings, **self._values(outcome.architecture)}
            step, state = outcome.train_episodes, outcome.state.value
            run.end(_measured(outcome), told, settings, step, state, now)
        self._live.pop(number, None)
        whole = outcome.state is TrialState.COMPLETED and outcome.repeat == 0
        self._add(score if whole else None, outcome.seconds, now)
        self._whole.flush()

    def close(self) -> None:
        """Close all files, also where one cannot be written."""
        with ExitStack() as closing:
            closing.callback(self._whole.close)
            for run in self._live.values():
                closing.callback(run.close)

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

    def _claim(self, row: Search) -> None:
        """Write whose folder it is.

        Raises:
            ConfigError: it is another search's, or something else.
        """
        file, mine = self.folder / OWNER, {"created_at": row.created_at.isoformat()}
        with suppress(FileNotFoundError, NotADirectoryError, IsADirectoryError, ValueError):
            if json.loads(file.read_text()) == mine:
                return
        if _taken(self.folder):
            raise _others(self.folder, f"another folder: `nas resume {row.name} --tensorboard DIR`")
        with replacing(file) as temporary:
            temporary.write_text(json.dumps(mine))

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
    """A new event file of a run, read after those that are there; it begins with its first event.

    tensorboardX's own writer asks the disk to have got the bytes at each flush; a viewer needs no more than
    that they have left this process.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._stream: BinaryIO | None = None

    def begin(self) -> None:
        """Let all points of the files before count for nothing, if each of them began so."""
        from tensorboardX.proto.event_pb2 import Event, SessionLog

        begun = SessionLog(status=SessionLog.START)
        self._put(Event(session_log=begun, step=0, wall_time=time.time()))

    def write(self, values: Mapping[str, float], step: int, moment: float) -> None:
        """Write values of one step, those that are finite, as one record."""
        from tensorboardX.proto.event_pb2 import Event
        from tensorboardX.proto.summary_pb2 import Summary

        some = [
            Summary.Value(tag=tag, simple_value=value)
            for tag, value in values.items()
            if math.isfinite(value)
        ]
        if some:
            self._put(Event(summary=Summary(value=some), step=step, wall_time=moment))

    def tell(self, settings: Mapping[str, Any], failed: bool, began: float, ended: float) -> None:
        """Write what TensorBoard's page of hyper-parameters reads."""
        from tensorboardX.proto.api_pb2 import Status
        from tensorboardX.proto.event_pb2 import Event
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
            self._put(Event(summary=Summary(value=[value]), step=0, wall_time=ended))

    def flush(self) -> None:
        """Let a viewer see what is written."""
        if self._stream is not None:
            self._stream.flush()

    def close(self) -> None:
        """Write what is left, and close the file."""
        if self._stream is not None:
            self._stream.close()

    def _put(self, event: Any) -> None:
        if self._stream is None:
            self._stream = self._open()
        self._stream.write(_record(event))

    def _open(self) -> BinaryIO:
        from tensorboardX.proto.event_pb2 import Event

        self._folder.mkdir(parents=True, exist_ok=True)
        now, place = time.time(), len([*self._folder.glob(EVENTS)])  # two files may be of one second
        name = f"events.out.tfevents.{int(now):010}.{socket.gethostname()}.{place:04}"
        stream = (self._folder / name).open("wb")
        stream.write(_record(Event(file_version="brain.Event:2", wall_time=now)))
        return stream


def _record(event: Any) -> bytes:
    """Return an event as a file has it: its length in 8 bytes, 4 of a checksum, itself, and 4 of another."""
    data = event.SerializeToString()
    length = len(data).to_bytes(8, "little")
    return b"".join((length, _checksum(length), data, _checksum(data)))


def _checksum(data: bytes) -> bytes:
    from tensorboardX.record_writer import masked_crc32c

    masked: int = masked_crc32c(data)
    return masked.to_bytes(4, "little")


def _last_step(folder: Path) -> int:
    """Return the last step that the event files of a folder have, each up to where it is damaged; 0: none."""
    from tensorboardX.proto.event_pb2 import Event

    last = 0
    for file in folder.glob(EVENTS):
        data, place = file.read_bytes(), 0
        while place < len(data):
            end = place + 12 + int.from_bytes(data[place : place + 8], "little")
            event = data[place + 12 : end]
            if data[end : end + 4] != _checksum(event):  # or cut off by a crash
                break
            last = max(last, Event.FromString(event).step)
            place = end + 4
    return last


def _measured(outcome: Outcome) -> dict[tuple[str, int], float]:
    return {(one.metric, one.step): one.value for one in outcome.measurements}


def _moment(trial: Trial) -> float:
    assert trial.finished_at is not None  # it ended
    return trial.finished_at.timestamp()
