"""Which files of a folder are images, of which class, and of which split."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from nas.errors import ConfigError
from nas.files import legible
from nas.tasks.base import SPLITS, Split
from nas.tasks.decoding import FORMATS, SUFFIXES
from nas.tasks.files import hidden

Division = Literal["random", "folders", "test"]
"""How classes come to splits: shuffled and divided, by the folders they lie in, or all of them for test."""

SPLIT_FOLDERS: Mapping[str, Split] = {
    "train": "train",
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "test": "test",
    "testing": "test",
}
"""What people call the folder of a split, in small letters."""

FIRST = 10
"""Names that a message lists; the rest are counted."""

BELOW = 3
"""Levels below the classes that are searched for images, to say that they lie there."""


@dataclass(frozen=True, slots=True)
class ClassFiles:
    """The image files of one class.

    Attributes:
        name: its folders from the top (or from the split's folder) down, such as `Greek/alpha`.
        files: sorted by name.
        split: of the folder that it lies in; None where classes are not divided by folders.
    """

    name: str
    files: tuple[Path, ...]
    split: Split | None = None


@dataclass(slots=True)
class Folder:
    """A folder with its images, and the folders in it; what is hidden is left out.

    Attributes:
        path: of the folder.
        level: how far down it is.
        images, folders: sorted by name.
        others: counts of the suffixes of files that are no images.
    """

    path: Path
    level: int
    images: list[Path] = field(default_factory=list)
    folders: list[Folder] = field(default_factory=list)
    others: Counter[str] = field(default_factory=Counter)

    def all(self) -> Iterator[Folder]:
        """Yield the folder and all below it, each before its own."""
        yield self
        for folder in self.folders:
            yield from folder.all()


def list_classes(folder: Path, division: Division, depth: int) -> tuple[list[ClassFiles], list[str]]:
    """Return the classes of a folder, in the order of their names, and remarks on what is passed over.

    Files and folders that a system put there are passed over without a word, and so is what is no image by
    its suffix.

    Args:
        folder: to look in.
        division: `folders` where the classes lie in a folder for each split.
        depth: how many folders down from `folder`, or from a split's folder, the classes are.

    Raises:
        ConfigError: there is no such folder, it has another layout, or has no images.
    """
    try:
        if division == "folders":
            return _divided(folder, depth)
        top = read_folder(folder, depth)
    except OSError as error:
        where = legible(error.filename or folder)
        raise ConfigError(
            f"tasks.path: cannot read {where}: {error.strerror or error}. Set it to a folder that holds a "
            "folder of images for each class."
        ) from error
    _refuse_divided(top)
    return _classes(top, depth, None)


def read_folder(path: Path, depth: int, level: int = 0) -> Folder:
    """Read a folder and those in it, to some levels below `depth`.

    Raises:
        OSError: one of them, no deeper than `depth`, cannot be read.
    """
    folder = Folder(path, level)
    try:
        entries = _entries(path)
    except OSError:
        if level <= depth:
            raise
        return folder
    for entry in entries:
        suffix = Path(entry.name).suffix.lower()
        if entry.is_dir():
            if level < depth + BELOW:
                folder.folders.append(read_folder(path / entry.name, depth, level + 1))
        elif suffix in SUFFIXES and entry.is_file():
            folder.images.append(path / entry.name)
        else:
            folder.others[legible(suffix)] += 1
    return folder


def first(names: Sequence[str], separator: str = ", ") -> str:
    """Return the first ten names, and how many more there are."""
    rest = [f"and {len(names) - FIRST} more"] if len(names) > FIRST else []
    return separator.join([*names[:FIRST], *rest])


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    with os.scandir(folder) as entries:
        return sorted((entry for entry in entries if not hidden(entry.name)), key=lambda entry: entry.name)


def _refuse_divided(top: Folder) -> None:
    """Refuse folders of splits where those of classes are expected: all classes would be drawn from alike."""
    splits = [folder for folder in top.folders if folder.path.name.lower() in SPLIT_FOLDERS]
    only = len(splits) == len(top.folders) or not any(folder.images for folder in splits)
    if len(splits) > 1 and only:
        names = ", ".join(folder.path.name for folder in splits)
        raise ConfigError(
            f"tasks.path: {legible(top.path)} is divided already: it has the folders {names}. Set "
            "tasks.splits=folders to train, validate and test by them, or tasks.path to one of them."
        )


def _divided(folder: Path, depth: int) -> tuple[list[ClassFiles], list[str]]:
    """Return the classes of the folders of splits.

    Raises:
        OSError: a folder cannot be read.
    """
    names = [entry.name for entry in _entries(folder) if entry.is_dir()]
    of_split: dict[Split, str] = {}
    others = []
    for name in names:
        split = SPLIT_FOLDERS.get(name.lower())
        if split is None:
            others.append(legible(name))
        elif split in of_split:
            raise ConfigError(
                f"tasks.path: {legible(folder)} has two folders for {split}, {of_split[split]} and {name}. "
                "Move one away."
            )
        else:
            of_split[split] = name
    if "train" not in of_split:
        raise ConfigError(
            f"tasks.splits=folders: {legible(folder)} has no folder train; its folders are: "
            f"{first([legible(name) for name in names]) or 'none'}. Set tasks.path to the folder that holds "
            "train, validation (or val, valid) and test; or leave tasks.splits out, and the classes are "
            "shuffled and divided."
        )
    classes, remarks = [], []
    for split in SPLITS:
        if split in of_split:
            found, said = _classes(read_folder(folder / of_split[split], depth), depth, split)
            classes += found
            remarks += said
    if others:
        remarks.append(f"{legible(folder)}: folders of no split are passed over: {first(others)}.")
    return classes, remarks


def _classes(top: Folder, depth: int, split: Split | None) -> tuple[list[ClassFiles], list[str]]:
    """Return the classes at `depth`, each with the images right in it."""
    folders = [folder for folder in top.all() if folder.level == depth]
    if not any(folder.images for folder in folders):
        raise _no_images(top, depth)
    deeper = {folder.path: [image for one in folder.all() for image in one.images] for folder in folders}
    nested = [folder for folder in folders if not folder.images and deeper[folder.path]]
    if nested:
        raise ConfigError(
            f"tasks.path: {len(nested)} of the {len(folders)} classes of {legible(top.path)} have their "
            f"images deeper than the others, such as {_below(deeper[nested[0].path][0], top)}. "
            f"Move them up, right into their classes: {first([_below(one.path, top) for one in nested])}."
        )
    unused = [image for folder in top.all() if folder.level != depth for image in folder.images]
    remarks = []
    if unused:
        remarks.append(
            f"{legible(top.path)}: images that are not right in the folder of a class (tasks.depth={depth}) "
            f"are passed over: {len(unused):,}, such as {_below(unused[0], top)}."
        )
    return [ClassFiles(_below(folder.path, top), tuple(folder.images), split) for folder in folders], remarks


def _no_images(top: Folder, depth: int) -> ConfigError:
    """Return the error for a folder without images where its classes should be."""
    where, folders = legible(top.path), "folders" if depth == 1 else f"folders of level {depth}"
    levels: Counter[int] = Counter()
    examples: dict[int, Path] = {}
    others: Counter[str] = Counter()
    for folder in top.all():
        others += folder.others
        if folder.images:
            levels[folder.level] += len(folder.images)
            examples.setdefault(folder.level, folder.images[0])
    if not levels:
        counts = ", ".join(f"{count:,} {suffix or 'without one'}" for suffix, count in others.most_common(5))
        found = f"Files by their suffix: {counts}" if counts else "There are no files"
        return ConfigError(
            f"tasks.path: {where} has no images in its {folders}; it needs a folder of images for each "
            f"class. {found}; images are {', '.join(FORMATS)}."
        )
    level, count = levels.most_common(1)[0]
    example = _below(examples[level], top)
    if level == 0:
        return ConfigError(
            f"tasks.path: {where} has {count:,} images itself, such as {example}, and none in {folders}; it "
            "needs a folder for each class. Move them there, or set tasks.path to the folder above."
        )
    return ConfigError(
        f"tasks.path: {where} has no images in its {folders}; {count:,} lie "
        f"{'deeper' if level > depth else 'higher'}, such as {example}. Set tasks.depth={level} to have the "
        "folders that hold them as classes, or tasks.path to another folder."
    )


def _below(path: Path, top: Folder) -> str:
    return legible(path.relative_to(top.path).as_posix())
