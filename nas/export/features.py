"""The features of all images of a learner's tasks, for the tasks `features`."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import numpy as np
import torch
from torch import nn

from nas.errors import ConfigError
from nas.export.embedding import Embedding
from nas.export.model import Model, rebuild
from nas.settings.sections import maker
from nas.tasks.base import SPLITS, TaskSource

BATCH = 256
"""Images that pass through the network at once."""


def write(model: Model, path: Path) -> None:
    """Write an `.npz` file: `features [N, D]`, and the class and the split of each row.

    Raises:
        ConfigError: features depend on what shares a batch; or the tasks have no classes of examples.
        DataMissing: the data is not on this machine.
    """
    description, network = model.description, rebuild(model).network
    if description.normalization != "running" and _has_batch_norm(network):
        raise ConfigError(
            f"{path}: under normalization '{description.normalization}' an image has other features with "
            "other images beside it. Evaluate with `--set learner.normalization=running`, and export that."
        )
    tasks = cast(TaskSource, maker("tasks", description.tasks)())
    features, classes, splits = list[np.ndarray](), list[str](), list[str]()
    with torch.no_grad():
        for split in SPLITS:
            for name, examples in tasks.examples(split):
                for start in range(0, len(examples), BATCH):
                    features.append(network(examples[start : start + BATCH])[0].numpy())
                classes += [name] * len(examples)
                splits += [split] * len(examples)
    # A name without a suffix, as of a file that is being written, would get one.
    with path.open("wb") as file:
        np.savez(file, features=np.concatenate(features), classes=np.array(classes), splits=np.array(splits))


def _has_batch_norm(network: Embedding) -> bool:
    return any(isinstance(part, nn.modules.batchnorm._BatchNorm) for part in network.modules())
