"""What a space builds, and what tasks hold, is checked before a search or an evaluation begins."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from command_line import nas
from torch import Tensor, nn

from nas.backbone import BackboneSpace
from nas.errors import PluginError
from nas.space import Architecture, Decision, TaskShape
from nas.supernet import Supernet
from nas.tasks.glyphs import Glyphs
from nas.testing.toy_supernet import ToyCurves


class Layer(nn.Module):
    """A linear layer of the flattened example, with whatever attribute and shape a test asks for."""

    def __init__(self, inputs: int, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.layer = nn.Linear(inputs, 4)
        if kind != "silent":
            self.out_features = {"text": "4", "narrow": 3}.get(kind, 4)

    def forward(self, x: Tensor) -> object:
        features = self.layer(x.flatten(1))
        match self.kind:
            case "maps":
                return features[:, :, None, None]
            case "pair":
                return features, features
            case "folded":
                return features.view(-1)
        return features


class Built(BackboneSpace):
    """One architecture a kind of backbone; `broken` cannot be built, `sound` is right."""

    name = "built"

    def __init__(self, *, kinds: tuple[str, ...] = ("sound",)) -> None:
        self.decisions = (Decision("kind", kinds),)

    def build(self, architecture: Architecture, shape: TaskShape) -> nn.Module:
        [kind] = self.values(self.check(architecture)).values()
        if kind == "broken":
            raise KeyError("no such layer")
        return Layer(shape.input[0], str(kind))

    def canonical(self, architecture: Architecture) -> str:
        return self.encode(architecture)


class Misjudged(ToyCurves):
    """Its supernet says that it has more features than it returns."""

    def supernet(self, shape: TaskShape) -> Supernet:
        supernet = super().supernet(shape)
        supernet.out_features += 1
        return supernet

    def build(self, architecture: Architecture, shape: TaskShape) -> nn.Module:
        return super().supernet(shape).extract(architecture)


class Flat(Glyphs):
    """Says that its images are vectors."""

    @property
    def shape(self) -> TaskShape:
        return TaskShape((28 * 28,), 5)


CURVES = ["--tasks=sinusoid", "--learner=maml", "--executor=inline", "--set=budget.train_episodes=4"]
COMMON = ["--controller=random", "--trials=2", *CURVES, "--set=budget.validation_episodes=4"]

WRONG = {
    "silent": ["Layer", "out_features"],
    "text": ["Layer", "'4'"],
    "narrow": ["Layer", "[1, 4]", "[1, 3]"],
    "maps": ["Layer", "[1, 4, 1, 1]", "[1, 4]"],
    "pair": ["Layer", "tuple", "[1, 4]"],
    "folded": ["Layer", "[4]", "[1, 4]"],
    "broken": ["built", "KeyError"],
}


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("kind", WRONG)
def test_no_search_is_written_that_can_only_fail(kind: str) -> None:
    space = ["--space=test_backbones:Built", f"--set=space.kinds={json.dumps([kind])}"]
    code, _, err = nas("run", *space, *COMMON)
    assert code == PluginError.exit_code
    assert all(fact in err for fact in WRONG[kind])
    assert json.loads(nas("ls", "-f", "json")[1]) == []


@pytest.mark.parametrize("kind", [kind for kind in WRONG if kind != "broken"])
def test_no_evaluation_begins_that_can_only_fail(kind: str) -> None:
    kinds = f"--set=space.kinds={json.dumps(['sound', kind])}"
    code, _, err = nas("evaluate", "test_backbones:Built:1", *CURVES[:2], kinds, "--seeds=1")
    assert code == PluginError.exit_code
    assert all(fact in err for fact in WRONG[kind])


def test_a_failure_of_some_architectures_costs_their_trials_alone() -> None:
    space = ["--space=test_backbones:Built", '--set=space.kinds=["sound", "broken"]']
    code, _, _ = nas("run", *space, *COMMON, "--set=max_failed=1", "--trials=6", "--name=some")
    assert code == 0
    states = {json.loads(nas("show", f"some/{number}", "-f", "json")[1])["state"] for number in range(6)}
    assert states == {"completed", "failed"}


def test_tasks_whose_inputs_are_of_another_shape_are_refused() -> None:
    flat = ["--tasks=test_backbones:Flat", "--learner=prototypical", "--space=mlp", "--controller=random"]
    code, _, err = nas("run", *flat, "--executor=inline")
    assert (code, "support_x" in err, "784]" in err) == (PluginError.exit_code, True, True)


def test_a_supernet_is_checked_before_its_search() -> None:
    strategy = ["--controller=darts", "--derive=1", "--trials=2"]
    code, _, err = nas("run", "--space=test_backbones:Misjudged", *strategy, *CURVES)
    assert (code, "CurvesSupernet" in err, "4]" in err) == (PluginError.exit_code, True, True)
    assert json.loads(nas("ls", "-f", "json")[1]) == []
