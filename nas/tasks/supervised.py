"""Ordinary data, from a folder of images or an array file: minibatches in place of few-shot tasks."""

from __future__ import annotations

import copy
import hashlib
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, ClassVar, Literal, Self, final

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field

from nas.errors import ConfigError
from nas.files import legible
from nas.plugins import FilePath
from nas.space import TaskShape
from nas.tasks.base import EPISODE_LIST_SEED, SPLITS, Episode, Split, TaskSource
from nas.tasks.class_folders import (
    Behind,
    ClassFolders,
    Depth,
    ImageClass,
    MinImages,
    Range,
    SkipDamaged,
    decoding,
    read_classes,
)
from nas.tasks.corruption import (
    Clean,
    Imbalance,
    Noise,
    NoiseKind,
    NoiseRate,
    hold_out,
    long_tail,
    mislabelled,
)
from nas.tasks.images import Indices, Pixels, lacking
from nas.tasks.listing import first

CHANNELS = (1, 3)
"""Numbers of channels by which the layout of an array is told."""


@final
class Supervised(TaskSource):
    """Images with labels; an episode is one minibatch of `batch` distinct examples, values in [0, 1].

    `path` is a folder of class folders, read as by `image_folder`, or an `.npz` file with `x`, uint8
    `[N, C, H, W]`, `[N, H, W, C]` or `[N, H, W]` (C is 1 or 3), and `y`, `[N]` labels. The examples are
    shuffled by `split_seed` and divided: all splits have the same classes, and no example in common. What
    `train` and `validation` leave is for test. With `splits=folders` the examples in `train/`, `validation/`
    (or `val/`, `valid/`) and `test/` are for just that; without a folder for validation, the share
    `validation` of the training examples is. The fixed list of episodes goes through a split again and
    again, each time in another order, so that no example is seen twice before all are seen once.

    Training examples can be made worse, for what learns from such data: the others stay as they are. First
    `clean` examples of each class are taken out of training; with each minibatch comes one of these, of as
    many examples or all there are (`Episode.clean`). Then `imbalance` leaves a long tail of classes, and
    `noise` makes a share `noise_rate` of the labels wrong. What is drawn follows from `split_seed`.

    Where a supernet is trained, its weights learn from one half of the training examples and its architecture
    from the other (Liu et al. 2019, section 3.1).

    Raises:
        ConfigError: no such folder or file, arrays of another kind, or too few classes or examples; or clean
            examples that are among the others, too, or of which a class has too few; or noise without a rate.
    """

    name: ClassVar[str] = "supervised"
    heavy: ClassVar[tuple[str, ...]] = ("size", "batch")

    def __init__(
        self,
        *,
        path: Annotated[
            FilePath,
            Field(description="folder of class folders, or .npz file of x and y"),
        ],
        batch: Annotated[int, Field(ge=1, description="examples of a minibatch")] = 64,
        size: Annotated[
            int, Field(ge=1, description="height and width of a folder's images, in pixels")
        ] = 32,
        grayscale: Annotated[bool, Field(description="a folder's images in one channel, not three")] = False,
        background: Behind = "white",
        range: Range = None,
        depth: Depth = 1,
        splits: Annotated[
            Literal["random", "folders"],
            Field(description="by shares, or by a folder's folders train, validation, test"),
        ] = "random",
        train: Annotated[float, Field(gt=0, lt=1, description="share of examples for training")] = 0.8,
        validation: Annotated[float, Field(gt=0, lt=1, description="share of examples for validation")] = 0.1,
        split_seed: Annotated[int, Field(ge=0, description="which examples go where")] = 0,
        min_images: MinImages = 0,
        skip_damaged: SkipDamaged = False,
        clean: Clean = 0,
        noise: NoiseKind = None,
        noise_rate: NoiseRate = None,
        imbalance: Imbalance = 1.0,
    ) -> None:
        where = Path(path)
        self._name, self._batch = legible(where.stem), batch
        self._remarks: tuple[str, ...] = ()
        rng = np.random.default_rng(split_seed)
        if where.suffix == ".npz":
            if splits != "random":
                raise ConfigError(
                    f"tasks.splits={splits}: {legible(where)} is a file, not a folder of splits."
                )
            self._images, self._labels, self._classes = _from_file(where)
            self._splits = _divide(rng.permutation(len(self._images)), train, validation)
        else:
            made = decoding(size, grayscale, background, range)
            found = read_classes(where, splits, depth, min_images, skip_damaged, made)
            self._images, self._remarks = found.images, found.remarks
            self._labels, self._classes = _labels(found)
            examples = rng.permutation(np.flatnonzero(self._labels >= 0))
            if splits == "random":
                self._splits = _divide(examples, train, validation)
            else:
                self._splits = _by_folder(found.classes, examples, validation)
        self._true = self._labels
        self._clean = np.empty(0, dtype=np.int64)
        self._worse(clean, noise, noise_rate, imbalance, split_seed)

    def _worse(
        self, clean: int, noise: Noise | None, rate: float | None, imbalance: float, seed: int
    ) -> None:
        """Take clean examples out of training, thin it out, and make labels wrong, as the settings say."""
        if (noise is None) != (rate is None):
            given, lacking = ("noise", "noise_rate") if rate is None else ("noise_rate", "noise")
            raise ConfigError(f"tasks.{given} is set, and tasks.{lacking} is not. Set both, or none.")
        rngs = [np.random.default_rng([seed, what]) for what in (1, 2, 3)]
        train, told = self._splits["train"], []
        if (noise or imbalance > 1) and self._classes < 2:
            setting = "noise" if noise else "imbalance"
            raise ConfigError(f"tasks.{setting}: the data has one class; at least 2 are needed.")
        if clean:
            self._clean, train = hold_out(self._labels, train, self._classes, clean, rngs[0])
            self._check_apart(clean, train)
            told.append(f"{clean} clean a class")
        if imbalance > 1:
            train = long_tail(self._labels, train, self._classes, imbalance, rngs[1])
            told.append(f"imbalance {imbalance:g}")
        if noise is not None and rate is not None:
            self._labels = mislabelled(self._true, train, self._classes, noise, rate, rngs[2])
            told.append(f"{rate:.0%} {noise} noise")
        self._splits["train"] = train
        _enough(self._splits)
        self._suffix = "".join(f", {what}" for what in told)

    def _check_apart(self, clean: int, train: Indices) -> None:
        """Refuse clean examples that training has, too."""
        seen = {self._images[number].tobytes() for number in train}
        twice = sum(self._images[number].tobytes() in seen for number in self._clean)
        if twice:
            raise ConfigError(
                f"tasks.clean={clean}: {twice} of {len(self._clean)} clean images are among the training "
                "images, too: the data has them twice. Remove one of each."
            )

    @property
    def shape(self) -> TaskShape:
        """One image to all classes."""
        return TaskShape(tuple(self._images.shape[1:]), self._classes)

    @property
    def label(self) -> str:
        """The data's name and its classes, such as `cifar10, 10 classes`, and what was made worse."""
        return f"{self._name}, {self._classes} classes{self._suffix}"

    def sample(self, split: Split, tasks: int, rng: np.random.Generator) -> Episode:
        """Draw `tasks` minibatches, each of distinct examples; a smaller split gives all that it has."""
        drawn = self.minibatches(_drawn(self._examples(split), tasks, self._batch, rng))
        if split != "train" or not len(self._clean):
            return drawn
        return replace(drawn, clean=self.minibatches(_drawn(self._clean, tasks, self._batch, rng)))

    def episodes(self, split: Split, count: int) -> Iterator[Episode]:
        """Yield the fixed list of `count` minibatches."""
        pool = self._examples(split)
        rng = np.random.default_rng([EPISODE_LIST_SEED, SPLITS.index(split)])
        ahead = np.empty(0, dtype=np.int64)
        for _ in range(count):
            while len(ahead) < self._batch:
                ahead = np.concatenate([ahead, rng.permutation(pool)])
            drawn = self.minibatches(ahead[None, : self._batch])
            if split == "train" and len(self._clean):
                drawn = replace(drawn, clean=self.minibatches(_drawn(self._clean, 1, self._batch, rng)))
            yield drawn
            ahead = ahead[self._batch :]

    def bilevel(self) -> tuple[TaskSource, TaskSource]:
        """Return two sources with one half of the training examples each."""
        middle = len(self._splits["train"]) // 2
        one, other = np.split(self._splits["train"], [middle])
        return self._trained_on(one), self._trained_on(other)

    def fingerprint(self, split: Split) -> tuple[str, str]:
        """Return the split's name, such as `supervised/cifar10/validation`, and a hash of its examples."""
        pool = np.sort(self._examples(split))
        if split == "train":
            pool = np.concatenate([pool, np.sort(self._clean)])
        digest = hashlib.sha256(np.ascontiguousarray(self._images[pool]).data)
        digest.update(np.ascontiguousarray(self._labels[pool]).data)
        return f"{self.name}/{self._name}/{split}", digest.hexdigest()[:16]

    def members(self, split: Split) -> frozenset[str]:
        """Return the split's examples, by the data's name and their number in it."""
        beside = self._clean if split == "train" else ()
        return frozenset(f"{self._name}/{number}" for number in (*self._splits.get(split, ()), *beside))

    def wrong(self) -> tuple[Indices, npt.NDArray[np.bool_]]:
        """Return the numbers of the training examples, and which have a wrong label: for audits alone."""
        train = self._splits["train"]
        return train, self._labels[train] != self._true[train]

    @property
    def remarks(self) -> tuple[str, ...]:
        """What is left out, and what looks wrong with the images."""
        return self._remarks

    def _examples(self, split: Split) -> Indices:
        if split not in self._splits:
            raise lacking(f"{self.name}/{self._name}", split, self._splits)
        return self._splits[split]

    def _trained_on(self, examples: Indices) -> Self:
        part = copy.copy(self)
        part._splits = {**self._splits, "train": examples}
        return part

    def minibatches(self, chosen: Indices) -> Episode:
        """Return examples `[tasks, k]`, by their numbers in the data, as minibatches."""
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


