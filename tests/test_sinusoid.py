from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from facts import refusal

from nas.errors import ConfigError
from nas.plugins import resolve
from nas.tasks.sinusoid import AMPLITUDE, INPUT, PHASE, Sinusoid


@pytest.fixture(scope="module")
def drawn() -> tuple[torch.Tensor, torch.Tensor]:
    episode = Sinusoid(shots=10, queries=10).sample("train", 40_000, np.random.default_rng(0))
    x = torch.cat([episode.support_x, episode.query_x], dim=1).squeeze(-1).double()
    y = torch.cat([episode.support_y, episode.query_y], dim=1).squeeze(-1).double()
    return x, y


def agrees(squares: torch.Tensor, floor: float) -> bool:
    """Whether `[tasks, points]` squared errors average to a floor, within 4 standard errors over tasks."""
    of_tasks = squares.mean(1)
    error = of_tasks.std().item() / len(of_tasks) ** 0.5
    assert error < 0.01 * floor
    return abs(of_tasks.mean().item() - floor) < 4 * error


def moments() -> tuple[float, float, float]:
    """E[A], E[A²] and E[cos² x] in closed form."""
    (low, high), (left, right) = AMPLITUDE, INPUT
    cosine = 0.5 + (math.sin(2 * right) - math.sin(2 * left)) / (4 * (right - left))
    return (low + high) / 2, (high**3 - low**3) / (3 * (high - low)), cosine


def test_the_distribution_is_that_of_the_paper() -> None:
    assert (*AMPLITUDE, *PHASE, *INPUT) == (0.1, 5.0, 0.0, math.pi, -5.0, 5.0)


def test_predicting_zero_leaves_the_closed_form(drawn: tuple[torch.Tensor, torch.Tensor]) -> None:
    _, square, _ = moments()
    assert square / 2 == pytest.approx(4.25, abs=0.005)
    assert agrees(drawn[1] ** 2, square / 2)


def test_the_best_task_blind_function_leaves_the_closed_form(
    drawn: tuple[torch.Tensor, torch.Tensor],
) -> None:
    mean, square, cosine = moments()
    floor = square / 2 - (2 * mean / math.pi) ** 2 * cosine
    assert floor == pytest.approx(3.01, abs=0.005)
    x, y = drawn
    assert agrees((y + 2 * mean / math.pi * x.cos()) ** 2, floor)
    bins = ((x - INPUT[0]) * 20).long().clamp(0, 199)
    means = torch.zeros(200, dtype=x.dtype).scatter_reduce(
        0, bins.flatten(), y.flatten(), "mean", include_self=False
    )
    assert agrees((y - means[bins]) ** 2, floor)


def test_each_task_is_one_sine_wave() -> None:
    episode = Sinusoid(shots=6, queries=9).sample("test", 500, np.random.default_rng(1))
    x, y = episode.support_x.squeeze(-1).double(), episode.support_y.double()
    basis = torch.stack([x.sin(), x.cos()], dim=-1)
    weights = torch.linalg.lstsq(basis, y).solution
    queries = episode.query_x.squeeze(-1).double()
    predicted = torch.stack([queries.sin(), queries.cos()], dim=-1) @ weights
    assert torch.allclose(predicted, episode.query_y.double(), atol=1e-3)
    amplitude = weights.squeeze(-1).norm(dim=1)
    phase = torch.atan2(-weights[:, 1, 0], weights[:, 0, 0])
    assert AMPLITUDE[0] - 1e-4 <= amplitude.min()
    assert amplitude.max() <= AMPLITUDE[1] + 1e-4
    assert PHASE[0] - 1e-3 <= phase.min()
    assert phase.max() <= PHASE[1] + 1e-3
    assert INPUT[0] <= x.min() < -4.9
    assert 4.9 < x.max() <= INPUT[1]


def test_the_settings_are_checked() -> None:
    assert resolve(Sinusoid, {}, "tasks") == {
        "shots": 10,
        "queries": 10,
        "train_shots": None,
        "train_queries": None,
    }
    with refusal(ConfigError, "tasks.shots"):
        resolve(Sinusoid, {"shots": 0}, "tasks")
