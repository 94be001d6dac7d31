"""Pages of results that say what the file of their numbers says."""

from __future__ import annotations

import json
import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "docs" / "results"


def script(name: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return runpy.run_path(str(ROOT / "benchmarks" / f"{name}.py"), run_name=name)


def recorded(name: str) -> tuple[Any, str]:
    return json.loads((RESULTS / f"{name}.json").read_text()), (RESULTS / f"{name}.md").read_text()


def test_the_pages_are_those_of_their_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    report, written = recorded("controllers")
    assert script("omniglot_controllers", monkeypatch)["page"](report, "controllers.png") == written
    report, written = recorded("omniglot_search")
    assert script("omniglot_search", monkeypatch)["table"](report) == written
    report, written = recorded("second_order")
    assert script("second_order", monkeypatch)["page"](report) == written
    report, written = recorded("few_shot_space")
    assert script("few_shot_space", monkeypatch)["table"](report) == written
    report, written = recorded("joint_search")
    assert script("joint_search", monkeypatch)["page"](report, "joint_search.png") == written
    report, written = recorded("nasbench201_controllers")
    assert script("nasbench201", monkeypatch)["compared"](report) == written
    report, written = recorded("proposal_time")
    assert script("proposal_time", monkeypatch)["page"](report) == written
    report, written = recorded("scale")
    assert script("scale", monkeypatch)["page"](report) == written
    report, written = recorded("web_page")
    assert script("web_page", monkeypatch)["page"](report) == written
    report, written = recorded("web_viewers")
    assert script("web_viewers", monkeypatch)["page"](report) == written
    report, written = recorded("faults")
    assert script("faults", monkeypatch)["page"](report) == written
    report, written = recorded("shared_weights")
    assert script("shared_weights", monkeypatch)["page"](report) == written
    report, written = recorded("shared_weights_table")
    assert script("shared_weights_page", monkeypatch)["page"](report) == written
    report, written = recorded("pareto")
    assert script("pareto", monkeypatch)["page"](report, "pareto.png") == written
    report, written = recorded("example_weights")
    assert script("example_weights", monkeypatch)["page"](report) == written
    report, written = recorded("warm_start")
    assert script("warm_start", monkeypatch)["page"](report) == written


@pytest.mark.slow
def test_the_page_of_the_table_is_that_of_its_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    table = script("few_shot_table", monkeypatch)
    found = table["read"](RESULTS / "few_shot_table.csv.gz")
    assert table["sheet"](found) == (RESULTS / "few_shot_table.md").read_text()


def test_each_fault_has_the_tests_that_its_page_names(monkeypatch: pytest.MonkeyPatch) -> None:
    for tests in script("faults", monkeypatch)["TESTS"].values():
        for name in tests:
            file, _, test = name.partition("::")
            assert f"def {test}(" in (ROOT / file).read_text(), name


def test_a_baseline_that_was_added_is_compared_by_welch_s_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two samples of three seeds each: half widths by hand."""
    made = script("omniglot_controllers", monkeypatch)
    samples = np.array([[0.90, 0.92, 0.94]]), np.array([[0.80, 0.81, 0.88]])
    rows = [
        {
            "test_score": float(own.mean()),
            "seeds": 3,
            "ci95_seeds": 4.302652729911275 * float(own.std(ddof=1)) / 3**0.5,
            "ci95_episodes": 0.003,
        }
        for own in samples
    ]
    errors = [float(own.var(ddof=1)) / 3 for own in samples]
    freedom = int(sum(errors) ** 2 / sum(error**2 / 2 for error in errors))
    assert freedom == 2
    half = 100 * 4.302652729911275 * sum(errors) ** 0.5
    assert made["unpaired"](*rows) == f"*9.0 ± {half:.1f} (0.4)*"
    assert made["unpaired"](rows[0], rows[1] | {"seeds": 1, "ci95_seeds": None}) == "*9.0 ± ? (0.4)*"


def test_scores_are_taken_apart_into_what_they_vary_by(monkeypatch: pytest.MonkeyPatch) -> None:
    made = script("shared_weights", monkeypatch)
    rng, shape = np.random.default_rng(0), (2, 200, 100)
    true, episode = rng.normal(80, 3, (1, 200, 1)), rng.normal(0, 10, (1, 1, 100))
    scores = true + rng.normal(0, 1, (2, 200, 1)) + episode + rng.normal(0, 4, (1, *shape[1:]))
    parts = made["spread"](scores)
    assert parts["seed"] == pytest.approx(1, rel=0.15)
    assert parts["tasks"] == pytest.approx(0.4, rel=0.15)  # 4 / √100; what hits all alike is left out
    assert parts["architectures"] == pytest.approx(3, rel=0.15)
    normal = made["optimism"](rng.normal(80, 3, 2000), parts, 16)
    total = sum(part**2 for part in parts.values()) ** 0.5
    largest = 1.766  # of 16 standard normals, on average
    assert normal["seed"] == pytest.approx(largest * parts["seed"] ** 2 / total, rel=0.1)
