"""What a trial is to get, against what the machines have."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from command_line import SCRIPTED, nas
from facts import refusal
from scripted_searches import configure

from nas import verbs
from nas.errors import ConfigError, NasError
from nas.executors import capacity, process
from nas.executors.capacity import Demand, Machine, Room, check, device, one_each, rooms

SMALL, GPU = Machine(2, 0, 8e9), Machine(16, 1, 64e9, {"fast": 2})


def room(
    *machines: Machine, cluster: bool = False, grows: bool = False, workers: int = 1, **resources: Any
) -> Room:
    demand = configure(executor="ray", workers=workers, resources=resources).resources.demand
    return check(demand, workers, machines, cluster=cluster, grows=grows)


def test_what_fits_is_not_spoken_of() -> None:
    assert room(SMALL, workers=2) == (2, ())
    assert room(SMALL, cpus=2) == (1, ())
    assert room(SMALL, memory="4G", workers=2) == (2, ())
    assert room(GPU, gpus=0.5, workers=2) == (2, ())
    assert room(SMALL, SMALL, cluster=True, cpus=2, workers=2) == (2, ())
    assert room(SMALL, GPU, cluster=True, gpus=1, cpus=4) == (1, ())
    assert room(SMALL, GPU, cluster=True, custom={"fast": 1}, workers=2) == (2, ())


@pytest.mark.parametrize(
    ("found", "jobs"),
    [
        (partial(room, SMALL, cpus=64), 1),
        (partial(room, SMALL, workers=8), 8),
        (partial(room, SMALL, memory="3G", workers=8, cpus=1), 2),
        (partial(room, GPU, gpus=0.5, workers=4), 2),
        (partial(room, GPU, gpus=1, workers=2), 1),
        (partial(room, SMALL, SMALL, cluster=True, cpus=2, workers=3), 2),
        (partial(room, SMALL, GPU, cluster=True, custom={"fast": 1.5}, workers=3), 1),
    ],
)
def test_what_is_less_than_asked_for_is_warned_of_and_counted(found: Callable[[], Room], jobs: int) -> None:
    assert found().warnings
    assert found().jobs == jobs


@pytest.mark.parametrize(
    ("machines", "cluster", "resources", "lacking"),
    [
        ([SMALL], False, {"gpus": 1}, "resources.gpus"),
        ([SMALL], False, {"gpus": 0.1}, "resources.gpus"),
        ([GPU], False, {"gpus": 2}, "resources.gpus"),
        ([GPU, GPU], True, {"gpus": 2}, "resources.gpus"),
        ([SMALL, GPU], True, {"cpus": 17}, "resources.cpus"),
        ([SMALL], False, {"memory": "9G", "cpus": 3}, "resources.memory=9G"),
        ([SMALL, GPU], True, {"memory": "100G"}, "64G"),
        ([SMALL], False, {"custom": {"fast": 1}}, "resources.custom.fast"),
        ([SMALL, GPU], True, {"custom": {"fast": 3}}, "resources.custom.fast"),
        ([SMALL, Machine(1, 1, 8e9)], True, {"gpus": 1, "cpus": 2}, "at once"),
    ],
)
def test_what_no_machine_has_is_refused(
    machines: list[Machine], cluster: bool, resources: dict[str, Any], lacking: str
) -> None:
    with refusal(ConfigError, lacking):
        room(*machines, cluster=cluster, **resources)
    if cluster:
        waiting = room(*machines, cluster=True, grows=True, workers=3, **resources)
        assert waiting.jobs == 3
        assert lacking in waiting.warnings[0]


@pytest.mark.parametrize(("share", "jobs"), [(0.1, 10), (0.2, 5), (0.3, 3), (0.05, 20), (0.7, 1)])
def test_shares_that_floats_do_not_hold_fill_what_there_is(share: float, jobs: int) -> None:
    """As of Ray, which counts in ten-thousandths: 1 // 0.2 is 4."""
    machine = Machine(64, 1, None, {"big": 1})
    assert rooms(machine, Demand(gpus=share), reserved=False) == jobs
    assert rooms(machine, Demand(custom={"big": share}), reserved=True) == jobs
    assert [device(place, share, there=2) for place in (jobs - 1, jobs)] == [0, 1]


