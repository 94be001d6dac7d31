"""Further seeds and other lengths of training: what a controller asks for, and what it gets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scripted_searches import configure, reopen, results, start

from nas.controller import Controller, Evaluate, Outcome, Proposal, Score
from nas.driver.records import Records
from nas.driver.trials import Trials, executor
from nas.evaluator import Job
from nas.executors.worker import reports
from nas.fidelity import comparable, standing
from nas.queries.leaderboard import Query, leaderboard
from nas.settings.search import SearchConfig
from nas.space import Architecture, Space
from nas.states import TrialState
from nas.storage.store import Store
from nas.testing.stores import begin, outcome, search
from nas.testing.toys import Toy
from nas.training.provenance import training_seed
from nas.wrappers import Deduplicated

TOY = Toy()
ONE = TOY.default


def scored(value: float, episodes: int, state: TrialState = TrialState.COMPLETED) -> Outcome:
    return Outcome(state, ONE, Score(value, 0.1, 10), episodes)


def test_a_longer_training_outranks_a_better_score_of_a_shorter() -> None:
    ranked = sorted([scored(0.9, 75), scored(0.2, 300), scored(0.3, 75), scored(0.8, 300)], key=standing)
    assert [standing(outcome) for outcome in ranked] == [(75, 0.3), (75, 0.9), (300, 0.2), (300, 0.8)]


def test_what_compares_is_of_the_longest_length_that_enough_have() -> None:
    lengths = [75, 300, 75, 150, 150, 75, 75]
    assert comparable(lengths, int) == [300]
    assert comparable(lengths, int, enough=2) == [150, 150]
    assert comparable(lengths, int, enough=9) == [75] * 4
    assert comparable([], int) == []


def test_the_first_seed_is_what_it_was_and_further_ones_are_others() -> None:
    assert training_seed(3, "1-2", 0) == training_seed(3, "1-2", 0, repeat=0) == 6091796647275472628
    assert len({training_seed(3, "1-2", attempt, repeat) for attempt in (0, 1) for repeat in range(3)}) == 6


class Scheduled(Controller):
    """Evaluates a list in turn, and keeps what it observes."""

    def __init__(self, evaluations: Sequence[Evaluate]) -> None:
        self.evaluations, self.seen = evaluations, list[Outcome]()

    def propose(self, number: int, pending: Sequence[Evaluate], rng: np.random.Generator) -> Proposal | None:
        return self.evaluations[number]

    def observe(self, number: int, outcome: Outcome) -> None:
        self.seen.append(outcome)


def test_what_is_known_is_known_by_its_repeat_and_length() -> None:
    asked = [Evaluate(ONE), Evaluate(ONE, 1), Evaluate(ONE, 0, 75), Evaluate(ONE, 1, 75)]
    controller = Deduplicated(Scheduled([*asked, *asked]), TOY)
    rng = np.random.default_rng(0)
    for number, evaluation in enumerate(asked):
        others = [other for other in asked if other != evaluation]
        assert controller.propose(number, others, rng) == evaluation
        assert controller.propose(number, asked, rng) is None
    for number, evaluation in enumerate(asked):
        found = replace(scored(0.5, evaluation.episodes or 300), repeat=evaluation.repeat)
        controller.observe(number, replace(found, episodes=evaluation.episodes))
    again = [controller.propose(4 + number, (), rng) for number in range(4)]
    assert [getattr(proposal, "trial", None) for proposal in again] == [0, 1, 2, 3]


EVALUATIONS = [
    Evaluate(ONE, 0, 75),
    Evaluate(ONE, 1, 75),
    Evaluate(ONE),
    Evaluate(ONE, 1),
    Evaluate(ONE, 0, 75),
    Evaluate(ONE, 2, 150),
]


def test_a_search_records_seeds_and_lengths_and_resumes(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The scheduler's rungs are filled again without the last scores of shorter trainings."""

    def made(self: SearchConfig, space: Space[Any], tasks: Any) -> Controller:
        return Deduplicated(Scheduled(EVALUATIONS), space)

    monkeypatch.setattr(SearchConfig, "make_controller", made)
    asha = {"minimum": 75, "eta": 2}
    config = configure(name="whole", trials=6, scheduler=asha)
    search = start(store, config)
    assert search.run(executor(config, config.make_source())) == "completed"
    trials = store.trials(store.search("whole").id)
    assert [(t.repeat, t.asked_episodes, t.train_episodes, t.reused) for t in trials] == [
        (0, 75, 75, None),
        (1, 75, 75, None),
        (0, None, 300, None),
        (1, None, 300, None),
        (0, 75, 75, 0),
        (2, 150, 150, None),
    ]
    assert [t.state for t in trials] == ["paused"] * 2 + ["completed"] * 2 + ["reused", "paused"]
    assert len({t.seed for t in trials}) == 3
    part = configure(name="part", trials=3, scheduler=asha)
    start(store, part).run(executor(part, part.make_source()))
    again = reopen(store, "part", more=3)
    assert again.run(executor(part, part.make_source())) == "completed"
    assert results(store, "part") == results(store, "whole")
    live, replayed = search._scheduler, again._scheduler
    assert live is not None
    assert replayed is not None
    assert replayed._scores == live._scores
    observed = again._controller._controller.seen  # type: ignore[attr-defined]
    assert observed == search._controller._controller.seen  # type: ignore[attr-defined]


