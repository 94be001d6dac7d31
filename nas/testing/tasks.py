"""What every task source promises, as a suite of tests; and miniature data sets to try one with."""

from __future__ import annotations

import inspect
import io
import pickle
import random
import zipfile
from abc import ABC, abstractmethod
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from nas.tasks.base import SPLITS, Episode, Split, TaskSource
from nas.tasks.images import Pixels

TASKS = 40
"""Tasks drawn where one is too few to tell."""

REPEATS = 0.002
"""Share of examples that a task may hold twice: real data have a few duplicates (Omniglot, Braille's dot)."""

IN_BAND = 1 << 20
"""Bytes that a pickled source may take besides its arrays, which Ray shares instead of copying."""

each_split = pytest.mark.parametrize("split", SPLITS)


class TaskSourceSuite(ABC):
    """Tests that every task source passes, few-shot or ordinary. Inherit it and say how yours is made.

    class TestMine(TaskSourceSuite):
        @pytest.fixture
        def tasks(self):
            return Mine(ways=5)
    """

    @abstractmethod
    def tasks(self) -> TaskSource:
        """Fixture: the source."""

    def test_settings_are_keyword_only_arguments(self, tasks: TaskSource) -> None:
        """Its constructor takes settings alone, among them shots, queries and, where it classifies, ways."""
        parameters = inspect.signature(type(tasks)).parameters
        assert all(parameter.kind is parameter.KEYWORD_ONLY for parameter in parameters.values())
        if draw(tasks).shots:
            assert {"shots", "queries"} <= set(parameters)
            assert "ways" in parameters or not draw(tasks).ways

    def test_it_has_a_name_and_a_label(self, tasks: TaskSource) -> None:
        """The name can be typed on a command line; the label says how many shots."""
        assert tasks.name.isidentifier()
        assert tasks.label.isprintable()
        assert all(remark.isprintable() for remark in tasks.remarks)
        shots = draw(tasks, "test").shots
        assert f"{shots}-shot" in tasks.label or not shots

    @each_split
    @pytest.mark.parametrize("count", [1, 3])
    def test_an_episode_has_the_shapes_it_names(self, tasks: TaskSource, split: Split, count: int) -> None:
        """Inputs and targets have the shapes and types that `Episode` describes, class by class."""
        episode = tasks.sample(split, count, np.random.default_rng(0))
        assert len(episode) == count
        for x in (episode.support_x, episode.query_x):
            assert x.dtype is torch.float32
            assert x.shape[2:] == tasks.shape.input
            assert x.isfinite().all()
        assert episode.classes.shape == (count, episode.ways)
        if episode.regression:
            assert episode.ways == 0
            assert episode.support_x.shape[:2] == (count, episode.shots)
            assert episode.support_y.shape == (*episode.support_x.shape[:2], tasks.shape.outputs)
            assert episode.query_y.shape == (*episode.query_x.shape[:2], tasks.shape.outputs)
            assert episode.support_y.dtype is episode.query_y.dtype is torch.float32
        else:
            assert episode.ways == tasks.shape.outputs or (split == "train" and episode.shots)
            assert episode.support_x.shape[:2] == episode.support_y.shape
            assert episode.query_x.shape[:2] == episode.query_y.shape
            if not episode.shots:
                assert episode.support_x.shape[1] == 0
                assert episode.query_y.dtype is torch.int64
                assert 0 <= int(episode.query_y.min()) <= int(episode.query_y.max()) < episode.ways
                return
            labels = torch.arange(episode.ways)
            queries = episode.query_x.shape[1] // episode.ways
            assert torch.equal(episode.support_y, labels.repeat_interleave(episode.shots).repeat(count, 1))
            assert torch.equal(episode.query_y, labels.repeat_interleave(queries).repeat(count, 1))

    @each_split
    def test_a_task_has_distinct_classes_in_random_order(self, tasks: TaskSource, split: Split) -> None:
        """No class appears twice in a task, and labels are assigned at random."""
        episode = draw(tasks, split)
        if episode.regression or not episode.shots:
            pytest.skip("only few-shot tasks draw classes")
        assert all(len(set(row)) == episode.ways for row in episode.classes.tolist())
        assert episode.classes.min() >= 0
        assert any(row != sorted(row) for row in episode.classes.tolist())

    @each_split
    def test_a_task_repeats_no_example(self, tasks: TaskSource, split: Split) -> None:
        """Neither set repeats an example, and no query is in the support set."""
        drawn = repeated = 0
        for task in draw(tasks, split):
            both = examples(task.support_x) + examples(task.query_x)
            drawn += len(both)
            repeated += len(both) - len(set(both))
        assert repeated <= REPEATS * drawn

    def test_splits_share_no_example(self, tasks: TaskSource) -> None:
        """What a network is tested on has not been seen in training."""
        if draw(tasks).regression:
            pytest.skip("regression has no classes to keep apart")
        seen: dict[bytes, Split] = {}
        for split in SPLITS:
            episode = draw(tasks, split)
            for example in examples(episode.support_x) + examples(episode.query_x):
                assert seen.setdefault(example, split) == split

    def test_splits_share_no_member(self, tasks: TaskSource) -> None:
        """Nor any class, or example, by its name; and the training classes are as many as are told."""
        members = [tasks.members(split) for split in SPLITS]
        assert len(frozenset().union(*members)) == sum(map(len, members))
        if tasks.shape.train_classes is not None:
            assert draw(tasks, "train").classes.max() < tasks.shape.train_classes

    def test_the_generator_alone_decides(self, tasks: TaskSource) -> None:
        """Equal generators draw equal tasks, whatever the global generators hold."""
        first = scrambled(tasks, 1)
        assert same(first, scrambled(tasks, 2))
        assert not same(first, draw(tasks, seed=1))

    def test_tasks_of_a_batch_differ(self, tasks: TaskSource) -> None:
        """The tasks drawn at once are independent."""
        episode = draw(tasks)
        assert len(set(examples(episode.query_x.flatten(1)[None]))) == len(episode)

    def test_sampling_leaves_the_global_generators_alone(self, tasks: TaskSource) -> None:
        """Nothing is drawn from the global generators."""
        before = random.getstate(), torch.get_rng_state()
        draw(tasks)
        assert random.getstate() == before[0]
        assert torch.equal(torch.get_rng_state(), before[1])

    @each_split
    def test_the_episode_list_is_fixed(self, tasks: TaskSource, split: Split) -> None:
        """Every trial is scored on the same episodes; a shorter list is a prefix."""
        episodes = list(tasks.episodes(split, 8))
        assert [len(episode) for episode in episodes] == [1] * 8
        draw(tasks, split)
        shorter = tasks.episodes(split, 5)
        assert all(same(a, b) for a, b in zip(islice(episodes, 5), shorter, strict=True))
        elsewhere = pickle.loads(pickle.dumps(tasks)).episodes(split, 8)
        assert all(same(a, b) for a, b in zip(episodes, elsewhere, strict=True))

    def test_it_travels_to_workers_without_copying_its_arrays(self, tasks: TaskSource) -> None:
        """It pickles with its arrays out of band and works when they come back read-only."""
        buffers: list[pickle.PickleBuffer] = []
        pickled = pickle.dumps(tasks, protocol=5, buffer_callback=buffers.append)
        assert len(pickled) < IN_BAND
        read_only = [memoryview(buffer.raw()).toreadonly() for buffer in buffers]
        assert same(draw(pickle.loads(pickled, buffers=read_only)), draw(tasks))

    def test_the_fingerprint_tells_splits_apart(self, tasks: TaskSource) -> None:
        """Each split has its own name and its own classes, the same in every process."""
        prints = [tasks.fingerprint(split) for split in SPLITS]
        assert [name.rpartition("/")[2] for name, _ in prints] == list(SPLITS)
        assert len({name for name, _ in prints}) == len(SPLITS)
        if not draw(tasks).regression:
            assert len({classes for _, classes in prints}) == len(SPLITS)
        copy = pickle.loads(pickle.dumps(tasks))
        assert [copy.fingerprint(split) for split in SPLITS] == prints


