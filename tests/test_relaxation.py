import numpy as np
import pytest
import torch

from controllers.darts import Darts
from controllers.gdas import Gdas
from controllers.relaxation import Alpha
from nas.controller import SupernetBudget, TrainSupernet
from nas.space import Decision
from search_spaces.few_shot import FewShot

BUDGET = SupernetBudget(epochs=10, steps=25)


@pytest.mark.parametrize("controller", [Darts, Gdas])
@pytest.mark.parametrize(("given", "rate"), [(None, 6 / 250), (3e-4, 3e-4)])
def test_the_rate_of_alpha_goes_by_the_budget_unless_given(
    controller: type[Darts] | type[Gdas], given: float | None, rate: float
) -> None:
    made = controller(FewShot(), 0, budget=BUDGET, alpha_rate=given)
    proposal = made.propose(0, [], np.random.default_rng(0))
    assert isinstance(proposal, TrainSupernet)
    assert proposal.settings["alpha_rate"] == pytest.approx(rate)


def test_a_whole_training_can_move_alpha_by_6() -> None:
    alpha = Alpha([Decision("d", ("a", "b"))], np.random.default_rng(0), 6 / 250, 0.0)
    before = alpha.logits[0].detach().clone()
    for _ in range(250):
        alpha.step([torch.tensor([1.0, -1.0])])
    moved = alpha.logits[0].detach() - before
    torch.testing.assert_close(moved, torch.tensor([-6.0, 6.0]), rtol=0.01, atol=0)
