"""Weights that clean examples judge: against their equations, and through training, checkpoint and export."""

from __future__ import annotations

import copy
import io
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from facts import refusal
from small_models import described, trained
from torch import nn
from torch.testing import assert_close

import nas
from nas.controller import SupernetBudget, TrainSupernet
from nas.errors import ConfigError, Unsupported
from nas.evaluator import Job
from nas.export import save
from nas.learners.augmentation import chance
from nas.learners.base import Losses
from nas.learners.classifier import Classifier
from nas.learners.learning_to_reweight import LearningToReweight
from nas.learners.maml import Maml
from nas.learners.meta_weight_net import MetaWeightNet
from nas.learners.virtual import VirtualStep
from nas.learners.weighting import Judged, Uniform
from nas.plugins import load, resolve
from nas.precision import choose
from nas.settings.search import validate
from nas.settings.sections import maker
from nas.space import Architecture
from nas.tasks.supervised import Supervised
from nas.testing.learners import ToyBackbone, cast, image_classes
from nas.testing.toys import Toy
from nas.testing.weightings import WeightingSuite, minibatches
from nas.training.loop import Training, start
from nas.training.oneshot.assembly import assemble

pytestmark = pytest.mark.usefixtures("one_thread")

RATE = 0.05


class Ones(Judged):
    """Every example counts alike, but the judge is asked."""

    name = "ones"

    def forward(self, losses, targets):
        return torch.ones_like(losses)

    def weigh(self, losses, targets, judge):
        judge(torch.ones_like(losses))
        return torch.ones_like(losses)


class Free(Judged):
    """One ε an example, from 0, one step of gradient descent, clipped, normalized."""

    name = "free"

    def forward(self, losses, targets):
        return torch.ones_like(losses)

    def weigh(self, losses, targets, judge):
        epsilon = torch.zeros_like(losses)
        epsilon = (epsilon - 0.7 * judge(epsilon)).clamp(min=0)
        return epsilon / epsilon.sum(1, keepdim=True) * losses.shape[1]


class Nothing(Free):
    """Clean examples gain from no other: the judge is turned round where it says so."""

    def weigh(self, losses, targets, judge):
        return LearningToReweight().weigh(losses, targets, lambda weights: judge(weights).abs())


class TestLearningToReweight(WeightingSuite):
    @pytest.fixture
    def make(self):
        return LearningToReweight


class TestMetaWeightNet(WeightingSuite):
    @pytest.fixture
    def make(self):
        return MetaWeightNet


def network(norm=True):
    """Return a smooth network, so that finite differences converge."""
    layers = [nn.Conv2d(1, 3, 3, stride=2), *([nn.BatchNorm2d(3)] if norm else []), nn.Tanh(), nn.Flatten()]
    return ToyBackbone(27, *layers)


def classifier(weighting, dtype=torch.float64, norm=True, **settings):
    torch.manual_seed(0)
    made = Classifier(network(norm), minibatches().shape, **{"lr": RATE, "weight_decay": 0.0, **settings})
    return made.equip(weighting=weighting).to(dtype).train()


def judge_of(learner, batch):
    return VirtualStep(Losses(learner), batch, batch.clean, learner.optimizer())


def batches(dtype=torch.float64, **how):
    batch = minibatches(**how).episode
    return replace(cast(batch, dtype), clean=cast(batch.clean, dtype))


def flat(tensors):
    return torch.cat([tensor.flatten() for tensor in tensors])


def example_slopes(learner, batch):
    """Return the gradient of each example's loss in the network's weights, by a loop."""
    parameters = list(learner.network.parameters())
    losses = learner.criterion(learner(batch), batch.query_y, "example")[0]
    return torch.stack([flat(torch.autograd.grad(loss, parameters, retain_graph=True)) for loss in losses])