def _drawn(pool: Indices, tasks: int, most: int, rng: np.random.Generator) -> Indices:
    """Return distinct examples for each of `tasks` minibatches, `most` at most."""
    count = min(most, len(pool))
    return np.stack([pool[rng.choice(len(pool), count, replace=False)] for _ in range(tasks)])


Labelled = tuple[Pixels, Indices, int]
"""Images `[N, C, H, W]`, labels `[N]` from 0 on, and the number of classes."""


NO_CLASS = -1
"""The label of an image whose class is left out."""


def _labels(found: ClassFolders) -> tuple[Indices, int]:
    """Return a label for each image of a folder, and the number of classes."""
    names = {name: label for label, name in enumerate(dict.fromkeys(one.name for one in found.classes))}
    labels = np.full(len(found.images), NO_CLASS)
    for one in found.classes:
        labels[one.start : one.start + one.count] = names[one.name]
    return labels, len(names)


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


def _divide(examples: Indices, train: float, validation: float) -> dict[Split, Indices]:
    """Divide shuffled examples."""
    if train + validation >= 1:
        raise ConfigError(
            f"tasks.train + tasks.validation: {train} + {validation} leaves no example for test; the sum "
            "must be below 1."
        )
    ends = [round(train * len(examples)), round((train + validation) * len(examples))]
    return _enough(dict(zip(SPLITS, np.split(examples, ends), strict=True)))


