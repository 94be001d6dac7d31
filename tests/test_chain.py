from itertools import combinations, permutations, product
from typing import Literal

import pytest
import torch
from facts import Facts, refusal
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from nas.backbone import BackboneSpace
from nas.errors import ConfigError, Infeasible, UnknownName
from nas.plugins import resolve
from nas.space import Architecture, TaskShape
from nas.testing.backbones import BackboneSuite
from nas.testing.spaces import architectures, some
from search_spaces.chain import Chain, ChainNetwork, Layer, join
from search_spaces.isomorphism import canonical_order, form

OMNIGLOT = TaskShape((1, 28, 28), 5)
CONV4 = "3x3/2:64,3x3/2:64@1,3x3/2:64@2,3x3/2:64@3"
SMALL = Chain(layers=5, kernels=(1, 3), strides=(1, 2), channels=(2, 3))

quick = settings(max_examples=60, deadline=None)


class TestSmallChain(BackboneSuite):
    @pytest.fixture
    def space(self) -> BackboneSpace:
        return Chain(layers=3, kernels=(2,), strides=(1, 3), channels=(2,))

    @pytest.fixture
    def shape(self) -> TaskShape:
        return TaskShape((3, 7, 5), 5)


# Text


def test_decisions_are_those_of_the_paper() -> None:
    names = [decision.name for decision in Chain(layers=2).decisions]
    layer = ["height", "width", "stride", "channels"]
    assert names == [*(f"layer1.{f}" for f in layer), *(f"layer2.{f}" for f in layer), "layer2.from1"]
    assert len(Chain(layers=12).decisions) == 12 * 4 + 12 * 11 / 2


def test_text_is_readable() -> None:
    space = Chain(layers=3)
    text = "3x5/2:16,1x1/1:32,3x3/2:64@1+2"
    values = space.values(space.decode(text))
    assert [values[f"layer1.{field}"] for field in ("height", "width", "stride", "channels")] == [3, 5, 2, 16]
    assert (values["layer2.from1"], values["layer3.from1"], values["layer3.from2"]) == (0, 1, 1)
    assert space.encode(space.decode(text)) == text


@pytest.mark.parametrize(
    ("text", "facts"),
    [
        ("3x3/2:64,3x3/2:64", (2, "space.layers", 4)),
        (CONV4.replace("/2", "/3"), ("Layer 1", 3, "space.strides", "1, 2")),
        (CONV4.replace("@2", "@3"), ("layer 3",)),
        (CONV4.replace("@3", "@2+1"), ("layer 4",)),
        (CONV4.replace("@3", "@1+1"), ("layer 4",)),
        (CONV4.replace("@3", "@0"), ("'chain'", 4)),
        (CONV4.replace(",", ";"), ("'chain'", 4)),
    ],
)
def test_errors_say_which_layer(text: str, facts: Facts) -> None:
    with refusal(ConfigError, *facts):
        Chain().decode(text)


@pytest.mark.parametrize(
    ("given", "facts"),
    [
        ({"layers": 0}, ("space.layers",)),
        ({"kernels": []}, ("space.kernels",)),
        ({"strides": [1, 0]}, ("space.strides.1",)),
        ({"channels": [8, 8]}, ("space.channels",)),
    ],
)
def test_settings_are_checked(given: dict[str, object], facts: Facts) -> None:
    with refusal(ConfigError, *facts):
        Chain(**resolve(Chain, given, "space"))


# Conv-4


def test_conv4_is_that_of_maml() -> None:
    space = Chain()
    assert space.decode("conv4") == space.decode(CONV4)
    cost = space.cost(space.decode("conv4"), OMNIGLOT)
    assert cost.parameters == 9 * 64 + 3 * 9 * 64 * 64 + 4 * 2 * 64 == 111_680
    assert cost.macs == 9 * 64 * 14**2 + 9 * 64 * 64 * (7**2 + 4**2 + 2**2)


@pytest.mark.parametrize(
    "given", [{"layers": 5}, {"kernels": (5,)}, {"strides": (1,)}, {"channels": (32, 63)}], ids=str
)
def test_conv4_is_absent_where_the_settings_lack_it(given: dict[str, int]) -> None:
    assert not Chain(**given).named
    with pytest.raises(ConfigError):
        Chain(**given).decode("conv4")


