"""Image files of all kinds as arrays of one size; what of their values is used, and which are damaged."""

from __future__ import annotations

import os
import warnings
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

from nas.files import legible
from nas.tasks.images import Pixels

Image.init()
FORMATS = tuple(
    name
    for name in ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM", "JPEG2000", "AVIF")
    if name in Image.OPEN
)
"""What is read, in Pillow's names. Pillow also knows films, icons and drawings, some by running programs."""

SUFFIXES = frozenset(suffix for suffix, name in Image.registered_extensions().items() if name in FORMATS)
"""Of files that are taken for images, in small letters."""

Background = Literal["white", "black"]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Decoding:
    """How image files become arrays.

    Attributes:
        size: height and width. The shorter side is resized to it, the centre cut out.
        grayscale: one channel instead of three.
        background: what shows through where an image is transparent.
        range: the values of a file that become 0 and 1, in this order; by default all that its format has,
            such as 0 and 65535. What lies outside is cut off.
    """

    size: int
    grayscale: bool = False
    background: Background = "white"
    range: tuple[float, float] | None = None

    @property
    def recipe(self) -> str:
        """All that the arrays depend on besides the files; the version changes with the code."""
        return (
            f"size={self.size} grayscale={self.grayscale} background={self.background} range={self.range} "
            "version=2"
        )


class Values(NamedTuple):
    """What an image's values were before they became 0 to 255.

    Attributes:
        low, high: the smallest and largest, of all channels.
        limit: the largest that the format has; NaN where there is none, as in files of real numbers.
        blank: whether the image that was made is of one colour throughout.
        lost: whether that is the background's doing: it has strokes of that colour.
    """

    low: float
    high: float
    limit: float
    blank: bool
    lost: bool


@dataclass(frozen=True, slots=True)
class Decoded:
    """Image files as arrays.

    Attributes:
        images: `[files, channels, size, size]`; zeros where a file is damaged.
        values: `[files, 5]`, rows of `Values`.
        damage: of each file why it cannot be decoded; empty where it can.
        refused: of each file why the system does not let it be read, which says nothing of what is in it.
    """

    images: Pixels
    values: Floats
    damage: list[str]
    refused: list[str]


def decode(files: Sequence[Path], decoding: Decoding) -> Decoded:
    """Decode files by as many threads as there are CPUs."""
    channels = 1 if decoding.grayscale else 3
    images = np.zeros((len(files), channels, decoding.size, decoding.size), dtype=np.uint8)
    values = np.zeros((len(files), len(Values._fields)))
    damage, refused = [""] * len(files), [""] * len(files)

    def read(index: int) -> None:
        try:
            images[index], values[index] = decode_file(files[index], decoding)
        except UnidentifiedImageError:
            damage[index] = "no image of a known format" if files[index].stat().st_size else "empty"
        except MemoryError:
            raise
        except Exception as error:  # damage makes Pillow raise whatever its decoders stumble on
            if isinstance(error, OSError) and error.strerror:
                refused[index] = error.strerror
            else:
                damage[index] = legible(str(error) or type(error).__name__)

    left = deque(range(len(files)))

    def read_on() -> None:
        with suppress(IndexError):  # of the last thread to ask
            while True:
                index = left.popleft()
                read(index)

    with warnings.catch_warnings(), ThreadPoolExecutor() as threads:
        warnings.simplefilter(
            "ignore"
        )  # of large images, and of notes in files that are not as they should be
        # An exception from a signal may leave a lock of `submit` taken for good: so one call each thread.
        try:
            for reader in [threads.submit(read_on) for _ in range(os.cpu_count() or 1)]:
                reader.result()
        finally:
            left.clear()
    return Decoded(images, values, damage, refused)


def decode_file(file: Path, decoding: Decoding) -> tuple[Pixels, Values]:
    """Return one image, `[channels, size, size]`, and what its values were.

    Raises:
        OSError, ValueError, and what else Pillow raises: it cannot be decoded.
    """
    with Image.open(file, formats=FORMATS) as opened:
        image: Image.Image = ImageOps.exif_transpose(opened)
        # Pillow scales the values of deep PPM files to 16 bits and gives them in 32.
        deep = image.mode.startswith("I;16") or (image.mode, opened.format) == ("I", "PPM")
    limit = 65535.0 if deep else np.nan
    hides = False
    if not deep and image.mode not in ("I", "F"):
        limit = 255.0
        if image.has_transparency_data:
            layer = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", layer.size, decoding.background), layer)
            hides = not _uniform(layer.getchannel("A"))
        image = image.convert("L" if decoding.grayscale else "RGB")
    values = np.asarray(image)
    if decoding.range is not None or limit != 255:
        image = Image.fromarray(_eight_bits(values, decoding.range or (0, limit)))
    image = image.convert("L" if decoding.grayscale else "RGB")
    image = ImageOps.fit(image, (decoding.size, decoding.size), Image.Resampling.BICUBIC)
    blank = _uniform(image)
    pixels = np.asarray(image).reshape(decoding.size, decoding.size, -1).transpose(2, 0, 1)
    return pixels, Values(float(values.min()), float(values.max()), limit, blank, blank and hides)


def _eight_bits(values: npt.NDArray[Any], ends: tuple[float, float]) -> Pixels:
    """Return values as 0 where they are the first of `ends`, or beyond it, and 255 where the second."""
    low, high = ends
    shares = np.nan_to_num((values.astype(np.float64) - low) / (high - low)).clip(0, 1)
    return (shares * 255.999).astype(np.uint8)


def _uniform(image: Image.Image) -> bool:
    pixels = np.asarray(image)
    return bool((pixels == pixels[0, 0]).all())
