"""The verb `nas compare`: its formats, what it says beside the table, what it refuses."""

from __future__ import annotations

import csv
import io
import json
import re
import sys
from pathlib import Path

import pytest
from command_line import SCRIPTED, nas
from facts import lacking
from recorded import LOOKED_UP, MIXED, Trained, Trial, close, record, record_one_shot, record_scratch

from nas.comparison import baselines
from nas.storage.store import Store


@pytest.fixture(autouse=True)
def store(db: Path, store: Store) -> Store:
    """Four searches of each of two controllers."""
    for seed in range(4):
        trials: list[Trial] = [("completed", 0.1 * seed + 0.01 * n, 10.0, 0.05 * seed) for n in range(3)]
        for controller in ("random", "evolution"):
            record(store, trials, name=f"x-{controller}-{seed}", seed=seed, controller=controller)
    return store


def test_the_command_prints_every_format() -> None:
    code, out, err = nas("compare", "x")
    assert code == 0
    assert out.splitlines()[0].split()[:4] == ["group", "searches", "trials", "reused"]
    assert out.splitlines()[1].split()[0] == "random"
    assert lacking(err, "sinusoid 10-shot", "Mann-Whitney", "std:") == []
    assert "std:" not in nas("compare", "x-evolution-1")[2]
    rows = json.loads(nas("compare", "x", "-f", "json")[1])
    assert [(row["group"], row["searches"]) for row in rows] == [("random", 4), ("evolution", 4)]
    assert rows[1]["score"] == pytest.approx(0.17)
    assert rows[1]["p_score"] == 1.0
    assert len(nas("compare", "x", "-f", "ndjson")[1].splitlines()) == 2
    assert {row["group"] for row in csv.DictReader(io.StringIO(nas("compare", "x", "-f", "csv")[1]))} == {
        "random",
        "evolution",
    }
    assert nas("compare", "x", "-f", "markdown")[1].startswith("| group | searches |")


def test_the_curves_are_drawn_as_nas_plot_draws_them(tmp_path: Path, store: Store) -> None:
    record(store, MIXED, name="a", seed=1)
    record(store, MIXED, name="b", seed=1, controller="evolution")
    both, one, other = ("a", "b"), tmp_path / "a.svg", tmp_path / "b.svg"
    code, _, err = nas("compare", *both, f"--plot={one}")
    assert (code, lacking(err, str(one))) == (0, [])
    assert nas("plot", *both, f"--output={other}")[0] == 0

    def drawn(file: Path) -> str:
        return re.sub("<dc:date>.*</dc:date>", "", file.read_text())

    assert drawn(one) == drawn(other)


def test_the_cost_is_that_of_the_shortest_search_with_a_score(store: Store) -> None:
    record(store, [("completed", 0.3, 20.0, None)], name="x-random-7", seed=7)
    record(store, [("failed", None, 1.0, None)], name="x-random-8", seed=8)
    record(store, [], name="x-evolution-8", seed=8, controller="evolution")
    code, out, err = nas("compare", "x", "-f", "json")
    assert code == 0
    left_out = "'x-random-8' (completed), 'x-evolution-8' (completed)"
    assert lacking(err, "20 s of worker time", "'x-random-7'", left_out) == []
    assert {row["cost"] for row in json.loads(out)} == {20.0}
    assert nas("compare", "x-random-8")[0] == 3


def test_what_is_not_complete_may_be_left_out(store: Store) -> None:
    """An interrupted search would cut all others to its 5 s."""
    close(store, record(store, [("completed", 0.3, 5.0, None)], name="x-random-7", seed=7), "interrupted")
    whole, complete = (
        json.loads(nas("compare", "x", *options, "-f", "json")[1]) for options in ((), ("--complete",))
    )
    assert {row["cost"] for row in whole} == {5.0}
    assert {row["cost"] for row in complete} == {30.0}
    assert [row["searches"] for row in complete] == [4, 4]
    err = nas("compare", "x")[2]
    assert "`nas resume x-random-7`" in err
    assert "--complete" in err
    assert "'x-random-7' (interrupted)" in nas("compare", "x", "--complete")[2]
    assert nas("compare", "x-random-7", "--complete")[0] == 3
    assert nas("plot", "x", "--complete", "--text")[0] == 0


