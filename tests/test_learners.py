import json
import math
import re
from functools import partial

import pytest
import torch
from facts import refusal
from grids import rest_slow
from torch import nn
from typer.testing import CliRunner

from nas.cli.main import app
from nas.errors import ConfigError, Diverged
from nas.learners.base import Learner, query_scores, task_loss
from nas.learners.pretrain import Pretrain
from nas.learners.reptile import Reptile
from nas.plugins import installed, load, settings
from nas.space import TaskShape
from nas.tasks.sinusoid import Sinusoid
from nas.testing.learners import LearnerSuite, image_classes, planes
from nas.training.loop import start
from nas.training.scoring import score

LEARNERS = [name for name in installed("learner") if not load("learner", name).ordinary]
"""Those of few-shot tasks."""

OWN = ("reptile", "pretrain", "learning_to_optimize", "mann", "leo")
"""Those whose suite needs settings; it is here or in a file of their own."""


pytestmark = pytest.mark.usefixtures("one_thread")


class TestEveryLearner(LearnerSuite):
    @pytest.fixture(
        params=rest_slow([name for name in LEARNERS if name not in OWN], ("maml", "prototypical"))
    )
    def make(self, request):
        return load("learner", request.param)


class TestReptile(LearnerSuite):
    @pytest.fixture
    def make(self):
        return partial(Reptile, test_steps=10)


class TestPretrain(LearnerSuite):
    @pytest.fixture
    def make(self):
        return lambda backbone, shape: Pretrain(backbone, shape, train_classes=CLASSES.get(shape))


CLASSES = {TaskShape((1, 8, 8), 3): 9}
"""Of the training split, where the tasks are classification."""


@pytest.mark.parametrize("name", installed("learner"))
def test_a_learner_describes_itself(name):
    cls = load("learner", name)
    assert issubclass(cls, Learner)
    assert cls.name == name
    assert all(field.description and not field.is_required() for field in settings(cls).values())
    assert "lr" in settings(cls)
    assert cls.ordinary or "meta_batch" in settings(cls)


def test_scores_are_accuracy_and_minus_mse():
    episode = image_classes(tasks=2, ways=3, queries=2)
    right = nn.functional.one_hot(episode.query_y, 3).float()
    wrong = right.clone()
    wrong[1, :3] = 1 - right[1, :3]
    assert query_scores(right, episode).tolist() == [1, 1]
    assert query_scores(wrong, episode).tolist() == [1, 0.5]
    lost = right.index_fill(1, torch.tensor([0, 4, 5]), torch.nan)
    assert query_scores(lost, episode).tolist() == [0.5, 0.5]
    regression = planes(tasks=2)
    assert query_scores(regression.query_y + 2, regression).tolist() == pytest.approx([-4, -4])


def test_losses_are_means():
    logits = torch.tensor([[[1.0, 2.0, 4.0], [0.0, 0.0, 0.0]]])
    by_hand = [math.log(math.exp(1) + math.exp(2) + math.exp(4)) - 2, math.log(3)]
    assert task_loss(logits, torch.tensor([[1, 0]])).item() == pytest.approx(sum(by_hand) / 2)
    values = torch.tensor([[[1.0, 2.0], [3.0, 5.0]]])
    assert task_loss(values, torch.zeros(1, 2, 2)).item() == pytest.approx((1 + 4 + 9 + 25) / 4)


ADAPTING = [name for name in LEARNERS if "inner_lr" in load("learner", name).rates]


def test_learners_with_an_inner_loop():
    assert {"maml", "anil", "meta_sgd", "reptile", "pretrain"} <= set(ADAPTING)


@pytest.mark.parametrize("name", ["maml", "meta_sgd", "anil", "reptile"])
def test_a_divergent_inner_loop_names_its_rate(name):
    """Steps so long that the loss is no number end the training with the settings to lower."""
    make = partial(load("learner", name), inner_lr=1e30, inner_steps=5)
    space = load("space", "mlp")()
    training = start(space, space.named["maml"], Sinusoid(), make, "float32", 20, 0)
    with refusal(Diverged, "learner.inner_lr", "learner.lr"):
        list(training.until(20))


def test_divergence_in_evaluation_names_the_rate():
    space, tasks = load("space", "mlp")(), Sinusoid()
    make = partial(load("learner", "maml"), inner_lr=1e30, test_steps=5)
    training = start(space, space.named["maml"], tasks, make, "float32", 1, 0)
    with refusal(Diverged, "2 of 2 validation", "0, 1", "learner.inner_lr", "learner.lr"):
        score(training.learner, tasks, "validation", 2, training.arithmetic)


@pytest.fixture
def nas(db):
    def call(*arguments):
        result = CliRunner().invoke(app, arguments)
        if result.exception and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    return call


RUN = ["run", "--controller=random", "--executor=inline", "--trials=1", "--name=s", "--set=retries=0"]


def test_a_trial_whose_inner_loop_diverges_says_so(nas):
    tasks = ["--space=mlp", "--tasks=sinusoid", "--learner=maml", "--set=learner.inner_lr=1e10"]
    nas(*RUN, *tasks, "--set=max_failed=1.0", "--set=budget.train_episodes=5")
    trial = json.loads(nas("show", "s/0", "-f", "json").stdout)
    assert trial["state"] == "failed"
    assert re.search(r"Diverged: .* `learner\.inner_lr`", trial["error"])


FIXED = [name for name in LEARNERS if load("learner", name).fixed_ways]
GLYPHS = ["--set=tasks.train_ways=10", "--tasks=glyphs"]


@pytest.mark.parametrize("name", FIXED)
def test_other_ways_in_training_are_refused(nas, name):
    """A network with an output for each class cannot train on tasks of more: no trial, no evaluation."""
    facts = f"tasks.train_ways: '{name}'", 5, 10
    with refusal(ConfigError, *facts):
        nas(*RUN, "--space=mlp", f"--learner={name}", *GLYPHS)
    with refusal(ConfigError, *facts):
        nas("evaluate", "mlp:20-0-0-relu", f"--learner={name}", *GLYPHS)
    assert {"maml", "anil", "meta_sgd", "reptile"} <= set(FIXED)