@pytest.mark.parametrize("norm", [True, False])
def test_weights_are_inner_products_of_gradients(norm):
    """u_i = α ⟨∇l_i(w), ∇L_clean(w)⟩, clipped and normalized (Ren et al. 2018)."""
    learner, batch = classifier(LearningToReweight, norm=norm), batches()
    step = judge_of(learner, batch)
    found = learner.weighting.weigh(step.losses.detach(), batch.query_y, step)[0]
    clean = learner.criterion(learner(batch.clean), batch.clean.query_y)
    direction = flat(torch.autograd.grad(clean, list(learner.network.parameters())))
    products = example_slopes(learner, batch) @ direction
    expected = products.clamp(min=0) / products.clamp(min=0).sum() * len(products)
    assert (products > 0).any()
    assert (products < 0).any()
    assert_close(found, expected, rtol=1e-6, atol=1e-9)
    slopes = step(torch.zeros_like(step.losses))[0]
    assert_close(slopes, -RATE / len(products) * products, rtol=1e-6, atol=1e-12)


def test_the_rate_cancels():
    batch, found = batches(), []
    for rate in (1e-3, 10.0):
        learner = classifier(LearningToReweight, lr=rate)
        step = judge_of(learner, batch)
        found.append(learner.weighting.weigh(step.losses.detach(), batch.query_y, step))
    assert_close(found[0], found[1])


def test_logistic_regression_by_hand():
    """u_i = Σ_j (p_i − y_i)(p_j − y_j) x_i·x_j / m: two classes, whose logits are 0 and w·x."""

    class Logistic(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.tensor([0.3, -0.5], dtype=torch.float64))

        def forward(self, episode):
            return F.binary_cross_entropy_with_logits(
                episode.query_x @ self.weight, episode.query_y.double(), reduction="none"
            )

    module, generator = Logistic(), torch.Generator().manual_seed(0)
    x, z = (torch.randn(1, n, 2, generator=generator, dtype=torch.float64) for n in (7, 4))
    y, t = (torch.arange(n).remainder(2)[None] for n in (7, 4))
    nothing = torch.empty(1, 0)
    batch = replace(image_classes(tasks=1), support_x=nothing, support_y=nothing, query_x=x, query_y=y)
    judge = VirtualStep(
        module, batch, replace(batch, query_x=z, query_y=t), torch.optim.SGD(module.parameters(), 0.1)
    )
    found = LearningToReweight().weigh(judge.losses.detach(), y, judge)[0]
    w = module.weight.detach()
    off, clean_off = (x[0] @ w).sigmoid() - y[0], (z[0] @ w).sigmoid() - t[0]
    u = (off[:, None] * clean_off[None] * (x[0] @ z[0].T)).mean(1)
    assert_close(found, u.clamp(min=0) / u.clamp(min=0).sum() * len(u))


def test_a_free_weight_an_example_is_learning_to_reweight():
    moved = []
    for weighting in (LearningToReweight, Free):
        learner = classifier(weighting)
        optimizer = learner.optimizer()
        for seed in range(3):
            optimizer.zero_grad()
            learner.learn_from(batches(seed=seed), chance(0), optimizer)
            optimizer.step()
        moved.append(list(learner.network.parameters()))
    assert_close(moved[0], moved[1])


def test_where_no_example_helps_all_weigh_nothing():
    learner = classifier(Nothing)
    loss = learner.learn_from(batches(), chance(0), learner.optimizer())
    assert loss == 0
    assert all(not p.grad.any() for p in learner.network.parameters())


