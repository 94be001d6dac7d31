"""Which searches stand side by side: groups, references, protocols that differ, the baseline of a group."""

from __future__ import annotations

import re
from typing import Any

import pytest
from facts import Facts, lacking, refusal
from recorded import LOOKED_UP, MIXED, SCRIPTED, record

from nas.comparison.baselines import baseline
from nas.comparison.comparison import machines
from nas.comparison.groups import EXECUTION, PROTOCOL, find, grouped
from nas.errors import ConfigError, NotFound
from nas.settings.paths import flat
from nas.settings.search import validate
from nas.storage.store import Store


def test_groups_differ_in_the_seed_alone(store: Store) -> None:
    for name, seed, controller in (
        ("e2", 2, {"name": "evolution", "population": 8}),
        ("e1", 1, {"name": "evolution", "population": 8}),
        ("e-wide", 1, {"name": "evolution", "population": 9}),
        ("r1", 1, "random"),
        ("e1-again", 1, {"name": "evolution", "population": 8}),
    ):
        record(store, MIXED, name=name, seed=seed, controller=controller)
    groups, repeated = grouped(find(store, ["e", "r1"]))
    found = [(group.label, [search.name for search in group.searches]) for group in groups]
    assert found == [
        ("random", ["r1"]),
        ("evolution population=8", ["e1", "e2"]),
        ("evolution population=9", ["e-wide"]),
    ]
    assert repeated == ["e1-again"]


def test_what_is_chosen_along_with_the_network_names_a_group(store: Store) -> None:
    """The decisions of a product are its own: the space was not edited."""
    joint = {"learner": {"lr": [0.001, 0.004]}, "tasks": {"train_shots": [5, 10]}}
    record(store, MIXED, name="alone")
    record(store, MIXED, name="joint", slots=joint)
    for search, choices in (("alone", [1, 2]), ("joint", [3])):
        space = {"name": "nas.testing.toys:Toy", "settings": [], "decisions": [["layers", choices]]}
        store.search(search).plugins = {"space": {**space, "source": "toys.py"}}
    groups, _ = grouped(find(store, ["alone", "joint"]))
    assert [group.label for group in groups] == ["random", "random × learner.lr × tasks.train_shots"]


@pytest.mark.parametrize(
    "changes",
    [{"executor": "ray", "workers": 7}, {"resources": {"gpus": 0.5}}],
    ids=str,
)
def test_where_a_search_ran_makes_no_group(store: Store, changes: dict[str, Any]) -> None:
    assert set(EXECUTION) & set(flat(changes))
    record(store, MIXED, name="s-here", seed=1, executor="inline")
    record(store, MIXED, name="s-there", seed=2, **changes)
    record(store, MIXED, name="s-there-too", seed=1, **changes)
    [group], repeated = grouped(find(store, ["s-"]))
    assert (group.label, [search.name for search in group.searches]) == ("random", ["s-here", "s-there"])
    assert repeated == ["s-there-too"]


def test_a_space_that_was_edited_is_not_the_same(store: Store) -> None:
    """Without that, the later search would be left out as one with the same settings and seed."""
    before, after, older = (record(store, MIXED, name=name) for name in ("before", "after", "older"))
    for search, choices in ((before, [1, 2]), (after, [1, 2, 3])):
        space = {"name": "nas.testing.toys:Toy", "settings": [], "decisions": [["layers", choices]]}
        search.plugins = {"space": {**space, "source": "toys.py"}}
    with refusal(ConfigError, "'layers'"):
        grouped([before, after])
    assert grouped([before, older])[1] == ["older"]
    after.config = {**after.config, "space": {"name": "nas.testing.toys:Toy", "layers": 2}}
    assert len(grouped([before, after])[0]) == 2


def test_a_setting_that_was_not_there_yet_is_a_null(store: Store) -> None:
    before, now = record(store, MIXED, name="before"), record(store, MIXED, name="now", seed=1)
    assert now.config["max_seconds"] is None
    before.config = {key: value for key, value in before.config.items() if key != "max_seconds"}
    [group], _ = grouped([before, now])
    assert len(group.searches) == 2


def test_no_two_groups_share_a_label(store: Store) -> None:
    one, other, third = (record(store, MIXED, name=f"s{n}", seed=n) for n in range(3))
    for search, value in ((one, 1), (other, 1.0), (third, None)):
        search.config = {**search.config, "controller": {"name": "random", "odd": value}}
    labels = [group.label for group in grouped([one, other, third])[0]]
    assert labels == ["random odd=1", "random odd=1.0", "random odd=None"]


