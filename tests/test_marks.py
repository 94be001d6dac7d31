"""A space from any model: marks, what depends on them, and what is refused."""

from __future__ import annotations

import pickle
from functools import partial

import pytest
import torch
from facts import refusal
from torch import Tensor, nn

from nas.backbone import BackboneSpace
from nas.errors import ConfigError, PluginError
from nas.marks import choice, depth, space_of, width
from nas.space import Architecture, TaskShape
from nas.testing.backbones import BackboneSuite

IMAGE = TaskShape((2, 6, 5), 3)


def block(number: int) -> nn.Module:
    return nn.Sequential(
        nn.LazyBatchNorm2d() if number < 0 else nn.Identity(), choice(f"act{number}", [nn.ReLU, nn.Tanh])
    )


def small(shape: TaskShape) -> nn.Module:
    """Two convolutions of which much can be chosen."""
    channels = width("width", [4, 8])
    kernel = choice("kernel", [1, 3])

    def wide() -> nn.Module:
        return nn.Conv2d(channels, channels, 5, padding=choice("padding", [2, 3]))

    return nn.Sequential(
        nn.Conv2d(shape.input[0], channels, kernel, padding=kernel // 2),
        choice("second", {"none": nn.Identity, "wide": wide}),
        depth("blocks", [1, 0, 2], block),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    )


Small = space_of(small)


class Net(nn.Module):
    """A model that says its width."""

    def __init__(self, shape: TaskShape) -> None:
        super().__init__()
        self.out_features = width("width", [3, 5])
        self.linear = nn.Linear(shape.input[0] * 30, self.out_features)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x.flatten(1))


class TestMarkedSpace(BackboneSuite):
    @pytest.fixture
    def space(self) -> BackboneSpace:
        return Small()

    @pytest.fixture
    def shape(self) -> TaskShape:
        return IMAGE

    def test_canonical_elsewhere(self, space: BackboneSpace, monkeypatch, pytestconfig) -> None:
        monkeypatch.syspath_prepend(pytestconfig.rootpath / "tests")
        super().test_canonical_elsewhere(space)

    def test_any_shape(self, space: BackboneSpace) -> None:
        """What shapes a model takes is its own affair."""

    test_equal_keys_equal_networks = BackboneSuite.test_equal_keys_equal_networks


def test_decisions_are_the_marks_in_their_order() -> None:
    space = Small()
    assert {d.name: d.choices for d in space.decisions} == {
        "width": (4, 8),
        "kernel": (1, 3),
        "second": ("none", "wide"),
        "padding": (2, 3),
        "blocks": (1, 0, 2),
        "act0": ("ReLU", "Tanh"),
        "act1": ("ReLU", "Tanh"),
    }
    assert space.name == "small"
    assert space.named == {"given": space.default}


def test_what_is_not_chosen_is_inactive() -> None:
    space = Small()
    text = "width=4 kernel=3 second={} padding={} blocks={} act0=Tanh act1={}"
    keys = {
        space.canonical(space.decode(text.format(*own)))
        for own in (("none", 2, 1, "ReLU"), ("none", 3, 1, "Tanh"))
    }
    assert keys == {"width=4 kernel=3 second=none blocks=1 act0=Tanh"}
    deeper = space.canonical(space.decode(text.format("wide", 3, 2, "ReLU")))
    assert deeper == "width=4 kernel=3 second=wide padding=3 blocks=2 act0=Tanh act1=ReLU"


def test_a_model_by_itself_has_the_first_options() -> None:
    network = small(IMAGE)
    assert network[0].out_channels == 4
    assert isinstance(network[1], nn.Identity)
    assert len(network[2]) == 1


def test_a_module_is_a_model_and_says_its_width_or_is_asked() -> None:
    space = space_of(Net)()
    assert space.build(space.decode("width=5"), TaskShape((2, 6, 5), 3)).out_features == 5
    network = Small().build(Small().decode("given"), IMAGE)
    assert network.out_features == 4
    assert network.training
    again = pickle.loads(pickle.dumps(Small()))
    assert again.decisions == Small().decisions


def test_only_what_is_chosen_is_made() -> None:
    made = list[str]()

    def model(shape: TaskShape) -> nn.Module:
        def option(name: str) -> nn.Module:
            made.append(name)
            return nn.Flatten()

        return nn.Sequential(choice("one", {name: partial(option, name) for name in "abc"}), nn.Flatten())

    space = space_of(model)()
    made.clear()
    space.build(Architecture("model", (2,)), IMAGE)
    assert made == ["c"]


def test_what_is_refused() -> None:
    def twice(shape: TaskShape) -> nn.Module:
        return nn.Sequential(choice("op", [nn.ReLU]), choice("op", [nn.Tanh]))

    with refusal(ConfigError, "'op'", "twice"):
        space_of(twice)()
    with refusal(ConfigError, "'plain'", "nas.choice"):
        space_of(lambda shape: nn.Flatten(), name="plain").model.__name__ = "plain"  # type: ignore[misc]
        space_of(plain)()

    def nothing(shape: TaskShape) -> nn.Module:
        return nn.Sequential(choice("op", []))

    with refusal(ConfigError, "'op'"):
        space_of(nothing)()

    def whimsical(shape: TaskShape) -> nn.Module:
        return nn.Sequential(choice(f"op{shape.input[0]}", [nn.Flatten, nn.Flatten]))

    with refusal(PluginError, "'op2'"):
        space_of(whimsical)().build(space_of(whimsical)().default, IMAGE)

    def mapped(shape: TaskShape) -> nn.Module:
        return nn.Sequential(choice("op", [nn.ReLU, nn.Tanh]))

    with refusal(PluginError, "[batch, out_features]"):
        space_of(mapped)().build(space_of(mapped)().default, IMAGE)


def plain(shape: TaskShape) -> nn.Module:
    return nn.Flatten()


def test_texts() -> None:
    with refusal(ConfigError, "'kernel'", "2 of the 7", "1, 3"):
        Small().decode("width=4 kernel=7 second=none padding=2 blocks=1 act0=ReLU act1=ReLU")
    assert torch.is_tensor(Small().build(Small().default, IMAGE)(torch.zeros(2, 2, 6, 5)))