@pytest.mark.parametrize("normalized", [True, False])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_the_hypergradient_is_a_difference(momentum, normalized):
    """dL_clean(ŵ(Θ))/dΘ, where ŵ = w − (α/n) Σ V_Θ(l_i) ∇l_i: plain descent, whatever the optimizer does."""
    made = partial(MetaWeightNet, normalized=normalized)
    learner, batch = classifier(made, momentum=momentum), batches()
    weighting, parameters = learner.weighting, list(learner.network.parameters())
    optimizer = learner.optimizer()
    optimizer.param_groups[0]["lr"] = 0.3  # that of the moment counts
    slopes = example_slopes(learner, batch)
    losses = learner.criterion(learner(batch), batch.query_y, "example").detach()

    def value():
        moved = copy.deepcopy(learner)
        with torch.no_grad():
            step = 0.3 * (weighting(losses, batch.query_y)[0] @ slopes) / losses.shape[1]
            parts = step.split([p.numel() for p in parameters])
            for p, part in zip(moved.network.parameters(), parts, strict=True):
                p -= part.view_as(p)
            return moved.criterion(moved(batch.clean), batch.clean.query_y).item()

    expected = []
    for p in weighting.layers.parameters():
        direction = torch.randn(p.shape, generator=torch.Generator().manual_seed(1)).double()
        ends = []
        for shift in (1e-5, -2e-5, 1e-5):
            with torch.no_grad():
                p += shift * direction
            ends.append(value())
        expected.append((ends[0] - ends[1]) / 2e-5)
    judge = VirtualStep(Losses(learner), batch, batch.clean, optimizer)
    weights = weighting(losses, batch.query_y)
    found = torch.autograd.grad(weights, list(weighting.layers.parameters()), judge(weights.detach()))
    for slope, wanted in zip(found, expected, strict=True):
        direction = torch.randn(slope.shape, generator=torch.Generator().manual_seed(1)).double()
        assert float((slope * direction).sum()) == pytest.approx(wanted, rel=1e-6, abs=1e-12)


def test_weights_are_relative_to_those_of_their_task():
    weighting = MetaWeightNet().double()
    losses = torch.rand(2, 5, generator=torch.Generator().manual_seed(0)).double()
    weights, plain = weighting(losses, losses), weighting.function(losses)
    assert_close(weights, plain / plain.mean(1, keepdim=True))
    with torch.no_grad():
        weighting.layers[2].bias.fill_(-1e4)  # V is 0, to the last bit
    assert not weighting(losses, losses).any()


def test_a_step_is_of_the_function_first_then_of_the_network():
    learner, batch = classifier(MetaWeightNet), batches()
    optimizer, twin = learner.optimizer(), copy.deepcopy(learner)
    step = judge_of(twin, batch)
    weights = twin.weighting(step.losses.detach(), batch.query_y)
    layers = list(twin.weighting.layers.parameters())
    adam = torch.optim.Adam(layers, 1e-4, weight_decay=1e-4)
    for p, slope in zip(layers, torch.autograd.grad(weights, layers, step(weights.detach())), strict=True):
        p.grad = slope
    adam.step()
    with torch.no_grad():
        new = twin.weighting(step.losses, batch.query_y)
    (new * step.losses).mean().backward()
    learner.learn_from(batch, chance(0), optimizer)
    assert_close(list(learner.weighting.parameters()), list(twin.weighting.parameters()))
    assert_close([p.grad for p in learner.network.parameters()], [p.grad for p in twin.network.parameters()])
    assert all(p.grad is None for p in learner.weighting.parameters())
    assert learner.weighting.measurements()["weight_mean"] == pytest.approx(new.mean().item())


def test_weights_of_one_are_plain_training():
    """Bit by bit, running averages and momentum included."""
    states = []
    for weighting in (Uniform, Ones):
        learner = classifier(weighting, dtype=torch.float32, momentum=0.9, weight_decay=1e-3)
        learner.network.backbone.add_module("drop", nn.Dropout(0.3))
        optimizer = learner.optimizer()
        torch.manual_seed(5)
        for seed in range(4):
            optimizer.zero_grad()
            learner.learn_from(batches(torch.float32, seed=seed), chance(0), optimizer)
            optimizer.step()
        states.append({**learner.network.state_dict(), "chance": torch.get_rng_state()})
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert any("running_mean" in name for name in states[0])


def test_what_lacks_clean_examples_is_refused():
    batch = minibatches().episode
    for weighting in (LearningToReweight(), MetaWeightNet()):
        weighting.check(batch)
        with refusal(ConfigError, "learner.weighting", weighting.name, "tasks.clean"):
            weighting.check(replace(batch, clean=None))
    MetaWeightNet().check(image_classes())
    with refusal(ConfigError, "learner.weighting", "tasks.clean"):
        LearningToReweight().check(image_classes())


