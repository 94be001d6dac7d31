from __future__ import annotations

import math
from collections import Counter
from itertools import permutations

import numpy as np
import pytest
import torch
from facts import Facts, refusal
from hypothesis import given, settings
from hypothesis import strategies as st

from nas.errors import ConfigError
from nas.tasks.images import Classes, ImageTasks, draw_distinct


def pool(counts: list[int], ways: int, shots: int, queries: int, **training: int) -> ImageTasks:
    """Image number i, one pixel of two channels, has the values (i % 256, i // 256)."""
    sizes = np.array(counts)
    total = int(sizes.sum())
    pixels = np.stack([np.arange(total) % 256, np.arange(total) // 256], axis=1).astype(np.uint8)
    names = tuple(f"class{i}" for i in range(len(counts)))
    classes = Classes(names, sizes.cumsum() - sizes, sizes)
    pixels.setflags(write=False)
    return ImageTasks(
        "pool",
        pixels[:, :, None, None],
        {"train": classes, "test": classes},
        ways,
        shots,
        queries,
        **training,
    )


def numbers(x: torch.Tensor) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:
    values = (x * 255).round().long().flatten(2).numpy()
    return np.asarray(values[..., 0] + 256 * values[..., 1])


@given(data=st.data(), tasks=st.integers(1, 4), seed=st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=60)
def test_a_task_is_distinct_images_of_distinct_classes(data: st.DataObject, tasks: int, seed: int) -> None:
    shots, queries = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 4))
    counts = data.draw(st.lists(st.integers(shots + queries, 40), min_size=2, max_size=12))
    ways = data.draw(st.integers(2, len(counts)))
    source = pool(counts, ways, shots, queries)
    episode = source.sample("train", tasks, np.random.default_rng(seed))
    owner = np.repeat(np.arange(len(counts)), counts)
    support, query = numbers(episode.support_x), numbers(episode.query_x)
    assert support.shape == (tasks, ways * shots)
    assert query.shape == (tasks, ways * queries)
    for t in range(tasks):
        both = [*support[t], *query[t]]
        assert len(set(both)) == len(both)
        assert len(set(episode.classes[t])) == ways
        assert (owner[support[t]] == episode.classes[t][episode.support_y[t]]).all()
        assert (owner[query[t]] == episode.classes[t][episode.query_y[t]]).all()


@pytest.mark.parametrize("limits", [[4, 4], [2, 4]])
def test_every_ordered_choice_is_equally_likely(limits: list[int]) -> None:
    draws = 24_000
    drawn = draw_distinct(np.tile(limits, (draws, 1)), 2, np.random.default_rng(0))
    assert drawn.shape == (draws, 2, 2)
    for column, limit in enumerate(limits):
        expected = list(permutations(range(limit), 2))
        counts = Counter(map(tuple, drawn[:, column].tolist()))
        assert set(counts) == set(expected)
        mean = draws / len(expected)
        chi_squared = sum((n - mean) ** 2 / mean for n in counts.values())
        freedom = len(expected) - 1
        assert chi_squared < freedom + 5 * math.sqrt(2 * freedom)


@given(
    limits=st.lists(st.integers(1, 30), min_size=1, max_size=6),
    seed=st.integers(0, 2**32 - 1),
    data=st.data(),
)
@settings(deadline=None, max_examples=100)
def test_draws_are_distinct_and_below_their_limit(limits: list[int], seed: int, data: st.DataObject) -> None:
    count = data.draw(st.integers(1, min(limits)))
    drawn = draw_distinct(np.array(limits), count, np.random.default_rng(seed))
    for row, limit in zip(drawn.tolist(), limits, strict=True):
        assert len(set(row)) == count
        assert set(row) <= set(range(limit))


def test_every_image_is_as_likely_to_be_a_query_of_any_label() -> None:
    source = pool([3] * 4, ways=2, shots=1, queries=1)
    episode = source.sample("train", 12_000, np.random.default_rng(3))
    for x in (episode.support_x, episode.query_x):
        for label in range(2):
            counts = np.bincount(numbers(x)[:, label], minlength=12)
            assert abs(counts - 1000).max() < 5 * math.sqrt(1000)


def test_bytes_become_numbers_from_0_to_1_exactly() -> None:
    source = pool([256], ways=1, shots=128, queries=128)
    episode = source.sample("train", 1, np.random.default_rng(0))
    values = torch.cat([episode.support_x, episode.query_x], dim=1)[0, :, 0].flatten().sort().values
    assert torch.equal(values, torch.tensor([i / 255 for i in range(256)]))


def test_the_labels_of_tasks_share_no_memory() -> None:
    episode = pool([2, 2], ways=2, shots=1, queries=1).sample("train", 2, np.random.default_rng(0))
    episode.support_y[0] += 7
    assert episode.support_y[1].tolist() == [0, 1]


def test_too_many_ways_are_refused() -> None:
    with refusal(ConfigError, "tasks.ways", 4, 3, "'train'", "pool"):
        pool([9, 9, 9], ways=4, shots=1, queries=1)


@pytest.mark.parametrize(
    ("sizes", "ways", "facts"),
    [
        ((3, 2), 4, ("2 classes", "tasks.ways to 2", "or buy")),
        ((3, 1), 4, ("1 class", "Buy")),
    ],
)
def test_the_ways_that_fit_every_split_are_told(sizes: tuple[int, int], ways: int, facts: Facts) -> None:
    classes = {
        split: Classes(tuple(map(str, range(n))), 4 * np.arange(n), np.full(n, 4))
        for split, n in zip(("train", "test"), sizes, strict=True)
    }
    images = np.zeros((12, 1, 1, 1), dtype=np.uint8)
    with refusal(ConfigError, f"tasks.ways: {ways}", "'test'", "pool", *facts):
        ImageTasks("pool", images, classes, ways, 1, 1, more_classes="buy")  # type: ignore[arg-type]


