"""Searches of networks by learners that are put together from slots; what they refuse before one begins."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import nas
from facts import lacking
from torch import nn

from nas import plugins
from nas.backbone import BackboneSpace
from nas.errors import Infeasible
from nas.learners.maml import Maml
from nas.space import TaskShape
from nas.tasks.glyphs import Glyphs

pytestmark = pytest.mark.usefixtures("one_thread")

RUN = ("run", "--controller=random", "--executor=inline", "--name=s", "--set=retries=0")
SMALL = ("--space=few_shot", "--set=space.channels=4", "--tasks=glyphs", "--set=tasks.queries=2")
LEARNERS = {
    "meta_lstm": ("--learner=maml", "--set=learner.update=meta_lstm", "--set=learner.inner_steps=2"),
    "meta_lstm, accumulating": (
        *("--learner=maml", "--set=learner.update=meta_lstm"),
        "--set=learner.update.accumulates=true",
    ),
    "learned_rates": ("--learner=anil", "--set=learner.update=learned_rates"),
    "snail": ("--learner=snail", "--set=learner.length=6", "--set=learner.filters=8"),
    "mann": ("--learner=mann", "--set=learner.hidden=16"),
    "leo": ("--learner=leo", "--set=learner.end_to_end=true"),
    "hallucinate": ("--learner=hallucinate", "--set=learner.readout=logistic"),
    "learning_to_optimize": (
        *("--learner=learning_to_optimize", "--set=learner.inner_steps=4"),
        "--set=learner.truncation=2",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("learner", LEARNERS)
def test_it_searches_networks(db: Path, learner: str) -> None:
    trials = 12 if learner in ("meta_lstm", "snail") else 2
    budget = ("--set=budget.train_episodes=4", "--set=budget.validation_episodes=4")
    code, _, err = nas(*RUN, *SMALL, *LEARNERS[learner], f"--trials={trials}", *budget)
    assert code == 0, err
    rows = json.loads(nas("show", "s", "-f", "json")[1])["trial_rows"]
    assert len(rows) == trials
    assert {row["state"] for row in rows} <= {"completed", "infeasible"}  # some cells are zero
    trained = next(row["trial"] for row in rows if row["state"] == "completed")
    measured = json.loads(nas("show", f"s/{trained}", "-f", "json")[1])["measurements"]
    assert ("accuracy_at_1" in {one["metric"] for one in measured}) is (learner == "mann")


SUPERNET = (
    *("--controller=darts", "--set=controller.derive=1", "--set=controller.budget.epochs=1"),
    "--set=controller.budget.steps=1",
)


@pytest.mark.slow
@pytest.mark.parametrize("learner", ["meta_lstm", "snail", "mann", "leo", "hallucinate"])
def test_a_supernet_learns_by_it(db: Path, learner: str) -> None:
    few = ("--set=budget.train_episodes=2", "--set=budget.validation_episodes=2", "--trials=2")
    code, _, err = nas(*RUN, *SMALL, *SUPERNET, *few, *LEARNERS[learner])
    assert code == 0, err


REFUSED = {
    "regression": ("--space=mlp --tasks=sinusoid --learner=snail", ("'snail'", "'maml'")),
    "images for leo": ("--learner=leo", ("learner.end_to_end", "nas export", "features.npz")),
    "a sequence too long": ("--learner=snail --set=learner.length=5", ("learner.length", 5, 6)),
    "a memory too small": ("--learner=mann --set=learner.rows=4", ("learner.rows", 4, 5)),
    "a part longer than the whole": (
        "--learner=learning_to_optimize --set=learner.inner_steps=10",
        ("learner.truncation", "learner.inner_steps", 10, 20),
    ),
    "a gate that is wide open": (
        "--learner=maml --set=learner.update=meta_lstm --set=learner.inner_lr=2",
        ("learner.inner_lr", "meta_lstm"),
    ),
    "no features": ("--space=mlp --tasks=features --learner=leo", ("tasks.path", "nas export")),
    "a supernet of optimizees": (
        " ".join((*SUPERNET, "--learner=learning_to_optimize")),
        ("'learning_to_optimize'", "'maml'"),
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_it_refuses_it_says_in_a_line(db: Path, case: str) -> None:
    arguments, facts = REFUSED[case]
    given = arguments.split()
    space = () if "--space=mlp" in given else SMALL
    trials = "--trials=2"
    code, _, err = nas(*RUN, *space, trials, *given)
    assert code not in (0, 1), err
    assert lacking(err, *facts) == [], err
    assert "Traceback" not in err
    assert json.loads(nas("ls", "-f", "json")[1]) == []


def feasible(space: BackboneSpace, shape: TaskShape) -> nn.Module:
    """Return a network that there is, drawn at random."""
    rng = np.random.default_rng(0)
    while True:
        with suppress(Infeasible):
            return space.build(space.sample(rng), shape)


@pytest.mark.slow
@pytest.mark.parametrize("rule", ["learned_rates", "meta_lstm", "learned_optimizer"])
@pytest.mark.parametrize("space", plugins.installed("space"))
def test_a_learned_rule_adapts_the_networks_of_every_space(space: str, rule: str) -> None:
    shape = TaskShape((1, 28, 28), 3)
    torch.manual_seed(0)
    backbone = feasible(plugins.load("space", space)(), shape)
    learner = Maml(backbone, shape, inner_lr=0.01, order=1, update=plugins.load("update rule", rule))
    episode = Glyphs(ways=3, queries=1).sample("train", 1, np.random.default_rng(0))
    assert np.isfinite(learner.meta_backward(episode))
    found = [p.grad for p in learner.update.parameters()]
    assert all(gradient is not None and gradient.isfinite().all() for gradient in found)
    assert any(gradient.any() for gradient in found)
