"""What stands for a module where a network is counted costs what the module does."""

from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn

from nas.backbone import Cost, count
from nas.counting import Counter, StandIn, count_once, countable, parameters
from nas.errors import PluginError
from nas.space import TaskShape

SHAPE = TaskShape((3, 8, 8), 2)


class Pooled(nn.Module):
    """What is tested, between two layers: `[B, 3, 8, 8]` to `[B, 3]`."""

    out_features = 3

    def __init__(self, make: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.first, self.tested, self.last = nn.Conv2d(3, 3, 1), make(), nn.Conv2d(3, 3, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        return self.last(x + self.tested(x)).mean((2, 3))


class Wired(nn.Module):
    def __init__(self, wiring: Callable[[nn.Module, Tensor], Tensor]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1, 3, 8, 8))
        self.layer, self.wiring = nn.Conv2d(3, 3, 1), wiring

    def forward(self, x: Tensor) -> Tensor:
        return self.wiring(self, x)


def wide() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 40, 3, padding=1), nn.ReLU(), nn.Conv2d(40, 3, 1), nn.BatchNorm2d(3))


def nested() -> nn.Module:
    return nn.Sequential(count_once(wide), nn.ReLU(), count_once(nn.Conv2d, 3, 3, 1, bias=False))


def same(own: Wired, x: Tensor) -> Tensor:
    return x


def computed(own: Wired, x: Tensor) -> Tensor:
    """Return the input all the same."""
    own.layer(x)
    return x


def view(own: Wired, x: Tensor) -> Tensor:
    return own.layer(x)[:, :1]


def view_of_input(own: Wired, x: Tensor) -> Tensor:
    return x[:, 1:2]


def in_place(own: Wired, x: Tensor) -> Tensor:
    return x.relu_()


def weight(own: Wired, x: Tensor) -> Tensor:
    return own.weight


def view_of_weight(own: Wired, x: Tensor) -> Tensor:
    return own.weight[:, :1]


WIRINGS = (same, computed, view, view_of_input, in_place, weight, view_of_weight)


@pytest.mark.parametrize(
    ("make", "arguments"),
    [(wide, ()), (nested, ()), (nn.Identity, ()), *((Wired, (wiring,)) for wiring in WIRINGS)],
)
def test_a_stand_in_costs_what_it_stands_for(make: Callable[..., nn.Module], arguments: tuple) -> None:
    with torch.device("meta"):
        expected = count(Pooled(lambda: make(*arguments)).eval(), SHAPE)
    for _ in range(2):  # when it is made, and when it is known
        network = countable(lambda: Pooled(lambda: count_once(make, *arguments)))
        assert isinstance(network.tested, StandIn)
        assert count(network, SHAPE) == expected


def test_a_module_is_made_once_for_all_networks() -> None:
    made = []

    def make(channels: int, *, bias: bool) -> nn.Module:
        made.append((channels, bias))
        return nn.Conv2d(channels, channels, 1, bias=bias)

    for bias in (True, False, True, False):
        count(countable(lambda: Pooled(lambda: count_once(make, 3, bias=bias))), SHAPE)  # noqa: B023
    assert made == [(3, True), (3, False)]


def test_each_has_weights_of_its_own_unless_it_is_the_same() -> None:
    def twice(shared: bool) -> nn.Module:
        first = count_once(nn.Linear, 192, 192)
        return nn.Sequential(nn.Flatten(), first, first if shared else count_once(nn.Linear, 192, 192))

    def cost(shared: bool) -> Cost:
        network = countable(lambda: twice(shared))
        network.out_features = 192
        return count(network, SHAPE)

    own = 192 * 192 + 192
    assert cost(True) == Cost(own, 2 * 192 * 192, 3 * 4 * 192)
    assert cost(False) == Cost(2 * own, 2 * 192 * 192, 3 * 4 * 192)


def test_frozen_weights_of_a_stand_in_are_no_parameters() -> None:
    def frozen() -> nn.Module:
        return nn.Conv2d(3, 3, 1).requires_grad_(False)

    network = countable(lambda: Pooled(lambda: count_once(frozen)))
    assert count(network, SHAPE).parameters == (3 * 3 + 3) + (3 * 3 * 9 + 3)


