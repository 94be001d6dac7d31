import json
import re
import socket
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import nas
from facts import lacking, refusal
from scripted_searches import Silent

from nas.cli.document import document
from nas.controller import Evaluate, Outcome, Score
from nas.driver.creation import check
from nas.driver.records import Records
from nas.errors import ConfigError, DataMissing, NasError, PluginError, UnknownName, Unready
from nas.evaluation.targets import Target, Targets
from nas.evaluator import Job
from nas.learners.maml import Maml
from nas.product import Product, candidate_of
from nas.settings.evaluation import validate as evaluation
from nas.settings.search import SearchConfig, validate
from nas.settings.sections import choose
from nas.space import Architecture
from nas.states import TrialState
from nas.storage.store import Store
from nas.tasks.base import TaskSource
from nas.testing.toys import Toy
from nas.training.provenance import proposal_rng
from nas.training.train import Train
from nas.verbs import started
from search_spaces.mlp import Mlp

NETWORK = "20-40-relu"
SLOTS = {"learner": {"lr": [1, 0.01], "inner_steps": [1, 2]}, "tasks": {"train_shots": [5, 20]}}
SEARCH: dict[str, Any] = {
    "space": {"name": "mlp", "layers": 2},
    "controller": "random",
    "tasks": "sinusoid",
    "learner": "maml",
    "executor": "inline",
    "budget": {"train_episodes": 4, "validation_episodes": 2},
}


def config(**changes: Any) -> SearchConfig:
    return validate({**SEARCH, "slots": SLOTS, **changes})


def test_values_are_as_the_plugin_takes_them() -> None:
    made = config()
    assert made.slots["learner"]["lr"] == [1.0, 0.01]
    assert isinstance(made.slots["learner"]["lr"][0], float)
    assert validate(made.model_dump(mode="json")) == made
    space = made.make_space()
    assert isinstance(space, Product)
    assert [decision.name for decision in space.decisions[-3:]] == [
        "learner.lr",
        "learner.inner_steps",
        "tasks.train_shots",
    ]
    assert candidate_of(space, space.default).settings == {
        "learner": {"lr": 1.0, "inner_steps": 1},
        "tasks": {"train_shots": 5},
    }


def test_networks_alone_are_no_product() -> None:
    assert isinstance(config(slots={}).make_space(), Mlp)
    assert isinstance(config(slots={"learner": {}}).make_space(), Mlp)
    assert config(slots={}).settings == config().settings


@pytest.mark.parametrize(
    ("slots", "path"),
    [
        ({"learner": {"lr": [0.1, -1]}}, "slots.learner.lr"),
        ({"learner": {"lr": [0.1, "fast"]}}, "slots.learner.lr"),
        ({"learner": {"lr": [0.1, 0.1]}}, "slots.learner.lr"),
        ({"learner": {"inner_steps": [1, 1.0]}}, "slots.learner.inner_steps"),
        ({"learner": {"lr": []}}, "slots.learner.lr"),
        ({"learner": {"lr": 0.1}}, "slots.learner.lr"),
        ({"learner": {"normalization": ["support", "running"]}}, "slots.learner.normalization"),
        ({"tasks": {"train_shots": [None, 5]}}, "slots.tasks.train_shots"),
        ({"tasks": {"shots": [1, 5]}}, "train_shots, train_queries"),
    ],
)
def test_refuses_values(slots: dict[str, Any], path: str) -> None:
    with pytest.raises(ConfigError) as refused:
        config(slots=slots)
    assert path in str(refused.value)


@pytest.mark.parametrize("slots", [{"space": {"layers": [1]}}, {"learner": {"rate": [1]}}])
def test_refuses_names(slots: dict[str, Any]) -> None:
    with pytest.raises(UnknownName):
        config(slots=slots)