def test_a_misspelt_name_is_corrected() -> None:
    with refusal(UnknownName, "'conv5'", "'conv4'"):
        Chain().decode("conv5")


# Arithmetic


def test_join_pads_with_zeros_at_the_bottom_and_right() -> None:
    small, large = torch.full((1, 1, 2, 1), 5.0), torch.full((1, 2, 3, 2), 7.0)
    joined = join([small, large])
    assert joined.shape == (1, 3, 3, 2)
    assert joined[0, 0].tolist() == [[5, 0], [5, 0], [0, 0]]
    assert (joined[0, 1:] == 7).all()


def test_a_network_is_wired_as_the_paper_says() -> None:
    space = Chain(layers=4, kernels=(1, 3), strides=(1, 2), channels=(2, 3))
    layers = space.layers_of(space.decode("3x3/2:2,1x3/1:3,3x1/1:2@1+2,1x1/2:3@1"))
    network = ChainNetwork(layers, 1, "stride")
    network.double().eval()
    x = torch.randn(5, 1, 6, 6, dtype=torch.float64)
    one, two, three, four = network.layers
    a, b = one(x), two(x)
    padded = torch.zeros(5, 2, 6, 6, dtype=torch.float64)
    padded[:, :, :3, :3] = a
    c, d = three(torch.cat([padded, b], 1)), four(a)
    # layers 3 and 4 feed no other: maps of 6×6 and 2×2, each with its own mean
    features = torch.cat([c.sum((2, 3)) / 36, d.sum((2, 3)) / 4], 1)
    assert network.out_features == 2 + 3
    torch.testing.assert_close(network(x), features)


def test_a_layer_is_convolution_batch_norm_relu() -> None:
    torch.manual_seed(0)
    space = Chain(layers=1, kernels=(3, 5), strides=(2,), channels=(4,))
    network = space.build(space.decode("3x5/2:4"), TaskShape((2, 7, 8), 5))
    x = torch.randn(3, 2, 7, 8)
    y = nn.functional.conv2d(x, network.layers[0][0].weight, stride=2, padding=(1, 2))
    assert y.shape[2:] == (4, 4)
    normal = (y - y.mean((0, 2, 3), keepdim=True)) / (
        y.var((0, 2, 3), unbiased=False, keepdim=True) + 1e-5
    ).sqrt()
    torch.testing.assert_close(network(x), normal.relu().mean((2, 3)))


def test_with_pooling_conv4_is_that_of_prototypical_networks() -> None:
    """Snell et al. (2017, section 3.1): convolution, batch norm, ReLU, 2 × 2 max-pooling, four times."""
    space, task = Chain(downsample="pool"), TaskShape((1, 28, 28), 5)
    conv4 = space.decode("conv4")
    network = space.build(conv4, task).double()
    x = y = torch.randn(3, 1, 28, 28, dtype=torch.float64)
    for layer in network.layers:
        y = nn.functional.conv2d(y, layer[0].weight, padding=1)
        y = nn.functional.batch_norm(y, None, None, training=True)
        y = nn.functional.max_pool2d(y.relu(), 2)
    torch.testing.assert_close(network(x), y.flatten(1))
    assert space.cost(conv4, task).parameters == Chain().cost(conv4, task).parameters


@pytest.mark.parametrize(("side", "features"), [(28, 64), (84, 5 * 5 * 64)])
def test_flattened_conv4_has_the_features_of_its_paper(side: int, features: int) -> None:
    """Snell et al. (2017, section 3.1 and 3.2): 64 features on Omniglot, 1,600 on images of 84 × 84."""
    task = TaskShape((3, side, side), 5)
    space = Chain(downsample="pool", readout="flatten")
    assert space.build(space.decode("conv4"), task).out_features == features


EVEN = Chain(layers=4, kernels=(2, 3), strides=(1, 2, 3), channels=(2,))


