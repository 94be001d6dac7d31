"""Imaginary data: what imagines nothing is the readout alone, and rivals do what they say."""

import itertools
from functools import partial

import pytest
import slopes
import torch
import torch.nn.functional as F
from facts import refusal
from torch import nn
from torch.testing import assert_close

from nas.errors import ConfigError
from nas.learners.hallucinate import Hallucinate
from nas.learners.matching import Matching
from nas.learners.prototypical import Prototypical
from nas.space import TaskShape
from nas.testing.learners import CASES, LearnerSuite, ToyBackbone, image_classes, train

pytestmark = pytest.mark.usefixtures("one_thread")

CASE = CASES["classification"]
SHAPE = TaskShape((1, 8, 8), 3, train_classes=9)
READOUTS = ("prototypical", "matching", "logistic")
RIVALS = ("generator", "shift", "noise", "calibration")


class TestMatchingWithShift(LearnerSuite):
    @pytest.fixture
    def make(self):
        return partial(Hallucinate, readout="matching", by="shift", imagined=2)


def made(seed=0, **settings):
    torch.manual_seed(seed)
    return Hallucinate(CASE.backbone(), SHAPE, **settings).double().eval()


def plain(kind, learner):
    other = kind(CASE.backbone(), SHAPE).double().eval()
    other.backbone.load_state_dict(learner.backbone.state_dict())
    return other


@pytest.mark.parametrize("by", ["generator", "shift"])
@pytest.mark.parametrize("mode", [True, False])
def test_a_copying_generator_changes_no_prototype(by, mode):
    """As the generator begins: it copies its seed. With one shot prototypes are the same ones."""
    episode = CASE.episode(torch.float64, shots=1)
    learner = made(by=by, imagined=3).train(mode)
    assert_close(learner(episode), plain(Prototypical, learner)(episode))
    matching = made(by=by, imagined=3, readout="matching").train(mode)
    assert_close(matching(episode), plain(Matching, matching)(episode))


def test_each_seed_once_leaves_prototypes_of_several_shots():
    """In evaluation the seeds are the examples in turn."""
    episode = CASE.episode(torch.float64, shots=2)
    learner = made(imagined=4)
    assert_close(learner(episode), plain(Prototypical, learner)(episode))


@pytest.mark.parametrize("readout", READOUTS)
def test_without_imagination_it_is_its_readout(readout):
    episode, learner = CASE.episode(torch.float64), made(readout=readout, imagined=0)
    if readout != "logistic":
        other = plain({"prototypical": Prototypical, "matching": Matching}[readout], learner)
        assert_close(learner(episode), other(episode))
        return
    features = [learner.backbone(torch.cat([task.support_x, task.query_x], 1)[0]) for task in episode]
    for task, rows, logits in zip(episode, features, learner(episode), strict=True):
        support, queries = rows.detach().split([6, 6])
        head = nn.Linear(6, 3).double()
        nn.init.zeros_(head.weight), nn.init.zeros_(head.bias)
        optimizer = torch.optim.SGD(head.parameters(), 0.1)
        for _ in range(10):
            optimizer.zero_grad()
            F.cross_entropy(head(support), task.support_y[0]).backward()
            optimizer.step()
        assert_close(head(queries), logits)


@pytest.mark.parametrize(("readout", "by"), list(itertools.product(READOUTS, RIVALS)))
def test_meta_gradients_are_those_of_differences(readout, by):
    torch.manual_seed(1)  # no hidden unit within a step of its kink
    backbone = ToyBackbone(4, nn.Flatten(), nn.Linear(64, 4), nn.Tanh())
    learner = Hallucinate(backbone, SHAPE, readout=readout, by=by, inner_steps=2).double().eval()
    with torch.no_grad():
        for parameter in learner.imagination.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    episode = CASE.episode(torch.float64)
    slopes.holds(learner, lambda: learner.meta_loss(episode))


def test_rivals_have_as_many_parameters():
    generator, shift = (made(by=by).imagination for by in ("generator", "shift"))
    assert sum(p.numel() for p in generator.parameters()) == sum(p.numel() for p in shift.parameters())
    seeds, noise = torch.randn(2, 3, 1, 6).double(), torch.randn(2, 3, 1, 6).double()
    with torch.no_grad():
        for part in (generator, shift):
            part.first.weight.add_(0.1)
        assert torch.equal(shift(seeds, noise), shift(seeds, 2 * noise))
        assert not torch.allclose(generator(seeds, noise), generator(seeds, 2 * noise))


def test_noise_has_its_size():
    torch.manual_seed(0)
    seeds = torch.zeros(1, 1, 20_000, 6, dtype=torch.float64)
    found = made(by="noise").imagination(seeds, torch.randn_like(seeds))
    assert found.std().item() == pytest.approx(0.1, rel=0.02)


def test_a_calibration_draws_around_the_nearest_training_classes():
    learner = made(by="calibration", neighbours=2, spread=0.5)
    part, width = learner.imagination, 6
    torch.manual_seed(0)
    classes = torch.randn(9, 1, width, dtype=torch.float64) * 5
    examples = (classes + 0.5 * torch.randn(9, 40, width).double())[None]
    from dataclasses import replace

    import numpy as np

    episode = replace(image_classes(), classes=np.arange(9)[None])
    part.see(examples, episode)
    assert_close(part.means, examples[0].mean(1))
    assert_close(part.variances, examples[0].var(1, correction=0))
    seed = part.means[4] + 0.1
    nearest = (part.means - seed).norm(dim=1).argsort()[:2]
    seeds = seed.expand(1, 1, 20_000, -1)
    drawn = part(seeds, torch.randn_like(seeds))[0, 0]
    assert_close(drawn.mean(0), (part.means[nearest].sum(0) + seed) / 3, atol=0.03, rtol=0)
    assert_close(drawn.var(0), part.variances[nearest].mean(0) + 0.5, rtol=0.05, atol=0)
    part.see(examples + 1, episode)
    assert_close(part.means, examples[0].mean(1) + 0.1)


def test_the_variance_of_what_is_imagined_is_told():
    torch.manual_seed(0)
    told = {}
    for by in RIVALS:
        learner = Hallucinate(CASE.backbone(), SHAPE, by=by)
        assert learner.measurements() == {}
        train(learner, CASE.episode(), steps=2)
        told[by] = learner.measurements()["imagined_variance"]
    assert told["shift"] == 0
    assert told["noise"] == pytest.approx(0.01, rel=0.3)
    assert told["generator"] >= 0
    assert told["calibration"] > 0.1


def test_a_calibration_needs_to_know_the_training_classes():
    with refusal(ConfigError, "learner.by", "calibration", "generator"):
        Hallucinate(CASE.backbone(), TaskShape((1, 8, 8), 3), by="calibration")
