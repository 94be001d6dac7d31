"""`nas evaluate` as a user meets it: real processes, killed and interrupted."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from nas.cli.main import app
from nas.errors import NasError

SMALL = [
    "--train-episodes=60",
    "--validate-every=20",
    "--validation-episodes=10",
    "--set=tasks.shots=2",
    "--set=tasks.queries=2",
]
SINUSOID = ["--tasks=sinusoid", "--learner=maml", "--set=learner.inner_lr=0.01"]
FATAL = """
import multiprocessing, os, signal
from pathlib import Path
from search_spaces.mlp import Mlp

class Fatal(Mlp):
    '''Kills the process that builds it, but not the driver.'''

    def build(self, architecture, shape):
        if multiprocessing.parent_process() is not None and not Path("mended").exists():
            os.kill(os.getpid(), signal.SIGKILL)
        return super().build(architecture, shape)
"""


def start(*arguments: str, cwd: Path) -> subprocess.Popen[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("NAS_")}
    return subprocess.Popen(
        [sys.executable, "-m", "nas", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=cwd,
        env=environment,
        start_new_session=True,
    )


def nas(*arguments: str, cwd: Path) -> tuple[int, str, str]:
    process = start(*arguments, cwd=cwd)
    out, err = process.communicate(timeout=240)
    assert "Traceback" not in err, err
    return process.returncode, out, err


def ask(db: Path, query: str) -> list[tuple[Any, ...]]:
    if not db.exists():
        return []
    with sqlite3.connect(db, timeout=10) as connection:
        try:
            return connection.execute(query).fetchall()
        except sqlite3.OperationalError:  # the tables are not there yet
            return []


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, str]:
    """A folder with a search, and with evaluations of its best two beside a baseline; what was printed."""
    cwd = tmp_path_factory.mktemp("evaluated")
    run = ["run", "--space=mlp", "--controller=random", "--tasks=sinusoid", "--learner=maml", "--name=s"]
    run += ["--executor=inline", "--trials=6", "--evaluator=nas.testing.evaluators:Scripted", "--seed=1"]
    run += ["--set=learner.inner_lr=0.01"]
    code, _, err = nas(*run, cwd=cwd)
    assert code == 0, err
    evaluate = ["--top=2", "--search=s", "--baseline=maml", "--seeds=2", "--workers=2", "-f", "json"]
    code, out, err = nas("evaluate", *evaluate, *SMALL, cwd=cwd)
    assert code == 0, err
    return cwd, out, err


@pytest.fixture
def copied(evaluated: tuple[Path, str, str], tmp_path: Path) -> Path:
    """A copy of that folder, to change."""
    shutil.copytree(evaluated[0], tmp_path / "copy")
    return tmp_path / "copy"


def test_results_stand_beside_the_baseline(evaluated: tuple[Path, str, str]) -> None:
    cwd, out, err = evaluated
    *mine, baseline = json.loads(out)
    assert len(mine) == 2
    best = ask(
        cwd / "nas.db", "SELECT number FROM trials WHERE state = 'completed' ORDER BY score DESC LIMIT 2"
    )
    assert [(row["search"], row["trial"]) for row in mine] == [("s", number) for (number,) in best]
    assert (baseline["search"], baseline["difference"]) == (None, None)
    for row in mine:
        assert (row["seeds"], row["test_episodes"]) == (2, 1000)
        assert row["difference"] == pytest.approx(row["test_score"] - baseline["test_score"])
        assert row["difference"] == pytest.approx(sum(row["difference_by_seed"]) / 2)
        assert row["protocol"] == baseline["protocol"]
        assert row["normalization"] == "transductive"
    assert "ci95_episodes: half width over episodes" in err
    assert "nas leaderboard --stage test" in err


def test_what_it_leaves_behind(evaluated: tuple[Path, str, str]) -> None:
    db = evaluated[0] / "nas.db"
    assert ask(db, "SELECT DISTINCT state FROM evaluations") == [("completed",)]
    assert ask(db, "SELECT count(*), count(DISTINCT evaluation_id) FROM evaluation_scores") == [(6000, 6)]
    curve = ask(db, "SELECT step, count(*) FROM evaluation_measurements GROUP BY step ORDER BY step")
    assert curve == [(20, 12), (40, 12), (60, 12)]
    sums = ask(
        db,
        "SELECT max(abs(test_score - mean)) FROM evaluations JOIN (SELECT evaluation_id, avg(score) AS mean "
        "FROM evaluation_scores GROUP BY evaluation_id) ON evaluation_id = id",
    )
    assert sums[0][0] < 1e-12
    files = {Path(uri) for (uri,) in ask(db, "SELECT uri FROM artifacts WHERE evaluation_id IS NOT NULL")}
    folder = evaluated[0] / "nas-artifacts"
    assert files == set((folder / "weights").iterdir())
    assert len(files) == 6
    assert list((folder / "checkpoints").iterdir()) == []


def test_what_is_done_is_not_done_again(copied: Path) -> None:
    before = ask(copied / "nas.db", "SELECT id, test_score, finished_at FROM evaluations ORDER BY id")
    again = ["evaluate", "--top=2", "--search=s", "--baseline=maml", "--seeds=2", *SMALL, "-f", "csv"]
    code, out, err = nas(*again, cwd=copied)
    assert code == 0
    assert err.count("evaluated before") == 6
    assert "training episodes" not in err
    assert len(list(csv.DictReader(io.StringIO(out)))) == 3
    assert ask(copied / "nas.db", "SELECT id, test_score, finished_at FROM evaluations ORDER BY id") == before


@pytest.mark.parametrize("form", ["table", "json", "ndjson", "csv", "markdown"])
def test_the_test_leaderboard(evaluated: tuple[Path, str, str], form: str) -> None:
    cwd, out, _ = evaluated
    code, board, err = nas("leaderboard", "--stage=test", "-f", form, cwd=cwd)
    assert code == 0, err
    for column in ("rank", "normalization", "seeds", "test_score", "ci95_seeds", "ci95_episodes"):
        assert column in board
    if form == "json":
        rows = json.loads(board)
        scores = [row["test_score"] for row in rows]
        assert scores == sorted((row["test_score"] for row in json.loads(out)), reverse=True)
        assert [row["rank"] for row in rows] == [1, 2, 3]


def test_the_test_leaderboard_is_filtered(evaluated: tuple[Path, str, str]) -> None:
    cwd = evaluated[0]
    for arguments, count in (
        (["--search=s"], 2),
        (["--limit=1"], 1),
        (["--learner=prototypical"], 0),
        (["--max-parameters=0"], 0),
        (["--tasks=sinusoid", "--sort=parameters"], 3),
    ):
        _, out, _ = nas("leaderboard", "--stage=test", "-f", "json", *arguments, cwd=cwd)
        assert len(json.loads(out)) == count, arguments
    code, _, err = nas("leaderboard", "--stage=test", "--controller=random", cwd=cwd)
    assert (code, "--stage test" in err) == (2, True)


def test_validation_is_what_a_leaderboard_ranks_by_default(evaluated: tuple[Path, str, str]) -> None:
    cwd = evaluated[0]
    _, out, _ = nas("leaderboard", "-f", "json", cwd=cwd)
    rows = json.loads(out)
    assert {row["search"] for row in rows} == {"s"}
    assert all({"score", "normalization"} <= row.keys() for row in rows)


def test_a_trial_lists_its_evaluations(evaluated: tuple[Path, str, str]) -> None:
    cwd, out, _ = evaluated
    first = json.loads(out)[0]
    _, shown, _ = nas("show", f"s/{first['trial']}", "-f", "json", cwd=cwd)
    listed = json.loads(shown)["evaluations"]
    assert [row["seed"] for row in listed] == [0, 1]
    assert sum(row["test_score"] for row in listed) / 2 == pytest.approx(first["test_score"])
    _, table, _ = nas("show", f"s/{first['trial']}", cwd=cwd)
    assert "evaluations of this network" in table


def test_evaluations_outlive_their_search(copied: Path) -> None:
    assert nas("rm", "s", "--yes", cwd=copied)[0] == 0
    _, out, _ = nas("leaderboard", "--stage=test", "--search=s", "-f", "json", cwd=copied)
    assert len(json.loads(out)) == 2


def test_questions_load_nothing_heavy(evaluated: tuple[Path, str, str]) -> None:
    code = (
        "import sys\nfrom nas.cli.main import main\n"
        "sys.argv = ['nas', *{!r}]\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "print(sorted({{'torch', 'ray', 'pandas'}} & sys.modules.keys()), file=sys.stderr)"
    )
    for arguments in (["evaluate", "--help"], ["leaderboard", "--stage=test"]):
        done = subprocess.run(
            [sys.executable, "-c", code.format(arguments)],
            capture_output=True,
            text=True,
            check=True,
            cwd=evaluated[0],
        )
        assert done.stderr.splitlines()[-1] == "[]"


LONG = ["--train-episodes=1200", "--validate-every=30", "--validation-episodes=10", "--patience=0"]
TARGETS = ["mlp:maml", "mlp:80-80-0-relu", "--seeds=1", "--workers=2", *SINUSOID, *LONG]


def outcome(db: Path) -> tuple[list[tuple[Any, ...]], ...]:
    """Return all that must not depend on how often a training was interrupted."""
    return (
        ask(
            db,
            "SELECT architecture, seed, settings, state, validation_score, test_score, test_ci95, "
            "best_episodes, train_episodes FROM evaluations ORDER BY architecture, seed",
        ),
        ask(
            db,
            "SELECT architecture, seed, metric, step, value FROM evaluation_measurements JOIN evaluations "
            "ON id = evaluation_id ORDER BY 1, 2, 3, 4",
        ),
        ask(
            db,
            "SELECT architecture, seed, episode, score FROM evaluation_scores JOIN evaluations "
            "ON id = evaluation_id ORDER BY 1, 2, 3",
        ),
        ask(
            db,
            "SELECT architecture, seed, sha256 FROM artifacts JOIN evaluations "
            "ON evaluations.id = evaluation_id ORDER BY 1, 2",
        ),
    )


def wait_for_curve(process: subprocess.Popen[str], db: Path, points: int) -> None:
    deadline = time.monotonic() + 120
    query = "SELECT count(*) FROM evaluation_measurements"
    while process.poll() is None and time.monotonic() < deadline:
        found = ask(db, query)
        if found and found[0][0] >= points:
            return
        time.sleep(0.02)


def living(group: int) -> list[int]:
    """Return the processes of a group that are not dead, perhaps unmourned."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, _, of = stat.read_text().rpartition(")")[2].split()[:3]
            if int(of) == group and state != "Z":
                found.append(int(stat.parent.name))
    return found


