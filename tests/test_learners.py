import math

import pytest
import torch
from torch import nn

from nas.learners.base import Learner, query_scores, task_loss
from nas.plugins import installed, load, settings
from nas.testing.learners import LearnerSuite, image_classes, planes

LEARNERS = list(installed("learner"))


class TestEveryLearner(LearnerSuite):
    @pytest.fixture(params=LEARNERS)
    def make(self, request):
        return load("learner", request.param)


@pytest.mark.parametrize("name", LEARNERS)
def test_a_learner_describes_itself(name):
    cls = load("learner", name)
    assert issubclass(cls, Learner)
    assert cls.name == name
    assert all(field.description and not field.is_required() for field in settings(cls).values())
    assert {"lr", "meta_batch"} <= settings(cls).keys()


def test_scores_are_accuracy_and_minus_mse():
    episode = image_classes(tasks=2, ways=3, queries=2)
    right = nn.functional.one_hot(episode.query_y, 3).float()
    wrong = right.clone()
    wrong[1, :3] = 1 - right[1, :3]
    assert query_scores(right, episode).tolist() == [1, 1]
    assert query_scores(wrong, episode).tolist() == [1, 0.5]
    regression = planes(tasks=2)
    assert query_scores(regression.query_y + 2, regression).tolist() == pytest.approx([-4, -4])


def test_losses_are_means():
    logits = torch.tensor([[[1.0, 2.0, 4.0], [0.0, 0.0, 0.0]]])
    by_hand = [math.log(math.exp(1) + math.exp(2) + math.exp(4)) - 2, math.log(3)]
    assert task_loss(logits, torch.tensor([[1, 0]])).item() == pytest.approx(sum(by_hand) / 2)
    values = torch.tensor([[[1.0, 2.0], [3.0, 5.0]]])
    assert task_loss(values, torch.zeros(1, 2, 2)).item() == pytest.approx((1 + 4 + 9 + 25) / 4)