class Joined(nn.Module):
    def forward(self, maps: dict[str, Tensor], others: list[Tensor]) -> Tensor:
        return torch.cat([*maps.values(), *others], 1)


class Joining(nn.Module):
    out_features = 12

    def __init__(self) -> None:
        super().__init__()
        self.join = count_once(Joined)

    def forward(self, x: Tensor) -> Tensor:
        return self.join({"a": x, "b": x.relu()}, [x, x]).mean((2, 3))


def test_a_stand_in_takes_maps_in_any_order_and_number() -> None:
    with torch.device("meta"):
        expected = count(Joining(), SHAPE)
    assert count(countable(Joining), SHAPE) == expected


def test_nothing_known_of_one_precision_serves_another() -> None:
    def cost() -> Cost:
        return count(countable(lambda: Pooled(lambda: count_once(wide))), SHAPE)

    single = cost()
    torch.set_default_dtype(torch.float64)
    try:
        assert cost() == single._replace(activations=2 * single.activations)
    finally:
        torch.set_default_dtype(torch.float32)
    assert cost() == single


def test_modules_are_made_where_nothing_is_counted() -> None:
    network = Pooled(lambda: count_once(wide))
    assert isinstance(network.tested, nn.Sequential)
    assert network(torch.zeros(2, 3, 8, 8)).shape == (2, 3)


def test_a_stand_in_runs_without_a_counter() -> None:
    network = countable(lambda: Pooled(lambda: count_once(wide)))
    assert network(torch.zeros(2, 3, 8, 8, device="meta")).shape == (2, 3)


def test_an_operation_that_is_known_counts_as_the_first_time() -> None:
    """Operations of one, several, no fresh and no tensors at all."""

    def run(x: Tensor) -> Tensor:
        largest, places = x.max(1)
        parts = [*x.split(1, 1), *torch.unbind(x, 2)]
        return largest.sum() + places.double().sum() + sum(part.mean() for part in parts) + x.matmul(x).sum()

    seen = set()
    for _ in range(2):
        x = torch.empty(1, 5, 7, 7, device="meta")
        with torch.no_grad(), Counter(x) as counter:
            run(x)
        seen.add((counter.flops, counter.peak))
    [(flops, peak)] = seen
    assert flops == 2 * 5 * 7**3
    assert peak > x.untyped_storage().nbytes()
    assert counter.alive == x.untyped_storage().nbytes()


class Reading(nn.Module):
    """Reads values on the CPU, also what a batch norm returns, and a view of others."""

    def forward(self, x: Tensor) -> Tensor:
        for number in torch.arange(1, 3).tolist():
            x = x * number
        ones = torch.ones(1, 2, 2, 2, device="cpu")
        norm = nn.functional.batch_norm(ones, torch.zeros(2), torch.ones(2), eps=0.0)
        assert norm.sum().item() == 8
        return x * torch.linspace(0, 1, 3, device="cpu")[1].item()


def test_values_on_the_cpu_are_read_each_time() -> None:
    with torch.device("meta"):
        built = Pooled(Reading).eval()
    expected = count(built, SHAPE)
    for _ in range(2):
        assert count(countable(lambda: Pooled(Reading)), SHAPE) == expected
        assert count(countable(lambda: Pooled(lambda: count_once(Reading))), SHAPE) == expected


class Scaled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 3, 1)

    def forward(self, x: Tensor, scale: Tensor | float, *, twice: bool) -> Tensor:
        return self.layer(self.layer(x)) * scale if twice else self.layer(x) * scale


class Scaling(nn.Module):
    out_features = 3

    def __init__(self, scale: Callable[[], Tensor | float], twice: bool) -> None:
        super().__init__()
        self.scaled, self.scale, self.twice = count_once(Scaled), scale, twice

    def forward(self, x: Tensor) -> Tensor:
        return self.scaled(x, scale=self.scale(), twice=self.twice).mean((2, 3))


@pytest.mark.parametrize("scale", [lambda: 2.0, lambda: torch.tensor(2.0)], ids=["number", "on the CPU"])
def test_a_stand_in_takes_keywords(scale: Callable[[], Tensor | float]) -> None:
    for twice in (True, False, True):
        with torch.device("meta"):
            built = Scaling(scale, twice).eval()
        expected = count(built, SHAPE)
        network = countable(lambda: Scaling(scale, twice))  # noqa: B023
        assert isinstance(network.scaled, StandIn)
        assert count(network, SHAPE) == expected
        assert expected.macs == (1 + twice) * 3 * 3 * 64