@quick
@given(architecture=architectures(EVEN), downsample=st.sampled_from(["stride", "pool"]))
def test_flattened_maps_are_all_pixels_of_the_ends(
    architecture: Architecture, downsample: Literal["stride", "pool"]
) -> None:
    network = ChainNetwork(EVEN.layers_of(architecture), 1, downsample, (9, 7)).eval()
    x, maps = torch.randn(2, 1, 9, 7), {}
    for number, layer in enumerate(network.layers):
        layer.register_forward_hook(lambda _, __, out, number=number: maps.update({number: out}))
    features = network(x)
    assert features.shape == (2, network.out_features)
    torch.testing.assert_close(features, torch.cat([maps[end].flatten(1) for end in network.ends], 1))


def test_maps_smaller_than_a_window_are_pooled_whole() -> None:
    space = Chain(layers=3, strides=(3,), downsample="pool")
    small = TaskShape((1, 5, 4), 5)
    network = space.build(space.decode("3x3/3:16,1x1/3:16@1,1x1/3:16@2"), small)
    assert network(torch.randn(2, 1, 5, 4)).shape == (2, 16)


def test_vectors_are_infeasible() -> None:
    with refusal(Infeasible, "'chain'", "(3,)"):
        Chain().cost(Chain().decode("conv4"), TaskShape((3,), 1))


# Isomorphism

Graph = tuple[list[tuple[int, ...]], list[tuple[int, ...]]]


def least_form(labels: list[tuple[int, ...]], parents: list[tuple[int, ...]]) -> object:
    """The canonical form by brute force: the least over every order."""
    return min(form(order, labels, parents) for order in permutations(range(len(labels))))


def graphs(size: int, labels: int) -> list[Graph]:
    """Every acyclic graph of this size, in every order that puts parents first."""
    sets = ([tuple(c) for n in range(v + 1) for c in combinations(range(v), n)] for v in range(size))
    wirings = list(product(*sets))
    paintings = product([(label,) for label in range(labels)], repeat=size)
    return [(list(painted), list(wired)) for painted in paintings for wired in wirings]


@pytest.mark.parametrize(("size", "labels"), [(1, 2), (2, 3), (3, 2), (4, 2), (5, 1)])
def test_equal_forms_are_isomorphic_graphs_and_no_others(size: int, labels: int) -> None:
    brute: dict[object, set[object]] = {}
    ours: dict[object, set[object]] = {}
    for graph in graphs(size, labels):
        mine, least = form(canonical_order(*graph), *graph), least_form(*graph)
        brute.setdefault(least, set()).add(mine)
        ours.setdefault(mine, set()).add(least)
    assert all(len(forms) == 1 for forms in (*brute.values(), *ours.values()))


@pytest.mark.parametrize(("size", "count"), [(1, 1), (2, 2), (3, 6), (4, 31), (5, 302)])
def test_there_are_as_many_keys_as_unlabelled_acyclic_graphs(size: int, count: int) -> None:
    """OEIS A003087."""
    space = Chain(layers=size, kernels=(1,), strides=(1,), channels=(1,))
    assert len({space.canonical(a) for a in some(space, space.size)}) == count


def relabelled(layers: list[Layer], order: list[int]) -> list[Layer]:
    place = {old: new for new, old in enumerate(order)}
    return [Layer(layers[old].shape, tuple(sorted(place[s] for s in layers[old].sources))) for old in order]


@st.composite
def orders(draw: st.DrawFn, layers: list[Layer]) -> list[int]:
    """A random order of the layers in which sources come first."""
    order: list[int] = []
    while len(order) < len(layers):
        ready = [i for i, layer in enumerate(layers) if i not in order and set(layer.sources) <= set(order)]
        order.append(draw(st.sampled_from(ready)))
    return order


WIDE = Chain(layers=12, kernels=(1, 3), strides=(1,), channels=(4,))


@quick
@given(st.data())
def test_relabelling_keeps_the_key(data: st.DataObject) -> None:
    architecture = data.draw(architectures(WIDE))
    layers = WIDE.layers_of(architecture)
    again = WIDE.architecture_of(relabelled(layers, data.draw(orders(layers))))
    assert WIDE.canonical(architecture) == WIDE.canonical(again)


