"""What a trial is to get, against what the machines have."""

from __future__ import annotations

from pathlib import Path

import pytest
from command_line import SCRIPTED, nas
from facts import refusal
from scripted_searches import configure

from nas.errors import ConfigError, NasError
from nas.executors import capacity
from nas.executors.capacity import Machine, check, device, one_each, rooms

SMALL, GPU = Machine(2, 0), Machine(16, 1)


def warnings(*machines: Machine, cluster: bool = False, workers: int = 1, **resources: float) -> int:
    config = configure(executor="ray", workers=workers, resources=resources)
    return len(check(config, machines, cluster=cluster))


def test_what_fits_is_not_spoken_of() -> None:
    assert warnings(SMALL, workers=2) == 0
    assert warnings(SMALL, cpus=2) == 0
    assert warnings(GPU, gpus=0.5, workers=2) == 0
    assert warnings(SMALL, SMALL, cluster=True, cpus=2, workers=2) == 0
    assert warnings(SMALL, GPU, cluster=True, gpus=1, cpus=4) == 0


def test_what_is_slow_is_warned_of() -> None:
    assert warnings(SMALL, cpus=64) == 1
    assert warnings(SMALL, workers=8) == 1
    assert warnings(GPU, gpus=0.5, workers=4) == 1
    assert warnings(GPU, gpus=1, workers=2) == 1
    assert warnings(SMALL, SMALL, cluster=True, cpus=2, workers=3) == 1


@pytest.mark.parametrize(
    ("machines", "cluster", "resources"),
    [
        ([SMALL], False, {"gpus": 1}),
        ([SMALL], False, {"gpus": 0.1}),
        ([GPU], False, {"gpus": 2}),
        ([GPU, GPU], True, {"gpus": 2}),
        ([SMALL, GPU], True, {"cpus": 17}),
    ],
)
def test_what_no_machine_has_is_refused(
    machines: list[Machine], cluster: bool, resources: dict[str, float]
) -> None:
    with refusal(ConfigError, "resources"):
        warnings(*machines, cluster=cluster, **resources)


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
        assert len(places) <= rooms(Machine(16, 4), 0, share)


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
