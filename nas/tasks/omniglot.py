"""Omniglot, Lake, Salakhutdinov and Tenenbaum 2015: 1,623 handwritten characters, 20 drawings each."""

from __future__ import annotations

import io
import random
import zipfile
import zlib
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, ClassVar, Literal, final

import numpy as np
import numpy.typing as npt
from PIL import Image
from pydantic import Field

from nas.tasks import files
from nas.tasks.base import Split
from nas.tasks.cache import Arrays, cached
from nas.tasks.data import data_root, missing
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

CHARACTERS = 1623
PUBLISHED = 105
SIZE = 28
SETS = ("images_background.zip", "images_evaluation.zip")
VINYALS: dict[Split, str] = {"train": "train.txt", "validation": "val.txt", "test": "test.txt"}
FINN: dict[Split, int] = {"train": 1100, "validation": 100, "test": 423}

CharacterSplits = dict[Split, Sequence[str]]


@final
class Omniglot(PooledSource):
    """Handwritten characters as 28×28 images, ink 1 on paper 0.

    Each pixel is the exact share of ink in its area of the published 105×105 drawing. `vinyals` splits the
    characters by the lists of Vinyals et al. 2016 that Snell et al. 2017 published: 1,028 / 172 / 423
    characters, the validation alphabets on their own. `finn` shuffles all characters as Finn et al. 2017 do,
    1,100 / 100 / 423, from alphabetical order (theirs was the file system's). With `rotations`, each
    character turned counter-clockwise by 90°, 180° and 270° makes three more classes of its split.

    Reads the two published zips, or the folders unpacked from them, and `splits/vinyals/*.txt`, all in
    `omniglot/` below `NAS_DATA` or the user's data folder.

    Raises:
        DataMissing: the data are not there, or not all of them.
        ConfigError: a task takes more classes or drawings than there are.
    """

    name: ClassVar[str] = "omniglot"
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
        split: Annotated[
            Literal["vinyals", "finn"], Field(description="whose division of the characters")
        ] = "vinyals",
        rotations: Annotated[bool, Field(description="count rotations by 90° as new classes")] = True,
    ) -> None:
        folder = data_root() / self.name
        drawings = _load(folder)
        characters: list[str] = drawings["characters"].tolist()
        splits = _vinyals(folder, characters) if split == "vinyals" else finn_split(characters)
        turns = 4 if rotations else 1
        images = np.concatenate([np.rot90(drawings["images"], turn, axes=(1, 2)) for turn in range(turns)])
        starts = dict(zip(characters, drawings["starts"].tolist(), strict=True))
        counts = dict(zip(characters, drawings["counts"].tolist(), strict=True))
        rotated = [(turn, turn * len(drawings["images"])) for turn in range(turns)]
        self._tasks = ImageTasks(
            name=f"{self.name}/{split}" if rotations else f"{self.name}/{split}-upright",
            images=images[:, None],
            splits={
                part: Classes(
                    names=tuple(f"{name}/rot{90 * turn:03}" for name in chosen for turn, _ in rotated),
                    starts=np.array([starts[name] + offset for name in chosen for _, offset in rotated]),
                    counts=np.array([counts[name] for name in chosen for _ in rotated]),
                )
                for part, chosen in splits.items()
            },
            ways=ways,
            shots=shots,
            queries=queries,
            train_ways=train_ways,
            train_shots=train_shots,
            train_queries=train_queries,
            noise_rate=noise_rate,
        )


def finn_split(characters: Sequence[str]) -> CharacterSplits:
    """Divide all 1,623 characters into 1,100 / 100 / 423 by a shuffle with seed 1.

    Raises:
        DataMissing: there are not 1,623.
    """
    if len(characters) != CHARACTERS:
        raise missing("omniglot", f"it has {len(characters):,} of the {CHARACTERS:,} characters")
    shuffled = sorted(characters)
    random.Random(1).shuffle(shuffled)
    ends = np.cumsum([0, *FINN.values()]).tolist()
    return {split: shuffled[ends[i] : ends[i + 1]] for i, split in enumerate(FINN)}


def area_average(ink: npt.NDArray[np.bool_], size: int = SIZE) -> Pixels:
    """Shrink square drawings `[n, side, side]` to `[n, size, size]`: 255 × the share of ink in each area."""
    side = ink.shape[-1]
    edges = side * np.arange(size + 1)
    cells = size * np.arange(side + 1)
    overlap = np.minimum(edges[1:, None], cells[1:]) - np.maximum(edges[:-1, None], cells[:-1])
    weights = overlap.clip(0).astype(np.float32)
    covered = weights @ ink.astype(np.float32) @ weights.T
    pixels: Pixels = np.rint(covered * (255 / side**2)).astype(np.uint8)
    return pixels


def _vinyals(folder: Path, characters: Sequence[str]) -> CharacterSplits:
    known = set(characters)
    splits: CharacterSplits = {}
    for split, file in VINYALS.items():
        path = folder / "splits" / "vinyals" / file
        try:
            lines = path.read_text(encoding="utf-8").split()
        except OSError as error:
            raise missing("omniglot", f"{path} {_reason(error)}") from error
        splits[split] = list(dict.fromkeys(line.rpartition("/")[0] for line in lines))
        absent = next((name for name in splits[split] if name not in known), None)
        if absent is not None:
            raise missing("omniglot", f"the images of '{absent}', listed in {path}, are not there")
    return splits


def _load(folder: Path) -> Arrays:
    """Return `images` `[n, 28, 28]`, and by character: `characters` (their names), `starts` and `counts`."""
    paths = [_stored(folder / name) for name in SETS]
    sources = [source for path in paths for source in files.sources(path)]
    return cached("omniglot", f"size={SIZE} version=1", sources, lambda: _read(paths))


def _stored(path: Path) -> Path:
    found = files.stored(path)
    if found is None:
        raise missing("omniglot", f"{path} is not there")
    return found


def _read(paths: Sequence[Path]) -> Arrays:
    drawings: dict[str, list[npt.NDArray[np.bool_]]] = defaultdict(list)
    for path in paths:
        name = path.name
        try:
            for name, content in files.contents(path):
                character = "/".join(name.split("/")[1:3])
                drawings[character].append(_ink(content))
        except (OSError, SyntaxError, ValueError, zipfile.BadZipFile, zlib.error) as error:
            raise missing("omniglot", f"{name} in {path} {_reason(error)}") from error
    characters = sorted(drawings)
    counts = np.array([len(drawings[name]) for name in characters])
    return {
        "images": np.concatenate([area_average(np.stack(drawings[name])) for name in characters]),
        "characters": np.array(characters),
        "starts": counts.cumsum() - counts,
        "counts": counts,
    }


def _ink(png: bytes) -> npt.NDArray[np.bool_]:
    with Image.open(io.BytesIO(png)) as image:
        pixels = np.asarray(image.convert("L"))
    if pixels.shape != (PUBLISHED, PUBLISHED):
        raise ValueError(f"is {pixels.shape[1]}×{pixels.shape[0]}, not {PUBLISHED}×{PUBLISHED}")
    return pixels < 128


def _reason(error: Exception) -> str:
    return "is not there" if isinstance(error, FileNotFoundError) else f"is damaged ({error})"