@quick
@given(architectures(SMALL))
def test_the_key_is_a_text_of_an_isomorphic_network(architecture: Architecture) -> None:
    key = SMALL.canonical(architecture)
    twin = SMALL.decode(key)
    assert SMALL.canonical(twin) == key
    mine, yours = (least_form(*zip(*SMALL.layers_of(a), strict=True)) for a in (architecture, twin))
    assert mine == yours


def blocks(sources: tuple[int, ...], widths: list[int], inputs: int) -> dict[int, slice]:
    """Where each source's channels lie in the concatenation; the image is source −1."""
    found, start = {}, 0
    for source in sources or (-1,):
        width = widths[source] if source >= 0 else inputs
        found[source] = slice(start, start + width)
        start += width
    return found


@quick
@given(st.data())
def test_isomorphic_networks_compute_the_same(data: st.DataObject) -> None:
    """With each layer's weights, the order of the input channels apart, the features are permuted blocks."""
    layers = SMALL.layers_of(data.draw(architectures(SMALL)))
    order = data.draw(orders(layers))
    others = relabelled(layers, order)
    torch.manual_seed(data.draw(st.integers(0, 99)))
    one, two = (ChainNetwork(each, 1, "stride").double() for each in (layers, others))
    for weight in one.parameters():
        weight.data.normal_()
    widths, other_widths = ([layer.shape[-1] for layer in each] for each in (layers, others))
    place = {-1: -1} | {old: new for new, old in enumerate(order)}
    for new, old in enumerate(order):
        source, target = one.layers[old], two.layers[new]
        target.load_state_dict({**source.state_dict(), "0.weight": target[0].weight})
        theirs = blocks(others[new].sources, other_widths, 1)
        for earlier, block in blocks(layers[old].sources, widths, 1).items():
            target[0].weight.data[:, theirs[place[earlier]]] = source[0].weight.data[:, block]
    x = torch.randn(3, 1, 5, 6, dtype=torch.float64)
    mine, yours = one(x), two(x)
    ends, other_ends = blocks(one.ends, widths, 1), blocks(two.ends, other_widths, 1)
    assert len(ends) == len(other_ends)
    reordered: Tensor = torch.cat([yours[:, other_ends[place[end]]] for end in ends], 1)
    torch.testing.assert_close(mine, reordered)


def wheel(*lengths: int) -> list[tuple[int, ...]]:
    """Sources, then sinks with two parents each, that form cycles of these lengths."""
    sinks, start = [], 0
    for length in lengths:
        sinks += [tuple(sorted((start + i, start + (i + 1) % length))) for i in range(length)]
        start += length
    return [()] * start + sinks


SYMMETRIC = {
    "no edges": [()] * 12,
    "a star": [()] + [(0,)] * 11,
    "pairs": [()] * 6 + [(i,) for i in range(6)],
    "layers": [()] * 4 + [(0, 1, 2, 3)] * 4 + [(4, 5, 6, 7)] * 4,
    "a ring": wheel(6),
    "two rings": wheel(3, 3),
    "two rings that colours cannot tell apart": wheel(2, 4),
    "four of them": wheel(2, 2, 2, 3),
    "a tree": [(), (0,), (0,), (0,), (1,), (1,), (2,), (2,), (3,), (3,), (), ()],
}


@pytest.mark.parametrize("name", SYMMETRIC)
@settings(max_examples=10, deadline=None)
@given(data=st.data())
def test_symmetric_graphs_have_one_form(name: str, data: st.DataObject) -> None:
    layers = [Layer((1,), parents) for parents in SYMMETRIC[name]]
    labels, parents = zip(*relabelled(layers, data.draw(orders(layers))), strict=True)
    expected = form(canonical_order(labels, SYMMETRIC[name]), labels, SYMMETRIC[name])
    assert form(canonical_order(labels, parents), labels, parents) == expected


def test_graphs_that_colours_cannot_tell_apart_have_two_forms() -> None:
    forms = [form(canonical_order([(1,)] * 12, w), [(1,)] * 12, w) for w in (wheel(6), wheel(3, 3))]
    assert forms[0] != forms[1]
