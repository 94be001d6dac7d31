"""Training examples made worse on purpose: wrong labels, long tails; and a few known to be right."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

import numpy as np
from pydantic import Field

from nas.errors import ConfigError
from nas.tasks.images import Indices

Noise: TypeAlias = Literal["uniform", "flip"]

Clean = Annotated[
    int, Field(ge=0, description="clean examples of each class, taken out of training, that judge the others")
]
NoiseKind = Annotated[
    Noise | None,
    Field(description="wrong training labels: drawn uniformly, or flipped to one other class of each"),
]
NoiseRate = Annotated[
    float | None, Field(ge=0, le=1, description="share of the training labels drawn or flipped by noise")
]
Imbalance = Annotated[
    float, Field(ge=1, description="training examples of the first class for one of the last: a long tail")
]


def hold_out(
    labels: Indices, examples: Indices, classes: int, count: int, rng: np.random.Generator
) -> tuple[Indices, Indices]:
    """Take examples of each class out of others; return these, and what is left in its order.

    Args:
        labels: of all examples.
        examples: those to choose from.
        classes: how many there are.
        count: of each class.
        rng: chooses.

    Raises:
        ConfigError: a class has no more than these.
    """
    counts = np.bincount(labels[examples], minlength=classes)
    if counts.min() <= count:
        raise ConfigError(
            f"tasks.clean={count}: class {counts.argmin()} has {counts.min()} training examples, of which at "
            f"least one must be left to train on. Set it to at most {max(0, counts.min() - 1)}."
        )
    taken = [rng.permutation(examples[labels[examples] == label])[:count] for label in range(classes)]
    chosen = np.concatenate(taken)
    return chosen, examples[~np.isin(examples, chosen)]


def long_tail(
    labels: Indices, examples: Indices, classes: int, factor: float, rng: np.random.Generator
) -> Indices:
    """Return fewer examples, in their order: n·factor^(−k/(C−1)) of class k of C (Cui et al. 2019).

    n is the size of the smallest class, so that the first class has `factor` examples for one of the last.

    Raises:
        ConfigError: none would be left of the last class.
    """
    counts = np.bincount(labels[examples], minlength=classes)
    if counts.min() < factor:
        raise ConfigError(
            f"tasks.imbalance={factor:g}: the smallest class has {counts.min()} training examples, so that "
            f"none would be left of the last one. Set it to at most {counts.min()}."
        )
    kept = np.rint(counts.min() * factor ** -(np.arange(classes) / (classes - 1))).astype(np.int64)
    chosen = [
        rng.permutation(examples[labels[examples] == label])[:number] for label, number in enumerate(kept)
    ]
    return examples[np.isin(examples, np.concatenate(chosen))]


def mislabelled(
    labels: Indices, examples: Indices, classes: int, kind: Noise, rate: float, rng: np.random.Generator
) -> Indices:
    """Return the labels of all examples, some of the given examples' wrong.

    Args:
        labels: of all examples, true.
        examples: those that may get another label.
        classes: C.
        kind: `uniform`: with probability `rate` a label is drawn anew from all C, so that rate·(1 − 1/C) of
            them are wrong; `flip`: it becomes that of one other class, drawn once for each class.
        rate: p; the matrix of labels is p/C + (1 − p)I or (1 − p)I with one p a row (Shu et al. 2019, §4.2).
        rng: draws.
    """
    hit = examples[rng.random(len(examples)) < rate]
    found = labels.copy()
    if kind == "uniform":
        found[hit] = rng.integers(classes, size=len(hit))
    else:
        other = (np.arange(classes) + rng.integers(1, classes, size=classes)) % classes
        found[hit] = other[labels[hit]]
    return found
