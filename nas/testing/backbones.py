"""What every space of networks promises, as a suite of tests."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterable, Iterator
from itertools import islice

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, replace_all_batch_norm_modules_
from torch.utils.flop_counter import FlopCounterMode

from nas.backbone import BackboneSpace, count
from nas.errors import Infeasible
from nas.space import Architecture, TaskShape
from nas.testing.spaces import SpaceSuite, some


class BackboneSuite(SpaceSuite):
    """Tests that any space of networks passes. Inherit it and say which space, and for which tasks.

    ```python
    class TestMine(BackboneSuite):
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

    @pytest.fixture
    def spread(self) -> float:
        """Fixture: how many times larger than another a feature of a fresh network may be."""
        return 8.0

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

    def test_features_are_of_one_scale(self, space: BackboneSpace, shape: TaskShape, spread: float) -> None:
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
            assert alive.max() <= spread * alive.min(), space.encode(architecture)

    def test_build_is_seeded(self, space: BackboneSpace, shape: TaskShape) -> None:
        """Weights are drawn from torch's default generator."""
        for architecture in _feasible(space, shape, 3):
            one, same, other = (_weights(space, architecture, shape, seed) for seed in (0, 0, 1))
            assert torch.equal(one, same)
            assert not one.numel() or not torch.equal(one, other)

    def test_cost(self, space: BackboneSpace, shape: TaskShape) -> None:
        """It is that of the network as built, not put together from known parts; torch's counter agrees."""
        for architecture in _feasible(space, shape, 6):
            network = space.build(architecture, shape).eval().to("meta")
            with FlopCounterMode(display=False) as counter, torch.no_grad():
                network(torch.zeros(2, *shape.input, device="meta"))
            cost = space.cost(architecture, shape)
            assert cost.parameters == sum(p.numel() for p in network.parameters())
            assert 4 * cost.macs == counter.get_total_flops()
            assert cost == count(network, shape)
            assert cost.activations >= 4 * math.prod(shape.input)  # the input, in float32

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
    # Scales and shifts are not drawn.
    drawn = (weight for weight in network.parameters() if weight.dim() > 1)
    return torch.cat([torch.empty(0), *(weight.detach().flatten() for weight in drawn)])


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
