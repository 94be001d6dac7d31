"""Searches that begin with what earlier ones found: what they know, what they try, and that it stays."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from command_line import nas
from facts import refusal
from scripted_searches import configure as scripted
from scripted_searches import reopen, results, run, start
from small_table import TEXTS, TOY, configure, eight_rows, write
from sqlalchemy import text

from controllers.random import Random
from nas.controller import Controller, Evaluate, Inherited, Outcome, Proposal, Score
from nas.driver.trials import executor
from nas.errors import ConfigError, NotFound, StorageError, Unsupported
from nas.settings.search import SearchConfig
from nas.space import TaskShape
from nas.states import TrialState
from nas.storage.store import Store
from nas.testing.controllers import completed, simulate
from nas.testing.toys import Toy
from nas.wrappers import Constrained, Deduplicated, WarmStarted


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """A table whose other column ranks the other way round."""
    frame = eight_rows()
    frame["other"] = -frame["valid"]
    return write(frame, tmp_path / "table.csv")


@pytest.fixture
def store(tmp_path: Path) -> Any:
    with Store(f"sqlite:///{tmp_path}/nas.db", create=True) as opened:
        yield opened


def earlier(table: Path, name: str, texts: Sequence[str], **changes: Any) -> SearchConfig:
    controller = {"name": "fixed", "architectures": list(texts)}
    return configure(table, settings={}, name=name, controller=controller, trials=len(texts), **changes)


def ran(store: Store, config: SearchConfig) -> str:
    search = start(store, config)
    search.run(executor(config, config.make_source()))
    return store.search("@last").name


def architectures(store: Store, name: str) -> list[str]:
    return [architecture for _, _, architecture, *_ in results(store, name)]


def test_the_best_of_earlier_searches_come_first_whatever_their_scores(store: Store, table: Path) -> None:
    """Scores of the first are 10, 20, …, of the second −10, −20, …: their order in a search counts alone."""
    ran(store, earlier(table, "one", TEXTS[:4]))
    other = {"name": "tabular", "table": str(table), "metric": "other"}
    ran(store, earlier(table, "two", TEXTS[3:8], evaluator=other))
    warm = {"searches": ["one", "two"], "trials": 3}
    ran(store, configure(table, settings={}, name="new", trials=5, warm_start=warm))
    found = [
        (one.origin, one.architecture, round(one.share, 9)) for one in store.inherited(store.search("new").id)
    ]
    assert found == [
        *(("one", text, (place + 0.5) / 4) for place, text in enumerate(TEXTS[:4])),
        *(("two", text, (4.5 - place) / 5) for place, text in enumerate(TEXTS[3:8])),
    ]
    # The fourth is in both, at 0.875 and 0.9.
    assert architectures(store, "new")[:3] == [TEXTS[3], TEXTS[4], TEXTS[2]]
    environment = store.search("new").environment["inherited"]
    assert [(one["search"], one["networks"]) for one in environment["searches"]] == [("one", 4), ("two", 5)]
    assert all(trial.reused is None for trial in store.trials(store.search("new").id)[:3])


def test_networks_of_a_promoting_search_are_known_by_their_longest_training(
    store: Store, tmp_path: Path
) -> None:
    """Short scores are all better than whole ones, and outrank none."""
    frame = eight_rows()
    frame["short"] = 100 - frame["valid"]
    table = write(frame, tmp_path / "lengths.csv")
    lengths = {"name": "tabular", "table": str(table), "metric": {1: "short", 2: "valid"}}
    ran(store, earlier(table, "one", TEXTS, evaluator=lengths, scheduler={"name": "halving", "eta": 2}))
    ran(store, configure(table, settings={}, name="new", trials=1, warm_start={"searches": ["one"]}))
    rows = store.trials(store.search("one").id)
    whole = {row.architecture for row in rows if row.state == "completed"}
    known = {one.architecture: one.share for one in store.inherited(store.search("new").id)}
    assert known.keys() == {row.architecture for row in rows} > whole
    assert set(sorted(known, key=lambda text: -known[text])[: len(whole)]) == whole


@pytest.mark.parametrize("name", ["halving", "promotion"])
def test_a_promoting_search_tries_the_best_first_though_it_draws_them_again(
    tmp_path: Path, name: str
) -> None:
    """Random search under the same seed draws in the same order what is known already."""
    with Store(f"sqlite:///{tmp_path}/promoting.db", create=True) as store:
        run(store, scripted(name="one", controller="random", trials=4))
        promoting = {"name": name, "minimum": 30, "eta": 3}
        warm = {"searches": ["one"], "trials": 4}
        run(store, scripted(name="new", controller="random", trials=9, scheduler=promoting, warm_start=warm))
        known = {one.architecture: one.share for one in store.inherited(store.search("new").id)}
        first = [row for row in store.trials(store.search("new").id) if row.asked_episodes == 33]
    assert [row.architecture for row in first[:4]] == sorted(known, key=lambda text: -known[text])[:4]
    assert {row.state for row in first[:4]} == {"paused"}


def test_a_search_resumes_as_it_began_when_earlier_ones_go_on_or_are_gone(store: Store, table: Path) -> None:
    controller = {"name": "evolution", "population": 3, "sample": 2}
    warm = {"searches": ["old"], "trials": 2}
    ran(store, earlier(table, "old", TEXTS[2:6]))
    whole = configure(table, settings={}, name="whole", controller=controller, trials=8, warm_start=warm)
    ran(store, whole)
    ran(store, whole.model_copy(update={"name": "parts", "trials": 1}))
    ran(store, whole.model_copy(update={"name": "later", "trials": 1}))
    reopen(store, "old", more=2).run(executor(whole, whole.make_source()))
    reopen(store, "parts", more=7).run(executor(whole, whole.make_source()))
    assert results(store, "parts") == results(store, "whole")
    store.delete(store.search("old").id)
    reopen(store, "later", more=7).run(executor(whole, whole.make_source()))
    assert results(store, "later") == results(store, "whole")


def test_what_was_changed_in_the_database_is_refused(store: Store, table: Path, tmp_path: Path) -> None:
    ran(store, earlier(table, "old", TEXTS[:4]))
    config = configure(table, settings={}, name="new", trials=2, warm_start="old")
    ran(store, config)
    with store._database.edit() as session:
        session.execute(text("UPDATE inherited SET share = 0.9 WHERE place = 0"))
    with refusal(StorageError, "'new'", "inherited"):
        reopen(store, "new", more=1)


def test_what_cannot_be_inherited_is_refused(store: Store, table: Path) -> None:
    ran(store, earlier(table, "old", TEXTS[:2]))

    def refused(error: type[Exception], *facts: str, **changes: Any) -> None:
        with refusal(error, *facts):
            start(store, configure(table, settings={}, name="new", **changes))
        with pytest.raises(NotFound):
            store.search("new")

    refused(ConfigError, "'ol'", "'old'", warm_start="ol")
    refused(NotFound, "'gone'", "nas ls", warm_start="gone")
    refused(ConfigError, "warm_start.trials", warm_start={"searches": ["old"], "trials": 0})
    refused(ConfigError, "warm_start.searches", warm_start=[])
    space = {"name": "nas.testing.toys:Toy", "layers": 2}
    text = Toy(layers=2).encode(Toy(layers=2).decode("0.0.0.0.0"))
    deeper = write(pd.DataFrame({"arch": [text], "valid": [1.0]}), table.with_name("deeper.csv"))
    partial = {**_tabular(deeper), "partial": True}
    refused(ConfigError, "'old'", "'layers'", space=space, evaluator=partial, warm_start="old")
    layers = ",".join(["1x1/1:16"] * 4)
    partial["table"] = str(
        write(pd.DataFrame({"arch": [layers], "valid": [1.0]}), table.with_name("chain.csv"))
    )
    refused(ConfigError, "'old'", "'toy'", "'chain'", space="chain", evaluator=partial, warm_start="old")
    fixed = {"name": "fixed", "architectures": TEXTS[:1]}
    refused(Unsupported, "'fixed'", controller=fixed, warm_start="old")
    refused(Unsupported, "'grid'", controller="grid", warm_start="old")
    start(store, earlier(table, "empty", TEXTS[:2]))
    refused(ConfigError, "'empty'", "nas show empty", warm_start="empty")


def test_several_goals_rank_by_their_front(store: Store, table: Path) -> None:
    """Score and seconds both rise with the place, so all eight are on one front; its ends have most room."""
    ran(store, earlier(table, "old", TEXTS, evaluator={**_tabular(table), "cost": "cost"}))
    warm = {"searches": ["old"], "trials": 2}
    evaluator = {**_tabular(table), "cost": "cost"}
    config = configure(
        table, name="new", evaluator=evaluator, objective="score,seconds", trials=3, warm_start=warm
    )
    ran(store, config)
    assert set(architectures(store, "new")[:2]) == {TEXTS[0], TEXTS[7]}


def _tabular(table: Path) -> dict[str, Any]:
    return {"name": "tabular", "table": str(table), "metric": "valid"}


KNOWN = [Inherited(TOY.decode(text), (place + 0.5) / 8, "old") for place, text in enumerate(TEXTS)]


def test_what_breaks_a_limit_is_not_tried() -> None:
    """With an input of 8 the widths 2, 4, 8 have 18, 36 and 72 weights; 16 is infeasible."""
    inner = WarmStarted(Random(TOY, 0), TOY, 2)
    controller = Constrained(inner, TOY, TaskShape((8,), 5), {"parameters": 40})
    controller.inherit(KNOWN)
    run = simulate(controller, completed(TOY.score), trials=2)
    assert [TOY.encode(p.architecture) for p in run.proposals] == [TEXTS[3], TEXTS[2]]


def test_another_search_is_no_score_to_reuse() -> None:
    controller = Deduplicated(WarmStarted(Random(TOY, 0), TOY, 3), TOY)
    controller.inherit(KNOWN)
    run = simulate(controller, completed(TOY.score), trials=3, workers=2)
    assert [TOY.encode(p.architecture) for p in run.proposals] == [TEXTS[7], TEXTS[6], TEXTS[5]]
    assert all(isinstance(proposal, Evaluate) for proposal in run.proposals)


class Again(Controller):
    """Trains the first network that it saw longer, then again under another seed, then whatever is drawn."""

    def __init__(self) -> None:
        self.seen: list[Outcome] = []

    def propose(self, number: int, pending: Sequence[Evaluate], rng: np.random.Generator) -> Proposal:
        drawn = TOY.sample(rng)
        if not self.seen:
            return Evaluate(drawn, episodes=75)
        first = self.seen[0].architecture
        assert first is not None
        asked = {1: Evaluate(first, episodes=300), 2: Evaluate(first, 1, 75), 3: Evaluate(first, episodes=75)}
        return asked.get(number, Evaluate(drawn, episodes=75))

    def observe(self, number: int, outcome: Outcome) -> None:
        self.seen.append(outcome)


def test_lengths_and_seeds_are_the_inner_controllers() -> None:
    controller = WarmStarted(Again(), TOY, 2)
    controller.inherit(KNOWN)
    best, second = TOY.decode(TEXTS[7]), TOY.decode(TEXTS[6])
    expected = [
        Evaluate(best, episodes=75),
        Evaluate(best, episodes=300),
        Evaluate(best, 1, 75),
        Evaluate(second, episodes=75),  # not the best as it was tried
    ]
    run = simulate(
        controller, lambda _, a: Outcome(TrialState.COMPLETED, a, Score(0.5, 0.0, 1), 300), trials=4
    )
    assert run.proposals == expected


def test_the_command_line_starts_warm_and_says_so(
    table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NAS_DB", f"sqlite:///{tmp_path}/nas.db")
    looked_up = ("--evaluator=tabular", f"--set=evaluator.table={table}", "--set=evaluator.metric=valid")
    toy = ("--space=nas.testing.toys:Toy", "--set=space.layers=1", *looked_up, "--controller=random")
    assert nas("run", *toy, "--trials=4", "--name=old")[0] == 0
    code, _, err = nas("run", *toy, "--trials=4", "--seed=1", "--name=new", "--warm-start-from=old")
    assert code == 0, err
    shown = json.loads(nas("show", "new", "-f", "json")[1])
    assert shown["config"]["warm_start"] == {"searches": ["old"], "trials": 8}
    tried = {row["architecture"] for row in json.loads(nas("show", "old", "-f", "json")[1])["trial_rows"]}
    assert shown["inherited"] == [{"search": "old", "task": "table valid", "networks": len(tried)}]
    assert "inherited" in nas("show", "new")[1]
    assert "inherited" not in nas("show", "old")[1]
    code, _, err = nas("run", *toy, "--name=third", "--warm-start-from=gone")
    assert (code, "'gone'" in err) == (NotFound.exit_code, True)