def test_what_there_is_memory_for_is_what_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """As the warning says, in processes and on a Ray that is started here."""
    started: list[int] = []

    @contextmanager
    def cluster(demand: Demand, workers: int, *_: object) -> Iterator[tuple[list[Machine], bool]]:
        started.append(workers)
        yield [SMALL], False

    for module in (capacity, process):
        monkeypatch.setattr(module, "here", lambda: SMALL)
    monkeypatch.setattr(verbs, "cluster", cluster)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    config = configure(executor="ray", workers=8, resources={"memory": "3G"})
    with verbs.ready(config, lambda words: None) as at_a_time:
        assert started == [at_a_time] == [2]
    made = process.ProcessExecutor(lambda: None, 8, config.resources.demand, lambda words: None)  # type: ignore[arg-type, return-value, var-annotated]
    assert made._workers == 2


def test_a_cluster_that_grows_is_believed_to_reach_what_is_asked_for() -> None:
    assert room(SMALL, cluster=True, grows=True, workers=50) == (50, ())


def test_what_has_a_setting_of_its_own_is_no_custom_resource() -> None:
    with refusal(ConfigError, "resources.custom.GPU"):
        configure(resources={"custom": {"GPU": 1}})


def test_a_gpu_is_not_shared_unless_it_is_asked_for() -> None:
    assert one_each([Machine(16, 0)]) == 16
    assert one_each([GPU, Machine(16, 3)]) == 4
    assert one_each([SMALL, SMALL]) == 4


@pytest.mark.parametrize(
    ("share", "places"), [(None, [0, 1, 2, 3, 0]), (1, [0, 1, 2, 3]), (2, [0, 2]), (0.5, [0, 0, 1, 1, 2, 2])]
)
def test_the_places_of_a_machine_share_its_gpus(share: float | None, places: list[int]) -> None:
    assert [device(place, share, there=4) for place in range(len(places))] == places
    if share:
        assert len(places) <= rooms(Machine(16, 4), Demand(gpus=share), reserved=False)


@pytest.mark.parametrize("executor", ["inline", "process", "ray"])
def test_a_gpu_that_is_not_there_starts_no_search(
    executor: str, db: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(capacity, "here", lambda: SMALL)
    code, _, err = nas("run", *SCRIPTED, f"--executor={executor}", "--set=resources.gpus=1")
    assert (code, "0 GPUs" in err) == (2, True)
    assert nas("ls", "-f", "csv")[1] == ""


@pytest.mark.ray
def test_a_ray_that_does_not_start_leaves_no_search(db: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from nas.executors import ray

    def fail(**settings: object) -> None:
        raise OSError("AF_UNIX path length cannot exceed 107 bytes")

    monkeypatch.setattr(ray.ray, "init", fail)
    code, _, err = nas("run", *SCRIPTED, "--executor=ray", "--workers=1")
    assert (code, "107 bytes" in err, "nas doctor" in err) == (1, True, True)
    assert nas("ls", "-f", "csv")[1] == ""


@pytest.mark.ray
def test_ray_s_files_go_where_its_sockets_have_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from nas.executors import ray

    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    monkeypatch.setenv("TMPDIR", "/tmp")
    assert ray._temporary() is None
    long = tmp_path / ("x" * 60)
    long.mkdir()
    for unusable in (long, tmp_path / "nowhere"):
        monkeypatch.setenv("TMPDIR", str(unusable))
        found = ray._temporary()
        assert found is not None
        assert len(found) <= ray.SOCKET_ROOM
    monkeypatch.setattr(ray, "_usable", lambda folder: False)
    with refusal(NasError, "RAY_TMPDIR"):
        ray._temporary()
