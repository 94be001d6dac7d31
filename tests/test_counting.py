"""What stands for a module where a network is counted costs what the module does."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from nas.backbone import Cost, count
from nas.counting import Counter, StandIn, countable, counted
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
    return nn.Sequential(counted(wide), nn.ReLU(), counted(nn.Conv2d, 3, 3, 1, bias=False))


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
        network = countable(lambda: Pooled(lambda: counted(make, *arguments)))
        assert isinstance(network.tested, StandIn)
        assert count(network, SHAPE) == expected


def test_a_module_is_made_once_for_all_networks() -> None:
    made = []

    def make(channels: int, *, bias: bool) -> nn.Module:
        made.append((channels, bias))
        return nn.Conv2d(channels, channels, 1, bias=bias)

    for bias in (True, False, True, False):
        count(countable(lambda: Pooled(lambda: counted(make, 3, bias=bias))), SHAPE)  # noqa: B023
    assert made == [(3, True), (3, False)]


def test_each_has_weights_of_its_own_unless_it_is_the_same() -> None:
    def twice(shared: bool) -> nn.Module:
        first = counted(nn.Linear, 192, 192)
        return nn.Sequential(nn.Flatten(), first, first if shared else counted(nn.Linear, 192, 192))

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

    network = countable(lambda: Pooled(lambda: counted(frozen)))
    assert count(network, SHAPE).parameters == (3 * 3 + 3) + (3 * 3 * 9 + 3)


class Joined(nn.Module):
    def forward(self, maps: dict[str, Tensor], others: list[Tensor]) -> Tensor:
        return torch.cat([*maps.values(), *others], 1)


class Joining(nn.Module):
    out_features = 12

    def __init__(self) -> None:
        super().__init__()
        self.join = counted(Joined)

    def forward(self, x: Tensor) -> Tensor:
        return self.join({"a": x, "b": x.relu()}, [x, x]).mean((2, 3))


def test_a_stand_in_takes_maps_in_any_order_and_number() -> None:
    with torch.device("meta"):
        expected = count(Joining(), SHAPE)
    assert count(countable(Joining), SHAPE) == expected


def test_nothing_known_of_one_precision_serves_another() -> None:
    def cost() -> Cost:
        return count(countable(lambda: Pooled(lambda: counted(wide))), SHAPE)

    single = cost()
    torch.set_default_dtype(torch.float64)
    try:
        assert cost() == single._replace(activations=2 * single.activations)
    finally:
        torch.set_default_dtype(torch.float32)
    assert cost() == single


def test_modules_are_made_where_nothing_is_counted() -> None:
    network = Pooled(lambda: counted(wide))
    assert isinstance(network.tested, nn.Sequential)
    assert network(torch.zeros(2, 3, 8, 8)).shape == (2, 3)


def test_a_stand_in_runs_without_a_counter() -> None:
    network = countable(lambda: Pooled(lambda: counted(wide)))
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
