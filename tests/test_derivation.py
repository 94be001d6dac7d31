import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from controllers.derivation import best_sampled, likeliest, most_probable
from nas.backbone import BackboneSpace
from nas.errors import Infeasible
from nas.space import Architecture, Decision, Role, TaskShape
from nas.supernet import Mixture, Supernet
from nas.testing.toy_supernet import ToyCurves


class Pairs(BackboneSpace):
    """Two of four edges with an operation each, as in DARTS: an edge's `none` cannot be chosen."""

    name = "pairs"
    edges = tuple(itertools.combinations(range(4), 2))
    decisions = (
        Decision("edges", tuple(f"{a}+{b}" for a, b in edges)),
        Decision("op1", ("conv", "pool")),
        Decision("op2", ("conv", "pool")),
    )

    def build(self, architecture: Architecture, shape: TaskShape) -> nn.Module:
        raise Infeasible("never built")

    def canonical(self, architecture: Architecture) -> str:
        return self.encode(architecture)

    def supernet(self, shape: TaskShape) -> Supernet:
        return PairsSupernet(self)


class PairsSupernet(Supernet):
    def __init__(self, space: Pairs) -> None:
        super().__init__()
        self.space, self.out_features = space, 1
        self.decisions = tuple(
            Decision(f"edge{i}", ("none", "conv", "pool"), roles=(Role.ABSENT, None, None)) for i in range(4)
        )

    def forward(self, x: Tensor, mixture: Mixture) -> Tensor:
        raise NotImplementedError

    def extract(self, architecture: Architecture) -> nn.Module:
        raise NotImplementedError

    def mixture_of(self, architecture: Architecture) -> list[Tensor]:
        edges, *operations = architecture.choices
        mixture = [torch.tensor([1.0, 0, 0]) for _ in range(4)]
        for edge, operation in zip(self.space.edges[edges], operations, strict=True):
            mixture[edge] = torch.eye(3)[operation + 1]
        return mixture

    def derive(self, mixture: Mixture) -> Architecture:
        strengths = [float(weights[1:].max()) for weights in mixture]
        kept = tuple(sorted(sorted(range(4), key=lambda e: -strengths[e])[:2]))
        operations = (int(mixture[e][1:].argmax()) for e in kept)
        return Architecture(self.space.name, (self.space.edges.index(kept), *operations))


def softmax(supernet: Supernet, seed: int) -> list[Tensor]:
    rng = np.random.default_rng(seed)
    return [torch.tensor(rng.normal(size=len(d.choices))).softmax(0) for d in supernet.decisions]


def supernet_of(space: BackboneSpace) -> Supernet:
    return space.supernet(TaskShape((1,), 1))


def every(space: BackboneSpace) -> list[Architecture]:
    return [
        Architecture(space.name, choices)
        for choices in itertools.product(*(range(len(d.choices)) for d in space.decisions))
    ]


def probability(supernet: Supernet, mixture: list[Tensor], architecture: Architecture) -> float:
    path = supernet.mixture_of(architecture)
    return math.prod(float((m * p).sum()) for m, p in zip(mixture, path, strict=True))


@pytest.mark.parametrize("seed", range(5))
def test_independent_decisions_come_in_the_exact_order(seed: int) -> None:
    space = ToyCurves()
    supernet = supernet_of(space)
    mixture = softmax(supernet, seed)
    wanted = sorted(every(space), key=lambda a: -probability(supernet, mixture, a))
    assert list(most_probable(space, supernet, mixture)) == wanted


def test_vanished_probabilities_still_come() -> None:
    space = ToyCurves(features=2)
    mixture = [torch.tensor([0.0, 1, 0, 0])] * 2
    found = list(most_probable(space, supernet_of(space), mixture))
    assert found[0].choices == (1, 1)
    assert len(set(found)) == 16


