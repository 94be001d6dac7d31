"""LEO: its limits are learners that are known, and its penalties have closed forms."""

from functools import partial

import pytest
import slopes
import torch
from facts import refusal
from torch import nn
from torch.testing import assert_close

from nas.errors import ConfigError
from nas.learners.base import task_loss
from nas.learners.inner import adapt
from nas.learners.leo import Leo, correlation, divergence
from nas.learners.prototypical import Prototypical
from nas.learners.update import Sgd
from nas.space import TaskShape
from nas.testing.learners import CASES, LearnerSuite, ToyBackbone, image_classes

pytestmark = pytest.mark.usefixtures("one_thread")

WIDTH = 5
SHAPE = TaskShape((WIDTH,), 3)


class TestLeo(LearnerSuite):
    @pytest.fixture
    def make(self):
        return partial(Leo, end_to_end=True, latent=8, hidden=16, lr=5e-3, dropout=0.0)


def vectors(tasks=2, shots=2, queries=2, seed=0):
    """Draw classes of vectors, float64."""
    episode = image_classes(tasks=tasks, shots=shots, queries=queries, seed=seed)
    from dataclasses import replace

    take = lambda x: x.flatten(2)[..., :WIDTH].double()  # noqa: E731
    return replace(episode, support_x=take(episode.support_x), query_x=take(episode.query_x))


def leo(**settings):
    torch.manual_seed(0)
    return Leo(ToyBackbone(WIDTH, nn.Identity()), SHAPE, **settings).double().eval()


def decodes(learner, factor):
    """Let the decoder's means be a multiple of the code, with no deviation to speak of."""
    with torch.no_grad():
        learner.decoder.weight.zero_()
        learner.decoder.weight[:WIDTH].copy_(factor * torch.eye(WIDTH))


def test_without_steps_it_is_a_hypernetwork():
    """The head is what decoder, relation net and encoder make of the support; nothing else is asked."""
    learner, episode = leo(latent=4, inner_steps=0, weight_steps=0), vectors()
    expected = []
    for task in episode:
        codes = learner.encoder(task.support_x[0])
        means = []
        for label in range(3):
            rows = (task.support_y[0] == label).nonzero().flatten()
            related = [
                learner.relation(torch.cat([codes[i], codes[j]])) for i in rows for j in range(len(codes))
            ]
            means.append(torch.stack(related).mean(0)[:4])
        head = learner.decoder(torch.stack(means))[:, :WIDTH]
        expected.append(task.query_x[0] @ head.T)
    assert_close(learner(episode), torch.stack(expected))


def test_with_codes_that_are_class_means_it_is_a_prototypical_network():
    """w = 2c and a bias −‖c‖²: its logits differ from −‖x − c‖² by what all classes share."""
    learner, episode = leo(latent=WIDTH, inner_steps=0, weight_steps=0), vectors()
    with torch.no_grad():
        learner.encoder.weight.copy_(torch.eye(WIDTH))
    learner.relation = First(WIDTH)
    decodes(learner, 2.0)
    logits = learner(episode)
    means = episode.support_x.unflatten(1, (3, 2)).mean(2)
    prototypical = Prototypical(ToyBackbone(WIDTH, nn.Identity()), SHAPE).double()
    found = logits - (means**2).sum(-1)[:, None]
    assert_close(found.softmax(-1), prototypical(episode).softmax(-1))


class First(nn.Module):
    """Tells the first of two codes as the mean, and no deviation."""

    def __init__(self, width):
        super().__init__()
        self.width = width

    def forward(self, pairs):
        return torch.cat([pairs[..., : self.width], torch.zeros_like(pairs[..., : self.width])], -1)


@pytest.mark.parametrize("order", [1, 2])
def test_with_codes_that_are_weights_it_is_anil(order):
    """A relation net of zeros, a decoder that copies: gradient steps on a linear head that begins at zero."""
    learner = leo(latent=WIDTH, inner_steps=3, inner_lr=0.4, weight_steps=0, order=order)
    nn.init.zeros_(learner.relation[-1].weight)
    decodes(learner, 1.0)
    episode = vectors(shots=1)

    def loss(weights):
        return task_loss(episode.support_x @ weights["head"].mT, episode.support_y, "task")

    begin = {"head": torch.zeros(2, 3, WIDTH, dtype=torch.float64, requires_grad=True)}
    head = adapt(loss, begin, Sgd({}, 0.4), 3, order=order).weights["head"]
    assert_close(learner(episode), episode.query_x @ head.mT)


