from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from facts import refusal
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.functional import cross_entropy

from nas.errors import ConfigError
from nas.tasks.base import SPLITS, Episode
from nas.tasks.glyphs import (
    CHARACTERS,
    DRAWINGS,
    POINTS,
    RADIUS,
    SIGNS,
    SIZE,
    Glyphs,
    _characters,
    bezier,
    draw_alphabet,
    draw_alphabets,
    render,
)
from nas.testing.tasks import draw, same

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def glyphs() -> Glyphs:
    return Glyphs()


def nearest_mean(support: torch.Tensor, query: torch.Tensor, episode: Episode) -> torch.Tensor:
    """Logits of one task's queries."""
    means = support.reshape(episode.ways, episode.shots, -1).mean(1)
    return -(torch.cdist(query.flatten(1), means) ** 2)


def accuracy(logits: torch.Tensor, episode: Episode) -> float:
    return (logits.argmax(-1) == episode.query_y[0]).float().mean().item()


@given(seed=st.integers(0, 2**32 - 1), t=st.floats(0, 1))
@settings(deadline=None, max_examples=50)
def test_a_bezier_curve_is_what_de_casteljau_draws(seed: int, t: float) -> None:
    control = np.random.default_rng(seed).normal(size=(4, 2))
    points = control
    while len(points) > 1:
        points = (1 - t) * points[:-1] + t * points[1:]
    assert np.allclose(bezier(control, np.array([t]))[0], points[0])


def test_a_line_is_as_wide_as_its_thickness_says() -> None:
    x = np.linspace(4.0, 23.0, 48)
    line = np.stack([x, np.full_like(x, 13.5)], axis=-1)
    dot = np.full_like(line, 2.0)
    curves = np.stack([line, dot])[None].repeat(2, axis=0)
    images = render(curves, np.array([[True, False]] * 2), np.array([0.6, 1.2]))
    distances = np.arange(SIZE) - 13.5
    for image, sigma in zip(images, (0.6, 1.2), strict=True):
        profile = 255 * (2 * np.exp(-((distances / sigma) ** 2) / 2) - 0.5).clip(0, 1)
        assert abs(image[:, 8:20].astype(float) - profile[:, None]).max() < 2
        assert not image[:, :2].any()
        assert not image[:, 26:].any()


def test_a_curve_has_the_ink_of_its_line_integral() -> None:
    rng = np.random.default_rng(0)
    curves = 14 + 9 * bezier(rng.uniform(-1, 1, (3, 2, 4, 2)), np.linspace(0, 1, 48))
    used = np.array([[True, True], [True, False], [False, True]])
    thickness = np.array([0.6, 0.8, 1.0])
    for image, strokes, use, sigma in zip(
        render(curves, used, thickness), curves, used, thickness, strict=True
    ):
        density = np.zeros((SIZE, SIZE))
        for stroke in strokes[use]:
            ends = stroke[:-1, None, None], stroke[1:, None, None]
            length = np.linalg.norm(ends[1] - ends[0], axis=-1)
            grid = np.stack(np.meshgrid(np.arange(SIZE), np.arange(SIZE)), axis=-1)
            kernels = [np.exp(-((grid - end) ** 2).sum(-1) / (2 * sigma**2)) for end in ends]
            density += (length * (kernels[0] + kernels[1]) / 2).sum(0) / (sigma * math.sqrt(2 * math.pi))
        assert abs(image - 255 * (2 * density - 0.5).clip(0, 1)).max() <= 0.51


def test_alphabets_are_drawn_anew_from_the_generator_alone() -> None:
    first = draw_alphabet(np.random.default_rng(7))
    assert first.shape == (CHARACTERS * DRAWINGS, SIZE, SIZE)
    assert np.array_equal(first, draw_alphabet(np.random.default_rng(7)))
    assert not np.array_equal(first, draw_alphabet(np.random.default_rng(8)))
    assert len(SIGNS) == len(set(SIGNS)) >= CHARACTERS


