"""Tables of scores: what is read of them, and what is wrong with one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from facts import lacking, refusal
from small_table import TEXTS, configure, eight_rows, look_up, write
from torch import nn

from nas.backbone import BackboneSpace
from nas.controller import Measurement
from nas.errors import ConfigError, NotFound
from nas.evaluator import Job
from nas.space import Architecture, Decision, TaskShape
from nas.states import TrialState
from nas.testing.toys import Toy


@pytest.fixture
def frame() -> pd.DataFrame:
    return eight_rows()


@pytest.fixture
def table(frame: pd.DataFrame, tmp_path: Path) -> Path:
    return write(frame, tmp_path / "small.v1.csv")


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
        configure(tmp_path / "t.parquet").make_source()
    assert expected in str(error.value)


def test_the_architecture_column_may_have_another_name(frame: pd.DataFrame, tmp_path: Path) -> None:
    path = write(frame.rename(columns={"arch": "cell"}), tmp_path / "t.csv")
    assert look_up(configure(path, settings={"arch": "cell"}), "0.0.1.0").score.value == 20.0


class Awkward(BackboneSpace):
    """Architectures whose texts look like numbers, truth or nothing."""

    name = "awkward"
    decisions = (Decision("text", ("02012100", "0.10", "0.1", "None", "NA", "00e1", "1e5", "true", "-inf")),)

    def encode(self, architecture: Architecture) -> str:
        return str(self.decisions[0].choices[self.check(architecture).choices[0]])

    def decode(self, text: str) -> Architecture:
        if text not in self.decisions[0].choices:
            raise self.unreadable(text, "one of its texts")
        return Architecture(self.name, (self.decisions[0].choices.index(text),))

    def build(self, architecture: Architecture, shape: TaskShape) -> nn.Module:
        raise NotImplementedError

    canonical = encode


@pytest.mark.parametrize("name", ["t.csv", "t.csv.gz", "t.parquet"])
def test_architectures_are_texts(tmp_path: Path, name: str) -> None:
    texts = Awkward.decisions[0].choices
    frame = pd.DataFrame({"arch": texts, "valid": range(len(texts))})
    path = tmp_path / name
    frame.to_parquet(path) if name.endswith("parquet") else frame.to_csv(path, index=False)
    config = configure(path, settings={}, space="test_table:Awkward")
    found = [look_up(config, str(text)).score.value for text in texts]
    assert found == list(range(len(texts)))


def test_numbers_in_place_of_architectures_are_refused(tmp_path: Path) -> None:
    pd.DataFrame({"arch": [2012100, 1], "valid": [1, 2]}).to_parquet(tmp_path / "t.parquet")
    with refusal(ConfigError, "evaluator.arch", "int64"):
        configure(tmp_path / "t.parquet", settings={}, space="test_table:Awkward").make_source()
    pd.DataFrame({"arch": ["NA", None], "valid": [1, 2]}).to_parquet(tmp_path / "t.parquet")
    with refusal(ConfigError, "1 of 2", "row 3"):
        configure(tmp_path / "t.parquet", settings={}, space="test_table:Awkward").make_source()


def test_scores_are_read_to_the_last_digit(frame: pd.DataFrame, tmp_path: Path) -> None:
    scores = np.random.default_rng(0).random(8)
    config = configure(write(frame.assign(valid=scores), tmp_path / "t.csv"))
    assert [look_up(config, text).score.value for text in frame["arch"]] == list(scores)


def problem(frame: pd.DataFrame, tmp_path: Path, **settings: Any) -> str:
    config = configure(
        write(frame, tmp_path / "t.csv"), settings={"test_metric": "test", "cost": "cost", **settings}
    )
    with pytest.raises(ConfigError) as error:
        config.make_source()
    return str(error.value)


def test_missing_columns_are_named(frame: pd.DataFrame, tmp_path: Path) -> None:
    said = problem(frame, tmp_path, test_metric="c10", cost="hours")
    assert lacking(said, "2 columns: c10, hours", "arch, valid, test, cost") == []


def test_unparsable_architectures_are_counted_and_named(frame: pd.DataFrame, tmp_path: Path) -> None:
    frame.loc[[1, 2, 4, 6], "arch"] = ["0.9.0.0", "conv", "0.0", "1"]
    said = problem(frame, tmp_path)
    rows = "row 3: '0.9.0.0', row 4: 'conv', row 6: '0.0', …"
    assert lacking(said, "4 of 8", "'toy'", "'arch'", rows) == []
    example = said.rpartition("'")[0].rpartition("'")[2]
    assert Toy(layers=1).decode(example)


def test_repeated_architectures_are_counted_and_named(frame: pd.DataFrame, tmp_path: Path) -> None:
    said = problem(pd.concat([frame, frame[:1]]), tmp_path)
    assert lacking(said, "1 of 9", f"row 10: '{TEXTS[7]}'") == []


def test_rows_keep_their_number_in_the_file(frame: pd.DataFrame, tmp_path: Path) -> None:
    """Whatever index a file brings, and wherever rows of other spaces stand."""
    foreign = frame.assign(space="mlp", arch="3.1.4")
    whole = pd.concat([foreign, frame.assign(space="toy"), frame[:1].assign(space="toy")])
    whole.to_parquet(tmp_path / "t.parquet")
    with refusal(ConfigError, "1 of 9", f"row 18: '{TEXTS[7]}'"):
        configure(tmp_path / "t.parquet").make_source()


@pytest.mark.parametrize(
    ("column", "value", "shown"),
    [
        ("valid", np.nan, "nothing"),
        ("test", np.inf, "'inf'"),
        ("cost", -1.0, "'-1.0'"),
        ("valid", "n/a%", "'n/a%'"),
    ],
)
def test_rows_without_a_number_are_counted_and_named(
    frame: pd.DataFrame, tmp_path: Path, column: str, value: Any, shown: str
) -> None:
    frame[column] = frame[column].astype(object)
    frame.loc[[0, 3], column] = value
    said = problem(frame, tmp_path)
    assert lacking(said, "2 of 8", f"'{column}'", f"row 2: {shown}, row 5: {shown}") == []


def test_missing_rows_are_counted_and_named(frame: pd.DataFrame, tmp_path: Path) -> None:
    every = [TEXTS[place] for place in (2, 5, 6, 7)]
    for gone, more in ((every[:3], ""), (every, ", …")):
        said = problem(frame[~frame["arch"].isin(gone)], tmp_path)
        names = f"{', '.join(every[:3])}{more}."
        assert lacking(said, f"{len(gone)} of the 8", "'toy'", names) == []


def test_a_file_that_is_no_table(tmp_path: Path) -> None:
    with refusal(NotFound, "evaluator.table", tmp_path / "gone.csv"):
        configure(tmp_path / "gone.csv").make_source()
    for name, content in (
        ("a.csv", b""),
        ("b.csv.gz", b"no gzip"),
        ("c.parquet", b"no parquet"),
        ("d.csv", b"\xff"),
    ):
        (tmp_path / name).write_bytes(content)
        with refusal(ConfigError, "evaluator.table", tmp_path / name):
            configure(tmp_path / name).make_source()


def test_parquet_without_pyarrow(table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(path: Path) -> None:
        raise ImportError("no engine")

    monkeypatch.setattr(pd, "read_parquet", missing)
    (tmp_path / "t.parquet").write_bytes(b"PAR1")
    with refusal(ConfigError, "pip install 'nas-service[parquet]'"):
        configure(tmp_path / "t.parquet").make_source()


def test_a_table_is_read_once_and_again_when_it_changes(
    frame: pd.DataFrame, table: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads: list[Path] = []
    real = pd.read_csv
    monkeypatch.setattr(pd, "read_csv", lambda path, **more: reads.append(path) or real(path, **more))
    first = configure(table).make_source()
    assert configure(table, seed=5).make_source() is first
    assert len(reads) == 1
    write(frame.assign(valid=-frame["valid"]), table)
    assert look_up(configure(table), "0.0.0.0").score.value == -10.0
    assert configure(table).make_source().fingerprint("train") != first.fingerprint("train")


def test_a_part_of_a_space_is_searched_where_the_user_says_so(frame: pd.DataFrame, tmp_path: Path) -> None:
    path = write(frame[~frame["arch"].isin([TEXTS[2], TEXTS[5]])], tmp_path / "t.csv")
    config = configure(path, settings={"partial": True, "test_metric": "test"})
    tasks = config.make_source()
    assert ["6 of the 8" in remark for remark in tasks.remarks] == [True]
    assert look_up(config, "0.0.0.0").score.value == 10.0
    outcome = look_up(config, "0.1.0.0")
    assert (outcome.state, outcome.score, outcome.seconds) == (TrialState.INFEASIBLE, None, 0.0)
    assert configure(write(frame, tmp_path / "all.csv")).make_source().remarks == ()
    with refusal(ConfigError, "evaluator.table", tmp_path / "t.csv"):
        configure(write(frame[:0], tmp_path / "t.csv"), settings={"partial": True}).make_source()


def test_columns_for_training_lengths(frame: pd.DataFrame, tmp_path: Path) -> None:
    """Reported at the scheduler's rungs alone; shorter trainings cost their share, or what a column says."""
    longer = frame.assign(valid_4=frame["valid"] / 4, valid_12=frame["valid"] / 2, cost_4=7.0, cost_12=9.0)
    path = write(longer, tmp_path / "t.csv")
    metric = {4: "valid_4", 12: "valid_12", 108: "valid"}

    def outcomes(**settings: Any) -> list[tuple[Any, ...]]:
        config = configure(path, settings={"metric": metric, **settings}, scheduler={"minimum": 4})
        space = config.make_space()
        evaluator = config.make_lookup(space, config.make_source())
        found = evaluator.evaluate(Job(0, 0, space.decode("0.0.1.0"), 1))
        return [(o.state, o.train_episodes, o.score.value, o.seconds, o.measurements) for o in found]

    def seen(length: int, score: float) -> Measurement:
        return Measurement(length, "score", score)

    shares = [101 * 4 / 108, 101 * 12 / 108, 101.0]
    for costs, seconds in (("cost", shares), ({4: "cost_4", 12: "cost_12", 108: "cost"}, [7.0, 9.0, 101.0])):
        assert outcomes(cost=costs, test_metric="test") == [
            (TrialState.RUNNING, 4, 5.0, seconds[0], (seen(4, 5.0),)),
            (TrialState.RUNNING, 12, 10.0, seconds[1], (seen(12, 10.0),)),
            (TrialState.COMPLETED, 108, 20.0, 101.0, (seen(108, 20.0), Measurement(108, "test_score", 0.2))),
        ]
    assert [seconds for _, _, _, seconds, _ in outcomes()] == [4 / 108, 12 / 108, 1.0]
    whole = configure(path, settings={"metric": metric})
    assert look_up(whole, "0.0.1.0").train_episodes == 108  # without a scheduler one outcome
    assert (whole.budget.train_episodes, whole.rungs) == (108, ())
    with refusal(ConfigError, "evaluator.cost", "[4, 108]"):
        outcomes(cost={4: "cost_4", 108: "cost"})
    with refusal(ConfigError, "budget.train_episodes=50"):
        configure(path, settings={"metric": metric}, budget={"train_episodes": 50})
    with refusal(ConfigError, "scheduler.minimum=108"):
        configure(path, settings={"metric": metric}, scheduler={"minimum": 108})
