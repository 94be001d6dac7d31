"""Tasks that a sequence must be remembered for, and nothing else: symbols with labels drawn anew."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F

from nas.tasks.base import Episode

SYMBOLS = 6


def symbols(tasks: int, queries: int = 3, seed: int = 0, shots: int = 1) -> Episode:
    """Draw tasks of three of six symbols, each a one-hot vector, whose examples are all alike."""
    classes = np.random.default_rng(seed).random((tasks, SYMBOLS)).argsort(1)[:, :3]
    x = F.one_hot(torch.from_numpy(classes), SYMBOLS).float()

    def drawn(count: int) -> tuple[torch.Tensor, torch.Tensor]:
        labels = torch.arange(3).repeat_interleave(count)
        return x.repeat_interleave(count, 1), labels.repeat(tasks, 1)

    return Episode(*drawn(shots), *drawn(queries), 3, shots, classes)
