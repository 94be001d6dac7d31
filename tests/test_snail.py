"""SNAIL: causal to the bit, its queries in one pass, its size that of the paper."""

import itertools
from dataclasses import replace

import pytest
import slopes
import torch
import torch.nn.functional as F
from facts import refusal
from symbols import SYMBOLS, symbols
from torch import nn
from torch.testing import assert_close

from nas.errors import ConfigError
from nas.learners.snail import Attention, Attentive, Snail
from nas.space import TaskShape
from nas.testing.learners import CASES, ToyBackbone, train

pytestmark = pytest.mark.usefixtures("one_thread")


def net(filters=5, length=8, seed=0):
    torch.manual_seed(seed)
    return Attentive(6, 3, length, filters, 4).double()


def items(count, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, count, 6, dtype=torch.float64, generator=generator)


@pytest.mark.parametrize(("ways", "length", "size"), [(5, 6, 3.10e6), (20, 21, 6.36e6)])
def test_its_size_is_that_of_the_paper(ways, length, size):
    """Without the embedding, 1-shot on features of 64."""
    made = Attentive(64 + ways, ways, length, 128, 64)
    assert sum(p.numel() for p in made.parameters()) == pytest.approx(size, rel=0.002)


def test_nothing_sees_what_comes_after_it():
    """To the bit: items before a changed one, and every query but a changed one, stay as they are."""
    made, sequence, queries = net(), items(7), items(3, seed=2)
    changed, other = sequence.clone(), queries.clone()
    changed[:, 4], other[:, 1] = 9.0, -9.0
    before, answers = made(sequence, queries)
    after, others = made(changed, other)
    assert torch.equal(before[:, :4], after[:, :4])
    assert not torch.isclose(before[:, 4:], after[:, 4:]).all(-1).any()
    again = made(sequence, other)[1]
    assert torch.equal(again[:, [0, 2]], answers[:, [0, 2]])
    assert not torch.isclose(others, again).all(-1).any()


def test_queries_in_one_pass_are_sequences_of_their_own():
    made, sequence, queries = net(), items(6), items(4, seed=2)
    _, answers = made(sequence, queries)
    for q in range(4):
        whole = torch.cat([sequence, queries[:, q : q + 1]], 1)
        outputs, _ = made(whole, queries[:, :1])
        assert_close(outputs[:, -1], answers[:, q])
        assert_close(outputs[:, :-1], made(sequence, queries)[0])


def test_order_matters_to_temporal_convolutions_alone():
    sequence, queries = items(6), items(4, seed=2)
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    for filters, same in ((0, True), (5, False)):
        made = net(filters)
        # only the first attention: what later ones read of the support depends on where it stands
        if not filters:
            made.blocks = made.blocks[:1]
            made.last = nn.Linear(8, 3).double()
        agree = torch.allclose(made(sequence, queries)[1], made(sequence[:, order], queries)[1])
        assert agree is same


def test_it_looks_back_over_its_length():
    """With dilations 1, 2, 4 the last of eight items sees the first one, through convolutions alone."""
    made = net(length=8)
    for block in made.blocks:
        if isinstance(block, Attention):
            nn.init.zeros_(block.value.weight)
    sequence, queries = items(7), items(1, seed=2)
    for first in range(7):
        changed = sequence.clone()
        changed[:, first] += 1
        assert not torch.allclose(made(changed, queries)[1], made(sequence, queries)[1])


def test_attention_with_features_for_keys_is_a_matching_network():
    """Cosines over a temperature; a query reads its own label of zeros, which scales its probabilities."""
    torch.manual_seed(0)
    features, ways, temperature = 4, 3, 0.1
    attention = Attention(features + ways, features, ways).double()
    eye = torch.eye(features + ways, dtype=torch.float64)
    with torch.no_grad():
        for part in (attention.query, attention.key, attention.value):
            part.bias.zero_()
        attention.query.weight.copy_(eye[:features] * features**0.5 / temperature)
        attention.key.weight.copy_(eye[:features])
        attention.value.weight.copy_(eye[features:])
    support, queries = (F.normalize(torch.randn(2, n, features).double(), dim=-1) for n in (6, 5))
    labels = F.one_hot(torch.arange(6) % ways, ways).double().expand(2, -1, -1)
    _, read = attention(torch.cat([support, labels], -1), F.pad(queries, (0, ways)))
    expected = (queries @ support.mT / temperature).softmax(-1) @ labels
    found = read[..., -ways:]
    assert_close(found / found.sum(-1, keepdim=True), expected)


def test_relabelled_tasks_are_learned_alike():
    """No label is better known than another: which class has which is drawn anew in every task."""
    torch.manual_seed(0)
    backbone = ToyBackbone(SYMBOLS, nn.Identity())
    learner = Snail(backbone, TaskShape((SYMBOLS,), 3), filters=8, keys=8, length=4, lr=1e-2)
    optimizer = learner.optimizer()
    for step in range(80):
        optimizer.zero_grad()
        learner.meta_backward(symbols(32, queries=1, seed=step))
        optimizer.step()
    tasks, learner = symbols(200, seed=9999), learner.eval()
    for permutation in itertools.permutations(range(3)):
        episode = relabelled(tasks, torch.tensor(permutation))
        with torch.no_grad():
            assert (learner(episode).argmax(-1) == episode.query_y).float().mean() > 0.95


def relabelled(episode, permutation):
    return replace(episode, support_y=permutation[episode.support_y], query_y=permutation[episode.query_y])


def test_its_gradient_is_that_of_differences():
    torch.manual_seed(0)
    backbone = ToyBackbone(6, nn.Flatten(), nn.Linear(64, 6), nn.Tanh())
    learner = Snail(backbone, TaskShape((1, 8, 8), 3), filters=4, keys=4, length=8).double().eval()
    episode = CASES["classification"].episode(torch.float64)
    slopes.holds(learner, lambda: learner.meta_loss(episode))


def test_a_longer_sequence_is_refused():
    case = CASES["classification"]
    learner = Snail(case.backbone(), case.shape, length=6)
    with refusal(ConfigError, "learner.length", 7, 6):
        learner(case.episode())
    train(Snail(case.backbone(), case.shape, length=7, filters=4, keys=4), case.episode(), steps=1)
