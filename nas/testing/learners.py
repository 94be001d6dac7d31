"""What every learner must do."""

from __future__ import annotations

import pickle
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from nas.errors import ConfigError, Infeasible
from nas.learners import base
from nas.learners.base import Learner
from nas.space import TaskShape
from nas.tasks.base import Episode

Make = Callable[[nn.Module, TaskShape], Learner]


class ToyBackbone(nn.Sequential):
    """Layers that end in `out_features` features."""

    def __init__(self, out_features: int, *layers: nn.Module) -> None:
        super().__init__(*layers)
        self.out_features = out_features


class Constant(nn.Module):
    """An architecture whose every path is cut: zeros, whatever its weight and input."""

    def __init__(self, out_features: int) -> None:
        super().__init__()
        self.out_features = out_features
        self.weight = nn.Parameter(torch.ones(3))

    def forward(self, x: Tensor) -> Tensor:
        """Return `[batch, out_features]`."""
        return x.new_zeros(len(x), self.out_features)


def convolutional() -> ToyBackbone:
    """Return a small network with batch norm over 8×8 images."""
    return ToyBackbone(
        6,
        *(nn.Conv2d(1, 4, 3, stride=2, padding=1), nn.BatchNorm2d(4), nn.ReLU()),
        *(nn.Conv2d(4, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten()),
    )


def perceptron() -> ToyBackbone:
    """Return a small network over 2 features."""
    return ToyBackbone(8, nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU())


def image_classes(tasks: int = 2, ways: int = 3, shots: int = 2, queries: int = 2, seed: int = 0) -> Episode:
    """Draw tasks whose classes, no two the same, are random 8×8 patterns, seen through noise."""
    rng = np.random.default_rng(seed)
    patterns = rng.normal(size=(tasks, ways, 1, 1, 8, 8))

    def draw(number: int) -> tuple[Tensor, Tensor]:
        x = patterns + 0.5 * rng.normal(size=(tasks, ways, number, 1, 8, 8))
        labels = np.tile(np.repeat(np.arange(ways), number), (tasks, 1))
        return torch.from_numpy(x.reshape(tasks, -1, 1, 8, 8)).float(), torch.from_numpy(labels)

    classes = np.arange(tasks * ways, dtype=np.int64).reshape(tasks, ways)
    return Episode(*draw(shots), *draw(queries), ways, shots, classes)


def planes(tasks: int = 2, shots: int = 6, queries: int = 5, seed: int = 0) -> Episode:
    """Draw regression tasks: planes through the origin, on 2 features."""
    rng = np.random.default_rng(seed)
    x = rng.uniform(-1, 1, size=(tasks, shots + queries, 2))
    y = x @ rng.normal(size=(tasks, 2, 1))
    inputs, targets = torch.from_numpy(x).float(), torch.from_numpy(y).float()
    support, query = slice(None, shots), slice(shots, None)
    return Episode(
        *(inputs[:, support], targets[:, support], inputs[:, query], targets[:, query]),
        *(0, shots, np.zeros((tasks, 0), np.int64)),
    )


@dataclass(frozen=True)
class Case:
    """Tasks, and a network for them."""

    draw: Callable[..., Episode]
    backbone: Callable[[], ToyBackbone]
    shape: TaskShape

    def learner(self, make: Make, seed: int = 0, dtype: torch.dtype = torch.float32) -> Learner:
        """Make the learner with seeded weights, in evaluation mode."""
        torch.manual_seed(seed)
        learner = make(self.backbone(), self.shape).to(dtype).eval()
        if self.draw().regression and not learner.regression:
            pytest.skip(f"{learner.name} only classifies")
        return learner

    def episode(self, dtype: torch.dtype = torch.float32, **how: int) -> Episode:
        """Draw tasks."""
        return cast(self.draw(**how), dtype)


CASES = {
    "classification": Case(image_classes, convolutional, TaskShape((1, 8, 8), 3)),
    "regression": Case(planes, perceptron, TaskShape((2,), 1)),
}


def cast(episode: Episode, dtype: torch.dtype) -> Episode:
    """Return the episode in another precision; labels stay integers."""
    real = {"support_x": episode.support_x, "query_x": episode.query_x}
    if episode.regression:
        real |= {"support_y": episode.support_y, "query_y": episode.query_y}
    return replace(episode, **{name: tensor.to(dtype) for name, tensor in real.items()})  # type: ignore[arg-type]


def gradients(learner: Learner) -> dict[str, Tensor]:
    """Return the gradients that there are, by name."""
    return {name: p.grad.clone() for name, p in learner.named_parameters() if p.grad is not None}


def train(learner: Learner, episode: Episode, steps: int) -> list[float]:
    """Take meta-steps on one batch of tasks; return the loss before each."""
    optimizer = learner.train().optimizer()
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        losses.append(learner.meta_backward(episode))
        optimizer.step()
    return losses


class LearnerSuite(ABC):
    """Inherit it, and give the fixture `make`: from a backbone and a shape to the learner.

    class TestMine(LearnerSuite):
        @pytest.fixture
        def make(self):
            return Mine

    In evaluation mode a learner is deterministic. One that regresses is tested on both kinds of tasks. What
    it trains on is `meta_loss`, which need not be the loss of what it predicts. The tasks drawn here have at
    most 9 classes among them, for a learner that must know the number.
    """

    @abstractmethod
    def make(self) -> Make:
        """Return the learner's class or a partial of it; a pytest fixture."""

    @pytest.fixture(params=CASES)
    def case(self, request: pytest.FixtureRequest) -> Case:
        """Return tasks and a network."""
        return CASES[request.param]

    def test_predicts_every_query(self, make: Make, case: Case) -> None:
        """Predictions are `[T, Q, outputs]`, float32 and finite, in training as in evaluation."""
        learner, episode = case.learner(make), case.episode(tasks=3)
        for mode in (True, False):
            predictions = learner.train(mode)(episode)
            assert predictions.shape == (3, episode.query_x.shape[1], case.shape.outputs)
            assert predictions.dtype == torch.float32
            assert predictions.isfinite().all()

    def test_reads_support_labels_but_no_query_labels(self, make: Make, case: Case) -> None:
        """Predictions follow the labels of the support, and cannot know those of the queries."""
        learner, episode = case.learner(make), case.episode()
        predictions = learner(episode)
        assert_close(learner(replace(episode, query_y=episode.query_y.flip(1))), predictions)
        relabelled = learner(replace(episode, support_y=episode.support_y.flip(1)))
        assert not torch.allclose(relabelled, predictions, rtol=1e-3, atol=1e-3)

    def test_tasks_are_independent(self, make: Make, case: Case) -> None:
        """A task is predicted alike alone and in a batch."""
        learner, episode = case.learner(make, dtype=torch.float64), case.episode(torch.float64, tasks=3)
        alone = [learner(task) for task in episode]
        assert_close(learner(episode), torch.cat(alone))

    def test_queries_are_exchangeable(self, make: Make, case: Case) -> None:
        """Reordering the queries reorders the predictions."""
        learner, episode = case.learner(make, dtype=torch.float64), case.episode(torch.float64)
        order = torch.randperm(episode.query_x.shape[1], generator=torch.Generator().manual_seed(1))
        permuted = replace(episode, query_x=episode.query_x[:, order], query_y=episode.query_y[:, order])
        assert_close(learner(permuted), learner(episode)[:, order])

    def test_predicts_without_recording_gradients(self, make: Make, case: Case) -> None:
        """Under `torch.no_grad` predictions are the same, and φ stays as it was."""
        learner, episode = case.learner(make, dtype=torch.float64), case.episode(torch.float64)
        before = {name: tensor.clone() for name, tensor in learner.state_dict().items()}
        with torch.no_grad():
            predictions = learner(episode)
        assert not predictions.requires_grad
        assert_close(predictions, learner(episode).detach())
        assert_close(learner.state_dict(), before, rtol=0, atol=0)
        assert not gradients(learner)

    def test_meta_backward_returns_the_mean_loss(self, make: Make, case: Case) -> None:
        """`meta_backward` returns the mean of `meta_loss` over tasks."""
        learner, episode = case.learner(make, dtype=torch.float64), case.episode(torch.float64, tasks=3)
        loss = learner.meta_loss(episode).item()  # first: `meta_backward` may move a state of its own
        assert learner.meta_backward(episode) == pytest.approx(loss)

    @pytest.mark.parametrize("at_once", [1, 2, 3])
    def test_meta_backward_adds_the_gradient_of_the_mean_loss(
        self, make: Make, case: Case, at_once: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """`meta_backward` adds to `.grad` what the batched `meta_loss` would, however many tasks it holds."""
        learner, episode = case.learner(make, dtype=torch.float64), case.episode(torch.float64, tasks=3)
        if not learner.gradient:
            pytest.skip("its update is no gradient of its loss")
        monkeypatch.setattr(base, "HELD", at_once * learner.size(episode))
        learner.meta_loss(episode).backward()  # type: ignore[no-untyped-call]
        once = gradients(learner)
        learner.meta_backward(episode)
        assert_close(gradients(learner), {name: 2 * gradient for name, gradient in once.items()})

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_gradients_are_finite(self, make: Make, case: Case, dtype: torch.dtype) -> None:
        """Gradients are finite, in the precision of φ, and not all zero."""
        learner = case.learner(make, dtype=dtype).train()
        learner.meta_backward(case.episode(dtype))
        found = gradients(learner)
        assert all(gradient.dtype == dtype and gradient.isfinite().all() for gradient in found.values())
        assert any(gradient.any() for gradient in found.values())

    def test_training_lowers_the_loss(self, make: Make, case: Case) -> None:
        """Some meta-steps on one batch, at the default learning rate, lower its loss."""
        losses = train(case.learner(make), case.episode(), steps=40)
        assert losses[-1] < 0.95 * losses[0]

    def test_training_is_repeatable(self, make: Make, case: Case) -> None:
        """Equal seeds train to equal bits, other seeds to others."""
        first, second, other = (case.learner(make, seed) for seed in (1, 1, 2))
        for learner in (first, second, other):
            torch.manual_seed(0)
            train(learner, case.episode(), steps=3)
        assert_close(first.state_dict(), second.state_dict(), rtol=0, atol=0)
        assert not torch.equal(first(case.episode()), other(case.episode()))

    def test_saves_and_loads(self, make: Make, case: Case) -> None:
        """Pickle and `state_dict` keep what was learned."""
        learner, episode = case.learner(make), case.episode()
        train(learner, episode, steps=2)
        predictions = learner.eval()(episode)
        assert_close(pickle.loads(pickle.dumps(learner))(episode), predictions, rtol=0, atol=0)
        fresh = case.learner(make, seed=1)
        fresh.load_state_dict(learner.state_dict())
        assert_close(fresh(episode), predictions, rtol=0, atol=0)

    def test_works_in_low_precision(self, make: Make) -> None:
        """Under bfloat16 autocast and channels_last, logits are float32 and near the exact ones."""
        case = CASES["classification"]
        learner = case.learner(make).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        exact = learner(case.episode())
        with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
            predictions = learner(case.episode())
        with torch.autocast("cpu", torch.bfloat16):
            learner.train().meta_backward(case.episode())
        assert predictions.dtype == torch.float32
        assert_close(predictions, exact, rtol=0.1, atol=0.1)
        assert all(gradient.isfinite().all() for gradient in gradients(learner).values())
        assert any(gradient.any() for gradient in gradients(learner).values())

    @pytest.mark.parametrize(
        "backbone",
        [lambda: Constant(6), lambda: ToyBackbone(64, nn.Flatten())],
        ids=["constant", "weightless"],
    )
    def test_trains_any_architecture(self, make: Make, backbone: Callable[[], nn.Module]) -> None:
        """An architecture whose output is constant, or that has no weights, does no harm."""
        case = CASES["classification"]
        learner = make(backbone(), case.shape)
        losses = train(learner, case.episode(), steps=2)
        assert np.isfinite(losses).all()
        with torch.no_grad():
            assert learner.eval()(case.episode()).isfinite().all()

    def test_knows_what_it_can_learn(self, make: Make) -> None:
        """`check` refuses regression with a ConfigError unless the learner regresses."""
        learner = CASES["classification"].learner(make)
        learner.check(image_classes())
        if learner.regression:
            learner.check(planes(), planes(shots=9))
        else:
            with pytest.raises(ConfigError, match="learner"):
                learner.check(planes())

    def test_knows_what_it_can_train_on(self, make: Make) -> None:
        """Training tasks may have other shots; and other ways, unless its network is made for so many."""
        learner = CASES["classification"].learner(make)
        learner.check(image_classes(), image_classes(shots=5, queries=4))
        if learner.fixed_ways:
            with pytest.raises(ConfigError, match=r"^tasks\.train_ways: .* 3 classes .* of 5"):
                learner.check(image_classes(), image_classes(ways=5))
        else:
            learner.check(image_classes(), image_classes(ways=5))
            losses = train(learner, image_classes(tasks=1, ways=5), steps=2)
            assert np.isfinite(losses).all()

    def test_refuses_a_backbone_without_features(self, make: Make) -> None:
        """An architecture with nothing left to learn from is infeasible."""
        with pytest.raises(Infeasible, match="0 features"):
            make(Constant(0), TaskShape((1, 8, 8), 3))
