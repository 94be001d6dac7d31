"""Images from a folder of class folders: found, decoded once, and what is to be said of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import AfterValidator, Field

from nas.errors import ConfigError
from nas.files import legible
from nas.tasks.base import Split
from nas.tasks.cache import Arrays, cached
from nas.tasks.decoding import Background, Decoding, Floats, Values, decode
from nas.tasks.images import Pixels
from nas.tasks.listing import ClassFiles, Division, first, list_classes

SEPARATOR = "\n  "
"""Between files that a message lists."""


def _distinct(ends: list[float]) -> list[float]:
    if ends[0] == ends[1]:
        raise ValueError("the values that become 0 and 1 are the same")
    return ends


Depth = Annotated[int, Field(ge=1, description="folders down to a class: 2 for alphabet/character")]
MinImages = Annotated[int, Field(ge=0, description="classes of fewer images are left out")]
SkipDamaged = Annotated[bool, Field(description="leave out damaged files, and go on")]
Behind = Annotated[Background, Field(description="what shows where an image is transparent")]
Range = Annotated[
    Annotated[list[float], Field(min_length=2, max_length=2), AfterValidator(_distinct)] | None,
    Field(description="values of a file that become 0 and 1; default all of its format; [255, 0] inverts"),
]


@dataclass(frozen=True, slots=True)
class ImageClass:
    """One class: the images `start` to `start + count`.

    Attributes:
        name: as of `ClassFiles`.
        split: of the folder that it lies in; None where classes are not divided by folders.
        start, count: where its images are.
        damaged: its files that are left out.
    """

    name: str
    split: Split | None
    start: int
    count: int
    damaged: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ClassFolders:
    """All images of a folder.

    Attributes:
        images: `[images, channels, height, width]`.
        classes: in the order of the folders.
        remarks: what is left out, and what looks wrong.
    """

    images: Pixels
    classes: tuple[ImageClass, ...]
    remarks: tuple[str, ...]


def decoding(size: int, grayscale: bool, background: Background, ends: Sequence[float] | None) -> Decoding:
    """Return how files become arrays under a source's settings."""
    return Decoding(size, grayscale, background, None if ends is None else (ends[0], ends[1]))


def read_classes(
    folder: Path, division: Division, depth: int, min_images: int, skip_damaged: bool, decoding: Decoding
) -> ClassFolders:
    """Return the images of a folder of class folders; decoded once, then kept in the user's cache folder.

    Args:
        folder: to read.
        division: how classes come to splits, as of `list_classes`.
        depth: how many folders down they are.
        min_images: a class of fewer is left out.
        skip_damaged: whether damaged files are left out.
        decoding: how files become arrays.

    Raises:
        ConfigError: there is no such folder, or it has another layout; files cannot be read; values have no
            range; or all images are blank.
    """
    listed, remarks = list_classes(folder, division, depth)
    where = legible(folder)
    files = [file for one in listed for file in one.files]
    names = [legible(file.relative_to(folder)) for file in files]
    arrays = cached(
        f"image_folder-{legible(folder.name)}",
        decoding.recipe,
        files,
        lambda: _decode(where, files, names, decoding),
    )
    damage: list[str] = arrays["damage"].tolist()
    damaged = [name for name, reason in zip(names, damage, strict=True) if reason]
    images, values = arrays["images"], arrays["values"]
    if damaged:
        found = f"{len(damaged):,} of {len(files):,} images of {where} are damaged"
        if not skip_damaged:
            reasons = [f"{name}: {reason}" for name, reason in zip(names, damage, strict=True) if reason]
            raise ConfigError(
                f"tasks.path: {found}:\n  {first(reasons, SEPARATOR)}\nMend or delete them, or set "
                "tasks.skip_damaged=true to go on without them."
            )
        remarks.append(f"{found} and left out: {first(damaged)}.")
        good = np.array([not reason for reason in damage])
        images, values = images[good], values[good]
        names = [name for name, reason in zip(names, damage, strict=True) if not reason]
    classes = _classes(listed, damage)
    kept = tuple(one for one in classes if one.count >= min_images)
    if not kept:
        raise ConfigError(
            f"tasks.min_images={min_images}: no class of {where} has so many images; the largest has "
            f"{max(one.count for one in classes)}. Set it lower."
        )
    if len(kept) < len(classes):
        few = [f"{one.name} ({one.count})" for one in classes if one.count < min_images]
        remarks.append(
            f"{len(few):,} of {len(classes):,} classes of {where} have fewer than {min_images} images "
            f"(tasks.min_images) and are left out: {first(few)}."
        )
    remarks += _oddities(where, names, images, values, decoding)
    return ClassFolders(images, kept, tuple(remarks))


