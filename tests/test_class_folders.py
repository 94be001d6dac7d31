"""Folders as people have them: what is a class, what is left out, what is said of it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import platformdirs
import pytest
from command_line import SCRIPTED, nas
from facts import refusal
from PIL import Image

from nas.errors import ConfigError
from nas.plugins import resolve
from nas.tasks import TaskSource
from nas.tasks.base import SPLITS
from nas.tasks.image_folder import ImageFolder
from nas.tasks.listing import list_classes
from nas.tasks.supervised import Supervised
from nas.testing.tasks import draw, same

SMALL = {"ways": 2, "queries": 1, "size": 8}
NUMBERS = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(platformdirs, "user_cache_path", lambda name: tmp_path / "cache")
    return tmp_path / "cache"


def write(folder: Path, *classes: str, images: int = 2, pixels: Any = None) -> Path:
    """Write some images of noise, or of given pixels, into folders; return the folder above."""
    for name in classes:
        (folder / name).mkdir(parents=True, exist_ok=True)
        for number in range(images):
            noise = NUMBERS.integers(0, 256, (9, 9, 3), dtype=np.uint8)
            Image.fromarray(noise if pixels is None else pixels).save(folder / name / f"{number}.png")
    return folder


def ten(folder: Path, **options: Any) -> Path:
    return write(folder, *(f"c{number}" for number in range(10)), **options)


def source(folder: Path, **settings: Any) -> ImageFolder:
    return ImageFolder(path=str(folder), **{**SMALL, **settings})


def refused(folder: Path, **settings: Any) -> str:
    with pytest.raises(ConfigError) as error:
        source(folder, **settings)
    return str(error.value)


def members(tasks: TaskSource) -> list[set[str]]:
    return [set(tasks.members(split)) for split in SPLITS]


def test_what_a_system_put_there_is_passed_over(tmp_path: Path) -> None:
    folder = ten(tmp_path / "set")
    before = source(folder)
    write(folder, "__MACOSX", "@eaDir", ".thumbnails", "c0/__MACOSX", "c0/.hidden")
    for name in ("c1/._0.png", "c1/.DS_Store", "c1/Thumbs.db", "._c1", "c2/desktop.ini", "c2/.0.png"):
        (folder / name).write_bytes(b"\0\5\x16\7")
    after = source(folder)
    assert same(draw(after), draw(before))
    assert after.remarks == before.remarks == ()


def test_films_drawings_and_notes_are_no_images(tmp_path: Path) -> None:
    folder = ten(tmp_path / "set")
    before = source(folder)
    for name in ("c0/a.mpg", "c0/b.eps", "c0/c.svg", "c0/d.txt", "c0/e", "c0/f.ico", "c0/g.pdf", "notes.md"):
        (folder / name).write_text("no image")
    (folder / "c0" / "lost.png").symlink_to(folder / "nowhere")
    (folder / "c0" / "folder.png").mkdir()
    assert same(draw(source(folder)), draw(before))
    for name in ("a", "b"):
        (tmp_path / "drawings" / name).mkdir(parents=True)
        (tmp_path / "drawings" / name / "1.svg").touch()
    assert "2 .svg" in refused(tmp_path / "drawings")


@pytest.mark.parametrize(
    "names",
    [
        [b"caf\xe9", b"na\xefve", b"\xff\xfe"],
        [name.encode() for name in ("漢字", "が", "花　鳥")],
        [name.encode() for name in ("🐦", "👨‍👩‍👧", "with space")],
        [b"tab\tand\nline", b"quo'te", b"-dash"],
    ],
    ids=["latin1", "japanese", "emoji", "odd"],
)
def test_any_name_will_do(tmp_path: Path, names: list[bytes]) -> None:
    folder = Path(os.fsdecode(os.path.join(os.fsencode(tmp_path), names[0])))  # noqa: PTH118
    for name in names:
        write(folder, os.fsdecode(name))
        (folder / os.fsdecode(name) / os.fsdecode(names[-1] + b".png")).write_bytes(
            (folder / os.fsdecode(name) / "0.png").read_bytes()
        )
    settings = {"splits": "test", **SMALL}
    tasks = ImageFolder(**resolve(ImageFolder, {"path": str(folder), **settings}, "tasks"))
    told = [tasks.label, *tasks.fingerprint("test"), *tasks.members("test")]
    for text in told:
        text.encode()
        assert "\n" not in text
    assert len(tasks.members("test")) == len(names)
    assert same(draw(source(folder, splits="test"), "test"), draw(tasks, "test"))
    (folder / os.fsdecode(names[0]) / "damaged.png").touch()
    refused(folder, splits="test").encode()


def test_a_long_name_is_cached_all_the_same(tmp_path: Path, cache: Path) -> None:
    ten(tmp_path / ("漢" * 80))
    source(tmp_path / ("漢" * 80))
    assert len(list(cache.iterdir())) == 1


@pytest.mark.parametrize("path", ["~nobody-here/images", "a\0b", "a\ud800b"])
def test_a_path_that_no_file_can_have_is_refused(path: str) -> None:
    with refusal(ConfigError, "tasks.path"):
        resolve(ImageFolder, {"path": path}, "tasks")


@pytest.mark.parametrize(
    "names", [("train", "val", "test"), ("Train", "valid", "TEST"), ("training", "validation", "testing")]
)
def test_given_splits_are_used(tmp_path: Path, names: tuple[str, ...]) -> None:
    for name, prefix, classes in zip(names, "abc", (5, 3, 4), strict=True):
        write(tmp_path / "set" / name, *(f"{prefix}{number}" for number in range(classes)))
    assert "tasks.splits=folders" in refused(tmp_path / "set")
    assert "tasks.splits=folders" in refused(write(tmp_path / "set", "notes"), depth=2)
    assert len(source(tmp_path / "set", splits="folders").remarks) == 1
    (tmp_path / "set" / "notes").rename(tmp_path / "notes")
    tasks = source(tmp_path / "set", splits="folders")
    assert members(tasks) == [
        {f"{prefix}{number}" for number in range(classes)}
        for prefix, classes in zip("abc", (5, 3, 4), strict=True)
    ]
    (found,) = [one for one in list_classes(tmp_path / "set", "folders", 1)[0] if one.name == "b1"]
    assert found.files[0].parent == tmp_path / "set" / names[1] / "b1"


def test_without_a_folder_for_validation_some_training_classes_are_for_it(tmp_path: Path) -> None:
    ten(tmp_path / "set" / "train")
    write(tmp_path / "set" / "test", "x", "y")
    write(tmp_path / "set", "notes")
    tasks = source(tmp_path / "set", splits="folders", validation=0.3)
    train, validation, test = members(tasks)
    assert (len(train), len(validation), test) == (7, 3, {"x", "y"})
    assert len(train | validation) == 10
    assert len(tasks.remarks) == 1  # on notes
    other = source(tmp_path / "set", splits="folders", validation=0.3, split_seed=1)
    assert members(other)[1] != validation


def test_splits_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    ten(tmp_path / "plain")
    assert "c0" in refused(tmp_path / "plain", splits="folders")
    write(tmp_path / "both" / "train", "x", "y", "z")
    write(tmp_path / "both" / "val", "a", "z")
    assert "'z'" in refused(tmp_path / "both", splits="folders")
    write(tmp_path / "twice" / "val", "a", "b")
    write(tmp_path / "twice" / "valid", "c", "d")
    assert "valid" in refused(tmp_path / "twice", splits="folders")
    write(tmp_path / "no-test" / "train", "x", "y")
    write(tmp_path / "no-test" / "val", "a", "b")
    tasks = source(tmp_path / "no-test", splits="folders")
    with refusal(ConfigError, "tasks.splits"):
        tasks.fingerprint("test")


def test_two_levels_are_classes_where_the_setting_says_so(tmp_path: Path) -> None:
    names = {f"{alphabet}/{character}" for alphabet in ("Greek", "Latin") for character in "abcde"}
    folder = write(tmp_path / "set", *names)
    assert "tasks.depth=2" in refused(folder)
    assert set.union(*members(source(folder, depth=2, train=0.4, validation=0.3))) == names
    assert "tasks.depth=1" in refused(ten(tmp_path / "flat"), depth=2)
    for split in ("train", "test"):
        write(tmp_path / "both" / split, *(f"{split}-{name}" for name in names))
    assert source(tmp_path / "both", splits="folders", depth=2).members("test") == {
        f"test-{name}" for name in names
    }


def test_images_that_lie_elsewhere_are_found(tmp_path: Path) -> None:
    assert "c0/0.png" in refused(write(tmp_path / "up" / "set", "c0", "c1").parent, depth=1)
    assert "tasks.depth=4" in refused(write(tmp_path / "deep", "a/b/c/d", "a/b/c/e"))
    assert "0.png" in refused(write(tmp_path / "flat", "."))
    assert refused(write(tmp_path / "none", "a", "b", images=0))
    folder = ten(tmp_path / "nested")
    write(folder, "c10/c10", "c11/inner")
    said = refused(folder)
    assert "c10/c10/0.png" in said
    assert "c11" in said
    (folder / "c10").rename(folder / "c0" / "more")
    (folder / "c11").rename(folder / "c1" / "more")
    write(folder, ".", images=3)
    (remark,) = source(folder).remarks
    assert "7" in remark


def test_a_loop_of_links_is_no_end(tmp_path: Path) -> None:
    folder = ten(tmp_path / "set")
    before = draw(source(folder))
    (folder / "c0" / "again").symlink_to(folder)
    assert same(draw(source(folder)), before)


def test_all_damaged_files_are_told_at_once_and_can_be_left_out(tmp_path: Path) -> None:
    folder = ten(tmp_path / "set", images=4)
    before = source(folder)
    damaged = [f"c{number}/9.png" for number in range(10)] + ["c0/8.jpg", "c0/7.gif"]
    for name in damaged:
        (folder / name).write_bytes(b"\x89PNG\r\n\x1a\n" if name.endswith("png") else b"")
    said = refused(folder)
    assert "12 of 52" in said
    assert sum(name in said for name in damaged) == 10
    assert "tasks.skip_damaged=true" in said
    tasks = source(folder, skip_damaged=True)
    assert same(draw(tasks), draw(before))
    assert members(tasks) == members(before)
    assert "12 of 52" in tasks.remarks[0]
    for split in SPLITS:
        assert tasks.fingerprint(split)[0] == before.fingerprint(split)[0]
        assert tasks.fingerprint(split)[1] != before.fingerprint(split)[1]


def test_decoding_is_not_repeated_to_leave_damaged_files_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = ten(tmp_path / "set")
    (folder / "c0" / "9.png").touch()
    refused(folder)
    monkeypatch.setattr("nas.tasks.class_folders.decode", None)
    source(folder, skip_damaged=True)
    (folder / "c0" / "9.png").write_bytes((folder / "c0" / "0.png").read_bytes())
    monkeypatch.undo()
    assert source(folder).remarks == ()


def test_files_that_may_not_be_read_are_told_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = ten(tmp_path / "set")

    def opened(path: Path, **options: Any) -> Image.Image:
        if path.parent.name in ("c3", "c4"):
            raise PermissionError(13, "Permission denied", str(path))
        return Image.Image()

    with monkeypatch.context() as patch:
        patch.setattr(Image, "open", opened)
        said = refused(folder, skip_damaged=True)
    assert "4 of 20" in said
    assert "c3/1.png: Permission denied" in said
    assert source(folder).remarks == ()  # nothing of it was kept


def test_small_classes_are_left_out_by_a_setting_and_counted(tmp_path: Path) -> None:
    folder = ten(tmp_path / "set", images=4)
    write(folder, "d0", "d1", images=1)
    write(folder, "e", images=0)
    assert "tasks.min_images=2" in refused(folder)
    tasks = source(folder, min_images=2)
    assert set.union(*members(tasks)) == {f"c{number}" for number in range(10)}
    assert "3 of 13" in tasks.remarks[0]
    (folder / "c9" / "3.png").write_bytes(b"")
    left = source(folder, min_images=4, skip_damaged=True, splits="test").members("test")
    assert left == {f"c{number}" for number in range(9)}
    assert "tasks.min_images=5" in refused(folder, min_images=5, skip_damaged=True)


def test_strokes_that_the_background_hides_are_found(tmp_path: Path) -> None:
    strokes = np.zeros((8, 8, 4), dtype=np.uint8)
    strokes[2:4] = 255
    folder = ten(tmp_path / "set", pixels=strokes)
    assert "tasks.background=black" in refused(folder)
    assert source(folder, background="black").remarks == ()
    write(folder, "c0", "c1")
    hidden, blank = source(folder).remarks
    assert "16 of 20" in hidden
    assert "16 of 20" in blank
    seen = source(folder, background="black").sample("train", 1, np.random.default_rng(0)).query_x
    assert (seen.min(), seen.max()) == (0, 1)


def test_classes_of_plain_colours_are_images_like_others(tmp_path: Path) -> None:
    for number in range(10):
        write(tmp_path / "set", f"c{number}", pixels=np.full((8, 8, 3), number * 25, dtype=np.uint8))
    (remark,) = source(tmp_path / "set").remarks
    assert "20 of 20" in remark


def test_a_range_that_is_not_used_is_found(tmp_path: Path) -> None:
    scan = NUMBERS.integers(0, 4096, (8, 8)).astype(np.uint16)
    scan[0, :2] = 0, 4095
    folder = ten(tmp_path / "set", pixels=scan)
    (remark,) = source(folder).remarks
    assert "tasks.range=[0,4095]" in remark
    tasks = source(folder, range=[0, 4095])
    assert tasks.remarks == ()
    assert tasks.sample("train", 1, np.random.default_rng(0)).query_x.max() == 1
    assert "cut off" in source(folder, range=[0, 1023]).remarks[0]
    washed = ten(tmp_path / "washed", pixels=np.linspace(200, 250, 64).astype(np.uint8).reshape(8, 8))
    assert "tasks.range=[200,250]" in source(washed).remarks[0]
    mask = ten(tmp_path / "mask", pixels=np.eye(8, dtype=np.uint8))
    assert "tasks.range=[0,1]" in source(mask).remarks[0]
    black = ten(tmp_path / "black", pixels=np.eye(8, dtype=np.uint16))
    assert "tasks.range=[0,1]" in refused(black)  # nothing is left of it in 8 bits
    dim = ten(tmp_path / "real")
    Image.new("F", (8, 8), 0.5).save(dim / "c0" / "a.tiff")
    assert "c0/a.tiff" in refused(dim)


def test_a_range_has_two_ends() -> None:
    for ends in ([0], [0, 1, 2], [3, 3], "all"):
        with refusal(ConfigError, "tasks.range"):
            resolve(ImageFolder, {"path": "x", "range": ends}, "tasks")


def test_ordinary_data_is_read_alike(tmp_path: Path) -> None:
    def ordinary(**settings: Any) -> Supervised:
        return Supervised(path=str(tmp_path / "set"), **{"size": 8, "batch": 4, **settings})

    for split, images in (("train", 6), ("val", 2), ("test", 3)):
        write(tmp_path / "set" / split, "cat", "dog", images=images)
    with refusal(ConfigError, "tasks.splits=folders"):
        ordinary()
    tasks = ordinary(splits="folders")
    assert [len(tasks.members(split)) for split in SPLITS] == [12, 4, 6]
    assert tasks.label == "set, 2 classes"
    for split in SPLITS:
        pool = next(iter(tasks.episodes(split, 1)))
        assert set(pool.query_y.ravel().tolist()) <= {0, 1}
    write(tmp_path / "set" / "train", "bird", images=1)
    (tmp_path / "set" / "train" / "cat" / "9.png").write_bytes(b"")
    with refusal(ConfigError, "tasks.skip_damaged=true"):
        ordinary(splits="folders")
    left = ordinary(splits="folders", skip_damaged=True, min_images=2)
    assert left.shape.outputs == 2
    assert [left.fingerprint(split) for split in SPLITS] == [tasks.fingerprint(split) for split in SPLITS]
    assert len(left.remarks) == 2
    odd = tmp_path / os.fsdecode(b"caf\xe9.npz")
    np.savez(odd, x=np.zeros((20, 8, 8), np.uint8), y=np.arange(20) % 2)
    assert Supervised(path=str(odd)).label == r"caf\xe9, 2 classes"
    write(tmp_path / "set" / "test", "fish")
    with refusal(ConfigError, "fish"):
        ordinary(splits="folders", skip_damaged=True, min_images=2)


ODD = os.fsdecode(b"caf\xe9")


def run(folder: Path, *options: str) -> tuple[int, str, str]:
    """A search of one trial that trains nothing, on a folder."""
    settings = {"tasks.path": str(folder), **{f"tasks.{key}": value for key, value in SMALL.items()}}
    sets = [f"--set={key}={value}" for key, value in settings.items()]
    return nas("run", *SCRIPTED, "--space=mlp", "--tasks=image_folder", "--trials=1", *sets, *options)


def test_a_search_tells_and_records_what_is_left_out(tmp_path: Path, db: Path) -> None:
    folder = ten(tmp_path / ODD)
    (folder / "c3" / os.fsdecode(b"\xe9.png")).write_bytes(b"")
    code, _, err = run(folder, "--name=s")
    assert (code, "1 of 21" in err) == (2, True)
    code, _, err = run(folder, "--name=s", "--set=tasks.skip_damaged=true")
    assert code == 0
    (warning,) = (line for line in err.splitlines() if line.startswith("warning:"))
    shown = json.loads(nas("show", "s", "-f", "json")[1])
    assert shown["environment"]["remarks"] == [warning.removeprefix("warning: ")]
    assert shown["task"] == r"caf\xe9 2-way 1-shot"
    assert Path(shown["config"]["tasks"]["path"]) == folder
    assert nas("resume", "s", "--trials=+1")[0] == 0


def test_a_search_needs_more_than_test_classes(tmp_path: Path, db: Path) -> None:
    code, _, err = run(ten(tmp_path / "set"), "--set=tasks.splits=test")
    assert code == 2
    assert "tasks.splits" in err
    assert json.loads(nas("ls", "-f", "json")[1]) == []
