"""Large-scale evolution's networks: the suite, each mutation, what is inactive, inherited weights."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from facts import refusal

from nas.backbone import BackboneSpace
from nas.errors import ConfigError, Infeasible
from nas.space import Architecture, TaskShape
from nas.testing.backbones import BackboneSuite
from search_spaces.large_scale import LargeScale

SPACE = LargeScale(layers=4, channels=(4, 8))
IMAGE = TaskShape((3, 12, 12), 5)


class TestLargeScale(BackboneSuite):
    @pytest.fixture
    def space(self) -> BackboneSpace:
        return SPACE

    @pytest.fixture
    def shape(self) -> TaskShape:
        return TaskShape((2, 12, 11), 5)


GROWN = "relu:3x3/1:4 linear:identity/1:4 relu:1x1/2:8@0+1"


def after(name: str, text: str = GROWN, draws: int = 60) -> set[str]:
    """What a mutation makes of a network, as keys."""
    rng, parent = np.random.default_rng(0), SPACE.decode(text)
    made = [SPACE.mutations[name](parent, rng) for _ in range(draws)]
    return {SPACE.canonical(SPACE.check(mutant)) for mutant in made if mutant is not None}


def test_mutations_do_what_they_say() -> None:
    """On a convolution, an identity that passes on, and a convolution that skips; see GROWN."""
    assert after("remove_convolution") == {"relu:1x1/2:8@0", "relu:3x3/1:4"}
    assert after("alter_stride") == {
        "relu:3x3/2:4 relu:1x1/2:8@0+1",
        "relu:3x3/1:4 relu:1x1/1:8@0+1",
    }
    assert after("alter_channels") == {
        "relu:3x3/1:8 relu:1x1/2:8@0+1",
        "relu:3x3/1:4 relu:1x1/2:4@0+1",
    }
    assert after("filter_size") == {
        *(f"relu:{edge}/1:4 relu:1x1/2:8@0+1" for edge in ("1x1", "5x5")),
        *(f"relu:3x3/1:4 relu:{edge}/2:8@0+1" for edge in ("3x3", "5x5")),
    }
    assert after("add_skip", GROWN.replace("@0+1", "@1")) == {
        "relu:3x3/1:4 linear:identity/1:4@0 relu:1x1/2:8@1",
        "relu:3x3/1:4 relu:1x1/2:8@0+1",
    }
    assert after("remove_skip") == {"relu:3x3/1:4 relu:1x1/2:8@0", "relu:3x3/1:4 relu:1x1/2:8@1"}


def test_insertions_put_a_layer_anywhere() -> None:
    kinds = ("relu", "linear")
    assert after("insert_convolution", "relu:3x3/1:8") == {
        *(f"{kind}:3x3/1:4 relu:3x3/1:8" for kind in kinds),
        *(f"relu:3x3/1:8 {kind}:3x3/1:8" for kind in kinds),
    }
    assert after("insert_one_to_one", "relu:3x3/1:8") == {
        "relu:identity/1:4 relu:3x3/1:8",
        "relu:3x3/1:8 relu:identity/1:4",
        "relu:3x3/1:8",
    }
    shifted = after("insert_convolution", GROWN)
    assert "relu:3x3/1:4 relu:3x3/1:4 relu:1x1/2:8@0+1" in shifted
    assert "relu:3x3/1:4 relu:3x3/1:4 relu:1x1/2:8@0+2" in shifted


def test_mutations_that_do_not_apply() -> None:
    full = " ".join(["relu:3x3/1:4"] * 4)
    assert not after("insert_convolution", full)
    assert not after("remove_skip", full)
    trivial = {name for name in SPACE.mutations if after(name, "trivial", 3)}
    assert trivial == {"insert_convolution", "insert_one_to_one"}


def test_evolution_grows_from_the_trivial_network() -> None:
    rng, architecture = np.random.default_rng(0), SPACE.named["trivial"]
    for _ in range(300):
        architecture = SPACE.check(SPACE.mutate(architecture, rng))
        assert SPACE.decode(SPACE.encode(architecture)) == architecture
    assert len(SPACE.layers_of(architecture)) > 1


def test_what_is_inactive_folds() -> None:
    texts = [
        "(none:3x3/2:8) relu:3x3/1:4@0 (none:identity/1:4@0)",
        "relu:3x3/1:4 linear:identity/1:8",
        "relu:3x3/1:4",
    ]
    assert {SPACE.canonical(SPACE.decode(text)) for text in texts} == {"relu:3x3/1:4"}


def test_a_network_is_wired_as_the_paper_says() -> None:
    """Skips are brought to the layer's size by nearest pixels, and to its channels by cutting or padding."""
    architecture = SPACE.decode("linear:3x3/2:8 linear:1x1/1:4@0")
    network = SPACE.build(architecture, IMAGE).double()
    x = torch.randn(2, 3, 12, 12, dtype=torch.float64)
    first = network.layers[0].convolution(x)
    y = network.layers[1].convolution(first)
    y[:, :3] += x[:, :, ::2, ::2]
    torch.testing.assert_close(network(x), network.norm(y).mean((2, 3)))


