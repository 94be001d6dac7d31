"""How images look: their range, ink and background, and how those of one source differ from another's."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from nas.tasks.base import Split, TaskSource

TASKS = 32
"""Tasks whose images are looked at."""

UNIFORM = 0.75
"""Share of the pixels at an image's border that must be near the usual value for it to be a background."""

NEAR = 0.2
"""How far from a value a pixel is near it, as a share of the range that is used: pages have shadows."""

APART = 0.2
"""Difference of two values from 0 to 1 that is worth a word."""


TOGETHER = "Set tasks.range to bring them together."


@dataclass(frozen=True, slots=True)
class Appearance:
    """How images look, in values from 0 to 1, all channels averaged.

    Attributes:
        mean: of all pixels.
        low, high: the values that 1 % of all pixels are below, and above.
        background: the usual value at the border; None where it varies, as in photographs.
        ink: the mean of what differs from the background by more than half of what any pixel does; None
            without a background, or where nothing differs.
    """

    mean: float
    low: float
    high: float
    background: float | None
    ink: float | None

    def __str__(self) -> str:
        """Return it in a few words, such as `mean 0.08, range 0.00 to 1.00, ink 0.93 on 0.00`."""
        drawn = "no uniform background"
        if self.background is not None:
            ink = "no ink" if self.ink is None else f"ink {self.ink:.2f}"
            drawn = f"{ink} on {self.background:.2f}"
        return f"mean {self.mean:.2f}, range {self.low:.2f} to {self.high:.2f}, {drawn}"


def appearance(tasks: TaskSource, split: Split) -> Appearance | None:
    """Return how the images of a split look, by some of its tasks; None where inputs are no images.

    Raises:
        ConfigError: the source has no such split.
    """
    if len(tasks.shape.input) != 3:
        return None
    episode = tasks.sample(split, TASKS, np.random.default_rng(0))
    images = np.concatenate([episode.support_x.flatten(0, 1).numpy(), episode.query_x.flatten(0, 1).numpy()])
    return look(images.mean(axis=1))


def look(images: npt.NDArray[np.float32]) -> Appearance:
    """Return how gray images `[n, height, width]` look."""
    low, high = np.quantile(images, (0.01, 0.99))
    border = np.concatenate(
        [images[:, 0].ravel(), images[:, -1].ravel(), images[:, :, 0].ravel(), images[:, :, -1].ravel()]
    )
    usual = float(np.median(border))
    near = NEAR * max(float(images.max() - images.min()), 1e-6)
    background = usual if float((abs(border - usual) <= near).mean()) >= UNIFORM else None
    ink = None
    if background is not None:
        distance = abs(images - background)
        if distance.max() > near:
            ink = float(images[distance > distance.max() / 2].mean())
    return Appearance(float(images.mean()), float(low), float(high), background, ink)


def differences(images: Appearance, trained: Appearance) -> tuple[str, ...]:
    """Return how images differ from those that a model was trained on, and which settings mend it.

    Args:
        images: those that the model is to be used on.
        trained: those that it learned from.
    """
    if images.background is None and trained.background is not None:
        return ("The images have no uniform background, as photographs; those of training had one.",)
    if images.background is not None and trained.background is None:
        return ("The images have a uniform background; those of training had none, as photographs.",)
    found = []
    if None not in (images.ink, trained.ink):
        here = f"{images.ink:.2f} on {images.background:.2f}"
        there = f"{trained.ink:.2f} on {trained.background:.2f}"
        if _bright(images) != _bright(trained):
            words = {True: "brighter", False: "darker"}
            found.append(
                f"Ink is {words[_bright(images)]} than its background ({here}); in training it was "
                f"{words[_bright(trained)]} ({there}). Swap the ends of tasks.range to invert the images, as "
                "in tasks.range=[255,0]."
            )
        elif _apart(images.ink, trained.ink) or _apart(images.background, trained.background):
            found.append(f"Ink is {here}; in training it was {there}. {TOGETHER}")
    if not found and (_apart(images.low, trained.low) or _apart(images.high, trained.high)):
        found.append(
            f"Values go from {images.low:.2f} to {images.high:.2f}; in training from {trained.low:.2f} to "
            f"{trained.high:.2f}. {TOGETHER}"
        )
    if not found and _apart(images.mean, trained.mean):
        found.append(f"The mean is {images.mean:.2f}; in training it was {trained.mean:.2f}.")
    return tuple(found)


def _bright(drawn: Appearance) -> bool:
    """Return whether ink is brighter than the background."""
    return drawn.ink is not None and drawn.background is not None and drawn.ink > drawn.background


def _apart(one: float | None, other: float | None) -> bool:
    return one is not None and other is not None and abs(one - other) > APART
