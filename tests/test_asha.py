import itertools
import math
import random
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from ray.tune.schedulers import AsyncHyperBandScheduler, TrialScheduler

from nas.schedulers.asha import Asha
from nas.schedulers.settings import Scheduler

ashas = st.builds(Scheduler, minimum=st.integers(1, 6), eta=st.integers(2, 5))
grid = st.integers(0, 8).map(lambda i: i / 8)  # scores that often tie
scores = grid | st.floats(0, 1)
reports = st.lists(st.tuples(st.integers(0, 30), scores, st.integers(0, 9)), max_size=150)


def made(asha: Scheduler, budget: int) -> Asha:
    return Asha(asha.eta, budget, asha.rungs(budget))


def in_turn(
    asha: Scheduler, budget: int, events: list[tuple[int, float, int]]
) -> list[tuple[int, int, float]]:
    """Return the reports of trials that each go from rung to rung, at most a few episodes late."""
    at: dict[int, int] = {}
    found = []
    for trial, score, late in events:
        ahead = [rung for rung in asha.rungs(budget) if rung > at.get(trial, 0)]
        if ahead and ahead[0] + late < budget:
            at[trial] = ahead[0] + late
            found.append((trial, at[trial], score))
    return found


@given(ashas, st.integers(1, 300), reports)
@settings(max_examples=150, deadline=None)
def test_decides_as_ray_tune_does(asha: Scheduler, budget: int, events: list[tuple[int, float, int]]) -> None:
    ray = AsyncHyperBandScheduler(
        metric="score",
        mode="max",
        max_t=max(budget, asha.minimum),
        grace_period=asha.minimum,
        reduction_factor=asha.eta,
    )
    ours, stopped = made(asha, budget), set()
    trials = [SimpleNamespace(trial_id=str(number)) for number in range(31)]
    for trial in trials:
        ray.on_trial_add(None, trial)
    for number, step, score in in_turn(asha, budget, events):
        if number not in stopped:
            theirs = ray.on_trial_result(None, trials[number], {"training_iteration": step, "score": score})
            assert ours.report(number, step, score) is (theirs == TrialScheduler.CONTINUE)
            if theirs == TrialScheduler.STOP:
                stopped.add(number)


@given(ashas, st.integers(1, 300))
def test_rungs_are_ray_tunes_below_the_budget(asha: Scheduler, budget: int) -> None:
    rungs = asha.rungs(budget)
    assert list(rungs) == [r for k in range(10) if (r := asha.minimum * asha.eta**k) < budget]
    if budget >= asha.minimum:
        ray = AsyncHyperBandScheduler(max_t=budget, grace_period=asha.minimum, reduction_factor=asha.eta)
        theirs = sorted(milestone for milestone, _ in ray._brackets[0]._rungs)
        assert list(rungs) == [milestone for milestone in theirs if milestone < budget]


def test_rungs_by_hand() -> None:
    assert Scheduler(minimum=10).rungs(640) == (10, 40, 160)
    assert Scheduler(minimum=10).rungs(641) == (10, 40, 160, 640)
    assert Scheduler(minimum=10, eta=2).rungs(50) == (10, 20, 40)
    assert Scheduler(minimum=10).rungs(10) == ()


def test_decisions_by_hand() -> None:
    state = made(Scheduler(minimum=1, eta=2), 10)
    assert state.report(0, 1, 2.0)  # the first goes on
    assert state.report(1, 1, 4.0)
    assert not state.report(2, 1, 2.9)  # the median of 2 and 4 is 3
    assert state.report(3, 1, 2.9)  # and of 2, 2.9 and 4 it is 2.9: as good as the cutoff goes on
    assert state.report(4, 2, 0.0)  # another rung knows nothing of it
    assert not state.report(5, 3, -0.1)  # passed rung 2 by one episode
    assert state.report(6, 4, -9.0)


def test_one_in_eta_goes_on() -> None:
    """Of equally distributed scores, within four standard errors."""
    for eta in (2, 3, 4):
        state = made(Scheduler(minimum=1, eta=eta), 10)
        scores = np.random.default_rng(0).random(2000).tolist()
        passed = sum(state.report(trial, 1, score) for trial, score in enumerate(scores))
        assert abs(passed / 2000 - 1 / eta) < 4 * math.sqrt((1 - 1 / eta) / eta / 2000)


@given(ashas, st.integers(1, 300), reports, st.floats(0, 1), st.randoms(use_true_random=False))
@settings(max_examples=100, deadline=None)
def test_replay_resumes(
    asha: Scheduler, budget: int, events: list[tuple[int, float, int]], cut: float, order: random.Random
) -> None:
    """Recorded scores, in any order and with those of the full budget, stand for the reports."""
    turns = in_turn(asha, budget, events)
    done, ahead = turns[: int(cut * len(turns))], turns[int(cut * len(turns)) :]
    first, resumed = (
        made(asha, budget),
        made(asha, budget),
    )
    for report in done:
        first.report(*report)
    stored = done + [(0, budget, 1.0)] * 5
    order.shuffle(stored)
    for report in stored:
        resumed.record(*report)
    for report in ahead:
        assert resumed.report(*report) == first.report(*report)


def test_a_trial_that_failed_is_forgotten() -> None:
    state, other = (
        made(Scheduler(minimum=1, eta=2), 10),
        made(Scheduler(minimum=1, eta=2), 10),
    )
    state.report(0, 1, 9.0)
    state.report(0, 2, 9.0)
    state.forget(0)
    for trial, step, score in ((1, 1, 0.5), (2, 1, 0.7), (3, 1, 0.6), (1, 2, 0.1)):
        assert state.report(trial, step, score) == other.report(trial, step, score)


@pytest.mark.parametrize("score", [math.nan, math.inf, -math.inf])
def test_a_score_that_is_not_finite_stops_and_leaves_no_trace(score: float) -> None:
    for asked in itertools.product([False, True], repeat=2):
        state = made(Scheduler(minimum=1, eta=2), 10)
        for replayed in asked:
            if replayed:
                state.record(0, 1, score)
            else:
                assert not state.report(0, 1, score)
        assert state.report(1, 1, 0.1)
        assert not state.report(2, 1, 0.0)


def test_steps_at_no_rung_go_on() -> None:
    state = made(Scheduler(minimum=10, eta=2), 40)
    for step in (9, 40, 41):
        assert state.report(0, step, 1.0)
        assert state.report(1, step, 0.0)
    assert state.report(2, 10, 0.0)


def test_by_default_two_rungs_precede_the_budget() -> None:
    assert Scheduler().rungs(320) == (20, 80)
    assert Scheduler(eta=3).rungs(5) == (1, 3)


def test_settings() -> None:
    assert Scheduler(minimum=5).eta == 4
    for wrong in ({"minimum": 0}, {"minimum": 5, "eta": 1}, {"minimum": 5, "brackets": 2}):
        with pytest.raises(ValidationError):
            Scheduler.model_validate(wrong)
