from itertools import product

import numpy as np
import pytest
import torch
from torch import Tensor

from controllers.policy import Policy, ppo, reinforce
from nas.plugins import installed, load, resolve
from nas.space import Decision

DECISIONS = (
    Decision("a", ("x", "y", "z")),
    Decision("b", (0, 1)),
    Decision("only", ("one",)),
    Decision("c", (0, 1, 2), ((), (0,), (0, 1))),
)
ALL = torch.tensor(list(product(range(3), range(2), range(1), range(3))))


def policy(seed: int = 0, scale: float = 8.0, decisions: tuple[Decision, ...] = DECISIONS) -> Policy:
    """A policy far from uniform."""
    made = Policy(decisions, np.random.default_rng(seed), hidden=5)
    with torch.no_grad():
        for weight in made.parameters():
            weight *= scale
    return made


def gradients(loss: Tensor, of: Policy) -> Tensor:
    found = torch.autograd.grad(loss, list(of.parameters()), allow_unused=True)
    return torch.cat(
        [
            (torch.zeros_like(p) if g is None else g).flatten()
            for p, g in zip(of.parameters(), found, strict=True)
        ]
    )


def by_hand(of: Policy, choices: tuple[int, ...]) -> float:
    """The log-probability from the equations of the LSTM and the attention, in numpy."""
    w = {name: p.detach().numpy() for name, p in of.named_parameters()}

    def sigmoid(x: np.ndarray) -> np.ndarray:
        return 1 / (1 + np.exp(-x))

    size = w["recurrent"].shape[1]
    h, c, states, total = np.zeros(size), np.zeros(size), [], 0.0
    for step, decision in enumerate(DECISIONS):
        x = w["embedding"][step, choices[step - 1] if step else 0]
        i, f, g, o = np.split(w["input"] @ x + w["recurrent"] @ h, 4)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(c)
        states.append(h)
        logits = [w["head"][step, k] @ h + w["bias"][step, k] for k in range(len(decision.choices))]
        for k, anchors in enumerate(decision.anchors):
            if anchors:
                logits[k] += np.mean(
                    [w["attention"] @ np.tanh(w["previous"] @ states[a] + w["current"] @ h) for a in anchors]
                )
        total += logits[choices[step]] - np.log(np.exp(logits).sum())
    return float(total)


def test_log_prob_is_that_of_the_equations() -> None:
    of = policy()
    log_prob, _ = of.log_prob(ALL)
    expected = [by_hand(of, tuple(row)) for row in ALL.tolist()]
    assert log_prob.tolist() == pytest.approx(expected, abs=1e-12)
    assert max(expected) - min(expected) > 1


@torch.no_grad()
def test_probabilities_add_up_and_the_entropy_is_that_of_the_policy() -> None:
    log_prob, open_ = policy().log_prob(ALL)
    p = log_prob.exp()
    assert float(p.sum()) == pytest.approx(1, abs=1e-12)
    assert float((p * open_).sum()) == pytest.approx(float(-(p * log_prob).sum()), abs=1e-12)


def test_a_batch_is_its_rows() -> None:
    of = policy()
    together, _ = of.log_prob(ALL)
    alone = torch.cat([of.log_prob(row.unsqueeze(0))[0] for row in ALL])
    assert torch.allclose(together, alone, rtol=0, atol=1e-12)


def test_samples_come_as_often_as_they_are_probable() -> None:
    """Pearson's statistic over all architectures, below its 99.99 % quantile of 17 degrees of freedom."""
    of, rng, draws = policy(scale=4), np.random.default_rng(3), 2000
    p = of.log_prob(ALL)[0].exp().detach().numpy()
    rows = {tuple(row): i for i, row in enumerate(ALL.tolist())}
    counts = np.bincount([rows[of.sample(rng)] for _ in range(draws)], minlength=len(rows))
    assert (p * draws).min() > 5
    assert ((counts - p * draws) ** 2 / (p * draws)).sum() < 46.0


def test_greedy_takes_the_likeliest_choice_at_every_step() -> None:
    of = policy()
    choices = torch.tensor([of.greedy()])
    assert torch.equal(of.logits(choices).argmax(2), choices)


def test_drawing_depends_on_the_given_generator_alone() -> None:
    before = torch.get_rng_state()
    one, same, other = (Policy(DECISIONS, np.random.default_rng(seed)) for seed in (0, 0, 1))
    for a, b, c in zip(one.parameters(), same.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)
        assert not torch.equal(a, c)
    draws = [one.sample(np.random.default_rng(4)) for _ in range(2)]
    assert draws[0] == draws[1]
    assert torch.equal(torch.get_rng_state(), before)


def test_attention_changes_the_logits_of_anchored_choices_alone() -> None:
    of = policy()
    before = of.logits(ALL)
    with torch.no_grad():
        of.attention.add_(1.0)
    changed = (of.logits(ALL) != before).any(0)
    anchored = torch.zeros_like(changed)
    anchored[3, 1] = anchored[3, 2] = True
    assert torch.equal(changed, anchored)


