"""The Python face does what the command line does."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from command_line import SCRIPTED
from command_line import nas as command
from recorded import MIXED, record

import nas
from nas.errors import ConfigError, NasError, NotFound, TooManyFailures, UnknownName
from nas.executors.inline import InlineExecutor
from nas.queries.searches import SearchDetails
from nas.queries.trials import TrialDetails
from nas.storage.store import Store
from nas.testing.evaluations import CONFIG, claim, trained
from nas.verbs import place

PARTS: dict[str, Any] = {
    "space": "nas.testing.toys:Toy",
    "controller": "evolution",
    "tasks": "sinusoid",
    "learner": "maml",
    "evaluator": "nas.testing.evaluators:Scripted",
}
"""The parts of a search that trains nothing, as `SCRIPTED`."""


@pytest.fixture(autouse=True)
def default(db: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The database that is asked where none is named: it is in the working directory."""
    monkeypatch.delenv("NAS_DB")


def listed(name: str) -> list[dict[str, Any]]:
    """Return the trials of a search, without what no two runs share."""
    rows = json.loads(command("show", name, "-f", "json")[1])["trial_rows"]
    return [{k: v for k, v in row.items() if k != "seconds" and not k.endswith("_at")} for row in rows]


def test_import_nas_loads_nothing_heavy() -> None:
    code = (
        "import sys, nas\nassert {'search', 'load', 'leaderboard'} <= {*dir(nas)}\n"
        "print(sorted({'torch', 'ray', 'sqlalchemy', 'pandas', 'numpy', 'pydantic'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_only_ray_takes_an_address(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError):
        nas.search(**PARTS, executor="inline", ray_address="here:1")
    with pytest.raises(NotFound):
        nas.show("@last")
    monkeypatch.setenv("RAY_ADDRESS", "head:1")
    assert [place(address, "inline") for address in (None, "head:1", "other:1")] == [
        "inline",
        "inline",
        "ray",
    ]


def test_every_name_is_there() -> None:
    for name in nas.__all__:
        assert getattr(nas, name) is not None
    with pytest.raises(AttributeError):
        nas.nothing  # noqa: B018


def test_a_search_is_that_of_the_command() -> None:
    found = nas.search(
        **PARTS
        | {"tasks": {"name": "sinusoid", "shots": 5}, "controller": {"name": "evolution", "sample": 3}},
        trials=8,
        seed=3,
        name="here",
        budget={"train_episodes": 30},
        quiet=True,
        **{"controller.population": 4},
    )
    options = ("--set=tasks.shots=5", "--set=controller.sample=3", "--set=controller.population=4")
    assert (
        command(
            "run",
            *SCRIPTED,
            "--trials=8",
            "--seed=3",
            "--name=there",
            *options,
            "--set=budget.train_episodes=30",
        )[0]
        == 0
    )
    assert (found.name, found.state, len(found.trials)) == ("here", "completed", 8)
    assert listed("here") == listed("there")
    configs = [json.loads(command("show", name, "-f", "json")[1])["config"] for name in ("here", "there")]
    assert configs[0] | {"name": "there"} == configs[1]
    best = found.best
    assert best is not None
    scores = [row.score for row in found.trials if row.state == "completed" and row.score is not None]
    assert (best.rank, best.score) == (1, max(scores))
    assert found.leaderboard(limit=3)["score"].tolist() == sorted({*scores}, reverse=True)[:3]


def test_arguments_win_over_a_file(tmp_path: Path) -> None:
    lines = [f'{kind} = "{name}"' for kind, name in PARTS.items() if kind != "tasks"]
    text = "\n".join(
        ["trials = 3", "seed = 1", *lines, "[tasks]", 'name = "sinusoid"', "shots = 5", "queries = 4"]
    )
    Path("s.toml").write_text(text)
    found = nas.search("s.toml", trials=2, tasks={"shots": 6}, quiet=True).show()
    assert (found.trials, found.config["seed"]) == (2, 1)
    assert (found.config["tasks"]["shots"], found.config["tasks"]["queries"]) == (6, 4)
    assert found.config["executor"] == "inline"
    other = nas.search("s.toml", trials=2, learner="anil", quiet=True).show()
    assert other.config["learner"]["name"] == "anil"


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"space": None}, ConfigError),
        ({"space": "nothing"}, UnknownName),
        ({"tasks": {"name": "sinusoid", "ways": 3}}, UnknownName),
        ({"trials": 0}, ConfigError),
        ({"budgets": {}}, UnknownName),
        ({"workers": 2}, ConfigError),
        ({"scheduler": "mean"}, ConfigError),
        ({"trials.deep": 1, "trials": 1}, ConfigError),
        ({"derive": 2}, ConfigError),
    ],
)
def test_what_is_wrong_is_refused_as_the_command_does(
    changes: dict[str, Any], error: type[Exception]
) -> None:
    with pytest.raises(error):
        nas.search(**PARTS | changes)
    assert not Path("nas.db").exists()