@pytest.mark.parametrize(("reused", "remedy"), [(5, True), (0, False)])
def test_searches_cut_short_by_one_that_reused_its_trials(store: Store, reused: int, remedy: bool) -> None:
    trials: list[Trial] = [("reused", 0.1, 0.0, None)] * reused + [("completed", 0.3, 10.0, None)] * (
        9 - reused
    )
    record(store, [("completed", 0.2, 10.0, None)] * 9, name="y-random")
    record(store, trials, name="y-evolution", controller="evolution")
    err = nas("compare", "y")[2]
    lost = lacking(err, "5 of all 18 trials", "5 of its 9 trials", "max_seconds")
    assert len(lost) == (0 if remedy else 3)


@pytest.mark.parametrize(("searches", "told"), [(2, False), (3, False), (4, True)])
def test_too_few_searches_to_tell_a_difference(searches: int, told: bool) -> None:
    """Of 3 against 3 the smallest p is 2 / 20, of 4 against 4 it is 2 / 70."""
    names = [f"x-{controller}-{seed}" for controller in ("random", "evolution") for seed in range(searches)]
    assert ("Too few searches" in nas("compare", *names)[2]) is not told


def test_the_baseline_that_lacks_is_as_long(store: Store) -> None:
    texts = [f"{depth}.0.0.0.0.0.0.0.0.0.0" for depth in range(2)]
    row = record(store, MIXED, name="y", controller="evolution")
    store.acquire(row.id, total=row.trials + 3)
    store.release(row.id, "completed")
    for seed, trained in enumerate(texts):
        record_one_shot(
            store,
            Trained([(trained, 0.9)]),
            dict.fromkeys(texts[: seed + 1], ("completed", 0.5)),
            name=f"z-{seed}",
            controller="darts",
            seed=seed,
        )
    assert " --set=trials=12 " in f"{nas('compare', 'y')[2]} "
    alone = nas("compare", "z")[2]
    assert "--set=max_seconds=12 " in alone
    assert "--set=seed=1" in alone


def test_machines_are_told(store: Store) -> None:
    err = nas("compare", "x")[2]
    assert lacking(err, "auto, 1 thread a trial") == []
    machine = {"processor": "Xeon", "instructions": "AVX2", "torch": "2.13.0", "precision": "auto"}
    record(store, MIXED, name="x-random-4", seed=4, environment=machine)
    err = nas("compare", "x")[2]
    assert lacking(err, "2 kinds of machines", "Xeon, AVX2, torch 2.13.0 ('x-random-4')") == []


