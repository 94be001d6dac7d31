from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from facts import refusal
from grids import rest_slow
from torch import nn

from nas.backbone import BackboneSpace, Cost
from nas.drawing.graph import Arrow, Graph, Vertex
from nas.errors import ConfigError, Infeasible, UnknownName
from nas.plugins import installed, load, resolve, settings
from nas.space import Architecture, Decision, TaskShape
from nas.testing.backbones import BackboneSuite
from nas.testing.toys import Toy

IMAGE = TaskShape((1, 12, 12), 5)
VECTOR = TaskShape((3,), 1)


class TestInstalledSpaces(BackboneSuite):
    """As large as by default; the tests of each space have the suite on a smaller one."""

    @pytest.fixture(params=rest_slow(["toy", *installed("space")], ("toy", "mlp")))
    def space(self, request: pytest.FixtureRequest) -> BackboneSpace:
        cls = Toy if request.param == "toy" else load("space", request.param)
        return cls(**resolve(cls, {}, "space"))

    @pytest.fixture
    def shape(self, space: BackboneSpace) -> TaskShape:
        return VECTOR if space.name == "mlp" else IMAGE

    @pytest.fixture
    def spread(self, space: BackboneSpace) -> float:
        """NASNet joins states of which one adds up what the other is a term of."""
        return 12.0 if space.name == "nasnet" else 8.0


@pytest.mark.parametrize("name", installed("space"))
def test_a_space_has_the_name_it_is_registered_under(name: str) -> None:
    assert load("space", name).name == name


@pytest.mark.parametrize("name", installed("space"))
def test_every_setting_is_described(name: str) -> None:
    for setting, field in settings(load("space", name)).items():
        assert field.description, setting


@pytest.mark.parametrize("name", [name for name in installed("space") if name != "mlp"])
def test_a_space_of_image_networks_refuses_vectors(name: str) -> None:
    space = load("space", name)()
    space.check_shape(IMAGE)
    with refusal(Infeasible, f"'{name}'", "(3,)"):
        space.check_shape(VECTOR)


@pytest.mark.parametrize(
    ("name", "names", "example"),
    [
        ("chain", "conv4", "such as 3x3/2:64,3x3/2:64@1 "),
        ("darts", "darts_v1, darts_v2", "Genotype(normal=[('sep_conv_3x3', 0), "),
        ("few_shot", "residual", "such as 'max_pool|conv_3x3~0|+|skip_connect~0|conv_3x3~1|'"),
        ("mlp", "maml", "such as 80-80-80-silu"),
        ("enas_micro", "enas", "such as 'normal: skip_connect@0+sep_conv_3x3@1 …; reduce: "),
        ("mobile", "mobilenet_v2", "such as '12:k3e2,(k3e2)'"),
        ("hierarchical", "chain", "6 motifs and a cell joined by '/'"),
        ("large_scale", "trivial", "such as 'relu:3x3/1:16 linear:1x1/2:32@0'"),
        ("resnet_like", "resnet12", "such as '8-8-8'"),
        ("nasbench101", "resnet_cell", "such as 'conv3x3@0 conv3x3@1 conv3x3@ conv3x3@ conv3x3@ output@0+2'"),
        ("nasnet", "amoebanet_a, nasnet_a", "such as 'normal: dilated_conv_3x3@0+skip_connect@1 …; "),
        ("nasbench201", "resnet", "such as '|nor_conv_3x3~0|+|none~0|nor_conv_3x3~1|+|skip_connect~0|"),
    ],
)
def test_a_text_that_is_none_is_answered_with_names_and_an_example(
    name: str, names: str, example: str
) -> None:
    cls = load("space", name)
    space = cls(**resolve(cls, {}, "space"))
    with pytest.raises(UnknownName) as raised:
        space.decode("foo")
    assert f"Allowed: {names}. Or give " in str(raised.value)
    assert example in str(raised.value)
    with pytest.raises(ConfigError) as refused:
        space.decode("foo bar")
    assert str(refused.value).endswith(f"; or a name: {names}.")
    assert example in str(refused.value)


# The suite itself: each way to break a promise fails its test


class Suite(BackboneSuite):
    space = shape = None


class Linear(nn.Module):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs, outputs)
        self.out_features = outputs

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(x.flatten(1))


