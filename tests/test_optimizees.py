"""Trainings on digits."""

import sys

import pytest
from facts import refusal

from nas.errors import ConfigError
from nas.tasks.base import SPLITS
from nas.testing.tasks import TaskSourceSuite, draw

pytest.importorskip("sklearn")

from nas.tasks.optimizees import Optimizees


class TestOptimizees(TaskSourceSuite):
    @pytest.fixture
    def tasks(self):
        return Optimizees(ways=4, shots=5, queries=3)


def test_every_split_has_all_digits_and_images_of_its_own():
    tasks = Optimizees(shots=40, queries=15)
    assert tasks.shape.input == (64,)
    assert tasks.shape.outputs == 10
    for split in SPLITS:
        episode = draw(tasks, split)
        assert sorted(episode.classes[0].tolist()) == list(range(10))
        assert episode.query_x.min() >= 0
        assert episode.query_x.max() == 1


def test_what_it_cannot_draw_is_refused(monkeypatch):
    with refusal(ConfigError, "tasks.shots", "tasks.queries"):
        Optimizees(shots=60)
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with refusal(ConfigError, "nas-service[surrogate]"):
        Optimizees()
