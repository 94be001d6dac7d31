import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from typing import ClassVar

import numpy as np
import pytest
import torch
from facts import Facts, refusal
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from nas.backbone import BackboneSpace, Cost
from nas.errors import ConfigError, UnknownName
from nas.space import Architecture, Decision, TaskShape

SHAPE = TaskShape((3, 8, 8), 5)


class Flattened(nn.Module):
    """Any network as a backbone."""

    def __init__(self, network: nn.Module, shape: TaskShape) -> None:
        super().__init__()
        self.network = network
        with torch.no_grad():
            self.out_features = self(torch.empty(2, *shape.input, device="meta")).shape[1]

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x).flatten(1)


class Grid(BackboneSpace):
    name: ClassVar[str] = "grid"
    decisions = (
        Decision("kind", ("a", "b", "c")),
        Decision("fixed", (1,)),
        Decision("width", (4, 8)),
    )

    def __init__(self, make: Callable[[], nn.Module] = nn.Flatten) -> None:
        self.make = make

    def build(self, architecture: Architecture, shape: TaskShape) -> nn.Module:
        return Flattened(self.make(), shape)

    def canonical(self, architecture: Architecture) -> str:
        return self.encode(architecture)


class Named(Grid):
    @property
    def named(self) -> dict[str, Architecture]:
        return {"best": at(2, 0, 1)}


def at(*choices: int) -> Architecture:
    return Architecture("grid", choices)


# Text


def test_an_encoding_has_values_and_indices_are_read_too() -> None:
    assert Grid().encode(at(2, 0, 1)) == "kind=c fixed=1 width=8"
    assert Grid().decode("kind=c fixed=1 width=8") == Grid().decode("2.0.1") == at(2, 0, 1)


def test_choices_that_read_alike_are_told_by_indices() -> None:
    class Alike(Grid):
        decisions = (Decision("kind", ("1", 1)), Decision("rate", (0.1, 0.01)))

    for first in range(2):
        for second in range(2):
            assert Alike().decode(Alike().encode(at(first, second))) == at(first, second)


@given(data=st.data())
def test_any_names_and_values_are_read_back(data: st.DataObject) -> None:
    texts = st.text(st.sampled_from("a =.|1("), max_size=4)
    choices = st.lists(texts | st.integers(-2, 2) | st.sampled_from([0.5, 1.0]), min_size=1, max_size=3)
    several = data.draw(st.lists(st.tuples(texts, choices), min_size=1, max_size=3))

    class Odd(Grid):
        decisions = tuple(Decision(name, tuple(values)) for name, values in several)

    chosen = at(*(data.draw(st.integers(0, len(values) - 1)) for _, values in several))
    assert Odd().decode(Odd().encode(chosen)) == chosen


def test_a_text_is_the_name_where_there_is_one() -> None:
    assert Named().text(at(2, 0, 1)) == "best"
    assert Named().text(at(0, 0, 1)) == Grid().encode(at(0, 0, 1))


def test_names_are_read() -> None:
    assert Named().decode("best") == Named().decode("2.0.1")
    with refusal(UnknownName, "'bst'", "'grid'", "'best'"):
        Named().decode("bst")
    with refusal(UnknownName, "best", 3, "'kind=a"):
        Named().decode("bst")
    with refusal(ConfigError, "best"):
        Named().decode("a.b")


@pytest.mark.parametrize(
    ("text", "facts"),
    [
        (
            "a.b",
            ("'a.b'", "'grid'", 3),
        ),
        ("best", ("'best'", "'grid'")),
        ("1.0", ("'grid'", 3, 2)),
        ("3.0.0", (3, "'kind'", "'grid'", "3 choices")),
        ("0.0.-1", (-1, "'width'")),
    ],
)
def test_errors_say_what_is_wrong(text: str, facts: Facts) -> None:
    with refusal(ConfigError, *facts):
        Grid().decode(text)


def test_an_architecture_of_another_space_is_refused() -> None:
    with refusal(ConfigError, "'cube'", "'grid'"):
        Grid().encode(Architecture("cube", (0, 0, 0)))


# Moves


def test_values_and_size() -> None:
    assert Grid().values(at(2, 0, 1)) == {"kind": "c", "fixed": 1, "width": 8}
    assert Grid().size == 6


def within(counts: Counter, expected: dict, draws: int) -> bool:
    """Whether each frequency is within five standard errors of its probability, and nothing else occurred."""
    return set(counts) == set(expected) and all(
        abs(counts[key] - draws * p) < 5 * (draws * p * (1 - p)) ** 0.5 for key, p in expected.items()
    )


def test_samples_are_uniform() -> None:
    rng = np.random.default_rng(0)
    counts = Counter(Grid().sample(rng) for _ in range(6_000))
    assert within(counts, {at(i, 0, k): 1 / 6 for i in range(3) for k in range(2)}, 6_000)


def test_mutations_are_uniform_over_decisions_then_choices() -> None:
    rng = np.random.default_rng(0)
    counts = Counter(Grid().mutate(at(0, 0, 0), rng) for _ in range(4_000))
    assert within(counts, {at(1, 0, 0): 1 / 4, at(2, 0, 0): 1 / 4, at(0, 0, 1): 1 / 2}, 4_000)


def test_a_space_without_choice_mutates_into_itself() -> None:
    class Point(Grid):
        decisions = (Decision("fixed", (1,)),)

    assert Point().mutate(at(0), np.random.default_rng(0)) == at(0)
    assert list(Point().neighbours(at(0))) == []