def draw(tasks: TaskSource, split: Split = "train", seed: int = 0) -> Episode:
    """Draw a batch of tasks."""
    return tasks.sample(split, TASKS, np.random.default_rng(seed))


def scrambled(tasks: TaskSource, seed: int) -> Episode:
    """Draw a batch of tasks with the global generators in the state that `seed` gives them."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    torch.manual_seed(seed)
    try:
        return draw(tasks)
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])  # noqa: NPY002
        torch.set_rng_state(states[2])


def same(a: Episode, b: Episode) -> bool:
    """Return whether two episodes are equal, number for number."""
    tensors = ("support_x", "support_y", "query_x", "query_y")
    return (
        (a.ways, a.shots) == (b.ways, b.shots)
        and np.array_equal(a.classes, b.classes)
        and all(torch.equal(getattr(a, name), getattr(b, name)) for name in tensors)
    )


def examples(x: torch.Tensor) -> list[bytes]:
    """Return each example of `[tasks, examples, ...]` as bytes."""
    return [example.numpy().tobytes() for task in x for example in task]


def write_omniglot(root: Path, zipped: bool = True, drawings: int = 6) -> Path:
    """Write a miniature of Omniglot, split lists included, where `NAS_DATA=root` finds it; return its folder.

    It has 4 alphabets: two of 4 characters for training, one of 3 for validation, one of 3, the only one of
    `images_evaluation`, for test.
    """
    rng = np.random.default_rng(0)
    folder = root / "omniglot"
    lists = folder / "splits" / "vinyals"
    lists.mkdir(parents=True)
    members: dict[str, Pixels] = {}
    for number, (alphabet, characters, split) in enumerate(
        [("Angelic", 4, "train"), ("Braille", 4, "train"), ("Cyrillic", 3, "val"), ("Tengwar", 3, "test")]
    ):
        name = "images_evaluation" if split == "test" else "images_background"
        with (lists / f"{split}.txt").open("a") as lines:
            for character in range(1, characters + 1):
                blocks = rng.random((15, 15)) < 0.2
                for turn in (0, 90, 180, 270):
                    lines.write(f"{alphabet}/character{character:02}/rot{turn:03}\n")
                for drawing in range(1, drawings + 1):
                    noisy = blocks ^ (rng.random((15, 15)) < 0.03)
                    pixels = np.where(np.kron(noisy, np.ones((7, 7), bool)), 0, 255).astype(np.uint8)
                    stem = f"{number}{character:03}_{drawing:02}"
                    members[f"{name}/{alphabet}/character{character:02}/{stem}.png"] = pixels
    for name in ("images_background", "images_evaluation"):
        chosen = {path: pixels for path, pixels in members.items() if path.startswith(f"{name}/")}
        if zipped:
            with zipfile.ZipFile(folder / f"{name}.zip", "w") as archive:
                for path, pixels in chosen.items():
                    archive.writestr(path, _png(pixels))
        else:
            for path, pixels in chosen.items():
                (folder / path).parent.mkdir(parents=True, exist_ok=True)
                (folder / path).write_bytes(_png(pixels))
    return folder


def write_image_folder(folder: Path, classes: int = 25, images: int = 8) -> Path:
    """Write colour images of differing sizes, `images` or a few more in each class; return the folder."""
    rng = np.random.default_rng(0)
    for number in range(classes):
        target = folder / f"class{number:02}"
        target.mkdir(parents=True)
        for image in range(images + number % 3):
            height, width = rng.integers(20, 40, 2)
            pixels = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(target / f"{image}.{('png', 'bmp')[image % 2]}")
    return folder


def _png(pixels: Pixels) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).convert("1").save(file, "PNG")
    return file.getvalue()
