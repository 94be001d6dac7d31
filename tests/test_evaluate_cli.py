"""`nas evaluate` as a user meets it: results, what they leave behind, what is refused."""

from __future__ import annotations

import csv
import io
import json
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from command_line import nas, process
from facts import lacking

from nas.costs import MEASURED
from nas.evaluation.driver import EvaluationDriver
from nas.evaluation.incomplete import complaint
from nas.evaluation.targets import Target
from nas.states import EvaluationState
from nas.storage.schema import Evaluation
from nas.storage.store import Store
from nas.testing.evaluations import claim, trained

SMALL = [
    "--train-episodes=60",
    "--validate-every=20",
    "--validation-episodes=10",
    "--set=tasks.shots=2",
    "--set=tasks.queries=2",
]
SINUSOID = ["--tasks=sinusoid", "--learner=maml", "--set=learner.inner_lr=0.01"]


def asked(*arguments: str, folder: Path) -> tuple[int, str, str]:
    """Run the app in this process, on the database of a folder."""
    return nas(*arguments, f"--db=sqlite:///{folder}/nas.db")


def ask(db: Path, query: str) -> list[tuple[Any, ...]]:
    with sqlite3.connect(db) as connection:
        return connection.execute(query).fetchall()


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, str]:
    """A folder with a search, and with evaluations of its best two beside a baseline; what was printed."""
    cwd = tmp_path_factory.mktemp("evaluated")
    run = ["run", "--space=mlp", "--controller=random", *SINUSOID, "--name=s", "--seed=1"]
    run += ["--executor=inline", "--trials=6", "--evaluator=nas.testing.evaluators:Scripted"]
    code, _, err = asked(*run, folder=cwd)
    assert code == 0, err
    evaluate = ["--top=2", "--search=s", "--baseline=maml", "--seeds=2", "--workers=2", "-f", "json"]
    code, out, err = process("evaluate", *evaluate, *SMALL, folder=cwd)
    assert code == 0, err
    return cwd, out, err


@pytest.fixture
def copied(evaluated: tuple[Path, str, str], tmp_path: Path) -> Path:
    """A copy of that folder, to change."""
    shutil.copytree(evaluated[0], tmp_path / "copy")
    return tmp_path / "copy"


@pytest.mark.slow
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
    assert lacking(err, "ci95_episodes:", "nas leaderboard --stage test") == []


@pytest.mark.slow
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


@pytest.mark.slow
def test_what_is_done_is_not_done_again(copied: Path) -> None:
    before = ask(copied / "nas.db", "SELECT id, test_score, finished_at FROM evaluations ORDER BY id")
    with sqlite3.connect(copied / "nas.db") as connection:
        older = "UPDATE evaluations SET environment = json_set(environment, '$.code', 'older') WHERE id = 1"
        connection.execute(older)
    again = ["evaluate", "--top=2", "--search=s", "--baseline=maml", "--seeds=2", *SMALL, "-f", "csv"]
    code, out, err = asked(*again, folder=copied)
    assert code == 0
    assert err.count("evaluated before") == 6
    assert err.count("evaluated before, by other code than this") == 1
    assert "training episodes" not in err
    assert len(list(csv.DictReader(io.StringIO(out)))) == 3
    assert ask(copied / "nas.db", "SELECT id, test_score, finished_at FROM evaluations ORDER BY id") == before


@pytest.mark.slow
@pytest.mark.parametrize("form", ["table", "json", "ndjson", "csv", "markdown"])
def test_the_test_leaderboard(evaluated: tuple[Path, str, str], form: str) -> None:
    cwd, out, _ = evaluated
    code, board, err = asked("leaderboard", "--stage=test", "-f", form, folder=cwd)
    assert code == 0, err
    for column in ("rank", "normalization", "seeds", "test_score", "ci95_seeds", "ci95_episodes"):
        assert column in board
    if form == "json":
        rows = json.loads(board)
        scores = [row["test_score"] for row in rows]
        assert scores == sorted((row["test_score"] for row in json.loads(out)), reverse=True)
        assert [row["rank"] for row in rows] == [1, 2, 3]


