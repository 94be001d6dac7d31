"""Meta-LSTM: with gates that stand still it is gradient descent; every coordinate is by itself."""

import pytest
import torch
from facts import refusal
from small_networks import draw_network, draw_tasks
from torch import nn
from torch.testing import assert_close

from nas.errors import ConfigError
from nas.learners.folded import stacked
from nas.learners.inner import adapt
from nas.learners.maml import Maml
from nas.learners.meta_lstm import MetaLstm
from nas.learners.update import Sgd
from nas.testing.learners import CASES, convolutional, image_classes, train
from nas.testing.update_rules import SmoothTasks, start

pytestmark = pytest.mark.usefixtures("one_thread")

RATE, OPEN = 0.3, 40.0
EXACT = {"rtol": 1e-12, "atol": 1e-12}


def logit(value):
    return torch.tensor(value, dtype=torch.float64).logit().item()


def stand(rule, **biases):
    """Let gates be constants, whatever the LSTM reads; each has the bias that is given, or is open."""
    with torch.no_grad():
        for name, gate in rule.named_children():
            if name != "lstm":
                for parameter in gate.parameters():
                    parameter.zero_()
                gate.bias.fill_(biases.get(name, OPEN))
    return rule


def ended(rule, steps=6):
    with torch.no_grad():
        return adapt(SmoothTasks(1), stacked(start(), 3), rule, steps, order=1).weights


def stood(weights, rate, **settings):
    return stand(MetaLstm(weights, rate, **settings).double(), enter=logit(rate))


def test_it_has_the_parameters_of_the_paper():
    assert sum(p.numel() for p in MetaLstm(start(), 0.1).parameters()) == 2046
    rule = MetaLstm(start(), 0.01)
    assert 0.98 < rule.forget.bias.sigmoid() < 0.994
    assert 0.006 < rule.enter.bias.sigmoid() < 0.017


def test_fixed_gates_are_gradient_descent():
    assert_close(ended(stood(start(), RATE)), ended(Sgd(start(), RATE)), **EXACT)


def test_a_forget_gate_is_weight_decay():
    """f = 1 − αλ is the step of torch's SGD with weight decay λ."""
    decay, tasks = 0.2, SmoothTasks(1)
    rule = stand(MetaLstm(start(), RATE).double(), enter=logit(RATE), forget=logit(1 - RATE * decay))
    weights = {n: w.clone().requires_grad_() for n, w in stacked(start(), 3).items()}
    optimizer = torch.optim.SGD(list(weights.values()), RATE, weight_decay=decay)
    for _ in range(6):
        optimizer.zero_grad()
        tasks(weights).sum().backward()
        optimizer.step()
    assert_close(ended(rule), {n: w.detach() for n, w in weights.items()}, **EXACT)


def test_the_second_version_is_heavy_ball():
    """With σ(a) = β, σ(b) = α and the upper gates open it is α and β of torch's SGD."""
    rule = MetaLstm(start(), RATE, accumulates=True).double()
    stand(rule, lower_forget=logit(0.7), lower_enter=logit(RATE))
    assert_close(ended(rule), ended(Sgd(start(), RATE, momentum=0.7)), **EXACT)


@pytest.mark.parametrize("order", [1, 2])
def test_maml_with_fixed_gates_is_first_order_maml(order):
    """The same meta-gradient of the initial weights, whatever the order: gradients are constants."""

    def learner(update, order):
        backbone, shape = draw_network(0)
        torch.manual_seed(0)
        made = Maml(backbone, shape, inner_lr=RATE, inner_steps=3, order=order, update=update).double()
        return made, draw_tasks(shape, 2)

    lstm, episode = learner(stood, order)
    plain, _ = learner(Sgd, 1)
    assert_close(lstm(episode), plain(episode), **EXACT)
    lstm.meta_backward(episode)
    plain.meta_backward(episode)
    for own, other in zip(lstm.network.parameters(), plain.network.parameters(), strict=True):
        assert_close(own.grad, other.grad, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("accumulates", [False, True])
def test_coordinates_may_be_permuted(accumulates):
    torch.manual_seed(0)
    order = torch.randperm(7)
    rule = MetaLstm({"a": torch.zeros(7)}, RATE, accumulates=accumulates).double()
    curve = torch.linspace(0.5, 3, 7, dtype=torch.float64)
    values = torch.randn(2, 7, dtype=torch.float64)

    def after(curve, values):
        with torch.no_grad():
            return adapt(lambda w: (curve * w["a"] ** 4).sum(1), {"a": values}, rule, 4, order=1).weights["a"]

    assert_close(after(curve[order], values[:, order]), after(curve, values)[:, order], **EXACT)


def test_gates_remember_what_they_were_before_the_sigmoid():
    """One coordinate by hand, two steps, with numbers for all weights of the gates."""
    rule = MetaLstm({"a": torch.zeros(1)}, 0.2, hidden=1).double()
    with torch.no_grad():
        for parameter in rule.lstm.parameters():
            parameter.zero_()
        for gate, numbers in ((rule.forget, (0.5, 0.25, 2.0)), (rule.enter, (-0.5, 0.5, -1.0))):
            gate.value.fill_(numbers[0]), gate.before.fill_(numbers[1]), gate.bias.fill_(numbers[2])
    weight, f, i = torch.tensor(1.5, dtype=torch.float64), 0.0, 0.0
    for _ in range(2):
        f, i = 0.5 * weight + 0.25 * f + 2.0, -0.5 * weight + 0.5 * i - 1.0
        weight = f.sigmoid() * weight - i.sigmoid() * 2 * weight
    begin = {"a": torch.tensor([[1.5]], dtype=torch.float64)}
    with torch.no_grad():
        found = adapt(lambda w: (w["a"] ** 2).sum(1), begin, rule, 2, order=1).weights["a"]
    assert_close(found[0, 0], weight, **EXACT)


@pytest.mark.parametrize("accumulates", [False, True])
def test_gates_learn(accumulates):
    torch.manual_seed(0)
    learner = Maml(
        convolutional(),
        CASES["classification"].shape,
        inner_steps=3,
        lr=0.01,
        update=lambda weights, lr: MetaLstm(weights, lr, accumulates=accumulates),
    )
    before = nn.utils.parameters_to_vector(learner.update.parameters()).detach().clone()
    losses = train(learner, image_classes(tasks=2), steps=15)
    assert losses[-1] < losses[0]
    assert (nn.utils.parameters_to_vector(learner.update.parameters()) != before).all()


def test_a_rate_that_no_gate_has_is_refused():
    with refusal(ConfigError, "learner.inner_lr", "meta_lstm", 0.5):
        MetaLstm(start(), 1.0)