def test_refuses_what_the_section_sets() -> None:
    with pytest.raises(ConfigError) as refused:
        config(learner={"name": "maml", "lr": 0.5})
    assert "learner.lr" in str(refused.value)
    assert config(learner={"name": "maml", "order": 1}).slots


@pytest.mark.slow
def test_refuses_what_only_shows_in_a_training() -> None:
    made = config(tasks="glyphs", learner="prototypical", slots={"tasks": {"train_ways": [5, 10_000]}})
    with pytest.raises(ConfigError) as refused:
        check(made, made.make_tasks())
    assert "slots.tasks.train_ways, 10000" in str(refused.value)


def test_the_file_reads_back() -> None:
    made = config()
    assert validate(tomllib.loads(document(made))) == made
    assert "slots" not in tomllib.loads(document(config(slots={})))


def test_equal_networks_have_equal_seeds() -> None:
    def seed(records: Records, architecture: Architecture) -> int:
        return records.evaluation(0, Evaluate(architecture)).seed

    made = config()
    space = made.make_space()
    records = Records("s", made, space, None, {})
    alone = Records("s", config(slots={}), Mlp(layers=2), None, {})
    rng = np.random.default_rng(0)
    for _ in range(10):
        one, other = space.sample(rng), space.sample(rng)
        network, another = candidate_of(space, one), candidate_of(space, other)
        assert (seed(records, one) == seed(records, other)) == (network.key == another.key)
        assert seed(records, one) == seed(alone, network.architecture)


def test_a_training_has_what_was_chosen() -> None:
    made = config()
    space, tasks = made.make_space(), made.make_tasks()
    context = made.make_context(space, tasks)
    architecture = space.decode("20-40-relu | learner: lr=0.01 inner_steps=2 | tasks: train_shots=20")
    trainee = context.trainee(architecture)
    learner = trainee.learner(trainee.space.build(trainee.architecture, tasks.shape), tasks.shape)
    assert isinstance(learner, Maml)
    assert learner.optimizer().param_groups[0]["lr"] == 0.01
    rng = np.random.default_rng(0)
    assert trainee.tasks.sample("train", 1, rng).support_x.shape[1] == 20
    assert trainee.tasks.sample("validation", 1, rng).support_x.shape[1] == 10
    assert context.trainee(architecture).tasks is trainee.tasks
    networks = context.networks()
    assert isinstance(networks.space, Mlp)
    assert networks.tasks.sample("train", 1, rng).support_x.shape[1] == 5


def test_scores_are_those_of_the_settings_chosen() -> None:
    joint = config()
    space = joint.make_space()
    text = "20-40-relu | learner: lr=0.01 inner_steps=2 | tasks: train_shots=20"
    fixed = config(
        slots={},
        learner={"name": "maml", "lr": 0.01, "inner_steps": 2},
        tasks={"name": "sinusoid", "train_shots": 20},
    )
    toy = fixed.make_space()
    jobs = Job(0, 0, space.decode(text), 7), Job(0, 0, toy.decode("20-40-relu"), 7)
    last = [
        list(Train(made.make_context(made.make_space(), made.make_tasks())).evaluate(job))[-1].score
        for made, job in zip((joint, fixed), jobs, strict=True)
    ]
    assert last[0] == last[1]


@pytest.mark.parametrize("controller", ["random", "evolution", "rnn"])
def test_controllers_choose_in_every_slot(controller: str) -> None:
    made = config(controller=controller, constraints={"max_parameters": 3000})
    space, tasks = made.make_space(), made.make_tasks()
    first, again = (made.make_controller(space, tasks) for _ in range(2))
    seen = []
    for number in range(40):
        proposals = [c.propose(number, (), proposal_rng(0, number)) for c in (first, again)]
        assert proposals[0] == proposals[1]
        proposal = proposals[0]
        if not isinstance(proposal, Evaluate):
            continue
        candidate = candidate_of(space, space.check(proposal.architecture))
        assert candidate.space.cost(candidate.architecture, tasks.shape).parameters <= 3000
        seen.append(proposal.architecture)
        outcome = Outcome(TrialState.COMPLETED, proposal.architecture, Score(float(number % 7), 0.1, 10))
        for own in (first, again):
            own.observe(number, outcome)
    assert len(set(map(space.canonical, seen))) == len(seen)
    for place in (-3, -2, -1):
        assert len({architecture.choices[place] for architecture in seen}) == 2