class Sound(BackboneSpace):
    name = "sound"
    decisions = (Decision("width", (2, 4, 8)), Decision("dead", ("a", "b")), Decision("more", (0, 1)))

    def build(self, architecture: Architecture, shape: TaskShape) -> nn.Module:
        values = self.values(self.check(architecture))
        return Linear(int(np.prod(shape.input)), int(values["width"]) + int(values["more"]))

    def canonical(self, architecture: Architecture) -> str:
        width, _, more = self.check(architecture).choices
        return f"{width}+{more}"

    @property
    def named(self) -> dict[str, Architecture]:
        return {"least": Architecture(self.name, (0, 0, 0))}


class Fastidious(Sound):
    def check_shape(self, shape: TaskShape) -> None:
        raise Infeasible("No network fits.")


class SameName(Sound):
    decisions = (Decision("width", (2, 4, 8)), Decision("dead", ("a", "b")), Decision("dead", (0, 1)))


class NarrowSample(Sound):
    def sample(self, rng: np.random.Generator) -> Architecture:
        return Architecture(self.name, (0, *super().sample(rng).choices[1:]))


class UnseededSample(Sound):
    def sample(self, rng: np.random.Generator) -> Architecture:
        return super().sample(np.random.default_rng())


class LossyText(Sound):
    def encode(self, architecture: Architecture) -> str:
        width, _, more = super().encode(architecture).split(".")
        return f"{width}.0.{more}"


class CarelessDecode(Sound):
    def decode(self, text: str) -> Architecture:
        return self.check(Architecture(self.name, tuple(map(int, text.split(".")))))


class LenientDecode(Sound):
    def decode(self, text: str) -> Architecture:
        try:
            return super().decode(text)
        except Exception:
            return Architecture(self.name, (9, 9, 9))


class Unchecked(Sound):
    def check(self, architecture: Architecture) -> Architecture:
        return architecture


class Misnamed(Sound):
    def decode(self, text: str) -> Architecture:
        return super().decode("0.0.1" if text == "least" else text)


class Stray(Sound):
    @property
    def default(self) -> Architecture:
        return Architecture(self.name, ())


class IdleMutation(Sound):
    def mutate(self, architecture: Architecture, rng: np.random.Generator) -> Architecture:
        return architecture


class WildMutation(Sound):
    def mutate(self, architecture: Architecture, rng: np.random.Generator) -> Architecture:
        return super().mutate(super().mutate(architecture, rng), rng)


class OwnIdleMutation(Sound):
    @property
    def mutations(self) -> dict[str, Any]:
        return {"idle": lambda architecture, rng: architecture}


class OwnUnseededMutation(Sound):
    @property
    def mutations(self) -> dict[str, Any]:
        return {"drawn": lambda architecture, rng: self._changed(architecture, np.random.default_rng())}


class OwnWildMutation(Sound):
    """Several decisions at once, or none: sound, since the space says so."""

    @property
    def mutations(self) -> dict[str, Any]:
        def grow(architecture: Architecture, rng: np.random.Generator) -> Architecture | None:
            width, dead, more = architecture.choices
            return None if width == 2 else Architecture(self.name, (width + 1, dead, 1 - more))

        return {"grow": grow}


class InventiveCrossover(Sound):
    def crossover(self, a: Architecture, b: Architecture, rng: np.random.Generator) -> Architecture:
        return self.mutate(super().crossover(a, b, rng), rng)


class FewNeighbours(Sound):
    def neighbours(self, architecture: Architecture) -> Iterator[Architecture]:
        yield from list(super().neighbours(architecture))[1:]


class ColdOneHot(Sound):
    def one_hot(self, architecture: Architecture) -> Any:
        return super().one_hot(architecture) * 0


class HashedKey(Sound):
    def canonical(self, architecture: Architecture) -> str:
        return str(hash(super().canonical(architecture)))


class CoarseKey(Sound):
    def canonical(self, architecture: Architecture) -> str:
        return super().canonical(architecture)[0]


class WrongWidth(Sound):
    def build(self, architecture: Architecture, shape: TaskShape) -> nn.Module:
        network = super().build(architecture, shape)
        network.out_features = 1
        return network


class Infinite(Sound):
    def build(self, architecture: Architecture, shape: TaskShape) -> nn.Module:
        network = super().build(architecture, shape)
        nn.init.constant_(network.linear.bias, float("inf"))
        return network


class Unseeded(Sound):
    def build(self, architecture: Architecture, shape: TaskShape) -> nn.Module:
        network = super().build(architecture, shape)
        nn.init.normal_(network.linear.weight, generator=torch.Generator().manual_seed(torch.seed()))
        return network


class Constant(Sound):
    def build(self, architecture: Architecture, shape: TaskShape) -> nn.Module:
        network = super().build(architecture, shape)
        for weight in network.parameters():
            nn.init.zeros_(weight)
        return network


