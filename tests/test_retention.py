"""What stays of short trainings while a search runs, and what `nas clean` deletes afterwards."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import SCRIPTED, nas
from facts import lacking, refusal

from nas.controller import Controller, Evaluate, Finish, Outcome, Score
from nas.driver.retention import Retention
from nas.errors import ConfigError
from nas.evaluator import Job
from nas.executors.output import log_of, of_evaluations
from nas.schedulers.halving import Halving
from nas.schedulers.promotion import Promotion
from nas.settings.keep import kept
from nas.states import TrialState
from nas.storage.schema import Trial
from nas.storage.store import Store
from nas.testing.toys import Toy
from nas.training.checkpoint import Checkpoint

LENGTHS, ETA, TRIALS = (10, 20, 40, 80), 2, 120
PROMOTES = ("--scheduler=promotion", "--set=scheduler.minimum=4", "--set=scheduler.eta=2")
TRAINED = ("--space=mlp", "--controller=random", "--tasks=sinusoid", "--learner=maml", "--executor=inline")
SHORT = (
    "--set=budget.train_episodes=16",
    "--set=budget.validation_episodes=4",
    "--set=learner.inner_lr=0.01",
)
TINY = ("--set=tasks.shots=2", "--set=tasks.queries=2", "--set=learner.meta_batch=4")


class Draws(Controller):
    """Proposes networks at random, and counts them."""

    def __init__(self, space: Toy, seed: int) -> None:
        self._space, self.drawn = space, 0

    def propose(self, number: int, pending: Any, rng: np.random.Generator) -> Evaluate:
        self.drawn += 1
        return Evaluate(self._space.sample(rng))

    def observe(self, number: int, outcome: Outcome) -> None: ...


def schedulers(space: Toy, inner: Draws) -> dict[str, Controller]:
    return {
        "promotion": Promotion(inner, space, LENGTHS, ETA),
        "halving": Halving(inner, space, LENGTHS, ETA, hyperband=False),
        "hyperband": Halving(inner, space, LENGTHS, ETA, hyperband=True),
    }


@pytest.mark.parametrize("workers", [1, 5])
@pytest.mark.parametrize("name", ["promotion", "halving", "hyperband"])
def test_whoever_is_promoted_was_promotable_all_along(name: str, workers: int) -> None:
    """From the end of its shorter training to its promotion; and many never are."""
    space, rng = Toy(), np.random.default_rng(workers)
    inner = Draws(space, 0)
    controller = schedulers(space, inner)[name]
    waiting: dict[str, bool] = {}
    running: list[tuple[int, Evaluate]] = []
    begun, promoted = 0, 0
    while begun < TRIALS or running:
        pending, drawn = [evaluation for _, evaluation in running], inner.drawn
        proposal = (
            controller.propose(begun, pending, rng) if begun < TRIALS and len(running) < workers else None
        )
        if isinstance(proposal, Evaluate):
            key = space.canonical(proposal.architecture)
            if inner.drawn == drawn:
                assert waiting.pop(key), key
                promoted += 1
            waiting.pop(key, None)  # drawn again, it begins anew
            running.append((begun, proposal))
            begun += 1
        else:
            assert running or isinstance(proposal, Finish)
            number, evaluation = running.pop(int(rng.integers(len(running))))
            score = Score(float(rng.random()), 0.01, 9)
            state = TrialState.COMPLETED if evaluation.episodes is None else TrialState.PAUSED
            controller.observe(
                number, Outcome(state, evaluation.architecture, score, episodes=evaluation.episodes)
            )
            if evaluation.episodes is not None:
                waiting[space.canonical(evaluation.architecture)] = True
        going = {space.canonical(evaluation.architecture) for _, evaluation in running}
        able = controller.promotable(TRIALS - begun + len(running))
        assert able is not None
        for key in waiting:
            waiting[key] &= key in able or key in going
    given_up = sum(not still for still in waiting.values())
    assert promoted > 10
    assert given_up > 10


def test_the_best_stay_and_what_runs(tmp_path: Path) -> None:
    space = Toy()
    rng = np.random.default_rng(0)
    retention = Retention(1, space.canonical)
    jobs = [Job(n, 0, space.sample(rng), 0, 0, 8, f"s-trial-{n:016x}", str(tmp_path)) for n in range(6)]
    for job, (length, score) in zip(
        jobs, [(8, 0.9), (16, 0.1), (8, 0.5), (8, 0.4), (8, 0.3), (8, 0.2)], strict=True
    ):
        Checkpoint(tmp_path, job.name).save({})
        outcome = Outcome(TrialState.PAUSED, job.architecture, Score(score, 0.0, 1), length)
        retention.add(job, outcome)

    def there() -> set[int]:
        return {int(path.stem[-16:], 16) for path in tmp_path.rglob("*.pt")}

    assert retention.due
    retention.sweep(None, ())
    assert there() == set(range(6))
    retention.sweep({space.canonical(jobs[3].architecture)}, [jobs[4]])
    assert there() == {1, 3, 4}  # the longest, what may be promoted, what runs
    assert not retention.due


def trials(db: Path, name: str) -> list[Trial]:
    with Store(f"sqlite:///{db}") as store:
        return store.trials(store.search(name).id)


def test_a_search_that_keeps_the_best_finds_the_same(
    db: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every promotion goes on from its shorter training, with fewer files."""
    files: list[int] = []
    swept = Retention.sweep

    def counted(self: Retention, *arguments: Any) -> None:
        swept(self, *arguments)
        files.append(len([*tmp_path.rglob("*-trial-*.pt")]))

    monkeypatch.setattr(Retention, "sweep", counted)
    run = ("run", *TRAINED, *SHORT, *TINY, *PROMOTES, "--trials=14")
    assert nas(*run, "--name=all")[0] == 0
    assert files == []
    code, _, err = nas(*run, "--name=best", "--keep=top:1")
    assert code == 0, err
    every, best = trials(db, "all"), trials(db, "best")
    told = [(t.architecture, t.asked_episodes, t.continued_episodes, t.score) for t in best]
    assert told == [(t.architecture, t.asked_episodes, t.continued_episodes, t.score) for t in every]
    assert any(t.continued_episodes for t in best)
    short = {t.architecture for t in best if t.asked_episodes is not None}
    assert 0 < files[-1] < len(short)
    assert [*tmp_path.rglob("*.pt")] == []