def test_search_and_leaderboard(db: Path) -> None:
    options = [
        "--space=nas.testing.toys:Toy",
        "--tasks=sinusoid",
        "--learner=maml",
        "--executor=inline",
        "--evaluator=nas.testing.evaluators:Scripted",
    ]
    slots = ["--slot=learner.lr=[0.1, 0.01]", "--slot=tasks.train_shots=[5, 20]"]
    text = Toy().encode(Toy().default)
    texts = json.dumps([text, f"{text} | learner: lr=0.01"])
    fixed = ["--controller=fixed", f"--set=controller.architectures={texts}", "--trials=2", "--name=fixed"]
    assert nas("run", *options, *slots, *fixed)[0] == 0
    rows = json.loads(nas("show", "fixed", "--format=json")[1])["trial_rows"]
    assert [row["architecture"] for row in rows] == [
        f"{text} | learner: lr=0.1 | tasks: train_shots=5",
        f"{text} | learner: lr=0.01 | tasks: train_shots=5",
    ]
    assert nas("run", *options, *slots, "--controller=evolution", "--trials=20", "--name=joint")[0] == 0
    assert nas("resume", "joint", "--trials=24")[0] == 0
    ranked = json.loads(nas("leaderboard", "--search=joint", "--limit=0", "--format=json")[1])
    assert len({row["architecture"] for row in ranked}) == len(ranked) > 10


def test_a_setting_is_given_or_chosen(db: Path) -> None:
    options = [
        "--space=mlp",
        "--controller=random",
        "--tasks=sinusoid",
        "--learner=maml",
        "--executor=inline",
    ]
    code, _, err = nas("run", *options, "--slot=learner.lr=[0.1, 0.01]", "--set=learner.lr=0.1")
    assert (code, lacking(err, "--set learner.lr=0.1", "--slot learner.lr=[0.1, 0.01]")) == (2, [])
    assert not db.exists()


@pytest.mark.parametrize("error", [DataMissing("No data."), PluginError("It cannot be loaded.")])
def test_a_machine_that_lacks_what_is_chosen_ends_the_search(
    store: Store, monkeypatch: pytest.MonkeyPatch, error: NasError
) -> None:
    def lack(self: SearchConfig) -> TaskSource:
        raise error

    with started(store, config(trials=5, name="s"), lambda words: None) as session:
        monkeypatch.setattr(SearchConfig, "make_tasks", lack)
        with refusal(Unready, socket.gethostname(), str(error)) as refused:
            session.run(Silent(), Path())
    assert refused.value.exit_code == error.exit_code
    assert [trial.state for trial in store.trials(session.row.id)] == ["interrupted"]


@pytest.fixture
def searched(db: Path, store: Store) -> Store:
    """Three trials of a search with slots, and one of a search without."""
    options = [
        "--set=space.layers=2",
        "--space=mlp",
        "--tasks=sinusoid",
        "--learner=maml",
        "--executor=inline",
        "--evaluator=nas.testing.evaluators:Scripted",
        "--controller=fixed",
    ]
    slots = ["--slot=learner.lr=[0.1, 0.01]", "--slot=tasks.train_shots=[5, 20]"]
    texts = [NETWORK, f"{NETWORK} | learner: lr=0.01", f"{NETWORK} | tasks: train_shots=20"]
    fixed = f"--set=controller.architectures={json.dumps(texts)}"
    assert nas("run", *options, *slots, fixed, "--trials=3", "--name=joint")[0] == 0
    fixed = f"--set=controller.architectures={json.dumps(texts[:1])}"
    assert nas("run", *options, fixed, "--trials=1", "--name=alone")[0] == 0
    return store


