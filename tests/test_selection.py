"""Early stopping: which weights are kept, and when training ends."""

from __future__ import annotations

import math

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nas.controller import Measurement, Score
from nas.evaluation.selection import Selection
from nas.settings.evaluation import FullBudget


@settings(max_examples=200, deadline=None)
@given(values=st.lists(st.integers(0, 5), min_size=1, max_size=12), patience=st.integers(0, 4))
def test_the_first_best_weights_are_kept_and_patience_ends_it(values: list[int], patience: int) -> None:
    selection, seen = Selection(patience), []
    for number, value in enumerate(values, start=1):
        if selection.over:
            break
        seen.append(value)
        weights = {"w": torch.tensor(number)}
        state = selection.state()
        selection = Selection(patience)
        selection.restore(state)
        selection.observe(10 * number, [1.0, 2.0], Score(value, 0.1, 5), weights, {})
    best = seen.index(max(seen)) + 1
    assert selection.score is not None
    assert (selection.score.value, selection.episodes) == (max(seen), 10 * best)
    assert selection.weights["w"] == best
    if len(seen) < len(values):
        assert len(seen) - best == patience > 0
    for length in range(1, len(seen)):  # it did not go on after it should have ended
        before = seen[:length]
        assert not patience or length - 1 - before.index(max(before)) < patience
    assert selection.curve[0] == Measurement(10, "train_loss", 1.5)


@given(budget=st.integers(1, 50), every=st.integers(1, 60))
def test_the_last_validation_is_at_the_end_of_the_budget(budget: int, every: int) -> None:
    marks = FullBudget(train_episodes=budget, validate_every=every).validations()
    assert marks == sorted(set(marks))
    assert marks[-1] == budget
    assert all(mark % every == 0 for mark in marks[:-1])
    assert len(marks) == math.ceil(budget / every)
