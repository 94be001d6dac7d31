"""Predicted scores against plain linear algebra, left-out points and a function that is known."""

from __future__ import annotations

import numpy as np
import pytest

from nas.prediction import NOISES, REACHES, Prediction

RNG = np.random.default_rng(0)
CHOICES = RNG.integers(4, size=(40, 6))


def kriging(known, scores, new, reach, noise):
    """Return the mean of a Gaussian process at new points, point by point."""
    mean, scale = scores.mean(), scores.std()
    kernel = np.array([[np.exp(-sum(a != b) / reach) for b in known] for a in known])
    weights = np.linalg.solve(kernel + noise * np.eye(len(known)), (scores - mean) / scale)
    return np.array(
        [
            mean + scale * sum(w * np.exp(-sum(a != x) / reach) for w, a in zip(weights, known, strict=True))
            for x in new
        ]
    )


def left_out(scores, reach, noise):
    """Return the mean square error of each score predicted from the others, in units of all of them."""
    targets, errors = (scores - scores.mean()) / scores.std(), []
    kernel = np.array([[np.exp(-sum(a != b) / reach) for b in CHOICES] for a in CHOICES])
    for i in range(len(CHOICES)):
        rest = [j for j in range(len(CHOICES)) if j != i]
        weights = np.linalg.solve(kernel[np.ix_(rest, rest)] + noise * np.eye(len(rest)), targets[rest])
        errors.append((targets[i] - kernel[i, rest] @ weights) ** 2)
    return np.mean(errors)


def test_it_is_the_process_that_predicts_left_out_scores_best() -> None:
    scores = (CHOICES == 2).sum(1) + RNG.normal(size=40)
    errors = {(reach, noise): left_out(scores, reach, noise) for reach in REACHES for noise in NOISES}
    new = RNG.integers(4, size=(5, 6))
    predict = Prediction(CHOICES.tolist(), scores.tolist())
    expected = kriging(CHOICES, scores, new, *min(errors, key=errors.__getitem__))
    assert [predict(x) for x in new] == pytest.approx(expected, rel=1e-9)


def test_it_learns_what_decisions_are_worth_from_noisy_scores() -> None:
    """From 100 scores with as much noise as signal it explains most of the noiseless scores of others."""
    rng = np.random.default_rng(1)
    worth = rng.normal(size=(8, 5))
    known, new = rng.integers(5, size=(100, 8)), rng.integers(5, size=(500, 8))
    signal, truth = (worth[np.arange(8), x].sum(1) for x in (known, new))
    predict = Prediction(known.tolist(), (signal + rng.normal(size=100) * signal.std() / 2).tolist())
    assert np.corrcoef([predict(x) for x in new], truth)[0, 1] > 0.8
