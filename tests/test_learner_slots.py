"""Settings that plug-ins of their own fill: a learner's update rule, augmentation and weighting."""

import json
import pickle
import sys
from pathlib import Path

import pytest
import torch
from command_line import nas
from facts import refusal
from torch import nn

from nas import plugins
from nas.cli.document import document
from nas.errors import ConfigError, PluginError
from nas.learners.augmentation import RotatedClasses, ShiftRotate, Unchanged
from nas.learners.base import Learner
from nas.learners.maml import Maml
from nas.learners.update import Adam, Sgd
from nas.learners.weighting import Uniform, Weighting
from nas.plugins import resolve
from nas.settings.evaluation import validate as evaluation
from nas.settings.search import validate as search
from nas.settings.sections import PARTS, maker, read
from nas.storage.store import Store
from nas.testing.learners import CASES, image_classes

pytestmark = pytest.mark.usefixtures("one_thread")

LEARNERS = list(plugins.installed("learner"))
DEFAULTS = {"augmentation": "none", "weighting": "uniform"}

OWN = '''
import torch
from torch import nn

from nas.learners.weighting import Weighting


class Own(Weighting):
    """A third party's."""

    name = "own"

    def __init__(self, *, scale: float = 2.0) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(scale))

    def forward(self, losses, targets):
        return self.scale.expand_as(losses)
'''


