"""Zero-cost proxies against their formulas, written anew, and the evaluator that scores by them."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from facts import refusal
from scripted_searches import images, results, run
from torch import nn
from torch.testing import assert_close

from nas.backbone import Cost
from nas.errors import Infeasible
from nas.learners.base import Learner
from nas.learners.prototypical import Prototypical
from nas.learners.reptile import Reptile
from nas.plugins import installed, load
from nas.proxies.base import Subject, measured
from nas.proxies.jacov import FLOOR, Jacov
from nas.proxies.naswot import Naswot
from nas.proxies.saliency import Grasp, Snip
from nas.proxies.synflow import Synflow
from nas.settings.search import SearchConfig
from nas.space import TaskShape
from nas.storage.store import Store
from nas.tasks.base import Episode
from nas.testing.learners import CASES, ToyBackbone, convolutional, image_classes, planes
from nas.testing.proxies import ProxySuite
from nas.training.proxies import EXAMPLES, proxies
from nas.training.proxies import subject as untrained

pytestmark = pytest.mark.usefixtures("one_thread")

EVERY = {name: load("proxy", name) for name in installed("proxy")}


class TestInstalledProxies(ProxySuite):
    @pytest.fixture(params=EVERY)
    def make(self, request: pytest.FixtureRequest) -> Any:
        return EVERY[request.param]


class Direct(Learner):
    """Predicts by the backbone alone, with the learner's squared error: nothing adapts."""

    name = "direct"
    regression = True

    def __init__(self, backbone, shape):
        super().__init__(backbone, shape)
        self.backbone = backbone

    def forward(self, episode):
        return torch.stack([self.backbone(x) for x in episode.query_x])


def direct(backbone: nn.Module, episode: Episode) -> Subject:
    return Subject(Direct(backbone, TaskShape((2,), 1)), backbone, episode, Cost(1, 1, 1))


