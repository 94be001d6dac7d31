from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import platformdirs
import pytest

from nas.files import replacing
from nas.tasks.cache import Arrays, cached


class Kitchen:
    """Counts how often it had to cook."""

    def __init__(self) -> None:
        self.cooked = 0

    def __call__(self) -> Arrays:
        self.cooked += 1
        return {"dish": np.arange(1000), "names": np.array(["a", "ü"])}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(platformdirs, "user_cache_path", lambda name: tmp_path / "cache" / name)
    return tmp_path / "cache" / "nas"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "flour"
    path.write_text("1 kg")
    return path


def check(arrays: Arrays) -> None:
    assert set(arrays) == {"dish", "names"}
    assert np.array_equal(arrays["dish"], np.arange(1000))
    assert arrays["names"].tolist() == ["a", "ü"]


def test_what_was_made_once_is_kept(folder: Path, source: Path) -> None:
    kitchen = Kitchen()
    for _ in range(3):
        check(cached("cake", "bake", [source], kitchen))
    assert kitchen.cooked == 1
    (kept,) = folder.iterdir()
    assert kept.name.startswith("cake-")


def test_another_recipe_or_source_is_made_anew(folder: Path, source: Path) -> None:
    kitchen = Kitchen()
    cached("cake", "bake", [source], kitchen)
    cached("cake", "fry", [source], kitchen)
    assert kitchen.cooked == 2
    source.write_text("2 kg.")
    cached("cake", "bake", [source], kitchen)
    assert kitchen.cooked == 3
    os.utime(source, ns=(0, 1))
    cached("cake", "bake", [source], kitchen)
    assert kitchen.cooked == 4
    cached("cake", "bake", [source, source.rename(source.with_name("salt"))][1:], kitchen)
    assert kitchen.cooked == 5


@pytest.mark.parametrize("damage", ["empty", "cut", "flipped", "text", "pickle"])
def test_a_damaged_cache_is_made_anew(folder: Path, source: Path, damage: str) -> None:
    kitchen = Kitchen()
    cached("cake", "bake", [source], kitchen)
    (kept,) = folder.iterdir()
    content = bytearray(kept.read_bytes())
    middle = len(content) // 2
    content[middle] ^= 0xFF
    damaged = {
        "empty": b"",
        "cut": kept.read_bytes()[:middle],
        "flipped": bytes(content),
        "text": b"no archive",
        "pickle": b"\x80\x04K\x01.",
    }
    kept.write_bytes(damaged[damage])
    check(cached("cake", "bake", [source], kitchen))
    check(cached("cake", "bake", [source], kitchen))
    assert kitchen.cooked == 2


def test_a_cache_that_cannot_be_written_is_no_error(folder: Path, source: Path) -> None:
    folder.parent.parent.mkdir(exist_ok=True)
    folder.parent.write_text("no folder")
    kitchen = Kitchen()
    check(cached("cake", "bake", [source], kitchen))
    check(cached("cake", "bake", [source], kitchen))
    assert kitchen.cooked == 2


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "file"
    with replacing(path) as temporary:
        temporary.write_text("old")
        assert not path.exists()
    assert path.read_text() == "old"

    def fail(temporary: Path) -> None:
        temporary.write_text("new")
        raise RuntimeError

    with pytest.raises(RuntimeError), replacing(path) as temporary:
        fail(temporary)
    assert path.read_text() == "old"
    assert list(path.parent.iterdir()) == [path]
