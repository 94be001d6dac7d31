"""Searches of networks by learners that are put together from slots; what they refuse before one begins."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from command_line import nas
from facts import lacking

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
