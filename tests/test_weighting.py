"""Weights of examples in the losses of learners; the conformance suite."""

from functools import partial

import pytest
import torch
from facts import refusal
from torch import nn
from torch.testing import assert_close

from nas.errors import ConfigError
from nas.learners.anil import Anil
from nas.learners.base import task_loss
from nas.learners.maml import Maml
from nas.learners.meta_sgd import MetaSgd
from nas.learners.meta_weight_net import MetaWeightNet
from nas.learners.pretrain import Pretrain
from nas.learners.prototypical import Prototypical
from nas.learners.relation import Relation
from nas.learners.reptile import Reptile
from nas.learners.weighting import Uniform, Weighting
from nas.plugins import load
from nas.tasks.glyphs import Glyphs
from nas.testing.learners import CASES, convolutional, image_classes
from nas.testing.weightings import WeightingSuite
from nas.training.loop import rehearse

pytestmark = pytest.mark.usefixtures("one_thread")

SHAPE = CASES["classification"].shape


class First(Weighting):
    """Only the first class counts."""

    name = "first"

    def forward(self, losses, targets):
        return (targets == 0).to(losses) * 3 if targets.dim() == 2 else torch.ones_like(losses)


class Ones(Weighting):
    """As uniform, but not known to be."""

    name = "ones"

    def forward(self, losses, targets):
        return torch.ones_like(losses)


class Net(Weighting):
    """A perceptron of the loss (Shu et al. 2019)."""

    name = "net"

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(1, 10), nn.Tanh(), nn.Linear(10, 1), nn.Sigmoid())

    def forward(self, losses, targets):
        return self.layers(losses[..., None])[..., 0]


class TestUniform(WeightingSuite):
    @pytest.fixture
    def make(self):
        return Uniform


class TestLearned(WeightingSuite):
    @pytest.fixture
    def make(self):
        return Net


LEARNERS = [Maml, Anil, MetaSgd, Reptile, Prototypical, Relation, load("learner", "matching")]


def made(make, weighting):
    torch.manual_seed(0)
    return make(convolutional(), SHAPE).equip(weighting=weighting).train()


@pytest.mark.parametrize("make", [*LEARNERS, lambda b, s: Pretrain(b, s, train_classes=9)])
def test_weights_of_one_are_no_weights(make):
    """By value, loss and gradient."""
    found = []
    for weighting in (Uniform, Ones):
        learner = made(make, weighting)
        torch.manual_seed(1)
        loss = learner.meta_backward(image_classes(tasks=3))
        found.append([torch.tensor(loss), *(p.grad for p in learner.parameters() if p.grad is not None)])
    assert_close(found[0], found[1], rtol=1e-4, atol=1e-6)


def test_the_loss_is_the_weighted_mean_of_the_queries():
    learner, episode = made(Prototypical, First), image_classes()
    counted = episode.query_y == 0
    expected = task_loss(learner(episode)[counted], episode.query_y[counted])
    assert_close(learner.meta_loss(episode), expected)


def test_an_inner_loop_is_blind_to_a_support_that_weighs_nothing():
    learner, episode = made(Maml, First), image_classes()
    assert torch.equal(learner(episode), learner(episode))
    plain, heavy = learner(episode), made(Maml, Uniform)(episode)
    assert not torch.allclose(plain, heavy)
    rows = learner.network(episode.support_x[0])
    expected = task_loss(rows[:2], episode.support_y[0, :2])  # two shots of the first class
    assert_close(learner.task_losses(rows[None], episode.support_y[:1])[0], expected)


def test_a_learned_one_learns_through_the_inner_loop_alone():
    """∂L/∂Θ = −(α/n) Σ_i ⟨∇L_query(w′), ∇l_i(w)⟩ ∂V(l_i)/∂Θ, where one step leads to w′ (Shu et al. 2019)."""
    episode = CASES["classification"].episode(torch.float64, tasks=1)
    torch.manual_seed(0)
    learner = Anil(convolutional(), SHAPE, inner_steps=1).equip(weighting=Net).double().eval()
    learner.meta_loss(episode).backward()
    found = [parameter.grad for parameter in learner.weighting.parameters()]
    network = learner.network
    support, queries = (network.backbone(x[0]).detach() for x in (episode.support_x, episode.query_x))
    head = [p.detach().clone().requires_grad_() for p in (network.head.weight, network.head.bias)]

    def losses(features, labels, weight, bias):
        return nn.functional.cross_entropy(features @ weight.T + bias, labels, reduction="none")

    each = losses(support, episode.support_y[0], *head)
    weights = learner.weighting(each.detach()[None], episode.support_y)[0]
    slopes = [torch.autograd.grad(loss, head, retain_graph=True) for loss in each]
    with torch.no_grad():
        moved = [
            h - 0.4 * sum(w * s[i] for w, s in zip(weights, slopes, strict=True)) / len(each)
            for i, h in enumerate(head)
        ]
    moved = [m.detach().requires_grad_() for m in moved]
    after = losses(queries, episode.query_y[0], *moved)
    of_query = learner.weighting(after.detach()[None], episode.query_y)[0].detach()
    ends = torch.autograd.grad((of_query * after).mean(), moved)
    products = torch.stack([sum((e * s).sum() for e, s in zip(ends, slope, strict=True)) for slope in slopes])
    expected = torch.autograd.grad(
        -0.4 / len(each) * (products * weights).sum(), learner.weighting.parameters()
    )
    assert_close(found, list(expected), rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("make", [Prototypical, partial(Maml, order=1)], ids=["no loop", "first order"])
@pytest.mark.parametrize("weighting", [Net, MetaWeightNet])
def test_what_no_gradient_reaches_is_refused(make, weighting):
    tasks, space = Glyphs(ways=2, shots=1, queries=1), load("space", "chain")(layers=1)

    def equipped(backbone, shape):
        return make(backbone, shape).equip(weighting=weighting)

    with refusal(ConfigError, "learner.weighting", f"'{weighting.name}'", "learner.order=2"):
        rehearse(space, tasks, equipped)
    rehearse(space, tasks, lambda *given: Maml(*given).equip(weighting=weighting))


def test_without_an_inner_loop_a_learned_one_stays():
    learner = made(Prototypical, Net)
    learner.meta_backward(image_classes())
    assert all(parameter.grad is None for parameter in learner.weighting.parameters())
