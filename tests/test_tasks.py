from __future__ import annotations

import dataclasses
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import platformdirs
import pytest
import torch
from facts import refusal
from grids import rest_slow

from nas import plugins
from nas.errors import ConfigError
from nas.settings.search import validate
from nas.tasks import Episode, TaskSource
from nas.tasks.base import SPLITS, class_hash
from nas.tasks.omniglot import Omniglot
from nas.testing.tasks import TaskSourceSuite, draw, same, write_image_folder, write_omniglot

INSTALLED = sorted(set(plugins.installed("tasks")) - {"supervised"})
"""Those of few-shot tasks; ordinary data has its own tests."""
IMAGES = {"omniglot": 6, "image_folder": 8, "glyphs": 20}
"""Images of the smallest class of each source's training split."""
TRAINING = {"train_ways": 7, "train_shots": 2, "train_queries": 3}
Make = Callable[..., TaskSource]


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory) -> Make:
    """Make an installed source by name and settings; of the suite's own small data where it needs data."""
    folder = tmp_path_factory.mktemp("data")
    write_omniglot(folder)
    required = {
        "image_folder": {"path": str(write_image_folder(folder / "images")), "size": 16, "ways": 4},
        "features": {"path": str(write_features(folder / "features.npz"))},
    }

    def make(name: str, **settings: int) -> TaskSource:
        plugin = plugins.load("tasks", name)
        resolved = plugins.resolve(plugin, required.get(name, {}) | settings, "tasks")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(platformdirs, "user_cache_path", lambda name: folder / "cache")
            patch.setenv("NAS_DATA", str(folder))
            source: TaskSource = plugin(**resolved)
        return source

    return make


def training(name: str) -> dict[str, int]:
    """Settings of training tasks of another size, as far as the source has them."""
    known = plugins.settings(plugins.load("tasks", name))
    return {setting: value for setting, value in TRAINING.items() if setting in known}


def write_features(path: Path, classes: int = 10, rows: int = 20) -> Path:
    """Write random features, so many classes a split; return the file."""
    splits = np.repeat(SPLITS, classes * rows)
    names = np.char.add(splits, np.tile(np.repeat(np.arange(classes), rows), len(SPLITS)).astype(str))
    np.savez(
        path, features=np.random.default_rng(0).normal(size=(len(names), 6)), classes=names, splits=splits
    )
    return path


RESIZED = [name for name in INSTALLED if training(name)]
"""Sources whose training tasks may have another size."""


class TestInstalled(TaskSourceSuite):
    """Every installed source."""

    @pytest.fixture(scope="class", params=INSTALLED)
    @classmethod
    def tasks(cls, request: pytest.FixtureRequest, make: Make) -> TaskSource:
        return make(request.param)


class TestOtherTraining(TaskSourceSuite):
    """Every installed source with training tasks of another size."""

    @pytest.fixture(scope="class", params=rest_slow(RESIZED, ("glyphs", "sinusoid")))
    @classmethod
    def tasks(cls, request: pytest.FixtureRequest, make: Make) -> TaskSource:
        return make(request.param, **training(request.param))


@pytest.mark.slow
class TestOmniglot(TaskSourceSuite):
    """The real data."""

    @pytest.fixture(scope="class", params=["vinyals", "finn"])
    @classmethod
    def tasks(
        cls, request: pytest.FixtureRequest, nas_data: Path, tmp_path_factory: pytest.TempPathFactory
    ) -> TaskSource:
        if not (nas_data / "omniglot").is_dir():
            pytest.skip(f"needs {nas_data / 'omniglot'}")
        cache = tmp_path_factory.getbasetemp() / "cache"
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(platformdirs, "user_cache_path", lambda name: cache)
            return Omniglot(split=request.param)


@pytest.mark.parametrize("name", RESIZED)
def test_training_settings_shape_training_tasks_alone(make: Make, name: str) -> None:
    plain, other = make(name), make(name, **training(name))
    assert (other.shape, other.label) == (plain.shape, plain.label)
    assert [other.fingerprint(split) for split in SPLITS] == [plain.fingerprint(split) for split in SPLITS]
    for split in ("validation", "test"):
        assert same(draw(other, split), draw(plain, split))
        pairs = zip(other.episodes(split, 5), plain.episodes(split, 5), strict=True)
        assert all(same(a, b) for a, b in pairs)
    episode = draw(other)
    assert episode.ways == (0 if episode.regression else 7)
    classes = max(episode.ways, 1)
    assert episode.shots == 2
    assert episode.support_x.shape[1] == classes * 2
    assert episode.query_x.shape[1] == classes * 3
    setting = training(name)
    alike = make(name, **{key.removeprefix("train_"): 2 for key in setting}, **setting)
    assert same(draw(alike), episode)