def regression(outputs: int = 1) -> Episode:
    episode = planes(tasks=1)
    double = {name: getattr(episode, name).double() for name in ("support_x", "query_x", "support_y")}
    targets = torch.randn(1, 5, outputs, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    return replace(episode, **double, query_y=targets)


def linear(inputs: int, outputs: int, bias: bool = False) -> ToyBackbone:
    return ToyBackbone(outputs, nn.Linear(inputs, outputs, bias=bias)).double()


# naswot


def test_naswot_of_codes_by_hand() -> None:
    """Codes 10, 11, 00 of two ReLUs agree on 2, 1, 1 / 2, 0 / 2 units: det [[2,1,1],[1,2,0],[1,0,2]] = 4."""
    backbone = ToyBackbone(2, nn.ReLU())
    x = torch.tensor([[1.0, -1.0], [2.0, 3.0], [-1.0, 0.0]])[None]
    episode = replace(planes(tasks=1), support_x=x[:, :1], query_x=x[:, 1:])
    assert measured(Naswot(), direct(backbone, episode)) == pytest.approx(math.log(4))


@pytest.mark.parametrize("write", [nn.functional.relu, torch.relu, lambda x: x.clone().relu_(), nn.ReLU()])
def test_naswot_by_brute_force_however_a_relu_is_written(write: Any) -> None:
    class Written(nn.Module):
        out_features = 8

        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(64, 40), nn.Linear(40, 8)

        def forward(self, x):
            x = x.flatten(1)
            self.seen = write(self.first(x)), write(self.second(write(self.first(x))))
            return self.seen[1]

    torch.manual_seed(0)
    measuring = direct(backbone := Written(), image_classes(tasks=2))
    value = measured(Naswot(), measuring)
    first, last = (seen.numpy() > 0 for seen in backbone.seen)
    codes = np.concatenate([first, first, last], 1)  # the first ReLU is passed twice
    hamming = (codes[:, None] != codes[None]).sum(-1)
    assert len(codes) == 24
    assert value == pytest.approx(np.linalg.slogdet(codes.shape[1] - hamming)[1], rel=1e-9)


@pytest.mark.parametrize("layers", [[nn.Linear(2, 8), nn.Tanh()], [nn.Linear(2, 3), nn.ReLU()]])
def test_naswot_refuses_where_codes_do_not_tell_images_apart(layers: list[nn.Module]) -> None:
    """Without a ReLU; with three for 22 images the kernel has rank 4 at most."""
    with refusal(Infeasible, "naswot"):
        measured(Naswot(), direct(ToyBackbone(3, *layers), planes(tasks=2)))


# jacov


def test_jacov_by_numeric_jacobians() -> None:
    """Each row by central differences of the summed predictions; then the formula of the paper's code."""
    tasks, h = CASES["classification"], 1e-5
    torch.manual_seed(0)
    smooth = ToyBackbone(
        6, nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.Tanh(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )
    learner = Prototypical(smooth, tasks.shape).double()
    episode = tasks.episode(torch.float64, tasks=2)
    value = measured(Jacov(), Subject(learner, smooth, episode, Cost(1, 1, 1)))
    queries, rows = episode.query_x, []
    for t in range(2):
        for q in range(queries.shape[1]):
            row = np.zeros(64)
            for pixel in range(64):
                ends = []
                for sign in (1, -1):
                    moved = queries.clone()
                    moved[t, q].view(-1)[pixel] += sign * h
                    with torch.no_grad():
                        ends.append(float(learner(replace(episode, query_x=moved)).sum()))
                row[pixel] = (ends[0] - ends[1]) / (2 * h)
            rows.append(row)
    spectrum, _ = np.linalg.eig(np.corrcoef(np.array(rows)))
    expected = -np.sum(np.log(spectrum.real + FLOOR) + 1 / (spectrum.real + FLOOR))
    assert value == pytest.approx(expected, rel=1e-4)


def test_jacov_is_higher_where_rows_are_less_alike() -> None:
    """Rows of a linear network are all alike, those of one with ReLUs are not.

    They have five places: two rows of two places are always correlated by 1 or -1.
    """
    torch.manual_seed(0)
    episode = regression(8)
    wide = {
        name: torch.randn(*getattr(episode, name).shape[:2], 5).double() for name in ("support_x", "query_x")
    }
    alike = ToyBackbone(8, nn.Linear(5, 8), nn.Linear(8, 8))
    apart = ToyBackbone(8, nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU())
    values = [measured(Jacov(), direct(b.double(), replace(episode, **wide))) for b in (alike, apart)]
    assert values[0] + 1000 < values[1]


# synflow


@pytest.mark.parametrize("depth", [1, 2, 4])
def test_synflow_is_conserved(depth: int) -> None:
    """Each of L layers in a row has Σ |w ∂R/∂w| = R = 1ᵀ|W_L| … |W_1|1 (Tanaka et al. 2020, theorem 1)."""
    torch.manual_seed(0)
    layers = [nn.Linear(3, 3, bias=False) for _ in range(depth)]
    between = [part for layer in layers for part in (layer, nn.ReLU(), nn.BatchNorm1d(3))]
    backbone = ToyBackbone(3, *between)
    flow = torch.ones(3)
    for layer in layers:
        flow = layer.weight.detach().abs() @ flow
    x = torch.randn(1, 4, 3)
    episode = replace(planes(tasks=1), support_x=x, query_x=x)
    assert measured(Synflow(), direct(backbone, episode)) == pytest.approx(math.log(depth * flow.sum()))


def test_synflow_takes_biases_along_but_counts_weights_alone() -> None:
    """R = |w₂| (|w₁| + |b₁|) + |b₂|: Σ |w ∂R/∂w| = |w₂||w₁| + |w₂| (|w₁| + |b₁|)."""
    backbone = ToyBackbone(1, nn.Linear(1, 1), nn.Linear(1, 1))
    for parameter, value in zip(backbone.parameters(), (-2.0, -3.0, 5.0, 7.0), strict=True):
        nn.init.constant_(parameter, value)
    x = torch.full((1, 2, 1), 9.0)
    episode = replace(planes(tasks=1), support_x=x, query_x=x)
    assert measured(Synflow(), direct(backbone, episode)) == pytest.approx(math.log(5 * 2 + 5 * (2 + 3)))


# snip and grasp


def test_snip_and_grasp_of_least_squares_in_closed_form() -> None:
    """L = mean (XWᵀ − Y)²: g = 2/n (WXᵀ − Yᵀ)X and Hv = 2/n vXᵀX."""
    torch.manual_seed(0)
    episode, backbone = regression(outputs=3), linear(2, 3)
    x, y, w = episode.query_x[0], episode.query_y[0], backbone[0].weight.detach()
    g = 2 / y.numel() * (w @ x.mT - y.mT) @ x
    assert measured(Snip(), direct(backbone, episode)) == pytest.approx(float((w * g).abs().sum()))
    h = 2 / y.numel() * g @ x.mT @ x
    assert measured(Grasp(), direct(backbone, episode)) == pytest.approx(-float((w * h).sum()))


def masked(measuring: Subject) -> tuple[float, float]:
    """Return both as their papers define them: by masks over weights, and by the change of ½‖g‖² along them.

    SNIP: |∂L/∂c| where c multiplies a weight, at 1. GraSP: −θᵀHg, here the slope of −½‖g(θ)‖² as θ grows
    by itself, by central differences. In float64.
    """
    learner, weights, h = measuring.learner, measuring.weights, 1e-6
    masks = [torch.ones_like(w, requires_grad=True) for w in weights]
    before = [w.detach().clone() for w in weights]
    names = {id(p): n for n, p in learner.named_parameters()}

    class Loss(nn.Module):
        def __init__(self):
            super().__init__()
            self.learner = learner

        def forward(self):
            return learner.meta_loss(measuring.episode)

    scaled = {f"learner.{names[id(w)]}": w.detach() * c for w, c in zip(weights, masks, strict=True)}
    loss = torch.func.functional_call(Loss(), scaled, ())
    snip = sum(float(g.abs().sum()) for g in torch.autograd.grad(loss, masks))
    halves = []
    for sign in (1, -1):
        with torch.no_grad():
            for w, was in zip(weights, before, strict=True):
                w.copy_(was * (1 + sign * h))
        g = torch.autograd.grad(learner.meta_loss(measuring.episode), weights)
        halves.append(sum(float((part**2).sum()) for part in g) / 2)
    with torch.no_grad():
        for w, was in zip(weights, before, strict=True):
            w.copy_(was)
    return snip, -(halves[0] - halves[1]) / (2 * h)


@pytest.mark.parametrize("name", ["prototypical", "maml", "relation", "anil"])
def test_snip_and_grasp_as_their_papers_define_them(name: str) -> None:
    """Through the loss of learners that compare, and of those with an inner loop."""
    tasks = CASES["classification"]
    torch.manual_seed(0)
    backbone = ToyBackbone(6, nn.Conv2d(1, 6, 3, bias=False), nn.BatchNorm2d(6), nn.Tanh(), nn.Flatten())
    backbone.out_features = 6 * 36
    learner = load("learner", name)(backbone, tasks.shape).double().train()
    measuring = Subject(learner, backbone, tasks.episode(torch.float64, tasks=2), Cost(1, 1, 1))
    snip, grasp = masked(measuring)
    assert measured(Snip(), measuring) == pytest.approx(snip, rel=1e-6)
    assert measured(Grasp(), measuring) == pytest.approx(grasp, rel=1e-4)


def test_a_learner_whose_update_is_no_gradient_has_a_loss_all_the_same() -> None:
    torch.manual_seed(0)
    backbone = convolutional()
    learner = Reptile(backbone, CASES["classification"].shape).train()
    measuring = Subject(learner, backbone, image_classes(), Cost(1, 1, 1))
    assert measured(Snip(), measuring) > 0
    assert math.isfinite(measured(Grasp(), measuring))


# In a search


def configure(**changes: Any) -> SearchConfig:
    return images(**{"evaluator": {"name": "proxy", "proxy": "synflow"}} | changes)


def test_a_search_scores_by_a_proxy(store: Store) -> None:
    """The score is the proxy under the trial's own seed, and `run` twice is equal."""
    config = configure()
    first = run(store, config)
    assert [state for _, state, *_ in first] == ["completed"] * 3
    context = config.make_context(config.make_space(), config.make_tasks())
    for _, _, text, score, seed in first:
        trainee = context.trainee(context.space.decode(text))
        assert score == proxies(trainee, seed, {"synflow": Synflow()})["synflow"]
    assert run(store, config.model_copy(update={"name": "again"})) == first == results(store, "again")


def test_the_weights_are_those_that_a_training_begins_with() -> None:
    from nas.training.loop import start

    config = configure(learner="maml", resources={"precision": "float32"})
    context = config.make_context(space := config.make_space(), config.make_tasks())
    trainee = context.trainee(architecture := space.decode("residual"))
    begun = start(space, architecture, context.tasks, context.learner, "float32", 1, 7).learner
    assert_close(untrained(trainee, 7).learner.state_dict(), begun.state_dict(), rtol=0, atol=0)


def test_tasks_hold_as_many_examples_as_wanted_and_are_always_the_same() -> None:
    config = configure(tasks={"name": "glyphs", "ways": 2, "queries": 2})
    context = config.make_context(space := config.make_space(), config.make_tasks())
    seen = [untrained(context.trainee(space.decode("residual")), seed) for seed in range(2)]
    assert len(seen[0].images) == len(seen[0].episode) * 6 >= EXAMPLES > len(seen[0].images) - 6
    assert torch.equal(seen[0].images, seen[1].images)


def test_a_network_without_the_number_is_infeasible(store: Store) -> None:
    """A network of tanh has no ReLU codes, but a flow."""
    config = configure(
        space="mlp",
        controller={"name": "fixed", "architectures": ["40-40-0-tanh"]},
        tasks="sinusoid",
        learner="maml",
        evaluator="proxy",
        trials=1,
    )
    with refusal(Infeasible, "'naswot'"):
        run(store, config)
    assert [state for _, state, *_ in results(store, "@last")] == ["infeasible"]
    context = config.make_context(space := config.make_space(), config.make_tasks())
    found = proxies(
        context.trainee(space.decode("40-40-0-tanh")), 0, {n: EVERY[n]() for n in ("naswot", "snip")}
    )
    assert found["naswot"] is None
    assert found["snip"] > 0