def test_the_baseline_is_the_random_search_in_the_same_space(store: Store) -> None:
    record(store, MIXED, name="r-usual")
    record(store, MIXED, name="r-small", space={"name": "nas.testing.toys:Toy", "layers": 2})
    record(
        store,
        MIXED,
        name="e-small",
        space={"name": "nas.testing.toys:Toy", "layers": 2},
        controller="evolution",
    )
    record(
        store,
        MIXED,
        name="e-other",
        space={"name": "nas.testing.toys:Toy", "layers": 3},
        controller="evolution",
    )
    groups, _ = grouped(find(store, ["r", "e"]))
    names = [group.searches[0].name for group in groups]
    assert baseline(groups, groups[names.index("e-small")]) == (names.index("r-small"), None)
    assert baseline(groups, groups[names.index("e-other")]) == (None, None)
    assert baseline(groups, groups[names.index("r-usual")]) == (None, None)


def test_of_several_random_searches_the_one_with_the_same_settings_is_the_baseline(store: Store) -> None:
    for name, trials in (("r9", 9), ("r8", 8), ("r7", 7)):
        record(store, MIXED, name=name, trials=trials)
    for name, trials in (("e8", 8), ("e6", 6)):
        record(store, MIXED, name=name, trials=trials, controller="evolution")
    groups, _ = grouped(find(store, ["r", "e"]))
    eight, six = groups[3:]
    place, note = baseline(groups, eight)
    assert (place, groups[1].label) == (1, "random trials=8")
    assert note is not None
    assert lacking(note, "evolution trials=8", "'random trials=8'", "3 groups") == []
    place, note = baseline(groups, six)
    assert place is None
    assert note is not None
    assert lacking(note, "evolution trials=6", "3 groups", "'random trials=9'") == []


def test_several_random_searches_with_the_same_settings_are_no_baseline(store: Store) -> None:
    one, other = record(store, MIXED, name="r0"), record(store, MIXED, name="r1")
    other.config = {**other.config, "controller": {"name": "random", "odd": 1}}
    groups, _ = grouped([one, other, record(store, MIXED, name="e", controller="evolution")])
    place, note = baseline(groups, groups[2])
    assert place is None
    assert note is not None
    assert lacking(note, "evolution", "2 groups") == []


def test_references(store: Store) -> None:
    for name in ("a-random-0", "a-random-1", "a-evolution-0", "b"):
        record(store, [], name=name)
    for reference, names in {
        "a-": ["a-random-0", "a-random-1", "a-evolution-0"],
        "a-*-0": ["a-random-0", "a-evolution-0"],
        "*-random-?": ["a-random-0", "a-random-1"],
        "a-random-1": ["a-random-1"],
        "@last": ["b"],
    }.items():
        assert [search.name for search in find(store, [reference])] == names
    assert len(find(store, ["a-", "a-random-0", "@last"])) == 4
    for reference in ("c", "c-*", ""):
        with refusal(NotFound, f"'{reference}'", "nas ls"):
            find(store, [reference])


@pytest.mark.parametrize(
    ("changes", "facts"),
    [
        ({"tasks": {"name": "sinusoid", "shots": 5}}, ("tasks.shots", 10, 5)),
        ({"learner": {"name": "maml", "inner_lr": 0.5}}, ("learner.inner_lr", 0.5)),
        ({"budget": {"train_episodes": 7}}, ("budget.train_episodes", 300, 7)),
        ({"resources": {"precision": "bfloat16"}}, ("resources.precision", "auto", "bfloat16")),
        ({"evaluator": {"name": SCRIPTED, "seconds": 1}}, ("evaluator.seconds", "0.0", "1.0")),
    ],
)
def test_other_protocols_are_refused(store: Store, changes: dict[str, Any], facts: Facts) -> None:
    one, other = record(store, MIXED, name="one"), record(store, MIXED, name="other", **changes)
    assert one.settings != other.settings
    with refusal(ConfigError, "'one'", "'other'", *facts):
        grouped([one, other])


