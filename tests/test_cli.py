"""The command line as a user meets it."""

from __future__ import annotations

import csv
import io
import json
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from nas.cli.main import app
from nas.errors import NasError

RUN = [
    "run",
    "--space=nas.testing.toys:Toy",
    "--controller=evolution",
    "--tasks=sinusoid",
    "--learner=maml",
    "--evaluator=nas.testing.evaluators:Scripted",
    "--executor=inline",
    "--trials=8",
]


@pytest.fixture
def db(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "nas.db"
    monkeypatch.setenv("NAS_DB", f"sqlite:///{path}")
    monkeypatch.chdir(tmp_path)
    return path


def nas(*arguments: str) -> tuple[int, str, str]:
    """Run the app here; an error of ours becomes its exit code and message, as `main` prints it."""
    result = CliRunner().invoke(app, arguments)
    if isinstance(result.exception, NasError):
        return result.exception.exit_code, result.stdout, f"error: {result.exception}"
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


def test_a_run_prints_its_leaderboard_and_the_next_command(db: Path) -> None:
    code, out, err = nas(*RUN)
    assert code == 0
    assert "8/8 trials" in err
    assert "nas leaderboard --search evolution-nas.testing.toys-Toy-sinusoid" in err
    assert out.splitlines()[0].split()[:3] == ["rank", "trial", "score"]


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
    assert shown["config"]["controller"] == {"name": "evolution", "population": 4, "sample": 2}


def test_rm_asks_first(db: Path) -> None:
    nas(*RUN, "--name=s")
    code, _, err = nas("rm", "s")
    assert (code, "--yes" in err) == (2, True)
    assert nas("rm", "s", "--yes")[0] == 0
    assert json.loads(nas("ls", "-f", "json")[1]) == []


@pytest.mark.parametrize("reference", ["", "@first", "s"])
def test_rm_wants_the_whole_name(db: Path, reference: str) -> None:
    nas(*RUN, "--name=search")
    assert nas("rm", reference, "--yes")[0] in (2, 3)
    assert len(json.loads(nas("ls", "-f", "json")[1])) == 1


def test_a_resume_that_cannot_start_adds_no_trials(db: Path) -> None:
    nas(*RUN, "--name=s", "--executor=inline")
    with sqlite3.connect(db) as connection:
        connection.execute("UPDATE searches SET config = replace(config, '\"maml\"', '\"gone\"')")
    assert nas("resume", "s", "--trials=+4")[0] == 2
    assert json.loads(nas("ls", "-f", "json")[1])[0]["trials"] == 8


def test_tasks_that_changed_are_refused(db: Path) -> None:
    nas(*RUN, "--name=s")
    with sqlite3.connect(db) as connection:
        connection.execute("UPDATE searches SET environment = replace(environment, 'sinusoid', 'cosinusoid')")
    code, _, err = nas("resume", "s", "--trials=+4")
    assert (code, "have changed" in err) == (2, True)


def test_numbers_beyond_the_database(db: Path) -> None:
    nas(*RUN, "--name=s")
    for arguments in (
        ["leaderboard", "--limit=99999999999999999999"],
        ["leaderboard", "--max-parameters=99999999999999999999"],
        ["show", "s/99999999999999999999"],
        ["resume", "s", "--trials=+99999999999999999999"],
    ):
        assert nas(*arguments)[0] == 2, arguments


def test_rows_that_do_not_compare_are_pointed_out(db: Path) -> None:
    nas(*RUN)
    assert "do not compare" not in nas("leaderboard")[2]
    nas(*RUN, "--set=budget.train_episodes=30")
    assert "do not compare" in nas("leaderboard")[2]


def test_a_failed_search_goes_on_when_its_cause_is_mended(db: Path, tmp_path: Path) -> None:
    faults = "--set=evaluator.faults={0='raise', 1='raise', 2='raise', 3='raise', 4='raise'}"
    code, _, err = nas(*RUN, "--name=s", faults, "--set=retries=0")
    assert (code, "nas show s" in err) == (5, True)
    code, _, _ = nas("resume", "s")
    assert code == 0
    shown = json.loads(nas("show", "s", "-f", "json")[1])
    assert [trial["state"] for trial in shown["trial_rows"]] == ["failed"] * 5 + ["completed"] * 3


def test_stop_of_a_search_that_does_not_run(db: Path) -> None:
    nas(*RUN, "--name=s")
    code, _, err = nas("stop", "s")
    assert (code, "not running" in err) == (2, True)


def test_a_plugin_of_the_working_directory(db: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("mine.py").write_text(
        "from controllers.random import Random\n\nclass Mine(Random):  # type: ignore[misc]\n    pass\n"
    )
    monkeypatch.syspath_prepend(".")
    code, _, _ = nas(*RUN, "--controller=mine:Mine")
    assert code == 0


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--space=nasbench210"], 2, "Did you mean 'nasbench201'?"),
        (["--controller=evolutoin"], 2, "Did you mean 'evolution'?"),
        (["--tasks=omniglo"], 2, "Did you mean 'omniglot'?"),
        (["--learner=mamll"], 2, "Did you mean 'maml'?"),
        (["--set=budgett.train_episodes=3"], 2, "Did you mean 'budget'?"),
        (["--set=budget.train_episode=3"], 2, "Did you mean 'train_episodes'?"),
        (["--set=tasks.shotz=3"], 2, "Did you mean 'shots'?"),
        (["--set=controller.sample=99"], 2, "controller.sample"),
        (["--set=controller.sample=many"], 2, "controller.sample"),
        (["--set=budget.train_episodes=soon"], 2, "budget.train_episodes"),
        (["--set=budget.train_episodes=0"], 2, "budget.train_episodes"),
        (["--set=tasks.shots=0"], 2, "tasks.shots"),
        (["--set=tasks"], 2, "KEY=VALUE"),
        (["--trials=0"], 2, "trials"),
        (["--trials=-3"], 2, "trials"),
        (["--seed=-1"], 2, "seed"),
        (["--workers=0"], 2, "workers"),
        (["--workers=2"], 2, "--executor ray"),
        (["--executor=slurm"], 2, "executor"),
        (["--scheduler=hyperband"], 2, "asha"),
        (["--scheduler=asha", "--set=scheduler.minimum=900"], 2, "scheduler.minimum"),
        (["--name=a b"], 2, "name"),
        (["--learner=prototypical"], 2, "prototypical"),
        (["--tasks=glyphs", "--set=tasks.ways=5000"], 2, "tasks.ways"),
        (["--tasks=glyphs", "--set=tasks.shots=50"], 2, "tasks.shots"),
        (["--tasks=image_folder", "--set=tasks.path=nowhere"], 2, "nowhere"),
        (["--space=nowhere:Nothing"], 2, "cannot be loaded"),
        (["--controller=pathlib:Path"], 2, "is no Controller"),
        (["--evaluator=pathlib:Path"], 2, "is no Evaluator"),
        (["--set=space=3"], 2, "space: expected a name"),
        (["--set=tasks=[1, 2]"], 2, "tasks: expected a name"),
        (["--set=learner.lr=inf"], 2, "learner.lr"),
        (["--set=learner.lr=nan"], 2, "learner.lr"),
        (["--trials=99999999999999999999"], 2, "trials"),
        (["--set=budget.train_episodes=99999999999999999999"], 2, "budget.train_episodes"),
        (["--set=resources.cpus=100000"], 2, "resources.cpus"),
        (["nowhere.toml"], 3, "nowhere.toml"),
        (["--db=sqlite:////no/such/folder/nas.db"], 4, "folder"),
        (["--db=mysql://x"], 2, "sqlite:///"),
        (["--executor=ray", "--ray-address=127.0.0.1:1"], 2, "No Ray cluster answers at 127.0.0.1:1"),
        (["--db=postgresql+psycopg://nobody:secret@127.0.0.1:1/none"], 4, "127.0.0.1"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_bad_input_says_what_where_and_what_is_allowed(
    db: Path, arguments: list[str], code: int, words: str
) -> None:
    got, out, err = nas(*RUN, *arguments)
    assert (got, out) == (code, "")
    assert words in err
    assert "secret" not in err
    assert "Traceback" not in err
    if db.exists():
        assert json.loads(nas("ls", "-f", "json")[1]) == []


def test_missing_data_names_the_fetch_command(
    db: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NAS_DATA", str(tmp_path / "empty"))
    code, _, err = nas(*RUN, "--tasks=omniglot")
    assert (code, "nas data fetch omniglot" in err) == (3, True)


def test_a_name_is_given_once(db: Path) -> None:
    assert nas(*RUN, "--name=s")[0] == 0
    code, _, err = nas(*RUN, "--name=s")
    assert (code, "nas resume s" in err) == (2, True)
    assert json.loads(nas("ls", "-f", "json")[1])[0]["done"] == 8


@pytest.mark.parametrize("verb", ["resume", "show", "stop", "rm"])
def test_an_unknown_search(db: Path, verb: str) -> None:
    nas(*RUN, "--name=first-search")
    code, _, err = nas(verb, "firts-search")
    assert (code, "first-search" in err) == (3, True)


@pytest.mark.parametrize("verb", [["ls"], ["leaderboard"], ["show", "x"], ["resume", "x"]])
def test_no_database_yet(db: Path, verb: list[str]) -> None:
    code, _, err = nas(*verb)
    assert (code, "nas run" in err) == (3, True)
    assert not db.exists()


def test_a_database_that_is_none(db: Path) -> None:
    db.write_bytes(b"this is a letter, not a database, and long enough to tell" * 20)
    code, _, err = nas(*RUN)
    assert (code, "not a database" in err) == (4, True)


def test_a_newer_database(db: Path) -> None:
    nas(*RUN)
    with sqlite3.connect(db) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    code, _, err = nas("ls")
    assert code == 4
    assert "9999" in err


def test_a_locked_database(db: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nas.storage.engine.BUSY_SECONDS", 0.1)
    nas(*RUN, "--name=s")
    with sqlite3.connect(db, isolation_level=None) as other:
        other.execute("BEGIN EXCLUSIVE")
        code, _, err = nas("resume", "s", "--trials=+1")
        other.execute("ROLLBACK")
    assert (code, "locked" in err) == (4, True)
    assert nas("resume", "s", "--trials=+1")[0] == 0


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
    assert (code, out.strip()) == (0, "0003")


@pytest.mark.parametrize(
    "arguments", [["--help"], ["--version"], ["run", "--help"], ["leaderboard", "--help"], ["leaderboard"]]
)
def test_questions_load_nothing_heavy(arguments: list[str], db: Path) -> None:
    nas("db", "upgrade")
    code = (
        "import sys\nfrom nas.cli.main import main\n"
        f"sys.argv = {['nas', *arguments]!r}\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "print(sorted({'torch', 'ray', 'pandas'} & sys.modules.keys()), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.splitlines()[-1] == "[]"


def test_errors_leave_with_their_code_and_no_traceback(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "nas", *RUN, "--space=nope", f"--db=sqlite:///{tmp_path}/nas.db"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: Unknown space 'nope'")
    assert "Traceback" not in done.stderr