@pytest.fixture
def own(tmp_path, monkeypatch):
    (tmp_path / "own_weighting.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    yield "own_weighting:Own"
    sys.modules.pop("own_weighting", None)


def configuration(**learner):
    return {
        "space": {"name": "few_shot", "channels": 4},
        "controller": "random",
        "tasks": {"name": "glyphs", "ways": 3, "queries": 2},
        "learner": {"name": "maml", **learner},
    }


def test_what_maml_resolved_to_before_there_were_slots():
    assert resolve(Maml, {}, "learner") == {
        "inner_lr": 0.4,
        "inner_steps": 1,
        "test_steps": None,
        "order": 2,
        "lr": 0.001,
        "schedule": "constant",
        "meta_batch": 1,
        "normalization": "transductive",
    }


@pytest.mark.parametrize("name", LEARNERS)
def test_a_slot_at_its_default_leaves_no_trace(name):
    """So searches and evaluations of before keep their hashes, and equal settings have equal ones."""
    cls = plugins.load("learner", name)
    plain = resolve(cls, {}, "learner")
    assert not plugins.slots(cls).keys() & plain.keys()
    assert resolve(cls, dict(DEFAULTS), "learner") == plain
    assert resolve(cls, {"augmentation": {"name": "none"}, "weighting": None}, "learner") == plain
    assert set(plugins.slots(cls)) == {
        *DEFAULTS,
        *(["update"] if name in ("maml", "anil", "pretrain", "learning_to_optimize") else []),
    }


def test_hashes_are_those_of_before():
    plain = search(configuration())
    told = search(configuration(update={"momentum": 0.0}, **DEFAULTS))
    other = search(configuration(augmentation="shift_rotate"))
    assert plain.settings == told.settings != other.settings
    sections = {key: value for key, value in configuration().items() if key != "controller"}
    digests = [
        evaluation(sections | {"learner": config.learner}).digest({}) for config in (plain, told, other)
    ]
    assert digests[0] == digests[1] != digests[2]


def test_a_section_is_checked_and_its_defaults_filled_in():
    found = resolve(Maml, {"augmentation": {"name": "shift_rotate", "angle": 5}, "update": "adam"}, "learner")
    assert found["augmentation"] == {"name": "shift_rotate", "shift": 2.0, "angle": 5.0}
    assert found["update"] == {"name": "adam", "beta1": 0.9, "beta2": 0.999, "eps": 1e-8}
    assert resolve(Maml, {"update": {"momentum": 0.5}}, "learner")["update"] == {
        "name": "sgd",
        "momentum": 0.5,
    }
    assert resolve(Maml, found, "learner") == found


@pytest.mark.parametrize(
    ("value", "error", "facts"),
    [
        ({"name": "shift_rotate", "angle": 90}, ConfigError, ("learner.augmentation.angle",)),
        ({"name": "shift_rotate", "angel": 9}, ConfigError, ("learner.augmentation", "'angel'")),
        ("shift", ConfigError, ("learner.augmentation", "shift_rotate")),
        ({"shift": 1}, ConfigError, ("learner.augmentation", "shift")),
        (3, ConfigError, ("learner.augmentation",)),
        ({}, ConfigError, ("learner.augmentation",)),
        ({"name": 3}, ConfigError, ("learner.augmentation",)),
        ("nas.learners.weighting:Uniform", PluginError, ("Augmentation",)),
        ("nowhere:At", PluginError, ("nowhere",)),
    ],
)
def test_what_is_wrong_is_said_of_the_slot(value, error, facts):
    with refusal(error, *facts):
        resolve(Maml, {"augmentation": value}, "learner")


def test_a_section_makes_a_learner_with_its_slots_filled():
    section = search(
        configuration(update={"name": "sgd", "momentum": 0.9}, augmentation="rotated_classes")
    ).learner
    case = CASES["classification"]
    make = pickle.loads(pickle.dumps(maker("learner", section)))
    learner, other = make(case.backbone(), case.shape), make(case.backbone(), case.shape)
    assert isinstance(learner, Learner)
    assert isinstance(learner.update, Sgd)
    assert (learner.update.lr, learner.update.momentum) == (0.4, 0.9)
    assert isinstance(learner.augmentation, RotatedClasses)
    assert isinstance(learner.weighting, Uniform)
    assert learner.update is not other.update
    plain = maker("learner", {"name": "maml", **resolve(Maml, {}, "learner")})(case.backbone(), case.shape)
    assert isinstance(plain.augmentation, Unchanged)
    assert not plain.update.momentum


def test_each_learner_has_parts_of_its_own(own):
    """What two trials of a process learn stays apart, and what is learned belongs to φ."""
    case, section = CASES["classification"], search(configuration(weighting=own)).learner
    make = maker("learner", section)
    first, second = (make(case.backbone(), case.shape) for _ in range(2))
    assert section["weighting"] == {"name": own, "scale": 2.0}
    assert first.weighting.scale is not second.weighting.scale
    assert "weighting.scale" in dict(first.named_parameters())
    before = first.weighting.scale.item()
    optimizer = first.train().optimizer()
    first.meta_backward(image_classes())
    optimizer.step()
    assert first.weighting.scale.item() != before == second.weighting.scale.item()


def test_the_rule_adapts_the_weights():
    case = CASES["classification"]
    predictions = []
    for update in (Sgd, Adam):
        torch.manual_seed(0)
        predictions.append(Maml(case.backbone(), case.shape, update=update).eval()(image_classes()))
    assert not torch.allclose(*predictions)


def test_the_file_of_a_search_has_its_slots(tmp_path, own):
    for learner in ({}, {"augmentation": {"name": "shift_rotate", "angle": 3}, "weighting": own}):
        config = search(configuration(**learner))
        path = Path(tmp_path / "search.toml")
        path.write_text(document(config))
        assert search(read(path)[1]) == config
        assert "\naugmentation = " in path.read_text()


RUN = ["run", "--controller=random", "--executor=inline", "--trials=1", "--tasks=glyphs", "--space=chain"]
SMALL = [
    *("--set=budget.train_episodes=2", "--set=budget.validation_episodes=2"),
    *("--set=space.channels=[4]", "--set=space.layers=1"),
]


@pytest.mark.slow
def test_a_search_with_slots_runs_and_goes_on(own):
    learner = [
        *("--learner=maml", "--set=learner.update.momentum=0.5", "--set=learner.augmentation=shift_rotate"),
        *("--set=learner.augmentation.angle=5", f"--set=learner.weighting={own}"),
    ]
    code, _, err = nas(*RUN, *SMALL, *learner, "--name=s")
    assert code == 0, err
    with Store(f"sqlite:///{Path.cwd()}/nas.db") as store:
        section = store.search("s").config["learner"]
        assert store.trials(store.search("s").id)[0].state == "completed"
    assert section["update"] == {"name": "sgd", "momentum": 0.5}
    assert section["augmentation"] == {"name": "shift_rotate", "shift": 2.0, "angle": 5.0}
    assert section["weighting"] == {"name": own, "scale": 2.0}
    code, _, err = nas("resume", "s", "--trials=2")
    assert code == 0, err
    code, out, err = nas("show", "s", "-f", "json")
    assert code == 0, err
    assert "shift_rotate" in out


@pytest.mark.usefixtures("db")
def test_an_unknown_augmentation_is_an_error_of_settings():
    code, out, err = nas(*RUN, "--learner=prototypical", "--set=learner.augmentation=rotate")
    assert (code, out) == (2, "")
    assert "Traceback" not in err
    assert "rotated_classes" in err


@pytest.mark.usefixtures("db")
def test_an_augmentation_that_does_not_fit_ends_the_search_before_its_first_trial():
    sinusoid = [
        "run",
        "--controller=random",
        "--executor=inline",
        "--tasks=sinusoid",
        "--space=mlp",
        "--learner=maml",
    ]
    code, _, err = nas(*sinusoid, "--set=learner.augmentation=shift_rotate")
    assert code == 2
    assert "learner.augmentation" in err


@pytest.mark.parametrize("kind", PARTS)
def test_every_part_says_what_it_is(kind):
    for name, plugin in plugins.installed(kind).items():
        cls = plugin.load()
        assert cls.name == name
        assert issubclass(cls, PARTS[kind])
        assert all(field.description for field in plugins.settings(cls).values())
        required = {key for key, field in plugins.settings(cls).items() if field.is_required()}
        assert required == ({"policy"} if name in ("autoaugment", "pba") else set())


def test_a_supernet_trains_on_augmented_tasks():
    """The strategy's batches are augmented, each the same way at every loss of it."""
    from nas.controller import SupernetBudget, TrainSupernet
    from nas.evaluator import Budget, Context
    from nas.plugins import load
    from nas.tasks.glyphs import Glyphs
    from nas.training.oneshot.assembly import assemble
    from nas.training.oneshot.batches import Bilevel

    space, tasks = load("space", "few_shot")(channels=4), Glyphs(ways=3, queries=2)
    losses = {}
    for augmentation in ("none", "shift_rotate"):
        learner = maker("learner", search(configuration(augmentation=augmentation)).learner)
        context = Context(space, tasks, learner, Budget(), (), "float32", None)
        assembly = assemble(context, TrainSupernet("darts", {}, 1, SupernetBudget(epochs=1, steps=1)), 0)
        batches = Bilevel(assembly, tasks, None, 0).next()
        mixture = [w.detach() for w in assembly.strategy.mixture()]
        inner = [batches.inner(mixture).item() for _ in range(2)]
        weights = {name: w.detach().clone().requires_grad_() for name, w in batches.weights.items()}
        assert inner[0] == inner[1] == batches.inner(mixture, weights).item()
        losses[augmentation] = inner[0]
    assert losses["none"] != losses["shift_rotate"]


def test_a_weighting_is_abstract():
    with pytest.raises(TypeError):
        Weighting()
    assert issubclass(ShiftRotate, nn.Module)
    assert json.dumps(resolve(ShiftRotate, {}, "learner.augmentation"))