def test_the_precision_in_force_counts(store: Store) -> None:
    """`auto` is one precision on one machine and another on another; named or not, it is the same."""
    auto, other, named = (
        record(store, MIXED, name=name, seed=seed, resources={"precision": precision})
        for seed, (name, precision) in enumerate([("a", "auto"), ("b", "auto"), ("c", "float32")])
    )
    for search, precision in ((auto, "float32"), (other, "bfloat16"), (named, "float32")):
        search.environment = {**search.environment, "precision": precision}
    [group], _ = grouped([auto, named])
    assert [search.name for search in group.searches] == ["a", "c"]
    with refusal(ConfigError, "resources.precision", "float32", "bfloat16"):
        grouped([auto, other])


def test_threads_are_part_of_the_protocol_where_something_is_trained(store: Store) -> None:
    one = record(store, MIXED, name="one", resources={"cpus": 1})
    two = record(store, MIXED, name="two", resources={"cpus": 2}, seed=1)
    with refusal(ConfigError, "resources.cpus", 1, 2):
        grouped([one, two])
    looked_up = [
        record(store, MIXED, name=f"t{cpus}", seed=cpus, resources={"cpus": cpus}, **LOOKED_UP)
        for cpus in (1, 2)
    ]
    assert {search.name for group in grouped(looked_up)[0] for search in group.searches} == {"t1", "t2"}


def test_kinds_of_machines_are_told_apart(store: Store) -> None:
    searches = [record(store, MIXED, name=name) for name in ("old", "a", "b", "c")]
    machine = {"processor": "Xeon", "instructions": "AVX512", "torch": "2.13.0"}
    for search, own in zip(searches[1:], (machine, machine, machine | {"gpu": "H200"}), strict=True):
        search.environment = {**search.environment, **own}
    looked_up = record(store, MIXED, name="t", **LOOKED_UP)
    assert machines([*searches, looked_up]) == {
        "an unknown machine": ["old"],
        "Xeon, AVX512, torch 2.13.0": ["a", "b"],
        "Xeon, AVX512, H200, torch 2.13.0": ["c"],
    }


def test_the_most_telling_differences_are_named_first(store: Store) -> None:
    tasks = {"name": "omniglot", "split": "vinyals"}
    trained = record(store, MIXED, name="trained", tasks=tasks, budget={"train_episodes": 7})
    looked_up = record(store, MIXED, name="looked-up", **LOOKED_UP)
    with pytest.raises(ConfigError) as error:
        grouped([trained, looked_up])
    said = re.findall(r"([\w.]+): (\S+) and (\w+);", str(error.value))
    assert said == [
        ("evaluator.name", SCRIPTED, "tabular"),
        ("tasks.name", "omniglot", "None"),
        ("tasks.split", "vinyals", "None"),
        ("learner.name", "maml", "None"),
        ("evaluator.once", "False", "None"),
    ]


def test_five_differences_are_all_named(store: Store) -> None:
    changes = {
        "budget": {"train_episodes": 7, "validation_episodes": 9},
        "learner": {"name": "maml", "inner_lr": 0.5},
        "tasks": {"name": "sinusoid", "shots": 5},
    }
    one, other = record(store, MIXED, name="one"), record(store, MIXED, name="other", **changes)
    other.environment = {"classes": {"sinusoid/train": "abd"}}
    with pytest.raises(ConfigError) as error:
        grouped([one, other])
    _, _, said = str(error.value).partition("They differ in ")
    assert [part.partition(":")[0] for part in said.partition(". Name")[0].split("; ")] == [
        "tasks.shots",
        "data of sinusoid/train",
        "learner.inner_lr",
        "budget.train_episodes",
        "budget.validation_episodes",
    ]


def test_other_data_is_refused(store: Store) -> None:
    one, other = record(store, MIXED, name="one"), record(store, MIXED, name="other")
    other.environment = {"classes": {"sinusoid/train": "abd"}}
    with refusal(ConfigError, "sinusoid/train", "abc", "abd"):
        grouped([one, other])


def test_the_protocol_is_what_the_settings_hash_covers() -> None:
    base = {"space": "nas.testing.toys:Toy", "controller": "random", "tasks": "sinusoid", "learner": "maml"}
    config = validate(base)
    others = {"seed": 3, "trials": 5, "name": "x", "deduplicate": False, "retries": 0, "max_seconds": 5.0}
    for key, value in others.items():
        assert not key.startswith(PROTOCOL)
        assert validate(base | {key: value}).settings == config.settings
    covered = {key.split(".")[0] for key in flat(config.model_dump()) if key.startswith(PROTOCOL)}
    assert covered == {"tasks", "learner", "evaluator", "budget", "resources"}