@pytest.mark.parametrize("name", sorted(SPACE.mutations))
def test_weights_are_inherited_where_shapes_match(name: str) -> None:
    """By `kinship`: names and shapes are those of both networks, and what did not change is inherited."""
    rng = np.random.default_rng(0)
    parent = SPACE.decode(GROWN)
    mine = SPACE.build(parent, IMAGE).state_dict()
    for _ in range(8):
        heir = SPACE.mutations[name](parent, rng)
        assert heir is not None
        network = SPACE.build(heir, IMAGE)
        kinship, own = SPACE.kinship(heir, parent), network.state_dict()
        assert set(kinship.names) == set(own)
        taken = {tensor: source for tensor, source in kinship.names.items() if source is not None}
        assert all(mine[source].shape == own[tensor].shape for tensor, source in taken.items())
        convolutions = [source for source in taken.values() if source.endswith("convolution.weight")]
        assert (
            len(set(convolutions))
            == len(convolutions)
            >= (1 if "skip" not in name else 2)
            - (name in ("remove_convolution", "alter_channels", "insert_convolution", "insert_one_to_one"))
        )


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32), (3, 84, 84)])
def test_networks_train_a_step(shape: tuple[int, ...]) -> None:
    rng, space = np.random.default_rng(0), LargeScale()
    for _ in range(3):
        network = space.build(space.sample(rng), TaskShape(shape, 5))
        loss = network(torch.randn(2, *shape)).square().sum()
        if loss.requires_grad:
            loss.backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())


@pytest.mark.slow
def test_no_collision() -> None:
    """Of 100,000 samples, those that share a key have the same active layers."""
    space, rng, known = LargeScale(), np.random.default_rng(0), {}
    for _ in range(100_000):
        architecture = space.sample(rng)
        layers = space._active(architecture)
        assert known.setdefault(space.canonical(architecture), layers) == layers


def test_what_is_refused() -> None:
    for wrong, facts in (
        ("relu:7x7/1:4", ("layer1.edge", "2 of the 22", "identity, 1x1, 3x3, 5x5")),
        ("relu:3x3/1:16", ("layer1.channels", "4, 8")),
        ("relu:3x3/1:4@0", ("layer1.skip0",)),
        (" ".join(["relu:3x3/1:4"] * 5), ("4 layers",)),
        ("(relu:3x3/1:4)", ("layers",)),
    ):
        with refusal(ConfigError, *facts):
            SPACE.decode(wrong)
    strided = LargeScale(layers=8, channels=(4,)).decode(" ".join(["relu:3x3/2:4"] * 5))
    with refusal(Infeasible, "5", "32", "8 × 8"):
        LargeScale(layers=8, channels=(4,)).build(strided, TaskShape((1, 8, 8), 5))
    with refusal(ConfigError, "space.kernels"):
        LargeScale(kernels=(2,))
    assert SPACE.default == Architecture("large_scale", (0,) * len(SPACE.decisions))