@pytest.mark.parametrize("keep", ["top:0", "top:-1", "top", "none", "top:1.5", ""])
def test_what_is_no_number_of_the_best_is_refused(db: Path, keep: str) -> None:
    with refusal(ConfigError, "all", "top:8"):
        kept(keep)
    for words in (("run", *TRAINED, *PROMOTES, f"--keep={keep}"), ("clean", "s", f"--keep={keep}", "--yes")):
        code, _, err = nas(*words)
        assert (code, lacking(err, "keep", "top:8")) == (2, [])


def test_where_nothing_is_left_nothing_can_be_kept(db: Path) -> None:
    code, _, err = nas("run", *SCRIPTED, "--keep=top:2")
    assert (code, lacking(err, "keep", "--scheduler")) == (2, [])
    code, _, err = nas("run", *SCRIPTED, "--scheduler=asha", "--keep=top:2")
    assert code == 2


@pytest.mark.usefixtures("few_test_tasks")
def test_what_nothing_needs_is_deleted_when_asked(db: Path, tmp_path: Path) -> None:
    scripted = [option for option in SCRIPTED if not option.startswith("--space")]
    made = ("--space=mlp", *scripted, "--set=learner.inner_lr=0.01", "--set=learner.meta_batch=4")
    assert nas("run", *made, "--name=s", "--trials=4")[0] == 0
    budget = ("--train-episodes=8", "--validate-every=4", "--validation-episodes=4", "--seeds=1")
    ask = ("evaluate", "--top=2", "--search=s", *budget, "--executor=inline", "-f", "json")
    code, out, err = nas(*ask)
    assert code == 0, err
    best = max(json.loads(nas("leaderboard", "--search=s", "-f", "json")[1]), key=lambda row: row["score"])

    def there() -> dict[str, int]:
        folder = tmp_path / "nas-artifacts"
        return {kind: len([*(folder / kind).glob("*.pt")]) for kind in ("lineages", "weights")}

    assert there() == {"lineages": 2, "weights": 2}
    weights = next((tmp_path / "nas-artifacts" / "weights").glob("*.pt"))
    group = of_evaluations(tmp_path / "nas-artifacts")
    group.mkdir(parents=True)
    for job in (weights.stem.rpartition("-")[0], "another"):
        Path(log_of(group, job, 0)).write_text(f"words of {job}\n")
    code, told, err = nas("logs", "s")
    assert (code, lacking(err, "evaluation of s/", "seed 0, attempt 0")) == (0, [])
    assert (told.count("words of"), told.count("another")) == (1, 0)
    code, _, err = nas("clean", "s")
    assert (code, lacking(err, "3 files", "2 of lineage", "1 of log", "--yes")) == (2, [])
    assert there()["lineages"] == 2
    assert nas("clean", "s", "--yes")[0] == 0
    assert [path.name for path in group.iterdir()] == ["another.0.log"]
    assert there() == {"lineages": 0, "weights": 2}
    assert nas("clean", "s", "--keep=top:2", "--yes")[0] == 0
    assert there()["weights"] == 2
    assert nas("clean", "s", "--keep=top:1", "--yes")[0] == 0
    assert there()["weights"] == 1
    with Store(f"sqlite:///{db}") as store:
        rows = store.evaluations.of_search(store.search("s").id)
        [left] = [
            row
            for row, *_ in rows
            for file in store.evaluations.artifacts(row.id)
            if Path(file.uri).is_file()
        ]
    assert left.origin_trial == best["trial"]
    again = nas(*ask)
    assert (json.loads(again[1]), "--lost-weights" in again[2]) == (json.loads(out), True)


