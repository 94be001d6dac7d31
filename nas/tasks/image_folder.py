"""Few-shot tasks from a folder of images, one subfolder a class."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, ClassVar, final

import numpy as np
from PIL import Image, ImageOps
from pydantic import AfterValidator, Field

from nas.errors import ConfigError
from nas.space import TaskShape
from nas.tasks.base import SPLITS, Episode, Split, TaskSource
from nas.tasks.cache import cached
from nas.tasks.files import absolute
from nas.tasks.images import (
    Classes,
    ImageTasks,
    Indices,
    Pixels,
    Queries,
    Shots,
    TrainQueries,
    TrainShots,
    TrainWays,
    Ways,
)


@final
class ImageFolder(TaskSource):
    """The images in each folder right below `path` are one class; values in [0, 1].

    Each image's shorter side is resized to `size` and its centre cut out; transparent pixels become white.
    The classes are shuffled by `split_seed` and divided; what `train` and `validation` leave is for test. The
    defaults divide 100 classes as mini-ImageNet does, 64 / 16 / 20. Classes may differ in size.

    Raises:
        ConfigError: no such folder, an image that cannot be read, or too few classes or images for a task.
    """

    name: ClassVar[str] = "image_folder"

    def __init__(
        self,
        *,
        path: Annotated[str, AfterValidator(absolute), Field(description="folder of class folders")],
        ways: Ways = 5,
        shots: Shots = 1,
        queries: Queries = 5,
        train_ways: TrainWays = None,
        train_shots: TrainShots = None,
        train_queries: TrainQueries = None,
        size: Annotated[int, Field(ge=1, description="height and width in pixels")] = 84,
        grayscale: Annotated[bool, Field(description="one channel instead of three")] = False,
        train: Annotated[float, Field(gt=0, lt=1, description="share of classes for training")] = 0.64,
        validation: Annotated[float, Field(gt=0, lt=1, description="share of classes for validation")] = 0.16,
        split_seed: Annotated[int, Field(ge=0, description="which classes go where")] = 0,
    ) -> None:
        folder = Path(path).expanduser().resolve()
        classes = files_by_class(folder)
        names = list(classes)
        files = [file for name in names for file in classes[name]]
        arrays = cached(
            f"image_folder-{folder.name}",
            f"size={size} grayscale={grayscale} version=1",
            files,
            lambda: {"images": read_images(files, size, grayscale)},
        )
        counts = np.array([len(classes[name]) for name in names])
        starts = counts.cumsum() - counts
        self._label = folder.name
        self._tasks = ImageTasks(
            name=f"{self.name}/{folder.name}",
            images=arrays["images"],
            splits={
                split: Classes(tuple(names[i] for i in chosen), starts[chosen], counts[chosen])
                for split, chosen in _divide(len(names), train, validation, split_seed).items()
            },
            ways=ways,
            shots=shots,
            queries=queries,
            train_ways=train_ways,
            train_shots=train_shots,
            train_queries=train_queries,
        )

    @property
    def shape(self) -> TaskShape:
        """One or three channels of `size` × `size` to `ways` classes."""
        return self._tasks.shape

    @property
    def label(self) -> str:
        """The folder's name and the setting, such as `birds 5-way 1-shot`."""
        return f"{self._label} {self._tasks.setting}"

    def sample(self, split: Split, tasks: int, rng: np.random.Generator) -> Episode:
        """Draw `tasks` tasks: distinct classes, of each distinct images."""
        return self._tasks.sample(split, tasks, rng)

    def fingerprint(self, split: Split) -> tuple[str, str]:
        """Return the split's name, such as `image_folder/birds/validation`, and a hash of its classes."""
        return self._tasks.fingerprint(split)

    def members(self, split: Split) -> frozenset[str]:
        """Return the names of the split's classes."""
        return self._tasks.members(split)


def files_by_class(folder: Path) -> dict[str, list[Path]]:
    """Return the image files of each class, both sorted; hidden folders and other files are passed over."""
    readable = {suffix for suffix, format_ in Image.registered_extensions().items() if format_ in Image.OPEN}
    try:
        classes = {
            entry.name: [
                file for file in sorted(entry.iterdir()) if file.suffix.lower() in readable and file.is_file()
            ]
            for entry in sorted(folder.iterdir())
            if entry.is_dir() and not entry.name.startswith(".")
        }
    except OSError as error:
        raise ConfigError(f"tasks.path: cannot read {error.filename}: {error.strerror}.") from error
    if not classes:
        raise ConfigError(f"tasks.path: {folder} has no folders; it needs one for each class of images.")
    return classes


def _divide(classes: int, train: float, validation: float, seed: int) -> dict[Split, Indices]:
    if train + validation >= 1:
        raise ConfigError(
            f"tasks.train + tasks.validation: {train} + {validation} leaves no class for test; "
            "the sum must be below 1."
        )
    ends = [round(train * classes), round((train + validation) * classes)]
    parts = np.split(np.random.default_rng(seed).permutation(classes), ends)
    return dict(zip(SPLITS, parts, strict=True))


def read_images(files: Sequence[Path], size: int, grayscale: bool) -> Pixels:
    """Return `[files, channels, size, size]`, decoded by as many threads as there are CPUs."""
    images = np.empty((len(files), 1 if grayscale else 3, size, size), dtype=np.uint8)

    def read(index: int) -> None:
        images[index] = _pixels(files[index], size, grayscale)

    with ThreadPoolExecutor() as threads:
        for _ in threads.map(read, range(len(files))):
            pass
    return images


def _pixels(file: Path, size: int, grayscale: bool) -> Pixels:
    try:
        with Image.open(file) as opened:
            image: Image.Image = ImageOps.exif_transpose(opened)
            if image.mode.startswith("I;16"):
                image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
            if image.mode in ("I", "F"):
                raise ValueError(f"pixels of mode {image.mode} have no fixed range")
            if image.has_transparency_data:
                layer = image.convert("RGBA")
                image = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer)
            image = image.convert("L" if grayscale else "RGB")
            image = ImageOps.fit(image, (size, size), Image.Resampling.BICUBIC)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ConfigError(f"tasks.path: cannot read the image {file}: {error}.") from error
    return np.asarray(image).reshape(size, size, -1).transpose(2, 0, 1)