@pytest.mark.parametrize("name", RESIZED)
def test_each_training_setting_is_as_in_evaluation_until_it_is_set(make: Make, name: str) -> None:
    plain = draw(make(name, queries=2))
    shape = (plain.ways, plain.shots, plain.query_x.shape[1] // max(plain.ways, 1))
    for place, setting in enumerate(TRAINING):
        if setting not in training(name):
            continue
        episode = draw(make(name, queries=2, **{setting: 3}))
        got = (episode.ways, episode.shots, episode.query_x.shape[1] // max(episode.ways, 1))
        assert got == (*shape[:place], 3, *shape[place + 1 :])


@pytest.mark.parametrize("name", IMAGES)
def test_more_images_than_a_class_has_are_refused_by_name(make: Make, name: str) -> None:
    images = IMAGES[name]
    edge = make(name, shots=images - 1, queries=1, train_shots=1, train_queries=images - 1)
    assert draw(edge).query_x.shape[1] == draw(edge).ways * (images - 1)
    for settings, named in [
        ({"shots": images}, f"tasks.shots + tasks.queries: {images} + 5"),
        ({"queries": images}, f"tasks.shots + tasks.queries: 1 + {images}"),
        ({"shots": 10**30, "queries": 1}, f"tasks.shots + tasks.queries: {10**30} + 1"),
        ({"train_shots": images}, f"tasks.train_shots + tasks.queries: {images} + 5"),
        ({"train_queries": images}, f"tasks.shots + tasks.train_queries: 1 + {images}"),
        (
            {"train_shots": 2, "train_queries": images},
            f"tasks.train_shots + tasks.train_queries: 2 + {images}",
        ),
    ]:
        with refusal(ConfigError, named, f"{images} images", "'train'", name):
            make(name, **settings)


@pytest.mark.parametrize(("name", "classes"), [("omniglot", 32), ("image_folder", 16), ("glyphs", 200)])
def test_more_ways_than_a_split_has_classes_are_refused_by_name(make: Make, name: str, classes: int) -> None:
    assert draw(make(name, train_ways=classes)).ways == classes
    for setting, split in (("ways", ()), ("train_ways", ("'train'",))):
        with refusal(ConfigError, f"tasks.{setting}: {classes + 1}", name, *split):
            make(name, **{setting: classes + 1})


@pytest.mark.parametrize("name", RESIZED)
def test_training_settings_are_part_of_what_a_score_depends_on(make: Make, name: str) -> None:
    def hashed(**settings: Any) -> str:
        path = {"path": "images"} if name in ("image_folder", "features") else {}
        tasks = {"name": name} | path | settings
        return validate({"space": "mlp", "controller": "random", "learner": "maml", "tasks": tasks}).settings

    changed = {hashed(**{setting: value}) for setting, value in training(name).items()}
    assert len(changed | {hashed()}) == len(training(name)) + 1
    assert hashed(**dict.fromkeys(training(name))) == hashed()
    with refusal(ConfigError, "tasks.train_shots", 0):
        hashed(train_shots=0)


@pytest.fixture
def episode() -> Episode:
    return draw(plugins.load("tasks", "glyphs")(ways=4, shots=2, queries=3))


def test_iterating_an_episode_yields_its_tasks(episode: Episode) -> None:
    tasks = list(episode)
    assert len(tasks) == len(episode) == 40
    assert all(len(task) == 1 and (task.ways, task.shots) == (4, 2) for task in tasks)
    for name in ("support_x", "support_y", "query_x", "query_y"):
        assert torch.equal(torch.cat([getattr(task, name) for task in tasks]), getattr(episode, name))
    assert np.array_equal(np.concatenate([task.classes for task in tasks]), episode.classes)


@pytest.mark.parametrize(
    ("size", "lengths"), [(1, [1] * 40), (12, [12, 12, 12, 4]), (20, [20, 20]), (40, [40]), (64, [40])]
)
def test_chunks_are_consecutive_views_of_the_tasks(episode: Episode, size: int, lengths: list[int]) -> None:
    chunks = list(episode.chunks(size))
    assert [len(chunk) for chunk in chunks] == lengths
    assert all((chunk.ways, chunk.shots) == (4, 2) for chunk in chunks)
    for name in ("support_x", "support_y", "query_x", "query_y"):
        whole, parts = getattr(episode, name), [getattr(chunk, name) for chunk in chunks]
        assert torch.equal(torch.cat(parts), whole)
        assert {part.untyped_storage().data_ptr() for part in parts} == {whole.untyped_storage().data_ptr()}
    assert np.array_equal(np.concatenate([chunk.classes for chunk in chunks]), episode.classes)
    assert all(np.shares_memory(chunk.classes, episode.classes) for chunk in chunks)


def test_chunks_hold_at_least_one_task(episode: Episode) -> None:
    for size in (0, -1):
        with refusal(ValueError, size):
            next(episode.chunks(size))


def test_an_episode_moves_between_devices(episode: Episode) -> None:
    moved = episode.to(torch.device("meta"))
    tensors = [value for value in vars_of(moved).values() if isinstance(value, torch.Tensor)]
    assert len(tensors) == 4
    assert all(tensor.is_meta for tensor in tensors)
    assert same(episode, episode.to(torch.device("cpu")))


def test_only_real_targets_are_regression(episode: Episode) -> None:
    assert not episode.regression
    assert draw(plugins.load("tasks", "sinusoid")()).regression


def test_the_class_hash_knows_the_names_and_not_their_order() -> None:
    assert class_hash(["b", "a"]) == class_hash(["a", "b"]) == class_hash(iter("ab"))
    assert class_hash(["a", "b"]) != class_hash(["ab"]) != class_hash(["a", "c"])
    assert class_hash([]) == "e3b0c44298fc1c14"


def test_each_split_has_its_own_episode_list() -> None:
    tasks = plugins.load("tasks", "sinusoid")()
    lists = [pickle.dumps(next(iter(tasks.episodes(split, 1))).query_x.numpy()) for split in SPLITS]
    assert len(set(lists)) == len(SPLITS)


def vars_of(episode: Episode) -> dict[str, Any]:
    return {field.name: getattr(episode, field.name) for field in dataclasses.fields(episode)}
