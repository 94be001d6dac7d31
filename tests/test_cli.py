"""The command line as a user meets it."""

from __future__ import annotations

import csv
import io
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import SCRIPTED, nas
from facts import lacking
from recorded import MIXED, record

from nas.storage.schema import HEAD
from nas.storage.store import Store
from nas.testing.evaluations import CONFIG, claim, trained

RUN = ("run", *SCRIPTED, "--trials=8")


def test_a_run_prints_its_leaderboard_and_the_next_command(db: Path) -> None:
    code, out, err = nas(*RUN)
    assert code == 0
    assert "8/8 trials" in err
    assert "nas leaderboard --search evolution-nas.testing.toys-Toy-sinusoid" in err
    assert out.splitlines()[0].split()[:3] == ["rank", "trial", "score"]


def test_a_search_without_a_whole_training_tells_where_the_short_ones_are(db: Path) -> None:
    code, out, err = nas(*RUN, "--scheduler=halving", "--name=s", "--trials=3")
    assert (code, out) == (0, "")
    assert lacking(err, "3 of 3 trials", "nas leaderboard --search s --state paused --limit 0") == []
    rows = json.loads(nas("leaderboard", "--search=s", "--state=paused", "-f", "json")[1])
    assert len(rows) == 3


def test_a_search_says_how_it_normalizes_if_its_learner_can_choose(db: Path) -> None:
    err = nas(*RUN, "--trials=1", "--set=learner.normalization=support")[2]
    said = "nas.testing.toys:Toy", "sinusoid 10-shot", "maml", "support normalization", "1 trial"
    assert lacking(err, *said) == []
    assert lacking(nas(*RUN, "--learner=reptile")[2], "reptile", "transductive normalization") == []


def test_a_search_of_a_learner_without_the_setting(db: Path, tmp_path: Path) -> None:
    Path("fast.py").write_text(
        "from nas.learners.maml import Maml\n\n\nclass Fast(Maml):\n"
        "    def __init__(self, backbone, shape):\n        super().__init__(backbone, shape)\n"
    )
    assert lacking(nas(*RUN, "--learner=fast:Fast")[2], "sinusoid 10-shot", "fast:Fast", "8 trials") == []


def test_a_search_without_a_feasible_architecture_prints_no_table(db: Path) -> None:
    faults = "--set=evaluator.faults={0='infeasible', 1='infeasible'}"
    code, out, err = nas(*RUN, "--name=s", "--trials=2", faults)
    assert (code, out) == (1, "")
    assert lacking(err, 2, "'s'", "nas show s") == []
    assert json.loads(nas("ls", "-f", "json")[1])[0]["state"] == "failed"


def test_leaderboard_json_has_the_promised_fields(db: Path) -> None:
    nas(*RUN)
    code, out, _ = nas("leaderboard", "-f", "json")
    rows = json.loads(out)
    assert code == 0
    promised = (
        "rank search trial controller space tasks learner score ci95 parameters macs episodes seconds "
        "architecture key state"
    )
    assert set(promised.split()) <= rows[0].keys()
    assert [row["score"] for row in rows] == sorted((row["score"] for row in rows), reverse=True)


@pytest.mark.parametrize("verb", [["leaderboard"], ["ls"], ["show", "@last"], ["show", "@last/0"]])
def test_every_format_parses(db: Path, verb: list[str]) -> None:
    nas(*RUN)
    for form in ("table", "json", "ndjson", "csv", "markdown"):
        code, out, _ = nas(*verb, "-f", form)
        assert code == 0
        assert out
        if form == "json":
            json.loads(out)
        if form == "ndjson":
            [json.loads(line) for line in out.splitlines()]
        if form == "csv":
            assert list(csv.DictReader(io.StringIO(out)))


def test_show_names_config_and_curve(db: Path) -> None:
    nas(*RUN, "--name=s")
    _, out, _ = nas("show", "s")
    assert "train_episodes=300" in out
    assert "8 completed" in out or "reused" in out
    _, out, _ = nas("show", "s/0", "-f", "json")
    trial = json.loads(out)
    assert trial["search"] == "s"
    assert trial["measurements"][0]["metric"] == "score"


def test_resume_adds_trials(db: Path) -> None:
    nas(*RUN, "--name=s")
    code, _, err = nas("resume", "s", "--trials=+4")
    assert code == 0
    assert "12/12 trials" in err
    assert json.loads(nas("ls", "-f", "json")[1])[0]["trials"] == 12
    assert nas("resume", "s", "--trials=3")[0] == 2


