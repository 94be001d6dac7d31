"""One evaluation at a full budget, against a training by hand and against one without an interruption."""

from __future__ import annotations

import itertools
import random
import subprocess
import sys
from collections.abc import Generator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from facts import lacking, refusal
from grids import rest_slow
from torch import Tensor, nn
from torch.nn import functional

from nas.costs import COUNTED, OWN
from nas.errors import NotFound
from nas.evaluation import work
from nas.evaluation.artifacts import folder, locate, store_weights
from nas.evaluation.work import EvaluationJob, Failure, Lost, Report, Scoring, Trainings, Validated
from nas.executors import worker
from nas.learners.base import Learner
from nas.queries.results import NOT_FINITE
from nas.settings.evaluation import EvaluationConfig, validate
from nas.space import TaskShape
from nas.storage.evaluations import Trained
from nas.storage.store import Store
from nas.tasks.base import Episode, Split, TaskSource
from nas.testing.evaluations import claim
from nas.training.checkpoint import VERSIONS, Checkpoint
from nas.training.loop import start
from nas.training.scoring import episode_scores, mean_ci95

BUDGET = {
    "train_episodes": 12,
    "validate_every": 3,
    "patience": 0,
    "validation_episodes": 5,
    "test_episodes": 1000,
}
SINUSOID = {
    "space": "mlp",
    "tasks": {"name": "sinusoid", "shots": 2, "queries": 2},
    "learner": {"name": "maml", "inner_lr": 0.01, "meta_batch": 2},
    "budget": BUDGET,
}


pytestmark = pytest.mark.usefixtures("one_thread")


def configure(**changes: Any) -> EvaluationConfig:
    return validate(SINUSOID | changes)


FEW = 20
"""Test tasks where their number does not matter: fewer than a user may ask for."""


def job(tmp_path: Path, config: EvaluationConfig | None = None, **changes: Any) -> EvaluationJob:
    if config is None:
        config = configure()
        config = config.model_copy(update={"budget": config.budget.model_copy(update={"test_episodes": FEW})})
    asked: dict[str, Any] = {"id": 1, "name": "one", "architecture": "maml", "seed": 0}
    return EvaluationJob(**(asked | {"config": config, "folder": tmp_path} | changes))


def reports(job: EvaluationJob, tasks: TaskSource | None = None) -> Generator[Report, None, None]:
    known = [] if tasks is None else [(job.config.tasks, tasks)]
    return worker.reports(Trainings(known), job)


def ended(found: Sequence[Report]) -> Trained:
    assert isinstance(found[-1], Trained), found[-1]
    return found[-1]


class Logged(TaskSource):
    """Sinusoids that remember which split was asked for."""

    name = "logged"

    def __init__(self, source: TaskSource) -> None:
        self.source, self.asked = source, list[Split]()

    @property
    def shape(self) -> Any:
        return self.source.shape

    @property
    def label(self) -> str:
        return self.source.label

    def sample(self, split: Split, tasks: int, rng: np.random.Generator) -> Episode:
        self.asked.append(split)
        return self.source.sample(split, tasks, rng)

    def fingerprint(self, split: Split) -> tuple[str, str]:
        return self.source.fingerprint(split)


def test_the_test_tasks_are_seen_once_and_last(tmp_path: Path) -> None:
    tasks = Logged(configure().make_tasks())
    ended(list(reports(job(tmp_path), tasks)))
    kinds = [(split, len(list(some))) for split, some in itertools.groupby(tasks.asked)]
    assert kinds[-1] == ("test", FEW)
    assert [split for split, _ in kinds[:-1]] == ["train", "validation"] * 4
    assert {number for split, number in kinds if split == "validation"} == {5}


def test_it_tells_what_the_network_costs(tmp_path: Path) -> None:
    result = ended(list(reports(job(tmp_path))))
    space, shape = configure().make_space(), configure().make_tasks().shape
    counted = space.cost(space.decode("maml"), shape)._asdict()
    assert {name: result.costs[name] for name in COUNTED} == counted
    assert result.costs.keys() == {*OWN}
    assert 0 < result.costs["latency"] < 1
    assert 0 < result.costs["latency_batch"] < 1


def test_before_the_test_tasks_it_says_so(tmp_path: Path) -> None:
    *_, before, last = reports(job(tmp_path))
    assert before == Scoring(FEW)
    assert isinstance(last, Trained)