def test_attention_sees_the_anchors_alone() -> None:
    """Of the states that attention reads, only those of anchors and the present one have a gradient."""
    of = policy()
    states = torch.randn(1, 4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    states.requires_grad_()
    logits = of._attend(torch.zeros(1, 1, 3, dtype=torch.float64), states, [3])
    seen = [torch.autograd.grad(logits[0, 0, k], states, retain_graph=True)[0][0] for k in (1, 2)]
    assert [g.any(1).tolist() for g in seen] == [[True, False, False, True], [True, True, False, True]]
    assert float(logits[0, 0, 0].detach()) == 0


def test_without_anchors_there_is_no_attention() -> None:
    assert not hasattr(Policy(DECISIONS[:3], np.random.default_rng(0)), "attention")


REWARDS = torch.linspace(-3, 2, len(ALL), dtype=torch.float64).sin() * 2
"""One for each architecture, without a pattern that a decision alone could follow."""


def test_reinforce_is_the_gradient_of_the_expected_reward() -> None:
    """Summed over all architectures, each as often as it is probable, for any baseline."""
    of = policy()
    p = of.log_prob(ALL)[0].exp()
    expected = gradients((p * REWARDS).sum(), of)
    for baseline in (0.0, 0.7):
        log_prob = of.log_prob(ALL)[0]
        weighted = torch.stack(
            [
                q * reinforce(lp.unsqueeze(0), (r - baseline).unsqueeze(0))
                for q, lp, r in zip(p.detach(), log_prob, REWARDS, strict=True)
            ]
        )
        assert torch.allclose(gradients(-weighted.sum(), of), expected, rtol=0, atol=1e-12)
    assert float(expected.abs().max()) > 0.01


def test_reinforce_on_draws_comes_near_it() -> None:
    of, rng = policy(), np.random.default_rng(0)
    p = of.log_prob(ALL)[0].exp()
    expected = gradients((p * REWARDS).sum(), of)
    share = p.detach().numpy()
    drawn = torch.from_numpy(rng.choice(len(ALL), 20_000, p=share / share.sum()))
    estimate = gradients(-reinforce(of.log_prob(ALL[drawn])[0], REWARDS[drawn]), of)
    assert (estimate - expected).norm() < 0.15 * expected.norm()


def test_ppo_is_the_gradient_of_the_expected_reward_at_first() -> None:
    of = policy()
    log_prob = of.log_prob(ALL)[0]
    p, expected = log_prob.exp().detach(), gradients((log_prob.exp() * REWARDS).sum(), of)
    log_prob = of.log_prob(ALL)[0]
    loss = ppo(log_prob, log_prob.detach(), p * REWARDS, 0.2) * len(ALL)
    assert torch.allclose(gradients(-loss, of), expected, rtol=0, atol=1e-12)


def test_ppo_later_is_that_of_what_is_not_clipped() -> None:
    """Architectures drawn from an older policy: the exact sum leaves out whose ratio profits already."""
    old, of, clip = policy(1), policy(1, 9.0), 0.1
    before = old.log_prob(ALL)[0].detach()
    now = of.log_prob(ALL)[0]
    ratio = (now - before).exp().detach()
    counts = ~(((REWARDS > 0) & (ratio > 1 + clip)) | ((REWARDS < 0) & (ratio < 1 - clip)))
    assert 0 < int(counts.sum()) < len(ALL)
    expected = gradients((now.exp() * REWARDS * counts).sum(), of)
    loss = ppo(of.log_prob(ALL)[0], before, before.exp() * REWARDS, clip) * len(ALL)
    assert torch.allclose(gradients(-loss, of), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", installed("space"))
def test_every_space(name: str) -> None:
    """What is drawn belongs to the space, and drawing and scoring agree on the probabilities."""
    cls = load("space", name)
    space = cls(**resolve(cls, {}, "space"))
    of, rng = Policy(space.decisions, np.random.default_rng(0)), np.random.default_rng(1)
    drawn = torch.tensor([of.sample(rng) for _ in range(3)])
    assert all(
        0 <= c < len(d.choices) for row in drawn.tolist() for c, d in zip(row, space.decisions, strict=True)
    )
    log_prob, entropy = of.log_prob(drawn)
    (log_prob.sum() + entropy.sum()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in of.parameters())
    greedy = torch.tensor([of.greedy()])
    assert torch.equal(of.logits(greedy).argmax(2), greedy)


@torch.no_grad()
def test_a_space_of_one_decision() -> None:
    of = Policy((Decision("a", (1, 2)),), np.random.default_rng(0))
    assert float(of.log_prob(torch.tensor([[0], [1]]))[0].exp().sum()) == pytest.approx(1)