def test_a_config_file_with_overrides(db: Path, tmp_path: Path) -> None:
    Path("s.toml").write_text(
        """
        name = "from-file"
        trials = 3
        executor = "inline"
        space = "nas.testing.toys:Toy"
        learner = "maml"
        evaluator = "nas.testing.evaluators:Scripted"
        [controller]
        name = "evolution"
        population = 4
        [tasks]
        name = "sinusoid"
        shots = 5
        """
    )
    code, _, err = nas("run", "s.toml", "--trials=4", "--set=tasks.shots=7", "--set", "controller.sample=2")
    assert (code, "4/4 trials" in err) == (0, True)
    shown = json.loads(nas("show", "from-file", "-f", "json")[1])
    assert shown["config"]["tasks"]["shots"] == 7
    given = {"name": "evolution", "population": 4, "sample": 2}
    assert given.items() <= shown["config"]["controller"].items()


def test_what_does_not_compare_is_ranked_apart(db: Path) -> None:
    nas(*RUN, "--name=one")
    assert "--learner" not in nas("leaderboard")[2]
    nas(*RUN, "--set=budget.train_episodes=30", "--name=other")
    _, out, err = nas("leaderboard", "--limit=2")
    assert lacking(err, "--tasks", "--learner", "--search") == []
    head, _, *rows, gap, second, _, third, fourth = out.splitlines()
    assert (gap, "budget.train_episodes=30" in head, "budget.train_episodes=300" in second) == (
        "",
        True,
        True,
    )
    assert [row.split()[:2] for row in (*rows, third, fourth)] == [
        [place, name] for name in ("other", "one") for place in ("1", "2")
    ]
    for form, read in (("json", json.loads), ("csv", lambda text: list(csv.DictReader(io.StringIO(text))))):
        rows = read(nas("leaderboard", "--limit=2", "-f", form)[1])
        assert [(int(row["rank"]), int(row["budget.train_episodes"])) for row in rows] == [
            (rank, episodes) for episodes in (30, 300) for rank in (1, 2)
        ]
        assert len({(row["protocol"], row["budget.train_episodes"]) for row in rows}) == 2
    assert "--learner" not in nas("leaderboard", "--search=one")[2]


@pytest.mark.parametrize("form", ["table", "markdown", "json", "csv"])
def test_one_architecture_under_two_settings_of_its_space_is_told_apart(
    store: Store, db: Path, form: str
) -> None:
    spaces = [{"layers": 4, "readout": {"kind": kind}} for kind in ("pool", "flatten")]
    for settings, score in zip(spaces, (1.0, 0.5), strict=True):
        config = CONFIG | {"space": {"name": "chain", **settings}}
        row = claim(store, settings=str(score), config=config)
        store.evaluations.complete(row.id, trained((score, score)))
    row = claim(store, key="other", architecture="2.0", config=CONFIG)
    store.evaluations.complete(row.id, trained((0.0, 0.0)))
    code, out, _ = nas("leaderboard", "--stage=test", "-f", form)
    assert code == 0
    if form in ("table", "markdown"):
        first, second, third = out.splitlines()[-3:]
        assert ("readout.kind=pool" in first, "readout.kind=flatten" in second) == (True, True)
        assert "layers" not in out
        assert "readout" not in third
        return
    rows = json.loads(out) if form == "json" else list(csv.DictReader(io.StringIO(out)))
    found = [row["space_settings"] for row in rows][:2]
    assert [json.loads(text) for text in found] == spaces if form == "csv" else found == spaces


def test_a_filter_that_is_no_name_is_not_found(db: Path) -> None:
    nas(*RUN, "--name=s")
    for filters, near in (("--tasks=sinusiod", "sinusoid"), ("--controller=evolutoin", "evolution")):
        code, out, err = nas("leaderboard", filters)
        assert (code, out, near in err) == (3, "", True)
    assert nas("leaderboard", "--tasks=glyphs")[0] == 0


def test_counts_are_read_as_they_are_printed(db: Path) -> None:
    nas(*RUN, "--name=s", "--set=constraints.max_parameters=1.5M")
    assert nas("leaderboard", "--max-macs=1.5M", "--max-parameters=20k")[0] == 0
    assert (
        json.loads(nas("show", "s", "-f", "json")[1])["config"]["constraints"]["max_parameters"] == 1_500_000
    )
    assert nas("leaderboard", "--max-parameters=many")[0] == 2


def test_a_run_prints_its_next_step(db: Path) -> None:
    _, _, err = nas(*RUN, "--name=s", "--trials=2")
    [step] = [line.split() for line in err.splitlines() if line.startswith("  nas evaluate")]
    assert step[:2] == ["nas", "evaluate"]
    assert step[2] == f"s/{json.loads(nas('show', 's', '-f', 'json')[1])['answer']['trial']}"
    assert not re.search(r"\b1 trials(?!/min)", nas(*RUN, "--name=one", "--trials=1")[2])


