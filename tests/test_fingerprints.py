"""Plug-ins that were edited, moved or deleted between a run and what follows it."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from command_line import SCRIPTED, nas
from facts import refusal
from sqlalchemy import create_engine, text

from nas.errors import PluginError
from nas.export.source import describe
from nas.fingerprints import check, explained, take
from nas.settings import evaluation
from nas.settings.search import validate
from nas.storage.store import Store
from nas.testing.evaluations import claim

SPACE = """
from nas.space import Decision
from nas.testing.toys import Toy

class Mine(Toy):
    def __init__(self, *, {setting}: int = 3) -> None:
        super().__init__(layers={setting})
        self.decisions = tuple(Decision(each.name, each.choices[:{choices}]) for each in self.decisions)
"""

CONFIG = {"space": "mine:Mine", "controller": "random", "tasks": "sinusoid", "learner": "maml"}

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Write]:
    """Return a function that makes a file in a folder of its own the only `mine.py`."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    written: list[Path] = []

    def forget() -> None:
        sys.modules.pop("mine", None)
        importlib.invalidate_caches()
        for path in written:
            path.unlink(missing_ok=True)

    def write(folder: str | None = "here", *, choices: int = 4, setting: str = "layers") -> Path:
        forget()
        path = tmp_path / str(folder) / "mine.py"
        if folder is not None:
            path.parent.mkdir(exist_ok=True)
            path.write_text(SPACE.format(setting=setting, choices=choices))
            written.append(path)
            monkeypatch.syspath_prepend(path.parent)
        return path

    yield write
    forget()


@pytest.fixture
def source(write: Write) -> Path:
    """Run a search in the plug-in; return where it was loaded from."""
    path = write()
    assert nas("run", *SCRIPTED, "--space=mine:Mine", "--trials=4", "--name=s")[0] == 0
    return path


def recorded() -> tuple[object, ...]:
    """Return what the search is now: its state, number of trials, trials ended and plug-ins."""
    with Store("sqlite:///nas.db") as store:
        row = store.search("s")
        return row.state, row.trials, len(store.history(row.id)), row.plugins


VERBS = (
    ("resume", "s", "--trials=+2"),
    ("evaluate", "s/0"),
)


def test_a_search_keeps_what_its_plug_ins_were(source: Path) -> None:
    found = recorded()[-1]
    assert isinstance(found, dict)
    assert set(found) == {"space", "controller", "tasks", "learner", "evaluator"}
    assert found["space"]["source"] == str(source)
    assert found["space"]["settings"] == ["layers"]
    assert found["space"]["decisions"][:2] == [["layers", [1, 2, 3]], ["width0", [2, 4, 8, 16]]]


@pytest.mark.parametrize("verb", VERBS, ids=lambda verb: verb[0])
@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"choices": 3}, ("'width0'", "2, 4, 8, 16")),
        ({"setting": "depth"}, ("layers", "depth")),
        ({"folder": None}, ("cannot be loaded",)),
        ({"folder": "there", "choices": 3}, ("'width0'", "there/mine.py")),
    ],
    ids=["edited", "another setting", "deleted", "another folder"],
)
def test_a_changed_plug_in_is_said_and_changes_nothing(
    source: Path, write: Write, verb: tuple[str, ...], change: dict[str, object], words: tuple[str, ...]
) -> None:
    before = recorded()
    write(**change)
    code, _, err = nas(*verb)
    assert code == 2
    assert "ModuleNotFoundError" not in err
    for word in ("'mine:Mine'", str(source), "search 's'", *words):
        assert word in err
    assert recorded() == before


def test_a_plug_in_that_was_only_moved_goes_on(source: Path, write: Write) -> None:
    write("there")
    assert nas("resume", "s", "--trials=+2")[0] == 0
    assert recorded()[:3] == ("completed", 6, 6)


def test_a_search_of_an_older_nas_goes_on(source: Path, write: Write) -> None:
    engine = create_engine("sqlite:///nas.db")
    with engine.begin() as connection:
        connection.execute(text("UPDATE searches SET plugins = NULL"))
    engine.dispose()
    assert nas("resume", "s", "--trials=+2")[0] == 0
    write(None)
    assert nas("resume", "s", "--trials=+2")[0] == 2


def test_an_evaluation_keeps_what_its_plug_ins_were(write: Write, store: Store) -> None:
    source = write()
    sections = {"space": "mine:Mine", "tasks": "sinusoid", "learner": "maml"}
    config = evaluation.validate(sections)
    recorded = config.model_dump(mode="json")
    row = claim(store, config=recorded, plugins=take(recorded, config.make_space()))
    write("there", choices=3)
    with refusal(PluginError, "'width0'", source):
        describe(store.evaluations.get(row.id))


def test_every_difference_between_decisions_is_one(write: Write) -> None:
    write()
    config = validate(CONFIG)
    space = config.make_space()
    whole = take(config.model_dump(mode="json"), space)
    for unchanged in (whole, None):
        check(unchanged, space, "it")
    decisions = whole["space"]["decisions"]
    gone, new, turned = [*decisions, ["a", [1]]], decisions[1:], decisions[::-1]
    for then, names in ((gone, ["'a'"]), (new, ["'layers'"]), (turned, [])):
        with refusal(PluginError, "'mine:Mine'", *names):
            check({"space": whole["space"] | {"decisions": then}}, space, "it")


def test_another_error_is_left_as_it_is(write: Write) -> None:
    write()
    whole = take(validate(CONFIG).model_dump(mode="json"), validate(CONFIG).make_space())
    with refusal(PluginError, "own words"), explained(whole, "it"):
        raise PluginError("own words")


FILLING = """
from nas.learners.augmentation import Augmentation

class Mine(Augmentation):
    name = "mine"

    def __init__(self, shape, *, {setting}: int = 3) -> None:
        super().__init__(shape)

    def forward(self, episode, generator):
        return episode
"""


@pytest.mark.parametrize("chosen", [False, True])
@pytest.mark.parametrize("change", [None, "other"], ids=["deleted", "another setting"])
def test_what_fills_a_slot_of_the_learner_has_a_fingerprint(
    write: Write, chosen: bool, change: str | None
) -> None:
    path = write()
    path.write_text(FILLING.format(setting="size"))
    fill = (
        "--slot=learner.augmentation=['none', 'mine:Mine']"
        if chosen
        else "--set=learner.augmentation=mine:Mine"
    )
    assert nas("run", *SCRIPTED, fill, "--trials=2", "--name=s")[0] == 0
    before = recorded()
    assert isinstance(before[-1], dict)
    assert before[-1]["augmentation:mine:Mine"]["settings"] == ["size"]
    write(None)
    if change is not None:
        write().write_text(FILLING.format(setting=change))
    code, _, err = nas("resume", "s", "--trials=+2")
    assert code == 2
    for word in ("augmentation 'mine:Mine'", str(path), "search 's'"):
        assert word in err
    assert recorded() == before