def test_a_taken_name_and_a_failed_search(tmp_path: Path) -> None:
    nas.search(**PARTS, trials=1, name="s", quiet=True)
    with pytest.raises(ConfigError):
        nas.search(**PARTS, trials=1, name="s", quiet=True)
    broken = PARTS | {"evaluator": {"name": PARTS["evaluator"], "faults": dict.fromkeys(range(4), "raise")}}
    with pytest.raises(TooManyFailures):
        nas.search(**broken, trials=4, name="f", quiet=True, retries=0)
    assert nas.SearchHandle("f", "sqlite:///nas.db").state == "failed"


def test_resume_goes_on(db: str) -> None:
    nas.search(**PARTS, trials=4, seed=2, name="long", quiet=True)
    nas.search(**PARTS, trials=6, seed=2, name="whole", quiet=True)
    assert len(nas.resume("long", trials="+2", quiet=True).trials) == 6
    assert listed("long") == listed("whole")
    assert nas.resume("long", trials="+0", quiet=True).state == "completed"
    for wrong in (3, "+x"):
        with pytest.raises(ConfigError):
            nas.resume("long", trials=wrong, quiet=True)
    with pytest.raises(ConfigError):  # not the whole name
        nas.resume("lon", quiet=True)
    with pytest.raises(NotFound):
        nas.resume("other", quiet=True)


