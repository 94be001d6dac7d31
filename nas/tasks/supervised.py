"""Ordinary data, from a folder of images or an array file: minibatches in place of few-shot tasks."""

from __future__ import annotations

import copy
import hashlib
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, ClassVar, Self, final

import numpy as np
import numpy.typing as npt
import torch
from pydantic import AfterValidator, Field

from nas.errors import ConfigError
from nas.space import TaskShape
from nas.tasks.base import EPISODE_LIST_SEED, SPLITS, Episode, Split, TaskSource
from nas.tasks.cache import cached
from nas.tasks.files import absolute
from nas.tasks.image_folder import files_by_class, read_images
from nas.tasks.images import Indices, Pixels

CHANNELS = (1, 3)
"""Numbers of channels by which the layout of an array is told."""


@final
class Supervised(TaskSource):
    """Images with labels; an episode is one minibatch of `batch` distinct examples, values in [0, 1].

    `path` is a folder of class folders, as of `image_folder`, or an `.npz` file with `x`, uint8
    `[N, C, H, W]`, `[N, H, W, C]` or `[N, H, W]` (C is 1 or 3), and `y`, `[N]` labels. The examples are
    shuffled by `split_seed` and divided: all splits have the same classes, and no example in common. What
    `train` and `validation` leave is for test. The fixed list of episodes goes through a split again and
    again, each time in another order, so that no example is seen twice before all are seen once.

    Where a supernet is trained, its weights learn from one half of the training examples and its architecture
    from the other (Liu et al. 2019, section 3.1).

    Raises:
        ConfigError: no such folder or file, arrays of another kind, or too few classes or examples.
    """

    name: ClassVar[str] = "supervised"

    def __init__(
        self,
        *,
        path: Annotated[
            str,
            AfterValidator(absolute),
            Field(description="folder of class folders, or .npz file of x and y"),
        ],
        batch: Annotated[int, Field(ge=1, description="examples of a minibatch")] = 64,
        size: Annotated[
            int, Field(ge=1, description="height and width of a folder's images, in pixels")
        ] = 32,
        grayscale: Annotated[bool, Field(description="a folder's images in one channel, not three")] = False,
        train: Annotated[float, Field(gt=0, lt=1, description="share of examples for training")] = 0.8,
        validation: Annotated[float, Field(gt=0, lt=1, description="share of examples for validation")] = 0.1,
        split_seed: Annotated[int, Field(ge=0, description="which examples go where")] = 0,
    ) -> None:
        where = Path(path)
        if where.suffix == ".npz":
            self._images, self._labels, self._classes = _from_file(where)
        else:
            self._images, self._labels, self._classes = _from_folder(where, size, grayscale)
        self._name, self._batch = where.stem, batch
        self._splits = _divide(len(self._images), train, validation, split_seed)

    @property
    def shape(self) -> TaskShape:
        """One image to all classes."""
        return TaskShape(tuple(self._images.shape[1:]), self._classes)

    @property
    def label(self) -> str:
        """The data's name and its classes, such as `cifar10, 10 classes`."""
        return f"{self._name}, {self._classes} classes"

    def sample(self, split: Split, tasks: int, rng: np.random.Generator) -> Episode:
        """Draw `tasks` minibatches, each of distinct examples; a smaller split gives all that it has."""
        pool = self._splits[split]
        count = min(self._batch, len(pool))
        return self._episode(
            np.stack([pool[rng.choice(len(pool), count, replace=False)] for _ in range(tasks)])
        )

    def episodes(self, split: Split, count: int) -> Iterator[Episode]:
        """Yield the fixed list of `count` minibatches."""
        pool = self._splits[split]
        rng = np.random.default_rng([EPISODE_LIST_SEED, SPLITS.index(split)])
        ahead = np.empty(0, dtype=np.int64)
        for _ in range(count):
            while len(ahead) < self._batch:
                ahead = np.concatenate([ahead, rng.permutation(pool)])
            yield self._episode(ahead[None, : self._batch])
            ahead = ahead[self._batch :]

    def bilevel(self) -> tuple[TaskSource, TaskSource]:
        """Return two sources with one half of the training examples each."""
        middle = len(self._splits["train"]) // 2
        first, second = np.split(self._splits["train"], [middle])
        return self._trained_on(first), self._trained_on(second)

    def fingerprint(self, split: Split) -> tuple[str, str]:
        """Return the split's name, such as `supervised/cifar10/validation`, and a hash of its examples."""
        pool = np.sort(self._splits[split])
        digest = hashlib.sha256(np.ascontiguousarray(self._images[pool]).data)
        digest.update(np.ascontiguousarray(self._labels[pool]).data)
        return f"{self.name}/{self._name}/{split}", digest.hexdigest()[:16]

    def members(self, split: Split) -> frozenset[str]:
        """Return the split's examples, by the data's name and their number in it."""
        return frozenset(f"{self._name}/{number}" for number in self._splits[split])

    def _trained_on(self, examples: Indices) -> Self:
        other = copy.copy(self)
        other._splits = {**self._splits, "train": examples}
        return other

    def _episode(self, chosen: Indices) -> Episode:
        """Return the examples `[tasks, k]` as minibatches."""
        tasks = len(chosen)
        pixels = np.take(self._images, chosen, axis=0)
        return Episode(
            support_x=torch.empty(tasks, 0, *self._images.shape[1:]),
            support_y=torch.empty(tasks, 0, dtype=torch.int64),
            query_x=torch.from_numpy(pixels).to(torch.float32).div_(255),
            query_y=torch.from_numpy(self._labels[chosen]),
            ways=self._classes,
            shots=0,
            classes=np.tile(np.arange(self._classes), (tasks, 1)),
        )


