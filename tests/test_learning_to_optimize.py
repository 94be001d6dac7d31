"""Learning to optimize: trajectories, their parts, and what a rule learns from them."""

from functools import partial

import numpy as np
import pytest
import slopes
import torch
from facts import refusal
from torch import nn
from torch.testing import assert_close

from nas.errors import ConfigError
from nas.learners.learned_optimizer import LearnedOptimizer
from nas.learners.learned_rates import RateAndMomentum
from nas.learners.learning_to_optimize import LearningToOptimize
from nas.learners.update import Sgd
from nas.space import TaskShape
from nas.tasks.quadratics import Quadratics
from nas.testing.learners import CASES, Constant, LearnerSuite, ToyBackbone, cast
from nas.testing.tasks import TaskSourceSuite, draw

pytestmark = pytest.mark.usefixtures("one_thread")


class TestLearningToOptimize(LearnerSuite):
    @pytest.fixture
    def make(self):
        rule = partial(LearnedOptimizer, hidden=8, layers=1)
        return partial(LearningToOptimize, inner_steps=6, truncation=3, lr=0.02, inner_lr=1.0, update=rule)


class TestQuadratics(TaskSourceSuite):
    @pytest.fixture
    def tasks(self):
        return Quadratics(dimensions=3, shots=4, queries=6)


def optimizing(tasks, **settings):
    """Return a learner of a linear model without a bias, in float64, in evaluation mode."""
    torch.manual_seed(0)
    width = tasks.shape.input[0]
    learner = LearningToOptimize(ToyBackbone(width, nn.Identity()), tasks.shape, **settings)
    nn.init.zeros_(learner.network.head.bias.requires_grad_(False))
    return learner.double().eval()


def drawn(tasks, count=3):
    return cast(tasks.sample("train", count, np.random.default_rng(0)), torch.float64)


LINEAR = partial(LearnedOptimizer, layers=0, preprocessing="none")


@pytest.mark.parametrize("entries", ["normal", "uniform"])
def test_a_quadratic_is_its_own_query(entries):
    tasks = Quadratics(dimensions=4, shots=5, queries=7, entries=entries)
    episode = drawn(tasks, 200)
    theta = torch.randn(4, 1, dtype=torch.float64)
    f = [
        ((x @ theta - y) ** 2).mean((1, 2))
        for x, y in ((episode.support_x, episode.support_y), (episode.query_x, episode.query_y))
    ]
    assert_close(*f, rtol=1e-5, atol=1e-5)
    at_zero = (episode.query_y**2).mean((1, 2)).mean().item()  # E‖y‖²
    assert at_zero == pytest.approx(5 if entries == "normal" else 5 / 3, rel=0.1)
    with refusal(ConfigError, "tasks.queries", 5):
        Quadratics(shots=5, queries=4)


def test_the_linear_rule_learns_the_rate_at_which_one_step_is_enough():
    """On x² the best slope is −1/2: f is below 1e-5 after the first step, within 500 trajectories."""
    tasks = Quadratics(dimensions=1, shots=1, queries=1)
    episode = drawn(tasks, 1)
    episode.support_x.fill_(1), episode.query_x.fill_(1), episode.support_y.zero_(), episode.query_y.zero_()
    learner = optimizing(
        tasks,
        inner_lr=1.0,
        inner_steps=5,
        truncation=5,
        deviation=1.0,
        order=2,
        lr=0.03,
        update=partial(LINEAR, second_order=True),
    )
    nn.init.zeros_(learner.update.linear.weight)
    optimizer = learner.optimizer()
    for _ in range(150):
        optimizer.zero_grad()
        loss = learner.meta_backward(episode)
        optimizer.step()
    begin, *_, last = ({n: w.detach() for n, w in step.items()} for step in learner.trajectory(episode, 5))
    assert learner.update.linear.weight.item() == pytest.approx(-0.5, abs=1e-3)
    assert float((last["head.weight"] ** 2).sum()) < 1e-5
    assert loss == pytest.approx(float((begin["head.weight"] ** 2).sum()) / 6, rel=1e-4)


@pytest.mark.parametrize("layers", [0, 2])
def test_a_whole_trajectory_is_differentiated_through_its_gradients(layers):
    tasks = Quadratics(dimensions=3, shots=4, queries=4)
    rule = partial(LearnedOptimizer, layers=layers, hidden=4, preprocessing="none", second_order=True)
    learner = optimizing(
        tasks, inner_lr=0.1, inner_steps=4, truncation=4, order=2, deviation=1.0, update=rule
    )
    episode = drawn(tasks)
    slopes.holds(learner.update, lambda: learner.meta_loss(episode))


