"""`--tensorboard`: event files of a search, read as TensorBoard reads them: record by record."""

from __future__ import annotations

import errno
import math
import os
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from command_line import SCRIPTED, nas
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.plugin_hparams_pb2 import HParamsPluginData
from tensorboardX.record_writer import masked_crc32c

from nas.progress import tensorboard
from nas.storage.store import Store
from nas.testing.toys import Toy

RUNGS = ("--set=scheduler.name=asha", "--set=scheduler.minimum=10", "--set=budget.train_episodes=90")
Points = dict[tuple[str, int], float]


def events(run: Path) -> Iterator[Any]:
    """Yield the events of a run, of each file those before the first that is damaged, or but a part.

    An event is behind its length and a checksum of that; a checksum of its own follows.
    """
    for file in sorted(run.glob("*.tfevents.*")):
        data = file.read_bytes()
        while data:
            (length,) = struct.unpack("<Q", data[:8])
            event = data[12 : 12 + length]
            checksums = struct.pack("<II", masked_crc32c(data[:8]), masked_crc32c(event))
            if data[8:12] + data[12 + length : 16 + length] != checksums:
                break
            yield Event.FromString(event)
            data = data[16 + length :]


def points(run: Path) -> Points:
    """Return what a run has since it last began anew, of which nothing may be there twice."""
    found: list[tuple[str, int, float]] = []
    begun = False
    for event in events(run):
        if event.session_log.status == SessionLog.START and not begun:
            begun = True
        elif event.session_log.status == SessionLog.START:
            found = [point for point in found if point[1] < event.step]
        values = [value for value in event.summary.value if not value.tag.startswith("_hparams_")]
        found += [(value.tag, event.step, value.simple_value) for value in values]
    steps: dict[str, list[int]] = {}
    for tag, step, _ in found:
        steps.setdefault(tag, []).append(step)
    assert all(own == sorted(set(own)) for own in steps.values())
    return {(tag, step): value for tag, step, value in found}


def settings(run: Path) -> dict[str, Any]:
    """Return the hyper-parameters of a run that ended."""
    told = {
        value.tag: HParamsPluginData.FromString(value.metadata.plugin_data.content)
        for event in events(run)
        for value in event.summary.value
        if value.metadata.plugin_data.plugin_name == "hparams"
    }
    assert told["_hparams_/session_end_info"].session_end_info.end_time_secs > 0
    found = told["_hparams_/session_start_info"].session_start_info.hparams
    return {name: getattr(value, value.WhichOneof("kind")) for name, value in found.items()}


def check(db: Path, folder: Path) -> None:
    """Compare all runs with the database."""
    with Store(f"sqlite:///{db}") as store:
        row = store.search("s")
        trials = store.trials(row.id)
        runs = {f"trial-{trial.number:05}" for trial in trials if trial.state not in tensorboard.UNTRAINED}
        assert {place.name for place in folder.iterdir() if place.is_dir() and points(place)} == runs
        best = math.nan
        for place, trial in enumerate(store.history(row.id), 1):
            if trial.state == "completed":
                best = max(trial.score, best) if best == best else trial.score
            assert points(folder).get(("search/best", place), math.nan) == pytest.approx(best, nan_ok=True)
        assert max(step for _, step in points(folder)) == len(trials)
        for trial in trials:
            run = folder / f"trial-{trial.number:05}"
            if run.name not in runs:
                continue
            told = points(run)
            curve = {key: value for key, value in told.items() if not key[0].startswith("trial/")}
            seen = store.measurements(row.id, number=trial.number)
            assert curve == pytest.approx({(m.metric, m.step): m.value for m in seen})
            if trial.score is not None:
                assert told["trial/score", trial.train_episodes] == pytest.approx(trial.score)
            chosen = settings(run)
            assert {name: chosen[name] for name in ("controller.name", "budget.train_episodes")} == {
                "controller.name": "evolution",
                "budget.train_episodes": 90,
            }
            values = Toy().values(Toy().decode(trial.architecture))
            assert {name: chosen[name] for name in values} == values


def test_runs_have_what_the_database_has(db: Path, tmp_path: Path) -> None:
    """Trials with several rungs, one that fails for good, and one that no network can be made of."""
    faults = ('--set=evaluator.faults={1="raise",3="infeasible"}', "--set=retries=1", "--set=max_failed=1")
    run = ("run", *SCRIPTED, *RUNGS, *faults, "--trials=8", "--name=s", f"--tensorboard={tmp_path}/tb")
    assert nas(*run)[0] == 0
    check(db, tmp_path / "tb" / "s")


def test_no_point_is_there_twice_after_a_resume(db: Path, tmp_path: Path) -> None:
    """Not even those of a trial that a crash cut off; what ended before is not written again."""
    tb = tmp_path / "tb"
    assert nas("run", *SCRIPTED, *RUNGS, "--trials=4", "--name=s", f"--tensorboard={tb}")[0] == 0
    before = {file: file.read_bytes() for file in tb.glob("s/trial-*/*")}
    cut_off = tensorboard._Run(tb / "s" / "trial-00004")
    cut_off.write({("score", 10): 0.5}, 1.0)
    cut_off.close()
    assert nas("resume", "s", "--trials=+3", f"--tensorboard={tb}")[0] == 0
    check(db, tb / "s")
    assert {file: file.read_bytes() for file in before} == before


