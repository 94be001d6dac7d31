"""Learned rate and momentum: heavy ball whose two numbers get the meta-gradient."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Literal, final

import torch
from pydantic import Field
from torch import Tensor, nn

from nas.learners.folded import Weights
from nas.learners.update import State, UpdateRule

Per = Literal["all", "layer", "weight"]


@final
class RateAndMomentum(UpdateRule):
    """v ← β v + g, w ← w − α v, with learned log α and logit β, so that α > 0 and 0 < β < 1.

    All weights share an α and a β, those of a layer do, or each has its own; the first `steps` steps have
    theirs, and later ones those of the last of these. A rate for each layer and step is that of MAML++
    (Antoniou et al. 2019); one for each weight, with momentum 0, is Meta-SGD with rates that stay positive.
    """

    name = "learned_rates"

    def __init__(
        self,
        weights: Mapping[str, Tensor],
        lr: float,
        *,
        per: Annotated[Per, Field(description="what has a rate and a momentum of its own")] = "layer",
        steps: Annotated[
            int, Field(ge=1, description="steps that have their own; later ones have those of the last")
        ] = 1,
        momentum: Annotated[
            float, Field(ge=0, lt=1, description="at the start; with 0 there is none, and none is learned")
        ] = 0.5,
    ) -> None:
        super().__init__(weights, lr)
        self.steps, self.has_momentum = steps, momentum > 0
        self._group = {name: _group(name, per) for name in weights}
        groups = dict.fromkeys(self._group.values())
        self._number = {group: number for number, group in enumerate(groups)}
        shapes = [weights[group].shape if per == "weight" else () for group in groups]
        like = next(iter(weights.values()), torch.empty(0))
        self.log_rates = _parameters(shapes, steps, math.log(lr), like)
        logit = math.log(momentum / (1 - momentum)) if momentum else 0.0
        self.logits = _parameters(shapes if momentum else [], steps, logit, like)

    def rate(self, name: str, step: int = 0) -> Tensor:
        """Return α of a weight in a step."""
        return self._chosen(self.log_rates, name, step).exp()

    def momentum(self, name: str, step: int = 0) -> Tensor:
        """Return β of a weight in a step."""
        return self._chosen(self.logits, name, step).sigmoid()

    def init(self, weights: Weights) -> State:
        """Return the number of steps taken, and directions of zero where there is momentum."""
        zeros = {n: torch.zeros_like(w) for n, w in weights.items()} if self.has_momentum else {}
        return {"step": 0, "directions": zeros}

    def step(
        self, state: State, weights: Weights, gradients: Weights, losses: Tensor
    ) -> tuple[State, Weights]:
        """Move the weights against the directions."""
        step, directions = state["step"], gradients
        if self.has_momentum:
            before = state["directions"]
            directions = {n: self.momentum(n, step) * before[n] + g for n, g in gradients.items()}
        moved = {name: weight - self.rate(name, step) * directions[name] for name, weight in weights.items()}
        return {"step": step + 1, "directions": directions if self.has_momentum else {}}, moved

    def _chosen(self, parameters: nn.ParameterList, name: str, step: int) -> Tensor:
        chosen: Tensor = parameters[self._number[self._group[name]]][min(step, self.steps - 1)]
        return chosen


def _group(name: str, per: Per) -> str:
    """Return what a weight shares its rate with."""
    match per:
        case "all":
            return ""
        case "layer":
            return name.rpartition(".")[0]
        case "weight":
            return name


def _parameters(
    shapes: list[torch.Size | tuple[()]], steps: int, value: float, like: Tensor
) -> nn.ParameterList:
    made = (torch.full((steps, *shape), value, dtype=like.dtype, device=like.device) for shape in shapes)
    return nn.ParameterList([nn.Parameter(x) for x in made])
