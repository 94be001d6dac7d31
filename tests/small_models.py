"""Trained models that no training made, to write to files: small networks with random weights."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Annotated, Any, ClassVar, Literal, final

import numpy as np
import torch
from torch import Tensor, nn

import nas
from nas.backbone import BackboneSpace
from nas.export import Description, Model, Scored
from nas.learners.base import Learner
from nas.settings.sections import maker
from nas.space import Architecture, Decision, TaskShape
from nas.tasks.base import Episode, TaskSource
from nas.testing.learners import Constant

IMAGE, VECTOR = TaskShape((1, 8, 8), 5), TaskShape((2,), 1)

CONV: dict[str, Any] = {"name": "chain", "layers": 2, "channels": [4, 6]}
CONV_TEXT = "3x3/2:4,3x3/1:6@1"


def described(shape: TaskShape = IMAGE, **changes: Any) -> Description:
    """Return a description of a learner for tasks of a shape; name what matters, the rest is filled in."""
    scored = Scored(score=0.75, ci95=0.02, episodes=100)
    given = {
        "space": CONV,
        "architecture": CONV_TEXT,
        "key": CONV_TEXT,
        "input": shape.input,
        "outputs": shape.outputs,
        "train_classes": shape.train_classes,
        "learner": {"name": "prototypical"},
        "normalization": "transductive",
        "precision": "float32",
        "tasks": {"name": "glyphs"},
        "task": "glyphs 5-way 1-shot",
        "seed": 3,
        "train_episodes": 200,
        "parameters": 10,
        "macs": 20,
        "validation": scored,
        "test": scored,
        "split": "glyphs/test",
        "classes": "0" * 16,
        "versions": {"nas": nas.__version__},
    }
    return Description.model_validate(given | changes)


def trained(description: Description) -> tuple[Model, Learner]:
    """Return a learner with random weights, batch norm's too, and the model of it."""
    rng = torch.Generator().manual_seed(1)
    space: BackboneSpace = maker("space", description.space)()
    backbone = space.build(space.decode(description.architecture), description.shape)
    learner: Learner = maker("learner", description.learner)(backbone, description.shape)
    with torch.no_grad():
        for tensor in learner.state_dict().values():
            if tensor.is_floating_point():
                tensor.copy_(0.3 + 0.5 * torch.rand(tensor.shape, generator=rng))
    return Model(description, learner.state_dict()), learner.eval()


def glyphs() -> TaskSource:
    """Return tasks of 5 classes, with 3 queries of each."""
    tasks: TaskSource = maker("tasks", {"name": "glyphs", "queries": 3})()
    return tasks


def episode(count: int = 3) -> Episode:
    """Return so many of these tasks."""
    return glyphs().sample("test", count, np.random.default_rng(0))


@final
class Plain(BackboneSpace):
    """One backbone without a choice, whatever the test puts here."""

    name: ClassVar[str] = "plain"

    def __init__(self, *, kind: Literal["conv", "constant", "opaque"] = "conv") -> None:
        self.decisions = (Decision("only", ("one",)),)
        self._kind = kind

    def build(self, architecture: Architecture, shape: TaskShape) -> nn.Module:
        kinds: dict[str, Callable[[], nn.Module]] = {
            "conv": OneLayer,
            "constant": partial(Constant, 4),
            "opaque": Opaque,
        }
        return kinds[self._kind]()

    def canonical(self, architecture: Architecture) -> str:
        return self._kind


class OneLayer(nn.Module):
    """Convolution, batch norm, mean over the map."""

    out_features = 3

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x)).relu().mean((2, 3))  # type: ignore[no-any-return]


class Opaque(nn.Module):
    """What no graph can express."""

    out_features = 3

    def forward(self, x: Tensor) -> Tensor:
        return torch.from_numpy(np.sort(x.detach().numpy().reshape(len(x), -1))[:, :3])


@final
class Forgetful(Learner):
    """Keeps a copy of its backbone."""

    name = "forgetful"

    def __init__(self, backbone: nn.Module, shape: TaskShape, *, lr: Annotated[float, "rate"] = 0.1) -> None:
        super().__init__(backbone, shape)
        self.head = nn.Linear(2, 2)

    def forward(self, episode: Episode) -> Tensor:
        raise NotImplementedError

    def optimizer(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)