def _by_folder(classes: Sequence[ImageClass], examples: Indices, validation: float) -> dict[Split, Indices]:
    """Return the shuffled examples of each split's folder; see to it that train has all classes."""
    unknown = {one.name for one in classes} - {one.name for one in classes if one.split == "train"}
    if unknown:
        raise ConfigError(
            f"tasks.splits=folders: the folder of train lacks {len(unknown)} classes that other splits have: "
            f"{first(sorted(unknown))}. Ordinary data has the same classes in all splits; the tasks "
            "'image_folder' test on classes that are not trained on."
        )
    splits: dict[Split, Indices] = {}
    for split in SPLITS:
        owned = [np.arange(one.start, one.start + one.count) for one in classes if one.split == split]
        if owned:
            splits[split] = examples[np.isin(examples, np.concatenate(owned))]
    if "validation" not in splits:
        cut = round(validation * len(splits["train"]))
        splits["validation"], splits["train"] = np.split(splits["train"], [cut])
    return _enough(splits)


def _enough(splits: dict[Split, Indices]) -> dict[Split, Indices]:
    """Return the splits if each, and each half of the training examples, has an example."""
    if min(len(splits["train"]) // 2, *(len(examples) for examples in splits.values())) < 1:
        raise ConfigError(
            f"tasks.path: {sum(map(len, splits.values()))} examples are too few to divide into "
            f"{', '.join(splits)}: {', '.join(str(len(examples)) for examples in splits.values())}."
        )
    return splits
