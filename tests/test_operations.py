"""Operations on images, against Pillow, exact shifts, moments and finite differences."""

import math
from functools import partial

import numpy as np
import pytest
import torch
from facts import refusal
from PIL import Image, ImageEnhance, ImageOps
from torch.testing import assert_close

from nas.errors import ConfigError, UnknownName
from nas.learners.augmentation import chance
from nas.learners.operations import OPERATIONS, Operations, draw, usual

pytestmark = pytest.mark.usefixtures("one_thread")

KINDS = ("strokes", "photographs")
EVERY = [(kind, name) for name, each in OPERATIONS.items() for kind in each.most]
SMOOTH = ("rotate", "shear_x", "shear_y", "translate_x", "translate_y", "scale", "elastic", "thicken", "thin")
PHOTOMETRIC = ("brightness", "contrast", "colour", "sharpness")


def images(kind="photographs", count=6, size=16, seed=0):
    """Return images whose values are whole 255ths, so that Pillow reads them without a loss."""
    rng = np.random.default_rng(seed)
    channels = 3 if kind == "photographs" else 1
    return torch.from_numpy(rng.integers(30, 220, (count, channels, size, size)) / 255).float()


def drawn(magnitude, count=6, which=0, seed=0):
    """Return a draw of one operation with these magnitudes, signs as given."""
    made = draw(torch.full((count, 1), which), torch.ones(count, 1), chance(seed))
    values = torch.as_tensor(magnitude, dtype=torch.float32).expand(count)[:, None]
    return made._replace(magnitude=values)


def done(kind, name, x, magnitude, **options):
    return Operations(kind, (name,))(x, drawn(magnitude, len(x), **options))


def spot(size=(16, 16), down=2.5, right=1.5):
    """Return an image of a spot at a place from the middle."""
    rows, columns = (torch.arange(side) - (side - 1) / 2 for side in size)
    return torch.exp(-((rows[:, None] - down) ** 2 + (columns[None] - right) ** 2))[None, None]


def middle(x):
    """Return where the ink of an image is, down and right from the middle."""
    axes = [torch.arange(side) - (side - 1) / 2 for side in x.shape[-2:]]
    return [float((x * axis).sum() / x.sum()) for axis in (axes[0][:, None], axes[1])]


@pytest.mark.parametrize(("kind", "name"), EVERY)
def test_magnitude_0_is_the_image_to_the_bit(kind, name):
    x = images(kind)
    assert torch.equal(done(kind, name, x, 0.0), x)


@pytest.mark.parametrize(("kind", "name"), EVERY)
def test_each_image_has_a_magnitude_of_its_own(kind, name):
    """What happens to an image does not depend on the others, and those of magnitude 0 stay as they are."""
    x, magnitudes = images(kind), torch.tensor([0.0, 1.0, -1.0, 0.5, 0.0, -0.2])
    draws, operations = drawn(magnitudes), Operations(kind, (name,))
    together = operations(x, draws)
    alone = [operations(x[row : row + 1], draws.at(torch.tensor([row]))) for row in range(6)]
    assert_close(together, torch.cat(alone), rtol=0, atol=1e-5)
    assert torch.equal(together[[0, 4]], x[[0, 4]])
    assert not torch.equal(together[1], x[1])


@pytest.mark.parametrize("kind", KINDS)
def test_images_pass_through_operations_of_their_own(kind):
    """In order, one after the other; −1 is none."""
    names = usual(kind)
    operations, x = Operations(kind, names), images(kind, len(names))
    which = torch.stack([torch.arange(len(names)), torch.arange(len(names)).flip(0)], 1)
    which[0] = -1
    draws = draw(which, torch.full(which.shape, 0.7), chance(1))
    found = operations(x, draws)
    assert torch.equal(found[0], x[0])
    for row in range(1, len(names)):
        expected = x[row : row + 1]
        for number in range(2):
            single = draws.step(number).at(torch.tensor([row]))
            expected = Operations(kind, names)(expected, type(draws)(*(each[:, None] for each in single)))
        assert_close(found[row], expected[0], rtol=0, atol=1e-4)