def test_a_stand_in_passes_on_what_it_is_given_by_name() -> None:
    class Named(nn.Module):
        def forward(self, *, first: Tensor, second: Tensor) -> Tensor:
            return second

    network = countable(lambda: count_once(Named))
    x, y = torch.empty(2, 3, device="meta"), torch.empty(2, 3, device="meta")
    for _ in range(2):
        with torch.no_grad(), Counter(x, y):
            assert network(first=x, second=y) is y


class Pair(NamedTuple):
    first: Tensor
    second: Tensor


class Paired(nn.Module):
    def forward(self, pair: Pair) -> Tensor:
        return pair.first + pair.second


def test_nothing_given_is_kept() -> None:
    network = countable(lambda: count_once(Paired))
    x = torch.empty(2, 3, device="meta")
    with torch.no_grad(), Counter(x) as counter:
        before = counter.alive
        network(Pair(x.relu(), x.sigmoid()))
        assert counter.alive == before


class Few(NamedTuple):
    width: int


class Many(NamedTuple):
    width: int


def by_type(value: object) -> nn.Module:
    """Return other layers for each type: equal values are no equal arguments."""
    while type(value) is tuple:
        [value] = value
    kinds = [int, float, bool, Few, Many]
    return nn.Sequential(*(nn.Conv2d(3, 3, 1, bias=False) for _ in range(1 + kinds.index(type(value)))))


@pytest.mark.parametrize("depth", [0, 1, 2])
@pytest.mark.parametrize("keyword", [False, True])
def test_equal_arguments_of_other_types_make_other_modules(depth: int, keyword: bool) -> None:
    for place, value in enumerate([1, 1.0, True, Few(1), Many(1)]):
        for _ in range(depth):
            value = (value,)
        found = countable(lambda: count_once(by_type, value=value) if keyword else count_once(by_type, value))  # noqa: B023
        assert parameters(found) == 9 * (1 + place)


def test_arguments_without_a_hash_make_the_module_itself() -> None:
    def make(widths: list[int]) -> nn.Module:
        return nn.Conv2d(3, widths[0], 1)

    network = countable(lambda: Pooled(lambda: count_once(make, [3])))
    assert isinstance(network.tested, nn.Conv2d)


class Lazy(nn.Module):
    """A lazy layer whose weights depend on how many channels there are."""

    out_features = 4

    def __init__(self, channels: int, make: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.channels, self.layer = channels, make()

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x[:, : self.channels]).mean((2, 3))


def lazy_layers() -> nn.Module:
    return nn.Sequential(nn.LazyConv2d(4, 1), nn.LazyBatchNorm2d(affine=False))


def lazy_inside() -> nn.Module:
    return nn.Sequential(count_once(lazy_layers), nn.ReLU())


@pytest.mark.parametrize("make", [lazy_layers, lazy_inside])
def test_lazy_layers_cost_what_others_do(make: Callable[[], nn.Module]) -> None:
    for channels in (3, 2, 3):
        with torch.device("meta"):
            layers = [nn.Conv2d(channels, 4, 1), nn.BatchNorm2d(4, affine=False)]
            if make is lazy_inside:
                layers.append(nn.ReLU())
            expected = count(Lazy(channels, lambda: nn.Sequential(*layers)).eval(), SHAPE)  # noqa: B023
        assert count(countable(lambda: Lazy(channels, make)), SHAPE) == expected  # noqa: B023
        network = countable(lambda: Lazy(channels, lambda: count_once(make)))  # noqa: B023
        assert count(network, SHAPE) == expected


@pytest.mark.parametrize("make", [lazy_layers, lambda: count_once(lazy_layers)], ids=["itself", "stand-in"])
def test_a_lazy_layer_that_got_no_input_is_named(make: Callable[[], nn.Module]) -> None:
    class Unused(Lazy):
        def forward(self, x: Tensor) -> Tensor:
            return x.mean((2, 3)).repeat(1, 2)[:, :4]

    with pytest.raises(PluginError, match=r"Unused has a lazy layer that got no input"):
        count(countable(lambda: Unused(3, make)), SHAPE)