def test_on_few_shot_tasks_queries_count_alike():
    """However small V is: it weighs the support alone."""
    weighting = partial(MetaWeightNet, normalized=False)
    learner = Maml(ToyBackbone(64, nn.Flatten()), minibatches().shape).equip(weighting=weighting)
    predictions, labels = torch.randn(2, 5, 3), torch.tensor([[0, 1, 2, 0, 1]] * 2)
    with torch.no_grad():
        learner.weighting.layers[2].bias.fill_(-30)
    losses = learner.criterion(predictions, labels)
    assert torch.equal(learner.mean_loss(predictions, labels), losses)
    assert learner.task_losses(predictions, labels).max() < 1e-9 * losses


def test_on_few_shot_tasks_the_function_learns_with_the_rest():
    torch.manual_seed(0)
    episode = image_classes()
    learner = Maml(ToyBackbone(64, nn.Flatten()), minibatches().shape).equip(weighting=MetaWeightNet).train()
    optimizer = learner.optimizer()
    before = [p.detach().clone() for p in learner.weighting.parameters()]
    learner.learn_from(episode, chance(0), optimizer)
    optimizer.step()
    assert not any(torch.equal(a, b) for a, b in zip(before, learner.weighting.parameters(), strict=True))
    assert "weight_at_1" in learner.weighting.measurements()
    assert "weight_mean" not in learner.weighting.measurements()


@pytest.fixture
def noisy(tmp_path):
    """Return ordinary data, a third of whose labels are wrong, with clean examples."""
    rng = np.random.default_rng(0)
    y = np.arange(600) % 3
    x = rng.integers(0, 120, (600, 1, 6, 6), dtype=np.uint8)
    x[np.arange(600), 0, 2 * y] += 130
    np.savez(tmp_path / "stripes.npz", x=x, y=y)
    settings = {"batch": 30, "clean": 5, "noise": "flip", "noise_rate": 0.35}
    return Supervised(path=str(tmp_path / "stripes.npz"), **settings)


def begun(tasks, weighting, seed=3, episodes=12):
    make = maker("learner", {"name": "classifier", "lr": 0.1, **resolve_weighting(weighting)})
    space = Toy()
    architecture = Architecture(space.name, tuple(0 for _ in space.decisions))
    return start(space, architecture, tasks, make, "float32", episodes, seed)


def resolve_weighting(name):
    found = resolve(Classifier, {"lr": 0.1, "weighting": name}, "learner")
    return {key: value for key, value in found.items() if key != "lr"}


@pytest.mark.parametrize("weighting", ["learning_to_reweight", "meta_weight_net"])
@pytest.mark.parametrize("done", [1, 7])
def test_an_interrupted_training_goes_on_to_the_same_bits(noisy, weighting, done):
    """Through a file: the function, its moments and the mean of the weights included."""
    whole = begun(noisy, weighting)
    expected = list(whole.until(12))
    before = begun(noisy, weighting)
    seen = list(before.until(done))
    file = io.BytesIO()
    torch.save(before.state(), file)
    file.seek(0)
    after = begun(noisy, weighting, seed=99)
    after.restore(torch.load(file, weights_only=True))
    assert seen + list(after.until(12)) == expected
    ended, wanted = after.learner.state_dict(), whole.learner.state_dict()
    assert ended.keys() == wanted.keys()
    assert all(torch.equal(ended[name], value) for name, value in wanted.items())
    assert after.state().keys() == whole.state().keys()
    assert ("weighting" in whole.state()) == (weighting == "meta_weight_net")


def test_running_averages_are_moved_by_one_pass_alone():
    moved = []
    for weighting in (Uniform, LearningToReweight, MetaWeightNet):
        learner = classifier(weighting)
        learner.learn_from(batches(), chance(0), learner.optimizer())
        moved.append(dict(learner.network.named_buffers()))
    assert_close(moved[0], moved[1])
    assert_close(moved[0], moved[2])


def test_weights_tell_right_labels_from_wrong_ones(noisy):
    training = begun(noisy, "learning_to_reweight", episodes=60)
    list(training.until(60))
    numbers, wrong = noisy.wrong()
    batch = noisy.minibatches(numbers[None, :200])
    clean = noisy.sample("train", 1, np.random.default_rng(0)).clean
    step = VirtualStep(Losses(training.learner), batch, clean, training.learner.optimizer())
    weights = training.learner.weighting.weigh(step.losses.detach(), batch.query_y, step)[0]
    wrong = torch.from_numpy(wrong[:200])
    assert weights[~wrong].mean() > 3 * weights[wrong].mean()


