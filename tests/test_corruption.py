"""Training examples made worse on purpose, and those that are known to be right."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import nas
from facts import refusal

from nas.errors import ConfigError
from nas.plugins import resolve
from nas.tasks.base import SPLITS, Episode
from nas.tasks.corruption import hold_out, long_tail, mislabelled
from nas.tasks.supervised import Supervised
from nas.testing.tasks import TaskSourceSuite, examples

CLASSES = 4
WORSE: dict[str, Any] = {"clean": 3, "noise": "uniform", "noise_rate": 0.5, "imbalance": 5.0}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Write images, no two the same, whose first pixel is the label."""
    rng = np.random.default_rng(0)
    y = np.arange(400) % CLASSES
    x = rng.integers(0, 255, (400, 1, 4, 4), dtype=np.uint8)
    x[:, 0, 0, 0] = y
    np.savez(tmp_path / "numbers.npz", x=x, y=y)
    return tmp_path / "numbers.npz"


class TestWorse(TaskSourceSuite):
    @pytest.fixture
    def tasks(self, file: Path) -> Supervised:
        return Supervised(path=str(file), batch=5, **WORSE)


def true(batch: Episode) -> np.ndarray[Any, Any]:
    return np.asarray((batch.query_x[0, :, 0, 0, 0] * 255).round().long())


def whole(tasks: Supervised, split: Any = "train") -> Episode:
    return tasks.sample(split, 1, np.random.default_rng(0))


def test_clean_examples_are_right_and_apart(file: Path) -> None:
    tasks = Supervised(path=str(file), batch=500, **WORSE)
    batch = whole(tasks)
    assert batch.clean is not None
    assert np.bincount(batch.clean.query_y[0]).tolist() == [3] * CLASSES
    assert (true(batch.clean) == batch.clean.query_y[0].numpy()).all()
    assert not set(examples(batch.clean.query_x)) & set(examples(batch.query_x))
    seen = tasks.members("train")
    assert len(seen) == batch.query_x.shape[1] + 3 * CLASSES
    for split in ("validation", "test"):
        other = whole(tasks, split)
        assert other.clean is None
        assert (true(other) == other.query_y[0].numpy()).all()
        assert not seen & tasks.members(split)
    few = Supervised(path=str(file), batch=5, **WORSE).sample("train", 2, np.random.default_rng(0))
    assert few.clean is not None
    assert few.clean.query_y.shape == (2, 5)
    assert [part.clean.query_y.shape for part in few if part.clean] == [(1, 5)] * 2
    assert next(tasks.episodes("train", 1)).clean is not None


def test_the_audit_knows_the_wrong_labels(file: Path) -> None:
    tasks = Supervised(path=str(file), batch=500, **WORSE)
    numbers, wrong = tasks.wrong()
    batch = tasks.minibatches(numbers[None])
    assert ((true(batch) != batch.query_y[0].numpy()) == wrong).all()
    assert wrong.any()
    assert not Supervised(path=str(file)).wrong()[1].any()


def test_what_is_not_asked_for_changes_nothing(file: Path) -> None:
    plain, worse = Supervised(path=str(file)), Supervised(path=str(file), **WORSE)
    for split in ("validation", "test"):
        assert plain.fingerprint(split) == worse.fingerprint(split)
        assert plain.members(split) == worse.members(split)
    assert plain.fingerprint("train") != worse.fingerprint("train")
    assert plain.label == "numbers, 4 classes"
    assert all(what in worse.label for what in ("3", "clean", "50%", "uniform", "5"))
    assert (
        resolve(Supervised, {"path": str(file)}, "tasks").items()
        >= {
            "clean": 0,
            "noise": None,
            "noise_rate": None,
            "imbalance": 1.0,
        }.items()
    )


def test_it_follows_from_the_seed(file: Path) -> None:
    def drawn(**changes: Any) -> tuple[str, str]:
        return Supervised(path=str(file), **{**WORSE, **changes}).fingerprint("train")

    assert drawn() == drawn()
    assert drawn() != drawn(split_seed=1)
    assert drawn() != drawn(noise="flip")


def matrix(kind: Any, rate: float) -> np.ndarray[Any, Any]:
    """Return the share of examples of each class (row) that carry each label."""
    labels, classes = np.repeat(np.arange(5), 20_000), 5
    found = mislabelled(labels, np.arange(len(labels)), classes, kind, rate, np.random.default_rng(0))
    counts = np.zeros((classes, classes))
    np.add.at(counts, (labels, found), 1)
    return counts / 20_000


