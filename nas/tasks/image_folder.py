"""Few-shot tasks from a folder of images, one subfolder a class."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, final

import numpy as np
from pydantic import Field

from nas.errors import ConfigError
from nas.files import legible
from nas.plugins import FilePath
from nas.space import TaskShape
from nas.tasks.base import SPLITS, Split, TaskSource
from nas.tasks.class_folders import (
    Behind,
    Depth,
    ImageClass,
    MinImages,
    Range,
    SkipDamaged,
    decoding,
    read_classes,
)
from nas.tasks.images import (
    TRAINING_SETTINGS,
    Classes,
    ImageTasks,
    Indices,
    Queries,
    Shots,
    SupportNoise,
    TrainQueries,
    TrainShots,
    TrainWays,
    Ways,
)
from nas.tasks.listing import Division
from nas.tasks.pooled import PooledSource

DEFAULTS_NEED = 30
"""Classes, from which on the default shares give each split as many as the default `ways`."""


@final
class ImageFolder(PooledSource):
    """The images in each folder right below `path` are one class; values in [0, 1].

    Each image's shorter side is resized to `size` and its centre cut out. Where it is transparent,
    `background` shows. `range` says which values of the files become 0 and 1. With `depth=2` the folders of
    the folders are the classes, such as `alphabet/character`.

    The classes are shuffled by `split_seed` and divided; what `train` and `validation` leave is for test. The
    defaults divide 100 classes as mini-ImageNet does, 64 / 16 / 20. With `splits=folders` those of `train/`,
    `validation/` (or `val/`, `valid/`) and `test/` are for just that; without a folder for validation, the
    share `validation` of the training classes is. With `splits=test` all are for test, of what was trained on
    other tasks. Classes may differ in size.

    Hidden files, and files that are no images by their suffix, are passed over.

    Raises:
        ConfigError: no such folder, images that cannot be read, or too few classes or images for a task.
    """

    name: ClassVar[str] = "image_folder"
    training_settings: ClassVar[tuple[str, ...]] = TRAINING_SETTINGS
    heavy: ClassVar[tuple[str, ...]] = (*TaskSource.heavy, "size")

    def __init__(
        self,
        *,
        path: Annotated[FilePath, Field(description="folder of class folders")],
        ways: Ways = 5,
        shots: Shots = 1,
        queries: Queries = 5,
        train_ways: TrainWays = None,
        train_shots: TrainShots = None,
        train_queries: TrainQueries = None,
        noise_rate: SupportNoise = 0.0,
        size: Annotated[int, Field(ge=1, description="height and width in pixels")] = 84,
        grayscale: Annotated[bool, Field(description="one channel instead of three")] = False,
        background: Behind = "white",
        range: Range = None,
        depth: Depth = 1,
        splits: Annotated[
            Division, Field(description="by shares, by folders train, validation, test; or all for test")
        ] = "random",
        train: Annotated[float, Field(gt=0, lt=1, description="share of classes for training")] = 0.64,
        validation: Annotated[float, Field(gt=0, lt=1, description="share of classes for validation")] = 0.16,
        split_seed: Annotated[int, Field(ge=0, description="which classes go where")] = 0,
        min_images: MinImages = 0,
        skip_damaged: SkipDamaged = False,
    ) -> None:
        folder = Path(path).expanduser().resolve()
        found = read_classes(
            folder, splits, depth, min_images, skip_damaged, decoding(size, grayscale, background, range)
        )
        self._label = legible(folder.name)
        self._remarks = found.remarks
        self._tasks = ImageTasks(
            name=f"{self.name}/{self._label}",
            images=found.images,
            splits={
                split: _of_split([found.classes[i] for i in chosen])
                for split, chosen in _divide(found.classes, splits, train, validation, split_seed).items()
            },
            ways=ways,
            shots=shots,
            queries=queries,
            train_ways=train_ways,
            train_shots=train_shots,
            train_queries=train_queries,
            noise_rate=noise_rate,
            selects=True,
            more_classes=_more_classes(len(found.classes), splits, ways, train_ways or ways),
        )

    @property
    def label(self) -> str:
        """The folder's name and the setting, such as `birds 5-way 1-shot`."""
        return f"{self._label} {self._tasks.setting}"

    @property
    def remarks(self) -> tuple[str, ...]:
        """What is left out, and what looks wrong with the images."""
        return self._remarks


