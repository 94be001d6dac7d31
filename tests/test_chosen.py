"""What trials chose along with their networks, from their texts; leaderboards that ask for it."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import SCRIPTED, nas

from nas.errors import ConfigError
from nas.product import Product
from nas.queries import chosen
from nas.settings_space import Settings
from nas.testing.toys import Toy

SLOTS: dict[str, dict[str, list[Any]]] = {
    "learner": {"lr": [0.1, 0.01], "augmentation": ["none", {"name": "turned", "angle": 20.0}]},
    "tasks": {"train_shots": [5, 20]},
}


@pytest.mark.parametrize("odd", [False, True])
def test_texts_tell_what_was_chosen(odd: bool) -> None:
    """With a value that is no word, a text is the indices of all choices."""
    slots = {**SLOTS, "tasks": {"label": ["a b", "c"]}} if odd else SLOTS
    others = {slot: Settings(slot, choices, {}) for slot, choices in slots.items()}
    product, rng = Product({"backbone": Toy(layers=3), **others}), np.random.default_rng(0)
    texts = chosen.Texts(slots)
    for _ in range(50):
        drawn = product.sample(rng)
        built = [others[slot].chosen(part) for slot, part in product.parts(drawn).items() if slot in others]
        paths = [f"{slot}.{setting}" for slot, choices in slots.items() for setting in choices]
        values = [value for own in built for value in own.values()]
        assert texts.chosen(product.text(drawn)) == dict(zip(paths, values, strict=True))


def test_a_search_without_slots_chose_nothing() -> None:
    assert chosen.Texts(None).chosen("16.8") == {}
    assert chosen.Texts(SLOTS).chosen(None) == {}


@pytest.mark.parametrize(
    ("condition", "met"),
    [
        ("learner.lr=0.1", True),
        ("learner.lr=1e-1", True),
        ("learner.lr=0.2", False),
        ("learner.lr=high", False),
        ("learner.augmentation=turned", True),
        ("learner.augmentation=turned(angle:20.0)", True),
        ("learner.augmentation=none", False),
        ("tasks.train_shots=5", False),
    ],
)
def test_conditions(condition: str, met: bool) -> None:
    values = {"learner.lr": 0.1, "learner.augmentation": {"name": "turned", "angle": 20.0}}
    assert chosen.meets(values, [chosen.condition(condition)]) is met


@pytest.mark.parametrize("text", ["learner.lr", "learner.lr=", "=5", ""])
def test_a_condition_has_a_setting_and_a_value(text: str) -> None:
    with pytest.raises(ConfigError):
        chosen.condition(text)


def csv_rows(*arguments: str) -> list[tuple[int, dict[str, Any]]]:
    """Return the trials that a command prints as CSV, each with what it chose."""
    read = csv.DictReader(io.StringIO(nas(*arguments, "-f", "csv")[1]))
    return [(int(row["trial"]), json.loads(row["chosen"])) for row in read]


def test_a_leaderboard_asks_for_what_was_chosen(db: Path) -> None:
    slots = ["--slot=learner.lr=[0.1, 0.01]", "--slot=tasks.train_shots=[5, 20]"]
    assert nas("run", *SCRIPTED, *slots, "--trials=12", "--name=joint")[0] == 0
    assert nas("run", *SCRIPTED, "--trials=4", "--name=alone")[0] == 0

    def rows(*options: str) -> list[dict[str, Any]]:
        code, out, _ = nas("leaderboard", "--limit=0", "--format=json", *options)
        assert code == 0
        return list(json.loads(out))

    every = rows()
    assert {row["search"] for row in every if not row["chosen"]} == {"alone"}
    joint = [row for row in every if row["chosen"]]
    slow = [row for row in joint if row["chosen"]["learner.lr"] == 0.01]
    assert 0 < len(slow) < len(joint)
    found = rows("--where=learner.lr=0.01")
    assert [row["trial"] for row in found] == [row["trial"] for row in slow]
    assert [row["rank"] for row in found] == [*range(1, len(slow) + 1)]
    first = {row["chosen"]["tasks.train_shots"]: row["trial"] for row in reversed(joint)}
    found = rows("--by=tasks.train_shots")
    assert {row["chosen"]["tasks.train_shots"]: row["trial"] for row in found} == first
    assert [row["rank"] for row in found] == [1, 2]
    read = dict(csv_rows("show", "joint"))
    assert [read[row["trial"]] for row in joint] == [row["chosen"] for row in joint]
    assert [chosen for _, chosen in csv_rows("show", "alone")] == [{}] * 4
    assert json.loads(nas("show", "joint", "-f", "json")[1])["trial_rows"][0]["chosen"] == read[0]
    words = chosen.told(read[0])
    for target in ("joint", "joint/0"):
        table = nas("show", target)[1]
        assert words in table
        assert " | learner: " not in table
    assert "chosen" not in nas("show", "alone")[1]
    assert nas("leaderboard", "--by=learner.rate")[0] == 2
    assert nas("leaderboard", "--where=learner.lr")[0] == 2