def curve(db: Path) -> int:
    found = ask(db, "SELECT count(*) FROM evaluation_measurements")
    return int(found[0][0]) if found else 0


def test_killed_at_random_moments_it_ends_as_if_it_had_not_been(tmp_path: Path) -> None:
    chance = random.Random(2019)
    broken, whole = tmp_path / "broken", tmp_path / "whole"
    broken.mkdir()
    whole.mkdir()
    for kill in range(3):
        process = start("evaluate", *TARGETS, cwd=broken)
        wait_for_curve(process, broken / "nas.db", curve(broken / "nas.db") + chance.randrange(2, 20))
        assert process.poll() is None
        if kill % 2:
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()  # its workers find out when they next report
        process.communicate()
    assert curve(broken / "nas.db") > 0
    code, _, err = nas("evaluate", *TARGETS, cwd=broken)
    assert code == 0, err
    assert nas("evaluate", *TARGETS, cwd=whole)[0] == 0
    assert outcome(broken / "nas.db") == outcome(whole / "nas.db")
    assert len(outcome(whole / "nas.db")[0]) == 2
    assert list((broken / "nas-artifacts" / "checkpoints").iterdir()) == []


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
def test_an_interrupt_keeps_all_and_prints_the_command_that_goes_on(tmp_path: Path) -> None:
    process = start("evaluate", *TARGETS, "--artifacts=files", cwd=tmp_path)
    wait_for_curve(process, tmp_path / "nas.db", 4)
    assert process.poll() is None
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the workers, too
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in err
    assert f"Continue: nas evaluate {' '.join(TARGETS)} --artifacts=files" in err
    states = {state for (state,) in ask(tmp_path / "nas.db", "SELECT state FROM evaluations")}
    assert "interrupted" in states
    assert states <= {"interrupted", "completed"}
    assert any((tmp_path / "files" / "checkpoints").iterdir())
    deadline = time.monotonic() + 60
    while living(process.pid) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert living(process.pid) == []