@pytest.mark.slow
def test_the_test_leaderboard_is_filtered(evaluated: tuple[Path, str, str]) -> None:
    cwd = evaluated[0]
    for arguments, count in (
        (["--search=s"], 2),
        (["--limit=1"], 1),
        (["--learner=prototypical"], 0),
        (["--max-parameters=0"], 0),
        (["--max-activations=10k", "--max-latency=10", "--max-latency-batch=10"], 3),
        (["--max-latency=1e-9"], 0),
        (["--max-seconds=1e-9"], 0),
        (["--tasks=sinusoid", "--sort=parameters"], 3),
    ):
        _, out, _ = asked("leaderboard", "--stage=test", "-f", "json", *arguments, folder=cwd)
        assert len(json.loads(out)) == count, arguments
    for column in MEASURED:
        _, out, _ = asked("leaderboard", "--stage=test", "-f", "json", f"--sort={column}", folder=cwd)
        found = [row[column] for row in json.loads(out)]
        assert found == sorted(found)
        assert len(found) == 3
    _, out, _ = asked("leaderboard", "--stage=test", "--pareto=score,latency", folder=cwd)
    assert {"activations", "latency", "latency_batch"} < {*out.splitlines()[0].split()}
    code, _, err = asked("leaderboard", "--stage=test", "--controller=random", folder=cwd)
    assert (code, "--stage test" in err) == (2, True)


@pytest.mark.slow
def test_validation_is_what_a_leaderboard_ranks_by_default(evaluated: tuple[Path, str, str]) -> None:
    cwd = evaluated[0]
    _, out, _ = asked("leaderboard", "-f", "json", folder=cwd)
    rows = json.loads(out)
    assert {row["search"] for row in rows} == {"s"}
    assert all({"score", "normalization"} <= row.keys() for row in rows)


@pytest.mark.slow
def test_a_trial_lists_its_evaluations(evaluated: tuple[Path, str, str]) -> None:
    cwd, out, _ = evaluated
    first = json.loads(out)[0]
    _, shown, _ = asked("show", f"s/{first['trial']}", "-f", "json", folder=cwd)
    listed = json.loads(shown)["evaluations"]
    assert [row["seed"] for row in listed] == [0, 1]
    assert {row["precision"] for row in listed} == {"float32"}
    assert sum(row["test_score"] for row in listed) / 2 == pytest.approx(first["test_score"])
    _, table, _ = asked("show", f"s/{first['trial']}", folder=cwd)
    assert "evaluations of this network" in table


@pytest.mark.slow
def test_evaluations_outlive_their_search(copied: Path) -> None:
    assert asked("rm", "s", "--yes", folder=copied)[0] == 0
    _, out, _ = asked("leaderboard", "--stage=test", "--search=s", "-f", "json", folder=copied)
    assert len(json.loads(out)) == 2


@pytest.mark.slow
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


NOTHING = "nasbench201:|none~0|+|none~0|none~1|+|none~0|none~1|none~2|"
DIVERGES = ["mlp:maml", *SINUSOID, "--set=learner.inner_lr=1e30"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "seeds", "printed", "told"),
    [
        ([NOTHING, "--tasks=glyphs", "--learner=prototypical"], 2, "", "seeds 0, 1 infeasible: The cell"),
        ([*DIVERGES, "-f", "json"], 1, "[]\n", "seed 0 failed: Diverged:"),
    ],
    ids=["infeasible", "diverged"],
)
def test_a_second_try_is_not_advised_where_it_is_in_vain(
    tmp_path: Path, arguments: list[str], seeds: int, printed: str, told: str
) -> None:
    code, out, err = asked("evaluate", *arguments, *SMALL, f"--seeds={seeds}", "--workers=1", folder=tmp_path)
    assert (code, out) == (1, printed)
    head, _, fate = err.partition("error: ")[2].splitlines()
    counted = "1 of 1 evaluation" if seeds == 1 else "2 of 2 evaluations"
    assert (lacking(head, counted), told in fate) == ([], True)


def test_what_a_second_try_may_mend_is_told_apart(store: Store) -> None:
    """A crash is worth another try, a divergence is not."""
    for seed, error in enumerate(("Diverged: nan", "OSError: disk full\nat line 3", None)):
        row = claim(store, seed=seed)
        if error is not None:
            store.evaluations.fail(row.id, EvaluationState.FAILED, error)
    store.evaluations.interrupt([row.id])
    rows = store.evaluations.of_network("chain", "key")
    said = complaint(rows)
    assert said is not None
    head, again, *mended, vain, lost = said.splitlines()
    assert lacking(head, "3 of 3") == []
    assert mended == ["  chain:1.0 seed 1 failed: OSError: disk full", "  chain:1.0 seed 2 interrupted"]
    assert lost == "  chain:1.0 seed 0 failed: Diverged: nan"
    assert again != vain