def test_isomorphs_come_once_as_the_more_probable_encoding() -> None:
    class Folded(BackboneSpace):
        name = "curves"
        decisions = ToyCurves().decisions

        def build(self, architecture: Architecture, shape: TaskShape) -> nn.Module:
            raise Infeasible("never built")

        def canonical(self, architecture: Architecture) -> str:
            return "".join(map(str, sorted(architecture.choices)))

    space, supernet = Folded(), supernet_of(ToyCurves())
    mixture = softmax(supernet, 3)
    wanted = dict[str, Architecture]()
    for architecture in sorted(every(space), key=lambda a: -probability(supernet, mixture, a)):
        wanted.setdefault(space.canonical(architecture), architecture)
    found = list(most_probable(space, supernet, mixture))
    assert found == list(wanted.values())
    assert len(found) == 20


@pytest.mark.parametrize("seed", range(20))
def test_edges_that_compete_come_in_the_exact_order_of_those_chosen(seed: int) -> None:
    space = Pairs()
    supernet = supernet_of(space)
    mixture = softmax(supernet, seed)

    def strength(architecture: Architecture) -> float:
        edges, *operations = architecture.choices
        pairs = zip(space.edges[edges], operations, strict=True)
        return math.prod(float(mixture[edge][operation + 1]) for edge, operation in pairs)

    found = list(most_probable(space, supernet, mixture))
    assert found[0] == supernet.derive(mixture)
    assert found == sorted(every(space), key=strength, reverse=True)


def test_a_rule_that_ignores_the_strongest_choice_is_not_asked_for_it_for_ever() -> None:
    """Where `none` is strongest everywhere, forbidding it changes nothing."""
    space = Pairs()
    supernet, asked = supernet_of(space), 0
    inner = supernet.derive

    def derive(mixture: Mixture) -> Architecture:
        nonlocal asked
        asked += 1
        return inner(mixture)

    supernet.__dict__["derive"] = derive
    mixture = [torch.tensor([0.9, 0.06 + 0.001 * i, 0.04 - 0.001 * i]) for i in range(4)]
    found = list(itertools.islice(most_probable(space, supernet, mixture), 8))
    assert len(set(found)) == 8
    assert asked < 60


def scorer(best: Architecture) -> Callable[[Architecture], float]:
    return lambda a: -float(sum(x != y for x, y in zip(a.choices, best.choices, strict=True)))


def test_likeliest_are_scored_in_the_order_of_probability() -> None:
    space = ToyCurves()
    supernet = supernet_of(space)
    mixture = softmax(supernet, 0)
    score = scorer(Architecture(space.name, (0, 0, 0)))
    found = likeliest(space, supernet, mixture, 4, score)
    assert [d.architecture for d in found] == list(most_probable(space, supernet, mixture))[:4]
    assert [d.score for d in found] == [score(d.architecture) for d in found]
    assert len(likeliest(space, supernet, mixture, 1000, score)) == 64


def test_best_sampled_are_distinct_and_best_first() -> None:
    space, rng = ToyCurves(), np.random.default_rng(0)
    score, asked = scorer(Architecture(space.name, (1, 2, 3))), []

    def counted(architecture: Architecture) -> float:
        asked.append(architecture)
        return score(architecture)

    found = best_sampled(space, lambda: space.sample(rng), 40, 5, counted)
    assert len({d.architecture for d in found}) == 5
    assert [d.score for d in found] == sorted((score(a) for a in asked), reverse=True)[:5]
    assert len(asked) == len(set(asked)) <= 40  # none is scored twice


def test_best_sampled_goes_on_until_there_are_enough_but_not_for_ever() -> None:
    space, rng = ToyCurves(), np.random.default_rng(0)
    zero = scorer(Architecture(space.name, (0, 0, 0)))
    assert len(best_sampled(space, lambda: space.sample(rng), 1, 6, zero)) == 6
    same = Architecture(space.name, (0, 0, 0))
    assert len(best_sampled(space, lambda: same, 1, 6, zero)) == 1


def test_a_score_that_is_no_number_ranks_last() -> None:
    space, rng = ToyCurves(features=1), np.random.default_rng(0)
    scores = {0: math.nan, 1: -5.0, 2: math.inf, 3: -math.inf}
    found = best_sampled(space, lambda: space.sample(rng), 50, 4, lambda a: scores[a.choices[0]])
    assert [d.architecture.choices[0] for d in found][:2] == [2, 1]