def test_a_killed_worker_costs_one_evaluation(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(FATAL)
    fatal = "mine:Fatal:80-80-0-relu"
    command = ["evaluate", fatal, "maml", "--seeds=1", "--workers=1", *SINUSOID, *SMALL, "-f", "json"]
    code, out, err = nas(*command, cwd=tmp_path)
    assert code == 1
    assert "1 of 2 evaluations have no result" in err
    assert "killed by SIGKILL" in err
    assert [row["space"] for row in json.loads(out)] == ["mlp"]
    (tmp_path / "mended").touch()
    code, out, err = nas(*command, cwd=tmp_path)
    assert code == 0, err
    assert err.count("evaluated before") == 1
    assert len(json.loads(out)) == 2


def test_another_process_s_evaluation_is_left_alone(tmp_path: Path) -> None:
    first = start("evaluate", *TARGETS, "--set=budget.train_episodes=100000", cwd=tmp_path)
    wait_for_curve(first, tmp_path / "nas.db", 4)
    second = [
        "evaluate",
        "mlp:maml",
        "--seeds=1",
        *SINUSOID,
        *LONG,
        "--set=budget.train_episodes=100000",
        "-f",
        "json",
    ]
    code, out, err = nas(*second, cwd=tmp_path)
    assert (code, json.loads(out)) == (1, [])
    assert f"pid {first.pid}" in err
    os.killpg(first.pid, signal.SIGKILL)
    first.communicate()


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ([], 2, "Nothing to evaluate"),
        (["--top=2"], 2, "--search"),
        (["conv5"], 2, "conv4"),
        (["s/one"], 2, "a trial is a number"),
        (["s/0"], 3, "No search 's'"),
        (["mlp:maml", "--search=s"], 3, "No search 's'"),
        (["mlp:maml"], 2, "tasks.name is missing"),
        (["mlp:maml", "--tasks=sinusoid"], 2, "learner.name is missing"),
        (["mlp:maml", *SINUSOID, "--test-episodes=999"], 2, "budget.test_episodes"),
        (["mlp:maml", *SINUSOID, "--train-episodes=0"], 2, "budget.train_episodes"),
        (["mlp:maml", *SINUSOID, "--patience=-1"], 2, "budget.patience"),
        (["mlp:maml", *SINUSOID, "--set=budget.epochs=3"], 2, "'epochs'"),
        (["mlp:maml", *SINUSOID, "--set=tasks.shotz=3"], 2, "Did you mean 'shots'?"),
        (["mlp:maml", "--tasks=sinusoid", "--learner=prototypical"], 2, "prototypical"),
        (["mlp:mamml", *SINUSOID], 2, "Did you mean 'maml'?"),
        (["mpl:maml", *SINUSOID], 2, "Did you mean 'mlp'?"),
        (["mlp:maml", *SINUSOID, "--baseline=s/1"], 2, "--baseline s/1"),
        (["mlp:maml", *SINUSOID, "--artifacts=/proc/nowhere"], 1, "--artifacts"),
        (["mlp:maml", *SINUSOID, "--db=mysql://x"], 2, "sqlite:///"),
        (["mlp:maml", *SINUSOID, "--set=learner.inner_lr=1e30", *SMALL, "--seeds=1"], 1, "Diverged"),
        (["mlp:maml", "--tasks=omniglot", "--learner=prototypical"], 3, "nas data fetch omniglot"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_bad_input_says_what_where_and_what_is_allowed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], code: int, words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NAS_DATA", str(tmp_path / "empty"))
    monkeypatch.delenv("NAS_DB", raising=False)
    result = CliRunner().invoke(app, ["evaluate", *arguments, "-f", "json"])
    assert isinstance(result.exception, NasError), result.output
    assert result.exception.exit_code == code
    assert words in str(result.exception)
    assert result.stdout in ("", "[]\n")