def test_several_samples_of_a_class_share_its_gradient():
    """A logit is the mean over the weights of a class."""
    learner, episode = leo(latent=4, inner_steps=0, weight_steps=0), vectors(shots=3)
    weights = torch.randn(2, 3, 3, WIDTH, dtype=torch.float64)
    each = torch.stack([episode.query_x @ weights[:, :, k].mT for k in range(3)])
    assert_close(learner._classified(episode.query_x, weights), each.mean(0))


@pytest.mark.parametrize("order", [1, 2])
def test_what_a_task_learns_is_differentiated(order):
    """Along all of φ, penalties included, in evaluation and, with equal draws, in training."""
    learner, episode = (
        leo(latent=4, hidden=6, inner_steps=2, weight_steps=2, inner_lr=0.3, weight_lr=0.1),
        vectors(),
    )
    with torch.no_grad():
        learner.relation[-1].weight.add_(0.5)  # deviations off their least value
    if order == 1:
        learner.inner_steps = learner.weight_steps = 0

    def loss():
        torch.manual_seed(3)
        return learner.meta_loss(episode)

    learner.encoder_penalty = 0.0  # the distance stops the gradient of one side: below
    slopes.holds(learner, loss)
    slopes.holds(learner.train(), loss)


def test_the_encoder_penalty_moves_the_first_codes_alone():
    learner, episode = leo(latent=4, inner_steps=2, weight_steps=0, inner_lr=0.3), vectors()
    plain = {"divergence": 0.0, "weight_penalty": 0.0, "orthogonality": 0.0}
    for name, value in plain.items():
        setattr(learner, name, value)
    found = {}
    for weight in (0.0, 1.0):
        learner.encoder_penalty = weight
        loss = learner.meta_loss(episode)
        found[weight] = torch.autograd.grad(loss, learner.encoder.weight)[0]
    _, codes = learner._learned(episode)
    distance = ((codes.adapted.detach() - codes.first) ** 2).mean()
    expected = torch.autograd.grad(distance, learner.encoder.weight)[0]
    assert_close(found[1.0] - found[0.0], expected)


def test_the_divergence_is_an_estimate_of_its_closed_form():
    generator = torch.Generator().manual_seed(0)
    mean = torch.randn(3, generator=generator, dtype=torch.float64)
    deviation = torch.rand(3, generator=generator, dtype=torch.float64) + 0.5
    noise = torch.randn(200_000, 3, generator=generator, dtype=torch.float64)
    found = divergence(mean + deviation * noise, noise, deviation.expand_as(noise))
    exact = ((mean**2 + deviation**2 - 1) / 2 - deviation.log()).mean()
    assert found.item() == pytest.approx(exact.item(), abs=0.01)


def test_orthogonal_columns_cost_nothing():
    weight = torch.linalg.qr(torch.randn(6, 3, dtype=torch.float64)).Q * torch.tensor([1.0, 2.0, 3.0])
    assert correlation(weight).item() == pytest.approx(0, abs=1e-12)
    assert correlation(torch.ones(6, 3, dtype=torch.float64)).item() == pytest.approx(6 / 9)


def test_codes_hardly_vary_at_the_start_and_not_at_all_in_evaluation():
    learner, episode = leo(), vectors()
    with torch.no_grad():
        assert torch.equal(learner(episode), learner(episode))
        _, codes = learner.train()._learned(episode)
    assert codes.deviation.max() < 0.2
    assert codes.deviation.min() == 1e-10


def test_gradients_are_clipped():
    learner = leo().train()
    optimizer = learner.optimizer()
    learner.meta_backward(vectors())
    for parameter in learner.parameters():
        if parameter.grad is not None:
            parameter.grad.mul_(1e6)
    optimizer.step()
    norms = [float(p.grad.norm()) for p in learner.parameters() if p.grad is not None]
    assert max(norms) == pytest.approx(0.1, rel=1e-4)


def test_a_backbone_that_does_not_learn_is_left_out():
    case, stays = CASES["classification"], []
    for end_to_end in (False, True):
        learner = Leo(case.backbone(), case.shape, end_to_end=end_to_end)
        held = {p for group in learner.optimizer().param_groups for p in group["params"]}
        stays.append(held.isdisjoint(learner.backbone.parameters()))
    assert stays == [True, False]
    with refusal(ConfigError, "learner.end_to_end", "features", "nas export"):
        Leo(case.backbone(), case.shape).meta_loss(case.episode())