def test_too_many_images_are_refused() -> None:
    with refusal(ConfigError, "tasks.shots + tasks.queries", "2 + 4", 5, "'class1'"):
        pool([9, 5, 9], ways=2, shots=2, queries=4)
    pool([9, 6, 9], ways=3, shots=2, queries=4)


@pytest.mark.parametrize(
    ("few", "sizes", "advice"),
    [
        (5, {"shots": 2, "queries": 4}, ("tasks.shots to 1", "tasks.queries to 3")),
        (5, {"shots": 5, "queries": 4}, ("tasks.shots to 1",)),
        (5, {"shots": 1, "queries": 15}, ("tasks.queries to 4",)),
        (5, {"shots": 5, "queries": 15}, ("5 together",)),
        (1, {"shots": 1, "queries": 1}, ()),
        (8, {"shots": 1, "queries": 1, "train_shots": 9}, ("tasks.train_shots to 7",)),
    ],
)
def test_what_would_fit_is_told(few: int, sizes: dict[str, int], advice: Facts) -> None:
    """Of all splits that share the settings: the second has the smaller class, and is named."""
    images = np.zeros((40, 1, 1, 1), dtype=np.uint8)
    classes = {
        split: Classes(("a", "b"), np.array([0, 10]), np.array([10, least]))
        for split, least in (("train", 8), ("test", few))
    }
    split = "train" if "train_shots" in sizes else "test"
    count = f"{few} image" if few == 1 else f"{few} images"
    with refusal(ConfigError, count, "class 'b'", f"'{split}'", "pool", *advice):
        ImageTasks("pool", images, classes, ways=2, **sizes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("training", "facts"),
    [
        ({"train_ways": 4}, ("tasks.train_ways", 4, 3, "'train'", "pool")),
        (
            {"train_shots": 5},
            ("tasks.train_shots + tasks.queries", "5 + 1", 5, "'b'"),
        ),
        (
            {"train_queries": 4},
            ("tasks.shots + tasks.train_queries", "2 + 4", 5, "'b'"),
        ),
        (
            {"train_shots": 1, "train_queries": 5},
            ("tasks.train_shots + tasks.train_queries", "1 + 5", 5, "'b'"),
        ),
    ],
)
def test_what_training_tasks_take_is_checked_in_their_split_alone(
    training: dict[str, int], facts: Facts
) -> None:
    images = np.zeros((37, 1, 1, 1), dtype=np.uint8)
    few = Classes(("a", "b", "c"), np.array([0, 9, 14]), np.array([9, 5, 9]))
    many = Classes(("d", "e", "f", "g"), np.array([0, 7, 14, 21]), np.array([7, 7, 7, 7]))
    with refusal(ConfigError, *facts):
        ImageTasks("pool", images, {"train": few, "test": many}, ways=2, shots=2, queries=1, **training)
    source = ImageTasks("pool", images, {"train": many, "test": few}, ways=2, shots=2, queries=1, **training)
    episode = source.sample("test", 1, np.random.default_rng(0))
    assert (episode.ways, episode.shots, episode.query_x.shape[1]) == (2, 2, 2)


def test_a_split_is_named_after_the_pool_and_hashed_by_its_class_names() -> None:
    source = pool([2, 2], ways=2, shots=1, queries=1)
    assert source.setting == "2-way 1-shot"
    assert source.fingerprint("train")[0] == "pool/train"
    assert source.fingerprint("train")[1] != pool([2, 2, 2], 2, 1, 1).fingerprint("train")[1]


def test_so_many_supports_show_another_class_and_nothing_else_changes() -> None:
    """Wrong images are in the task nowhere else, and the queries and the classes are those without noise."""
    plain, noisy = pool([20] * 12, 5, 2, 3), pool([20] * 12, 5, 2, 3, noise_rate=0.3)
    found = noisy.sample("train", 2000, np.random.default_rng(0))
    classes = found.classes[:, :, None]
    support = numbers(found.support_x).reshape(2000, 5, 2)
    queries = numbers(found.query_x).reshape(2000, 5, 3)
    assert (queries // 20 == classes).all()
    wrong = support // 20 != classes
    assert wrong.mean() == pytest.approx(0.3, abs=0.02)
    shown = support // 20
    assert (shown[..., None] == found.classes[:, None, None, :]).any(-1).all()
    for task in range(50):
        right = set(support[task][~wrong[task]].tolist()) | set(queries[task].ravel().tolist())
        assert right.isdisjoint(support[task][wrong[task]].tolist())
        assert len(right) == 15 + (~wrong[task]).sum()
    others = (shown[wrong] != np.broadcast_to(classes, shown.shape)[wrong]).sum()
    assert others == wrong.sum()
    assert torch.equal(found.support_y, plain.sample("train", 2000, np.random.default_rng(0)).support_y)
    assert (noisy.setting, plain.setting) == ("5-way 2-shot, 30% noise", "5-way 2-shot")


def test_noise_needs_images_beside_those_of_a_task() -> None:
    pool([7, 9], 2, 2, 3, noise_rate=0.5)
    with refusal(ConfigError, "tasks.noise_rate", "class0", 6, 7):
        pool([6, 9], 2, 2, 3, noise_rate=0.5)