def test_what_the_folder_lacks_is_written_first(db: Path, tmp_path: Path) -> None:
    """A search that began without, or whose driver died before it could write."""
    tb = tmp_path / "tb"
    assert nas("run", *SCRIPTED, *RUNGS, "--trials=5", "--name=s")[0] == 0
    assert nas("resume", "s", f"--tensorboard={tb}")[0] == 0
    check(db, tb / "s")
    [file] = (tb / "s").glob("*.tfevents.*")
    file.write_bytes(file.read_bytes()[:-20])  # of its last record, the driver wrote but a part
    assert nas("resume", "s", "--trials=+1", f"--tensorboard={tb}")[0] == 0
    check(db, tb / "s")


def test_what_a_damaged_file_has_behind_the_damage_is_written_again(db: Path, tmp_path: Path) -> None:
    tb = tmp_path / "tb"
    run = ("run", *SCRIPTED, *RUNGS, "--trials=5", "--name=s", f"--tensorboard={tb}")
    assert nas(*run)[0] == 0
    [file] = (tb / "s").glob("*.tfevents.*")
    data = bytearray(file.read_bytes())
    half = len(data) // 2
    data[half : half + 8] = b"\xff" * 8
    file.write_bytes(data)
    before = {step for _, step in points(tb / "s")}
    assert before != set(range(1, 6))
    assert nas("resume", "s", f"--tensorboard={tb}")[0] == 0
    check(db, tb / "s")
    assert before < {step for _, step in points(tb / "s")} == set(range(1, 6))


def test_nothing_is_written_where_nothing_is_new(db: Path, tmp_path: Path) -> None:
    assert nas("run", *SCRIPTED, "--trials=2", "--name=s", f"--tensorboard={tmp_path}/tb")[0] == 0
    before = sorted(tmp_path.glob("tb/**/*"))
    assert nas("resume", "s", f"--tensorboard={tmp_path}/tb")[0] == 0
    assert sorted(tmp_path.glob("tb/**/*")) == before


def test_a_viewer_sees_points_without_a_wait_for_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", synced.append)
    run = tensorboard._Run(tmp_path)
    run.write({("score", 10): 0.5}, 1.0)
    assert points(tmp_path) == {("score", 10): 0.5}
    run.close()
    assert synced == []


@pytest.mark.parametrize("again", ["--name=s", "--resume-or-start=s", ""])
def test_another_search_is_not_written_over(db: Path, tmp_path: Path, again: str) -> None:
    """Refused before the new search is in the database, also where it would have the name of its parts."""
    run = ("run", *SCRIPTED, "--trials=1", f"--tensorboard={tmp_path}/tb", *([again] if again else []))
    assert nas(*run)[0] == 0
    [folder] = (tmp_path / "tb").iterdir()
    assert nas("rm", folder.name, "--yes")[0] == 0
    owner = (folder / tensorboard.OWNER).read_bytes()
    code, _, err = nas(*run)
    assert (code, str(folder) in err, (folder / tensorboard.OWNER).read_bytes()) == (2, True, owner)
    folder.rename(tmp_path / "before")
    folder.touch()
    code, _, err = nas(*run)
    assert (code, str(folder) in err) == (2, True)
    with Store(f"sqlite:///{db}") as store:
        assert store.names() == []


@pytest.mark.parametrize("owner", [b"", b'{"created_at": "20', b"\xff", b"{}", None])
def test_a_search_is_not_taken_up_in_the_folder_of_another(
    db: Path, tmp_path: Path, owner: bytes | None
) -> None:
    """Nor where the file that says whose it is cannot be read, nor where a file has the name."""
    assert nas("run", *SCRIPTED, "--trials=1", "--name=s")[0] == 0
    place = tmp_path / "tb" / "s"
    if owner is None:
        place.parent.mkdir()
        place.touch()
    else:
        place.mkdir(parents=True)
        (place / tensorboard.OWNER).write_bytes(owner)
    before = sorted(tmp_path.glob("tb/**/*"))
    code, _, err = nas("resume", "s", f"--tensorboard={tmp_path}/tb")
    assert (code, str(place) in err, "nas resume s --tensorboard" in err) == (2, True, True)
    assert sorted(tmp_path.glob("tb/**/*")) == before


def test_a_search_goes_on_where_no_more_can_be_written(
    db: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a file still has to write when the disk is full, it cannot write when it is closed, either."""

    def full(self: Any) -> None:
        if any(tmp_path.glob("tb/s/trial-*")):  # a training has begun
            raise OSError(errno.ENOSPC, "No space left on device")

    close = tensorboard._File.close

    def full_at_last(self: Any) -> None:
        close(self)
        full(self)

    monkeypatch.setattr(tensorboard._File, "flush", full)
    monkeypatch.setattr(tensorboard._File, "close", full_at_last)
    code, _, err = nas("run", *SCRIPTED, "--trials=3", "--name=s", f"--tensorboard={tmp_path}/tb")
    assert (code, err.count("No space left")) == (0, 1)
    monkeypatch.undo()
    with Store(f"sqlite:///{db}") as store:
        assert [trial.state for trial in store.trials(store.search("s").id)].count("completed") == 3


def test_a_folder_that_cannot_be_is_refused_before_anything_begins(
    db: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    run = ("run", *SCRIPTED, "--trials=1", "--name=s", f"--tensorboard={tmp_path}/file/tb")
    code, _, err = nas(*run)
    assert (code != 0, f"{tmp_path}/file/tb" in err, db.exists()) == (True, True, False)
    assert (nas(*run[:-1], "--tensorboard=")[0], db.exists()) == (2, False)
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    code, _, err = nas("run", *SCRIPTED, "--trials=1", "--name=s", f"--tensorboard={tmp_path}/tb")
    assert (code, "nas-service[tensorboard]" in err, db.exists()) == (2, True, False)