def test_searches_that_ended_early_are_named(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nas.comparison.curves.REPEATS", 3)
    known: list[Trial] = [("completed", 0.3, 4.0, None), *[("reused", 0.3, 0.0, None)] * 3]
    record(store, [("completed", 0.4, 20.0, None)], name="y-random", max_seconds=20)
    for seed in range(5):
        record(store, known, name=f"y-rnn-{seed}", seed=seed, controller="rnn", max_seconds=20)
    code, out, err = nas("compare", "y", "-f", "json")
    assert code == 0
    early = "'y-rnn-0' (4 s), 'y-rnn-1' (4 s), 'y-rnn-2' (4 s) and 2 more"
    assert lacking(err, "20 s of worker time", "'y-random'", early) == []
    assert [(row["group"], row["searches"]) for row in json.loads(out)] == [("random", 1), ("rnn", 5)]


def test_each_group_looks_for_its_baseline_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    real = baselines.baseline
    monkeypatch.setattr(
        baselines, "baseline", lambda groups, group: asked.append(group) or real(groups, group)
    )
    assert nas("compare", "x")[0] == 0
    assert [group.label for group in asked] == ["random", "evolution"]


def test_an_ambiguous_baseline_is_said(store: Store) -> None:
    record(store, MIXED, name="y", trials=5)
    _, out, err = nas("compare", "x", "y", "-f", "json")
    assert lacking(err, "evolution", "'random trials=9'", "2 groups") == []
    rows = {row["group"]: row for row in json.loads(out)}
    assert rows["evolution"]["baseline"] == "random trials=9"
    assert rows["random trials=5"]["baseline"] is None


def test_supernets_are_reported(store: Store) -> None:
    a, b, c = (f"{depth}.0.0.0.0.0.0.0.0.0.0" for depth in range(3))
    for seed, ended in enumerate((None, "The derived architecture has 5 skip connections.")):
        record_scratch(
            store,
            {a: ("completed", 0.1), b: ("completed", 0.2), c: ("completed", 0.3)},
            name=f"y-r-{seed}",
            seed=seed,
        )
        record_one_shot(
            store,
            Trained(
                [(a, 0.9), (b, 0.8), (c, 0.7)],
                skips=[1, 4 + seed],
                ended=ended,
                sampled={a: 0.5, b: 0.6, c: 0.7},
            ),
            {text: ("completed", 0.5 + (0.5 - seed) * n / 4) for n, text in enumerate((a, b, c))},
            name=f"y-darts-{seed}",
            seed=seed,
            controller="darts",
        )
    code, out, err = nas("compare", "y")
    assert code == 0
    head, *rows = (line.split() for line in out.splitlines())
    cells = {row[0]: dict(zip(head, row, strict=True)) for row in rows}
    assert (cells["darts"]["rho"], cells["darts"]["pairs"]) == ("0.0000", "6")
    assert (cells["darts"]["rho_random"], cells["darts"]["pairs_random"]) == ("1.0000", "6")
    assert (cells["random"]["rho"], cells["random"]["pairs"]) == ("-", "-")
    ranks, skips = "-1.00 of n = 3 (seed 0), 1.00 of n = 3 (seed 1)", "4 (seed 0), 5 (seed 1)"
    reason = "The derived architecture has 5 skip connections."
    assert lacking(err, f"darts: rho {ranks}", "darts: skip connections", skips, "seed 1", reason) == []
    rows = json.loads(nas("compare", "y", "-f", "json")[1])
    [darts] = [row for row in rows if row["group"] == "darts"]
    assert [(one["seed"], one["pairs"], one["ended_early"]) for one in darts["supernets"]] == [
        (0, 3, None),
        (1, 3, reason),
    ]
    printed = nas("compare", "y", "-f", "csv")[1]
    assert "supernets" not in next(csv.reader(io.StringIO(printed)))
    assert reason not in nas("compare", "y-darts-0")[2]


@pytest.mark.parametrize(
    ("derived", "why"), [([0.9, 0.8, 0.7], False), ([0.9, 0.8], True), ([0.9, 0.9, 0.9], True)], ids=str
)
def test_a_missing_rank_correlation_is_explained(store: Store, derived: list[float], why: bool) -> None:
    texts = [f"{depth}.0.0.0.0.0.0.0.0.0.0" for depth in range(len(derived))]
    record_one_shot(
        store,
        Trained(list(zip(texts, derived, strict=True))),
        {text: ("completed", 0.1 * n) for n, text in enumerate(texts)},
        name="darts",
        controller="darts",
    )
    assert ("rho -:" in nas("compare", "darts")[2]) is why
    assert "rho -:" not in nas("compare", "x")[2]


def test_seconds_of_a_table_are_simulated(store: Store) -> None:
    record(store, MIXED, name="y", **LOOKED_UP)
    assert lacking(nas("compare", "y")[2], "30 s of simulated time", "'y'") == []


def test_what_is_unusual_is_said(store: Store) -> None:
    record(store, MIXED, name="y-random-0", seed=0)
    row = record(store, MIXED, name="x-random-9", seed=9)
    store.acquire(row.id)
    store.release(row.id, "interrupted")
    code, _, err = nas("compare", "x", "y")
    assert code == 0
    assert lacking(err, "y-random-0", "'x-random-9' (interrupted)", "nas resume x-random-9") == []


def test_bad_input(store: Store) -> None:
    assert nas("compare", "nobody")[0] == 3
    record(store, MIXED, name="other", tasks={"name": "sinusoid", "shots": 2})
    code, _, err = nas("compare", "x-random-0", "other")
    assert (code, lacking(err, "tasks.shots", 10, 2)) == (2, [])


def test_a_plugin_of_the_folder_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NAS_DB", f"sqlite:///{tmp_path}/own.db")
    monkeypatch.setattr(sys, "path", [*sys.path])
    Path("own_toy.py").write_text("from nas.testing.toys import Toy\n\n\nclass Own(Toy):\n    pass\n")
    options = [option for option in SCRIPTED if not option.startswith("--space")]
    assert nas("run", "--space=own_toy:Own", *options, "--trials=2", "--name=s")[0] == 0
    sys.path.remove(str(tmp_path))  # as in the process of another command
    del sys.modules["own_toy"]
    code, out, _ = nas("compare", "s", "-f", "json")
    assert code == 0
    assert [row["group"] for row in json.loads(out)] == ["evolution"]
    Path("own_toy.py").unlink()
    del sys.modules["own_toy"]
    assert nas("compare", "s", "-f", "json")[1] == out