def trained(config: SearchConfig, folder: Path | None, episodes: int | None, repeat: int = 0) -> Outcome:
    records = Records("s", config, config.make_space(), folder, {})
    space = config.make_space()
    job = records.evaluation(0, Evaluate(space.default, repeat, episodes))
    assert isinstance(job, Job)
    return list(reports(Trials(config, config.make_source()), job))[-1]


def training(**learner: Any) -> SearchConfig:
    return configure(
        space="mlp",
        evaluator="train",
        tasks={"name": "sinusoid", "shots": 2, "queries": 2},
        learner={"name": "maml", "inner_lr": 0.01, "meta_batch": 4, **learner},
        budget={"train_episodes": 24, "validation_episodes": 5},
    )


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize(("shorter", "done"), [(8, 8), (10, 8), (3, 0)])
def test_a_longer_trial_goes_on_from_a_shorter_to_the_same_bits(
    tmp_path: Path, shorter: int, done: int
) -> None:
    """From its last whole step: one that was cut short by the length is none of a longer training."""
    config = training()
    first, further = trained(config, tmp_path, shorter), trained(config, tmp_path, None)
    whole = trained(config, None, None)
    assert (first.train_episodes, further.train_episodes, further.continued) == (shorter, 24, done)
    assert further.score == whole.score
    assert first.score == trained(config, None, shorter).score
    assert trained(config, tmp_path, None, repeat=1).continued == 0


@pytest.mark.usefixtures("one_thread")
def test_where_the_rate_falls_each_length_begins_anew(tmp_path: Path) -> None:
    config = training(schedule="linear")
    trained(config, tmp_path, 8)
    further = trained(config, tmp_path, None)
    assert (further.continued, further.score) == (0, trained(config, None, None).score)


def test_a_completed_search_leaves_no_checkpoint_of_a_trial(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def made(self: SearchConfig, space: Space[Any], tasks: Any) -> Controller:
        return Scheduled([Evaluate(Architecture(space.name, space.default.choices), 0, 8)] * 2)

    monkeypatch.setattr(SearchConfig, "make_controller", made)
    config = training().model_copy(update={"trials": 2})
    search = start(store, config)
    search._records._folder = tmp_path
    kept: list[int] = []
    monkeypatch.setattr(
        Records, "forget_trials", lambda self: kept.append(len([*tmp_path.rglob("*-trial-*.pt")]))
    )
    search.run(executor(config, config.make_source()))
    assert kept == [1]
    monkeypatch.undo()
    search._records.forget_trials()
    assert [*tmp_path.rglob("*.pt")] == []


def test_a_leaderboard_ranks_means_over_seeds_and_lengths_apart(store: Store) -> None:
    row = search(store)
    scores = {("a", 0): 0.9, ("a", 1): 0.5, ("b", 0): 0.75, ("b", 1): 0.74, ("b", 2): 0.76, ("c", 0): 0.6}
    for number, ((text, repeat), value) in enumerate(scores.items()):
        trial = begin(store, row, number, key=text, architecture=text, repeat=repeat)
        store.finish(trial, outcome(value, train_episodes=300))
    for number, (length, value) in enumerate([(75, 0.95), (150, 0.4)], start=len(scores)):
        trial = begin(store, row, number, key="d", architecture="d", episodes=length)
        store.finish(trial, outcome(value, TrialState.PAUSED, train_episodes=length))
    found = leaderboard(store, Query())
    assert [(row.architecture, row.seeds, round(row.score, 9)) for row in found] == [
        ("b", 3, 0.75),
        ("a", 2, 0.7),
        ("c", 1, 0.6),
    ]
    assert found[0].ci95_seeds == pytest.approx(4.302652730 * 0.01 / 3**0.5)
    assert found[2].ci95_seeds is None
    every = leaderboard(store, Query(states=("completed", "paused")))
    assert [row.train_episodes for row in every] == [300, 300, 300, 150, 75]
    assert [summary.best for summary in store.searches()] == [0.9]