@pytest.mark.usefixtures("few_test_tasks")
def test_what_another_search_needs_stays(db: Path, tmp_path: Path) -> None:
    """Weights of what is the best there, and the lineage that an evaluation of it would go on from."""
    scripted = [option for option in SCRIPTED if not option.startswith(("--space", "--controller"))]
    made = ("--space=mlp", *scripted, "--set=learner.inner_lr=0.01", "--set=learner.meta_batch=4")
    assert nas("run", *made, "--controller=evolution", "--name=s", "--trials=4")[0] == 0
    budget = ("--validate-every=4", "--validation-episodes=4", "--seeds=1", "--executor=inline")
    assert nas("evaluate", "--top=2", "--search=s", "--train-episodes=8", *budget)[0] == 0
    with Store(f"sqlite:///{db}") as store:
        rows = {row.id: row for row, *_ in store.evaluations.of_search(store.search("s").id)}
    second = min(rows.values(), key=lambda row: trials(db, "s")[row.origin_trial or 0].score or 0)
    fixed = ("--controller=fixed", f"--set=controller.architectures={json.dumps([second.architecture])}")
    assert nas("run", *made, *fixed, "--name=t", "--trials=1")[0] == 0
    assert nas("evaluate", "t/0", "--train-episodes=12", *budget)[0] == 0
    lineages = len([*tmp_path.rglob("lineages/*.pt")])
    with closing(sqlite3.connect(db)) as connection, connection:
        changed = connection.execute("UPDATE evaluations SET state = 'interrupted' WHERE origin_search = 't'")
        assert changed.rowcount == 1
    assert nas("clean", "s", "--keep=top:1", "--yes")[0] == 0
    assert len([*tmp_path.rglob("lineages/*.pt")]) == lineages - 1
    with Store(f"sqlite:///{db}") as store:
        for row in rows:
            [file] = store.evaluations.artifacts(row)
            assert Path(file.uri).is_file()


def test_a_search_that_runs_is_not_cleaned(db: Path) -> None:
    from nas.testing.stores import another_driver, search

    with Store(f"sqlite:///{db}", create=True) as store:
        row = search(store, name="s")
        with another_driver():
            store.acquire(row.id)
            code, _, err = nas("clean", "s", "--yes")
    assert (code, lacking(err, "nas stop s")) == (2, [])
