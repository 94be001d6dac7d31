"""What there is to evaluate: references, targets, the settings that identify them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from facts import Facts, refusal

from nas import plugins, precision
from nas.errors import ConfigError, NotFound, UnknownName, Unsupported
from nas.evaluation.published import own, published
from nas.evaluation.references import SpaceReference, TrialReference, parse
from nas.evaluation.targets import Targets, tried
from nas.settings.evaluation import EvaluationConfig, validate
from nas.space import TaskShape
from nas.states import TrialState
from nas.storage.evaluations import Origin
from nas.storage.store import Store
from nas.storage.trials import Derivations
from nas.tasks.base import SPLITS, Split
from nas.tasks.glyphs import Glyphs
from nas.testing.stores import begin, outcome, search

SINUSOID = {
    "space": "mlp",
    "tasks": {"name": "sinusoid", "shots": 2, "queries": 2},
    "learner": {"name": "maml", "inner_lr": 0.01},
}


def configure(**changes: Any) -> EvaluationConfig:
    return validate(SINUSOID | changes)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a-search/12", TrialReference("a-search", 12)),
        ("@last/0", TrialReference("@last", 0)),
        ("chain:conv4", SpaceReference("chain", "conv4")),
        ("chain:3x3/2:64,3x3/2:64@1", SpaceReference("chain", "3x3/2:64,3x3/2:64@1")),
        ("nas.testing.toys:Toy:0.1.2", SpaceReference("nas.testing.toys:Toy", "0.1.2")),
        ("mlp:16/2", SpaceReference("mlp", "16/2")),
        ("residual", SpaceReference("few_shot", "residual")),
        ("resnet", SpaceReference("nasbench201", "resnet")),
    ],
)
def test_references(text: str, expected: object) -> None:
    assert parse(text) == expected


@pytest.mark.parametrize(
    ("text", "example"),
    [
        ("", "SPACE:ARCHITECTURE"),
        ("a-search", "SPACE:ARCHITECTURE"),
        ("conv5", "SPACE:ARCHITECTURE"),
        ("a-search/", "a-search/0"),
        ("a-search/one", "a-search/0"),
        ("a/-1", "a/0"),
    ],
)
def test_what_is_no_reference_says_what_is(text: str, example: str) -> None:
    with refusal(ConfigError, f"'{text}'", example):
        parse(text)


def test_a_published_network_has_the_settings_of_its_paper() -> None:
    found = {name: parse(name) for name in ("conv4", "conv4_pool", "conv4_pool32")}
    assert all(isinstance(one, SpaceReference) and one.space == "chain" for one in found.values())
    assert {name: (one.name, one.settings["downsample"]) for name, one in found.items()} == {
        "conv4": ("conv4", "stride"),
        "conv4_pool": ("conv4_pool", "pool"),
        "conv4_pool32": ("conv4_pool32", "pool"),
    }


@pytest.mark.parametrize(
    ("learner", "side", "name", "features"),
    [
        ("prototypical", 28, "conv4_pool", 64),
        ("prototypical", 84, "conv4_pool", 5 * 5 * 64),
        ("matching", 105, "conv4_pool", 6 * 6 * 64),
        ("maml", 28, "conv4", 64),
        ("maml", 84, "conv4_pool32", 5 * 5 * 32),
        ("reptile", 32, "conv4", 64),
    ],
)
def test_each_learner_s_own_network_is_that_of_its_paper(
    learner: str, side: int, name: str, features: int
) -> None:
    shape = TaskShape((3, side, side), 5)
    assert own(learner, shape) == name
    reference = parse(name)
    assert isinstance(reference, SpaceReference)
    space = configure(space={"name": reference.space, **(reference.settings or {})}).make_space()
    assert space.build(space.decode(reference.architecture), shape).out_features == features


def test_published_networks_belong_to_installed_learners_and_spaces() -> None:
    for name, network in published().items():
        assert set(network.learners) <= set(plugins.installed("learner"))
        assert isinstance(parse(name), SpaceReference)
    assert own("relation", TaskShape((1, 28, 28), 5)) is None  # it pools after its first two layers alone
    assert own("maml", TaskShape((1,), 1)) is None


def recorded(store: Store) -> Any:
    """Record a search of six trials of four networks, one of them infeasible."""
    config = {
        "space": {"name": "mlp"},
        "tasks": {"name": "sinusoid", "shots": 3},
        "learner": {"name": "maml", "inner_lr": 0.02},
        "resources": {"precision": "float32"},
    }
    row = search(store, name="s", space="mlp", config=config)
    space = configure().make_space()
    chance = np.random.default_rng(0)
    networks = [space.sample(chance) for _ in range(4)]
    for number, (network, score) in enumerate([(0, 0.5), (1, 0.9), (0, 0.7), (2, None), (1, 0.8), (3, 0.6)]):
        text = space.encode(networks[network])
        trial = begin(store, row, number, architecture=text, key=space.canonical(networks[network]))
        store.finish(trial, outcome(score, TrialState.INFEASIBLE if score is None else TrialState.COMPLETED))
    return row


def test_the_best_of_a_search_are_distinct_networks_in_order(store: Store) -> None:
    row = recorded(store)
    targets = Targets(store)
    best = targets.choose([], top=2, search="s")
    assert [target.origin for target in best] == [Origin(row.id, "s", n) for n in (1, 2)]
    assert [t.origin and t.origin.trial for t in targets.best("s", 9)] == [1, 2, 5]
    config = best[0].config
    assert (config.tasks["shots"], config.learner["inner_lr"], config.precision) == (3, 0.02, "float32")
    again = targets.choose(["s/1", "s/4", "s/2"])
    assert [target.origin and target.origin.trial for target in again] == [4, 2]
    empty = search(store, name="empty")
    with refusal(NotFound, "nas resume empty"):
        targets.best(empty.name, 1)


def test_an_infeasible_trial_is_refused_unless_it_only_broke_a_constraint(store: Store) -> None:
    recorded(store)
    [limited] = Targets(store).choose(["s/3"])
    assert limited.origin is not None
    sections = {"space": "nasbench201", "tasks": "glyphs", "learner": "prototypical"}
    config = {key: {"name": name} for key, name in sections.items()} | {"resources": {"precision": "float32"}}
    row = search(store, name="zero", space="nasbench201", config=config)
    nothing = "|none~0|+|none~0|none~1|+|none~0|none~1|none~2|"
    store.finish(begin(store, row, 0, architecture=nothing, key="0"), outcome(None, TrialState.INFEASIBLE))
    with refusal(ConfigError, "zero/0", nothing, "nas leaderboard --search zero"):
        Targets(store).choose(["zero/0"])


def test_an_architecture_takes_its_settings_from_a_search_or_from_the_user(store: Store) -> None:
    recorded(store)

    def change(values: dict[str, Any]) -> None:
        values.setdefault("tasks", {"name": "sinusoid"})["queries"] = 7
        values.setdefault("learner", {"name": "maml"})

    [like] = Targets(store, change).choose(["mlp:maml"], search="s")
    [own] = Targets(store, change).choose(["maml"])
    assert (like.config.tasks["shots"], like.config.tasks["queries"]) == (3, 7)
    assert like.config.precision == "float32"
    assert own.config.tasks["queries"] == 7
    assert own.config.tasks["shots"] != 3
    assert own.origin is like.origin is None
    assert own.settings != like.settings
    with refusal(ConfigError, "--tasks", "--learner"):
        Targets(store).choose(["maml"])
    with refusal(ConfigError, "prototypical"):
        Targets(store, lambda values: values.update(SINUSOID | {"learner": "prototypical"})).choose(["maml"])
    with refusal(Unsupported, "'nasbench201'"):
        Targets(store, lambda values: values.update(SINUSOID | {"space": "nasbench201"})).choose(["resnet"])
    with refusal(NotFound, 99, "nas show s"):
        Targets(store).choose(["s/99"])


def test_what_an_evaluation_records_of_choices_is_no_setting_of_a_user(store: Store) -> None:
    recorded(store)
    with refusal(UnknownName, "'base'"):
        Targets(store, lambda values: values.update(base={"learner": {}})).choose(["mlp:maml"], search="s")


def test_the_baseline_shares_the_protocol(store: Store) -> None:
    values = SINUSOID | {"tasks": "glyphs", "learner": "prototypical"}

    def change(given: dict[str, Any]) -> None:
        given |= values | {"space": given["space"]}

    targets = Targets(store, change)
    [target] = targets.choose(["nasbench201:resnet"])
    baseline = targets.baseline("conv4", target)
    assert baseline.protocol == target.protocol
    assert baseline.settings != target.settings
    assert baseline.config.budget == target.config.budget
    assert baseline.config.space["name"] == "chain"
    with refusal(ConfigError, "--baseline s/3"):
        targets.baseline("s/3", target)


def test_a_baseline_that_the_space_s_settings_lack_has_the_defaults(store: Store) -> None:
    def change(given: dict[str, Any]) -> None:
        given |= SINUSOID | {"tasks": "glyphs", "learner": "prototypical"}
        given["space"] = {"name": "chain", "channels": [8], "layers": 1}

    targets = Targets(store, change)
    [target] = targets.choose(["chain:3x3/2:8"])
    assert targets.baseline("chain:1x1/1:8", target).config.space == target.config.space
    assert targets.baseline("conv4", target).config.space["layers"] == 4


def test_a_published_baseline_keeps_its_settings_in_the_target_s_own_space(store: Store) -> None:
    def change(given: dict[str, Any]) -> None:
        given |= SINUSOID | {"tasks": "glyphs", "learner": "prototypical"}
        given["space"] = {"name": "chain", "downsample": "pool"}

    targets = Targets(store, change)
    [target] = targets.choose(["chain:conv4"])
    assert (target.name, target.config.space["downsample"]) == (None, "pool")
    others = {name: targets.baseline(name, target) for name in ("conv4", "conv4_pool")}
    assert {name: (other.name, other.config.space["downsample"]) for name, other in others.items()} == {
        "conv4": ("conv4", "stride"),
        "conv4_pool": ("conv4_pool", "pool"),
    }
    assert len({other.identity for other in others.values()}) == 2
    assert {other.protocol for other in others.values()} == {target.protocol}
    assert targets.own(target) == "conv4_pool"


CLASSES = {0: "abc", 1: "dea", 2: "fgb", 3: "hic"}
"""By the seed of glyphs, one class of each split: what seed 0 has for training, seed 1 has for the test…"""


@pytest.mark.parametrize(
    ("tasks", "refused"),
    [
        ({"ways": 7}, None),
        ({"seed": 3}, None),
        ({"seed": 1}, "a"),
        ({"seed": 2}, "b"),
        ({"name": "sinusoid"}, None),
    ],
)
def test_what_a_search_has_seen_is_no_test_of_what_it_found(
    store: Store, monkeypatch: pytest.MonkeyPatch, tasks: dict[str, Any], refused: str | None
) -> None:
    def members(source: Glyphs, split: Split) -> frozenset[str]:
        seed = int(source.fingerprint(split)[0].split("/")[1])
        return frozenset(CLASSES[seed][SPLITS.index(split)])

    monkeypatch.setattr(Glyphs, "members", members)
    config = SINUSOID | {"tasks": {"name": "glyphs", "seed": 0}, "resources": {"precision": "auto"}}
    store.finish(begin(store, search(store, name="s", config=config), 0, architecture="maml"), outcome(0.5))

    def change(values: dict[str, Any]) -> None:
        values["tasks"] = tasks if "name" in tasks else values["tasks"] | tasks

    if refused is None:
        assert Targets(store, change).choose(["s/0"])
        return
    with refusal(ConfigError, "tasks: 1 of the 1", f"'{refused}'", "tasks.seed=0"):
        Targets(store, change).choose(["s/0"])


def test_a_search_on_data_that_changed_since_may_have_seen_any_of_it(store: Store) -> None:
    config = SINUSOID | {"resources": {"precision": "auto"}, "tasks": {"name": "glyphs"}}
    now = dict(Glyphs().fingerprint(split) for split in ("train", "validation"))
    for name, classes in (("same", now), ("other", now | {"glyphs/0/train": "0" * 16})):
        row = search(store, name=name, config=config, environment={"classes": classes})
        store.finish(begin(store, row, 0, architecture="maml"), outcome(0.5))
    assert Targets(store).choose(["same/0"])
    with refusal(ConfigError, "'other'"):
        Targets(store).choose(["other/0"])


def test_a_supernet_says_which_trials_it_derived(store: Store) -> None:
    row = search(store, name="shared", space="mlp")
    trial = begin(store, row, 0, architecture=None, key=None, supernet={"strategy": "darts"})
    with refusal(ConfigError, "shared/0", "nas show shared"):
        tried(store, TrialReference("shared", 0))
    derived = Derivations([{"architecture": text, "score": 0.5} for text in ("a", "b")], [])
    store.finish(trial, outcome(None), derivations=derived)
    for number, text in enumerate(("b", "c", "a"), start=1):
        begin(store, row, number, architecture=text, key=text)
    with refusal(ConfigError, "shared/0", "shared/1, shared/3"):
        tried(store, TrialReference("shared", 0))
    assert tried(store, TrialReference("shared", 2))[2] == "c"


def test_auto_is_settled_and_settles_what_an_evaluation_is(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = {"tasks": "glyphs", "learner": "prototypical"}

    def target(**changes: Any) -> Any:
        [found] = Targets(store, lambda given: given.update(values | changes)).choose(["chain:conv4"])
        return found

    monkeypatch.setattr(precision, "_has_bfloat16", lambda device: False)
    slow = target()
    monkeypatch.setattr(precision, "_has_bfloat16", lambda device: True)
    fast = target()
    assert (slow.config.precision, fast.config.precision) == ("float32", "bfloat16")
    assert slow.identity == target(precision="float32").identity
    assert fast.identity == target(precision="bfloat16").identity != slow.identity
    assert target(learner="maml").config.precision == "float32"


def test_settings_hang_on_the_data_and_the_protocol_not_on_the_space() -> None:
    one, other = configure(), configure(space={"name": "mlp", "layers": 2})
    data, changed = {"test": "a"}, {"test": "b"}
    assert one.digest(data) != one.digest(changed)
    assert one.digest(data) != other.digest(data)
    assert one.digest(data, without="space") == other.digest(data, without="space")
    longer = configure(budget={"train_episodes": 13})
    assert one.digest(data, without="space") != longer.digest(data, without="space")


@pytest.mark.parametrize(
    ("changes", "facts"),
    [
        ({"budget": {"test_episodes": 999}}, ("budget.test_episodes", 1000)),
        ({"budget": {"patience": -1}}, ("budget.patience", -1)),
        ({"precision": "float16"}, ("precision",)),
    ],
)
def test_wrong_settings_are_named(changes: dict[str, Any], facts: Facts) -> None:
    with refusal(ConfigError, *facts):
        configure(**changes)
    for unknown, name in (({"budget": {"epochs": 1}}, "epochs"), ({"controller": "random"}, "controller")):
        with refusal(UnknownName, f"'{name}'"):
            configure(**unknown)
