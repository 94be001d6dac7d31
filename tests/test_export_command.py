"""The `nas evaluate` that `nas export` prints does in a shell what was asked for."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pytest
from command_line import nas

from nas.errors import NotFound
from nas.evaluation.driver import EvaluationDriver
from nas.evaluation.targets import Target, Targets
from nas.states import EvaluationState
from nas.storage.store import Store
from nas.testing.evaluations import claim

BUDGET = {"train_episodes": 40, "patience": 0, "test_episodes": 2000}
MAML = {"name": "maml", "inner_lr": 0.02, "order": 1}


@pytest.fixture
def searched(db: Path) -> Path:
    """A database with a search of one trial."""
    search = ["--space=chain", "--tasks=glyphs", "--learner=prototypical", "--executor=inline", "--name=s"]
    search += ["--controller=fixed", '--set=controller.architectures=["conv4"]', "--trials=1"]
    search += ["--set=tasks.shots=2", "--set=learner.lr=0.01", "--set=space.downsample=pool"]
    search += ["--evaluator=nas.testing.evaluators:Scripted", "--set=resources.precision=float32"]
    code, _, err = nas("run", *search)
    assert code == 0, err
    return db


def failed(db: Path, text: str, values: dict[str, Any]) -> Target:
    """Record the evaluation of a target under changed sections that failed; return the target."""
    with Store(f"sqlite:///{db}", create=True) as store:
        [target] = Targets(store, lambda given: given.update(values)).choose([text])
        row = claim(
            store,
            architecture=target.architecture,
            key=target.key,
            space=target.space,
            settings=target.settings,
            seed=1,
            config=target.config.model_dump(mode="json"),
        )
        store.evaluations.fail(row.id, EvaluationState.FAILED, "no")
    return target


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("s/0", {"budget": BUDGET}),
        ("s/0", {"tasks": {"name": "glyphs", "ways": 3, "shots": 1}, "learner": MAML}),
        ("s/0", {"precision": "bfloat16"}),
        ("s/0", {"space": {"name": "chain", "layers": 4, "channels": [64, 8], "downsample": "stride"}}),
        ("mlp:20-0-0-tanh", {"tasks": {"name": "sinusoid", "shots": 3}, "learner": MAML, "budget": BUDGET}),
        ("conv4", {"tasks": "glyphs", "learner": "prototypical"}),
    ],
    ids=["budget", "plugins", "precision", "space", "architecture", "name"],
)
def test_the_command_printed_gives_the_same_settings(
    searched: Path, monkeypatch: pytest.MonkeyPatch, text: str, values: dict[str, Any]
) -> None:
    target = failed(searched, text, values)
    code, _, err = nas("export", text, "-o", "m.pt")
    command = shlex.split(err.rpartition("Go on: ")[2].strip().strip("`"))
    assert (code, command[:3]) == (3, ["nas", "evaluate", text])
    seen: list[Any] = []

    def caught(self: EvaluationDriver, targets: Any, seeds: int, executor: Any) -> None:
        seen.append(([target.identity for target in targets], seeds))
        raise NotFound("seen enough")

    monkeypatch.setattr(EvaluationDriver, "run", caught)
    nas(*command[1:])
    assert seen == [([target.identity], 2)]
