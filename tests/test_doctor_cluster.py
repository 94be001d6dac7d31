"""`nas doctor --ray-address`: every machine of a cluster, compared with the driver's."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from command_line import nas
from facts import lacking

from nas.executors import nodes
from nas.executors.nodes import Inspector, NodeRow, compare, here


@pytest.fixture(scope="module")
def machine() -> nodes.Equipment:
    return here()


def compared(own: nodes.Equipment, there: nodes.Equipment) -> NodeRow:
    row = NodeRow("n")
    compare(row, own, there)
    return row


def test_equal_machines_are_fine(machine: nodes.Equipment) -> None:
    row = compared(machine, machine)
    assert (row.status, row.finding, row.plugins) == ("ok", "", len(machine.plugins))
    assert (row.torch, row.ray) == (machine.versions["torch"], machine.versions["ray"])


@pytest.mark.parametrize(
    ("package", "status"), [("nas", "error"), ("ray", "error"), ("python", "error"), ("torch", "warning")]
)
def test_other_versions_are_told(machine: nodes.Equipment, package: str, status: str) -> None:
    row = compared(machine, replace(machine, versions={**machine.versions, package: "0.0.1"}))
    assert row.status == status
    assert lacking(row.finding, package, "0.0.1", machine.versions[package]) == []
    gone = compared(machine, replace(machine, versions={**machine.versions, package: ""}))
    assert (gone.status, "missing" in gone.finding) == ("error", True)


def test_what_is_missing_or_broken_is_named(machine: nodes.Equipment) -> None:
    fewer = tuple(name for name in machine.plugins if name != "controller evolution")
    there = replace(machine, plugins=fewer, broken=("space mine: no such module",))
    row = compared(machine, there)
    assert row.status == "error"
    assert lacking(row.finding, "controller evolution", "space mine") == []
    row = compared(replace(machine, data=("omniglot",)), replace(machine, data=()))
    assert (row.status, row.data) == ("warning", "none")
    assert lacking(row.finding, "omniglot", "NAS_DATA") == []


class Elsewhere:
    """Stands for the actor on another machine, whose root folder is another one."""

    def __init__(self, root: Path | None, ahead: float = 0.0) -> None:
        self._inside, self._root, self._ahead = Inspector(), root, ahead

    def __getattr__(self, name: str) -> Any:
        def method(*arguments: Any) -> Any:
            if self._root is not None:
                arguments = tuple(self._root / Path(path).name for path in arguments)
            found = getattr(self._inside, name)(*arguments)
            return found + self._ahead if name == "clock" else found

        return method


@pytest.fixture
def local(monkeypatch: pytest.MonkeyPatch) -> None:
    """Actors are objects of this process."""
    pytest.importorskip("ray")
    monkeypatch.setattr(nodes, "_ask", lambda method, *arguments: method(*arguments))


def test_a_folder_of_its_own_is_found_out(local: None, tmp_path: Path) -> None:
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    theirs.mkdir()
    rows = [NodeRow("same"), NodeRow("other"), NodeRow("none")]
    nodes._share(
        ours, list(zip(rows, [Elsewhere(None), Elsewhere(theirs), Elsewhere(tmp_path / "no")], strict=True))
    )
    assert [(row.folder, row.status) for row in rows] == [
        ("shared", "ok"),
        ("its own", "error"),
        ("not writable", "error"),
    ]
    for row in rows[1:]:
        assert lacking(row.finding, ours, "--artifacts", "NAS_ARTIFACTS") == []
    assert [*ours.iterdir(), *theirs.iterdir()] == []


@pytest.mark.parametrize(("ahead", "status"), [(0.0, "ok"), (1.0, "ok"), (60.0, "error"), (-60.0, "error")])
def test_a_clock_that_is_off_is_told(local: None, ahead: float, status: str) -> None:
    row = NodeRow("n")
    nodes._clock(row, Elsewhere(None, ahead))
    assert (row.status, row.clock) == (status, pytest.approx(ahead, abs=0.5))
    assert status == "ok" or lacking(row.finding, f"{row.clock:+.1f}") == []


@pytest.fixture
def cluster() -> Iterator[str]:
    """The address of a head without a core, and another node."""
    from ray.cluster_utils import Cluster

    found = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    try:
        found.add_node(num_cpus=1)
        found.wait_for_nodes()
        yield found.address
    finally:
        found.shutdown()


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.xdist_group("ray")
@pytest.mark.timeout(600)
def test_every_machine_of_a_cluster_is_asked(
    db: Path, tmp_path: Path, cluster: str, machine: nodes.Equipment
) -> None:
    folder = tmp_path / "shared"
    code, out, err = nas("doctor", f"--ray-address={cluster}", f"--artifacts={folder}", "-f", "json")
    rows = json.loads(out)
    assert (code, len(rows)) == (0, 2), err
    for row in rows:
        assert (row["status"], row["folder"], row["finding"]) == ("ok", "shared", "")
        assert (row["nas"], row["plugins"]) == (machine.versions["nas"], len(machine.plugins))
        assert abs(row["clock"]) < 1
    assert sorted(row["cpus"] for row in rows) == [0, 1]
    assert list(folder.iterdir()) == []


def test_a_cluster_that_does_not_answer_is_refused(db: Path) -> None:
    pytest.importorskip("ray")
    code, _, err = nas("doctor", "--ray-address=127.0.0.1:1")
    assert (code, "127.0.0.1:1" in err) == (2, True)