def test_uniform_noise_is_p_over_c_and_what_is_left_of_one() -> None:
    expected = 0.4 / 5 + 0.6 * np.eye(5)
    assert matrix("uniform", 0.4) == pytest.approx(expected, abs=0.012)  # 3.5 standard deviations


def test_flip_noise_goes_to_one_other_class() -> None:
    found = matrix("flip", 0.4)
    assert np.diag(found) == pytest.approx(np.full(5, 0.6), abs=0.012)
    assert (np.sort(found, axis=1)[:, :3] == 0).all()
    assert np.diag(matrix("flip", 1.0)).tolist() == [0] * 5


def test_other_examples_keep_their_labels() -> None:
    labels = np.arange(100) % 4
    found = mislabelled(labels, np.arange(50), 4, "flip", 1.0, np.random.default_rng(0))
    assert (found[:50] != labels[:50]).all()
    assert (found[50:] == labels[50:]).all()


@pytest.mark.parametrize(
    ("factor", "expected"), [(1.0, [100] * 3), (100.0, [100, 10, 1]), (4.0, [100, 50, 25])]
)
def test_a_long_tail_is_exponential(factor: float, expected: list[int]) -> None:
    labels = np.concatenate([np.full(120, 0), np.full(100, 1), np.full(130, 2)])
    kept = long_tail(labels, np.arange(350), 3, factor, np.random.default_rng(0))
    assert np.bincount(labels[kept]).tolist() == expected
    assert (np.diff(kept) > 0).all()


def test_held_out_examples_leave_the_others_in_order() -> None:
    labels, order = np.arange(40) % 4, np.random.default_rng(1).permutation(40)
    chosen, left = hold_out(labels, order, 4, 2, np.random.default_rng(0))
    assert np.bincount(labels[chosen]).tolist() == [2] * 4
    assert left.tolist() == [number for number in order if number not in set(chosen)]


@pytest.mark.parametrize(
    ("settings", "facts"),
    [
        ({"clean": 100}, ("tasks.clean", "class")),
        ({"noise": "flip"}, ("tasks.noise", "tasks.noise_rate")),
        ({"noise_rate": 0.2}, ("tasks.noise_rate", "tasks.noise")),
        ({"imbalance": 1e4}, ("tasks.imbalance", "last")),
        ({"clean": 5, "imbalance": 90.0}, ("tasks.imbalance", "last")),
    ],
)
def test_what_cannot_be_is_refused(file: Path, settings: dict[str, Any], facts: tuple[str, ...]) -> None:
    with refusal(ConfigError, *facts):
        Supervised(path=str(file), **settings)


@pytest.mark.parametrize(
    ("setting", "value"),
    [("clean", -1), ("noise", "some"), ("noise_rate", 1.2), ("noise_rate", -0.1), ("imbalance", 0.5)],
)
def test_what_is_out_of_range_is_refused(file: Path, setting: str, value: object) -> None:
    with refusal(ConfigError, f"tasks.{setting}"):
        resolve(Supervised, {"path": str(file), setting: value}, "tasks")


def test_a_clean_image_that_training_has_too_is_refused(tmp_path: Path) -> None:
    x = np.zeros((200, 1, 3, 3), np.uint8)
    x[:, 0, 0, 0] = np.arange(200) // 2
    np.savez(tmp_path / "twice.npz", x=x, y=np.arange(200) // 2 % 2)
    with refusal(ConfigError, "tasks.clean", "twice"):
        Supervised(path=str(tmp_path / "twice.npz"), clean=5)


def test_noise_needs_two_classes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from nas.testing.tasks import write_image_folder

    folder = write_image_folder(tmp_path / "one", 1)
    with refusal(ConfigError, "tasks.noise", "one class"):
        Supervised(path=str(folder), size=8, noise="flip", noise_rate=0.5)


@pytest.mark.parametrize("weighting", ["learning_to_reweight", "meta_weight_net"])
def test_a_search_without_clean_examples_ends_before_its_first_trial(file: Path, weighting: str) -> None:
    code, out, err = nas(
        *("run", "--controller=random", "--executor=inline", "--space=mlp", "--tasks=supervised"),
        *(f"--set=tasks.path={file}", "--learner=classifier", f"--set=learner.weighting={weighting}"),
    )
    assert (code, out) == (2, "")
    assert "Traceback" not in err
    assert "learner.weighting" in err
    assert "tasks.clean" in err


def test_splits_still_divide_what_there_is(file: Path) -> None:
    tasks = Supervised(path=str(file), clean=2)
    members = [tasks.members(split) for split in SPLITS]
    assert sum(map(len, members)) == len(frozenset.union(*members)) == 400
