"""Characters of made-up alphabets, drawn by code: few-shot images without a download."""

from __future__ import annotations

import math
from functools import lru_cache
from itertools import combinations
from typing import Annotated, ClassVar, final

import numpy as np
import numpy.typing as npt
from pydantic import Field

from nas.tasks.base import Split
from nas.tasks.images import (
    TRAINING_SETTINGS,
    Classes,
    ImageTasks,
    Pixels,
    Queries,
    Shots,
    SupportNoise,
    TrainQueries,
    TrainShots,
    TrainWays,
    Ways,
)
from nas.tasks.pooled import PooledSource

Floats = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

ALPHABETS: dict[Split, int] = {"train": 20, "validation": 6, "test": 6}
CHARACTERS = 10
DRAWINGS = 20
SIZE = 28
RADIUS = 9.5
"""Half the longer side of a character, in pixels."""

STOCK = 6
"""Strokes that the characters of one alphabet are made of."""
SIGNS = [set_ for count in (2, 3) for set_ in combinations(range(STOCK), count)]
"""The sets of strokes that make a character; no two characters of an alphabet are made of the same."""
STROKES = max(map(len, SIGNS))
POINTS = np.linspace(0.0, 1.0, 48)
"""Where a stroke is evaluated."""


@final
class Glyphs(PooledSource):
    """Handwriting-like characters as 28×28 images, ink 1 on paper 0; nothing is downloaded.

    An alphabet is a stock of six strokes, each a cubic Bézier curve; a character is two or three of them,
    joined at an end or in the middle. Each drawing bends and moves the strokes, starts and ends them
    elsewhere, and slants, turns, stretches, shifts and thickens the whole. The characters of one alphabet
    share strokes, so some are easily confused. There are 20 / 6 / 6 alphabets of 10 characters for training
    / validation / test, 20 drawings a character.

    Raises:
        ConfigError: a task takes more classes or drawings than there are.
    """

    name: ClassVar[str] = "glyphs"
    training_settings: ClassVar[tuple[str, ...]] = TRAINING_SETTINGS

    def __init__(
        self,
        *,
        ways: Ways = 5,
        shots: Shots = 1,
        queries: Queries = 5,
        train_ways: TrainWays = None,
        train_shots: TrainShots = None,
        train_queries: TrainQueries = None,
        noise_rate: SupportNoise = 0.0,
        seed: Annotated[int, Field(ge=0, description="which alphabets")] = 0,
    ) -> None:
        splits: dict[Split, Classes] = {}
        first = 0
        for split, count in ALPHABETS.items():
            classes = np.arange(first, first := first + count * CHARACTERS)
            splits[split] = Classes(
                names=tuple(
                    f"{seed}/alphabet{c // CHARACTERS:02}/character{c % CHARACTERS}" for c in classes
                ),
                starts=classes * DRAWINGS,
                counts=np.full(len(classes), DRAWINGS),
            )
        self._tasks = ImageTasks(
            name=f"{self.name}/{seed}",
            images=draw_alphabets(seed)[:, None],
            splits=splits,
            ways=ways,
            shots=shots,
            queries=queries,
            train_ways=train_ways,
            train_shots=train_shots,
            train_queries=train_queries,
            noise_rate=noise_rate,
        )


@lru_cache(maxsize=4)
def draw_alphabets(seed: int) -> Pixels:
    """Draw all alphabets, `[drawings, SIZE, SIZE]`, 5 MB; a process draws those of a seed once."""
    rng = np.random.default_rng(seed)
    drawings = np.concatenate([draw_alphabet(rng) for _ in range(sum(ALPHABETS.values()))])
    drawings.setflags(write=False)
    return drawings


def draw_alphabet(rng: np.random.Generator, drawings: int = DRAWINGS) -> Pixels:
    """Invent an alphabet and draw it: `[CHARACTERS · drawings, SIZE, SIZE]`, character by character."""
    strokes, used = _characters(rng)
    strokes = np.repeat(strokes, drawings, axis=0)
    used = np.repeat(used, drawings, axis=0)
    curves = _handwriting(strokes, rng)
    return render((SIZE - 1) / 2 + RADIUS * curves, used, rng.uniform(0.55, 0.95, len(curves)))


def bezier(control: Floats, t: Floats) -> Floats:
    """Evaluate cubic Bézier curves `[..., 4, 2]` at parameters `[..., points]`: `[..., points, 2]`."""
    t = t[..., None]
    s = 1 - t
    return np.concatenate([s**3, 3 * s**2 * t, 3 * s * t**2, t**3], axis=-1) @ control


