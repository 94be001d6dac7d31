"""MANN: its memory by hand, what it may know of a label, and when."""

from dataclasses import replace
from functools import partial

import pytest
import slopes
import torch
import torch.nn.functional as F
from facts import refusal
from symbols import SYMBOLS, symbols
from torch import nn
from torch.testing import assert_close

from nas.errors import ConfigError
from nas.learners.mann import Mann, Memory, by_presentation
from nas.learners.matching import Matching
from nas.space import TaskShape
from nas.testing.learners import CASES, LearnerSuite, ToyBackbone

pytestmark = pytest.mark.usefixtures("one_thread")

SMALL = {"hidden": 24, "rows": 16, "width": 8, "reads": 2}


class TestMann(LearnerSuite):
    @pytest.fixture
    def make(self):
        return partial(Mann, **SMALL, lr=3e-3)


def small(seed=0, case="classification", **settings):
    torch.manual_seed(seed)
    return Mann(CASES[case].backbone(), CASES[case].shape, **{**SMALL, **settings})


def test_a_memory_writes_where_its_gates_say():
    memory = Memory(rows=5, width=3, reads=2, decay=0.9)
    torch.manual_seed(0)
    like = torch.zeros(2, 1, dtype=torch.float64)
    stored = memory.begin(like)
    assert (stored.content == 1e-6).all()
    for step in range(6):
        keys, values = (torch.randn(2, 2, 3, dtype=torch.float64) for _ in range(2))
        gate = torch.rand(2, 2, 1, dtype=torch.float64) if step % 2 else torch.zeros(2, 2, 1).double()
        after = memory(keys, values, gate, stored)
        for task in range(2):
            idle = stored.usage[task].argsort(stable=True)[:2]
            content, usage = stored.content[task].clone(), 0.9 * stored.usage[task]
            content[idle] = 0
            for head in range(2):
                where = gate[task, head] * stored.weights[task, head]
                where[idle[head]] += 1 - gate[task, head, 0]
                content += where[:, None] * values[task, head]
                usage = usage + where
            weights = torch.stack(
                [F.cosine_similarity(key[None], content, eps=1e-9).softmax(-1) for key in keys[task]]
            )
            assert_close(after.content[task], content)
            assert_close(after.weights[task], weights)
            assert_close(after.usage[task], usage + weights.sum(0))
            assert_close(after.read[task], weights @ content)
        assert_close(after.weights.sum(-1), torch.ones(2, 2).double())
        if not gate.any():  # the rest of the memory is as it was
            kept = torch.ones(2, 5, dtype=torch.bool).scatter(
                1, stored.usage.argsort(dim=-1, stable=True)[:, :2], False
            )
            assert torch.equal(after.content[kept], stored.content[kept])
        stored = after


def test_a_memory_of_features_is_a_matching_network_without_temperature():
    """Key = feature, the label stored beside it, no gate, as many rows as examples."""
    case = CASES["classification"]
    episode, small_label = case.episode(torch.float64), 1e-7  # so that it does not turn a row
    torch.manual_seed(0)
    backbone = ToyBackbone(6, nn.Flatten(), nn.Linear(64, 6)).double()
    support, queries = (
        backbone(x.flatten(0, 1)).view(2, -1, 6) for x in (episode.support_x, episode.query_x)
    )
    labels, count = F.one_hot(episode.support_y, 3).double(), support.shape[1]
    memory = Memory(rows=count, width=9, reads=1, decay=0.95)
    stored, closed = memory.begin(support), torch.zeros(2, 1, 1, dtype=torch.float64)
    for t in range(count):
        value = torch.cat([support[:, t], small_label * labels[:, t]], -1)[:, None]
        stored = memory(value, value, closed, stored)
    key = F.pad(queries, (0, 3))
    cosines = F.normalize(key, dim=-1) @ F.normalize(stored.content, dim=-1).mT
    read = cosines.softmax(-1) @ stored.content[..., 6:] / small_label
    matching = Matching(backbone, case.shape, temperature=1.0).double()
    assert_close(read, matching(episode).exp(), rtol=1e-6, atol=1e-9)
    first = memory(key[:, :1], torch.zeros_like(key[:, :1]), closed, stored)  # reading is the memory's own
    assert_close(first.weights[:, 0].sum(-1), torch.ones(2).double())


