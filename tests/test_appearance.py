from __future__ import annotations

import ast
import re
from pathlib import Path

import numpy as np
import platformdirs
import pytest
from facts import refusal
from PIL import Image

from nas.errors import ConfigError
from nas.space import TaskShape
from nas.tasks.appearance import appearance, differences, look
from nas.tasks.glyphs import Glyphs
from nas.tasks.image_folder import ImageFolder, fitting
from nas.tasks.sinusoid import Sinusoid
from nas.testing.tasks import write_omniglot


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platformdirs, "user_cache_path", lambda name: tmp_path / "cache")


@pytest.fixture(scope="module")
def glyphs() -> Glyphs:
    return Glyphs()


def drawings(paper: float, ink: float, count: int = 8) -> np.ndarray:
    """Images with a stroke from edge to edge."""
    images = np.full((count, 28, 28), paper, dtype=np.float32)
    images[:, :, 12:15] = ink
    images[:, 8] = ink
    return images


@pytest.mark.parametrize(("paper", "ink"), [(0, 1), (1, 0), (0.2, 0.7), (0.9, 0.1)])
def test_ink_and_background_are_told_apart(paper: float, ink: float) -> None:
    seen = look(drawings(paper, ink))
    assert (seen.background, seen.ink) == pytest.approx((paper, ink))
    assert (seen.low, seen.high) == pytest.approx((min(paper, ink), max(paper, ink)))
    assert seen.mean == pytest.approx(drawings(paper, ink).mean())


def test_a_page_in_uneven_light_has_a_background() -> None:
    page = drawings(0.95, 0.1) * np.linspace(0.75, 1, 28, dtype=np.float32)[:, None]
    seen = look(page + np.random.default_rng(0).normal(0, 0.02, page.shape).astype(np.float32))
    assert seen.background == pytest.approx(0.83, abs=0.05)
    assert seen.ink == pytest.approx(0.1, abs=0.05)


def test_photographs_have_no_background_and_blank_paper_no_ink() -> None:
    noise = np.random.default_rng(0).random((8, 28, 28), dtype=np.float32)
    assert (look(noise).background, look(noise).ink) == (None, None)
    blank = look(np.ones((8, 28, 28), dtype=np.float32))
    assert (blank.background, blank.ink) == (1, None)


def test_what_differs_from_training_is_said_with_the_setting_that_mends_it() -> None:
    trained = look(drawings(0, 1))
    assert differences(trained, trained) == ()
    assert differences(look(drawings(0.05, 0.95)), trained) == ()
    (inverted,) = differences(look(drawings(1, 0)), trained)
    assert "tasks.range=[255,0]" in inverted
    (dark,) = differences(look(drawings(0, 0.06)), trained)
    assert "tasks.range" in dark
    assert "[255, 0]" not in dark
    noise = look(np.random.default_rng(0).random((8, 28, 28), dtype=np.float32))
    assert len(differences(noise, trained)) == len(differences(trained, noise)) == 1
    assert differences(noise, noise) == ()
    assert len(differences(look(drawings(1, 1)), trained)) == 1


def test_glyphs_are_white_on_black_and_vectors_no_images(glyphs: Glyphs) -> None:
    seen = appearance(glyphs, "train")
    assert seen is not None
    assert seen.background == 0
    assert seen.ink is not None
    assert seen.ink > 0.8
    assert appearance(Sinusoid(), "train") is None


def test_own_scans_meet_a_model_of_glyphs(tmp_path: Path, glyphs: Glyphs) -> None:
    """The settings that the advice names bring black ink on white paper to where the model learned."""
    pixels = glyphs._tasks.images[:200, 0]
    for number, image in enumerate(pixels):
        path = tmp_path / "own" / f"{number // 20}" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(255 - image).resize((56, 56)).save(path)
    fit = fitting(glyphs.shape)
    assert fit == {"size": 28, "grayscale": True}
    own = ImageFolder(path=str(tmp_path / "own"), splits="test", **fit)
    assert own.shape.input == glyphs.shape.input
    trained = appearance(glyphs, "train")
    here = appearance(own, "test")
    assert trained is not None
    assert here is not None
    assert len(differences(here, trained)) == 1
    mended = appearance(ImageFolder(path=str(tmp_path / "own"), splits="test", range=[255, 0], **fit), "test")
    assert mended is not None
    assert differences(mended, trained) == ()


def test_what_is_for_test_only_trains_nothing(tmp_path: Path, glyphs: Glyphs) -> None:
    for number, image in enumerate(glyphs._tasks.images[:120, 0]):
        path = tmp_path / "own" / f"{number // 20}" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
    own = ImageFolder(path=str(tmp_path / "own"), splits="test", size=28, ways=6)
    assert own.members("test") == {str(number) for number in range(6)}
    assert own.members("train") == own.members("validation") == frozenset()
    assert own.shape.train_classes is None
    assert set(own.sample("test", 50, np.random.default_rng(0)).classes.ravel()) == set(range(6))
    with refusal(ConfigError, "tasks.splits"):
        own.fingerprint("train")
    with refusal(ConfigError, "tasks.splits"):
        own.sample("validation", 1, np.random.default_rng(0))


@pytest.mark.parametrize("shape", [(1, 28, 20), (4, 28, 28), (3,)])
def test_what_takes_no_square_images_fits_no_folder(shape: tuple[int, ...]) -> None:
    assert fitting(TaskShape((3, 84, 84), 5)) == {"size": 84, "grayscale": False}
    with pytest.raises(ConfigError):
        fitting(TaskShape(shape, 5))


def test_the_page_on_images_compares_as_it_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = (Path(__file__).parent.parent / "docs" / "howto" / "images.md").read_text()
    block, _ = re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    write_omniglot(tmp_path)
    monkeypatch.setenv("NAS_DATA", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    for number, image in enumerate(drawings(0.9, 0.1, 30)):
        path = tmp_path / "drawings" / f"{number // 6}" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((255 * image).astype(np.uint8)).save(path)
    exec(block, {})
    seen, advice = capsys.readouterr().out.splitlines()
    assert seen == str(look(np.rint(255 * drawings(0.9, 0.1)).astype(np.uint8) / np.float32(255)))
    assert len(ast.literal_eval(advice)) == 1  # the miniature has ink up to its borders