@pytest.mark.slow
def test_the_scores_are_those_of_the_best_weights(tmp_path: Path) -> None:
    """Trained again step by step, the weights at the best validation give the same scores."""
    config = configure(budget=BUDGET | {"train_episodes": 40, "validate_every": 4})
    found = list(reports(job(tmp_path, config)))
    result = ended(found)
    curve = {
        m.step: m.value
        for r in found
        if isinstance(r, Validated)
        for m in r.measurements
        if m.metric == "validation_score"
    }
    assert result.validation.value == max(curve.values())
    assert result.best_episodes == max(curve, key=lambda step: curve[step])
    assert result.train_episodes == 40
    assert sorted(curve) == list(range(4, 41, 4))

    space, tasks = config.make_space(), config.make_tasks()
    training = start(
        space, space.decode("maml"), tasks, config.make_learner, "auto", config.budget.train_episodes, 0
    )
    list(training.until(result.best_episodes))
    scores = episode_scores(training.learner, tasks, "test", 1000, training.arithmetic)
    assert tuple(scores) == result.scores
    assert (result.test.value, result.test.ci95) == mean_ci95(scores)
    assert result.test.split.endswith("/test")

    saved = torch.load(result.weights.uri, weights_only=True)
    mine = training.learner.state_dict()
    assert saved.keys() == mine.keys()
    assert all(torch.equal(saved[name], mine[name]) for name in mine)


@pytest.mark.slow
@pytest.mark.parametrize("kills", [1, 4])
@pytest.mark.parametrize("patience", [0, 1])
def test_a_training_killed_anywhere_ends_as_if_it_had_not_been(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kills: int, patience: int
) -> None:
    """With a checkpoint after each step and reports in between, left at random and taken up again."""
    monkeypatch.setattr(work, "REPORT_SECONDS", -1.0)
    monkeypatch.setattr(work, "CHECKPOINT_SECONDS", -1.0)
    config = configure(budget=BUDGET | {"patience": patience})
    whole = list(reports(job(tmp_path / "whole", config)))
    chance = random.Random(kills)
    curve: dict[tuple[int, str], float] = {}
    broken = job(tmp_path / "broken", config)
    for last in range(kills + 1):
        torch.manual_seed(last)
        running = reports(broken)
        left = len(whole) if last == kills else chance.randrange(1, 4)
        for report in itertools.islice(running, left):
            if isinstance(report, Validated):
                curve |= {(m.step, m.metric): m.value for m in report.measurements}
        running.close()
    expected = {
        (m.step, m.metric): m.value for r in whole if isinstance(r, Validated) for m in r.measurements
    }
    assert curve == expected
    assert isinstance(report, Trained)
    one, two = replace(report, seconds=0, costs={}), replace(ended(whole), seconds=0, costs={})
    assert replace(one, weights=one.weights) == replace(
        two, weights=replace(two.weights, uri=one.weights.uri)
    )
    assert Path(one.weights.uri).name == Path(two.weights.uri).name


