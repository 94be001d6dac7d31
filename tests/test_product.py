from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nas.errors import ConfigError
from nas.product import Product, backbone_of, candidate_of, default_with
from nas.settings_space import Settings
from nas.space import Architecture, Decision, Space, TaskShape
from nas.testing.spaces import SpaceSuite, architectures
from nas.testing.toys import Toy
from search_spaces.few_shot import FewShot
from search_spaces.large_scale import LargeScale

SHAPE = TaskShape((16,), 3)
LEARNER = {"lr": (0.001, 0.01, 0.1), "schedule": ("constant", "cosine"), "second": (True, False)}
GIVEN = {"lr": 0.01, "schedule": "linear", "second": True, "order": 2}


def settings() -> Settings:
    return Settings("learner", LEARNER, GIVEN)


def joint(backbone: Space[Any] | None = None) -> Product:
    tasks = Settings("tasks", {"train_ways": (5, 20, 40)}, {"train_ways": None})
    return Product({"backbone": backbone or Toy(layers=3), "learner": settings(), "tasks": tasks})


class TestSettings(SpaceSuite):
    @pytest.fixture
    def space(self) -> Settings:
        return settings()

    @pytest.fixture
    def shape(self) -> TaskShape:
        return SHAPE


class TestProduct(SpaceSuite):
    @pytest.fixture
    def space(self) -> Product:
        return joint()

    @pytest.fixture
    def shape(self) -> TaskShape:
        return SHAPE


class TestProductWithBars(SpaceSuite):
    """The text of `few_shot` has bars of its own."""

    @pytest.fixture
    def space(self) -> Product:
        return joint(FewShot(stages=2))

    @pytest.fixture
    def shape(self) -> TaskShape:
        return TaskShape((1, 28, 28), 5)


class Spelt(Space[str]):
    """One decision among texts, which are text form and key, whatever is in them."""

    def __init__(self, *texts: str) -> None:
        self.decisions = (Decision("text", texts),)

    @property
    def name(self) -> str:
        return "spelt"

    def build(self, architecture: Architecture, shape: TaskShape) -> str:
        return self.encode(architecture)

    def canonical(self, architecture: Architecture) -> str:
        return self.encode(architecture)

    def encode(self, architecture: Architecture) -> str:
        return str(self.decisions[0].choices[self.check(architecture).choices[0]])

    def decode(self, text: str) -> Architecture:
        if text not in self.decisions[0].choices:
            raise self.unreadable(text, "one of the texts")
        return Architecture("spelt", (self.decisions[0].choices.index(text),))


SPELT = st.lists(
    st.lists(
        st.sampled_from([" | ", "|", "b: ", "c: ", " | b: ", " | c: ", "x", "0.0.0", "1", "."]), min_size=1
    ),
    min_size=1,
    max_size=4,
).map(lambda texts: Spelt(*dict.fromkeys(map("".join, texts))))


@given(a=SPELT, b=SPELT, c=SPELT, data=st.data())
def test_texts_and_keys_tell_architectures_apart(a: Spelt, b: Spelt, c: Spelt, data: st.DataObject) -> None:
    product = Product({"a": a, "b": b, "c": c})
    one, other = data.draw(architectures(product)), data.draw(architectures(product))
    for write in (product.encode, product.text):
        assert product.decode(write(one)) == one
    assert (product.canonical(one) == product.canonical(other)) == (one == other)


def test_decisions_and_anchors() -> None:
    class Anchored(Toy):  # type: ignore[misc]
        def __init__(self) -> None:
            self.decisions = (Decision("first", (0, 1)), Decision("next", (0, 1), ((), (0,))))

    product = Product({"learner": settings(), "backbone": Anchored()})
    names = ["learner.lr", "learner.schedule", "learner.second", "backbone.first", "backbone.next"]
    assert [decision.name for decision in product.decisions] == names
    assert product.decisions[-1].anchors == ((), (3,))
    assert product.name == "learner"


def test_text() -> None:
    product = joint(FewShot(stages=1))
    network = FewShot(stages=1).sample(np.random.default_rng(0))
    text = FewShot(stages=1).encode(network)
    read = product.decode(f"{text} | learner: lr=0.1 schedule=cosine second=False | tasks: train_ways=40")
    candidate = candidate_of(product, read)
    assert candidate.architecture == network
    assert candidate.settings == {
        "learner": {"lr": 0.1, "schedule": "cosine", "second": False},
        "tasks": {"train_ways": 40},
    }
    assert candidate.key == FewShot(stages=1).canonical(network)


@pytest.mark.parametrize(
    ("text", "chosen"),
    [
        ("", {}),
        (" | learner: lr=0.1 schedule=cosine second=True", {"learner.lr": 0.1, "learner.schedule": "cosine"}),
        (" | tasks: train_ways=20", {"tasks.train_ways": 20}),
    ],
)
def test_slots_that_a_text_leaves_out_are_at_their_default(text: str, chosen: Mapping[str, object]) -> None:
    product, toy = joint(), Toy(layers=3)
    network = toy.sample(np.random.default_rng(1))
    read = product.values(product.decode(toy.encode(network) + text))
    default = {
        "learner.lr": 0.01,
        "learner.schedule": "constant",
        "learner.second": True,
        "tasks.train_ways": 5,
    }
    assert {key: value for key, value in read.items() if not key.startswith("backbone.")} == default | chosen


@pytest.mark.parametrize(
    "text",
    [
        "{} | tasks: train_ways=20 | learner: lr=0.1 schedule=cosine second=True",
        "{} | learner: lr=0.1",
        "{} | learner: lr=0.2 schedule=cosine second=True",
        "{} | tasks: train_ways=20 | tasks: train_ways=20",
        "learner: lr=0.1 schedule=cosine second=True",
    ],
)
def test_refuses(text: str) -> None:
    toy = Toy(layers=3)
    with pytest.raises(ConfigError):
        joint().decode(text.format(toy.encode(toy.default)))


def test_a_space_of_networks_is_itself() -> None:
    toy = Toy(layers=3)
    network = toy.sample(np.random.default_rng(2))
    assert backbone_of(toy) is toy
    assert candidate_of(toy, network) == (toy, network, {})
    assert default_with(toy, network) is network


def test_complete() -> None:
    toy = Toy(layers=3)
    network = toy.sample(np.random.default_rng(2))
    product = joint(toy)
    assert backbone_of(product) is toy
    assert default_with(product, network).choices == (*network.choices, 1, 0, 0, 0)
    assert product.build(default_with(product, network), SHAPE)["learner"]["lr"] == 0.01


def test_a_slot_mutates_in_its_own_way() -> None:
    """From no layer, a mutation of the network's own inserts one; other slots change one decision."""
    space = joint(LargeScale(layers=2))
    network, rng, seen = len(LargeScale(layers=2).decisions), np.random.default_rng(0), set[str]()
    for _ in range(60):
        mutant = space.check(space.mutate(space.default, rng))
        pairs = zip(mutant.choices, space.default.choices, strict=True)
        changed = [place for place, pair in enumerate(pairs) if len(set(pair)) > 1]
        if changed[0] < network:
            assert changed[0] == 0, "the first layer is there"
            seen.add("network")
        else:
            assert len(changed) == 1
            seen.add("settings")
    assert seen == {"network", "settings"}
