"""A cluster of `ray start` processes with a PostgreSQL is struck while searches run: nothing is lost."""

from __future__ import annotations

import os
import random
import runpy
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from facts import lacking

pytest.importorskip("ray")
pytest.importorskip("psycopg")

pytestmark = [pytest.mark.slow, pytest.mark.ray, pytest.mark.xdist_group("ray"), pytest.mark.timeout(1200)]

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def faults() -> Iterator[dict[str, Any]]:
    """Yield what `benchmarks/faults.py` defines."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "benchmarks"))
        patch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
        yield runpy.run_path(str(ROOT / "benchmarks" / "faults.py"), run_name="faults")


@pytest.fixture(scope="module")
def cluster(faults: dict[str, Any]) -> Iterator[Any]:
    if not (shutil.which("initdb") or [*Path("/usr/lib/postgresql").glob("*/bin/initdb")]):
        pytest.skip("needs PostgreSQL's initdb")
    made = faults["Cluster"](Path(f"/tmp/nas-faults-{os.getpid()}"))
    with ExitStack() as stack:
        try:
            stack.enter_context(made.running())
        except RuntimeError as error:
            if "PostgreSQL does not start" in str(error):
                pytest.skip(f"needs a PostgreSQL that starts here: {error}")
            raise
        yield made


@pytest.fixture
def struck(faults: dict[str, Any], cluster: Any, tmp_path: Path, request: pytest.FixtureRequest) -> Any:
    """Return a search on two workers that only the test strikes; it outlasts the loss of a head."""
    name = f"random-{request.node.name.count('_')}"
    chance = random.Random(0)
    return faults["Struck"](cluster, name, 300, faults["Plan"]({}, chance), chance, tmp_path)


def test_a_search_survives_what_strikes_at_random(
    faults: dict[str, Any], cluster: Any, tmp_path: Path
) -> None:
    counts = {"drivers": 4, "workers": 2, "nodes": 1, "restarts": 1, "cuts": 2}
    wanted = faults["wanted"](counts, cluster.can_cut)
    report: dict[str, Any] = {"common": [], "searches": []}
    faults["Benchmark"](cluster, report, lambda: None, wanted, 40, 1, tmp_path).run(2)
    assert not faults["left"](report, wanted)
    assert [search for search in report["searches"] if not faults["right"](search)] == []
    assert [search["ends"] for search in report["searches"] if search["ends"]] == []


def test_a_database_that_is_away_for_a_minute_costs_nothing(
    faults: dict[str, Any], cluster: Any, struck: Any
) -> None:
    driver = struck.start()
    assert faults["wait_until"](lambda: len(struck.told) > 3, 300), driver.said
    cluster.script("database", "crash")
    time.sleep(60)
    cluster.script("database", "start")
    assert driver.wait(300) == 0, driver.said
    assert faults["right"](struck.compare())


def test_a_head_that_is_killed_ends_the_search_which_goes_on_when_it_is_back(
    faults: dict[str, Any], cluster: Any, struck: Any
) -> None:
    driver = struck.start()
    assert faults["wait_until"](lambda: len(struck.told) > 3, 300), driver.said
    began = time.monotonic()
    cluster.script("kill", "head")
    assert (driver.wait(120), lacking(driver.said[-1], f"--resume-or-start={struck.name}")) == (6, [])
    assert time.monotonic() - began < 60
    cluster.script("up", "2")
    assert struck.start().wait(300) == 0
    assert faults["right"](struck.compare())