@pytest.mark.slow
def test_a_checkpoint_that_does_not_fit_is_passed_over(tmp_path: Path) -> None:
    asked = job(tmp_path)
    expected = ended(list(reports(job(tmp_path / "whole"))))
    checkpoint = Checkpoint(tmp_path, "one")
    checkpoint.save({"training": {"learner": {"w": torch.zeros(1)}}, "selection": {}})
    assert ended(list(reports(asked))).scores == expected.scores
    good = checkpoint.path.read_bytes()
    for bad in (b"not a checkpoint", b"", good[: len(good) // 2]):
        checkpoint.path.write_bytes(bad)
        assert ended(list(reports(asked))).scores == expected.scores
    assert checkpoint.load() is not None
    assert checkpoint.load({**VERSIONS, "nas": "0.0.1"}) is None


DIES = """
import os, sys
from pathlib import Path
import torch
from nas.training.checkpoint import Checkpoint
from nas.evaluation.artifacts import store_weights

def die_writing(self, content):
    with open(self, "wb") as file:
        file.write(content[: len(content) // 2])
    os._exit(9)

folder, what = Path(sys.argv[1]), sys.argv[2]
if what == "checkpoint":
    Checkpoint(folder, "one").save({"number": 1})
Path.write_bytes = die_writing
if what == "checkpoint":
    Checkpoint(folder, "one").save({"number": 2})
store_weights(folder, "one", {"w": torch.ones(3)})
"""


@pytest.mark.parametrize("what", rest_slow(["checkpoint", "weights"], ["checkpoint"]))
def test_a_process_may_die_while_it_writes(tmp_path: Path, what: str) -> None:
    died = subprocess.run([sys.executable, "-c", DIES, str(tmp_path), what], check=False)
    assert died.returncode == 9
    checkpoint = Checkpoint(tmp_path, "one")
    assert checkpoint.load() == ({"number": 1} if what == "checkpoint" else None)
    assert len(list(tmp_path.rglob("*.part"))) == 1
    checkpoint.remove()
    file = store_weights(tmp_path, "one", {"w": torch.ones(3)})
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [Path(file.uri)]


def test_what_diverges_says_when_and_starts_afresh(tmp_path: Path) -> None:
    learner = {"name": "maml", "inner_lr": 1e30, "inner_steps": 3, "lr": 1e30}
    *_, last = reports(job(tmp_path, configure(learner=learner)))
    assert isinstance(last, Failure)
    assert last.state == "failed"
    assert "Diverged" in last.error
    assert not Checkpoint(tmp_path, "one").path.exists()


class Unsure(Learner):
    """Guesses right on every task, but in evaluation is at a loss on every 400th."""

    name = "unsure"
    regression = True

    def __init__(self, backbone: nn.Module, shape: TaskShape) -> None:
        super().__init__(backbone, shape)
        self.weight = nn.Parameter(torch.zeros(()))
        self.asked = 0

    def forward(self, episode: Episode) -> Tensor:
        self.asked += not self.training
        if episode.regression:
            right = episode.query_y + self.weight
        else:
            right = functional.one_hot(episode.query_y, episode.ways) + self.weight
        if not self.training and self.asked % 400 == 0:
            right[:, 0] = torch.nan
        return right


@pytest.mark.parametrize("tasks", ["glyphs", "sinusoid"])
def test_predictions_that_are_not_finite_count_as_wrong_and_are_told(tmp_path: Path, tasks: str) -> None:
    """No episode is left out; where an error is a number, an infinite one has no mean."""
    config = configure(tasks=tasks, learner=f"{__name__}:Unsure")
    *_, told, last = reports(job(tmp_path, config))
    facts = "2 of 1000 test episodes", "379, 779"
    if tasks == "sinusoid":
        assert isinstance(last, Failure)
        assert lacking(last.error, *facts, "learner.lr") == []
        return
    assert isinstance(told, Lost)
    assert [(m.metric, m.value) for m in told.measurements] == [(NOT_FINITE, 2)]
    assert lacking(told.message, *facts) == []
    assert isinstance(last, Trained)
    assert sorted(last.scores)[:3] == pytest.approx([24 / 25, 24 / 25, 1])
    assert len(last.scores) == 1000


def test_what_cannot_be_built_is_infeasible(tmp_path: Path) -> None:
    config = configure(space="nasbench201", tasks="glyphs", learner="prototypical")
    nothing = "|none~0|+|none~0|none~1|+|none~0|none~1|none~2|"
    [last] = reports(job(tmp_path, config, architecture=nothing))
    assert isinstance(last, Failure)
    assert last.state == "infeasible"


# Files


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("sqlite:////data/results/nas.db", "/data/results/nas-artifacts"),
        ("sqlite:///nas.db", "nas-artifacts"),
        ("sqlite:///sub/mine.sqlite", "sub/mine-artifacts"),
        ("sqlite://", "nas-artifacts"),
        ("postgresql://me@host/nas", "nas-artifacts"),
    ],
)
def test_files_lie_beside_the_database(
    url: str, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert folder(url) == tmp_path / expected
    assert folder(url, Path("here")) == tmp_path / "here"


def test_weights_are_found_where_they_were_moved_and_known_by_their_hash(
    tmp_path: Path, store: Store
) -> None:
    result = ended(list(reports(job(tmp_path / "old"))))
    row = claim(store)
    store.evaluations.complete(row.id, result)
    [weights] = store.evaluations.artifacts(row.id)
    assert locate(weights, tmp_path / "nowhere") == Path(result.weights.uri)
    (tmp_path / "old").rename(tmp_path / "new")
    moved = locate(weights, tmp_path / "new")
    assert moved.is_relative_to(tmp_path / "new")
    with refusal(NotFound, result.weights.uri, "--artifacts"):
        locate(weights, tmp_path / "nowhere")
    moved.write_bytes(moved.read_bytes()[:-1])
    with refusal(NotFound, "sha256"):
        locate(weights, tmp_path / "new")


def test_another_state_of_the_code_is_told_by_its_hash(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    package = tmp_path / "anothers"
    package.mkdir()
    (package / "__init__.py").write_text("")

    def code(space: str) -> str:
        work._of_package.cache_clear()
        return work.code(configure(space=space))

    ours = code("mlp")
    assert code("mlp") == ours
    class_of_theirs = "class Space(Mlp):\n    name = 'theirs'\n"
    (package / "theirs.py").write_text(f"from search_spaces.mlp import Mlp\n{class_of_theirs}")
    theirs = code("anothers.theirs:Space")
    assert theirs != ours
    (package / "helper.py").write_text("# what it may import\n")
    assert code("anothers.theirs:Space") != theirs
    assert code("mlp") == ours
