from __future__ import annotations

import io
import shutil
import zipfile
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import platformdirs
import pytest
import torch
from facts import refusal
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch.nn.functional import normalize

from nas.errors import ConfigError, DataMissing
from nas.tasks.base import SPLITS
from nas.tasks.files import names
from nas.tasks.omniglot import Omniglot, area_average, finn_split
from nas.testing.tasks import draw, same, write_omniglot


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("NAS_DATA", str(tmp_path))
    monkeypatch.setattr(platformdirs, "user_cache_path", lambda name: tmp_path / "cache")
    return tmp_path


@pytest.fixture(scope="module")
def real(nas_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    if not (nas_data / "omniglot").is_dir():
        pytest.skip(f"needs {nas_data / 'omniglot'}")
    cache = tmp_path_factory.getbasetemp() / "cache"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NAS_DATA", str(nas_data))
        patch.setattr(platformdirs, "user_cache_path", lambda name: cache)
        yield nas_data / "omniglot"


def shares(ink: np.ndarray[Any, Any], size: int) -> list[list[Fraction]]:
    """The share of ink in each area, pixel by pixel in exact arithmetic."""
    side = len(ink)
    step = Fraction(side, size)

    def overlap(area: int, pixel: int) -> Fraction:
        low, high = max(area * step, Fraction(pixel)), min((area + 1) * step, Fraction(pixel + 1))
        return max(high - low, Fraction(0))

    return [
        [
            sum(
                (overlap(i, y) * overlap(j, x) for y in range(side) for x in range(side) if ink[y, x]),
                Fraction(0),
            )
            / step**2
            for j in range(size)
        ]
        for i in range(size)
    ]


@given(side=st.integers(2, 9), size=st.integers(1, 5), seed=st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=25)
def test_area_averages_are_exact(side: int, size: int, seed: int) -> None:
    ink = np.random.default_rng(seed).random((side, side)) < 0.5
    for row, exact in zip(area_average(ink[None], size)[0], shares(ink, size), strict=True):
        assert all(
            abs(int(value) - 255 * share) <= Fraction(1, 2) for value, share in zip(row, exact, strict=True)
        )


def test_area_averages_of_the_published_size() -> None:
    drawings = np.random.default_rng(0).random((40, 105, 105)) < 0.3
    pixels = area_average(drawings)
    for ink, got in zip(drawings, pixels, strict=True):
        enlarged = np.kron(ink, np.ones((4, 4))).reshape(28, 15, 28, 15).mean((1, 3))
        assert (got == np.rint(255 * enlarged)).all()


@pytest.mark.parametrize("zipped", [True, False])
def test_zips_and_folders_read_alike(root: Path, zipped: bool) -> None:
    write_omniglot(root, zipped)
    source = Omniglot(ways=12)
    episode = source.sample("test", 1, np.random.default_rng(0))
    assert source.shape.input == (1, 28, 28)
    assert source.label == "omniglot 12-way 1-shot"
    assert sorted(episode.classes[0].tolist()) == list(range(12))
    set_ = root / "omniglot" / "images_evaluation"
    for class_, image in zip(episode.classes[0], episode.support_x[0, :, 0], strict=True):
        character, turns = divmod(int(class_), 4)
        candidates = []
        for drawing in range(1, 7):
            name = f"Tengwar/character{character + 1:02}/3{character + 1:03}_{drawing:02}.png"
            if zipped:
                with zipfile.ZipFile(f"{set_}.zip") as archive:
                    content = archive.read(f"images_evaluation/{name}")
            else:
                content = (set_ / name).read_bytes()
            with Image.open(io.BytesIO(content)) as png:
                candidates.append(np.rot90(area_average(~np.asarray(png)[None])[0], turns))
        assert any(np.array_equal(np.rint(image.numpy() * 255), candidate) for candidate in candidates)


@pytest.mark.parametrize("zipped", [True, False])
def test_files_of_a_system_are_no_drawings(root: Path, zipped: bool) -> None:
    set_ = write_omniglot(root, zipped) / "images_evaluation"
    for name in ("Tengwar/character01/._3001_01.png", "__MACOSX/character01/3001_01.png"):
        if zipped:
            with zipfile.ZipFile(f"{set_}.zip", "a") as archive:
                archive.writestr(f"images_evaluation/{name}", b"\0\5\x16\7")
        else:
            (set_ / name).parent.mkdir(parents=True, exist_ok=True)
            (set_ / name).write_bytes(b"\0\5\x16\7")
    assert len(names(Path(f"{set_}.zip") if zipped else set_)) == 3 * 6
    assert len(Omniglot().members("test")) == 3 * 4


def test_rotations_are_classes_of_the_same_split(root: Path) -> None:
    write_omniglot(root)
    with refusal(ConfigError, "tasks.ways", 4, 3, "'validation'"):
        Omniglot(ways=4, rotations=False)
    upright, rotated = Omniglot(ways=3, rotations=False), Omniglot(ways=3)
    assert draw(upright).classes.max() == 7
    assert draw(rotated).classes.max() == 31
    assert rotated.fingerprint("train")[0] == "omniglot/vinyals/train"
    prints = {source.fingerprint(split) for source in (upright, rotated) for split in SPLITS}
    assert len({name for name, _ in prints}) == len({classes for _, classes in prints}) == 6


def test_the_second_time_the_images_come_from_the_cache(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_omniglot(root)
    first = draw(Omniglot())
    with monkeypatch.context() as patch:
        patch.setattr("nas.tasks.omniglot._read", None)
        assert same(draw(Omniglot()), first)
    folder = root / "omniglot"
    shutil.copy(folder / "images_evaluation.zip", folder / "copy.zip")
    (folder / "copy.zip").replace(folder / "images_evaluation.zip")
    monkeypatch.setattr("nas.tasks.omniglot._read", None)
    with pytest.raises(TypeError):
        Omniglot()


def test_the_default_folder_is_the_users_data_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NAS_DATA", raising=False)
    monkeypatch.setattr(platformdirs, "user_data_path", lambda name: tmp_path / name)
    monkeypatch.setattr(platformdirs, "user_cache_path", lambda name: tmp_path / "cache")
    with refusal(DataMissing, "nas data fetch omniglot"):
        Omniglot()
    write_omniglot(tmp_path / "nas")
    assert Omniglot().label == "omniglot 5-way 1-shot"


def test_missing_data_say_what_is_missing_and_how_to_get_it(root: Path) -> None:
    hints = "nas data fetch omniglot", "NAS_DATA"
    with refusal(DataMissing, "images_background.zip", *hints):
        Omniglot()
    folder = write_omniglot(root)
    (folder / "splits" / "vinyals" / "val.txt").unlink()
    with refusal(DataMissing, "val.txt", *hints):
        Omniglot()
    (folder / "splits" / "vinyals" / "val.txt").write_text("Klingon/character01/rot000\n")
    with refusal(DataMissing, "'Klingon/character01'", "val.txt", *hints):
        Omniglot()
    with refusal(DataMissing, 14, "1,623", *hints):
        Omniglot(split="finn")


def test_damaged_data_are_named(root: Path) -> None:
    folder = write_omniglot(root)
    whole = (folder / "images_evaluation.zip").read_bytes()
    (folder / "images_evaluation.zip").write_bytes(whole[: len(whole) // 2])
    with refusal(DataMissing, folder / "images_evaluation.zip"):
        Omniglot()
    with zipfile.ZipFile(folder / "images_evaluation.zip", "w") as archive:
        archive.writestr("images_evaluation/Tengwar/character01/1_01.png", b"no image")
    with refusal(DataMissing, "Tengwar/character01/1_01.png", folder / "images_evaluation.zip"):
        Omniglot()
    png = io.BytesIO()
    Image.new("1", (28, 28)).save(png, "PNG")
    with zipfile.ZipFile(folder / "images_evaluation.zip", "w") as archive:
        archive.writestr("images_evaluation/Tengwar/character01/1_01.png", png.getvalue())
    with refusal(DataMissing, "28×28", "105×105"):
        Omniglot()


def test_the_finn_split_divides_all_characters() -> None:
    names = [f"alphabet/character{i:04}" for i in range(1623)]
    splits = finn_split(names)
    assert {split: len(chosen) for split, chosen in splits.items()} == {
        "train": 1100,
        "validation": 100,
        "test": 423,
    }
    assert sorted(name for chosen in splits.values() for name in chosen) == names
    assert splits == finn_split(names[::-1])
    assert splits["train"][:3] == [f"alphabet/character{i:04}" for i in (713, 1081, 1577)]


@pytest.mark.slow
@pytest.mark.parametrize("rotations", [True, False])
def test_the_vinyals_classes_are_the_published_lists(real: Path, rotations: bool) -> None:
    source = Omniglot(rotations=rotations)
    for split, file in {"train": "train", "validation": "val", "test": "test"}.items():
        lines = (real / "splits" / "vinyals" / f"{file}.txt").read_text().split()
        expected = [line for line in lines if rotations or line.endswith("/rot000")]
        assert list(source._tasks.splits[split].names) == expected  # type: ignore[index]


@pytest.mark.parametrize("split", ["vinyals", "finn"])
def test_splits_of_the_real_data_share_no_character(real: Path, split: Any) -> None:
    classes = Omniglot(split=split)._tasks.splits
    characters = [{name.rpartition("/")[0] for name in classes[part].names} for part in SPLITS]
    assert len(set.union(*characters)) == sum(map(len, characters)) == 1623
    expected = (1028, 172, 423) if split == "vinyals" else (1100, 100, 423)
    assert tuple(map(len, characters)) == expected
    assert [len(classes[part].names) for part in SPLITS] == [4 * count for count in expected]


def test_the_real_images_are_the_reference_to_the_last_bit(real: Path) -> None:
    source = Omniglot()._tasks
    with np.load(real / "omniglot28.npz") as reference:
        images, labels = reference["images"], reference["label"]
        numbers = {name.partition("/")[2]: i for i, name in enumerate(reference["characters"].tolist())}
    assert (labels == np.repeat(np.arange(1623), 20)).all()
    for classes in source.splits.values():
        for name, start, count in zip(classes.names, classes.starts, classes.counts, strict=True):
            character, _, turn = name.rpartition("/rot")
            expected = images[20 * numbers[character] :][:20]
            assert count == 20
            assert np.array_equal(
                source.images[start : start + 20, 0], np.rot90(expected, int(turn) // 90, axes=(1, 2))
            )


@pytest.mark.parametrize(("ways", "shots", "floor"), [(5, 1, 47.2), (5, 5, 66.1), (20, 1, 28.0)])
def test_nearest_means_of_pixels_score_as_measured_elsewhere(
    real: Path, ways: int, shots: int, floor: float
) -> None:
    """Images of unit length, unrotated characters."""
    source = Omniglot(ways=ways, shots=shots, rotations=False)
    episode = source.sample("test", 300, np.random.default_rng(0))
    support, query = (
        normalize(episode.support_x.flatten(2), dim=-1),
        normalize(episode.query_x.flatten(2), dim=-1),
    )
    means = support.reshape(300, ways, shots, -1).mean(2)
    right = 100 * (torch.cdist(query, means).argmin(-1) == episode.query_y).float().mean(1)
    error = (right.std() / 300**0.5).item()
    assert right.mean().item() == pytest.approx(floor, abs=4 * error)
    assert error < 0.8
