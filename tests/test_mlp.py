from collections import defaultdict

import pytest
import torch
from facts import Facts, refusal
from torch import nn

from nas.backbone import BackboneSpace
from nas.errors import ConfigError, UnknownName
from nas.plugins import resolve
from nas.space import TaskShape
from nas.testing.backbones import BackboneSuite
from nas.testing.spaces import some
from search_spaces.mlp import Mlp

SINUSOID = TaskShape((1,), 1)


class TestImages(BackboneSuite):
    @pytest.fixture
    def space(self) -> BackboneSpace:
        return Mlp(layers=2, widths=(3, 0, 5))

    @pytest.fixture
    def shape(self) -> TaskShape:
        return TaskShape((2, 3, 3), 5)


def test_maml() -> None:
    space = Mlp()
    architecture = space.decode("maml")
    assert space.encode(architecture) == "40-40-0-relu"
    assert space.canonical(architecture) == "40-40-relu"
    cost = space.cost(architecture, SINUSOID)
    assert cost.parameters == (1 * 40 + 40) + (40 * 40 + 40)
    assert cost.macs == 1 * 40 + 40 * 40


@pytest.mark.parametrize("given", [{"layers": 1}, {"widths": (0, 20)}, {"widths": (20, 40)}], ids=str)
def test_maml_is_absent_where_the_settings_lack_it(given: dict[str, int]) -> None:
    assert not Mlp(**given).named
    with pytest.raises(ConfigError):
        Mlp(**given).decode("maml")


def test_two_layers_hold_maml() -> None:
    assert Mlp(layers=2, widths=(40,)).encode(Mlp(layers=2, widths=(40,)).decode("maml")) == "40-40-relu"


@pytest.mark.parametrize(
    "text", ["40-40-relu", "40-40-0-elu", "41-40-0-relu", "40-40-0-relu-0", "relu-0-0-40"]
)
def test_errors_list_the_choices(text: str) -> None:
    with refusal(ConfigError, "(0|20|40|80)", "(relu|tanh|silu)"):
        Mlp().decode(text)


def test_a_misspelt_name_is_corrected() -> None:
    with refusal(UnknownName, "'maml'"):
        Mlp().decode("mamal")


@pytest.mark.parametrize(
    ("given", "facts"),
    [
        ({"layers": 0}, ("space.layers",)),
        ({"widths": []}, ("space.widths",)),
        ({"widths": [-1]}, ("space.widths.0",)),
        ({"widths": [8, 8]}, ("space.widths",)),
    ],
)
def test_settings_are_checked(given: dict[str, object], facts: Facts) -> None:
    with refusal(ConfigError, *facts):
        Mlp(**resolve(Mlp, given, "space"))


def test_there_is_one_key_for_each_network() -> None:
    """1, 3, 9 and 27 ways to choose up to three widths, with three activations unless there is no layer."""
    space = Mlp()
    assert len({space.canonical(a) for a in some(space, space.size)}) == 1 + 3 * (3 + 9 + 27)


def test_equal_keys_compute_the_same_function() -> None:
    space, groups = Mlp(), defaultdict(list)
    for architecture in some(space, space.size):
        groups[space.canonical(architecture)].append(architecture)
    x = torch.randn(7, 2)
    for group in groups.values():
        networks = [space.build(architecture, TaskShape((2,), 1)) for architecture in group]
        for network in networks[1:]:
            for mine, first in zip(network.parameters(), networks[0].parameters(), strict=True):
                mine.data.copy_(first)
            assert torch.equal(network(x), networks[0](x))


@pytest.mark.parametrize(
    ("name", "function"), [("relu", torch.relu), ("tanh", torch.tanh), ("silu", nn.functional.silu)]
)
def test_every_layer_is_followed_by_its_activation(name: str, function) -> None:
    space = Mlp(widths=(0, 3))
    network = space.build(space.decode(f"3-0-3-{name}"), TaskShape((2,), 1)).double()
    first, second = (layer for layer in network.modules() if isinstance(layer, nn.Linear))
    x = torch.randn(5, 2, dtype=torch.float64)
    h = function(x @ first.weight.T + first.bias)
    torch.testing.assert_close(network(x), function(h @ second.weight.T + second.bias))


def test_without_layers_features_are_the_inputs() -> None:
    network = Mlp().build(Mlp().decode("0-0-0-tanh"), TaskShape((2, 3, 4), 1))
    x = torch.randn(5, 2, 3, 4)
    assert network.out_features == 24
    assert torch.equal(network(x), x.flatten(1))