def fitting(shape: TaskShape) -> dict[str, Any]:
    """Return the settings under which images fit a network that was made for `shape`.

    Raises:
        ConfigError: it takes no square images of one or three channels.
    """
    match shape.input:
        case (1 | 3 as channels, height, width) if height == width:
            return {"size": height, "grayscale": channels == 1}
    raise ConfigError(
        f"tasks: the network takes inputs of shape {shape.input}; images of a folder are square, with one "
        "channel or three."
    )


def _of_split(classes: Sequence[ImageClass]) -> Classes:
    return Classes(
        names=tuple(one.name for one in classes),
        starts=np.array([one.start for one in classes], dtype=np.int64),
        counts=np.array([one.count for one in classes], dtype=np.int64),
        without=tuple(f"{one.name}/{file}" for one in classes for file in one.damaged),
    )


def _divide(
    classes: Sequence[ImageClass], splits: Division, train: float, validation: float, seed: int
) -> dict[Split, Indices]:
    """Return which classes go to which split."""
    shuffled = np.random.default_rng(seed).permutation(len(classes))
    if splits == "test":
        return {"test": np.arange(len(classes))}
    if splits == "folders":
        return _by_folder(classes, shuffled, validation)
    if train + validation >= 1:
        raise ConfigError(
            f"tasks.train + tasks.validation: {train} + {validation} leaves no class for test; "
            "the sum must be below 1."
        )
    return dict(zip(SPLITS, np.split(shuffled, _ends(len(classes), train, validation)), strict=True))


def _ends(classes: int, train: float, validation: float) -> tuple[int, int]:
    """Return how many classes are for training, and how many for training or validation."""
    return round(train * classes), round((train + validation) * classes)


def _more_classes(classes: int, splits: Division, ways: int, train_ways: int) -> str:
    """Return what gives each split enough classes for a task."""
    if splits == "test":
        return "add classes"
    if splits == "folders":
        return (
            "add classes to its folder; without a folder for validation, tasks.validation is its share of "
            "the training classes"
        )
    train, validation = round(1 - 2 * ways / classes, 3), round(ways / classes, 3)
    first, second = _ends(classes, train, validation)
    if first >= train_ways and min(second - first, classes - second) >= ways:
        return (
            f"set tasks.train={train} and tasks.validation={validation}, which divide the {classes} classes "
            f"into {first} / {second - first} / {classes - second}"
        )
    return (
        f"add classes: the folder has {classes}, such tasks need {train_ways + 2 * ways} in all, and "
        f"{DEFAULTS_NEED} are enough for the default settings"
    )


def _by_folder(classes: Sequence[ImageClass], shuffled: Indices, validation: float) -> dict[Split, Indices]:
    """Return the classes of each split's folder, in a given order; see to it that none is in two."""
    seen: dict[str, Split | None] = {}
    for one in classes:
        if one.name in seen:
            raise ConfigError(
                f"tasks.splits=folders: class '{one.name}' is in the folders of both {seen[one.name]} and "
                f"{one.split}. Few-shot tasks are tested on classes that are not trained on: move or rename "
                "it, or learn all classes as ordinary data with the tasks 'supervised'."
            )
        seen[one.name] = one.split
    given = {split: np.array([i for i in shuffled if classes[i].split == split]) for split in SPLITS}
    chosen = {split: of_split for split, of_split in given.items() if len(of_split)}
    if "train" in chosen and "validation" not in chosen:
        cut = round(validation * len(chosen["train"]))
        chosen["validation"], chosen["train"] = np.split(chosen["train"], [cut])
    return chosen
