from __future__ import annotations

import pytest
from facts import refusal
from grids import rest_slow

from nas.backbone import BackboneSpace
from nas.errors import Unsupported
from nas.space import TaskShape
from nas.testing.supernets import SupernetSuite
from nas.testing.toys import Toy
from search_spaces.darts import Darts
from search_spaces.enas_macro import EnasMacro
from search_spaces.enas_micro import EnasMicro
from search_spaces.few_shot import FewShot
from search_spaces.mobile import Mobile
from search_spaces.nasbench201 import NasBench201

SPACES = {
    "nasbench201": NasBench201(channels=3),
    "nasbench201 as published": NasBench201(channels=3, prune=False),
    "darts": Darts(channels=2, cells=4),
    "few_shot": FewShot(channels=3),
    "enas_micro": EnasMicro(channels=4, blocks=2),
    "mobile": Mobile(stages=2, stem=3, widths=(2, 3), expansions=(2, 3)),
    "enas_macro": EnasMacro(channels=2, layers=4),
}


class TestInstalledSpaces(SupernetSuite):
    @pytest.fixture(params=rest_slow(SPACES, ("nasbench201", "few_shot")))
    def space(self, request: pytest.FixtureRequest) -> BackboneSpace:
        return SPACES[request.param]

    @pytest.fixture
    def shape(self) -> TaskShape:
        return TaskShape((2, 7, 8), 5)


def test_a_space_without_a_supernet_says_so() -> None:
    with refusal(Unsupported, "'toy'"):
        Toy().supernet(TaskShape((4,), 2))
