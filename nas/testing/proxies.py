"""What every zero-cost proxy must do."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from nas import plugins
from nas.backbone import Cost
from nas.errors import Infeasible
from nas.learners.base import TENSORS, Learner
from nas.learners.maml import Maml
from nas.learners.prototypical import Prototypical
from nas.proxies.base import Proxy, Subject, measured
from nas.tasks.base import Episode
from nas.testing.learners import CASES, Constant, gradients

Make = Callable[[], Proxy]

LEARNERS: dict[str, type[Learner]] = {"maml": Maml, "prototypical": Prototypical}
"""One that learns through gradient steps, and one that compares."""


def subject(
    learner: str = "maml", case: str = "classification", backbone: nn.Module | None = None
) -> Subject:
    """Return a small network with seeded weights, before a few tasks; it costs what its weights tell."""
    tasks, made = CASES[case], LEARNERS[learner]
    if CASES[case].draw().regression and not made.regression:
        pytest.skip(f"{learner} only classifies")
    torch.manual_seed(0)
    network = tasks.backbone() if backbone is None else backbone
    counted = sum(weight.numel() for weight in network.parameters())
    return Subject(made(network, tasks.shape).train(), network, tasks.episode(), Cost(counted, counted, 0))


class ProxySuite(ABC):
    """Inherit it, and give the fixture `make`: what makes the proxy.

    class TestMine(ProxySuite):
        @pytest.fixture
        def make(self):
            return Mine
    """

    @abstractmethod
    def make(self) -> Make:
        """Return the proxy's class or a partial of it; a pytest fixture."""

    def test_it_describes_itself(self, make: Make) -> None:
        """It has a name, and every setting says what it means."""
        cls = type(make())
        assert cls.name
        assert [name for name, field in plugins.settings(cls).items() if not field.description] == []

    @pytest.mark.parametrize("case", CASES)
    @pytest.mark.parametrize("learner", LEARNERS)
    def test_it_measures_or_refuses(self, make: Make, learner: str, case: str) -> None:
        """A number that is finite, the same each time, or an `Infeasible` that says why."""
        found = [_value(make(), subject(learner, case)) for _ in range(2)]
        assert found[0] == found[1]
        assert found[0] if isinstance(found[0], str) else math.isfinite(found[0])

    @pytest.mark.parametrize("learner", LEARNERS)
    def test_an_ordinary_network_has_one(self, make: Make, learner: str) -> None:
        """A small network of convolutions, batch norm and ReLUs is not refused."""
        assert isinstance(_value(make(), subject(learner)), float)

    def test_it_draws_nothing(self, make: Make) -> None:
        """Equal whatever the state of torch's generator, which stays as it was."""
        found = []
        for seed in (1, 2):
            measuring = subject()
            torch.manual_seed(seed)
            before = torch.get_rng_state()
            found.append(measured(make(), measuring))
            assert torch.equal(torch.get_rng_state(), before)
        assert found[0] == found[1]

    @pytest.mark.parametrize("learner", LEARNERS)
    def test_the_network_stays_as_it_was(self, make: Make, learner: str) -> None:
        """Weights, gradients, running averages, modes and tasks; a second measurement is equal."""
        measuring = subject(learner)
        before, proxy = _state(measuring), make()
        first = measured(proxy, measuring)
        after = _state(measuring)
        assert before.keys() == after.keys()
        assert all(torch.equal(before[name], after[name]) for name in before)
        assert measured(proxy, measuring) == first

    def test_a_constant_network_is_no_better(self, make: Make) -> None:
        """Higher is better: one whose every path is cut is refused, or has less than one that computes."""
        cut = _value(make(), subject(backbone=Constant(6)))
        if isinstance(cut, float):
            assert cut < measured(make(), subject())

    def test_the_order_of_the_tasks_matters_little(self, make: Make) -> None:
        """It looks at the tasks as a set, or not at all."""
        measuring = subject("prototypical")
        turned = replace(measuring, episode=_reversed(measuring.episode))
        assert measured(make(), turned) == pytest.approx(measured(make(), measuring), rel=1e-3)


def _value(proxy: Proxy, measuring: Subject) -> float | str:
    try:
        return measured(proxy, measuring)
    except Infeasible as error:
        return str(error)


def _state(measuring: Subject) -> dict[str, Tensor]:
    learner = measuring.learner
    found = {f"state {name}": tensor.clone() for name, tensor in learner.state_dict().items()}
    found |= {f"gradient {name}": gradient for name, gradient in gradients(learner).items()}
    found |= {f"mode {name}": torch.tensor(m.training) for name, m in learner.named_modules()}
    return found | {name: getattr(measuring.episode, name).clone() for name in TENSORS}


def _reversed(episode: Episode) -> Episode:
    tensors = {name: getattr(episode, name).flip(0) for name in TENSORS}
    return replace(episode, **tensors, classes=episode.classes[::-1].copy())