def _decode(where: str, files: Sequence[Path], names: Sequence[str], decoding: Decoding) -> Arrays:
    decoded = decode(files, decoding)
    refused = [f"{name}: {why}" for name, why in zip(names, decoded.refused, strict=True) if why]
    if refused:
        raise ConfigError(
            f"tasks.path: {len(refused):,} of {len(files):,} images of {where} cannot be read:\n  "
            f"{first(refused, SEPARATOR)}\nMake them readable, or remove them."
        )
    good = np.array([not reason for reason in decoded.damage])
    endless = np.flatnonzero(np.isnan(_column(decoded.values, "limit")) & good)
    if len(endless) and decoding.range is None:
        low, high = _extremes(decoded.values[endless])
        raise ConfigError(
            f"tasks.path: {len(endless):,} of {len(files):,} images of {where} have values without a fixed "
            f"range (real numbers, or 32 bits), such as {names[endless[0]]}; these go from {_number(low)} to "
            f"{_number(high)}. Set tasks.range=[{_number(low)},{_number(high)}], or what else is to become "
            "0 and 1."
        )
    return {"images": decoded.images, "values": decoded.values, "damage": np.array(decoded.damage, dtype=str)}


def _classes(listed: Sequence[ClassFiles], damage: Sequence[str]) -> list[ImageClass]:
    """Return the classes of the images that are left where those with damage are not."""
    classes, place, start = [], 0, 0
    for one in listed:
        reasons = damage[place : place + len(one.files)]
        lost = [legible(file.name) for file, why in zip(one.files, reasons, strict=True) if why]
        count = len(one.files) - len(lost)
        classes.append(ImageClass(one.name, one.split, start, count, tuple(lost)))
        place, start = place + len(one.files), start + count
    return classes


def _oddities(
    where: str, names: Sequence[str], images: Pixels, values: Floats, decoding: Decoding
) -> list[str]:
    """Return remarks on images that show nothing, and on values of which little is used.

    Raises:
        ConfigError: all images show the same, which is nothing.
    """
    remarks = []
    limits = _column(values, "limit")
    for limit in np.unique(limits):
        alike = np.isnan(limits) if np.isnan(limit) else limits == limit
        remark = _unused(values[alike], float(limit), decoding.range)
        if remark:
            remarks.append(f"{alike.sum():,} of {len(images):,} images of {where} {remark}")
    blank, lost = _column(values, "blank") > 0, _column(values, "lost") > 0
    if lost.any():
        other = "black" if decoding.background == "white" else "white"
        remarks.append(
            f"{lost.sum():,} of {len(images):,} images of {where} have strokes on transparency that are as "
            f"{decoding.background} as the background. Set tasks.background={other} to show them."
        )
    if not blank.any():
        return remarks
    if blank.all() and (images == images[0]).all():
        advice = " ".join(remarks) or "Look at a few of them."
        raise ConfigError(
            f"tasks.path: all {len(images):,} images of {where} are blank, of one colour. {advice}"
        )
    shown = first([name for name, empty in zip(names, blank, strict=True) if empty])
    return [
        *remarks,
        f"{blank.sum():,} of {len(images):,} images of {where} are blank, each of one colour: {shown}.",
    ]


def _unused(values: Floats, limit: float, ends: tuple[float, float] | None) -> str:
    """Return what is wrong with the range that becomes 0 to 1, or nothing."""
    low, high = _extremes(values)
    floor, ceiling = sorted(ends or (0, limit))
    use = f"have values from {_number(low)} to {_number(high)}"
    if low < floor or high > ceiling:
        return f"{use}; what is outside of tasks.range=[{_number(floor)},{_number(ceiling)}] is cut off."
    if not 0 < high - low < (ceiling - floor) / 2:
        return ""
    bits = 2 ** int(high).bit_length() - 1
    start, end = (0, bits) if high - low >= bits / 2 else (low, high)
    return (
        f"{use}, a small part of {_number(floor)} to {_number(ceiling)}. Set "
        f"tasks.range=[{_number(start)},{_number(end)}] to spread them over 0 to 1."
    )


def _extremes(values: Floats) -> tuple[float, float]:
    return float(_column(values, "low").min()), float(_column(values, "high").max())


def _column(values: Floats, name: str) -> Floats:
    """Return one of `Values` of all files."""
    return values[:, Values._fields.index(name)]


def _number(value: float) -> str:
    return str(int(value)) if float(value).is_integer() else f"{value:g}"