def test_a_process_draws_once_and_nothing_can_spoil_it() -> None:
    one, other = Glyphs()._tasks.images, Glyphs(ways=3)._tasks.images
    assert np.shares_memory(one, other)
    assert not one.flags.writeable


def test_the_seed_decides_the_alphabets(glyphs: Glyphs) -> None:
    draw_alphabets.cache_clear()
    assert same(draw(glyphs), draw(Glyphs()))
    other = Glyphs(seed=1)
    assert not torch.equal(draw(glyphs).query_x, draw(other).query_x)
    prints = {source.fingerprint(split) for source in (glyphs, other) for split in SPLITS}
    assert len({name for name, _ in prints}) == len({classes for _, classes in prints}) == 6
    assert glyphs.fingerprint("validation")[0] == "glyphs/0/validation"
    assert glyphs.label == "glyphs 5-way 1-shot"


def test_no_two_drawings_are_the_same(glyphs: Glyphs) -> None:
    images = glyphs._tasks.images
    assert len({image.tobytes() for image in images}) == len(images) == 6400
    assert (images.max(axis=(1, 2, 3)) > 200).all()


def test_no_two_characters_are_the_same() -> None:
    """Drawn with a broad pen and no jitter, even the two most alike differ."""
    rng = np.random.default_rng(0)
    drawn = []
    for _ in range(32):
        strokes, used = _characters(rng)
        curves = 13.5 + RADIUS * bezier(strokes, POINTS)
        drawn.append(render(curves, used, np.full(len(used), 1.5)).reshape(len(used), -1).astype(float))
    images = np.concatenate(drawn)
    images /= np.linalg.norm(images, axis=1, keepdims=True)
    cosine = images @ images.T - np.eye(len(images))
    assert len(images) == 320
    assert cosine.max() < 0.98
    assert np.median(cosine) < 0.6


def test_drawings_lie_within_the_image(glyphs: Glyphs) -> None:
    images = glyphs._tasks.images[:, 0].astype(float) / 255
    border = np.ones((SIZE, SIZE), bool)
    border[1:-1, 1:-1] = False
    assert (images[:, border].sum(1) / images.sum((1, 2))).mean() < 0.03
    assert 0.05 < images.mean() < 0.15


def test_a_task_cannot_take_more_than_there_is() -> None:
    with refusal(ConfigError, "tasks.ways", 61, 60, "'validation'"):
        Glyphs(ways=61)
    with refusal(ConfigError, "tasks.shots + tasks.queries", "16 + 5", 20):
        Glyphs(shots=16)


def test_pixels_alone_are_not_enough(glyphs: Glyphs) -> None:
    scores = [
        accuracy(nearest_mean(task.support_x[0], task.query_x[0], task), task)
        for task in glyphs.episodes("validation", 400)
    ]
    assert 0.40 < np.mean(scores) < 0.55


@pytest.mark.slow
def test_a_small_network_beats_pixels_and_does_not_saturate(glyphs: Glyphs) -> None:
    """A prototypical network of four strided convolutions of 16 channels, 250 episodes."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = nn.Sequential()
        for channels in (1, 16, 16, 16):
            network.append(nn.Conv2d(channels, 16, 3, stride=2, padding=1))
            network.append(nn.BatchNorm2d(16, track_running_stats=False))
            network.append(nn.ReLU())

    def logits(task: Episode) -> torch.Tensor:
        support, query = network(torch.cat([task.support_x[0], task.query_x[0]])).split([5, 25])
        return nearest_mean(support, query, task)

    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    rng = np.random.default_rng(0)
    for _ in range(250):
        task = glyphs.sample("train", 1, rng)
        optimizer.zero_grad()
        cross_entropy(logits(task), task.query_y[0]).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    with torch.no_grad():
        scores = [accuracy(logits(task), task) for task in glyphs.episodes("validation", 200)]
    assert 0.53 < np.mean(scores) < 0.8
