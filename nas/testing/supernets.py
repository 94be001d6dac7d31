"""What every supernet promises, as a suite of tests."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.flop_counter import FlopCounterMode

from nas.backbone import BackboneSpace
from nas.errors import Infeasible
from nas.learners.folded import foldable, run, stacked
from nas.space import Architecture, TaskShape
from nas.supernet import Mixture, Supernet
from nas.testing.spaces import some

_ROWS = 4
_STEP = 1e-7
"""Of a finite difference: so small that no rectifier turns on the way."""


class FixedMixture(nn.Module):
    """A supernet under one mixture, as a backbone."""

    def __init__(self, supernet: Supernet, mixture: Mixture) -> None:
        super().__init__()
        self.supernet = supernet
        self.mixture = mixture
        self.out_features = supernet.out_features

    def forward(self, x: Tensor) -> Tensor:
        """Return the features of a batch."""
        out: Tensor = self.supernet(x, self.mixture)
        return out


class SupernetSuite(ABC):
    """Tests that the supernet of any space passes. Inherit it and say which space, and for which tasks.

    ```python
    class TestMine(SupernetSuite):
        @pytest.fixture
        def space(self):
            return Mine(channels=4)

        @pytest.fixture
        def shape(self):
            return TaskShape((1, 8, 8), 5)
    ```

    All is computed in float64. Small networks keep the tests quick.
    """

    @pytest.fixture(autouse=True)
    def _one_thread(self) -> Iterator[None]:
        """Networks as small as these gain nothing from more."""
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        yield
        torch.set_num_threads(threads)

    @abstractmethod
    def space(self) -> BackboneSpace:
        """Fixture: the space."""

    @abstractmethod
    def shape(self) -> TaskShape:
        """Fixture: what its networks must fit."""

    def test_seeded(self, space: BackboneSpace, shape: TaskShape) -> None:
        """Fresh weights follow torch's generator; a copy is another network with equal weights."""
        first, second = _supernet(space, shape), _supernet(space, shape)
        mixture, x = _softmax(first), _images(shape)
        _close(first(x, mixture), second(x, mixture))
        other = copy.deepcopy(first)
        with torch.no_grad():
            for weight in other.parameters():
                weight.mul_(2).add_(0.1)
        _close(first(x, mixture), second(x, mixture))
        assert not torch.allclose(first(x, mixture), other(x, mixture))
        assert first(x, mixture).shape == (_ROWS, first.out_features)

    def test_extract(self, space: BackboneSpace, shape: TaskShape) -> None:
        """An extracted architecture computes what its mixture does, and its weights are the supernet's."""
        supernet, x = _supernet(space, shape), _images(shape)
        shared = {id(weight) for weight in supernet.parameters()}
        for architecture in _feasible(supernet, space):
            network = supernet.extract(architecture)
            features = supernet(x, supernet.mixture_of(architecture))
            _close(network(x), features)
            assert network.out_features == supernet.out_features
            assert {id(weight) for weight in network.parameters()} <= shared
            wanted, found = (_gradients(supernet, out) for out in (features, network(x)))
            for a, b in zip(wanted, found, strict=True):
                _close(torch.zeros(()) if a is None else a.sum(), torch.zeros(()) if b is None else b.sum())

    def test_derive(self, space: BackboneSpace, shape: TaskShape) -> None:
        """What is derived from an architecture's own mixture is that architecture."""
        supernet = _supernet(space, shape)
        for architecture in some(space, 50):
            derived = space.check(supernet.derive(supernet.mixture_of(architecture)))
            assert space.canonical(derived) == space.canonical(architecture)

    def test_derive_follows_the_weights(self, space: BackboneSpace, shape: TaskShape) -> None:
        """A mixture that leans to an architecture derives it; random ones derive different ones."""
        supernet = _supernet(space, shape)
        derived = [supernet.derive(_softmax(supernet, seed, scale=4)) for seed in range(8)]
        assert len({space.canonical(space.check(architecture)) for architecture in derived}) > 1
        for architecture in derived:
            leaning = [w + 2 for w in supernet.mixture_of(architecture)]
            found = supernet.derive([w / w.sum() for w in leaning])
            assert space.canonical(found) == space.canonical(architecture)

    def test_zero_costs_nothing(self, space: BackboneSpace, shape: TaskShape) -> None:
        """An architecture's mixture touches no weights but its network's, and costs about as much.

        Statistics may be taken by products of matrices, and narrow ones along a diagonal of wider ones: up to
        three times the multiplications are granted.
        """
        supernet, x = _supernet(space, shape), _images(shape)
        for architecture in _feasible(supernet, space):
            network, mixture = supernet.extract(architecture), supernet.mixture_of(architecture)
            used = {id(weight) for weight in network.parameters()}
            expected = network(x)
            kept = {id(w): w.detach().clone() for w in supernet.parameters()}
            with torch.no_grad():
                for weight in supernet.parameters():
                    if id(weight) not in used:
                        weight.fill_(float("nan"))
            _close(supernet(x, mixture), expected)
            found = _gradients(supernet, supernet(x, mixture))
            pairs = zip(supernet.parameters(), found, strict=True)
            assert all(g is None for w, g in pairs if id(w) not in used)
            assert _flops(supernet, x, mixture) <= 3 * _flops(network, x)
            with torch.no_grad():
                for weight in supernet.parameters():
                    weight.copy_(kept[id(weight)])

    def test_zero_has_no_gradient(self, space: BackboneSpace, shape: TaskShape) -> None:
        """The gradient of a weight of zero is zero, and the others' are those of the choices left."""
        supernet, x = _supernet(space, shape), _images(shape)
        mixture = [w.requires_grad_() for w in _sparse(supernet)]
        _objective(supernet(x, mixture)).backward()  # type: ignore[no-untyped-call]
        for weights in mixture:
            if weights.grad is not None:
                assert not weights.grad[weights == 0].any()
        assert any(weights.grad is not None and weights.grad.any() for weights in mixture)

    @pytest.mark.parametrize("sparse", [False, True])
    def test_gradients(self, space: BackboneSpace, shape: TaskShape, sparse: bool) -> None:
        """Gradients of mixture and weights are those of finite differences."""
        supernet, x = _supernet(space, shape), _images(shape)
        mixture = _sparse(supernet) if sparse else _softmax(supernet)
        point = [*mixture, *(weight.detach().clone() for weight in supernet.parameters())]
        along = [d * (p != 0) for d, p in zip(_directions(point), point, strict=True)]
        for part in (slice(0, len(mixture)), slice(len(mixture), None)):
            direction = [torch.zeros_like(d) for d in along]
            direction[part] = along[part]
            exact = _slope(supernet, x, point, direction)
            moved = [
                float(_objective_at(supernet, x, _moved(point, direction, step))) for step in (_STEP, -_STEP)
            ]
            assert exact == pytest.approx((moved[0] - moved[1]) / (2 * _STEP), rel=1e-5, abs=1e-8)

    def test_second_derivatives(self, space: BackboneSpace, shape: TaskShape) -> None:
        """The Hessian times a vector, over mixture and weights, is that of finite differences."""
        supernet, x = _supernet(space, shape), _images(shape)
        point = [*_softmax(supernet), *(weight.detach().clone() for weight in supernet.parameters())]
        first, second = _directions(point, 1), _directions(point, 2)
        leaves = [p.requires_grad_() for p in point]
        value = _objective_at(supernet, x, leaves)
        gradients = torch.autograd.grad(value, leaves, create_graph=True, materialize_grads=True)
        slope = torch.stack([(g * d).sum() for g, d in zip(gradients, first, strict=True)]).sum()
        products = torch.autograd.grad(slope, leaves, materialize_grads=True)
        exact = float(sum((h * d).sum() for h, d in zip(products, second, strict=True)))
        ends = [_slope(supernet, x, _moved(point, second, step), first) for step in (_STEP, -_STEP)]
        assert exact == pytest.approx((ends[0] - ends[1]) / (2 * _STEP), rel=1e-4, abs=1e-7)

    def test_batch_statistics(self, space: BackboneSpace, shape: TaskShape) -> None:
        """Evaluation normalizes by the batch, as training does, and nothing is remembered of a batch."""
        supernet, x = _supernet(space, shape), _images(shape)
        mixture = _softmax(supernet)
        assert not list(supernet.buffers())
        trained = supernet.train()(x, mixture)
        _close(supernet.eval()(x, mixture), trained)
        assert not torch.allclose(supernet(x[: _ROWS // 2], mixture), trained[: _ROWS // 2])
        architecture = next(_feasible(supernet, space))
        _close(supernet.extract(architecture).eval()(x), supernet(x, supernet.mixture_of(architecture)))

    @pytest.mark.parametrize("sparse", [False, True])
    def test_folded(self, space: BackboneSpace, shape: TaskShape, sparse: bool) -> None:
        """Tasks that share a batch do not affect each other, with weights shared or of their own."""
        supernet = _supernet(space, shape)
        mixture = [w.requires_grad_() for w in (_sparse if sparse else _softmax)(supernet)]
        backbone = FixedMixture(supernet, mixture)
        assert foldable(backbone)
        tasks = torch.stack([_images(shape, seed) for seed in range(3)])
        alone = torch.stack([supernet(x, mixture) for x in tasks])
        together = run(backbone, tasks)
        _close(together, alone)
        for a, b in zip(
            _mixture_gradients(together, mixture), _mixture_gradients(alone, mixture), strict=True
        ):
            _close(a, b)
        shared = dict(backbone.named_parameters())
        own = {
            name: weight.detach() + 0.1 * torch.randn_like(weight)
            for name, weight in stacked(shared, len(tasks)).items()
        }
        each = [
            functional_call(backbone, {name: w[t] for name, w in own.items()}, (tasks[t],))
            for t in range(len(tasks))
        ]
        _close(run(backbone, tasks, own), torch.stack(each))

    def test_reference_rows(self, space: BackboneSpace, shape: TaskShape) -> None:
        """Queries normalized by their support are predicted alike whatever other queries there are."""
        supernet = _supernet(space, shape)
        backbone = FixedMixture(supernet, _softmax(supernet))
        tasks = torch.stack([_images(shape, seed) for seed in range(2)])
        other = torch.cat([tasks[:, :-1], _images(shape, 5)[None, :1].expand(2, -1, -1, -1, -1)], 1)
        a, b = (run(backbone, x, reference=_ROWS // 2)[:, :-1] for x in (tasks, other))
        _close(a, b)

    def test_wrong_mixtures(self, space: BackboneSpace, shape: TaskShape) -> None:
        """A mixture that is not one weight for each choice is refused."""
        supernet, x = _supernet(space, shape), _images(shape)
        mixture = _softmax(supernet)
        for wrong in (mixture[:-1], [*mixture[:-1], torch.cat([mixture[-1], mixture[-1]])]):
            with pytest.raises(ValueError, match="mixture"):
                supernet(x, wrong)

    def test_foreign(self, space: BackboneSpace, shape: TaskShape) -> None:
        """Another space's architecture is refused."""
        supernet = _supernet(space, shape)
        foreign = Architecture("elsewhere", next(some(space, 1)).choices)
        for use in (supernet.mixture_of, supernet.extract):
            with pytest.raises(Exception, match="elsewhere"):
                use(foreign)


def _feasible(supernet: Supernet, space: BackboneSpace) -> Iterator[Architecture]:
    """Yield architectures that have a network."""
    found = 0
    for architecture in some(space, 200):
        try:
            supernet.extract(architecture)
        except Infeasible:
            continue
        yield architecture
        found += 1
        if found == 4:
            return
    assert found


def _supernet(space: BackboneSpace, shape: TaskShape) -> Supernet:
    """Return a supernet in float64 whose every weight is away from its special start."""
    torch.manual_seed(0)
    supernet = space.supernet(shape).double()
    with torch.no_grad():
        for weight in supernet.parameters():
            weight.add_(0.1 * torch.randn_like(weight))
    return supernet


def _images(shape: TaskShape, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(_ROWS, *shape.input, dtype=torch.float64, generator=generator)


def _softmax(supernet: Supernet, seed: int = 0, scale: float = 1.0) -> list[Tensor]:
    rng = np.random.default_rng(seed)
    logits = (scale * rng.normal(size=len(decision.choices)) for decision in supernet.decisions)
    return [torch.from_numpy(alpha).softmax(0) for alpha in logits]


def _sparse(supernet: Supernet) -> list[Tensor]:
    """Return mixtures of two choices at most, a different share of each."""
    rng, mixture = np.random.default_rng(3), []
    for decision in supernet.decisions:
        weights = torch.zeros(len(decision.choices), dtype=torch.float64)
        kept = rng.permutation(len(weights))[:2]
        weights[kept] = torch.from_numpy(rng.uniform(0.2, 1, size=len(kept)))
        mixture.append(weights)
    return mixture


def _objective(features: Tensor) -> Tensor:
    """Return a number that all features matter to, and no symmetry of theirs cancels."""
    ramp = torch.linspace(0.5, 1.5, features.numel(), dtype=features.dtype).view_as(features)
    return (ramp * features + 0.3 * features.square()).sum()


def _objective_at(supernet: Supernet, x: Tensor, point: Sequence[Tensor]) -> Tensor:
    mixture, weights = point[: len(supernet.decisions)], point[len(supernet.decisions) :]
    names = (name for name, _ in supernet.named_parameters())
    return _objective(functional_call(supernet, dict(zip(names, weights, strict=True)), (x, mixture)))


def _slope(supernet: Supernet, x: Tensor, point: Sequence[Tensor], direction: Sequence[Tensor]) -> float:
    leaves = [p.detach().requires_grad_() for p in point]
    gradients = torch.autograd.grad(_objective_at(supernet, x, leaves), leaves, materialize_grads=True)
    return float(sum((g * d).sum() for g, d in zip(gradients, direction, strict=True)))


def _moved(point: Sequence[Tensor], direction: Sequence[Tensor], step: float) -> list[Tensor]:
    return [p.detach() + step * d for p, d in zip(point, direction, strict=True)]


def _directions(point: Sequence[Tensor], seed: int = 1) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [0.1 * torch.randn(p.shape, dtype=p.dtype, generator=generator) for p in point]


def _gradients(supernet: Supernet, features: Tensor) -> tuple[Tensor | None, ...]:
    found: tuple[Tensor | None, ...] = torch.autograd.grad(
        _objective(features), list(supernet.parameters()), allow_unused=True, retain_graph=True
    )
    return found


def _mixture_gradients(features: Tensor, mixture: Mixture) -> tuple[Tensor, ...]:
    return torch.autograd.grad(_objective(features), list(mixture), materialize_grads=True)


def _flops(network: nn.Module, *inputs: Any) -> int:
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(*inputs)
    return int(counter.get_total_flops())


def _close(a: Tensor, b: Tensor) -> None:
    torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)
