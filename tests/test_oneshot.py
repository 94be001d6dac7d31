"""Training a supernet: what is reported, and that a broken one goes on to the same bits."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from facts import refusal
from grids import rest_slow

from nas.backbone import BackboneSpace
from nas.controller import Outcome
from nas.driver.trials import Trials
from nas.errors import Diverged, Unsupported
from nas.evaluator import SupernetJob
from nas.executors.worker import reports
from nas.metrics import shared_metric
from nas.testing.controllers import ControllerSuite
from nas.testing.oneshot import Noisy, ToyOneShot, configure, context, job
from nas.testing.toy_supernet import ToyCurves
from nas.training.checkpoint import Checkpoint
from nas.training.oneshot import epochs as training
from nas.training.oneshot.assembly import assemble
from nas.training.oneshot.batches import Bilevel
from nas.training.oneshot.epochs import train_supernet


class TestOneShot(ControllerSuite):
    @pytest.fixture
    def space(self) -> BackboneSpace:
        return ToyCurves()

    @pytest.fixture
    def make(self, space: BackboneSpace) -> Any:
        return lambda seed: ToyOneShot(space, seed)


pytestmark = pytest.mark.usefixtures("one_thread")


def plain(outcomes: list[Outcome]) -> list[Any]:
    """Return all of the outcomes but times and processes."""
    return [
        (o.state, o.train_episodes, [m for m in o.measurements if m.metric != "process"], o.derived, o.error)
        for o in outcomes
    ]


QUICK: dict[str, Any] = {"tasks": {"name": "glyphs", "ways": 3, "queries": 2}, "learner": "prototypical"}
"""Sections of a search whose trainings take a tenth of those through an inner loop."""

LEARNERS = [
    "prototypical",
    {"name": "maml", "order": 2},
    {"name": "maml", "order": 1},
    "anil",
    "matching",
    "relation",
]


@pytest.mark.parametrize(
    "learner", rest_slow(LEARNERS, ("prototypical", {"name": "maml", "order": 2})), ids=str
)
def test_each_epoch_is_reported_and_the_best_are_derived(learner: Any) -> None:
    glyphs = {"name": "glyphs", "ways": 3, "queries": 2}
    outcomes = list(train_supernet(context(tasks=glyphs, learner=learner), job(derive=3)))
    assert [o.state for o in outcomes] == ["running"] * 4 + ["completed"]
    assert [o.train_episodes for o in outcomes[:4]] == [12, 24, 36, 48]  # 3 steps of 2 + 2 tasks
    for outcome in outcomes[:4]:
        metrics = {m.metric: m.value for m in outcome.measurements}
        assert {"train_loss", "supernet_score", "derived_score", "alpha.curve0.skip_connect"} <= set(metrics)
        [derived] = outcome.derived
        assert derived.score == metrics["derived_score"]
    scores = [derived.score for derived in outcomes[-1].derived]
    assert scores == sorted(scores, reverse=True)
    assert len({derived.architecture for derived in outcomes[-1].derived}) == 3
    assert all(outcome.architecture is None and outcome.score is None for outcome in outcomes)
    alphas = [[m.value for m in o.measurements if m.metric.startswith("alpha.")] for o in outcomes[:4]]
    assert len({tuple(alpha) for alpha in alphas}) == 4


def test_a_training_is_a_function_of_its_seed() -> None:
    shared = context(**QUICK)
    first, again = (plain(list(train_supernet(shared, job()))) for _ in range(2))
    assert first == again
    other = SupernetJob(0, 0, job().supernet, 8)
    assert plain(list(train_supernet(shared, other))) != first


@pytest.mark.slow
def test_a_sample_is_scored_with_the_shared_weights_and_changes_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What is derived has the score that it was derived by; what diverges has none."""
    shared = context()
    *_, alone = train_supernet(shared, job())
    assert alone.measurements == ()
    sample = tuple(derived.architecture for derived in alone.derived)
    *_, scored = train_supernet(shared, replace(job(), sample=sample))
    assert scored.derived == alone.derived
    found = {seen.metric: seen.value for seen in scored.measurements}
    expected = {shared_metric(shared.space.encode(own.architecture)): own.score for own in alone.derived}
    assert found == expected
    real, calls = training.score, []

    def diverging(*arguments: Any) -> Any:
        calls.append(0)
        if len(calls) > len(whole):
            raise Diverged("not finite")
        return real(*arguments)

    whole: list[int] = []
    monkeypatch.setattr(training, "score", lambda *a: whole.append(0) or real(*a))
    list(train_supernet(shared, job()))
    monkeypatch.setattr(training, "score", diverging)
    *_, lost = train_supernet(shared, replace(job(), sample=sample))
    assert lost.derived == alone.derived
    assert all(math.isnan(seen.value) for seen in lost.measurements)