def test_targets_have_what_their_trials_chose(searched: Store) -> None:
    targets = Targets(searched).choose(["joint/0", "joint/1", "joint/2", "alone/0"])
    assert {target.architecture for target in targets} == {NETWORK}
    assert len({target.key for target in targets}) == 1
    assert [target.config.chosen for target in targets] == [
        {"learner": {"lr": 0.1}, "tasks": {"train_shots": 5}},
        {"learner": {"lr": 0.01}, "tasks": {"train_shots": 5}},
        {"learner": {"lr": 0.1}, "tasks": {"train_shots": 20}},
        {},
    ]
    assert [target.config.learner["lr"] for target in targets] == [0.1, 0.01, 0.1, 0.001]
    assert [target.config.tasks["train_shots"] for target in targets] == [5, 5, 20, None]
    assert len({target.settings for target in targets}) == 4
    assert len({target.protocol for target in targets}) == 1
    assert len({target.lineage(0) for target in targets}) == 4
    again = evaluation(targets[1].config.model_dump(mode="json"))
    assert again == targets[1].config


def test_what_the_user_sets_is_not_chosen(searched: Store) -> None:
    def target(name: str, **learner: Any) -> Target:
        def change(values: dict[str, Any]) -> None:
            values["learner"] = {**values["learner"], **learner}

        [found] = Targets(searched, change).choose([name])
        return found

    one, other = target("joint/1", lr=0.3), target("joint/2", lr=0.3)
    assert one.config.chosen == {"tasks": {"train_shots": 5}}
    assert one.config.learner["lr"] == 0.3
    assert one.protocol == other.protocol == target("alone/0", lr=0.3).protocol
    assert one.protocol != target("joint/1").protocol

    def anil(values: dict[str, Any]) -> None:
        choose(values, "learner", "anil")

    [under] = Targets(searched, anil).choose(["joint/1"])
    assert under.config.chosen == {"tasks": {"train_shots": 5}}
    assert under.config.learner["lr"] == 0.001


def test_baselines_are_trained_as_their_target(searched: Store) -> None:
    made = Targets(searched)
    [target] = made.choose(["joint/1"])
    baseline = made.baseline("mlp:40-40-relu", target)
    assert baseline.config == target.config
    assert baseline.protocol == target.protocol


def test_the_best_of_a_search(searched: Store) -> None:
    best = Targets(searched).choose([], top=3, search="joint")
    assert len({target.identity for target in best}) == 3


@pytest.mark.slow
def test_evaluations_rank_in_one_list_and_are_exported(searched: Store, tmp_path: Path) -> None:
    files = f"--artifacts={tmp_path / 'files'}"
    budget = ["--train-episodes=4", "--validate-every=2", "--validation-episodes=2", "--seeds=1"]
    code, _, errors = nas("evaluate", "joint/1", "alone/0", *budget, "--workers=1", files)
    assert code == 0, errors
    rows = json.loads(nas("leaderboard", "--stage=test", "--format=json")[1])
    assert {row["search"]: row["chosen"] for row in rows} == {
        "joint": {"learner.lr": 0.01, "tasks.train_shots": 5},
        "alone": {},
    }
    assert len({row["protocol"] for row in rows}) == 1
    [shown] = json.loads(nas("show", "joint/1", "--format=json")[1])["evaluations"]
    assert shown["state"] == "completed"
    path = tmp_path / "model.json"
    assert nas("export", "joint/1", f"--output={path}", files)[0] == 0
    description = json.loads(path.read_text())["description"]
    assert description["learner"]["lr"] == 0.01
    assert description["architecture"] == NETWORK
    other = tmp_path / "other.json"
    assert nas("export", "joint/2", f"--output={other}", files)[0] == 3