def test_nothing_to_add_starts_nothing(db: Path) -> None:
    nas(*RUN, "--name=s")
    before = nas("show", "s", "-f", "json")
    code, out, err = nas("resume", "s", "--trials=+0")
    assert (code, out, "nas resume s" in err) == (0, "", True)
    assert nas("show", "s", "-f", "json") == before


def test_all_that_is_missing_is_named_at_once_with_a_whole_example(db: Path) -> None:
    code, _, err = nas("run", "--learner=maml")
    assert code == 2
    assert all(f"{kind}.name" in err for kind in ("space", "controller", "tasks"))
    example = err.splitlines()[-1].split()
    assert example[:2] == ["nas", "run"]
    assert example[example.index("--learner") + 1] == "maml"
    code, _, _ = nas(
        "run", *example[2:-2], "--learner=prototypical", "--name=a b"
    )  # refused for its name alone
    assert code == 2
    assert not db.exists() or json.loads(nas("ls", "-f", "json")[1]) == []


def test_show_prints_no_python(db: Path) -> None:
    nas(*RUN, "--name=s")
    settings = nas("show", "s")[1].partition("\n\n")[0]
    assert not {"None", "True", "False", "null"} & set(settings.replace("=", " ").split())
    assert "null" not in nas("tasks", "glyphs")[1]


def test_a_failed_search_goes_on_when_its_cause_is_mended(db: Path, tmp_path: Path) -> None:
    faults = "--set=evaluator.faults={0='raise', 1='raise', 2='raise', 3='raise', 4='raise'}"
    code, _, err = nas(*RUN, "--name=s", faults, "--set=retries=0")
    assert (code, "nas show s" in err) == (5, True)
    code, _, _ = nas("resume", "s")
    assert code == 0
    shown = json.loads(nas("show", "s", "-f", "json")[1])
    assert [trial["state"] for trial in shown["trial_rows"]] == ["failed"] * 5 + ["completed"] * 3


def test_a_plugin_of_the_working_directory(db: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("of_here.py").write_text(
        "from controllers.random import Random\n\nclass Mine(Random):  # type: ignore[misc]\n    pass\n"
    )
    monkeypatch.syspath_prepend(".")
    code, _, _ = nas(*RUN, "--controller=of_here:Mine")
    assert code == 0


@pytest.mark.parametrize("verb", ["spaces", "controllers", "learners", "tasks"])
def test_the_catalog(verb: str) -> None:
    code, out, _ = nas(verb, "-f", "json")
    assert code == 0
    for row in json.loads(out):
        assert row["summary"]
        code, described, _ = nas(verb, row["name"])
        assert code == 0
        assert row["summary"] in described
        assert "FieldInfo" not in described


def test_a_one_shot_controller_is_described_with_its_strategy() -> None:
    code, described, _ = nas("controllers", "darts")
    assert code == 0
    assert "arXiv 1806.09055" in described


def test_a_broken_plugin_is_reported_and_the_rest_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    from nas import plugins

    broken = plugins.Plugin("space", "broken", "nowhere.at_all:Space", "their-package")
    found = {"broken": broken, **plugins.installed("space")}
    monkeypatch.setattr(plugins, "installed", lambda kind: found)
    code, out, err = nas("spaces")
    assert code == 0
    assert "their-package" in err
    assert "nasbench201" in out
    assert nas("spaces", "broken")[0] == 2


def test_doctor(db: Path) -> None:
    code, out, _ = nas("doctor", "-f", "json")
    checks = {row["check"]: row for row in json.loads(out)}
    assert code == 0
    assert checks["torch"]["status"] == "ok"


def test_db_current_and_upgrade(db: Path) -> None:
    assert nas("db", "upgrade")[0] == 0
    code, out, _ = nas("db", "current")
    assert (code, out.strip()) == (0, HEAD)


QUESTIONS = (
    "--help",
    "--version",
    "run --help",
    "leaderboard --help",
    "leaderboard",
    "ls",
    "show s",
    "show s/1",
)


def test_questions_load_nothing_heavy(store: Store, db: Path) -> None:
    """One process asks all: what one has loaded is not told of those after it."""
    record(store, MIXED, name="s")
    code = f"""
import sys
from nas.cli.main import main

loaded = {{}}
for question in {QUESTIONS!r}:
    sys.argv = ["nas", *question.split()]
    before = set(sys.modules)
    try:
        main()
    except SystemExit as end:
        assert not end.code, (question, end.code)
    loaded[question] = sorted({{"torch", "ray", "pandas"}} & (sys.modules.keys() - before))
print(loaded, {{"torch", "ray", "pandas"}} & sys.modules.keys(), file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    nothing = {question: [] for question in QUESTIONS}
    assert (done.returncode, done.stderr.splitlines()[-1]) == (0, f"{nothing} set()")
