"""A search: what it records, and what its scores do not depend on."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from facts import lacking, refusal
from recorded import SCRIPTED
from scripted_searches import configure, reopen, run

from nas.driver.creation import create
from nas.driver.trials import executor
from nas.errors import ConfigError, Infeasible
from nas.settings.search import validate
from nas.storage.store import Store


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
    images: dict[str, Any] = {"controller": "random", "tasks": "glyphs", "learner": "prototypical"}
    config = configure(**images, constraints={"max_parameters": 4000})
    rows = run(store, config)
    space, shape = config.make_space(), config.make_tasks().shape
    costs = [space.cost(space.decode(text), shape).parameters for _, _, text, *_ in rows]
    assert max(costs) <= 4000
    assert {state for _, state, *_ in rows} <= {"completed", "reused"}
    free = [row[2] for row in run(store, configure(**images))]
    assert any(space.cost(space.decode(text), shape).parameters > 4000 for text in free)


@pytest.mark.slow
def test_a_search_without_a_feasible_architecture_fails(store: Store) -> None:
    config = configure(
        controller="random", tasks="glyphs", learner="prototypical", constraints={"max_parameters": 60}
    )
    with pytest.raises(Infeasible) as raised:
        run(store, config)
    search = store.search("@last")
    trials = store.trials(search.id)
    excess = [trial.error or "" for trial in trials]
    least = min(excess, key=lambda error: int(error.split()[0]))
    assert (search.state, {trial.state for trial in trials}) == ("failed", {"infeasible"})
    said = str(raised.value)
    assert lacking(said, 30, f"'{search.name}'", least, f"nas show {search.name}") == []
    assert "more than constraints.max_parameters = 60" in least


def test_where_no_limit_is_the_reason_the_settings_are_named(store: Store) -> None:
    faults = dict.fromkeys(range(3), "infeasible")
    config = configure(evaluator={"name": SCRIPTED, "faults": faults}, trials=3, name="s")
    with refusal(Infeasible, 3, "nas spaces nas.testing.toys:Toy"):
        run(store, config)
    assert reopen(store, "s", more=2).run(executor(config, config.make_tasks())) == "completed"


def test_where_architectures_are_given_their_setting_is_named(store: Store) -> None:
    fixed = {"name": "fixed", "architectures": ["0.0.0.0.0.0.0.0.0.0.0"]}
    config = configure(controller=fixed, evaluator={"name": SCRIPTED, "faults": {0: "infeasible"}}, trials=1)
    with refusal(Infeasible, "controller.architectures"):
        run(store, config)


def test_a_learner_that_cannot_learn_the_tasks_is_refused(store: Store) -> None:
    config = configure(learner="prototypical")
    with refusal(ConfigError, "prototypical"):
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