AUGMENTATIONS = ["none", "rotated_classes", {"name": "shift_rotate", "angle": 20}]


def test_plugins_that_fill_a_slot_of_the_learner_are_chosen(db: Path, store: Store) -> None:
    """The default is no choice: the training is that of a search without the slot."""
    options = [
        *("--space=chain", "--tasks=glyphs", "--learner=prototypical", "--executor=inline"),
        *("--evaluator=nas.testing.evaluators:Scripted", "--controller=fixed"),
    ]
    network = "3x3/1:16,3x3/2:16@1,3x3/2:16@2,3x3/2:16@3"
    words = ["none", "rotated_classes", "shift_rotate(shift:2.0,angle:20.0)"]
    texts = json.dumps([f"{network} | learner: augmentation={word}" for word in words])
    slot = f"--slot=learner.augmentation={json.dumps(AUGMENTATIONS)}"
    fixed = f"--set=controller.architectures={texts}"
    assert nas("run", *options, slot, fixed, "--trials=3", "--name=joint")[0] == 0
    fixed = f"--set=controller.architectures={json.dumps([network])}"
    assert nas("run", *options, fixed, "--trials=1", "--name=alone")[0] == 0
    targets = Targets(store).choose(["joint/0", "joint/1", "joint/2"])
    filled = [target.config.learner.get("augmentation") for target in targets]
    turned = {"name": "shift_rotate", "shift": 2.0, "angle": 20.0}
    assert filled == [None, {"name": "rotated_classes"}, turned]
    chosen = [target.config.chosen for target in targets]
    assert chosen == [{}, *({"learner": {"augmentation": value}} for value in filled[1:])]
    assert len({target.protocol for target in targets}) == 1
    assert len({target.settings for target in targets}) == 3
    [alone] = Targets(store).choose(["alone/0"])
    assert alone.identity == targets[0].identity


@pytest.mark.parametrize("values", [["none", "none"], ["unknown"], [{"angle": 20}], [3]], ids=str)
def test_what_fills_no_slot_is_refused(values: list[Any]) -> None:
    sections = {"space": "chain", "controller": "random", "tasks": "glyphs", "learner": "prototypical"}
    with pytest.raises(ConfigError):
        validate({**sections, "slots": {"learner": {"augmentation": values}}})


PARTS = {"name": "shift_rotate", "angle": [5, 20], "shift": [0, 1, 2]}
POLICY = {"name": "autoaugment", "policy": "any"}


def glyphs(**changes: Any) -> SearchConfig:
    sections = {"space": {"name": "chain", "layers": 2}, "tasks": "glyphs", "learner": "prototypical"}
    return validate({**SEARCH, **sections, **changes})


def test_settings_of_a_plugin_are_chosen_each_by_itself() -> None:
    made = glyphs(slots={"learner": {"lr": [0.1, 0.01], "augmentation": PARTS}})
    assert made.slots["learner"]["augmentation"] == {
        "name": "shift_rotate",
        "shift": [0.0, 1.0, 2.0],
        "angle": [5.0, 20.0],
    }
    assert validate(made.model_dump(mode="json")) == made
    assert validate(tomllib.loads(document(made))) == made
    space = made.make_space()
    assert [d.name for d in space.decisions[-3:]] == [
        "learner.lr",
        "learner.augmentation.shift",
        "learner.augmentation.angle",
    ]
    network = candidate_of(space, space.default).space
    text = (
        f"{network.encode(network.default)} | learner: lr=0.01 augmentation=shift_rotate(shift:2.0,angle:5.0)"
    )
    drawn = space.decode(text)
    assert space.encode(drawn) == text
    chosen = {"name": "shift_rotate", "shift": 2.0, "angle": 5.0}
    assert candidate_of(space, drawn).settings["learner"] == {"lr": 0.01, "augmentation": chosen}
    assert made.varied({"learner": {"augmentation": chosen}}).learner == {
        **(made.learner or {}),
        "augmentation": chosen,
    }
    rng = np.random.default_rng(0)
    for _ in range(20):
        other = space.sample(rng)
        assert space.decode(space.encode(other)) == other


