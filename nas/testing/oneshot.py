"""The smallest one-shot search: a space with a supernet, a strategy to train it, a controller that asks."""

from __future__ import annotations

import math
import os
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, final

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from nas.controller import (
    Controller,
    Derived,
    Evaluate,
    Finish,
    Outcome,
    Proposal,
    SupernetBudget,
    TrainSupernet,
)
from nas.space import Architecture, Decision, SearchSpace, TaskShape
from nas.strategy import Batches, Epoch, Strategy
from nas.supernet import Mixture, Supernet

OPERATIONS = ("none", "skip", "relu", "tanh")
SMALL = SupernetBudget(epochs=3, steps=4, batch=2, validation_episodes=4)


@final
class Paths(SearchSpace):
    """A linear layer, then residual layers `x + op(x)`, the operation of each a choice."""

    name: ClassVar[str] = "paths"

    def __init__(
        self,
        *,
        layers: Annotated[int, Field(ge=1, description="layers with a choice")] = 3,
        width: Annotated[int, Field(ge=1, description="features of each")] = 8,
    ) -> None:
        self.decisions = tuple(Decision(f"layer{i}", OPERATIONS) for i in range(layers))
        self._width = width

    def build(self, architecture: Architecture, shape: TaskShape) -> nn.Module:
        """Build the network; see `SearchSpace.build`."""
        return self.supernet(shape).extract(self.check(architecture))

    def canonical(self, architecture: Architecture) -> str:
        """Return the encoding; each is another network."""
        return self.encode(architecture)

    def supernet(self, shape: TaskShape) -> Supernet:
        """Build the supernet; see `SearchSpace.supernet`."""
        return _Paths(self, shape, self._width)


@final
class _Paths(Supernet):
    def __init__(self, space: Paths, shape: TaskShape, width: int) -> None:
        super().__init__()
        self.decisions, self.out_features = space.decisions, width
        self._space = space.name
        self.stem = nn.Linear(math.prod(shape.input), width)
        self.layers = nn.ModuleList(
            nn.ModuleList(nn.Linear(width, width) for _ in OPERATIONS[2:]) for _ in self.decisions
        )

    def forward(self, x: Tensor, mixture: Mixture) -> Tensor:
        """Return the features of a batch."""
        x = self.stem(x.flatten(1))
        for layer, weights in zip(self.layers, mixture, strict=True):
            for choice, weight in enumerate(weights.tolist()):
                if weight and choice:
                    x = x + weights[choice] * _operation(choice, layer, x)
        return x

    def mixture_of(self, architecture: Architecture) -> list[Tensor]:
        """Return the one-hot choices."""
        device = self.stem.weight.device
        return [torch.eye(len(OPERATIONS), device=device)[choice] for choice in architecture.choices]

    def derive(self, mixture: Mixture) -> Architecture:
        """Return the strongest choices."""
        return Architecture(self._space, tuple(int(weights.argmax()) for weights in mixture))

    def extract(self, architecture: Architecture) -> nn.Module:
        """Return one path, its layers shared."""
        return _Path(self.stem, self.layers, architecture.choices, self.out_features)


