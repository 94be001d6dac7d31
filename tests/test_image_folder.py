from __future__ import annotations

import errno
import os
import re
from pathlib import Path

import numpy as np
import platformdirs
import pytest
from facts import refusal
from PIL import Image

from nas.errors import ConfigError
from nas.plugins import resolve
from nas.tasks.base import SPLITS
from nas.tasks.image_folder import DEFAULTS_NEED, ImageFolder, _ends
from nas.testing.tasks import draw, same, write_image_folder


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(platformdirs, "user_cache_path", lambda name: tmp_path / "cache")
    return tmp_path / "cache"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_image_folder(tmp_path / "birds")


def test_classes_are_divided_once_and_for_all(folder: Path) -> None:
    source = ImageFolder(path=str(folder), ways=4, size=8)
    classes = [source._tasks.splits[split].names for split in SPLITS]
    assert [len(names) for names in classes] == [16, 4, 5]
    assert sorted(name for names in classes for name in names) == [f"class{i:02}" for i in range(25)]
    again = ImageFolder(path=str(folder), ways=2, size=8)
    assert [again.fingerprint(split) for split in SPLITS] == [source.fingerprint(split) for split in SPLITS]
    other = ImageFolder(path=str(folder), ways=2, size=8, split_seed=1)
    assert other.fingerprint("train") != source.fingerprint("train")
    wider = ImageFolder(path=str(folder), ways=2, size=8, train=0.4, validation=0.4)
    assert [len(wider._tasks.splits[split].names) for split in SPLITS] == [10, 10, 5]
    assert source.label == "birds 4-way 1-shot"
    assert source.fingerprint("test")[0] == "image_folder/birds/test"


def test_every_class_owns_its_own_images(folder: Path) -> None:
    source = ImageFolder(path=str(folder), ways=4, size=24)._tasks
    for classes in source.splits.values():
        for name, start, count in zip(classes.names, classes.starts, classes.counts, strict=True):
            files = sorted((folder / name).iterdir())
            assert count == len(files) == 8 + int(name[-2:]) % 3
            for file, pixels in zip(files, source.images[start : start + count], strict=True):
                with Image.open(file) as image:
                    height, width = image.height, image.width
                    scale = 24 / min(height, width)
                    box = ((width - 24 / scale) / 2, (height - 24 / scale) / 2)
                    expected = image.resize(
                        (24, 24),
                        Image.Resampling.BICUBIC,
                        box=(*box, width - box[0], height - box[1]),
                    )
                assert np.array_equal(pixels, np.asarray(expected).transpose(2, 0, 1))


def test_the_cache_follows_the_files_and_the_settings(
    folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = draw(ImageFolder(path=str(folder), ways=4, size=8))
    with monkeypatch.context() as patch:
        patch.setattr("nas.tasks.class_folders.decode", None)
        assert same(draw(ImageFolder(path=str(folder), ways=4, size=8)), first)
    assert draw(ImageFolder(path=str(folder), ways=4, size=9)).query_x.shape[-1] == 9
    assert draw(ImageFolder(path=str(folder), ways=4, size=8, grayscale=True)).query_x.shape[2] == 1
    assert len(list(cache.iterdir())) == 3
    for number, path in enumerate(folder.rglob("*.*")):
        Image.new("L", (20, 20), 200 + number % 2).save(path)
        os.utime(path, ns=(1, 1))
    assert draw(ImageFolder(path=str(folder), ways=4, size=8)).query_x.min() > 0.7


def test_what_is_no_class_is_passed_over(folder: Path) -> None:
    before = ImageFolder(path=str(folder), ways=4, size=8)
    (folder / "readme.txt").write_text("birds")
    (folder / ".thumbnails").mkdir()
    (folder / "class00" / "notes.txt").write_text("sparrow")
    (folder / "class00" / "print.pdf").write_text("%PDF")
    (folder / "class00" / "lost.png").symlink_to(folder / "nowhere")
    (folder / "class00" / "nest.png").mkdir()
    assert same(draw(ImageFolder(path=str(folder), ways=4, size=8)), draw(before))


def test_shares_that_fit_are_told_where_there_are_any(tmp_path: Path) -> None:
    def refused(folder: Path, **settings: int) -> str:
        with pytest.raises(ConfigError) as raised:
            ImageFolder(path=str(folder), size=8, **settings)  # type: ignore[arg-type]
        return str(raised.value)

    few, enough = (write_image_folder(tmp_path / str(n), classes=n) for n in (12, 16))
    message = refused(few)
    assert "tasks.ways to 2, " in message
    assert {int(number) for number in re.findall(r"(?<!\S)\d+", message.split("add classes")[1])} == {
        12,
        15,
        DEFAULTS_NEED,
    }
    ImageFolder(path=str(few), size=8, ways=2)
    shares = dict(re.findall(r"tasks\.(train|validation)=(0\.\d+)", refused(enough)))
    source = ImageFolder(path=str(enough), size=8, **{key: float(share) for key, share in shares.items()})  # type: ignore[arg-type]
    assert [len(source.members(split)) for split in SPLITS] == [6, 5, 5]


def test_the_defaults_need_so_many_classes() -> None:
    def fits(classes: int) -> bool:
        first, second = _ends(classes, 0.64, 0.16)
        return min(first, second - first, classes - second) >= 5

    assert not fits(DEFAULTS_NEED - 1)
    assert all(fits(classes) for classes in range(DEFAULTS_NEED, 1000))


def test_settings_that_do_not_fit_the_folder_are_named(folder: Path, tmp_path: Path) -> None:
    with refusal(ConfigError, "tasks.path", tmp_path / "nowhere", os.strerror(errno.ENOENT)):
        ImageFolder(path=str(tmp_path / "nowhere"))
    with refusal(ConfigError, "tasks.path", "class00"):
        ImageFolder(path=str(folder / "class00"))
    with refusal(ConfigError, "tasks.ways", 5, 4, "'validation'"):
        ImageFolder(path=str(folder), size=8)
    with refusal(ConfigError, "tasks.train + tasks.validation", "0.7 + 0.3"):
        ImageFolder(path=str(folder), size=8, train=0.7, validation=0.3)
    (folder / "class09" / "x").mkdir()
    for file in (folder / "class09").glob("*.*"):
        file.unlink()
    with refusal(ConfigError, "1 + 5", 0, "'class09'"):
        ImageFolder(path=str(folder), size=8, ways=2)
    with refusal(ConfigError, "tasks.path"):
        resolve(ImageFolder, {}, "tasks")
