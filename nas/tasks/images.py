"""N-way K-shot tasks over one array of images."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Self

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field
from torch import Tensor

from nas.errors import ConfigError
from nas.space import TaskShape
from nas.tasks.base import Episode, Split, class_hash

Ways = Annotated[int, Field(ge=2, description="classes of a task")]
Shots = Annotated[int, Field(ge=1, description="support examples of each class")]
Queries = Annotated[int, Field(ge=1, description="query examples of each class")]
TrainWays = Annotated[int | None, Field(ge=2, description="classes of a training task, if other than ways")]
TrainShots = Annotated[int | None, Field(ge=1, description="shots of a training task, if other than shots")]
TrainQueries = Annotated[
    int | None, Field(ge=1, description="queries of a training task, if other than queries")
]
SupportNoise = Annotated[
    float,
    Field(ge=0, lt=1, description="share of support images that show another class of their task"),
]

TRAINING_SETTINGS = ("train_ways", "train_shots", "train_queries")
"""Those of the settings above that concern training tasks alone."""

Indices = npt.NDArray[np.int64]
Pixels = npt.NDArray[np.uint8]
Values = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Classes:
    """The classes of one split: class i owns the images from `starts[i]` to `starts[i] + counts[i]`.

    Attributes:
        names: of the classes.
        starts, counts: where their images are.
        without: images of theirs that are left out, by name.
    """

    names: tuple[str, ...]
    starts: Indices
    counts: Indices
    without: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ImageTasks:
    """Draws N-way K-shot tasks from a pool of images.

    Attributes:
        name: what `fingerprint` puts before the split, such as `omniglot/vinyals`.
        images: `[images, channels, height, width]` of bytes, or what stands for them: `[images, …]` of
            float32, which are taken as they are. Only ever read, so that processes may share it.
        splits: the classes of each split that there is.
        ways, shots, queries: of every task.
        train_ways, train_shots, train_queries: of the tasks of split `train`, where they are other. Papers
            train so: prototypical networks on 60 ways for 20, Reptile on 10 shots for 1.
        noise_rate: share of the support images that show another class of the task, drawn uniformly, in every
            split: so many labels are wrong. Such images are in the task nowhere else.
        selects: whether the source can leave out small classes, by `tasks.min_images`.
        more_classes: what else than fewer ways gives each split enough classes, such as `add classes`.

    Raises:
        ConfigError: a split has fewer classes, or a class fewer images, than one task of the split takes.
    """

    name: str
    images: Pixels | Values
    splits: Mapping[Split, Classes]
    ways: int
    shots: int
    queries: int
    train_ways: int | None = None
    train_shots: int | None = None
    train_queries: int | None = None
    noise_rate: float = 0.0
    selects: bool = False
    more_classes: str = ""

    def __post_init__(self) -> None:
        # The smallest split, then the smallest class, first: what fits it fits all with the same settings.
        for split, classes in sorted(self.splits.items(), key=lambda item: len(item[1].names)):
            of_ways, ways = self._sizes(split)[0]
            found = len(classes.names)
            if found < ways:
                remedies = [f"lower tasks.{of_ways} to {found}"] if found >= 2 else []
                remedies += [self.more_classes] if self.more_classes else []
                told = ", or ".join(remedies) or "a task has at least 2 classes"
                raise ConfigError(
                    f"tasks.{of_ways}: {ways} is more than the {found} {_noun(found, 'class', 'classes')} of "
                    f"split '{split}' of {self.name}. {told[0].upper() + told[1:]}."
                )
        for split, classes in sorted(self.splits.items(), key=lambda item: int(item[1].counts.min())):
            _, (of_shots, shots), (of_queries, queries) = self._sizes(split)
            smallest = int(classes.counts.argmin())
            images = int(classes.counts[smallest])
            if images < shots + queries:
                most = {of_shots: images - queries, of_queries: images - shots}
                fits = [f"tasks.{name} to {greatest}" for name, greatest in most.items() if greatest >= 1]
                if fits:
                    advice = f"Lower {' or '.join(fits)}."
                elif images >= 2:
                    advice = f"Lower both, to {images} together."
                else:
                    advice = "Leave out classes of less than two images."
                if self.selects:
                    advice += f" Or set tasks.min_images={shots + queries} to leave out smaller classes."
                raise ConfigError(
                    f"tasks.{of_shots} + tasks.{of_queries}: {shots} + {queries} is more than the {images} "
                    f"{_noun(images, 'image', 'images')} of class '{classes.names[smallest]}' in split "
                    f"'{split}' of {self.name}. {advice}"
                )
            if self.noise_rate and images < 2 * shots + queries:
                raise ConfigError(
                    f"tasks.noise_rate: a wrong image comes beside those of a task, so that a class needs "
                    f"{2 * shots + queries} images, and class '{classes.names[smallest]}' of {self.name} has "
                    f"{images}. Lower tasks.{of_queries}, or leave it out."
                )

    @property
    def shape(self) -> TaskShape:
        """One image, and as many outputs as `ways`."""
        classes = len(self.splits["train"].names) if "train" in self.splits else None
        return TaskShape(tuple(self.images.shape[1:]), self.ways, classes)

    @property
    def setting(self) -> str:
        """The setting as papers write it, such as `20-way 1-shot`, and the noise, if there is any."""
        noise = f", {self.noise_rate:.0%} noise" if self.noise_rate else ""
        return f"{self.ways}-way {self.shots}-shot{noise}"

    def fingerprint(self, split: Split) -> tuple[str, str]:
        """Return the split's full name, and the hash of the names of its classes and of what these lack.

        Raises:
            ConfigError: there is no such split.
        """
        classes = self._classes(split)
        return f"{self.name}/{split}", class_hash((*classes.names, *classes.without))

    def members(self, split: Split) -> frozenset[str]:
        """Return the names of a split's classes; none if there is no such split."""
        return frozenset(self.splits[split].names if split in self.splits else ())

    def examples(self, split: Split) -> Iterator[tuple[str, Tensor]]:
        """Yield the classes of a split, each with all its images; none if there is no such split."""
        if split in self.splits:
            pool = self.splits[split]
            for name, start, count in zip(pool.names, pool.starts, pool.counts, strict=True):
                yield name, self._images(np.arange(start, start + count)[None])[0]

    def sample(self, split: Split, tasks: int, rng: np.random.Generator) -> Episode:
        """Draw `tasks` tasks: distinct classes in random order, of each distinct images; values in [0, 1].

        Raises:
            ConfigError: there is no such split.
        """
        pool = self._classes(split)
        ways, shots, queries = (size for _, size in self._sizes(split))
        classes = draw_distinct(np.full(tasks, len(pool.names)), ways, rng)
        spare = shots if self.noise_rate else 0
        drawn = draw_distinct(pool.counts[classes], shots + queries + spare, rng)
        drawn += pool.starts[classes][..., None]
        if spare:
            drawn = self._worse(drawn[..., :-spare], drawn[..., -spare:], rng)
        labels = torch.arange(ways)
        return Episode(
            support_x=self._images(drawn[..., :shots]),
            support_y=labels.repeat_interleave(shots).repeat(tasks, 1),
            query_x=self._images(drawn[..., shots:]),
            query_y=labels.repeat_interleave(queries).repeat(tasks, 1),
            ways=ways,
            shots=shots,
            classes=classes,
        )

    def _worse(self, drawn: Indices, spare: Indices, rng: np.random.Generator) -> Indices:
        """Put spare images `[tasks, ways, shots]` of other classes in the place of some supports."""
        tasks, ways, shots = spare.shape
        other = (np.arange(ways)[:, None] + rng.integers(1, ways, spare.shape)) % ways
        wrong = rng.random(spare.shape) < self.noise_rate
        images = spare[np.arange(tasks)[:, None, None], other, np.arange(shots)]
        support = np.where(wrong, images, drawn[..., :shots])
        return np.concatenate([support, drawn[..., shots:]], axis=-1)

    def halves(self) -> tuple[Self, Self]:
        """Return two with one half of the training classes each, in their order.

        Raises:
            ConfigError: these are fewer than a task takes.
        """
        whole, (of_ways, ways) = self._classes("train"), self._sizes("train")[0]
        middle = len(whole.names) // 2
        if middle < ways:
            raise ConfigError(
                f"tasks.{of_ways}: one half of the training classes of {self.name} judges what the other "
                f"half learns from, and {ways} is more than the {middle} of a half. Lower it."
            )
        return self._with(whole, slice(None, middle)), self._with(whole, slice(middle, None))

    def _with(self, classes: Classes, some: slice) -> Self:
        part = Classes(classes.names[some], classes.starts[some], classes.counts[some], classes.without)
        return replace(self, splits={**self.splits, "train": part})

    def _classes(self, split: Split) -> Classes:
        if split not in self.splits:
            raise lacking(self.name, split, self.splits)
        return self.splits[split]

    def _sizes(self, split: Split) -> list[tuple[str, int]]:
        """Return the ways, shots and queries of a split's tasks, each after the setting that decides it."""
        sizes = [("ways", self.ways), ("shots", self.shots), ("queries", self.queries)]
        if split != "train":
            return sizes
        others = (self.train_ways, self.train_shots, self.train_queries)
        return [
            (name, size) if other is None else (f"train_{name}", other)
            for (name, size), other in zip(sizes, others, strict=True)
        ]

    def _images(self, chosen: Indices) -> Tensor:
        """Return images `[tasks, ways, k]` as float32 `[tasks, ways · k, channels, height, width]`."""
        found = torch.from_numpy(np.take(self.images, chosen.reshape(len(chosen), -1), axis=0))
        return found if found.dtype == torch.float32 else found.to(torch.float32).div_(255)


def lacking(name: str, split: Split, splits: Iterable[Split]) -> ConfigError:
    """Return the error for a split that a source has not: a folder may be for test only."""
    return ConfigError(
        f"tasks.splits: {name} has no {split} split; all it has is for: {', '.join(splits)}. Leave "
        f"tasks.splits out to divide it, or with tasks.splits=folders add a folder {split}."
    )


def draw_distinct(limits: Indices, count: int, rng: np.random.Generator) -> Indices:
    """Draw `count` distinct integers below each limit, in random order: `[*limits.shape, count]`.

    Every ordered choice is equally likely: the smallest of independent uniform keys, sorted by key.
    """
    keys = rng.random((*limits.shape, limits.max()))
    if limits.min() < limits.max():
        keys[np.arange(keys.shape[-1]) >= limits[..., None]] = np.inf
    smallest = np.argpartition(keys, count - 1, axis=-1)[..., :count]
    order = np.take_along_axis(keys, smallest, axis=-1).argsort(axis=-1)
    return np.take_along_axis(smallest, order, axis=-1)


def _noun(number: int, one: str, several: str) -> str:
    return one if number == 1 else several
