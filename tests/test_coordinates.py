"""Rules that go through the coordinates of the weights in blocks."""

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from nas.learners import base, coordinates
from nas.learners.anil import Anil
from nas.learners.base import Learner
from nas.learners.coordinates import blocks, joined, tanh
from nas.learners.learned_optimizer import LearnedOptimizer
from nas.learners.maml import Maml
from nas.learners.meta_lstm import MetaLstm
from nas.learners.update import Sgd, UpdateRule
from nas.space import TaskShape
from nas.tasks.base import Episode
from nas.testing.learners import convolutional, image_classes

TASKS = 3


@pytest.mark.parametrize(
    ("rule", "settings"),
    [(MetaLstm, {}), (MetaLstm, {"accumulates": True}), (LearnedOptimizer, {"second_order": True})],
)
def test_blocks_change_nothing(
    rule: type[UpdateRule], settings: dict[str, bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    weights = {"a": torch.randn(TASKS, 4, 5), "b": torch.randn(TASKS, 3)}
    learned = rule({name: weight[0] for name, weight in weights.items()}, 0.1, **settings)
    seen = []
    for size in (8192, TASKS * 4):
        monkeypatch.setattr(coordinates, "BLOCK", size)
        assert len(blocks(joined(weights))) == (1 if size == 8192 else 6)
        state, moved = learned.init(weights), weights
        for step in range(3):
            gradients = {name: weight.sin() + step for name, weight in moved.items()}
            state, moved = learned.step(state, moved, gradients, torch.arange(1.0, TASKS + 1))
        loss = joined(moved).square().sum()
        seen.append((moved, torch.autograd.grad(loss, list(learned.parameters()))))
    assert_close(*seen)


@pytest.mark.parametrize(
    ("rule", "settings"),
    [
        (MetaLstm, {}),
        (MetaLstm, {"accumulates": True}),
        (MetaLstm, {"hidden": 40}),
        (LearnedOptimizer, {}),
        (LearnedOptimizer, {"layers": 1}),
        (LearnedOptimizer, {"layers": 0}),
    ],
)
def test_a_rule_knows_what_its_graph_holds(rule: type[UpdateRule], settings: dict[str, int]) -> None:
    coordinates, steps, seen = 500, 3, {}

    def hold(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        seen[id(storage)] = storage  # which is not freed: no other has its address
        return tensor

    weights = {"w": torch.randn(TASKS, coordinates)}
    learned = rule({"w": weights["w"][0]}, 0.1, **settings)
    with torch.autograd.graph.saved_tensors_hooks(hold, lambda tensor: tensor):
        state, moved = learned.init(weights), weights
        for _ in range(steps):
            gradients = {"w": torch.randn(TASKS, coordinates)}
            state, moved = learned.step(state, moved, gradients, torch.rand(TASKS))
    floats = sum(storage.nbytes() for storage in seen.values()) / 4
    assert floats / (steps * TASKS * coordinates) == pytest.approx(learned.held, rel=0.15, abs=10)


@pytest.mark.parametrize(
    ("learner", "rule", "at_once"),
    [(Maml, Sgd, [3]), (Anil, Sgd, [3]), (Maml, MetaLstm, [1, 1, 1]), (Anil, MetaLstm, [2, 1])],
)
def test_fewer_graphs_of_a_learned_rule_are_held_at_once(
    learner: type[Learner], rule: type[UpdateRule], at_once: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = learner(convolutional(), TaskShape((1, 8, 8), 3), update=rule, inner_lr=0.1, inner_steps=1)
    seen, loss, episode = list[int](), made.meta_loss, image_classes(tasks=3)

    def counted(tasks: Episode) -> Tensor:
        seen.append(len(tasks))
        return loss(tasks)

    monkeypatch.setattr(made, "meta_loss", counted)
    monkeypatch.setattr(base, "HELD", 3 * (episode.support_x[0].numel() + episode.query_x[0].numel()))
    monkeypatch.setattr(base, "NODES", 10)
    made.meta_backward(episode)
    assert seen == at_once


def test_tanh() -> None:
    x = torch.linspace(-20, 20, 4001, dtype=torch.float64, requires_grad=True)
    assert_close(tanh(x), x.tanh())
    [slope], [expected] = (torch.autograd.grad(f(x).sum(), x) for f in (tanh, torch.tanh))
    assert_close(slope, expected)
