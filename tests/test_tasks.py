from __future__ import annotations

import dataclasses
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import platformdirs
import pytest
import torch

from nas import plugins
from nas.tasks import Episode, TaskSource
from nas.tasks.base import SPLITS, class_hash
from nas.tasks.omniglot import Omniglot
from nas.testing.tasks import TaskSourceSuite, draw, same, write_image_folder, write_omniglot


class TestInstalled(TaskSourceSuite):
    """Every installed source; the suite's own small data where one needs data."""

    @pytest.fixture(scope="class", params=sorted(plugins.installed("tasks")))
    @classmethod
    def tasks(cls, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> TaskSource:
        folder: Path = tmp_path_factory.mktemp("data")
        settings: dict[str, Any] = {}
        plugin = plugins.load("tasks", request.param)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(platformdirs, "user_cache_path", lambda name: folder / "cache")
            patch.setenv("NAS_DATA", str(folder))
            if request.param == "omniglot":
                write_omniglot(folder)
            if request.param == "image_folder":
                settings = {"path": str(write_image_folder(folder / "images")), "size": 16, "ways": 4}
            source: TaskSource = plugin(**plugins.resolve(plugin, settings, "tasks"))
        return source


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