@pytest.mark.parametrize("quiet", [True, False])
def test_an_interrupt_leaves_what_resume_takes_up(
    quiet: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(self: object, workload: Any) -> None:
        workload.next()
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(InlineExecutor, "run", interrupted)
        with pytest.raises(KeyboardInterrupt) as raised:
            nas.search(**PARTS, trials=3, name="s", quiet=quiet)
    said = capsys.readouterr().err
    assert (
        "nas.resume('s')" in said,
        "nas.resume('s')" in "".join(getattr(raised.value, "__notes__", ())),
    ) == (
        not quiet,
        quiet,
    )
    found = nas.SearchHandle("s", "sqlite:///nas.db")
    assert (found.state, [trial.state for trial in found.trials]) == ("interrupted", ["interrupted"])
    assert nas.resume("s", quiet=True).state == "completed"


def test_torch_is_left_as_it_was() -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        torch.manual_seed(3)
        expected = torch.rand(2).tolist()
        torch.manual_seed(3)
        nas.search(
            **PARTS | {"space": "mlp", "evaluator": "train"},
            trials=1,
            quiet=True,
            budget={"train_episodes": 2},
        )
        assert (torch.get_num_threads(), torch.rand(2).tolist()) == (2, expected)
    finally:
        torch.set_num_threads(before)


def test_quiet_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    nas.search(**PARTS, trials=3, quiet=True)
    assert capsys.readouterr() == ("", "")
    nas.search(**PARTS, trials=3)
    out, err = capsys.readouterr()
    assert (out, sum(" trial " in line for line in err.splitlines())) == ("", 3)


def test_a_notebook_shows_a_line_that_changes(shown: list[str]) -> None:
    found = nas.search(**PARTS, trials=3, name="s")
    assert shown[0].startswith("s: 1/3 trials")
    assert shown[-1].startswith("s: 3/3 trials")
    best = found.best
    assert best is not None
    assert f"{best.score:.4f}" in shown[-1]
    shown.clear()
    nas.search(**PARTS, trials=3, quiet=True)
    assert shown == []


def test_the_leaderboard_is_that_of_the_command(db: str) -> None:
    nas.search(**PARTS, trials=6, name="a", quiet=True)
    nas.search(**PARTS, trials=6, name="b", quiet=True, **{"budget.train_episodes": 30})
    for arguments, options in (
        ({}, []),
        ({"search": "a", "limit": 2}, ["--search=a", "--limit=2"]),
        ({"pareto": ["score", "parameters"]}, ["--pareto=score,parameters"]),
        ({"max_parameters": "20k", "sort": "parameters"}, ["--max-parameters=20k", "--sort=parameters"]),
        (
            {"max_activations": "20k", "max_seconds": 60.0, "max_macs": 10**6},
            ["--max-activations=20k", "--max-seconds=60", "--max-macs=1M"],
        ),
    ):
        table = nas.leaderboard(**arguments)  # type: ignore[arg-type]
        rows = json.loads(command("leaderboard", *options, "-f", "json")[1])
        pd.testing.assert_frame_equal(table, pd.DataFrame(rows, columns=None if rows else table.columns))
    assert set(nas.leaderboard()["budget.train_episodes"]) == {30, 300}
    assert list(nas.leaderboard(learner="prototypical")["score"]) == []
    for wrong in ({"sort": "scores"}, {"stage": "train"}, {"max_macs": "many"}, {"state": "done"}):
        with pytest.raises(ConfigError):
            nas.leaderboard(**wrong)  # type: ignore[arg-type]
    with pytest.raises(NotFound):
        nas.leaderboard(db="sqlite:///other.db")


def test_the_leaderboard_of_tests(store: Store) -> None:
    for key, score in (("a", 0.5), ("b", 0.75)):
        row = claim(store, key=key, config=CONFIG)
        store.evaluations.complete(row.id, trained((score, score)))
    table = nas.leaderboard(stage="test")
    assert table["rank"].tolist() == [1, 2]
    assert table["test_score"].tolist() == [0.75, 0.5]


def test_show_and_compare(store: Store) -> None:
    for seed in (0, 1):
        record(store, MIXED, name=f"r{seed}", seed=seed)
        record(store, MIXED, name=f"e{seed}", controller="evolution", seed=seed)
    whole, one = nas.show("r0"), nas.show("@last/3")
    assert isinstance(whole, SearchDetails)
    assert (whole.search, len(whole.trial_rows)) == ("r0", 7)
    assert isinstance(one, TrialDetails)
    assert (one.search, one.trial.score) == ("e1", 0.3)
    compared = nas.compare("r", "e")
    assert [(row.group, row.searches, row.score) for row in compared.rows] == [
        ("random", 2, 0.6),
        ("evolution", 2, 0.6),
    ]
    rows = json.loads(command("compare", "r", "e", "-f", "json")[1])
    assert compared.frame()["p_score"].tolist()[1] == rows[1]["p_score"]
    with pytest.raises(ConfigError):
        nas.compare()
    with pytest.raises(NotFound):
        nas.show("nothing")


def test_the_environment_names_the_database(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NAS_DB", "sqlite:///named.db")
    nas.search(**PARTS, trials=1, quiet=True)
    assert (Path("named.db").exists(), Path("nas.db").exists()) == (True, False)
    nas.search(**PARTS, trials=1, quiet=True, db="sqlite:///given.db")
    assert len(nas.leaderboard(db="sqlite:///given.db")) == 1


SMALL: dict[str, Any] = {
    "tasks": {"name": "sinusoid", "shots": 2, "queries": 2},
    "learner": {"name": "maml", "inner_lr": 0.01},
    "train_episodes": 20,
    "validate_every": 10,
    "validation_episodes": 4,
    "seeds": 1,
    "quiet": True,
}
"""A short evaluation."""


@pytest.mark.slow
def test_evaluations_are_those_of_the_command(db: str) -> None:
    nas.search(**PARTS | {"space": "mlp", "controller": "random"}, trials=3, name="s", quiet=True)
    found = nas.evaluate(top=1, search="s", baseline="maml", **SMALL)
    first, second = found.results
    assert (first.search, first.baseline, first.seeds, first.test_episodes) == ("s", "mlp:maml", 1, 1000)
    assert (second.search, second.baseline, second.difference) == (None, None, None)
    assert first.difference == pytest.approx(first.test_score - second.test_score)
    assert found.frame()["test_score"].tolist() == [first.test_score, second.test_score]
    assert nas.evaluate(top=1, search="s", baseline=["maml"], **SMALL) == found  # what is done stays
    assert sorted(nas.leaderboard(stage="test")["test_score"]) == sorted(found.frame()["test_score"])
    options = [
        *("--top=1", "--search=s", "--baseline=maml", "--seeds=1", "--train-episodes=20"),
        *("--validate-every=10", "--validation-episodes=4", "--executor=inline", "--tasks=sinusoid"),
        *("--set=tasks.shots=2", "--set=tasks.queries=2", "--learner=maml", "--set=learner.inner_lr=0.01"),
    ]
    rows = json.loads(command("evaluate", *options, "-f", "json")[1])
    assert [(row["settings"], row["test_score"]) for row in rows] == [
        (row.settings, row.test_score) for row in found.results
    ]


@pytest.mark.slow
def test_an_evaluation_without_a_result_is_an_error() -> None:
    with pytest.raises(NasError):
        nas.evaluate("mlp:maml", **SMALL | {"learner": {"name": "maml", "inner_lr": 1e30}})
    assert nas.leaderboard(stage="test").empty


@pytest.mark.parametrize(
    ("targets", "changes", "error"),
    [
        ((), {}, ConfigError),
        ((), {"top": 1}, ConfigError),
        (("nothing/3",), {}, NotFound),
        (("mlp:maml",), {"seeds": 0}, ConfigError),
        (("mlp:maml",), {"test_episodes": 10}, ConfigError),
        (("mlp:maml",), {"budgets.x": 1}, UnknownName),
        (("mlp:maml",), {"workers": 2}, ConfigError),
        (("mlp:maml",), {"executor": "inline", "ray_address": "here:1"}, ConfigError),
    ],
)
def test_what_cannot_be_evaluated_is_refused(
    targets: tuple[str, ...], changes: dict[str, Any], error: type[Exception]
) -> None:
    with pytest.raises(error):
        nas.evaluate(*targets, **SMALL | changes)


def test_searches_in_threads_do_not_disturb_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    seeded = torch.manual_seed

    def others_first(seed: int) -> torch.Generator:
        generator = seeded(seed)
        time.sleep(0.01)
        return generator

    monkeypatch.setattr(torch, "manual_seed", others_first)
    parts: dict[str, Any] = {
        "space": "mlp",
        "controller": "random",
        "tasks": "sinusoid",
        "learner": {"name": "maml", "meta_batch": 1},
        "budget": {"train_episodes": 2, "validation_episodes": 2},
        "trials": 4,
        "quiet": True,
    }

    def search(seed: int) -> None:
        nas.search(**parts, name=f"together-{seed}", seed=seed)

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(search, range(3)))
    for seed in range(3):
        nas.search(**parts, name=f"alone-{seed}", seed=seed)
        together, alone = ([row["score"] for row in listed(f"{how}-{seed}")] for how in ("together", "alone"))
        assert together == alone