def test_settings_of_a_default_plugin_are_chosen() -> None:
    made = glyphs(learner="maml", slots={"learner": {"update": {"momentum": [0, 0.9]}}})
    assert made.slots["learner"]["update"] == {"name": "sgd", "momentum": [0.0, 0.9]}
    first, last = (made.varied(candidate_of(made.make_space(), a).settings) for a in _ends(made))
    assert first.learner == made.learner
    assert last.learner is not None
    assert last.learner["update"] == {"name": "sgd", "momentum": 0.9}


def _ends(made: SearchConfig) -> list[Architecture]:
    space = made.make_space()
    last = (*space.default.choices[:-1], len(space.decisions[-1].choices) - 1)
    return [space.default, Architecture(space.name, last)]


def test_a_policy_is_chosen_by_its_decisions() -> None:
    made = glyphs(slots={"learner": {"augmentation": POLICY}})
    assert validate(tomllib.loads(document(made))) == made
    space = made.make_space()
    assert space.decisions[-1].name == "learner.augmentation.policy.30"
    rng = np.random.default_rng(0)
    for _ in range(5):
        drawn = space.sample(rng)
        section = candidate_of(space, drawn).settings["learner"]["augmentation"]
        resolved_ = made.varied({"learner": {"augmentation": section}}).learner
        assert resolved_ is not None
        assert resolved_["augmentation"] == section
        assert section["policy"] in space.encode(drawn)
        assert space.decode(space.encode(drawn)) == drawn
    values = space.values(drawn)
    own = [str(values[f"learner.augmentation.policy.{number}"]) for number in range(1, 31)]
    assert re.split("[:+/]", section["policy"]) == own


@pytest.mark.parametrize(
    ("section", "path"),
    [
        ({"name": "shift_rotate", "angle": [5, 60]}, "slots.learner.augmentation.angle"),
        ({"name": "shift_rotate", "angle": [5, 5.0]}, "slots.learner.augmentation.angle"),
        ({"name": "shift_rotate", "angle": [5, None]}, "slots.learner.augmentation.angle"),
        ({"name": "shift_rotate", "angle": []}, "slots.learner.augmentation.angle"),
        ({"name": "shift_rotate", "angle": [[5], 5]}, "slots.learner.augmentation.angle"),
        ({"name": "shift_rotate", "angle": 5}, "slots.learner.augmentation"),
        ({"name": "shift_rotate", "angle": "any"}, "slots.learner.augmentation"),
        ({"name": "autoaugment", "policy": ["thin:0.5:3", "thin"]}, "slots.learner.augmentation.policy"),
        ({"name": "autoaugment", "policy": "any", "images": "paintings"}, "learner.augmentation.images"),
        ({"name": "unknown", "policy": "any"}, "slots.learner.augmentation"),
    ],
    ids=str,
)
def test_what_cannot_be_chosen_in_a_section_is_refused(section: dict[str, Any], path: str) -> None:
    with pytest.raises(ConfigError) as refused:
        glyphs(slots={"learner": {"augmentation": section}})
    assert path in str(refused.value)


def test_a_section_without_choices_is_told_what_can_be_chosen_as_a_whole() -> None:
    with refusal(ConfigError, "slots.learner.augmentation", 'policy="any"'):
        glyphs(slots={"learner": {"augmentation": {"name": "autoaugment", "policy": "all"}}})


def test_a_section_is_for_what_a_plugin_fills() -> None:
    with pytest.raises(ConfigError) as refused:
        glyphs(slots={"learner": {"lr": {"name": "x"}}})
    assert "slots.learner.lr" in str(refused.value)