Labelled = tuple[Pixels, Indices, int]
"""Images `[N, C, H, W]`, labels `[N]` from 0 on, and the number of classes."""


def _from_folder(folder: Path, size: int, grayscale: bool) -> Labelled:
    classes = files_by_class(folder)
    files = [file for members in classes.values() for file in members]
    labels = [label for label, members in enumerate(classes.values()) for _ in members]
    arrays = cached(
        f"image_folder-{folder.name}",
        f"size={size} grayscale={grayscale} version=1",
        files,
        lambda: {"images": read_images(files, size, grayscale)},
    )
    return arrays["images"], np.array(labels, dtype=np.int64), len(classes)


def _from_file(file: Path) -> Labelled:
    try:
        with np.load(file, allow_pickle=False) as archive:
            missing = [name for name in ("x", "y") if name not in archive.files]
            if missing:
                raise ConfigError(
                    f"tasks.path: {file} has no array '{missing[0]}'; it has: {', '.join(archive.files)}."
                )
            x, y = archive["x"], archive["y"]
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise ConfigError(f"tasks.path: cannot read the arrays of {file}: {error}.") from error
    if y.ndim != 1 or len(y) != len(x) or not np.issubdtype(y.dtype, np.integer):
        raise ConfigError(
            f"tasks.path: y of {file} is {y.dtype} {list(y.shape)}; expected {len(x)} whole numbers, a label "
            "for each image in x."
        )
    names, labels = np.unique(y, return_inverse=True)
    if len(names) < 2:
        raise ConfigError(f"tasks.path: y of {file} has {len(names)} class; at least 2 are needed.")
    return _images(x, file), labels.astype(np.int64), len(names)


def _images(x: npt.NDArray[np.generic], file: Path) -> Pixels:
    """Return images as `[N, C, H, W]`."""
    if x.dtype == np.uint8 and x.ndim == 3:
        return np.ascontiguousarray(x[:, None])
    if x.dtype == np.uint8 and x.ndim == 4 and x.shape[1] in CHANNELS:
        return np.ascontiguousarray(x)
    if x.dtype == np.uint8 and x.ndim == 4 and x.shape[3] in CHANNELS:
        return np.ascontiguousarray(x.transpose(0, 3, 1, 2))
    raise ConfigError(
        f"tasks.path: x of {file} is {x.dtype} {list(x.shape)}; expected uint8 [N, C, H, W], [N, H, W, C] or "
        "[N, H, W], with 1 or 3 channels."
    )


def _divide(examples: int, train: float, validation: float, seed: int) -> dict[Split, Indices]:
    if train + validation >= 1:
        raise ConfigError(
            f"tasks.train + tasks.validation: {train} + {validation} leaves no example for test; the sum "
            "must be below 1."
        )
    ends = [round(train * examples), round((train + validation) * examples)]
    parts = np.split(np.random.default_rng(seed).permutation(examples), ends)
    if min(len(parts[0]) // 2, *(len(part) for part in parts)) < 1:
        raise ConfigError(
            f"tasks.path: {examples} examples are too few to divide into {', '.join(SPLITS)}: "
            f"{', '.join(str(len(part)) for part in parts)}."
        )
    return dict(zip(SPLITS, parts, strict=True))
