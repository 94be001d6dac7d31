"""The controllers that learn a model of scores, and the parts of their models."""

import logging
import math
from dataclasses import replace
from statistics import NormalDist
from typing import Any

import numpy as np
import pytest
import torch
from grids import rest_slow
from torch import Tensor
from torch.distributions import MultivariateNormal

from controllers.bananas import Bananas, Ensemble
from controllers.gp import LENGTHS, NOISES, Gp, distances, expected_improvement, fitted
from controllers.model_based import WORST, ModelBased, normal_scores
from controllers.random import Random
from nas.controller import Controller, Outcome, Score
from nas.errors import Infeasible, Unsupported
from nas.objective import Objective
from nas.product import Product
from nas.settings_space import Settings
from nas.space import Architecture
from nas.states import TrialState
from nas.testing.controllers import completed, generator, mixed, simulate
from nas.testing.toys import Toy

SMALL: dict[str, Any] = {"initial": 5, "candidates": 30, "parents": 4, "points": 30}
MODELS = pytest.mark.parametrize("cls", [Gp, Bananas])


def scored(architecture: Architecture, value: float, state: TrialState = TrialState.COMPLETED) -> Outcome:
    return Outcome(state, architecture, Score(value, 0.0, 1))


def data(points: int = 12, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(seed)
    features, others = torch.randint(0, 3, (points, 4)).double(), torch.randint(0, 3, (6, 4)).double()
    return features, torch.randn(points).double(), others


def test_normal_scores_are_quantiles_of_ranks() -> None:
    quantile = NormalDist().inv_cdf
    assert normal_scores([3.0, -1e9, math.inf]).tolist() == pytest.approx(
        [quantile(3 / 6), quantile(5 / 6), quantile(1 / 6)]
    )
    assert normal_scores([2.0, 2.0, 1.0, 5.0]).tolist() == pytest.approx(
        [quantile(4 / 8), quantile(4 / 8), quantile(7 / 8), quantile(1 / 8)]
    )


# The Gaussian process


def test_the_likeliest_length_and_noise_are_chosen() -> None:
    """Against the density of a multivariate normal, computed for each, at the likeliest scale."""
    features, targets, _ = data()
    process = fitted(features, targets)
    count, apart = len(features), distances(features, features)
    assert torch.allclose(apart, torch.cdist(features, features).square())
    rms, best = math.sqrt(float(apart.sum()) / (count * (count - 1))), -math.inf
    for length in LENGTHS:
        for noise in NOISES:
            k = torch.exp(-apart / (2 * (rms * length) ** 2)) + noise * torch.eye(count).double()
            scale = float(targets @ torch.linalg.solve(k, targets)) / count
            likelihood = float(MultivariateNormal(torch.zeros(count).double(), scale * k).log_prob(targets))
            if likelihood > best:
                best, chosen = likelihood, (rms * length, noise, scale)
    assert process.likelihood == pytest.approx(best)
    assert (process.length, process.noise, process.scale) == pytest.approx(chosen)


def test_the_posterior_is_that_of_a_joint_normal() -> None:
    features, targets, others = data()
    process = fitted(features, targets)
    mean, deviation = process.posterior(others)
    k = process.kernel(features, features) + process.noise * torch.eye(len(features)).double()
    across = process.kernel(others, features)
    covariance = process.kernel(others, others) - across @ torch.linalg.solve(k, across.T)
    assert torch.allclose(mean, across @ torch.linalg.solve(k, targets))
    assert torch.allclose(deviation, (process.scale * covariance.diagonal()).sqrt())


def test_what_is_believed_narrows_as_an_observation_at_its_mean_does() -> None:
    features, targets, others = data()
    process = fitted(features, targets)
    believed, at = others[:2], others[2:]
    more = torch.cat([features, believed])
    k = process.kernel(more, more) + process.noise * torch.eye(len(more)).double()
    across = process.kernel(at, more)
    expected = 1 - (across * torch.linalg.solve(k, across.T).T).sum(1)
    mean, deviation = process.posterior(at, believed)
    assert torch.allclose(mean, process.posterior(at)[0])
    assert torch.allclose(deviation, (process.scale * expected).sqrt())
    values = torch.cat([targets, process.posterior(believed)[0]])
    assert torch.allclose(mean, across @ torch.linalg.solve(k, values))


def test_expected_improvement_is_its_integral() -> None:
    mean, deviation = torch.tensor([0.3, -1.0]).double(), torch.tensor([0.5, 1.5]).double()
    z = torch.linspace(-9, 9, 20_001).double()
    density = torch.exp(-z.square() / 2) / math.sqrt(2 * math.pi)
    gains = (mean[:, None] + deviation[:, None] * z - 0.7).clamp_min(0)
    integral = torch.trapezoid(gains * density, z)
    assert torch.allclose(expected_improvement(mean, deviation, 0.7), integral, rtol=1e-5)


# The ensemble


def test_the_written_out_gradient_is_that_of_autograd() -> None:
    features, targets, _ = data()
    ensemble = Ensemble(features, targets, np.random.default_rng(0), members=3, hidden=5, steps=0)
    inputs, y = torch.randn(3, len(features), 4), targets.float()[:, None]
    leaves = [p.clone().requires_grad_() for p in ensemble.parameters]
    ensemble.parameters = leaves
    x = inputs
    for place in range(0, 6, 2):
        x = x @ leaves[place] + leaves[place + 1]
        x = x.relu() if place < 4 else x
    expected = torch.autograd.grad((x - y).square().mean(1).sum(), leaves)
    with torch.no_grad():
        found = ensemble.gradient(inputs, y)
    for a, b in zip(found, expected, strict=True):
        assert torch.allclose(a, b, atol=1e-6)


def test_training_is_that_of_torchs_adam() -> None:
    features, targets, others = data()

    def made(steps: int) -> Ensemble:
        return Ensemble(features, targets, np.random.default_rng(0), members=2, hidden=5, steps=steps)

    ours, start = made(20), made(0)
    parameters = [p.clone().requires_grad_() for p in start.parameters]
    adam = torch.optim.Adam(parameters, 0.01, (0.9, 0.99), weight_decay=1e-4)
    inputs, y = start._inputs(features), targets.float()[:, None]
    for step in range(1, 21):
        adam.param_groups[0]["lr"] = 0.01 * 0.5 * (1 + math.cos(math.pi * step / 20))
        start.parameters = [p.detach() for p in parameters]
        for parameter, slope in zip(parameters, start.gradient(inputs, y), strict=True):
            parameter.grad = slope
        adam.step()
    start.parameters = [p.detach() for p in parameters]
    assert torch.allclose(ours.predict(others), start.predict(others), atol=1e-4)


def test_it_learns_what_it_is_shown() -> None:
    features = torch.eye(8).double()
    targets = torch.linspace(-1, 1, 8).double()
    predicted = Ensemble(features, targets, np.random.default_rng(0), members=5).predict(features)
    assert predicted.shape == (5, 8)
    assert float((predicted - targets).abs().max()) < 0.1


# The controllers


@MODELS
@pytest.mark.parametrize("workers", rest_slow([1, 4], [4]))
def test_no_network_is_tried_twice_or_while_it_runs(cls: type[ModelBased], workers: int) -> None:
    space = Toy(layers=3)
    run = simulate(cls(space, 0, **SMALL), mixed(0), trials=60, workers=workers)
    keys = [space.canonical(proposal.architecture) for proposal in run.proposals]
    assert len(set(keys)) == 60


@MODELS
def test_a_small_space_is_found_out_and_no_search_ends(cls: type[ModelBased]) -> None:
    space = Toy(layers=2)
    run = simulate(cls(space, 0, **SMALL), completed(space.score), trials=60)
    keys = {space.canonical(proposal.architecture) for proposal in run.proposals}
    assert len(keys) > 35  # of 40
    assert space.score(run.best.architecture) == 1.0


@pytest.mark.slow
@MODELS
def test_it_beats_random_search_on_slots(cls: type[ModelBased]) -> None:
    """A network and a setting of the learner: the best of 40 trials over 6 seeds."""
    toy = Toy(layers=6)
    rates = Settings("learner", {"lr": (0.001, 0.01, 0.1)}, {"lr": 0.01})
    space = Product({"backbone": toy, "learner": rates})

    def score(architecture: Architecture) -> float:
        parts = space.parts(architecture)
        return toy.score(parts["backbone"]) - abs(parts["learner"].choices[0] - 2)

    def best(made: Controller, seed: int) -> float:
        run = simulate(made, completed(score), trials=40, seed=seed, workers=2)
        return score(run.best.architecture)

    gaps = [best(cls(space, s, **SMALL), s) - best(Random(space, s), s) for s in range(6)]
    assert sum(gaps) > 0
    assert min(gaps) >= 0


@MODELS
def test_a_model_that_fails_stops_no_search_and_says_so_once(
    cls: type[ModelBased], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    space = Toy()
    controller = cls(space, 0, **SMALL)

    def broken(*_: object) -> Tensor:
        raise torch.linalg.LinAlgError("singular")

    monkeypatch.setattr(cls, "rank", broken)
    with caplog.at_level(logging.WARNING):
        run = simulate(controller, completed(space.score), trials=20)
    assert len(run.proposals) == 20
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    monkeypatch.setattr(cls, "rank", lambda self, candidates, *_: torch.full((len(candidates),), math.nan))
    run = simulate(cls(space, 0, **SMALL), completed(space.score), trials=20)
    parents = {space.canonical(o.architecture) for _, o in run.history if o.architecture}
    assert len(parents) == 20


class Picky(Toy):
    """One whose features tell that some networks cannot be built."""

    def features(self, architecture: Architecture) -> Any:
        if architecture.choices[1] == 0:
            raise Infeasible("too narrow")
        return self.one_hot(architecture)


@MODELS
def test_what_has_no_features_is_never_chosen_by_the_model(cls: type[ModelBased]) -> None:
    space = Picky(layers=4)

    def evaluate(_: int, architecture: Architecture) -> Outcome:
        if architecture.choices[1] == 0:
            return Outcome(TrialState.INFEASIBLE, architecture, error="too narrow")
        return scored(architecture, space.score(architecture))

    run = simulate(cls(space, 0, **SMALL), evaluate, trials=40, workers=3)
    later = [p.architecture.choices[1] for p in run.proposals[SMALL["initial"] + 3 :]]
    assert 0 not in later


def test_the_model_learns_from_the_best_and_the_latest() -> None:
    space = Toy()
    controller = Gp(space, 0, points=4)
    seen = {n: space.sample(generator(0, n)) for n in range(8)}
    for number, value in enumerate([9, 1, 8, 2, 7, 3, 4, 5]):
        controller.observe(number, scored(seen[number], value))
    features, targets = controller.learned
    expected = [seen[n] for n in (0, 2, 6, 7)]
    assert features.tolist() == [space.one_hot(one).tolist() for one in expected]
    assert targets.tolist() == normal_scores([-9, -1, -8, -2, -7, -3, -4, -5])[[0, 2, 6, 7]].tolist()


def test_what_failed_ranks_last_and_the_last_score_of_a_network_counts() -> None:
    space = Toy()
    controller = Gp(space, 0)
    a, b, c = (space.sample(generator(0, n)) for n in range(3))
    controller.observe(0, scored(a, 0.1, TrialState.STOPPED))
    controller.observe(1, Outcome(TrialState.FAILED, b, error="memory"))
    controller.observe(2, scored(c, -50.0))
    controller.observe(3, scored(a, -60.0))
    controller.observe(4, Outcome(TrialState.STOPPED, b))
    assert [one.rank for one in controller.known.values()] == [WORST, (0, 50.0), (0, 60.0)]
    assert [one.architecture for one in controller.best] == [c, a]
    controller.observe(5, replace(scored(b, -70.0), train_episodes=9))
    assert [one.architecture for one in controller.best] == [b, c, a]


@MODELS
def test_it_takes_a_cost_and_no_two_goals(cls: type[ModelBased]) -> None:
    controller = cls(Toy(), 0, **SMALL)
    with pytest.raises(Unsupported):
        controller.aim(Objective(("score", "macs")))
    controller.aim(Objective(("macs",)))
    architecture = Toy().sample(generator(0, 0))
    controller.observe(0, Outcome(TrialState.COMPLETED, architecture, costs={"macs": 7.0}))
    assert [one.rank for one in controller.best] == [(0, 7.0)]
