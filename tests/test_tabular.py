"""Searches in a table: scores as they stand there, a simulated clock, and what is wrong with a table."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from nas.config import SearchConfig, validate
from nas.controller import Measurement, State
from nas.errors import ConfigError, NotFound, Unsupported
from nas.evaluator import Job
from nas.executors.inline import InlineExecutor
from nas.search import Search
from nas.storage.store import Store
from nas.tabular import Table
from nas.testing.cli import nas
from nas.testing.searches import Silent, start
from nas.testing.toys import Toy

SPACE = {"name": "nas.testing.toys:Toy", "layers": 1}
TEXTS = [f"0.{width}.{activation}.0" for width in range(4) for activation in range(2)]


@pytest.fixture
def frame() -> pd.DataFrame:
    """Eight rows in no order: scores 10, 20…, test scores 1 % of them, 100 s, 101 s…"""
    rows = [(text, 10.0 * (i + 1), 0.1 * (i + 1), 100.0 + i) for i, text in enumerate(TEXTS)]
    return pd.DataFrame(rows[::-1], columns=["arch", "valid", "test", "cost"])


@pytest.fixture
def table(frame: pd.DataFrame, tmp_path: Path) -> Path:
    return write(frame, tmp_path / "small.v1.csv")


def write(frame: pd.DataFrame, path: Path) -> Path:
    frame.to_csv(path, index=False)
    return path


def configure(table: Path, *, settings: dict[str, Any] | None = None, **changes: Any) -> SearchConfig:
    looked_up = {"test_metric": "test", "cost": "cost"} if settings is None else settings
    values: dict[str, Any] = {
        "space": SPACE,
        "controller": "random",
        "evaluator": {"name": "tabular", "table": str(table), "metric": "valid", **looked_up},
        "trials": 20,
    }
    return validate(values | changes)


def run(store: Store, config: SearchConfig) -> str:
    return start(store, config).run(InlineExecutor(config, config.make_tasks()))


def look_up(config: SearchConfig, text: str) -> Any:
    space = config.make_space()
    evaluator = config.make_evaluator(config.make_context(space, config.make_tasks()))
    [outcome] = evaluator.evaluate(Job(0, 0, space.decode(text), 1))
    return outcome


def test_a_row_becomes_an_outcome(table: Path) -> None:
    outcome = look_up(configure(table), "0.2.1.0")
    assert outcome.state is State.COMPLETED
    assert (outcome.score.value, outcome.score.ci95, outcome.seconds) == (60.0, 0.0, 105.0)
    assert outcome.score.split == "small/valid"
    assert outcome.measurements == (Measurement(0, "test_score", pytest.approx(0.6)),)


def test_isomorphic_encodings_keep_their_own_rows(tmp_path: Path) -> None:
    space = Toy(layers=2)
    texts = [f"{d}.{a}.{b}.{c}.0" for d in range(2) for a in range(4) for b in range(4) for c in range(2)]
    rows = pd.DataFrame({"arch": texts, "valid": range(len(texts))})
    config = configure(
        write(rows, tmp_path / "t.csv"), settings={}, space={"name": "nas.testing.toys:Toy", "layers": 2}
    )
    keys = {space.canonical(space.decode(text)) for text in ("0.1.2.0.0", "0.1.3.0.0")}
    assert len(keys) == 1
    scores = [look_up(config, text).score.value for text in ("0.1.2.0.0", "0.1.3.0.0")]
    assert scores == [texts.index("0.1.2.0.0"), texts.index("0.1.3.0.0")]


def test_without_the_optional_columns(table: Path) -> None:
    outcome = look_up(configure(table, settings={}), "0.0.0.0")
    assert (outcome.score.value, outcome.seconds, outcome.measurements) == (10.0, 1.0, ())


@pytest.mark.parametrize("name", ["t.csv.gz", "t.csv.xz", "t.parquet"])
def test_other_formats_hold_the_same(frame: pd.DataFrame, tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    (frame.to_parquet if name.endswith("parquet") else frame.to_csv)(path)
    assert look_up(configure(path), "0.3.0.0").score.value == 70.0


def test_rows_of_other_spaces_are_left_out(frame: pd.DataFrame, tmp_path: Path) -> None:
    foreign = frame.assign(space="mlp", arch="3.1.4")
    path = write(pd.concat([foreign, frame.assign(space="toy")]), tmp_path / "t.csv")
    assert look_up(configure(path), "0.0.0.0").score.value == 10.0


def test_a_table_of_other_spaces_says_which(frame: pd.DataFrame, tmp_path: Path) -> None:
    names = ["mlp"] * 4 + ["chain", None, "mlp", "darts"]
    expected = "has no row of space 'toy': its column 'space' has 'mlp', 'chain', nothing, 'darts'."
    foreign = frame.assign(space=names)
    assert expected in problem(foreign, tmp_path)
    foreign.convert_dtypes().to_parquet(tmp_path / "t.parquet")
    with pytest.raises(ConfigError) as error:
        configure(tmp_path / "t.parquet").make_tasks()
    assert expected in str(error.value)


def test_the_architecture_column_may_have_another_name(frame: pd.DataFrame, tmp_path: Path) -> None:
    path = write(frame.rename(columns={"arch": "cell"}), tmp_path / "t.csv")
    assert look_up(configure(path, settings={"arch": "cell"}), "0.0.1.0").score.value == 20.0


def problem(frame: pd.DataFrame, tmp_path: Path, **settings: Any) -> str:
    config = configure(
        write(frame, tmp_path / "t.csv"), settings={"test_metric": "test", "cost": "cost", **settings}
    )
    with pytest.raises(ConfigError) as error:
        config.make_tasks()
    return str(error.value)


def test_missing_columns_are_named(frame: pd.DataFrame, tmp_path: Path) -> None:
    said = problem(frame, tmp_path, test_metric="c10", cost="hours")
    assert "lacks 2 columns: c10, hours" in said
    assert "It has: arch, valid, test, cost" in said


def test_unparsable_architectures_are_counted_and_named(frame: pd.DataFrame, tmp_path: Path) -> None:
    frame.loc[[1, 2, 4, 6], "arch"] = ["0.9.0.0", "conv", "0.0", "1"]
    said = problem(frame, tmp_path)
    assert (
        "4 of 8 rows have no architecture of space 'toy' in column 'arch': "
        "row 3: '0.9.0.0', row 4: 'conv', row 6: '0.0', …." in said
    )


def test_repeated_architectures_are_counted_and_named(frame: pd.DataFrame, tmp_path: Path) -> None:
    assert "1 of 9 rows repeat an architecture: row 10: '0.3.1.0'." in problem(
        pd.concat([frame, frame[:1]]), tmp_path
    )


def test_rows_keep_their_number_in_the_file(frame: pd.DataFrame, tmp_path: Path) -> None:
    """Whatever index a file brings, and wherever rows of other spaces stand."""
    foreign = frame.assign(space="mlp", arch="3.1.4")
    whole = pd.concat([foreign, frame.assign(space="toy"), frame[:1].assign(space="toy")])
    whole.to_parquet(tmp_path / "t.parquet")
    with pytest.raises(ConfigError, match=r"1 of 9 rows repeat an architecture: row 18: '0\.3\.1\.0'\."):
        configure(tmp_path / "t.parquet").make_tasks()


@pytest.mark.parametrize(
    ("column", "value", "said", "shown"),
    [
        ("valid", np.nan, "finite score", "nothing"),
        ("test", np.inf, "finite score", "'inf'"),
        ("cost", -1.0, "finite, non-negative cost", "'-1.0'"),
        ("valid", "n/a%", "finite score", "'n/a%'"),
    ],
)
def test_rows_without_a_number_are_counted_and_named(
    frame: pd.DataFrame, tmp_path: Path, column: str, value: Any, said: str, shown: str
) -> None:
    frame[column] = frame[column].astype(object)
    frame.loc[[0, 3], column] = value
    expected = f"2 of 8 rows have no {said} in column '{column}': row 2: {shown}, row 5: {shown}."
    assert expected in problem(frame, tmp_path)


def test_missing_rows_are_counted_and_named(frame: pd.DataFrame, tmp_path: Path) -> None:
    every = ["0.1.0.0", "0.2.1.0", "0.3.0.0", "0.3.1.0"]
    for gone, more in ((every[:3], ""), (every, ", …")):
        said = problem(frame[~frame["arch"].isin(gone)], tmp_path)
        lacks = f"lacks {len(gone)} of the 8 architectures of space 'toy'"
        assert f"{lacks}: 0.1.0.0, 0.2.1.0, 0.3.0.0{more}." in said


def test_a_file_that_is_no_table(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"evaluator\.table: cannot read .*gone\.csv"):
        configure(tmp_path / "gone.csv").make_tasks()
    for name, content in (
        ("a.csv", b""),
        ("b.csv.gz", b"no gzip"),
        ("c.parquet", b"no parquet"),
        ("d.csv", b"\xff"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ConfigError, match=f"{name} is no table"):
            configure(tmp_path / name).make_tasks()


def test_parquet_without_pyarrow(table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(path: Path) -> None:
        raise ImportError("no engine")

    monkeypatch.setattr(pd, "read_parquet", missing)
    (tmp_path / "t.parquet").write_bytes(b"PAR1")
    with pytest.raises(ConfigError, match=r"pip install 'nas-service\[parquet\]'"):
        configure(tmp_path / "t.parquet").make_tasks()


def test_a_table_is_read_once_and_again_when_it_changes(
    frame: pd.DataFrame, table: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads: list[Path] = []
    real = pd.read_csv
    monkeypatch.setattr(pd, "read_csv", lambda path, **more: reads.append(path) or real(path, **more))
    first = configure(table).make_tasks()
    assert configure(table, seed=5).make_tasks() is first
    assert len(reads) == 1
    write(frame.assign(valid=-frame["valid"]), table)
    assert look_up(configure(table), "0.0.0.0").score.value == -10.0
    assert configure(table).make_tasks().fingerprint("train") != first.fingerprint("train")


def test_a_search_has_no_tasks_and_no_learner(table: Path) -> None:
    config = configure(table)
    assert (config.tasks, config.learner, config.executor) == (None, None, "inline")
    for changes in ({"tasks": "sinusoid"}, {"learner": "maml"}, {"scheduler": {}}):
        [kind] = changes
        with pytest.raises(ConfigError, match=f"{kind}: the evaluator 'tabular' trains nothing"):
            configure(table, **changes)
    with pytest.raises(ConfigError, match=r"tasks\.name is missing"):
        configure(table, evaluator="train", learner="maml")
    limited = configure(table, constraints={"max_parameters": 10})
    tasks = limited.make_tasks()
    with pytest.raises(Unsupported, match="has scores, no tasks"):
        limited.make_controller(limited.make_space(), tasks)
    assert isinstance(config.make_tasks(), Table)


def test_test_scores_are_recorded_but_not_observed(table: Path, tmp_path: Path) -> None:
    config = configure(table, deduplicate=False)
    with Store(f"sqlite:///{tmp_path}/nas.db") as store:
        search = start(store, config)
        observed = []
        observe = search._controller.observe
        search._controller.observe = lambda n, outcome: (observed.append(outcome), observe(n, outcome))  # type: ignore[method-assign]
        assert search.run(InlineExecutor(config, config.make_tasks())) == "completed"
        row = store.search("random-nas.testing.toys-Toy-tabular")
        tests = {m.trial_id: m.value for m in store.measurements(row.id) if m.metric == "test_score"}
        trials = store.trials(row.id)
        assert (row.learner, row.task_label) == ("none", "small valid")
        assert len(observed) == len(trials) == 20
        assert all(outcome.measurements == () for outcome in observed)
        for trial in trials:
            place = TEXTS.index(trial.architecture)
            assert (trial.score, trial.seconds) == (10.0 * (place + 1), 100.0 + place)
            assert tests[trial.id] == pytest.approx(0.1 * (place + 1))


def test_the_budget_ends_a_search_once_it_is_reached(table: Path, tmp_path: Path) -> None:
    """Costs of 100 s to 107 s: the fifth evaluation passes 412 s … 499 s, never the fourth."""
    with Store(f"sqlite:///{tmp_path}/nas.db") as store:
        for seed in range(5):
            assert (
                run(store, configure(table, deduplicate=False, max_seconds=450.0, seed=seed)) == "completed"
            )
            trials = store.trials(store.search("@last").id)
            assert len(trials) == 5
            assert sum(trial.seconds or 0.0 for trial in trials[:-1]) < 450.0
        exact = configure(table, settings={}, deduplicate=False, max_seconds=3.0)
        run(store, exact)
        assert len(store.trials(store.search("@last").id)) == 3
        assert run(store, configure(table, trials=2, deduplicate=False, max_seconds=450.0)) == "completed"
        assert len(store.trials(store.search("@last").id)) == 2


def test_reused_trials_cost_nothing(table: Path, tmp_path: Path) -> None:
    with Store(f"sqlite:///{tmp_path}/nas.db") as store:
        run(store, configure(table, trials=40, max_seconds=450.0))
        trials = store.trials(store.search("@last").id)
        states = [trial.state for trial in trials]
        assert (states.count("completed"), states[-1]) == (5, "completed")
        assert states.count("reused") > 0


def test_a_resumed_search_spends_the_same(table: Path, tmp_path: Path) -> None:
    config = configure(
        table,
        deduplicate=False,
        max_seconds=750.0,
        controller={"name": "evolution", "population": 2, "sample": 2},
    )

    class Killed(BaseException): ...

    def results(store: Store) -> list[tuple[Any, ...]]:
        return [(t.number, t.architecture, t.score) for t in store.trials(store.search("@last").id)]

    with Store(f"sqlite:///{tmp_path}/whole.db") as store:
        run(store, config)
        whole = results(store)
    with Store(f"sqlite:///{tmp_path}/killed.db") as store:
        search = start(store, config)
        finish = search.finish

        def die(job: Job, outcome: Any) -> None:
            if job.number == 3:
                raise Killed
            finish(job, outcome)

        search.finish = die  # type: ignore[method-assign]
        with pytest.raises(Killed):
            search.run(InlineExecutor(config, config.make_tasks()))
        row = store.search("@last")
        again = validate(row.config)
        tasks = again.make_tasks()
        resumed = Search(store, row, again, again.make_space(), tasks, Silent())
        assert resumed.run(InlineExecutor(again, tasks)) == "completed"
        assert results(store) == whole
        assert len(whole) == 8


def test_the_command_line(table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = ["--space=nas.testing.toys:Toy", "--set=space.layers=1", "--controller=random", "--trials=5"]
    looked_up = ["--evaluator=tabular", "--set=evaluator.table=small.v1.csv", "--set=evaluator.metric=valid"]
    code, out, _ = nas("run", *arguments, *looked_up, "--name=t", "--set=evaluator.test_metric=test")
    assert (code, out.split()[:3]) == (0, ["rank", "trial", "score"])
    trial = json.loads(nas("show", "t/0", "-f", "json")[1])
    assert [m["metric"] for m in trial["measurements"]] == ["test_score"]
    [row] = json.loads(nas("ls", "-f", "json")[1])
    assert (row["task"], row["learner"], row["done"]) == ("small valid", "none", 5)
    assert json.loads(nas("show", "t", "-f", "json")[1])["config"]["evaluator"]["table"] == str(table)
    monkeypatch.chdir("/")
    assert nas("resume", "t", "--trials=+3", f"--db=sqlite:///{tmp_path}/nas.db")[0] == 0
    monkeypatch.chdir(tmp_path)
    for asked in (["t/0"], ["--top=1", "--search=t"]):
        code, _, err = nas("evaluate", *asked, "--seeds=1")
        assert (code, "Search 't' looked its scores up in a table" in err) == (2, True)
        assert "it has no tasks and no learner to train with. Add --tasks and --learner;" in err
    code, _, err = nas("evaluate", "mlp:maml", "--search=t", "--tasks=sinusoid")
    assert (code, "Add --learner;" in err) == (2, True)
    code, _, err = nas("run", *arguments, *looked_up, "--name=short", "--set=max_seconds=2")
    assert (code, "The best 2 of 2 trials" in err, "took max_seconds = 2 s" in err) == (0, True, True)
    assert "Go on" not in err
    table.unlink()
    assert nas("run", *arguments, *looked_up)[0] == 3


def test_all_of_nasbench201(nas_data: Path, tmp_path: Path) -> None:
    path = nas_data / "nasbench201" / "nasbench201.csv.gz"
    settings = {"metric": "c10_valid_12", "test_metric": "c10_test_200", "cost": "cost_12_s"}
    config = configure(path, settings=settings, space={"name": "nasbench201", "prune": False})
    outcome = look_up(
        config,
        "|nor_conv_3x3~0|+|nor_conv_3x3~0|avg_pool_3x3~1|+|skip_connect~0|nor_conv_3x3~1|skip_connect~2|",
    )
    assert (outcome.score.value, outcome.seconds, outcome.measurements[0].value) == (82.834, 130.18, 93.66)
    with Store(f"sqlite:///{tmp_path}/nas.db") as store:
        assert run(store, config) == "completed"
