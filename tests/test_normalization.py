"""Where batch norm takes its statistics, learner by learner, against images normalized by hand."""

from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from nas.learners import base
from nas.learners.learned_optimizer import LearnedOptimizer
from nas.plugins import installed, load
from nas.precision import choose
from nas.space import TaskShape
from nas.tasks.glyphs import Glyphs
from nas.testing.learners import CASES, LearnerSuite, ToyBackbone, cast, convolutional, image_classes
from nas.training.scoring import score

PIXELS = TaskShape((1, 8, 8), 3)
EPS, MOMENTUM = 1e-5, 0.1

JOINT = {"hallucinate", "leo", "mann", "matching", "prototypical", "relation", "snail"}
"""Their backbones embed a task's support and queries as one batch; those of the others, each alone."""

SETTINGS = {
    "learning_to_optimize": {
        "inner_steps": 2,
        "truncation": 2,
        "inner_lr": 1.0,
        "update": partial(LearnedOptimizer, hidden=8, layers=1),
    },
    "leo": {"end_to_end": True},  # without it, it takes no images
    "pretrain": {"train_classes": 100},
    "reptile": {"inner_batch": 100, "test_batch": 100, "test_steps": 5},  # the whole support
}

learners = pytest.mark.parametrize(
    "name", [name for name in installed("learner") if not load("learner", name).ordinary]
)
modes = pytest.mark.parametrize("mode", ["transductive", "support", "running"])


pytestmark = pytest.mark.usefixtures("one_thread")


def learner_of(name, backbone, mode):
    torch.manual_seed(0)
    cls = load("learner", name)
    return cls(backbone, PIXELS, normalization=mode, **SETTINGS.get(name, {})).double().eval()


def normalizing():
    """Normalizes images, and passes their pixels on."""
    return ToyBackbone(64, nn.BatchNorm2d(1, affine=False), nn.Flatten())


def pixels():
    return ToyBackbone(64, nn.Flatten())


def varied(seed=0, **how):
    """Tasks whose supports and queries have means and scales of their own."""
    episode = cast(image_classes(seed=seed, **how), torch.float64)
    scale = torch.tensor([1.0, 3.0])[: len(episode), None, None, None, None]
    return replace(episode, support_x=episode.support_x * scale + 2, query_x=episode.query_x / scale - 1)


def standardized(x, by):
    """Return images `[N, 1, 8, 8]` less the mean of others, over their deviation."""
    mean = by.sum() / by.numel()
    return (x - mean) / (((by - mean) ** 2).sum() / by.numel() + EPS).sqrt()


def normalized_by_hand(name, task, mode, mean, variance):
    support, queries = task.support_x[0], task.query_x[0]
    if mode == "running":
        support, queries = ((x - mean) / (variance + EPS) ** 0.5 for x in (support, queries))
    elif mode == "support":
        support, queries = standardized(support, support), standardized(queries, support)
    elif name in JOINT:
        both = torch.cat([support, queries])
        support, queries = standardized(support, both), standardized(queries, both)
    else:
        support, queries = standardized(support, support), standardized(queries, queries)
    return replace(task, support_x=support[None], query_x=queries[None])


@learners
@modes
def test_statistics_come_from_where_the_mode_says(name, mode):
    backbone, episode = normalizing(), varied()
    learner, plain = learner_of(name, backbone, mode), learner_of(name, pixels(), "transductive")
    if mode == "running":
        backbone[0].running_mean.fill_(0.7)
        backbone[0].running_var.fill_(2.5)
    expected = [plain(normalized_by_hand(name, task, mode, 0.7, 2.5)) for task in episode]
    assert_close(learner(episode), torch.cat(expected))


@learners
@modes
def test_a_query_depends_on_the_others_in_transduction_alone(name, mode):
    learner, episode = learner_of(name, convolutional(), mode), varied()
    others = torch.cat([episode.query_x[:, :2], 5 * episode.query_x[:, 2:].flip(1) - 3], 1)
    before, after = learner(episode)[:, :2], learner(replace(episode, query_x=others))[:, :2]
    if mode == "transductive":
        assert not torch.allclose(after, before, rtol=1e-3)
    else:
        assert_close(after, before)