def test_a_shift_by_whole_pixels_moves_the_image():
    x = images("strokes", size=28)
    found = done("strokes", "translate_x", x, 0.5)
    assert_close(found[..., :27], x[..., 1:], rtol=0, atol=1e-5)
    assert_close(found[..., 27], torch.zeros_like(x[..., 27]), rtol=0, atol=1e-5)
    found = done("strokes", "translate_y", x, -1.0)
    assert_close(found[..., 2:, :], x[..., :-2, :], rtol=0, atol=1e-5)


@pytest.mark.parametrize("size", [(16, 16), (16, 24)])
@pytest.mark.parametrize("sign", [1, -1])
def test_a_turn_a_shear_and_a_scale_move_a_point(size, sign):
    """In pixels about the middle, in images that are no squares, too."""
    down, right = 2.5, 1.5
    turn = math.radians(15 * sign)
    expected = {
        "rotate": (
            down * math.cos(turn) - right * math.sin(turn),
            right * math.cos(turn) + down * math.sin(turn),
        ),
        "shear_x": (down, right - 0.2 * sign * down),
        "shear_y": (down - 0.2 * sign * right, right),
        "scale": (down * (1 + 0.15 * sign), right * (1 + 0.15 * sign)),
    }
    for name, places in expected.items():
        assert middle(done("strokes", name, spot(size), sign)) == pytest.approx(places, abs=0.1), name


def test_an_elastic_field_is_smooth_and_bounded():
    """A spot keeps its shape, roughly, and moves by two pixels of 28 at most."""
    x = spot((28, 28)).expand(200, -1, -1, -1)
    moved = torch.tensor([middle(image) for image in done("strokes", "elastic", x, 1.0)])
    away = (moved - torch.tensor(middle(x[0]))).abs()
    assert away.max() < 2.6
    assert away.max() > 1.0
    ink = done("strokes", "elastic", x, 1.0).sum((1, 2, 3)) / x[0].sum()
    assert 0.4 < float(ink.min()) < float(ink.max()) < 2


def test_ink_spreads_and_shrinks_by_a_pixel():
    x = torch.zeros(1, 1, 9, 9)
    x[..., 3:6, 3:6] = 1
    wide, narrow = done("strokes", "thicken", x, 1.0), done("strokes", "thin", x, 1.0)
    assert (wide.sum(), narrow.sum()) == (25, 1)
    assert wide[..., 2:7, 2:7].all()
    assert narrow[..., 4, 4] == 1
    assert_close(done("strokes", "thicken", x, 0.4), x + 0.4 * (wide - x))


def test_a_square_is_cut_out():
    x = torch.ones(40, 1, 20, 20)
    found = done("strokes", "cutout", x, torch.linspace(0.5, 1, 40))
    gone = (x - found).sum((1, 2, 3))
    assert gone.max() <= 25
    assert gone.min() >= 1
    rows = found[-1, 0].eq(0).any(1)
    assert (found[-1, 0][rows].eq(0).sum(1).unique().numel()) == 1
    photographs = done("photographs", "cutout", images(size=20), 1.0)
    assert (photographs == 0.5).sum() >= 6 * 3 * 4


def pillow(x, change):
    """Return images as Pillow changes them."""
    pixels = (255 * x).round().byte().movedim(1, -1).numpy()
    changed = [np.asarray(change(Image.fromarray(image))) for image in pixels]
    return torch.from_numpy(np.stack(changed)).movedim(-1, 1).float() / 255


@pytest.mark.parametrize(
    ("name", "magnitude", "change", "off"),
    [
        ("autocontrast", 1.0, ImageOps.autocontrast, 1.1),
        ("equalize", 1.0, ImageOps.equalize, 0.1),
        ("invert", 1.0, ImageOps.invert, 0.1),
        ("posterize", 1.0, partial(ImageOps.posterize, bits=4), 0.1),
        ("posterize", 0.5, partial(ImageOps.posterize, bits=6), 0.1),
        ("solarize", 0.4, partial(ImageOps.solarize, threshold=153), 0.1),
        ("brightness", 0.5, lambda image: ImageEnhance.Brightness(image).enhance(1.45), 1.1),
        ("brightness", -1.0, lambda image: ImageEnhance.Brightness(image).enhance(0.1), 1.1),
        ("contrast", 1.0, lambda image: ImageEnhance.Contrast(image).enhance(1.9), 1.6),
        ("contrast", -0.5, lambda image: ImageEnhance.Contrast(image).enhance(0.55), 1.6),
        ("colour", 1.0, lambda image: ImageEnhance.Color(image).enhance(1.9), 1.6),
        ("sharpness", 1.0, lambda image: ImageEnhance.Sharpness(image).enhance(1.9), 1.6),
        ("sharpness", -1.0, lambda image: ImageEnhance.Sharpness(image).enhance(0.1), 1.6),
        ("flip_x", 1.0, ImageOps.mirror, 0.1),
        ("flip_y", 1.0, ImageOps.flip, 0.1),
    ],
)
def test_photographs_change_as_in_pillow(name, magnitude, change, off):
    """Within the rounding of Pillow's whole numbers, in 255ths."""
    x = images()
    found = done("photographs", name, x, magnitude)
    assert 255 * (found - pillow(x, change)).abs().max() <= off
    assert not torch.equal(found, x)