@final
class _Path(nn.Module):
    def __init__(
        self, stem: nn.Module, layers: nn.ModuleList, choices: Sequence[int], out_features: int
    ) -> None:
        super().__init__()
        self.stem, self.out_features, self.choices = stem, out_features, tuple(choices)
        self.layers = nn.ModuleDict(
            {
                str(i): layer[choice - 2]  # type: ignore[index]
                for i, (layer, choice) in enumerate(zip(layers, choices, strict=True))
                if choice > 1
            }
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return the features of a batch."""
        x = self.stem(x.flatten(1))
        for i, choice in enumerate(self.choices):
            if choice == 1:
                x = x + x
            elif choice > 1:
                out = self.layers[str(i)](x)
                x = x + (out.relu() if choice == 2 else out.tanh())
        return x


def _operation(choice: int, layer: nn.Module, x: Tensor) -> Tensor:
    if choice == 1:
        return x
    out: Tensor = layer[choice - 2](x)  # type: ignore[index]
    return out.relu() if choice == 2 else out.tanh()


@final
class Noisy(Strategy):
    """Gradient descent on α through a softmax with noise: every part of its state matters."""

    def __init__(
        self,
        space: SearchSpace,
        supernet: Supernet,
        seed: int,
        *,
        rate: Annotated[float, Field(gt=0, description="learning rate of α")] = 0.1,
        stop: Annotated[int | None, Field(ge=1, description="epochs after which it stops")] = None,
        kill: Annotated[
            str | None, Field(description="a file that, if it is there, is deleted in epoch 2: then it dies")
        ] = None,
    ) -> None:
        super().__init__(space, supernet, seed)
        self._kill = kill and Path(kill)
        self.alpha = nn.ParameterList(torch.zeros(len(d.choices)) for d in supernet.decisions)
        self._rate, self._stop = rate, stop
        self._epochs = 0

    def step(self, batches: Batches, optimizer: torch.optim.Optimizer, progress: float) -> float:
        """Step α, then the weights."""
        if self._kill and self._epochs == 2 and self._kill.exists():
            self._kill.unlink()
            os.kill(os.getpid(), signal.SIGKILL)
        noisy = [
            torch.softmax(a + 0.1 * torch.from_numpy(self.rng.standard_normal(len(a))).to(a), 0)
            for a in self.alpha
        ]
        gradients = torch.autograd.grad(batches.outer(noisy), list(self.alpha), materialize_grads=True)
        with torch.no_grad():
            for a, gradient in zip(self.alpha, gradients, strict=True):
                a -= self._rate * gradient
        optimizer.zero_grad()
        loss = batches.inner(self.mixture())
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        return float(loss.detach())

    def mixture(self) -> list[Tensor]:
        """Return softmax(α)."""
        return [torch.softmax(a.detach(), 0) for a in self.alpha]

    def end_epoch(self, batches: Batches) -> Epoch:
        """Return every α, and in which process it was."""
        self._epochs += 1
        measurements = {
            f"alpha.{decision.name}.{choice}": float(value)
            for decision, alpha in zip(self.supernet.decisions, self.alpha, strict=True)
            for choice, value in zip(decision.choices, alpha.detach(), strict=True)
        }
        reason = "asked to stop" if self._stop == self._epochs else None
        derived = self.supernet.derive(self.mixture())
        return Epoch(derived, {**measurements, "process": float(os.getpid())}, reason)

    def get_extra_state(self) -> Any:
        """Return what is no tensor."""
        return {"rng": super().get_extra_state(), "epochs": self._epochs}

    def set_extra_state(self, state: Any) -> None:
        """Restore it."""
        super().set_extra_state(state["rng"])
        self._epochs = state["epochs"]

    def derive(self, number: int, score: Callable[[Architecture], float]) -> Sequence[Derived]:
        """Return the strongest choices, and random others."""
        found = {self.supernet.derive(self.mixture()): None}
        while len(found) < min(number, self.space.size):
            found[self.space.sample(self.rng)] = None
        derived = [Derived(architecture, score(architecture)) for architecture in found]
        return sorted(derived, key=lambda entry: -entry.score)


@final
class OneShot(Controller):
    """Trains a supernet, evaluates what it derived, and ends."""

    def __init__(
        self,
        space: SearchSpace,
        seed: int,
        *,
        derive: Annotated[int, Field(ge=1, description="architectures to derive")] = 2,
        budget: SupernetBudget = SMALL,
        strategy: Annotated[str, Field(description="how the supernet is trained")] = (
            "nas.testing.oneshot:Noisy"
        ),
        stop: Annotated[int | None, Field(ge=1, description="epochs after which it stops")] = None,
        kill: Annotated[str | None, Field(description="see `Noisy`")] = None,
    ) -> None:
        self._supernet = TrainSupernet(strategy, {"stop": stop, "kill": kill}, derive, budget)
        self._derived: tuple[Derived, ...] | None = None

    def propose(
        self, number: int, pending: Sequence[Architecture], rng: np.random.Generator
    ) -> Proposal | None:
        """Propose the supernet, then what it derived, then nothing more."""
        if number == 0:
            return self._supernet
        if self._derived is None:
            return None
        return Evaluate(self._derived[number - 1].architecture) if number <= len(self._derived) else Finish()

    def observe(self, number: int, outcome: Outcome) -> None:
        """Take over what the supernet derived."""
        if number == 0:
            self._derived = outcome.derived