def test_crossover_is_uniform() -> None:
    rng = np.random.default_rng(0)
    counts = Counter(Grid().crossover(at(0, 0, 0), at(1, 0, 1), rng) for _ in range(4_000))
    assert within(counts, {at(i, 0, k): 1 / 4 for i in range(2) for k in range(2)}, 4_000)


def test_neighbours_differ_in_one_decision() -> None:
    assert set(Grid().neighbours(at(1, 0, 0))) == {at(0, 0, 0), at(2, 0, 0), at(1, 0, 1)}


def test_one_hot() -> None:
    assert Grid().one_hot(at(2, 0, 1)).tolist() == [0, 0, 1, 1, 0, 1]
    assert Grid().from_one_hot([0.2, 0.3, 0.1, -1.0, 0.6, 0.4]) == at(1, 0, 0)


# Cost


class Attention(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        tokens = x.flatten(2).transpose(1, 2)[:, None]
        return nn.functional.scaled_dot_product_attention(tokens, tokens, tokens).flatten(1)


class Einsum(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.einsum("bchw,bdhw->bcd", x, x)


def test_cost_of_convolutions() -> None:
    network = nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1, bias=False),  # 8×8
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.Conv2d(6, 12, 3, stride=2, padding=1, groups=3),  # 4×4
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.Linear(12 * 2 * 2, 7),
    )
    parameters = 3 * 6 * 9 + 2 * 6 + (2 * 12 * 9 + 12) + (48 * 7 + 7)
    macs = 3 * 6 * 9 * 64 + 2 * 12 * 9 * 16 + 48 * 7
    activations = 4 * (3 * 64 + 2 * 6 * 64)  # the input, which its caller keeps, and two maps of six
    assert Grid(lambda: network.to("meta")).cost(at(0, 0, 0), SHAPE) == Cost(parameters, macs, activations)


def test_frozen_weights_are_no_parameters() -> None:
    cost = Grid(lambda: nn.Conv2d(3, 2, 1, bias=False).requires_grad_(False)).cost(at(0, 0, 0), SHAPE)
    assert cost[:2] == (0, 3 * 2 * 64)


@pytest.mark.parametrize(
    "make",
    [
        lambda: nn.ConvTranspose2d(3, 4, 3, stride=2),
        lambda: nn.Sequential(nn.Linear(8, 5), nn.Tanh(), nn.Linear(5, 2, bias=False)),
        lambda: nn.Sequential(nn.Conv2d(3, 4, 1), nn.GroupNorm(2, 4), nn.SiLU(), nn.MaxPool2d(2)),
        lambda: nn.Sequential(nn.InstanceNorm2d(3, affine=True), nn.ReLU(), nn.Conv2d(3, 3, 3, groups=3)),
        lambda: nn.Sequential(nn.BatchNorm2d(3, track_running_stats=False), nn.Conv2d(3, 5, (1, 3))),
        Attention,
        Einsum,
    ],
)
def test_cost_is_what_torch_counts(make: Callable[[], nn.Module]) -> None:
    network = make().eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(torch.zeros(1, *SHAPE.input))
    cost = Grid(make).cost(at(0, 0, 0), SHAPE)
    assert cost.macs == counter.get_total_flops() / 2 > 0
    assert cost.parameters == sum(weight.numel() for weight in network.parameters())


class Wired(nn.Module):
    """Layers of 192 features and how they are joined."""

    def __init__(self, wiring: Callable[[nn.Linear, Tensor], Tensor]) -> None:
        super().__init__()
        self.layer, self.wiring = nn.Linear(192, 192), wiring

    def forward(self, x: Tensor) -> Tensor:
        return self.wiring(self.layer, x.flatten(1))


def kept(layer: nn.Linear, x: Tensor) -> Tensor:
    outs = [x]
    for _ in range(4):
        outs.append(layer(outs[-1]))
    return torch.cat(outs[1:], 1)[:, :192]


def cycled(layer: nn.Linear, x: Tensor) -> Tensor:
    for _ in range(4):
        x = layer(x)
    return x


@pytest.mark.parametrize(
    ("wiring", "vectors"),
    [
        (lambda layer, x: layer(x), 2),
        (lambda layer, x: layer(x).relu_(), 2),  # in place
        (lambda layer, x: layer(x).relu(), 3),
        (lambda layer, x: x + layer(x), 3),
        (lambda layer, x: layer(layer(x)), 3),  # the input stays with its caller
        (cycled, 3),
        (kept, 1 + 4 + 4),  # four for the concatenation
        (lambda layer, x: layer.bias.expand(1, 192), 1),  # weights are no activations, nor are views
        (lambda layer, x: x.new_zeros(5, 192)[:1].double().float() + x, 1 + 5 + 2),
    ],
)
def test_activations_are_what_is_alive_at_once(
    wiring: Callable[[nn.Linear, Tensor], Tensor], vectors: int
) -> None:
    """Counted by hand, in vectors of 192 numbers of four bytes."""
    cost = Grid(lambda: Wired(wiring)).cost(at(0, 0, 0), SHAPE)
    assert cost.activations == 4 * 192 * vectors


def test_cost_allocates_nothing() -> None:
    huge = Grid(lambda: nn.Sequential(nn.Flatten(), nn.Linear(192, 10**12, bias=False)))
    assert huge.cost(at(0, 0, 0), SHAPE) == Cost(192 * 10**12, 192 * 10**12, 4 * (192 + 10**12))


def test_cost_draws_no_chance() -> None:
    before = torch.get_rng_state()
    Grid(lambda: nn.Conv2d(3, 2, 1)).cost(at(0, 0, 0), SHAPE)
    assert torch.equal(torch.get_rng_state(), before)


def test_imports_no_torch() -> None:
    code = "import sys, nas.space; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