def test_policies_that_do_not_fit_the_tasks_end_the_search_before_its_first_trial() -> None:
    made = glyphs(slots={"learner": {"augmentation": {**POLICY, "images": "photographs"}}})
    with pytest.raises(ConfigError) as refused:
        check(made, made.make_tasks())
    assert "slots.learner.augmentation" in str(refused.value)
    assert "learner.augmentation.images=photographs" in str(refused.value)
    assert "rotate:0.0" not in str(refused.value)  # a policy of 30 decisions hides what is wrong


ONE_NETWORK = {"name": "chain", "layers": 1, "kernels": [3], "strides": [2], "channels": [8]}


@pytest.mark.parametrize(
    "controller", ["random", "evolution", "rnn", "gp", "bananas", "local_search", "nsga2"]
)
@pytest.mark.parametrize("alone", [True, False])
def test_controllers_choose_policies(controller: str, alone: bool) -> None:
    """Of one network, or together with it. `grid` refuses spaces of this size."""
    network = ONE_NETWORK if alone else {"name": "chain", "layers": 2}
    made = glyphs(space=network, controller=controller, slots={"learner": {"augmentation": POLICY}})
    space, tasks = made.make_space(), made.make_tasks()
    proposer = made.make_controller(space, tasks)
    texts = []
    for number in range(6):
        proposal = proposer.propose(number, (), proposal_rng(0, number))
        assert isinstance(proposal, Evaluate)
        texts.append(space.encode(space.check(proposal.architecture)))
        score = Score(number / 10, 0.1, 10)
        proposer.observe(number, Outcome(TrialState.COMPLETED, proposal.architecture, score))
    assert len({*texts}) == 6


def test_a_chosen_policy_can_be_read_everywhere(db: Path, store: Store) -> None:
    """In rows and tables, in evaluations, and by conditions; it resumes."""
    options = [
        *("--space=chain", "--tasks=glyphs", "--learner=prototypical", "--executor=inline"),
        *("--evaluator=nas.testing.evaluators:Scripted", "--controller=random"),
    ]
    slot = "--slot=learner.augmentation={name='autoaugment', policy='any'}"
    code, _, err = nas("run", *options, slot, "--trials=3", "--name=joint")
    assert code == 0, err
    assert nas("resume", "joint", "--trials=4")[0] == 0
    rows = json.loads(nas("show", "joint", "--format=json")[1])["trial_rows"]
    sections = [row["chosen"]["learner.augmentation"] for row in rows]
    assert len({section["policy"] for section in sections}) == 4
    targets = Targets(store).choose(["joint/0", "joint/3"])
    assert [target.config.learner["augmentation"] for target in targets] == [sections[0], sections[3]]
    assert len({target.protocol for target in targets}) == 1
    table = nas("show", "joint")[1]
    assert "policy:30 decisions" in " ".join(table.split())
    assert sections[0]["policy"][:20] in table
    word = f"autoaugment(policy:{sections[2]['policy']},images:strokes,operations:all,where:examples)"
    for condition, found in ((word, {2}), ("autoaugment", {0, 1, 2, 3})):
        out = nas("leaderboard", f"--where=learner.augmentation={condition}", "--format=json")[1]
        assert {row["trial"] for row in json.loads(out)} == found
    code, _, err = nas("leaderboard", "--where=learner.augmentation=none")
    assert code == 3 or code == 2, err
    assert "30 decisions" in " ".join(err.split())
    assert nas("run", *options, "--trials=2", "--name=alone")[0] == 0
    out = nas("leaderboard", "--format=json", "--limit=0")[1]
    assert {row["search"] for row in json.loads(out)} == {"alone", "joint"}
    code, out, _ = nas("compare", "joint", "alone", "--format=json")
    assert code == 0
    assert any("learner.augmentation" in row["group"] for row in json.loads(out))
