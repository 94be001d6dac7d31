"""A search: what it records, and what its scores do not depend on."""

from __future__ import annotations

import copy

import pytest

from nas.config import validate
from nas.errors import ConfigError
from nas.search import create
from nas.storage.store import Store
from nas.testing.searches import configure, run


def test_a_search_ends_with_every_trial_recorded(store: Store) -> None:
    rows = run(store, configure())
    assert [row[0] for row in rows] == list(range(30))
    assert {row[1] for row in rows} <= {"completed", "reused"}
    search = store.search("@last")
    assert search.state == "completed"
    assert search.finished_at is not None


def test_the_same_seed_gives_the_same_search(store: Store) -> None:
    config = configure()
    assert run(store, config) == run(store, config)
    assert run(store, config) != run(store, configure(seed=4))


def test_a_network_scores_the_same_under_every_controller(store: Store) -> None:
    first = {row[2]: row[4] for row in run(store, configure())}
    second = {row[2]: row[4] for row in run(store, configure(controller="random", trials=200))}
    shared = first.keys() & second.keys()
    assert all(first[text] == second[text] for text in shared)


def test_isomorphic_architectures_are_not_trained_twice(store: Store) -> None:
    config = configure(space={"name": "nas.testing.toys:Toy", "layers": 1}, controller="random", trials=40)
    run(store, config)
    search = store.search("@last")
    trials = store.trials(search.id)
    space = config.make_space()
    keys = [space.canonical(space.decode(t.architecture)) for t in trials if t.state == "completed"]
    assert len(keys) == len(set(keys)) <= 8
    scores = {t.number: t.score for t in trials}
    reused = [t for t in trials if t.state == "reused"]
    assert len(reused) >= 32
    for trial in reused:
        assert trial.reused is not None
        assert trial.reused < trial.number
        assert trial.score == scores[trial.reused]
        assert trial.seconds == 0


def test_without_deduplication_every_trial_is_trained(store: Store) -> None:
    space = {"name": "nas.testing.toys:Toy", "layers": 1}
    rows = run(store, configure(space=space, controller="random", deduplicate=False))
    assert {row[1] for row in rows} == {"completed"}


def test_constraints_are_kept(store: Store) -> None:
    config = configure(controller="random", constraints={"max_parameters": 60})
    run(store, config)
    space, shape = config.make_space(), config.make_tasks().shape
    for trial in store.trials(store.search("@last").id):
        if trial.state == "infeasible":
            assert "parameters" in (trial.error or "") or "wider" in (trial.error or "")
        else:
            assert space.cost(space.decode(trial.architecture), shape).parameters <= 60


def test_a_learner_that_cannot_learn_the_tasks_is_refused(store: Store) -> None:
    config = configure(learner="prototypical")
    with pytest.raises(ConfigError, match="prototypical"):
        create(store, config, config.make_tasks())
    assert store.searches() == []


def test_results_hold_what_comparisons_need(store: Store) -> None:
    config = configure(name="rich")
    run(store, config)
    row = store.search("rich")
    assert validate(row.config) == config
    assert row.settings == config.settings
    assert {"torch", "ray", "python"} <= row.environment.keys()
    trial = store.trial(row.id, 0)
    assert (trial.episodes, trial.normalization, trial.split) == (100, "transductive", "scripted/validation")


def test_settings_hash_ignores_what_scores_do_not_depend_on() -> None:
    base = configure()
    for change in ({"trials": 5}, {"seed": 9}, {"controller": "random"}, {"name": "x"}, {"retries": 0}):
        assert configure(**change).settings == base.settings
    assert configure(budget={"train_episodes": 7}).settings != base.settings
    assert copy.deepcopy(base).settings == base.settings
