"""Features of a trained network as a file, and the tasks over them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from facts import refusal
from small_models import IMAGE, described, glyphs, trained

import nas
from nas.errors import ConfigError
from nas.export import save
from nas.tasks.base import SPLITS
from nas.tasks.features import Features

pytestmark = pytest.mark.usefixtures("one_thread")


def test_features_are_those_of_the_network(tmp_path: Path) -> None:
    running = {"name": "prototypical", "normalization": "running"}
    model, learner = trained(described(glyphs().shape, learner=running, normalization="running"))
    save(model, tmp_path / "features.npz")
    save(model, tmp_path / "model.pt")
    with np.load(tmp_path / "features.npz") as file:
        features, classes, splits = (file[name] for name in ("features", "classes", "splits"))
    network, seen = nas.load(tmp_path / "model.pt").network, 0
    for split in SPLITS:
        for name, images in list(glyphs().examples(split))[:3]:
            rows = features[(classes == name) & (splits == split)]
            with torch.no_grad():
                assert np.allclose(rows, network(images)[0], atol=1e-5)
            seen += 1
        assert set(classes[splits == split]) == glyphs().members(split)
    assert seen == 9
    tasks = Features(path=str(tmp_path / "features.npz"), queries=3)
    assert tasks.shape.input == (learner.backbone.out_features,)
    assert all(tasks.members(split) == glyphs().members(split) for split in SPLITS)


def test_features_that_depend_on_the_batch_are_refused(tmp_path: Path) -> None:
    model, _ = trained(described(glyphs().shape))
    with refusal(ConfigError, "learner.normalization=running", "transductive"):
        save(model, tmp_path / "features.npz")
    assert list(tmp_path.iterdir()) == []
    running = {"name": "prototypical", "normalization": "running"}
    waves = {"name": "sinusoid"}
    model, _ = trained(described(IMAGE, learner=running, normalization="running", tasks=waves))
    with refusal(ConfigError, "tasks", "sinusoid"):
        save(model, tmp_path / "features.npz")