@pytest.mark.slow
@pytest.mark.parametrize("learner", [{"name": "maml", "inner_lr": 0.01}, {"name": "anil", "inner_lr": 0.01}])
@pytest.mark.parametrize("epochs", [1, 3, 4])
def test_it_goes_on_from_a_checkpoint_to_the_same_bits(
    tmp_path: Path, learner: Any, epochs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared = context(learner=learner)
    whole = list(train_supernet(shared, job(tmp_path / "whole")))
    broken = train_supernet(shared, job(tmp_path))
    for _ in range(epochs):
        next(broken)
    broken.close()
    torch.manual_seed(99)
    steps = []
    step = Noisy.step
    monkeypatch.setattr(Noisy, "step", lambda *a, **k: steps.append(0) or step(*a, **k))
    resumed = list(train_supernet(shared, job(tmp_path)))
    assert plain(resumed) == plain(whole)
    assert len(steps) == (4 - epochs) * 3
    seconds = [outcome.seconds for outcome in resumed]
    assert seconds == sorted(seconds)


@pytest.mark.slow
def test_a_checkpoint_that_does_not_fit_is_passed_over(tmp_path: Path) -> None:
    shared = context()
    whole = plain(list(train_supernet(shared, job())))
    checkpoint = Checkpoint(tmp_path, "one")
    checkpoint.save({"learner": {}, "epochs": []})
    assert plain(list(train_supernet(shared, job(tmp_path)))) == whole
    good = checkpoint.path.read_bytes()
    for bad in (b"nothing", b"", good[: len(good) // 2]):
        checkpoint.path.write_bytes(bad)
        assert plain(list(train_supernet(shared, job(tmp_path)))) == whole


def test_a_strategy_may_end_the_training(tmp_path: Path) -> None:
    outcomes = list(train_supernet(context(**QUICK), job(tmp_path, stop=2)))
    assert [o.state for o in outcomes] == ["running", "running", "completed"]
    assert outcomes[-1].error == "asked to stop"
    assert len(outcomes[-1].derived) == 2
    assert plain(list(train_supernet(context(**QUICK), job(tmp_path, stop=2)))) == plain(outcomes)


def test_what_diverges_says_what_to_lower_and_leaves_no_checkpoint(tmp_path: Path) -> None:
    shared = context(learner={"name": "maml", "lr": 1e30, "inner_lr": 1e20})
    with refusal(Diverged, "learner.inner_lr", "learner.lr"):
        list(train_supernet(shared, job(tmp_path)))
    assert not Checkpoint(tmp_path, "one").path.exists()


def test_what_cannot_share_weights_is_refused() -> None:
    with refusal(Unsupported, "'chain'"):
        assemble(context(space="chain"), job().supernet, 0)
    with refusal(Unsupported, "'reptile'"):
        assemble(context(learner="reptile"), job().supernet, 0)


def test_losses_are_functions_of_mixture_and_weights() -> None:
    """Gradients by a stand-in for the weights equal those by the weights, and a batch stays what it is."""
    assembly = assemble(context(learner="maml"), job().supernet, 0)
    batches = Bilevel(assembly, context().tasks, 2, 0).next()
    mixture = [torch.softmax(torch.randn(4), 0).requires_grad_() for _ in range(3)]
    one = batches.inner(mixture)
    weights = {name: weight.detach().clone().requires_grad_() for name, weight in batches.weights.items()}
    two = batches.inner(mixture, weights)
    assert one.item() == two.item() != batches.outer(mixture).item()
    names = [name for name, weight in batches.weights.items() if weight.requires_grad]
    first = torch.autograd.grad(one, [batches.weights[name] for name in names] + mixture, allow_unused=True)
    second = torch.autograd.grad(two, [weights[name] for name in names] + mixture, allow_unused=True)
    for a, b in zip(first, second, strict=True):
        assert (a is None and b is None) or torch.equal(a, b)  # type: ignore[arg-type]
    assert any(gradient is not None and gradient.any() for gradient in first[-3:])


def test_only_what_is_asked_for_is_drawn() -> None:
    assembly = assemble(context(), job().supernet, 0)
    bilevel = Bilevel(assembly, context().tasks, 5, 0)
    batches = bilevel.next()
    assert bilevel.drawn == 0
    batches.inner(assembly.strategy.mixture())
    batches.inner(assembly.strategy.mixture())
    assert bilevel.drawn == 5


def test_a_supernet_that_fails_after_a_checkpoint_counts_all_its_seconds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = configure(**QUICK)
    broken = train_supernet(context(**QUICK), job(tmp_path))
    for _ in range(2):
        next(broken)
    broken.close()
    checkpoint = Checkpoint(tmp_path, "one")
    saved = checkpoint.load()
    assert saved is not None
    saved["seconds"] = saved["epochs"][-1]["seconds"] = 1e6
    checkpoint.save(saved)

    def failing(*_: Any) -> Any:
        raise RuntimeError

    monkeypatch.setattr(Noisy, "step", failing)
    *_, last = reports(Trials(config, config.make_tasks()), job(tmp_path))
    assert last.state == "failed"
    assert 1e6 < last.seconds < 2e6
