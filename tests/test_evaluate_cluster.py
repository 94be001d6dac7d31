"""`nas evaluate` on a Ray cluster: what processes of this machine find, to the bit."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from command_line import SCRIPTED, nas

from nas.costs import MEASURED

pytestmark = [pytest.mark.slow, pytest.mark.ray, pytest.mark.xdist_group("ray"), pytest.mark.timeout(600)]

SMALL = ["--train-episodes=40", "--validate-every=20", "--validation-episodes=10", "--seeds=1"]


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of a head, which runs no job, and of two nodes with a core each."""
    from ray.cluster_utils import Cluster

    found = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    try:
        for _ in range(2):
            found.add_node(num_cpus=1)
        found.wait_for_nodes()
        yield found.address
    finally:
        found.shutdown()


def test_a_cluster_finds_the_same(tmp_path: Path, cluster: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("NAS_ARTIFACTS", raising=False)
    options = [option for option in SCRIPTED if not option.startswith("--space")]
    code, _, err = nas(
        "run", "--space=mlp", *options, "--set=learner.inner_lr=0.01", "--name=s", "--trials=8"
    )
    assert code == 0, err
    found = []
    for name, executor in (("process", "--executor=process"), ("ray", f"--ray-address={cluster}")):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "nas.db").write_bytes((tmp_path / "nas.db").read_bytes())
        asked = ["evaluate", "--top=3", "--search=s", *SMALL, executor, "-f", "json"]
        code, out, err = nas(*asked, f"--db=sqlite:///{folder}/nas.db")
        assert code == 0, err
        rows = [{key: row[key] for key in row.keys() - {"seconds", *MEASURED}} for row in json.loads(out)]
        assert len(rows) == 3
        found.append((rows, weights(folder / "nas.db")))
        assert list((folder / "nas-artifacts" / "checkpoints").iterdir()) == []
        assert not list((folder / "nas-artifacts").glob(".seen-*"))
    assert found[0] == found[1]


def weights(db: Path) -> list[Any]:
    """Return the hashes of the weights that a database knows."""
    with sqlite3.connect(db) as connection:
        return connection.execute(
            "SELECT architecture, sha256 FROM artifacts JOIN evaluations ON evaluations.id = evaluation_id "
            "ORDER BY 1, 2"
        ).fetchall()
