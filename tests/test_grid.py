from itertools import product

import pytest
from facts import refusal

from controllers.grid import LIMIT, Grid
from nas.errors import ConfigError
from nas.space import Architecture
from nas.testing.controllers import completed, mixed, simulate
from nas.testing.toys import Toy


@pytest.mark.parametrize("workers", [1, 3])
def test_each_network_is_evaluated_once_and_the_search_ends(workers: int) -> None:
    space = Toy(layers=2)
    run = simulate(Grid(space, 0), mixed(0), trials=1000, workers=workers)
    keys = [space.canonical(proposal.architecture) for proposal in run.proposals]
    every = product(*(range(len(decision.choices)) for decision in space.decisions))
    assert run.finished
    assert len(keys) == 40
    assert set(keys) == {space.canonical(Architecture("toy", choices)) for choices in every}


def test_it_finds_the_best() -> None:
    space = Toy(layers=2)
    run = simulate(Grid(space, 0), completed(space.score), trials=1000)
    assert space.score(run.best.architecture) == 1.0


def test_a_large_space_is_refused() -> None:
    with refusal(ConfigError, "'grid'", "'toy'", f"{Toy(layers=8).size:,}", f"{LIMIT:,}"):
        Grid(Toy(layers=8), 0)