def render(curves: Floats, used: Mask, thickness: Floats) -> Pixels:
    """Draw curves `[images, strokes, points, 2]`, in pixels (x, y), as `[images, SIZE, SIZE]`.

    A pixel's value is the line integral of a Gaussian around it along the strokes, made steeper and clipped.
    The Gaussian separates into x and y, so that an image is one matrix product over its points.

    Args:
        curves: densely sampled; points a thickness apart leave no gap.
        used: `[images, strokes]`, which strokes to draw.
        thickness: `[images]`, the Gaussian's standard deviation.
    """
    lengths = np.linalg.norm(np.diff(curves, axis=2), axis=-1) * used[..., None]
    ink = (np.pad(lengths, ((0, 0), (0, 0), (0, 1))) + np.pad(lengths, ((0, 0), (0, 0), (1, 0)))) / 2
    points = curves.reshape(len(curves), -1, 2, 1).astype(np.float32)
    sigma = thickness.astype(np.float32)[:, None, None]
    bumps = np.exp(-(((points - np.arange(SIZE, dtype=np.float32)) / sigma[..., None]) ** 2) / 2)
    rows = bumps[:, :, 1] * ink.reshape(len(curves), -1, 1).astype(np.float32)
    density = rows.swapaxes(1, 2) @ bumps[:, :, 0] / (sigma * math.sqrt(2 * math.pi))
    pixels: Pixels = np.rint(255 * (2 * density - 0.5).clip(0, 1)).astype(np.uint8)
    return pixels


def _characters(rng: np.random.Generator) -> tuple[Floats, Mask]:
    """Return an alphabet's control points `[CHARACTERS, STROKES, 4, 2]` and which strokes are used.

    Each character's box is centred on 0, its longer side from −1 to 1.
    """
    signs = [SIGNS[i] for i in rng.permutation(len(SIGNS))[:CHARACTERS]]
    used = np.arange(STROKES) < np.array([len(sign) for sign in signs])[:, None]
    strokes = _stock(rng)[[sign + (0,) * (STROKES - len(sign)) for sign in signs]]
    joints = rng.choice([0.0, 0.5, 1.0], (CHARACTERS, STROKES, 2, 1))
    for k in range(1, STROKES):
        here = bezier(strokes[:, k - 1], joints[:, k, 0])
        there = bezier(strokes[:, k], joints[:, k, 1])
        strokes[:, k] += here - there + rng.normal(0, 0.25, (CHARACTERS, 1, 2))
    curves = bezier(strokes, POINTS)
    low = np.where(used[..., None, None], curves, np.inf).min(axis=(1, 2), keepdims=True)
    high = np.where(used[..., None, None], curves, -np.inf).max(axis=(1, 2), keepdims=True)
    return (strokes - (low + high) / 2) * 2 / (high - low).max(axis=-1, keepdims=True), used


def _stock(rng: np.random.Generator) -> Floats:
    """Return the control points of strokes `[STOCK, 4, 2]`: straight, bowed, hooked or curled."""
    angle = rng.uniform(0, 2 * math.pi, (STOCK, 1, 1))
    along = np.concatenate([np.cos(angle), np.sin(angle)], axis=-1) * rng.uniform(0.8, 2.0, (STOCK, 1, 1))
    across = along[..., ::-1] * [-1, 1]
    progress = np.array([[0.0], [0.25], [0.75], [1.0]]) + _inner(rng, 0.3)
    return progress * along + _inner(rng, 0.8) * across


def _inner(rng: np.random.Generator, spread: float) -> Floats:
    """Return normal noise for the two inner control points of each stroke, none for its ends."""
    return np.pad(rng.normal(0, spread, (STOCK, 2, 1)), ((0, 0), (1, 1), (0, 0)))


def _handwriting(strokes: Floats, rng: np.random.Generator) -> Floats:
    """Write each character `[images, strokes, 4, 2]` by hand: its curves `[images, strokes, points, 2]`."""
    count, most = strokes.shape[:2]
    bent = strokes + rng.normal(0, 0.13, strokes.shape) + rng.normal(0, 0.09, (count, most, 1, 2))
    start, end = rng.uniform(-0.06, 0.12, (2, count, most, 1))
    curves = bezier(bent, start + (1 - end - start) * POINTS)
    turn, slant = rng.normal(0, 0.18, (2, count))
    width, height = np.exp(rng.normal(0, 0.15, (2, count)))
    stretch = np.array([[width, np.zeros(count)], [slant, height]])
    rotation = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    warp = np.einsum("ijn,jkn->nik", stretch, rotation)
    shift = rng.normal(0, 0.12, (count, 1, 1, 2))
    return np.asarray(curves @ warp[:, None] + shift)
