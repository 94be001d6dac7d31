"""The meta-training loop against plain arithmetic, and against itself without an interruption."""

from __future__ import annotations

import io
from collections.abc import Callable

import pytest
import torch
from facts import refusal
from torch import Tensor, nn

from nas.backbone import BackboneSpace
from nas.errors import Diverged
from nas.learners.base import Learner
from nas.learners.maml import Maml
from nas.learners.prototypical import Prototypical
from nas.learners.schedule import decay
from nas.precision import choose
from nas.space import Architecture, TaskShape
from nas.tasks.base import Episode, TaskSource
from nas.tasks.glyphs import Glyphs
from nas.tasks.sinusoid import Sinusoid
from nas.testing.toys import Toy
from nas.training.loop import Training, start


class Counted(Learner):
    """Its gradient is 1 at every step, so that its weight tells the sum of the learning rates."""

    name = "counted"
    regression = True

    def __init__(self, backbone: nn.Module, shape: TaskShape) -> None:
        super().__init__(backbone, shape)
        self.weight = nn.Parameter(torch.zeros((), dtype=torch.float64))
        self.tasks: list[int] = []

    def forward(self, episode: Episode) -> Tensor:
        return torch.zeros_like(episode.query_y) + self.weight

    def optimizer(self) -> torch.optim.Optimizer:
        return torch.optim.SGD([self.weight], lr=0.5)

    def meta_backward(self, episode: Episode) -> float:
        self.tasks.append(len(episode))
        self.weight.grad = torch.ones_like(self.weight)
        return float(self.weight.detach())


class Noisy(BackboneSpace):
    """A network that draws from torch's generator in training, and keeps running statistics."""

    name = "noisy"
    decisions = ()

    def build(self, architecture: Architecture, shape: TaskShape) -> nn.Module:
        features = torch.Size(shape.input).numel()
        layers = (nn.Flatten(), nn.Linear(features, 8), nn.BatchNorm1d(8), nn.Dropout(0.5))
        backbone = nn.Sequential(*layers)
        backbone.out_features = 8  # type: ignore[assignment]
        return backbone

    def canonical(self, architecture: Architecture) -> str:
        return ""


class Running(Learner):
    """Classifies by a linear layer over a backbone that is left as it is: dropout, running statistics."""

    name = "running"

    def __init__(self, backbone: nn.Module, shape: TaskShape) -> None:
        super().__init__(backbone, shape)
        self.backbone, self.head = backbone, nn.Linear(8, shape.outputs)
        self.meta_batch = 2

    def forward(self, episode: Episode) -> Tensor:
        flat = self.head(self.backbone(episode.query_x.flatten(0, 1)))
        return flat.unflatten(0, episode.query_x.shape[:2])  # type: ignore[no-any-return]

    def optimizer(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=1e-2)


pytestmark = pytest.mark.usefixtures("one_thread")


def counted(budget: int, meta_batch: int, decay: Callable[[float], float]) -> tuple[Training, Counted]:
    learner = Counted(nn.Identity(), TaskShape((1,), 1))
    learner.meta_batch, learner.decay = meta_batch, decay
    arithmetic = choose("float32", images=False, sensitive=False)
    return Training(learner, Sinusoid(), budget, 0, arithmetic), learner


@pytest.fixture(scope="module")
def glyphs() -> Glyphs:
    return Glyphs(ways=2, queries=2)


def begin(tasks: TaskSource, make: type[Learner], space: BackboneSpace, seed: int = 3) -> Training:
    choices = tuple(0 for _ in space.decisions)
    return start(space, Architecture(space.name, choices), tasks, make, "float32", 12, seed)


def test_the_learning_rate_follows_the_decay() -> None:
    training, learner = counted(8, 3, lambda progress: 1 - progress)
    list(training.until(8))
    assert learner.tasks == [3, 3, 2]
    assert learner.weight.item() == pytest.approx(-0.5 * (1 + (1 - 3 / 8) + (1 - 6 / 8)))


def test_a_constant_rate_does_not_decay() -> None:
    training, learner = counted(4, 1, decay("constant"))
    list(training.until(4))
    assert learner.weight.item() == -2


def test_a_mark_may_be_passed_but_the_budget_is_not() -> None:
    training, _ = counted(8, 3, lambda progress: 1.0)
    assert len(list(training.until(4))) == 2
    assert training.done == 6
    assert list(training.until(5)) == []
    assert len(list(training.until(100))) == 1
    assert training.done == 8


def test_a_loss_that_is_no_number_ends_it() -> None:
    training, learner = counted(8, 1, lambda progress: 1.0)
    list(training.until(2))
    learner.weight.data.fill_(float("nan"))
    with refusal(Diverged, "nan", 3):
        list(training.until(8))


@pytest.mark.parametrize("done", [0, 1, 5, 11])
@pytest.mark.parametrize("make", [Prototypical, Maml, Running])
def test_it_goes_on_bit_for_bit(glyphs: Glyphs, make: type[Learner], done: int) -> None:
    """From a state that went through a file, in whatever state torch's generator is by then."""
    space = Toy() if make is Maml else Noisy()
    whole = begin(glyphs, make, space)
    expected = list(whole.until(12))

    before = begin(glyphs, make, space)
    seen = list(before.until(done))
    file = io.BytesIO()
    torch.save(before.state(), file)
    file.seek(0)
    after = begin(glyphs, make, space, seed=99)
    after.restore(torch.load(file, weights_only=True))
    assert after.done == before.done
    assert seen + list(after.until(12)) == expected
    ended = after.learner.state_dict()
    assert ended.keys() == whole.learner.state_dict().keys()
    assert all(torch.equal(ended[name], value) for name, value in whole.learner.state_dict().items())


def test_a_state_is_not_changed_by_what_follows(glyphs: Glyphs) -> None:
    training = begin(glyphs, Running, Noisy())
    list(training.until(4))
    state = training.state()
    weights = {name: value.clone() for name, value in state["learner"].items()}
    moments = [entry["exp_avg"].clone() for entry in state["optimizer"]["state"].values()]
    list(training.until(12))
    assert all(torch.equal(state["learner"][name], value) for name, value in weights.items())
    kept = [entry["exp_avg"] for entry in state["optimizer"]["state"].values()]
    assert all(torch.equal(a, b) for a, b in zip(kept, moments, strict=True))
    assert state["done"] == 4
