"""Tasks over features in a file."""

import numpy as np
import pytest
from facts import refusal

from nas.errors import ConfigError, DataMissing
from nas.tasks.features import Features
from nas.testing.tasks import TaskSourceSuite, draw

CLASSES = {"train": 6, "validation": 5, "test": 5}


@pytest.fixture
def path(tmp_path):
    """Write features whose first number is that of their class, in no order."""
    rng, rows = np.random.default_rng(0), []
    for number, (split, count) in enumerate(CLASSES.items()):
        for c in range(count):
            rows += [(10 * number + c, f"{split} {c}", split)] * (8 + c)
    rng.shuffle(rows)
    features = rng.normal(size=(len(rows), 5))
    features[:, 0] = [row[0] for row in rows]
    names, splits = (np.array([row[i] for row in rows]) for i in (1, 2))
    path = tmp_path / "features.npz"
    np.savez(path, features=features, classes=names, splits=splits)
    return path


class TestFeatures(TaskSourceSuite):
    @pytest.fixture
    def tasks(self, path):
        return Features(path=str(path), ways=4, shots=2, queries=3, train_ways=5)


def test_rows_are_those_of_their_class_and_split(path):
    tasks = Features(path=str(path), ways=5, shots=2, queries=5)
    assert tasks.shape.input == (5,)
    assert tasks.shape.train_classes == 6
    arrays = dict(np.load(path))
    scale = arrays["features"][arrays["splits"] == "train"].var(0).mean() ** 0.5
    for number, split in enumerate(CLASSES):
        episode = draw(tasks, split)
        for x, count in ((episode.support_x, 2), (episode.query_x, 5)):
            found = scale * x[..., 0].numpy()
            assert np.allclose(found, 10 * number + episode.classes.repeat(count, 1), atol=1e-4)
    np.savez(path, **{**arrays, "features": arrays["features"] ** 3})
    other = Features(path=str(path), ways=5, shots=2, queries=5)
    assert other.fingerprint("test") != tasks.fingerprint("test")


def test_what_is_no_file_of_features_is_refused(path, tmp_path):
    with refusal(DataMissing, "tasks.path", "nas export"):
        Features(path=str(tmp_path / "nowhere.npz"))
    whole = dict(np.load(path))
    broken = {
        "a.npz": {"features": whole["features"]},
        "b.npz": {**whole, "features": whole["features"][1:]},
        "c.npz": {**whole, "splits": np.where(whole["splits"] == "test", "exam", whole["splits"])},
    }
    for name, arrays in broken.items():
        np.savez(tmp_path / name, **arrays)
        with refusal(ConfigError, "tasks.path", name):
            Features(path=str(tmp_path / name))
    (tmp_path / "d.npz").write_text("text")
    with refusal(ConfigError, "tasks.path", "nas export"):
        Features(path=str(tmp_path / "d.npz"))
    with refusal(ConfigError, "tasks.ways", 5):
        Features(path=str(path), ways=6)
