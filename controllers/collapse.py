"""When a differentiable search degenerates: skip connections crowd in, and the minimum in α grows sharp."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Any, NamedTuple, final

from pydantic import Field
from torch import Tensor, nn

StopSkips = Annotated[
    int | None,
    Field(ge=1, description="end at so many skip connections in the derived architecture; by default never"),
]
StopEigenvalue = Annotated[
    int | None,
    Field(
        ge=1,
        description="end when the α-Hessian's largest eigenvalue grew by a third within so many epochs, "
        "averaged over as many (the paper: 5); by default not computed",
    ),
]

RATIO = 0.75
"""Of the eigenvalue before to the eigenvalue now, below which a search ends (Zela et al. 2020, §4.3)."""


class Collapse(NamedTuple):
    """Why a search should end, and α of the epoch to go back to."""

    reason: str
    logits: Sequence[Tensor]


@final
class Watch(nn.Module):
    """Looks at each epoch's end for a collapse.

    By skips: the first epoch whose derived architecture has `skips` of them ends the search, and the epoch
    before is the result (Liang et al. 2019, DARTS+, §3.2, with the threshold as a setting).

    By eigenvalue: with λ̄(i) the mean over the `window` epochs around i, the first i with
    λ̄(i − window) / λ̄(i) < 0.75 ends it, and epoch i − window is the result (Zela et al. 2020, §4.3, where
    the window is 5). An even window averages over one epoch more, so that i lies in its middle. Eigenvalues
    that are NaN are left out of the mean.
    """

    def __init__(self, skips: int | None, window: int | None) -> None:
        super().__init__()
        self._skips, self._window = skips, window
        self._epochs: list[tuple[float | None, list[Tensor]]] = []

    def observe(self, logits: Sequence[Tensor], skips: int, eigenvalue: float | None) -> Collapse | None:
        """Take in an epoch, and say whether the search has collapsed.

        Args:
            logits: α at its end.
            skips: of the architecture that it derives.
            eigenvalue: the largest of the α-Hessian; None where it is not watched, NaN where it is unknown.
        """
        self._epochs.append((eigenvalue, [x.detach().clone() for x in logits]))
        return self._by_skips(skips) or self._by_eigenvalue()

    def _by_skips(self, skips: int) -> Collapse | None:
        if self._skips is None or skips < self._skips:
            return None
        before = self._epochs[max(len(self._epochs) - 2, 0)][1]
        return Collapse(f"The derived architecture has {skips} skip connections.", before)

    def _by_eigenvalue(self) -> Collapse | None:
        if self._window is None:
            return None
        half = self._window // 2
        now = len(self._epochs) - 1 - half
        before = now - self._window
        if before < half:
            return None
        was, is_ = self._mean(before, half), self._mean(now, half)
        if not was < RATIO * is_:
            return None
        return Collapse(
            f"The α-Hessian's largest eigenvalue rose from {was:.3g} to {is_:.3g} "
            f"within {self._window} epochs.",
            self._epochs[before][1],
        )

    def _mean(self, epoch: int, half: int) -> float:
        around = (value for value, _ in self._epochs[epoch - half : epoch + half + 1])
        values = [value for value in around if value is not None and math.isfinite(value)]
        return sum(values) / len(values) if values else math.nan

    def get_extra_state(self) -> Any:
        """Return all epochs' eigenvalues and α, for `state_dict`."""
        return [(value, [x.cpu() for x in logits]) for value, logits in self._epochs]

    def set_extra_state(self, state: Any) -> None:
        """Restore the epochs."""
        self._epochs = [(value, list(logits)) for value, logits in state]
