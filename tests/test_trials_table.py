"""`nas show SEARCH -o FILE`: the trials of a search as a table for other programs."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import pandas as pd
import pytest
from command_line import SCRIPTED, nas
from torch import nn

from nas.backbone import BackboneSpace
from nas.space import Architecture, Decision, TaskShape
from nas.storage.store import Store
from nas.testing.toys import Toy

RUNGS = ("--set=scheduler.name=asha", "--set=scheduler.minimum=10", "--set=budget.train_episodes=90")


class Mixed(BackboneSpace):
    """A layer; one decision has choices of two types, others numbers of two types, or whole ones."""

    name: ClassVar[str] = "mixed"

    def __init__(self) -> None:
        self.decisions = (
            Decision("size", ("small", 8, 16)),
            Decision("rate", (1, 0.5)),
            Decision("width", (1, 2)),
        )

    def build(self, architecture: Architecture, shape: TaskShape) -> nn.Module:
        """Build the layer."""
        return nn.Linear(shape.input[0], 1)

    def canonical(self, architecture: Architecture) -> str:
        """Return the text: no two are alike."""
        return self.encode(architecture)


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_a_row_has_what_a_trial_chose_and_measured(db: Path, tmp_path: Path, suffix: str) -> None:
    faults = ('--set=evaluator.faults={1="raise"}', "--set=max_failed=1")
    assert nas("run", *SCRIPTED, *RUNGS, *faults, "--trials=6", "--name=s")[0] == 0
    file = tmp_path / f"trials.{suffix}"
    assert nas("show", "s", "-o", str(file))[0] == 0
    found = pd.read_csv(file) if suffix == "csv" else pd.read_parquet(file)
    with Store(f"sqlite:///{db}") as store:
        search = store.search("s").id
        trials = store.trials(search)
        assert found["trial"].tolist() == [trial.number for trial in trials]
        for (_, row), trial in zip(found.iterrows(), trials, strict=True):
            assert trial.architecture is not None
            values = Toy().values(Toy().decode(trial.architecture))
            assert {name: row[f"decision.{name}"] for name in values} == values
            last = {m.metric: m.value for m in store.measurements(search, number=trial.number)}
            assert row["state"] == trial.state
            assert row["measured.score"] == pytest.approx(last.get("score", float("nan")), nan_ok=True)
            assert row["score"] == pytest.approx(trial.score or float("nan"), nan_ok=True)
    assert found["measured.score"].isna().tolist() == [trial.state == "failed" for trial in trials]


def test_settings_that_a_search_chose_are_decisions(db: Path, tmp_path: Path) -> None:
    assert nas("run", *SCRIPTED, "--set=slots.learner.lr=[0.1,0.2]", "--trials=4", "--name=s")[0] == 0
    assert nas("show", "s", "-o", str(tmp_path / "t.csv"))[0] == 0
    found = pd.read_csv(tmp_path / "t.csv")
    with Store(f"sqlite:///{db}") as store:
        texts = [trial.architecture or "" for trial in store.trials(store.search("s").id)]
    assert all(f"lr={lr}" in text for lr, text in zip(found["decision.learner.lr"], texts, strict=True))
    assert "chosen" not in found


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_choices_of_several_types_are_text(db: Path, tmp_path: Path, suffix: str) -> None:
    mixed = (*SCRIPTED, f"--space={__name__}:Mixed", "--controller=random")
    assert nas("run", *mixed, "--trials=12", "--name=s")[0] == 0
    file = tmp_path / f"t.{suffix}"
    assert nas("show", "s", "-o", str(file))[0] == 0
    found = pd.read_csv(file) if suffix == "csv" else pd.read_parquet(file)
    assert set(found["decision.size"]) == {"small", "8", "16"}
    assert set(found["decision.rate"]) == {1.0, 0.5}
    assert set(found["decision.width"]) == {1, 2}


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_whole_numbers_stay_whole_where_some_are_absent(db: Path, tmp_path: Path, suffix: str) -> None:
    """Such as the trial whose score is reused, which most do not have."""
    few = ("--set=space.layers=1", "--trials=12", "--name=s")
    assert nas("run", *SCRIPTED, *few)[0] == 0
    file = tmp_path / f"t.{suffix}"
    assert nas("show", "s", "-o", str(file))[0] == 0
    found = pd.read_csv(file, dtype=str) if suffix == "csv" else pd.read_parquet(file)
    with Store(f"sqlite:///{db}") as store:
        trials = store.trials(store.search("s").id)
    assert {trial.reused is None for trial in trials} == {True, False}
    for name in ("reused", "seed"):
        texts = [None if pd.isna(value) else str(value) for value in found[name]]
        assert texts == [None if (own := getattr(trial, name)) is None else str(own) for trial in trials]
    if suffix == "parquet":
        whole = ["parent", "asked_episodes", "macs", "decision.width0"]
        assert [str(found[name].dtype) for name in whole] == ["Int64"] * len(whole)


def test_other_files_are_no_tables(db: Path, tmp_path: Path) -> None:
    assert nas("run", *SCRIPTED, "--trials=1", "--name=s")[0] == 0
    code, _, err = nas("show", "s", "-o", str(tmp_path / "s.svg"))
    assert (code, "s/0" in err, ".parquet" in err) == (2, True, True)
    assert nas("show", "none", "-o", str(tmp_path / "t.csv"))[0] != 0
    code, _, err = nas("show", "s", "-o", str(tmp_path / "t.csv"), "-f", "json")
    assert (code, "--format json" in err) == (2, True)
    assert not (tmp_path / "t.csv").exists()