@pytest.mark.parametrize("name", ["posterize", "solarize", "brightness", "contrast", "colour", "sharpness"])
def test_a_larger_magnitude_does_more(name):
    x = images()
    away = [float((done("photographs", name, x, m) - x).abs().mean()) for m in (0.0, 0.3, 0.6, 1.0)]
    assert away == sorted(away)
    assert away[0] < away[1] < away[-1]


def test_posterizing_leaves_4_bits():
    values = done("photographs", "posterize", torch.linspace(0, 1, 256).expand(1, 3, 1, 256), 1.0).unique()
    assert len(values) == 16


def test_flat_images_have_no_contrast_to_stretch():
    flat = torch.full((1, 3, 8, 8), 0.4)
    for name in ("autocontrast", "equalize", "contrast", "sharpness"):
        assert_close(done("photographs", name, flat, 1.0), flat)


@pytest.mark.parametrize(
    ("kind", "name"),
    [*(("strokes", name) for name in SMOOTH), *(("photographs", name) for name in PHOTOMETRIC)],
)
def test_the_gradient_of_a_magnitude(kind, name):
    """By differences, in float64; no pixel is at a kink."""
    x = images(kind, 2, 12).double()
    x = 0.5 + (x - 0.5) / 8 if kind == "photographs" else x
    draws, operations = drawn(0.41, 2), Operations(kind, (name,))
    weights = torch.randn(x.shape, generator=chance(5)).double()

    def loss(magnitude):
        made = draws._replace(magnitude=magnitude, place=draws.place.double(), bend=draws.bend.double())
        return (weights * operations(x, made)).sum()

    magnitude = draws.magnitude.double().requires_grad_()
    (found,) = torch.autograd.grad(loss(magnitude), magnitude)
    h = 1e-6
    for row in range(2):
        step = torch.zeros(2, 1, dtype=torch.float64)
        step[row] = h
        with torch.no_grad():
            slope = (loss(magnitude + step) - loss(magnitude - step)) / (2 * h)
        assert float(found[row]) == pytest.approx(float(slope), rel=1e-3, abs=1e-6)


def test_a_quarter_turn_has_a_direction():
    x = images("strokes")
    assert torch.equal(done("strokes", "quarter_turn", x, 1.0), x.rot90(1, (-2, -1)))
    assert torch.equal(done("strokes", "quarter_turn", x, -0.1), x.rot90(-1, (-2, -1)))


def test_what_gives_another_class_is_not_among_the_usual():
    assert len(usual("strokes")) == 10
    assert len(usual("photographs")) == 16
    assert not {"flip_x", "flip_y", "quarter_turn"} & {*usual("strokes")}
    assert not {"flip_y", "quarter_turn"} & {*usual("photographs")}
    assert "flip_x" in usual("photographs")


@pytest.mark.parametrize(
    ("kind", "name", "shape", "error", "word"),
    [
        ("strokes", "turn", (1, 8, 8), UnknownName, "'turn'"),
        ("strokes", "solarize", (1, 8, 8), ConfigError, "'solarize'"),
        ("photographs", "thicken", (3, 8, 8), ConfigError, "'thicken'"),
        ("strokes", "rotate", (3, 8, 8), ConfigError, "3"),
        ("photographs", "colour", (1, 8, 8), ConfigError, "'colour'"),
        ("strokes", "rotate", (4,), ConfigError, "(4,)"),
        ("strokes", "quarter_turn", (1, 8, 9), ConfigError, "'quarter_turn'"),
    ],
)
def test_refusals(kind, name, shape, error, word):
    with refusal(error, word):
        Operations(kind, (name,)).check(shape)