def test_what_is_said_of_an_item_comes_before_its_label():
    """To the bit: another label changes what is said from the next item on, and nothing before."""
    learner, episode = small().eval(), CASES["classification"].episode()
    said, _, order = learner.stream(episode)
    position = 5
    changed = {"support_y": episode.support_y.clone(), "query_y": episode.query_y.clone()}
    item, supports = int(order[0, position]), episode.support_y.shape[1]
    name, index = ("support_y", item) if item < supports else ("query_y", item - supports)
    changed[name][:, index] = (changed[name][:, index] + 1) % 3
    again, _, _ = learner.stream(replace(episode, **changed))
    assert torch.equal(again[:, : position + 1], said[:, : position + 1])
    assert not torch.isclose(again[:, position + 1], said[:, position + 1]).all()


def test_queries_do_not_see_each_other():
    """Each is what a stream of the support and that query says last, its label shift included."""
    learner, episode = small().double().eval(), CASES["classification"].episode(torch.float64)
    predictions = learner(episode)
    support, queries = learner._features(episode)
    [order, _] = learner._order(support)
    labels = F.one_hot(episode.support_y, 3).double()[:, order]
    for q in range(queries.shape[1]):
        state = learner._begin(support)
        for t in range(len(order)):
            _, state = learner._step(support[:, order[t]], labels[:, t], state)
        assert_close(learner._step(queries[:, q], None, state)[0], predictions[:, q])


def test_presentations_are_counted():
    logits = F.one_hot(torch.tensor([[0, 1, 0, 0, 1, 1]]), 2).float()
    found = by_presentation(logits, torch.tensor([[0, 0, 1, 0, 1, 0]]))
    # first: item 0 right, item 2 wrong; second: item 1 wrong, item 4 right; third: item 3; fourth: item 5
    assert found[:4].tolist() == [0.5, 0.5, 1.0, 0.0]
    assert found[4:].isnan().all()


def test_the_first_presentation_is_a_guess():
    """Among the labels not yet seen: (1 + 1/2 + 1/3) / 3 at best with three classes."""
    torch.manual_seed(0)
    learner = Mann(ToyBackbone(SYMBOLS, nn.Identity()), TaskShape((SYMBOLS,), 3), **SMALL, lr=1e-2)
    optimizer = learner.optimizer()
    for step in range(60):
        optimizer.zero_grad()
        learner.meta_backward(symbols(32, seed=step))
        optimizer.step()
    told = learner.measurements()
    assert set(told) == {f"accuracy_at_{k}" for k in range(1, 5)}
    with torch.no_grad():
        said, targets, _ = learner.stream(symbols(1000, seed=9999))
    accuracy = by_presentation(said, targets)[0]
    assert 1 / 3 < accuracy < (1 + 1 / 2 + 1 / 3) / 3 + 0.03


def test_five_classes_leave_457_of_1000():
    assert sum(1 / k for k in range(1, 6)) / 5 == pytest.approx(0.457, abs=5e-4)


@pytest.mark.parametrize("case", CASES)
def test_its_gradient_is_that_of_differences(case):
    """The choice of rows to write has none; far from a tie it does not change."""
    backbone = ToyBackbone(4, nn.Flatten(), nn.LazyLinear(4), nn.Tanh())
    episode = CASES[case].episode(torch.float64, tasks=1, shots=1 if case == "classification" else 3)
    backbone(episode.support_x[0].float())
    torch.manual_seed(1)
    learner = Mann(backbone, CASES[case].shape, hidden=5, rows=6, width=3, reads=2).double().eval()
    slopes.holds(learner, lambda: learner.meta_loss(episode))


def test_a_support_beyond_the_memory_is_refused():
    with refusal(ConfigError, "learner.rows", 6, 5):
        small(rows=5)(CASES["classification"].episode())
    with refusal(ConfigError, "learner.reads", 8):
        small(reads=9, rows=8)
