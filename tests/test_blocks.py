"""Cells of blocks: the suites of their spaces, keys, texts, and the sizes of published networks."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from collisions import INPUT, Values, applied, assert_no_collision, told
from facts import refusal
from grids import rest_slow
from torch import nn

from nas.errors import ConfigError, Infeasible
from nas.space import Architecture, TaskShape
from nas.testing.backbones import BackboneSuite
from search_spaces.blocks import CONCAT, Block, BlockCell, BlockSpace
from search_spaces.enas_micro import EnasMicro
from search_spaces.nasnet import VARIANTS, NasNet

CIFAR = TaskShape((3, 32, 32), 10)
SMALL = {
    "nasnet": NasNet(blocks=2),
    "nasnet, joins": NasNet(blocks=2, joins=True),
    "amoebanet": NasNet(variant="amoebanet", blocks=2),
    "pnas": NasNet(variant="pnas", blocks=2, repeats=2),
    "enas_micro": EnasMicro(blocks=2),
}


class TestBlockSpaces(BackboneSuite):
    @pytest.fixture(params=rest_slow(SMALL, ("nasnet, joins",)))
    def space(self, request: pytest.FixtureRequest) -> BlockSpace:
        return SMALL[request.param]

    @pytest.fixture
    def shape(self) -> TaskShape:
        return TaskShape((2, 7, 6), 5)

    @pytest.fixture
    def spread(self, space: BlockSpace) -> float:
        """NASNet joins states of which one adds up what the other is a term of."""
        return 12.0 if space.name == "nasnet" else 8.0


def outputs(cell: BlockCell, *, reduction: bool) -> list[Values]:
    """What a cell computes as its paper says, with weights shared by operation."""
    states: list[list[Values]] = [[INPUT], [np.roll(INPUT, 1)]]
    read = set()
    for block in cell.blocks:
        terms = []
        for name, state in block[:2]:
            read.add(state)
            parts = states[state]
            x = parts[0] if len(parts) == 1 else applied("fit", sum(applied("half", p) for p in parts))
            halves = reduction and state < 2
            terms.append(x if name == "skip_connect" and not halves else applied(f"{name} {halves}", x))
        states.append(terms if block.combination == CONCAT else [terms[0] + terms[1]])
    found = []
    for state, parts in enumerate(states):
        if state in cell.joined or (state >= 2 and state not in read):
            halves = reduction and state < 2
            found += [applied("halve", part) if halves else part for part in parts]
    return found


def function(space: BlockSpace, architecture: Architecture) -> object:
    cells = space.cells_of(architecture)
    both = {kind: cells.get(kind) or cells["cell"] for kind in ("normal", "reduce")}
    reads = {
        kind: {s for block in cell.blocks for _, s in block[:2]} | set(cell.joined)
        for kind, cell in both.items()
    }
    live, kinds = {len(space.kinds) - 1}, space.kinds
    for i in reversed(range(len(kinds))):
        live |= {i - 2 + s for s in reads[kinds[i]] & {0, 1} if i in live}
    used = {kinds[i] for i in live if i >= 0}
    return [told(outputs(both[kind], reduction=kind == "reduce")) for kind in sorted(used)].__repr__()


@pytest.mark.parametrize(
    "space",
    [EnasMicro(blocks=1), NasNet(variant="pnas", blocks=1, joins=True)],
)
def test_equal_keys_are_equal_functions(space: BlockSpace) -> None:
    assert assert_no_collision(space, lambda a: function(space, a), 600, seed=1) > 10


@pytest.mark.slow
@pytest.mark.parametrize("space", [*(NasNet(variant=v) for v in VARIANTS), EnasMicro()])
def test_no_collision(space: BlockSpace) -> None:
    assert_no_collision(space, lambda a: function(space, a), 100_000)


def rewritten(cell: BlockCell, rng: np.random.Generator) -> BlockCell:
    """The same cell written otherwise: terms exchanged, and blocks that do not read each other."""
    blocks = [b._replace(first=b.second, second=b.first) if rng.random() < 0.5 else b for b in cell.blocks]
    place = int(rng.integers(len(blocks) - 1))
    first, second = blocks[place : place + 2]
    if place + 2 in (second.first[1], second.second[1]):
        return BlockCell(tuple(blocks), cell.joined)
    names = {place + 2: place + 3, place + 3: place + 2}
    blocks[place : place + 2] = second, first

    def renamed(block: Block) -> Block:
        (a, i), (b, j) = block[:2]
        return block._replace(first=(a, names.get(i, i)), second=(b, names.get(j, j)))

    blocks[place + 2 :] = map(renamed, blocks[place + 2 :])
    return BlockCell(tuple(blocks), tuple(sorted(names.get(state, state) for state in cell.joined)))


@pytest.mark.parametrize("space", [NasNet(joins=True), NasNet(variant="pnas"), EnasMicro()])
def test_a_cell_that_is_written_otherwise_keeps_its_key(space: BlockSpace) -> None:
    rng = np.random.default_rng(0)
    for _ in range(60):
        architecture = space.sample(rng)
        cells = {kind: rewritten(cell, rng) for kind, cell in space.cells_of(architecture).items()}
        assert space.canonical(space.architecture_of(cells)) == space.canonical(architecture)


PUBLISHED = [
    (NasNet(channels=32, repeats=6, joins=True), "nasnet_a", "3.3"),
    (NasNet(variant="amoebanet", channels=36, repeats=6, joins=True), "amoebanet_a", "3.2"),
    (NasNet(variant="pnas", channels=48, repeats=3, joins=True), "pnas_5", "3.2"),
    (EnasMicro(channels=36, repeats=6), "enas", "4.6"),
]


@pytest.mark.parametrize(("space", "name", "millions"), PUBLISHED)
def test_published_networks_have_the_printed_size(space: BlockSpace, name: str, millions: str) -> None:
    """In millions of parameters, as the papers print it, with a classifier for ten classes."""
    with torch.device("meta"):
        network = space.build(space.named[name], CIFAR)
    parameters = sum(p.numel() for p in network.parameters())
    assert f"{(parameters + 10 * network.out_features + 10) / 1e6:.1f}" == millions


def test_the_variants_choose_among_what_their_papers_list() -> None:
    counts = {name: len(own.operations) for name, own in VARIANTS.items()}
    assert counts == {"nasnet": 13, "amoebanet": 8, "pnas": 8}


@pytest.mark.parametrize("name", VARIANTS["nasnet"].operations)
@pytest.mark.parametrize("stride", [1, 2])
def test_operations_are_as_published(name: str, stride: int) -> None:
    """Each convolution sees its input through a ReLU, has no bias, and is followed by an affine norm."""
    module = NasNet().operation(name, 8, stride)
    for size in (5, 8):
        y = module.eval()(torch.randn(2, 8, size, size))
        assert y.shape == (2, 8, -(-size // stride), -(-size // stride))
    layers = [part for part in module.modules() if not list(part.children())]
    for i, layer in enumerate(layers):
        if isinstance(layer, nn.Conv2d):
            depthwise = layer.groups > 1
            assert layer.bias is None
            assert isinstance(layers[i - 1], nn.Conv2d if _depthwise(layers[i - 1]) else nn.ReLU)
            assert isinstance(layers[i + 1], nn.Conv2d if depthwise else nn.BatchNorm2d)
        assert not isinstance(layer, nn.BatchNorm2d) or layer.affine
    assert ("conv" in name) == any(isinstance(layer, nn.Conv2d) for layer in layers) or stride == 2


def _depthwise(layer: nn.Module) -> bool:
    return isinstance(layer, nn.Conv2d) and layer.groups > 1


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32), (3, 84, 84)])
@pytest.mark.parametrize("name", rest_slow(SMALL, ("enas_micro",)))
def test_networks_train_a_step(name: str, shape: tuple[int, ...]) -> None:
    space, rng = SMALL[name], np.random.default_rng(3)
    for _ in range(3):
        network = space.build(space.sample(rng), TaskShape(shape, 5))
        network(torch.randn(2, *shape)).square().sum().backward()
        assert all(p.grad is None or p.grad.isfinite().all() for p in network.parameters())


def test_texts_that_name_what_the_space_has_not() -> None:
    space = EnasMicro(blocks=2)
    text = space.encode(space.default)
    for wrong, facts in (
        (
            text.replace("sep_conv_3x3@0", "sep_conv_7x7@0", 1),
            ("normal.block1.op1", "2 of the 16", "max_pool_3x3"),
        ),
        (text.replace("@0", "@4", 1), ("normal.block1.input1", "0, 1")),
        (text.replace("+", "&", 1), ("normal.block1.combination",)),
        (text + " > 0", ("reduce", "joins")),
    ):
        with refusal(ConfigError, *facts):
            space.decode(wrong)
    with refusal(Infeasible, "'enas_micro'"):
        space.build(space.default, TaskShape((3,), 1))
