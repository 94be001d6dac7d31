import math
import pickle

import numpy as np
import pytest
from facts import refusal
from pydantic import TypeAdapter, ValidationError

from nas.learners.schedule import Schedule, decay
from nas.plugins import installed, load, settings
from nas.testing.learners import CASES

FORMULAS = {
    "constant": lambda progress: 1,
    "linear": lambda progress: 1 - progress,
    "cosine": lambda progress: math.cos(math.pi * progress / 2) ** 2,
}


@pytest.mark.parametrize("schedule", FORMULAS)
def test_factors(schedule):
    found = [decay(schedule)(progress) for progress in np.linspace(0, 1, 11)]
    assert found == pytest.approx([FORMULAS[schedule](progress) for progress in np.linspace(0, 1, 11)])
    assert found[0] == 1
    assert pickle.loads(pickle.dumps(decay(schedule)))(0.3) == decay(schedule)(0.3)


def test_these_are_all():
    for schedule in FORMULAS:
        TypeAdapter(Schedule).validate_python(schedule)
    with refusal(ValidationError, "'constant'", "'linear'", "'cosine'"):
        TypeAdapter(Schedule).validate_python("step")


@pytest.mark.parametrize("name", installed("learner"))
@pytest.mark.parametrize("schedule", FORMULAS)
def test_every_learner_follows_it(name, schedule):
    cls = load("learner", name)
    assert "schedule" in settings(cls)
    case = CASES["classification"]
    learner = cls(case.backbone(), case.shape, schedule=schedule)
    assert learner.decay(0.25) == pytest.approx(FORMULAS[schedule](0.25))
    default = cls(case.backbone(), case.shape)
    assert default.decay(0.5) == pytest.approx(FORMULAS[settings(cls)["schedule"].default](0.5))
