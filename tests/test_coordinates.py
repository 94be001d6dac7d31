"""Rules that go through the coordinates of the weights in blocks."""

import pytest
import torch
from torch.testing import assert_close

from nas.learners import coordinates
from nas.learners.coordinates import blocks, joined, tanh
from nas.learners.learned_optimizer import LearnedOptimizer
from nas.learners.meta_lstm import MetaLstm
from nas.learners.update import UpdateRule

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


def test_tanh() -> None:
    x = torch.linspace(-20, 20, 4001, dtype=torch.float64, requires_grad=True)
    assert_close(tanh(x), x.tanh())
    [slope], [expected] = (torch.autograd.grad(f(x).sum(), x) for f in (tanh, torch.tanh))
    assert_close(slope, expected)
