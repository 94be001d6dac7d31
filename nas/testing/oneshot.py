"""The smallest one-shot search: a strategy to train a supernet, a controller that asks for it, a job."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, final

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from nas.backbone import BackboneSpace
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
from nas.evaluator import Context, SupernetJob
from nas.settings.search import SearchConfig, validate
from nas.space import Architecture
from nas.strategy import Batches, Epoch, Strategy
from nas.supernet import Relaxation

SMALL = SupernetBudget(epochs=3, steps=4, batch=2, validation_episodes=4)


@final
class Noisy(Strategy):
    """Gradient descent on α through a softmax with noise: every part of its state matters."""

    def __init__(
        self,
        space: BackboneSpace,
        relaxation: Relaxation,
        seed: int,
        *,
        rate: Annotated[float, Field(gt=0, description="learning rate of α")] = 0.1,
        stop: Annotated[int | None, Field(ge=1, description="epochs after which it stops")] = None,
        kill: Annotated[
            str | None, Field(description="a file that, if it is there, is deleted in epoch 2: then it dies")
        ] = None,
    ) -> None:
        super().__init__(space, relaxation, seed)
        self._kill = kill and Path(kill)
        self.alpha = nn.ParameterList(torch.zeros(len(d.choices)) for d in relaxation.decisions)
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
            for decision, alpha in zip(self.relaxation.decisions, self.alpha, strict=True)
            for choice, value in zip(decision.choices, alpha.detach(), strict=True)
        }
        reason = "asked to stop" if self._stop == self._epochs else None
        derived = self.relaxation.derive(self.mixture())
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
        found = {self.relaxation.derive(self.mixture()): None}
        while len(found) < min(number, self.space.size):
            found[self.space.sample(self.rng)] = None
        derived = [Derived(architecture, score(architecture)) for architecture in found]
        return sorted(derived, key=lambda entry: -entry.score)


@final
class ToyOneShot(Controller):
    """Trains a supernet, evaluates what it derived, and ends."""

    one_shot = True

    def __init__(
        self,
        space: BackboneSpace,
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

    def propose(self, number: int, pending: Sequence[Evaluate], rng: np.random.Generator) -> Proposal | None:
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


def configure(**changes: Any) -> SearchConfig:
    """Return a search by `ToyOneShot`; name what matters, the rest is filled in."""
    values: dict[str, Any] = {
        "space": "nas.testing.toy_supernet:ToyCurves",
        "controller": "nas.testing.oneshot:ToyOneShot",
        "tasks": {"name": "sinusoid"},
        "learner": {"name": "maml", "inner_lr": 0.01},
        "budget": {"train_episodes": 4, "validation_episodes": 4},
        "executor": "inline",
        "trials": 10,
    }
    return validate(values | changes)


def context(**changes: Any) -> Context:
    """Return what a worker of such a search knows."""
    config = configure(**changes)
    return config.make_context(config.make_space(), config.make_tasks())


def job(folder: Path | None = None, derive: int = 2, **settings: Any) -> SupernetJob:
    """Return the training of a supernet by `Noisy`: four epochs of three steps."""
    budget = SupernetBudget(epochs=4, steps=3, batch=2, validation_episodes=4)
    proposal = TrainSupernet("nas.testing.oneshot:Noisy", settings, derive, budget)
    return SupernetJob(0, 0, proposal, 7, "one", None if folder is None else str(folder))