def test_a_truncated_trajectory_stops_its_gradient_between_its_parts():
    """A part's gradient is that of a trajectory that begins there, with the state that there is."""
    tasks = Quadratics(dimensions=3, shots=4, queries=4)
    own = {"inner_lr": 0.1, "deviation": 1.0, "update": partial(LearnedOptimizer, layers=1, hidden=3)}
    learner, episode = optimizing(tasks, inner_steps=4, truncation=2, **own), drawn(tasks)
    whole = optimizing(tasks, inner_steps=4, truncation=4, **own)
    assert_close(learner.meta_loss(episode), whole.meta_loss(episode))
    learner.meta_backward(episode), whole.meta_backward(episode)
    weight = learner.update.linear.weight
    assert not torch.allclose(weight.grad, whole.update.linear.weight.grad, rtol=1e-3)
    parts = list(learner._parts(episode))
    alone = sum(torch.autograd.grad(part, weight, retain_graph=True)[0] for part in parts)
    assert len(parts) == 2
    assert_close(alone, weight.grad)


def test_memory_holds_one_part():
    """As many tensors are saved for the gradient of a long trajectory as for one part."""
    alive = most = 0

    class Saved:
        def __init__(self, tensor):
            nonlocal alive, most
            self.tensor, alive = tensor, alive + 1
            most = max(most, alive)

        def __del__(self):
            nonlocal alive
            alive -= 1

    def held(steps):
        nonlocal most
        most, tasks = 0, Quadratics(dimensions=3, shots=3, queries=3)
        learner, episode = optimizing(tasks, inner_steps=steps, truncation=3).train(), drawn(tasks)
        with torch.autograd.graph.saved_tensors_hooks(Saved, lambda saved: saved.tensor):
            learner.learn_from(episode, torch.Generator(), learner.optimizer())
        return most

    assert held(12) <= 1.1 * held(3)


def test_the_rule_takes_a_step_after_each_part():
    tasks = Quadratics(dimensions=3, shots=4, queries=4)
    learner = optimizing(tasks, inner_steps=4, truncation=2, update=RateAndMomentum).train()
    taken = []
    optimizer = learner.optimizer()
    optimizer.register_step_post_hook(
        lambda *_: taken.append([p.detach().clone() for p in learner.update.parameters()])
    )
    learner.learn_from(drawn(tasks), torch.Generator(), optimizer)
    assert len(taken) == 1
    assert any(p.grad is not None and p.grad.any() for p in learner.update.parameters())
    assert all(p.grad is None for p in learner.network.parameters())


def test_trajectories_grow():
    tasks = Quadratics(dimensions=2, shots=2, queries=2)
    learner = optimizing(tasks, inner_steps=7, truncation=3, curriculum=2).train()
    lengths = []
    for _ in range(6):
        lengths.append(learner.length)
        learner.meta_backward(drawn(tasks, 1))
    assert lengths == [3, 3, 6, 6, 7, 7]
    assert int(learner.state_dict()["meta_steps"]) == 6


def test_it_learns_to_beat_gradient_descent_at_the_rate_that_it_begins_with():
    tasks = Quadratics(dimensions=4, shots=4, queries=4)
    learner = optimizing(tasks, inner_lr=0.02, inner_steps=10, truncation=5, lr=0.05, update=RateAndMomentum)
    plain = optimizing(tasks, inner_lr=0.02, inner_steps=10, truncation=5, update=Sgd)
    rng, optimizer = np.random.default_rng(1), learner.train().optimizer()
    for _ in range(25):
        optimizer.zero_grad()
        learner.learn_from(cast(tasks.sample("train", 16, rng), torch.float64), torch.Generator(), optimizer)
        optimizer.step()
    episode = cast(draw(tasks, "validation"), torch.float64)
    with torch.no_grad():
        assert learner.eval().meta_loss(episode) < 0.8 * plain.meta_loss(episode)
    assert not list(plain.update.parameters())
    assert plain.meta_backward(episode) == pytest.approx(float(plain.meta_loss(episode).detach()))


def test_minibatches_and_networks_of_any_kind():
    case = CASES["classification"]
    learner = LearningToOptimize(case.backbone(), case.shape, inner_steps=3, truncation=3, batch=2)
    first, second = (next(learner.trajectory(case.episode(), 1)) for _ in range(2))
    assert not torch.equal(first["head.weight"], second["head.weight"])
    assert not torch.equal(first["head.weight"][0], first["head.weight"][1])
    assert (first["backbone.1.weight"] == 1).all()  # batch norm begins as it is built
    assert np.isfinite(learner.meta_backward(case.episode()))
    assert np.isfinite(LearningToOptimize(Constant(6), TaskShape((1, 8, 8), 3)).meta_backward(case.episode()))


def test_fewer_steps_than_a_part_are_refused():
    with refusal(ConfigError, "learner.truncation", "learner.inner_steps", 10, 20):
        LearningToOptimize(ToyBackbone(2, nn.Identity()), TaskShape((2,), 1), inner_steps=10)
