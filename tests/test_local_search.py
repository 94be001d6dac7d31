from collections.abc import Callable

import numpy as np
import pytest

from controllers.local_search import LocalSearch
from nas.backbone import BackboneSpace
from nas.controller import Outcome, Score
from nas.errors import Unsupported
from nas.objective import Objective
from nas.space import Architecture
from nas.states import TrialState
from nas.testing.controllers import completed, generator, mixed, simulate
from nas.testing.toys import Toy


def climbs(
    space: BackboneSpace, score: Callable[[Architecture], float], initial: int, trials: int, seed: int
) -> list[Architecture]:
    """Local search as one would write it, one evaluation after another."""
    found: list[Architecture] = []
    known: set[str] = set()

    def evaluate(architecture: Architecture) -> float:
        found.append(architecture)
        known.add(space.canonical(architecture))
        return score(architecture)

    def random() -> Architecture:
        rng = generator(seed, len(found))
        while space.canonical(architecture := space.sample(rng)) in known:
            pass
        return architecture

    while len(found) < trials:
        top, best = None, -np.inf
        for _ in range(initial):
            architecture = random()
            if (value := evaluate(architecture)) > best:
                top, best = architecture, value
        while top is not None:
            around = list(space.neighbours(top))
            if all(space.canonical(one) in known for one in around):
                break
            order = generator(seed, len(found)).permutation(len(around))
            one = next(around[place] for place in order if space.canonical(around[place]) not in known)
            if (value := evaluate(one)) > best:
                top, best = one, value
    return found[:trials]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("initial", [1, 4])
def test_one_worker_is_local_search(seed: int, initial: int) -> None:
    space = Toy(layers=3)
    run = simulate(LocalSearch(space, seed, initial=initial), completed(space.score), trials=80, seed=seed)
    expected = climbs(space, space.score, initial, 80, seed)
    assert [proposal.architecture for proposal in run.proposals] == expected


@pytest.mark.parametrize("seed", range(5))
def test_no_network_is_tried_twice_or_while_it_runs(seed: int) -> None:
    space = Toy(layers=3)
    run = simulate(LocalSearch(space, seed), mixed(seed), trials=120, seed=seed, workers=4)
    keys = [space.canonical(proposal.architecture) for proposal in run.proposals]
    assert len(set(keys)) == len(keys) == 120


def test_a_climb_goes_on_from_what_is_better_and_ends_at_a_summit() -> None:
    space = Toy(layers=2)
    controller = LocalSearch(space, 0, initial=1)
    one, *around = [space.decode("1.0.0.0.0"), *space.neighbours(space.decode("1.0.0.0.0"))]

    def observe(architecture: Architecture, value: float, state: TrialState = TrialState.COMPLETED) -> None:
        controller.observe(0, Outcome(state, architecture, Score(value, 0.0, 1)))

    def next_() -> Architecture:
        return controller.propose(9, (), generator(0, 9)).architecture

    observe(one, 0.5)
    assert next_() in around
    observe(around[0], 0.9, TrialState.FAILED)
    assert next_() in around
    observe(around[-1], 0.6, TrialState.STOPPED)
    assert next_() in set(space.neighbours(around[-1]))
    for neighbour in space.neighbours(around[-1]):
        observe(neighbour, 0.1)
    drawn = {controller.propose(9, (), generator(0, n)).architecture for n in range(20)}
    assert not drawn <= set(space.neighbours(around[-1]))


def test_it_takes_a_cost_and_no_two_goals() -> None:
    controller = LocalSearch(Toy(), 0)
    controller.aim(Objective(("macs",)))
    with pytest.raises(Unsupported):
        controller.aim(Objective(("score", "macs")))