@pytest.mark.slow
def test_a_single_seed_is_told_as_one(copied: Path) -> None:
    said = asked("evaluate", "--top=1", "--search=s", *SMALL, "--seeds=1", folder=copied)[2]
    assert said.startswith("1 evaluation (1 architecture × 1 seed) on sinusoid")
    assert "ci95_seeds" not in said
    assert lacking(said, "test_score:", "1000 test episodes", "ci95_episodes:") == []
    both = ["--baseline=maml", "--seeds=2"]
    said = asked("evaluate", "--top=2", "--search=s", *both, *SMALL, folder=copied)[2]
    assert said.startswith("6 evaluations (3 architectures × 2 seeds) on sinusoid")
    assert lacking(said, "ci95_seeds:", "Student's t", "difference:") == []


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ([], 2, "SPACE:ARCHITECTURE"),
        (["--top=2"], 2, "--search"),
        (["conv5"], 2, "conv4"),
        (["s/one"], 2, "s/0"),
        (["s/0"], 3, "'s'"),
        (["mlp:maml", "--search=s"], 3, "'s'"),
        (["mlp:maml"], 2, "--tasks, --learner"),
        (["mlp:maml", "--tasks=sinusoid"], 2, "--learner"),
        (["mlp:maml", *SINUSOID, "--test-episodes=999"], 2, "budget.test_episodes"),
        (["mlp:maml", *SINUSOID, "--train-episodes=0"], 2, "budget.train_episodes"),
        (["mlp:maml", *SINUSOID, "--patience=-1"], 2, "budget.patience"),
        (["mlp:maml", *SINUSOID, "--set=budget.epochs=3"], 2, "'epochs'"),
        (["mlp:maml", *SINUSOID, "--set=tasks.shotz=3"], 2, "'shots'"),
        (["mlp:maml", "--tasks=sinusoid", "--learner=prototypical"], 2, "prototypical"),
        (["mlp:mamml", *SINUSOID], 2, "'maml'"),
        (["mpl:maml", *SINUSOID], 2, "'mlp'"),
        (["mlp:maml", *SINUSOID, "--baseline=s/1"], 2, "--baseline s/1"),
        (["mlp:maml", *SINUSOID, "--artifacts=/proc/nowhere"], 4, "--artifacts"),
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
    got, out, err = nas("evaluate", *arguments, "-f", "json")
    assert (got, out in ("", "[]\n")) == (code, True)
    assert words in err


def test_a_row_for_each_baseline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(
        self: EvaluationDriver, targets: Sequence[Target], seeds: int, executor: Any
    ) -> list[list[Evaluation]]:
        rows = []
        for number, target in enumerate(targets):
            row = claim(self._store, key=target.file_name(0))
            self._store.evaluations.complete(row.id, trained((0.8 - 0.1 * number, 0.6 - 0.1 * number)))
            rows.append([self._store.evaluations.get(row.id)])
        return rows

    monkeypatch.setattr(EvaluationDriver, "run", run)
    evaluate = ["evaluate", "few_shot:residual", "--tasks=glyphs", "--learner=prototypical", "--seeds=1"]
    both = ["--baseline=conv4", "--baseline=conv4_pool"]
    code, out, err = asked(*evaluate, *both, "-f", "json", folder=tmp_path)
    assert code == 0, err
    rows = [(row["name"], row["baseline"], row["difference"]) for row in json.loads(out)]
    assert rows == [
        (None, "conv4", pytest.approx(0.1)),
        (None, "conv4_pool", pytest.approx(0.2)),
        ("conv4", None, None),
        ("conv4_pool", None, None),
    ]
    assert "Snell" in err
    assert "--baseline conv4_pool" not in err
    (tmp_path / "strides").mkdir()
    _, _, err = asked(*evaluate, "--baseline=conv4", folder=tmp_path / "strides")
    assert "--baseline conv4_pool" in err  # the network of the learner's paper
