"""The network that a learner trains or adapts: a backbone, and a linear head over its features."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.func import replace_all_batch_norm_modules_


class Network(nn.Module):
    """A backbone and a linear head: `[batch, *input]` to `[batch, outputs]`.

    The head computes in the precision of its weights, under autocast too: rounded logits would tie.
    """

    def __init__(self, backbone: nn.Module, outputs: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = nn.Linear(int(backbone.out_features), outputs)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        """Return logits, or values."""
        features = self.backbone(x)
        with torch.autocast(features.device.type, enabled=False):
            return self.head(features.to(self.head.weight.dtype))  # type: ignore[no-any-return]


def batch_statistics(backbone: nn.Module) -> nn.Module:
    """Make batch norm normalize every batch by its own statistics, in evaluation as in training; in place.

    A batch is then one task's images, so nothing leaks from one task to another.
    """
    return replace_all_batch_norm_modules_(backbone)
