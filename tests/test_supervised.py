from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import platformdirs
import pytest
import torch
from facts import refusal

from nas.controller import SupernetBudget, TrainSupernet
from nas.errors import ConfigError
from nas.evaluator import Job, SupernetJob
from nas.learners.classifier import Classifier
from nas.learners.prototypical import Prototypical
from nas.plugins import resolve
from nas.settings.search import validate
from nas.space import TaskShape
from nas.states import TrialState
from nas.tasks.base import SPLITS
from nas.tasks.glyphs import Glyphs
from nas.tasks.supervised import Supervised
from nas.testing.tasks import TaskSourceSuite, draw, examples, write_image_folder
from nas.testing.toys import Toy
from nas.training.loop import rehearse
from nas.training.oneshot.epochs import train_supernet


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platformdirs, "user_cache_path", lambda name: tmp_path / "cache")


def write(file: Path, examples: int = 200, classes: int = 4, seed: int = 0) -> Path:
    """Write noisy images whose class is the quadrant that is bright."""
    rng = np.random.default_rng(seed)
    y = rng.integers(classes, size=examples)
    x = rng.integers(0, 120, (examples, 1, 6, 6), dtype=np.uint8)
    for image, label in zip(x, y, strict=True):
        image[:, 3 * (label // 2) :, 3 * (label % 2) :][:, :3, :3] += 100
    np.savez(file, x=x, y=y * 10)
    return file


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return write(tmp_path / "squares.npz")


class TestArrays(TaskSourceSuite):
    @pytest.fixture
    def tasks(self, file: Path) -> Supervised:
        return Supervised(path=str(file), batch=5)


class TestFolder(TaskSourceSuite):
    @pytest.fixture
    def tasks(self, tmp_path: Path) -> Supervised:
        return Supervised(path=str(write_image_folder(tmp_path / "birds", 5)), batch=3, size=8)


def test_the_splits_divide_the_examples(file: Path) -> None:
    tasks = Supervised(path=str(file), batch=500)
    parts = [tasks.sample(split, 1, np.random.default_rng(0)) for split in SPLITS]
    assert [part.query_x.shape[1] for part in parts] == [160, 20, 20]
    assert len({example for part in parts for example in examples(part.query_x)}) == 200
    with np.load(file) as archive:
        images, labels = archive["x"], archive["y"] // 10
    for part in parts:
        found = (part.query_x[0] * 255).round().to(torch.uint8).numpy()
        for image, label in zip(found, part.query_y[0], strict=True):
            [at] = np.flatnonzero((images == image).all((1, 2, 3)))
            assert labels[at] == label
    assert tasks.label == "squares, 4 classes"
    assert tasks.shape == TaskShape((1, 6, 6), 4)
    assert tasks.fingerprint("test")[0] == "supervised/squares/test"


def test_the_fingerprint_is_that_of_the_examples(file: Path, tmp_path: Path) -> None:
    first = Supervised(path=str(file)).fingerprint("validation")
    assert first == Supervised(path=str(file), batch=3).fingerprint("validation")
    assert first != Supervised(path=str(file), split_seed=1).fingerprint("validation")
    (tmp_path / "other").mkdir()
    other = write(tmp_path / "other" / "squares.npz", seed=1)
    name, classes = Supervised(path=str(other)).fingerprint("validation")
    assert name == first[0]
    assert classes != first[1]


def test_the_episode_list_sees_each_example_before_any_twice(file: Path) -> None:
    seen = [
        e
        for batch in Supervised(path=str(file), batch=5).episodes("validation", 8)
        for e in examples(batch.query_x)
    ]
    assert len(set(seen[:20])) == len(set(seen[20:])) == 20
    assert seen[:20] != seen[20:]


def test_weights_and_architecture_learn_from_two_halves(file: Path) -> None:
    tasks = Supervised(path=str(file), batch=500)
    whole = set(examples(tasks.sample("train", 1, np.random.default_rng(0)).query_x))
    halves = [
        set(examples(half.sample("train", 1, np.random.default_rng(0)).query_x)) for half in tasks.bilevel()
    ]
    assert [len(half) for half in halves] == [80, 80]
    assert halves[0] | halves[1] == whole
    for half in tasks.bilevel():
        assert half.fingerprint("validation") == tasks.fingerprint("validation")
    few = Glyphs()
    assert few.bilevel() == (few, few)


@pytest.mark.parametrize("layout", ["NCHW", "NHWC", "NHW"])
def test_layouts_are_told_apart(tmp_path: Path, layout: str) -> None:
    channels = 1 if layout == "NHW" else 3
    x = np.random.default_rng(0).integers(0, 256, (20, channels, 4, 6), dtype=np.uint8)
    stored = {"NCHW": x, "NHWC": x.transpose(0, 2, 3, 1), "NHW": x[:, 0]}[layout]
    np.savez(tmp_path / "a.npz", x=stored, y=np.arange(20) % 2)
    tasks = Supervised(path=str(tmp_path / "a.npz"))
    assert tasks.shape.input == (channels, 4, 6)
    drawn = (
        (tasks.sample("test", 1, np.random.default_rng(0)).query_x * 255).round().numpy().astype(np.uint8)[0]
    )
    assert all(any((image == original).all() for original in x) for image in drawn)


def test_bad_data_is_refused(tmp_path: Path) -> None:
    def refused(*facts: object, **arrays: Any) -> None:
        np.savez(tmp_path / "bad.npz", **arrays)
        with refusal(ConfigError, *facts):
            Supervised(path=str(tmp_path / "bad.npz"))

    x, y = np.zeros((20, 1, 4, 4), np.uint8), np.arange(20) % 2
    refused("'y'", "x", x=x)
    refused("float64", [20, 1, 4, 4], "uint8", x=x.astype(float), y=y)
    refused("uint8", [20, 2, 4, 5], x=np.zeros((20, 2, 4, 5), np.uint8), y=y)
    refused("int64", [19], 20, x=x, y=y[:19])
    refused("float64", x=x, y=y.astype(float))
    refused("1 class", x=x, y=y * 0)
    refused("3 examples", x=x[:3], y=y[:3])
    refused(x=x, y=np.array([None] * 20))
    (tmp_path / "text.npz").write_text("no array")
    for name in ("text.npz", "absent.npz", "absent"):
        with refusal(ConfigError, "tasks.path", tmp_path / name):
            Supervised(path=str(tmp_path / name))
    with refusal(ConfigError, "tasks.train", "test"):
        Supervised(path=str(write(tmp_path / "a.npz")), train=0.9, validation=0.1)


def test_the_path_holds_in_any_directory(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(file.parent)
    assert resolve(Supervised, {"path": file.name}, "tasks")["path"] == str(file)


def test_learners_of_tasks_and_of_ordinary_data_are_told_apart(file: Path) -> None:
    space, ordinary, few = Toy(), Supervised(path=str(file)), Glyphs()
    rehearse(space, ordinary, Classifier)
    with refusal(ConfigError, "'prototypical'"):
        rehearse(space, ordinary, Prototypical)
    with refusal(ConfigError, "'classifier'"):
        rehearse(space, few, Classifier)


def configure(file: Path, **changes: Any) -> Any:
    return validate(
        {
            "space": "mlp",
            "controller": "random",
            "tasks": {"name": "supervised", "path": str(file), "batch": 20},
            "learner": {"name": "classifier", "lr": 0.1},
            "budget": {"train_episodes": 150, "validation_episodes": 4},
            "executor": "inline",
            **changes,
        }
    )


def test_a_classifier_learns(file: Path) -> None:
    config = configure(file)
    space, tasks = config.make_space(), config.make_tasks()
    evaluator = config.make_evaluator(config.make_context(space, tasks))
    architecture = space.sample(np.random.default_rng(0))
    *_, outcome = evaluator.evaluate(Job(0, 0, architecture, 0))
    assert outcome.state is TrialState.COMPLETED
    assert outcome.score.value > 0.9  # of four classes
    assert outcome.score.split == "supervised/squares/validation"
    assert outcome.score.normalization == "running"


@pytest.mark.slow
def test_a_supernet_learns_ordinary_data(file: Path) -> None:
    config = configure(file, space={"name": "nasbench201", "channels": 2})
    context = config.make_context(config.make_space(), config.make_tasks())
    budget = SupernetBudget(epochs=2, steps=15, validation_episodes=2)
    proposal = TrainSupernet("nas.testing.oneshot:Noisy", {}, 2, budget)
    *_, last, end = train_supernet(context, SupernetJob(0, 0, proposal, 0))
    assert last.train_episodes == 2 * 15 * 2
    assert {m.metric: m.value for m in last.measurements}["supernet_score"] > 0.8
    assert len(end.derived) == 2


def test_minibatches_are_predicted_one_by_one(file: Path) -> None:
    """Batch statistics of one minibatch stay out of another."""
    tasks = Supervised(path=str(file), batch=7)
    backbone = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(36, 5), torch.nn.BatchNorm1d(5))
    backbone.out_features = 5  # type: ignore[assignment]
    learner = Classifier(backbone, tasks.shape, normalization="transductive").double()
    batch = tasks.sample("train", 3, np.random.default_rng(0))
    batch = type(batch)(
        batch.support_x.double(), batch.support_y, batch.query_x.double(), batch.query_y, 4, 0, batch.classes
    )
    with torch.no_grad():
        alone = torch.cat([learner(one) for one in batch])
        assert torch.allclose(learner(batch), alone, atol=1e-12)
    assert draw(tasks).query_y.shape == (40, 7)
