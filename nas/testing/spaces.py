"""What every search space promises, as a suite of tests."""

from __future__ import annotations

import math
import os
import pickle
import subprocess
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from itertools import islice, product

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.func import functional_call, replace_all_batch_norm_modules_
from torch.utils.flop_counter import FlopCounterMode

from nas.backbone import BackboneSpace
from nas.errors import ConfigError, Infeasible
from nas.space import Architecture, TaskShape

_KEYS = """
import pickle, sys
space, architectures = pickle.load(sys.stdin.buffer)
print(*map(space.canonical, architectures), sep="\\n")
"""
"""A program that prints the canonical keys of what it reads."""

_SPREAD = 8
"""How many times larger than another a feature of a fresh network may be."""

_quick = settings(
    max_examples=50,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.differing_executors],
)


def architectures(space: BackboneSpace) -> st.SearchStrategy[Architecture]:
    """Return the strategy that draws architectures of a space."""
    choices = (st.integers(0, len(decision.choices) - 1) for decision in space.decisions)
    return st.builds(Architecture, st.just(space.name), st.tuples(*choices))


def some(space: BackboneSpace, count: int) -> Iterator[Architecture]:
    """Yield the whole space if it is no larger than `count`, else `count` samples, always the same."""
    if space.size <= count:
        for choices in product(*(range(len(decision.choices)) for decision in space.decisions)):
            yield Architecture(space.name, choices)
    else:
        rng = np.random.default_rng(0)
        for _ in range(count):
            yield space.sample(rng)


