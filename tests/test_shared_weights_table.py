"""What the comparison of supernets with the few-shot table computes: recall, probabilities, searches."""

from __future__ import annotations

import math
import runpy
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from nas.space import TaskShape
from search_spaces.few_shot import FewShot

ROOT = Path(__file__).parent.parent
SPACE = FewShot()


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> Iterator[SimpleNamespace]:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    yield SimpleNamespace(
        **runpy.run_path(str(ROOT / "benchmarks" / "shared_weights_table.py"), run_name="it")
    )
    sys.modules.pop("few_shot_table", None)


@pytest.fixture
def page(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return SimpleNamespace(
        **runpy.run_path(str(ROOT / "benchmarks" / "shared_weights_page.py"), run_name="it")
    )


def test_recall_is_the_share_of_the_best_among_the_best_predicted(page: SimpleNamespace) -> None:
    true = [float(i) for i in range(20)]  # the best two are 19 and 18
    predicted = [float(-i) for i in range(20)]
    assert page.recall(true, true, 0.1, 0.1) == 1.0
    assert page.recall(predicted, true, 0.1, 0.9) == 0.0  # 19 and 18 are the last two of its 20
    assert page.recall(predicted, true, 0.1, 0.95) == 0.5
    assert page.recall([*predicted[:19], 1.0], true, 0.1, 0.05) == 0.5


@pytest.mark.parametrize("promise", [False, True])
def test_simulated_searches_find_what_order_statistics_say(page: SimpleNamespace, promise: bool) -> None:
    """Of values 0 … n − 1, the best of k independent draws is at most x with probability ((x + 1) / n)^k."""
    n, true = 40, np.arange(40.0)
    rng = np.random.default_rng(0)
    *found, none = page.simulated(true, true if promise else None, (1, 4, 0), rng)
    assert math.isnan(none)
    for trials, value in zip((1, 4), found, strict=True):
        draws = trials * (page.CANDIDATES if promise else 1)
        at_most = ((np.arange(n) + 1) / n) ** draws
        mean = float((1 - at_most[:-1]).sum())
        spread = math.sqrt(float((np.arange(n) ** 2 * np.diff(at_most, prepend=0)).sum()) - mean**2)
        assert abs(value - mean) < 4 * spread / math.sqrt(page.ROUNDS)


def test_probabilities_of_networks_add_up_to_that_of_having_one(made: SimpleNamespace) -> None:
    """Over all first stages, before a second one of a single encoding, by the edges' `none`."""
    from few_shot_table import stages

    generator = torch.Generator().manual_seed(0)
    mixture = [torch.rand(len(d.choices), generator=generator).softmax(0) for d in SPACE.decisions]
    second = "avg_pool|conv_1x1~0|+|conv_3x3~0|sep_conv_3x3~1|"
    found = made.log_probabilities(mixture, [f"{first}/{second}" for first in stages()])
    assert len(found) == 228
    to_node, direct, from_node = (float(weights[0]) for weights in mixture[1:4])
    some_path = 1 - direct * (1 - (1 - to_node) * (1 - from_node))
    choices = SPACE.decode(f"{second}/{second}").choices
    own = math.prod(float(w[c]) for w, c in zip(mixture[4:], choices[4:], strict=True))
    assert sum(map(math.exp, found)) == pytest.approx(some_path * own, rel=1e-6)


def test_the_sandwich_has_the_largest_and_the_smallest_network(made: SimpleNamespace) -> None:
    table = pd.read_csv(ROOT / "docs" / "results" / "few_shot_table.csv.gz")
    shape = TaskShape((1, 28, 28), 20)
    largest, smallest, *others = made.Sandwich(SPACE, None, 0).drawn()
    assert SPACE.cost(largest, shape).macs >= table["macs"].max()
    assert SPACE.cost(smallest, shape).macs <= table["macs"].min()
    assert len(others) == 2


def test_a_part_draws_one_choice_once_it_is_set(made: SimpleNamespace) -> None:
    part, place = made.Part(SPACE, None, 0), made.place()
    assert SPACE.decisions[place].name == made.SPLIT
    free = {part.drawn()[0].choices[place] for _ in range(100)}
    assert free == set(range(6))
    part.choice = 3
    drawn = [part.drawn()[0] for _ in range(50)]
    assert {architecture.choices[place] for architecture in drawn} == {3}
    assert len(set(drawn)) > 40