@learners
def test_training_moves_the_running_averages(name):
    """Where every batch has the mean m and the variance v, n updates from (0, 1) lead to known averages."""
    task = varied(tasks=1, shots=2, queries=2)
    task = replace(task, query_x=task.support_x, query_y=task.support_y)
    backbone = normalizing()
    learner = learner_of(name, backbone, "running")
    learner.train().meta_backward(task)

    images = task.support_x
    together = torch.cat([images, images]) if name in JOINT | {"pretrain"} else images
    updates = int(backbone[0].num_batches_tracked)
    old = (1 - MOMENTUM) ** updates
    assert updates >= 1
    assert_close(backbone[0].running_mean.squeeze(), (1 - old) * images.mean())
    assert_close(backbone[0].running_var.squeeze(), old + (1 - old) * together.var(correction=1))


@learners
def test_running_averages_do_not_depend_on_how_many_tasks_are_held_at_once(name, monkeypatch):
    """One pass of all tasks moves them once, by the mean over tasks, and so do many passes of a few."""
    episode, moved = varied(tasks=2), []
    episode = replace(
        episode,
        **{
            part: torch.cat([getattr(episode, part), 2 * getattr(episode, part)[:1]])
            for part in ("support_x", "query_x")
        },
        **{part: getattr(episode, part)[[0, 1, 0]] for part in ("support_y", "query_y", "classes")},
    )
    for held in (1, 10**9):
        monkeypatch.setattr(base, "HELD", held)
        backbone = convolutional()
        learner = learner_of(name, backbone, "running").train()
        backbone.load_state_dict(_weights(backbone))
        torch.manual_seed(0)
        learner.meta_backward(episode)
        moved.append({key: value for key, value in backbone.state_dict().items() if "running" in key})
        moved[-1]["times"] = backbone[1].num_batches_tracked
    assert_close(*moved)
    assert not torch.allclose(moved[0]["1.running_mean"], torch.zeros(4, dtype=torch.float64))


def _weights(module):
    """Return random weights, and averages as they are at the start."""
    rng = torch.Generator().manual_seed(1)
    return {
        name: value if "running" in name or "tracked" in name else torch.rand(value.shape, generator=rng)
        for name, value in module.state_dict().items()
    }


@learners
def test_evaluation_leaves_the_running_averages(name):
    backbone = convolutional()
    learner, before = learner_of(name, backbone, "running"), [b.clone() for b in backbone.buffers()]
    learner.eval()(varied())
    assert_close(list(backbone.buffers()), before, rtol=0, atol=0)


@learners
@pytest.mark.parametrize("mode", ["transductive", "support"])
def test_only_running_keeps_averages(name, mode):
    learner = learner_of(name, convolutional(), mode)
    assert not any("running" in key for key in learner.state_dict())


@learners
@modes
def test_a_score_states_its_mode(name, mode):
    tasks = Glyphs(ways=3, queries=2)
    learner = learner_of(name, convolutional(), mode).float()
    arithmetic = choose("float32", images=True, sensitive=True)
    assert score(learner, tasks, "validation", 2, arithmetic).normalization == mode


@learners
@pytest.mark.parametrize("mode", ["support", "running"])
@pytest.mark.parametrize(
    "promise",
    [
        LearnerSuite.test_tasks_are_independent,
        LearnerSuite.test_queries_are_exchangeable,
        LearnerSuite.test_predicts_without_recording_gradients,
        LearnerSuite.test_saves_and_loads,
    ],
    ids=lambda promise: promise.__name__,
)
def test_a_learner_keeps_its_promises(name, mode, promise):
    """In the mode that is the default, `LearnerSuite` tests all of them."""
    make = partial(load("learner", name), normalization=mode, **SETTINGS.get(name, {}))
    promise(None, make, CASES["classification"])