class Faint(Sound):
    def build(self, architecture: Architecture, shape: TaskShape) -> nn.Module:
        network = super().build(architecture, shape)
        network.linear.weight.data[0] /= 49
        return network


class CheapCost(Sound):
    def cost(self, architecture: Architecture, shape: TaskShape) -> Cost:
        return super().cost(architecture, shape)._replace(macs=1)


class OneShape(Sound):
    def build(self, architecture: Architecture, shape: TaskShape) -> nn.Module:
        network = super().build(architecture, shape)
        network.linear = nn.Linear(3, network.out_features)
        return network


class Backwards(Sound):
    def graphs(self, architecture: Architecture) -> tuple[Graph, ...]:
        return (Graph("network", (Vertex("a"), Vertex("b")), (Arrow(1, 0),)),)


BROKEN = [
    (SameName, "decisions"),
    (NarrowSample, "sample"),
    (UnseededSample, "sample"),
    (LossyText, "text"),
    (CarelessDecode, "garbage"),
    (CarelessDecode, "refuses"),
    (LenientDecode, "garbage"),
    (LenientDecode, "refuses"),
    (Unchecked, "foreign"),
    (Misnamed, "named"),
    (Stray, "default"),
    (Backwards, "graphs"),
    (IdleMutation, "mutate"),
    (WildMutation, "mutate"),
    (OwnIdleMutation, "mutate"),
    (OwnUnseededMutation, "mutate"),
    (InventiveCrossover, "crossover"),
    (FewNeighbours, "neighbours"),
    (ColdOneHot, "one_hot"),
    (HashedKey, "canonical_elsewhere"),
    (CoarseKey, "equal_keys_equal_networks"),
    (WrongWidth, "build"),
    (Infinite, "build"),
    (Constant, "features_are_of_one_scale"),
    (Faint, "features_are_of_one_scale"),
    (Unseeded, "build_is_seeded"),
    (Constant, "build_is_seeded"),
    (CheapCost, "cost"),
    (OneShape, "any_shape"),
    (Fastidious, "any_shape"),
]


def conforms(space: BackboneSpace, test: str) -> bool:
    arguments = {"space": space, "shape": VECTOR, "example": (6,), "spread": 8.0}
    method = getattr(Suite(), f"test_{test}")
    try:
        method(**{name: arguments[name] for name in method.__annotations__ if name in arguments})
    except (Exception, pytest.fail.Exception):
        return False
    return True


@pytest.mark.parametrize(("broken", "test"), BROKEN)
def test_the_suite_notices(broken: type[Sound], test: str, monkeypatch, pytestconfig) -> None:
    monkeypatch.syspath_prepend(pytestconfig.rootpath)  # another process imports this module
    assert conforms(Sound(), test)
    assert not conforms(broken(), test)


def test_a_space_may_bring_its_own_mutations() -> None:
    assert conforms(OwnWildMutation(), "mutate")
    rng = np.random.default_rng(0)
    first = Architecture("sound", (0, 1, 0))
    assert OwnWildMutation().mutate(first, rng) == Architecture("sound", (1, 1, 1))
    widest = OwnWildMutation().mutate(Architecture("sound", (2, 0, 0)), rng)
    assert sum(a != b for a, b in zip(widest.choices, (2, 0, 0), strict=True)) == 1


def test_every_promise_can_be_broken() -> None:
    tests = {name.removeprefix("test_") for name in dir(BackboneSuite) if name.startswith("test_")}
    assert {test for _, test in BROKEN} == tests


@pytest.mark.parametrize(
    ("name", "old", "new", "facts"),
    [
        ("nasbench201", "none~0", "nor_conv_5x5~0", ("node1.from0", "1 of the 6", "avg_pool_3x3")),
        ("few_shot", "max_pool|", "min_pool|", ("stage1.down", "1 of the 8", "avg_pool")),
        ("few_shot", "none~0|+", "conv_7x7~0|+", ("stage1.node1.from0", "2 of the 8", "conv_1x1")),
        ("natssize", "8:8", "8:9", ("layer2.channels", "2 of the 5", "16, 24")),
    ],
)
def test_a_value_that_a_decision_has_not_is_told_by_its_name_its_place_and_what_it_allows(
    name: str, old: str, new: str, facts: tuple[str, ...]
) -> None:
    space = load("space", name)()
    text = space.encode(Architecture(name, (0,) * len(space.decisions)))
    assert old in text
    with refusal(ConfigError, *facts):
        space.decode(text.replace(old, new, 1))