class SpaceSuite(ABC):
    """Tests that any search space passes. Inherit it and say which space, and for which tasks.

    ```python
    class TestMine(SpaceSuite):
        @pytest.fixture
        def space(self):
            return Mine()

        @pytest.fixture
        def shape(self):
            return TaskShape((1, 28, 28), 5)
    ```

    The canonical keys are best tested on settings so small that many encodings are isomorphic.
    """

    @abstractmethod
    def space(self) -> BackboneSpace:
        """Fixture: the space."""

    @abstractmethod
    def shape(self) -> TaskShape:
        """Fixture: what its networks must fit; a small one keeps the tests quick."""

    def test_decisions(self, space: BackboneSpace) -> None:
        """Names are distinct, and so are a decision's choices; anchors are decisions made before."""
        names = [decision.name for decision in space.decisions]
        assert len(set(names)) == len(names) > 0
        for i, decision in enumerate(space.decisions):
            assert isinstance(decision.choices, tuple)
            assert len(set(decision.choices)) == len(decision.choices) > 0
            assert len(decision.anchors) in (0, len(decision.choices))
            assert all(0 <= anchor < i for anchors in decision.anchors for anchor in anchors)
        assert space.size == math.prod(len(decision.choices) for decision in space.decisions)

    def test_sample(self, space: BackboneSpace) -> None:
        """Samples belong to the space, follow their seed and reach every choice."""
        count = 20 * max(len(decision.choices) for decision in space.decisions)
        first, second = (np.random.default_rng(1), np.random.default_rng(1))
        drawn = [space.check(space.sample(first)) for _ in range(count)]
        assert drawn == [space.sample(second) for _ in range(count)]
        for i, decision in enumerate(space.decisions):
            assert {a.choices[i] for a in drawn} == set(range(len(decision.choices)))

    @_quick
    @given(data=st.data())
    def test_text(self, space: BackboneSpace, data: st.DataObject) -> None:
        """Decoding a text form gives the architecture back; distinct ones have distinct texts."""
        a, b = data.draw(architectures(space)), data.draw(architectures(space))
        assert space.decode(space.encode(a)) == a
        assert (space.encode(a) == space.encode(b)) == (a == b)

    @_quick
    @given(data=st.data())
    def test_garbage(self, space: BackboneSpace, data: st.DataObject) -> None:
        """A text is an architecture of the space or a `ConfigError`."""
        text = space.encode(data.draw(architectures(space)))
        start, end = sorted((data.draw(st.integers(0, len(text))), data.draw(st.integers(0, len(text)))))
        for garbage in (text[:start] + data.draw(st.text(max_size=3)) + text[end:], data.draw(st.text())):
            try:
                read = space.decode(garbage)
            except ConfigError:
                continue
            assert space.decode(space.encode(read)) == read

    def test_refuses(self, space: BackboneSpace) -> None:
        """What is no text form is a `ConfigError`."""
        for text in ("", "no architecture", "\n", "9" * 5000):
            with pytest.raises(ConfigError):
                space.decode(text)

    def test_foreign(self, space: BackboneSpace, shape: TaskShape) -> None:
        """An architecture of another space, or with choices that do not exist, is a `ConfigError`."""
        choices = (0,) * len(space.decisions)
        beyond = (*choices[:-1], len(space.decisions[-1].choices))
        for wrong in (
            Architecture(f"{space.name}?", choices),
            Architecture(space.name, choices[:-1]),
            Architecture(space.name, beyond),
        ):
            for use in (space.encode, space.canonical, lambda a: space.build(a, shape)):
                with pytest.raises(ConfigError):
                    use(wrong)

    def test_named(self, space: BackboneSpace) -> None:
        """Names decode to their architectures; a misspelt name is a `ConfigError`."""
        for name, architecture in space.named.items():
            assert space.decode(name) == space.check(architecture)
            with pytest.raises(ConfigError, match=name):
                space.decode(f"{name}x")

    @_quick
    @given(data=st.data(), seed=st.integers(0, 2**32 - 1))
    def test_mutate(self, space: BackboneSpace, data: st.DataObject, seed: int) -> None:
        """A mutant differs in exactly one decision."""
        parent = data.draw(architectures(space))
        mutant = space.check(space.mutate(parent, np.random.default_rng(seed)))
        assert mutant == space.mutate(parent, np.random.default_rng(seed))
        assert _distance(parent, mutant) == min(1, space.size - 1)

    @_quick
    @given(data=st.data(), seed=st.integers(0, 2**32 - 1))
    def test_crossover(self, space: BackboneSpace, data: st.DataObject, seed: int) -> None:
        """A child has each choice from one of its parents."""
        a, b = data.draw(architectures(space)), data.draw(architectures(space))
        child = space.check(space.crossover(a, b, np.random.default_rng(seed)))
        for mine, *parents in zip(child.choices, a.choices, b.choices, strict=True):
            assert mine in parents

    @_quick
    @given(data=st.data())
    def test_neighbours(self, space: BackboneSpace, data: st.DataObject) -> None:
        """They are all that differ in exactly one decision, each once."""
        centre = data.draw(architectures(space))
        around = [space.check(neighbour) for neighbour in space.neighbours(centre)]
        assert len(set(around)) == len(around) == sum(len(d.choices) - 1 for d in space.decisions)
        assert all(_distance(centre, neighbour) == 1 for neighbour in around)

    @_quick
    @given(data=st.data())
    def test_one_hot(self, space: BackboneSpace, data: st.DataObject) -> None:
        """One entry a decision is 1, and they give the architecture back."""
        architecture = data.draw(architectures(space))
        vector = space.one_hot(architecture)
        assert vector.shape == (sum(len(decision.choices) for decision in space.decisions),)
        assert sorted(set(vector)) in ([0, 1], [1])
        assert vector.sum() == len(space.decisions)
        assert space.from_one_hot(vector) == architecture

    def test_canonical_elsewhere(self, space: BackboneSpace) -> None:
        """Keys are the same in another process, which receives the space pickled, as workers do."""
        sample = list(some(space, 100))
        keys = [space.canonical(architecture) for architecture in sample]
        assert all(key and "\n" not in key for key in keys)
        there = subprocess.run(
            [sys.executable, "-c", _KEYS],
            input=pickle.dumps((space, sample)),
            capture_output=True,
            check=True,
            env={**os.environ, "PYTHONHASHSEED": "1", "PYTHONPATH": os.pathsep.join(sys.path)},
        )
        assert there.stdout.decode().splitlines() == keys

    def test_equal_keys_equal_networks(self, space: BackboneSpace, shape: TaskShape) -> None:
        """Under one seed, networks with equal keys cost and compute the same, or none is feasible."""
        groups: dict[str, list[Architecture]] = {}
        for centre in some(space, 100):
            for architecture in (centre, *islice(space.neighbours(centre), 30)):
                group = groups.setdefault(space.canonical(architecture), [])
                if architecture not in group:
                    group.append(architecture)
        for group in islice((g for g in groups.values() if len(g) > 1), 12):
            seen = {_signature(space, architecture, shape) for architecture in group[:4]}
            assert len(seen) == 1, f"{[space.encode(a) for a in group]} have one key but differ"

    def test_build(self, space: BackboneSpace, shape: TaskShape) -> None:
        """A network maps a batch to features; its first and second derivatives are finite.

        Batch norm takes its statistics from the batch, as learners have it.
        """
        for network in _networks(space, shape, 6):
            replace_all_batch_norm_modules_(network)
            x = torch.randn(4, *shape.input)
            weights: dict[str, Tensor] = dict(network.named_parameters())
            y = functional_call(network, weights, (x,))
            assert y.shape == (4, network.out_features)
            assert y.isfinite().all()
            if not weights:
                continue
            first = _derivatives((y**2).mean(), weights.values())
            assert first
            assert all(g.isfinite().all() for g in first)
            squares = torch.stack([(g**2).sum() for g in first]).sum()
            assert all(g.isfinite().all() for g in _derivatives(squares, weights.values()))

    def test_features_are_of_one_scale(self, space: BackboneSpace, shape: TaskShape) -> None:
        """No feature of a fresh network is so much smaller than others that a head hardly sees it.

        The scale of a feature is its standard deviation over random inputs, the largest under a few seeds.
        Features that are constant, such as those of a branch that was left out, are passed over.
        """
        torch.manual_seed(1)
        x = torch.randn(64, *shape.input) + torch.randn(64, *[1] * len(shape.input))
        for architecture in _feasible(space, shape, 8):
            scales = []
            for seed in range(3):
                torch.manual_seed(seed)
                network = space.build(architecture, shape)
                replace_all_batch_norm_modules_(network)
                with torch.no_grad():
                    scales.append(network(x).std(0))
            scale = torch.stack(scales).amax(0)
            alive = scale[scale > 0]
            assert len(alive), f"{space.encode(architecture)} has constant features only"
            assert alive.max() <= _SPREAD * alive.min(), space.encode(architecture)

    def test_build_is_seeded(self, space: BackboneSpace, shape: TaskShape) -> None:
        """Weights are drawn from torch's default generator."""
        for architecture in _feasible(space, shape, 3):
            one, same, other = (_weights(space, architecture, shape, seed) for seed in (0, 0, 1))
            assert torch.equal(one, same)
            assert not one.numel() or not torch.equal(one, other)

    def test_cost(self, space: BackboneSpace, shape: TaskShape) -> None:
        """It is that of the network, as torch's own counter sees it run."""
        for architecture in _feasible(space, shape, 6):
            network = space.build(architecture, shape).eval().to("meta")
            with FlopCounterMode(display=False) as counter, torch.no_grad():
                network(torch.zeros(2, *shape.input, device="meta"))
            cost = space.cost(architecture, shape)
            assert cost.parameters == sum(p.numel() for p in network.parameters())
            assert 4 * cost.macs == counter.get_total_flops()

    @pytest.mark.parametrize("example", [(1,), (6,), (1, 1, 1), (3, 7, 10)])
    def test_any_shape(self, space: BackboneSpace, example: tuple[int, ...]) -> None:
        """A network fits the tasks, or is infeasible: each is where the space refuses the tasks."""
        shape = TaskShape(example, 3)
        try:
            space.check_shape(shape)
            refused = False
        except Infeasible:
            refused = True
        for architecture in some(space, 5):
            try:
                network = space.build(architecture, shape).eval()
            except Infeasible:
                continue
            assert not refused
            assert network(torch.zeros(2, *example)).shape == (2, network.out_features)


