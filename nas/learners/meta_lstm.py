"""Meta-LSTM: the weights are the cell of an LSTM whose gates are learned."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, final

import torch
from pydantic import Field
from torch import Tensor, nn

from nas.errors import ConfigError
from nas.learners.coordinates import LstmCell, blocks, joined, log_and_sign, parted
from nas.learners.folded import Weights
from nas.learners.update import State, UpdateRule

P = 10.0
"""Of the preprocessing of losses and gradients."""

SPREAD = 0.01
"""Parameters other than the gates' biases begin with draws from [−SPREAD, SPREAD]."""

KEPT = 4.5
"""Of gates that begin nearly open: the middle of their biases."""


@final
class MetaLstm(UpdateRule):
    """w_t = σ(f_t) w_{t−1} − σ(i_t) g_t, with gates from an LSTM that reads loss and gradient (Ravi 2017).

    The LSTM and the gates are the same for every coordinate, each of which has a state of its own. A gate
    sees the LSTM's state, the value that it gates, and what it was before its sigmoid in the last step. The
    learner's initial weights are the cell's. Gradients and losses are constants: there are no second
    derivatives.

    With `accumulates`, a lower cell gathers gradients, m_t = σ(a_t) m_{t−1} − σ(b_t) g_t, and the weights
    follow it, w_t = σ(f_t) w_{t−1} + σ(i_t) m_t.

    Gates begin so that the rule is nearly gradient descent at the rate `inner_lr`, in the lower cell with a
    momentum of one half.

    Raises:
        ConfigError: `inner_lr` is not below 1, where a gate could begin.
    """

    name = "meta_lstm"
    constant = True

    def __init__(
        self,
        weights: Mapping[str, Tensor],
        lr: float,
        *,
        hidden: Annotated[int, Field(ge=1, description="width of the LSTM")] = 20,
        accumulates: Annotated[bool, Field(description="whether a lower cell gathers gradients")] = False,
    ) -> None:
        super().__init__(weights, lr)
        if lr >= 1:
            raise ConfigError(
                f"learner.inner_lr: '{self.name}' begins with a gate of this size, which must be below 1 "
                f"(given: {lr:g}). Set learner.inner_lr to 0.5 or less."
            )
        rate = math.log(lr / (1 - lr))
        self.lstm = LstmCell(4, hidden, SPREAD)
        self.accumulates = accumulates
        self.forget = _Gate(hidden, KEPT)
        self.enter = _Gate(hidden, KEPT if accumulates else rate)
        self.lower_forget = _Gate(hidden, 0.0) if accumulates else None
        self.lower_enter = _Gate(hidden, rate) if accumulates else None
        self.held = self.lstm.held + (4 if accumulates else 2) * hidden

    def init(self, weights: Weights) -> State:
        """Return a state of zeros for each block of coordinates."""
        names = "forget", "enter", *(("lower", "lower_forget", "lower_enter") if self.accumulates else ())
        return [
            {"lstm": self.lstm.begin(zeros[:, None]), **dict.fromkeys(names, zeros)}
            for zeros in blocks(torch.zeros_like(joined(weights)))
        ]

    def step(
        self, state: State, weights: Weights, gradients: Weights, losses: Tensor
    ) -> tuple[State, Weights]:
        """Move every coordinate by its gates."""
        slopes, losses = joined(gradients).detach(), losses.detach()
        with torch.autocast(slopes.device.type, enabled=False):
            of_loss = log_and_sign(losses[:, None], P)
            of_block = zip(state, blocks(joined(weights)), blocks(slopes), strict=True)
            following, moved = zip(*(self._moved(*block, of_loss) for block in of_block), strict=True)
        return list(following), parted(torch.cat(moved, 1), weights)

    def _moved(
        self, state: Mapping[str, Any], values: Tensor, slopes: Tensor, of_loss: Tensor
    ) -> tuple[dict[str, Any], Tensor]:
        """Return the next state and values of some coordinates, `[T, N]`."""
        read = torch.cat([of_loss.expand(-1, -1, slopes.shape[1]), log_and_sign(slopes, P)], 1)
        following: dict[str, Any] = {"lstm": self.lstm(read, state["lstm"])}
        seen, arriving = following["lstm"][0], -slopes
        if self.lower_forget is not None and self.lower_enter is not None:
            lower = state["lower"]
            kept = self.lower_forget(seen, lower, state["lower_forget"])
            taken = self.lower_enter(seen, lower, state["lower_enter"])
            arriving = kept.sigmoid() * lower + taken.sigmoid() * arriving
            following |= {"lower": arriving, "lower_forget": kept, "lower_enter": taken}
        following["forget"] = self.forget(seen, values, state["forget"])
        following["enter"] = self.enter(seen, values, state["enter"])
        return following, following["forget"].sigmoid() * values + following["enter"].sigmoid() * arriving


class _Gate(nn.Module):
    """A gate before its sigmoid, `[T, N]`, from an LSTM's state, a value and what it was before."""

    def __init__(self, hidden: int, bias: float) -> None:
        super().__init__()
        self.state = nn.Parameter(torch.empty(hidden).uniform_(-SPREAD, SPREAD))
        self.value = nn.Parameter(torch.empty(()).uniform_(-SPREAD, SPREAD))
        self.before = nn.Parameter(torch.empty(()).uniform_(-SPREAD, SPREAD))
        self.bias = nn.Parameter(torch.empty(()).uniform_(bias - 0.5, bias + 0.5))

    def forward(self, state: Tensor, value: Tensor, before: Tensor) -> Tensor:
        return self.state @ state + value * self.value + before * self.before + self.bias
