"""Image files of all kinds, damaged ones, and files that are none."""

from __future__ import annotations

import gc
import os
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from nas.tasks.decoding import FORMATS, SUFFIXES, Decoding, decode, decode_file
from nas.tasks.images import Pixels


def pixels(folder: Path, image: Image.Image, name: str = "a.png", **settings: Any) -> Pixels:
    """One image as it is decoded."""
    image.save(folder / name)
    return decode_file(folder / name, Decoding(**{"size": 4, **settings}))[0]


def filled(value: float, channels: int = 3) -> Pixels:
    return np.full((channels, 4, 4), value, dtype=np.uint8)


def strokes(colour: str) -> Image.Image:
    """A stroke of a colour on transparency, in the upper half."""
    image = Image.new("RGBA", (4, 4), (255, 255, 255, 0))
    image.paste(colour, (0, 0, 4, 2))
    return image


def test_the_shorter_side_is_resized_and_the_centre_cut_out(tmp_path: Path) -> None:
    wide = np.zeros((8, 24, 3), dtype=np.uint8)
    wide[:, 4:20] = (255, 0, 51)
    cut = pixels(tmp_path, Image.fromarray(wide))
    assert np.array_equal(cut, np.broadcast_to(np.array([255, 0, 51])[:, None, None], (3, 4, 4)))


def test_images_of_any_mode_become_colours_or_greys(tmp_path: Path) -> None:
    assert np.array_equal(pixels(tmp_path, Image.new("1", (4, 4), 1)), filled(255))
    assert np.array_equal(pixels(tmp_path, Image.new("RGB", (4, 4), "red"))[0], filled(255)[0])
    palette = Image.new("RGB", (4, 4), (0, 51, 0)).quantize()
    assert np.array_equal(pixels(tmp_path, palette)[1], filled(51)[0])
    cmyk = pixels(tmp_path, Image.new("CMYK", (4, 4), (0, 0, 0, 204)), "a.tiff", grayscale=True)
    assert np.array_equal(cmyk, filled(51, 1))
    deep = Image.fromarray(np.full((4, 4), 0x33FF, dtype=np.uint16))
    assert np.array_equal(pixels(tmp_path, deep), filled(0x33))
    scan = np.array([[0, 0x33FF]] * 2, dtype=">u2")
    Image.frombytes("I;16B", (2, 2), scan.tobytes()).save(tmp_path / "a.tif")
    assert decode_file(tmp_path / "a.tif", Decoding(2))[0][0].tolist() == [[0, 0x33]] * 2
    (tmp_path / "a.pgm").write_bytes(b"P5 2 1 4095\n" + bytes([15, 255, 0, 0]))  # of 12 bits, and says so
    assert decode_file(tmp_path / "a.pgm", Decoding(1))[0].tolist() == [[[128]]] * 3