def patterns(folder, classes, **how):
    """Return ordinary data: a pattern a class, seen through noise."""
    rng, labels = np.random.default_rng(0), np.arange(3000) % classes
    images = 128 + 50 * rng.normal(size=(classes, 6, 6))[labels] + 30 * rng.normal(size=(3000, 6, 6))
    path = folder / "patterns.npz"
    np.savez(path, x=images.clip(0, 255).astype(np.uint8), y=labels)
    return Supervised(path=str(path), batch=50, train=0.8, validation=0.1, clean=10, **how)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize(
    ("classes", "how", "falls"),
    [(5, {"noise": "uniform", "noise_rate": 0.4}, True), (2, {"imbalance": 50.0}, False)],
    ids=["wrong labels", "rare classes"],
)
def test_large_losses_weigh_less_under_wrong_labels_and_more_where_classes_are_rare(
    tmp_path, classes, how, falls, seed
):
    """As Shu et al. 2019 find: what begins as a function of chance takes the form that the data asks for."""
    tasks = patterns(tmp_path, classes, **how)
    torch.manual_seed(seed)
    backbone = ToyBackbone(32, nn.Flatten(), nn.Linear(36, 32), nn.ReLU())
    learner = Classifier(backbone, tasks.shape, lr=0.05).equip(weighting=partial(MetaWeightNet, lr=1e-3))
    list(Training(learner, tasks, 200, seed, choose("float32", images=True, sensitive=False)).until(200))
    function = learner.weighting.function(torch.tensor([0.1, 1.0, 4.0])).tolist()
    assert function == sorted(function, reverse=falls)
    assert max(function) > 2 * min(function)


def context(tasks, **learner):
    sections = {
        "space": "mlp",
        "controller": "random",
        "tasks": {"name": "supervised", "path": "unused.npz"},
        "learner": {"name": "classifier", "lr": 0.1, **learner},
        "budget": {"train_episodes": 20, "validation_episodes": 2},
        "executor": "inline",
    }
    config = validate(sections)
    return config, config.make_context(config.make_space(), tasks)


def test_a_trial_tells_the_mean_and_the_function(noisy):
    config, given = context(noisy, weighting="meta_weight_net")
    architecture = config.make_space().sample(np.random.default_rng(0))
    outcomes = list(config.make_evaluator(given).evaluate(Job(0, 0, architecture, 0)))
    seen = [(m.metric, m.value) for outcome in outcomes for m in outcome.measurements]
    names = {name for name, _ in seen}
    assert {"train_loss", "weight_mean", "weight_at_0.1", "weight_at_1", "weight_at_4"} <= names
    assert len([name for name, _ in seen if name == "weight_mean"]) == len(outcomes)
    assert all(0 < value < 1 for name, value in seen if name.startswith("weight_at"))
    assert all(value == pytest.approx(1) for name, value in seen if name == "weight_mean")


def test_a_supernet_is_not_weighed_by_clean_examples(noisy):
    _, given = context(noisy, weighting="meta_weight_net")
    given = replace(given, space=load("space", "few_shot")(channels=4))
    with refusal(Unsupported, "learner.weighting", "meta_weight_net"):
        assemble(given, TrainSupernet("darts", {}, 1, SupernetBudget(epochs=1, steps=1)), 0)


@pytest.mark.parametrize("suffix", [".pt", ".json"])
def test_a_model_holds_the_function(tmp_path, suffix):
    section = {"name": "classifier", **resolve(Classifier, {"weighting": "meta_weight_net"}, "learner")}
    model, original = trained(described(learner=section))
    save(model, tmp_path / f"model{suffix}")
    loaded = nas.load(tmp_path / f"model{suffix}")
    assert loaded.description.learner["weighting"]["name"] == "meta_weight_net"
    losses = torch.linspace(0, 5, 7)[None]
    with torch.no_grad():
        assert torch.equal(loaded.learner.weighting(losses, losses), original.weighting(losses, losses))
