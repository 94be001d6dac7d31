"""`nas score`: trained weights on other tasks, and what is said of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command_line import nas as run
from PIL import Image

import nas
from nas.evaluation.artifacts import store_weights
from nas.export.files import save
from nas.export.model import Model
from nas.export.source import describe
from nas.learners.base import query_scores
from nas.settings.sections import maker
from nas.storage.store import Store
from nas.testing.evaluations import claim, trained

pytestmark = pytest.mark.usefixtures("one_thread")

CHAIN = {"name": "chain", "layers": 1, "channels": [4]}
GLYPHS = {"name": "glyphs", "queries": 2}


def export(folder: Path, learner: str, suffix: str = ".pt", **tasks: Any) -> Path:
    """Write a learner with its first weights, as an evaluation would have trained it."""
    from nas.settings.evaluation import validate

    values = {"space": CHAIN, "tasks": GLYPHS | tasks, "learner": learner, "precision": "float32"}
    config = validate(values)
    source = config.make_tasks()
    with Store(f"sqlite:///{folder}/exported.db", create=True) as store:
        row = claim(store, key=learner, config=config.model_dump(mode="json"), architecture="3x3/2:4")
        torch.manual_seed(1)
        space = config.make_space()
        made = config.make_learner(space.build(space.decode("3x3/2:4"), source.shape), source.shape)
        weights = store_weights(folder, learner, made.state_dict())
        store.evaluations.complete(row.id, trained(weights=weights))
        description = describe(store.evaluations.get(row.id))
    save(Model(description, made.state_dict()), path := folder / f"{learner}{suffix}")
    return path


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Four classes of dark strokes on white, of 40×30 pixels in colour, seen by nobody."""
    rng = np.random.default_rng(0)
    for name in range(4):
        folder = tmp_path / "images" / f"class{name}"
        folder.mkdir(parents=True)
        for number in range(4):
            pixels = np.full((40, 30, 3), 250, np.uint8)
            rows, columns = rng.integers(8, 30, 60), rng.integers(8, 22, 60)
            pixels[rows, columns] = 10
            Image.fromarray(pixels).save(folder / f"{number}.png")
    return tmp_path / "images"


def test_ones_own_images_are_scored_by_a_file(tmp_path: Path, images: Path) -> None:
    file = export(tmp_path, "prototypical")
    setting = [
        f"--set=tasks.path={images}",
        "--set=tasks.ways=3",
        "--set=tasks.shots=2",
        "--set=tasks.queries=1",
    ]
    asked = ["score", str(file), "--tasks=image_folder", *setting, "--episodes=20", "-f", "json"]
    code, out, err = run(*asked)
    assert code == 0, err
    [row] = json.loads(out)
    loaded = nas.load(file)
    source = maker(
        "tasks",
        {
            "name": "image_folder",
            "path": str(images),
            "ways": 3,
            "shots": 2,
            "queries": 1,
            "size": 28,
            "grayscale": True,
            "splits": "test",
        },
    )()
    with torch.no_grad():
        by_hand = [
            float(query_scores(loaded.learner(episode), episode)) for episode in source.episodes("test", 20)
        ]
    assert row["score"] == pytest.approx(np.mean(by_hand))
    assert row["ci95"] == pytest.approx(1.96 * np.std(by_hand, ddof=1) / 20**0.5, rel=1e-3)
    assert (row["split"], row["classes"]) == source.fingerprint("test")
    assert row["test_score"] == loaded.description.test.score
    assert run(*asked)[1] == out  # the same list of episodes
    assert err.count("warning: ") == 1  # glyphs are bright strokes on black
    assert not (tmp_path / "nas.db").exists()


def test_it_says_what_it_does_while_it_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = []

    @contextmanager
    def counting(episodes: int) -> Iterator[Callable[[], None]]:
        yield lambda: done.append(episodes)

    file = str(export(tmp_path, "prototypical"))
    first = run("score", file, "--episodes=3")[2].splitlines()[0]
    for words in (file, "prototypical", "glyphs 5-way 1-shot", "3 episodes", "--episodes"):
        assert words in first
    monkeypatch.setattr("nas.cli.score.counting", counting)
    assert run("score", file, "--episodes=3")[0] == 0
    assert done == [3, 3, 3]


def test_an_interrupt_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("nas.export.transfer.transfer", interrupted)
    code, out, err = run("score", str(export(tmp_path, "prototypical")), "--episodes=3")
    assert (code, out) == (130, "")
    assert "--episodes" in err.splitlines()[-1]


def test_ways_may_differ_where_the_learner_compares(tmp_path: Path, images: Path) -> None:
    for learner in ("prototypical", "matching", "relation"):
        assert (
            run("score", str(export(tmp_path, learner, ".json")), "--set=tasks.ways=3", "--episodes=2")[0]
            == 0
        )
    maml = str(export(tmp_path, "maml"))
    assert run("score", maml, "--set=tasks.shots=2", "--episodes=2")[0] == 0
    code, _, err = run("score", maml, "--set=tasks.ways=3", "--episodes=2")
    assert (code, "tasks.ways=5" in err) == (2, True)


def test_what_does_not_fit_is_refused(tmp_path: Path, images: Path) -> None:
    file = str(export(tmp_path, "prototypical"))
    folder = [
        "--tasks=image_folder",
        f"--set=tasks.path={images}",
        "--set=tasks.ways=2",
        "--set=tasks.queries=1",
    ]
    for wrong in (
        [*folder, "--set=tasks.size=20"],
        ["--tasks=sinusoid"],
        ["--set=learner.lr=1"],
        ["--set=tasks.wayz=2"],
        ["--tasks=image_folder"],
        ["--tasks=nothing"],
    ):
        assert run("score", file, *wrong, "--episodes=2")[0] == 2, wrong
    assert run("score", str(tmp_path / "none.pt"))[0] == 3
    assert run("score", str(tmp_path / "model.onnx"))[0] == 2


def test_classes_that_the_training_has_seen_are_no_test(tmp_path: Path, images: Path) -> None:
    for name in range(4, 12):
        (images / f"class{name}").mkdir()
        for number in range(4):
            Image.new("L", (8, 8), 20 * name).save(images / f"class{name}" / f"{number}.png")
    own = {
        "name": "image_folder",
        "path": str(images),
        "size": 28,
        "grayscale": True,
        "ways": 2,
        "queries": 1,
    }
    file = str(export(tmp_path, "prototypical", **own))
    assert run("score", file, "--set=tasks.shots=2", "--episodes=2")[0] == 0
    code, _, err = run("score", file, "--set=tasks.split_seed=1", "--episodes=2")
    assert (code, "class" in err) == (2, True)


def test_what_was_evaluated_needs_no_file(db: Path) -> None:
    file = export(db.parent, "prototypical")
    [row] = json.loads(run("score", str(file), "--episodes=3", "-f", "json")[1])
    at = f"--db=sqlite:///{db.parent}/exported.db"
    code, out, err = run("score", "chain:3x3/2:4", "--episodes=3", "-f", "json", at)
    assert code == 0, err
    assert json.loads(out) == [row | {"model": "chain:3x3/2:4"}]
    assert run("score", "chain:conv4", at)[0] == 3  # it was never evaluated