def test_a_camera_held_upside_down_and_a_film_of_frames(tmp_path: Path) -> None:
    image = Image.new("L", (4, 4))
    image.putpixel((0, 0), 255)
    exif = image.getexif()
    exif[0x0112] = 3
    image.save(tmp_path / "a.png", exif=exif)
    upright, _ = decode_file(tmp_path / "a.png", Decoding(4, grayscale=True))
    assert np.argwhere(upright).tolist() == [[0, 3, 3]]
    frames = [Image.new("L", (4, 4), value) for value in (51, 204)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert np.array_equal(decode_file(tmp_path / "a.gif", Decoding(4))[0], filled(51))


def test_the_background_shows_where_an_image_is_transparent(tmp_path: Path) -> None:
    for colour, background, lost in [
        ("white", "white", True),
        ("white", "black", False),
        ("black", "white", False),
        ("black", "black", True),
    ]:
        strokes(colour).save(tmp_path / "a.png")
        made, values = decode_file(tmp_path / "a.png", Decoding(4, background=background))
        assert values.lost is values.blank is lost
        ground = 255 if background == "white" else 0
        assert np.array_equal(made[:, 2:], filled(ground)[:, 2:])
        assert np.array_equal(made[:, :2], filled(255 if colour == "white" else 0)[:, :2])
    plain = (
        decode_file(tmp_path / "b.png", Decoding(4)) if pixels(tmp_path, filled_image(), "b.png").size else 0
    )
    assert plain
    assert plain[1].blank
    assert not plain[1].lost


def filled_image() -> Image.Image:
    return Image.new("RGB", (4, 4), "white")


@pytest.mark.parametrize(
    ("range_", "expected"),
    [
        (None, [0, 0, 8, 15]),
        ((0, 4095), [0, 1, 128, 255]),
        ((4095, 0), [255, 254, 127, 0]),
        ((2048, 4095), [0, 0, 0, 255]),
    ],
)
def test_a_range_says_what_becomes_black_and_white(
    tmp_path: Path, range_: tuple[float, float] | None, expected: list[int]
) -> None:
    scan = np.array([[0, 16, 2048, 4095]], dtype=np.uint16).repeat(4, axis=0)
    Image.fromarray(scan).save(tmp_path / "a.png")
    made, values = decode_file(tmp_path / "a.png", Decoding(4, range=range_))
    assert made[0, 0].tolist() == expected
    assert (values.low, values.high, values.limit) == (0, 4095, 65535)


@pytest.mark.parametrize("mode", ["F", "I"])
def test_values_without_a_range_are_of_use_with_one(tmp_path: Path, mode: str) -> None:
    made = pixels(tmp_path, Image.new(mode, (4, 4), 5), "a.tiff", range=(0, 10))
    assert np.array_equal(made, filled(127))
    assert np.isnan(decode_file(tmp_path / "a.tiff", Decoding(4))[1].limit)


def test_a_range_of_all_values_changes_none(tmp_path: Path) -> None:
    every = Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16))
    plain = pixels(tmp_path, every, size=16)
    assert np.array_equal(plain, pixels(tmp_path, every, size=16, range=(0, 255)))
    assert np.array_equal(255 - plain, pixels(tmp_path, every, size=16, range=(255, 0)))
    deep = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    assert np.array_equal(pixels(tmp_path, Image.fromarray(deep), size=256)[0], deep >> 8)


def test_damage_is_found_whatever_it_is_and_the_rest_is_decoded(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    whole = Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8))
    for name in ("a.png", "b.jpg", "c.gif", "d.bmp", "e.tif", "f.webp", "g.ppm"):
        whole.save(tmp_path / name)
        content = (tmp_path / name).read_bytes()
        (tmp_path / f"half-{name}").write_bytes(content[: len(content) // 2])
    (tmp_path / "empty.png").touch()
    (tmp_path / "words.jpg").write_text("no image")
    (tmp_path / "drawing.png").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")
    (tmp_path / "really-a-gif.png").write_bytes((tmp_path / "c.gif").read_bytes())
    files = sorted(tmp_path.iterdir())
    decoded = decode(files, Decoding(8))
    bad = {file.name for file, reason in zip(files, decoded.damage, strict=True) if reason}
    assert bad == {*(file.name for file in tmp_path.glob("half-*")), "empty.png", "words.jpg", "drawing.png"}
    assert not any(decoded.refused)
    for file, image, reason in zip(files, decoded.images, decoded.damage, strict=True):
        assert np.array_equal(image, decode_file(file, Decoding(8))[0] if not reason else np.zeros((3, 8, 8)))


def test_what_the_system_refuses_is_no_damage(tmp_path: Path) -> None:
    decoded = decode([tmp_path / "gone.png"], Decoding(8))
    assert decoded.damage == [""]
    assert decoded.refused != [""]


def test_films_and_drawings_are_no_images() -> None:
    assert {".png", ".jpg", ".jpeg", ".gif", ".bmp", ".tif", ".webp", ".pgm"} <= SUFFIXES
    assert not {".mpg", ".eps", ".ps", ".pdf", ".svg", ".ico", ".fits", ".h5", ".psd", ""} & SUFFIXES
    assert "EPS" not in FORMATS


def test_an_interrupt_ends_decoding_soon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun = []

    def slow(file: Path, decoding: Decoding) -> Any:
        begun.append(file)
        if len(begun) == 20:
            os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.01)
        raise ValueError

    monkeypatch.setattr("nas.tasks.decoding.decode_file", slow)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
    gc.disable()  # Python drops an exception that is raised while it collects other tests' garbage
    try:
        with pytest.raises(KeyboardInterrupt):
            decode([tmp_path / str(number) for number in range(5000)], Decoding(8))
    finally:
        gc.enable()
        signal.signal(signal.SIGINT, before)
    assert len(begun) < 500