def _distance(a: Architecture, b: Architecture) -> int:
    return sum(x != y for x, y in zip(a.choices, b.choices, strict=True))


def _feasible(space: BackboneSpace, shape: TaskShape, count: int) -> list[Architecture]:
    """Return up to `count` architectures that have a network, at least one."""

    def feasible(architecture: Architecture) -> bool:
        try:
            space.cost(architecture, shape)
        except Infeasible:
            return False
        return True

    found = list(islice(filter(feasible, some(space, 200)), count))
    assert found, f"no architecture of '{space.name}' fits {shape}"
    return found


def _networks(space: BackboneSpace, shape: TaskShape, count: int) -> Iterator[nn.Module]:
    for architecture in _feasible(space, shape, count):
        torch.manual_seed(0)
        yield space.build(architecture, shape)


def _weights(space: BackboneSpace, architecture: Architecture, shape: TaskShape, seed: int) -> Tensor:
    torch.manual_seed(seed)
    network = space.build(architecture, shape)
    return torch.cat([torch.empty(0), *(p.detach().flatten() for p in network.parameters())])


def _derivatives(loss: Tensor, weights: Iterable[Tensor]) -> list[Tensor]:
    """Return the derivatives that exist: a weight need not take part, as a dead branch's."""
    found = torch.autograd.grad(loss, list(weights), create_graph=True, allow_unused=True)
    return [g for g in found if g is not None]


def _signature(space: BackboneSpace, architecture: Architecture, shape: TaskShape) -> object:
    """Return what equal networks have in common, under one seed; None if infeasible."""
    try:
        cost = space.cost(architecture, shape)
    except Infeasible:
        return None
    torch.manual_seed(0)
    network = space.build(architecture, shape)
    with torch.no_grad():
        features = network(torch.linspace(0, 1, 2 * math.prod(shape.input)).view(2, *shape.input))
    return cost, network.out_features, tuple(features.flatten().tolist())
