"""`nas show` of a network: of a space, and of a trial with what it chose besides."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path

import pytest
from command_line import nas
from facts import lacking

from nas.errors import Infeasible
from nas.layers import layers
from nas.space import TaskShape
from nas.testing.spaces import some
from search_spaces.chain import Chain
from search_spaces.darts import Darts
from search_spaces.few_shot import FewShot
from search_spaces.mlp import Mlp
from search_spaces.nasbench201 import NasBench201


@pytest.mark.parametrize("space", [Chain(), Darts(), FewShot(), Mlp(), NasBench201()], ids=lambda s: s.name)
def test_layers_sum_up_to_the_cost(space: Chain | Darts | FewShot | Mlp | NasBench201) -> None:
    shape = TaskShape((1, 28, 28), 5)
    counted = 0
    for architecture in some(space, 8):
        with suppress(Infeasible):
            rows, cost = layers(space, architecture, shape), space.cost(architecture, shape)
            assert sum(row.parameters for row in rows) == cost.parameters
            assert sum(row.macs for row in rows) == cost.macs
            counted += 1
    assert counted


def test_a_network_that_cannot_be_built_is_drawn_all_the_same() -> None:
    code, out, err = nas("show", "few_shot:max_pool|none~0|+|none~0|none~1|/max_pool|none~0|+|none~0|none~1|")
    assert (code, lacking(out, "stage 2", "empty"), lacking(err, "stage 1")) == (0, [], [])


def test_a_network_of_a_space(tmp_path: Path) -> None:
    code, out, err = nas("show", "few_shot:residual", "--set", "space.channels=12", "--layers", "-f", "json")
    assert code == 0, err
    shown = json.loads(out)
    assert shown["layers"][0] == {
        "layer": "body.0.0",
        "kind": "Conv2d 3×3",
        "output": "12×28×28",
        "parameters": 12 * 9,
        "macs": 12 * 9 * 28 * 28,
    }
    assert sum(row["parameters"] for row in shown["layers"]) == shown["parameters"]
    code, out, err = nas("show", "few_shot:residual")
    assert (code, lacking(out, "stage 1", "conv_3x3", "skip_connect")) == (0, [])
    file = tmp_path / "cell.svg"
    code, out, err = nas("show", "few_shot:residual", "-o", str(file))
    assert (code, lacking(err, str(file))) == (0, [])
    assert "conv_3x3" in file.read_text(encoding="utf-8")


def test_a_network_for_other_images() -> None:
    arguments = ("show", "few_shot:residual", "--set=space.channels=12", "--layers", "-f", "json")
    code, out, err = nas(*arguments, "--input=3x84x84")
    assert code == 0, err
    [first, *_] = json.loads(out)["layers"]
    assert (first["output"], first["parameters"]) == ("12×84×84", 12 * 3 * 9)
    for wrong in ("3x84", "axbxc", "0x1x1", ""):
        code, _, err = nas(*arguments, f"--input={wrong}")
        assert (code, lacking(err, "--input", "3x84x84")) == (2, [])


@pytest.mark.parametrize(
    ("arguments", "facts"),
    [
        (("few_shot:nothing",), ("nothing", "residual")),
        (("fewshot:residual",), ("fewshot", "few_shot")),
        (("few_shot:residual", "-o", "cell.gif"), ("cell.gif", ".svg")),
        (("few_shot:residual", "--set", "space.channels=0"), ("space.channels",)),
        (("few_shot:residual", "--set", "learner.lr=1"), ("space.channels=36",)),
        (("few_shot:residual", "--set", "space"), ("KEY=VALUE",)),
        (("mine/0", "--set", "space.channels=2"), ("SPACE:ARCHITECTURE", "mine/0")),
        (("mine", "-o", "cell.svg"), ("mine/0",)),
    ],
)
def test_refusals(arguments: tuple[str, ...], facts: tuple[str, ...], tmp_path: Path) -> None:
    db = f"sqlite:///{tmp_path}/nas.db"
    assert nas("db", "upgrade", "--db", db)[0] == 0
    code, out, err = nas("show", *arguments, "--db", db)
    assert (code, out, lacking(err, *facts)) == (2, "", [])
