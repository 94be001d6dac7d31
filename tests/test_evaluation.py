"""Evaluations at a full budget: statistics against numpy, training against an uninterrupted one."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nas.checkpoint import VERSIONS, Checkpoint
from nas.controller import Measurement, Score, State
from nas.errors import ConfigError, NotFound
from nas.evaluation import work
from nas.evaluation.artifacts import folder, locate
from nas.evaluation.config import EvaluationConfig, FullBudget, validate
from nas.evaluation.ranking import rank
from nas.evaluation.references import SpaceReference, TrialReference, parse
from nas.evaluation.results import compare, compared, summarize
from nas.evaluation.selection import Selection
from nas.evaluation.statistics import student_t
from nas.evaluation.targets import Targets
from nas.evaluation.work import Curve, Failure, Job, Report, reports
from nas.leaderboard import Query
from nas.scoring import episode_scores, mean_ci95
from nas.storage.evaluations import Origin, Trained
from nas.storage.schema import Evaluation, EvaluationState
from nas.storage.store import Store
from nas.tasks.base import Episode, Split, TaskSource
from nas.testing.evaluations import CONFIG, claim, trained
from nas.testing.stores import begin, outcome, search
from nas.training import start

BUDGET = {
    "train_episodes": 12,
    "validate_every": 3,
    "patience": 0,
    "validation_episodes": 5,
    "test_episodes": 1000,
}
SINUSOID = {
    "space": "mlp",
    "tasks": {"name": "sinusoid", "shots": 2, "queries": 2},
    "learner": {"name": "maml", "inner_lr": 0.01, "meta_batch": 2},
    "budget": BUDGET,
}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(f"sqlite:///{tmp_path}/nas.db") as store:
        yield store


def configure(**changes: Any) -> EvaluationConfig:
    return validate(SINUSOID | changes)


def job(tmp_path: Path, config: EvaluationConfig | None = None, **changes: Any) -> Job:
    asked: dict[str, Any] = {"id": 1, "name": "one", "architecture": "maml", "seed": 0}
    return Job(**(asked | {"config": config or configure(), "folder": tmp_path} | changes))


def sources(job: Job) -> TaskSource:
    return job.config.make_tasks()


def ended(found: Sequence[Report]) -> Trained:
    assert isinstance(found[-1], Trained), found[-1]
    return found[-1]


# Statistics


@pytest.mark.parametrize(
    ("freedom", "quantile"),
    [(1, 12.7062), (2, 4.3027), (3, 3.1824), (4, 2.7764), (9, 2.2622), (30, 2.0423), (120, 1.9799)],
)
def test_student_s_quantiles_are_those_of_the_tables(freedom: int, quantile: float) -> None:
    assert student_t(freedom) == pytest.approx(quantile, abs=5e-5)


def record(store: Store, scores: Any, **changes: Any) -> list[Evaluation]:
    """Record the test scores `[seeds, episodes]` of an architecture; NaN for a seed that failed."""
    rows = []
    for seed, run in enumerate(np.asarray(scores)):
        row = claim(store, seed=seed, **changes)
        if np.isnan(run).any():
            store.evaluations.fail(row.id, EvaluationState.FAILED, "no")
        else:
            store.evaluations.complete(row.id, trained(tuple(map(float, run))))
        rows.append(store.evaluations.get(row.id))
    return rows


def test_a_result_keeps_seeds_and_episodes_apart(store: Store) -> None:
    scores = np.random.default_rng(0).random((3, 40))
    result = summarize(store, record(store, scores))
    assert result is not None
    assert result.seeds == 3
    assert result.test_score == pytest.approx(scores.mean())
    spread = scores.mean(1).std(ddof=1) / math.sqrt(3)
    assert result.ci95_seeds == pytest.approx(4.302652729911275 * spread)
    assert result.ci95_episodes == pytest.approx(1.96 * scores.mean(0).std(ddof=1) / math.sqrt(40))
    assert (result.test_episodes, result.validation_score, result.normalization) == (40, 0.75, "transductive")


def test_a_single_seed_has_no_interval_over_seeds(store: Store) -> None:
    result = summarize(store, record(store, [[0.0, 1.0, 0.5]]))
    assert result is not None
    assert result.ci95_seeds is None
    assert result.ci95_episodes == pytest.approx(1.96 * 0.5 / math.sqrt(3))


def test_a_difference_is_paired_over_the_seeds_that_both_have(store: Store) -> None:
    chance = np.random.default_rng(1)
    mine, theirs = chance.random((4, 30)), chance.random((4, 30))
    mine[1], theirs[3] = np.nan, np.nan
    rows, baseline = record(store, mine), record(store, theirs, key="baseline")
    found = compare(store, rows, baseline)
    assert found is not None
    differences = (mine - theirs)[[0, 2]]
    assert found.value == pytest.approx(differences.mean())
    assert found.by_seed == pytest.approx(tuple(differences.mean(1)))
    assert found.ci95_episodes == pytest.approx(1.96 * differences.mean(0).std(ddof=1) / math.sqrt(30))
    assert found.ci95_seeds == pytest.approx(student_t(1) * differences.mean(1).std(ddof=1) / math.sqrt(2))
    result = summarize(store, rows)
    assert result is not None
    assert result.seeds == 3


def test_what_never_completed_has_no_result(store: Store) -> None:
    failed = record(store, [[np.nan], [np.nan]])
    done = record(store, [[0.0, 1.0]], key="other")
    assert summarize(store, failed) is None
    assert compare(store, done, failed) is None
    one, two = ("chain", "key", "0"), ("chain", "other", "0")
    [(result, difference)] = compared(store, {one: failed, two: done}, {two: one})
    assert (result.key, difference) == ("other", None)


# Early stopping


@settings(max_examples=200, deadline=None)
@given(values=st.lists(st.integers(0, 5), min_size=1, max_size=12), patience=st.integers(0, 4))
def test_the_first_best_weights_are_kept_and_patience_ends_it(values: list[int], patience: int) -> None:
    selection, seen = Selection(patience), []
    for number, value in enumerate(values, start=1):
        if selection.over:
            break
        seen.append(value)
        weights = {"w": torch.tensor(number)}
        state = selection.state()
        selection = Selection(patience)
        selection.restore(state)
        selection.observe(10 * number, [1.0, 2.0], Score(value, 0.1, 5), weights)
    best = seen.index(max(seen)) + 1
    assert selection.score is not None
    assert (selection.score.value, selection.episodes) == (max(seen), 10 * best)
    assert selection.weights["w"] == best
    if len(seen) < len(values):
        assert len(seen) - best == patience > 0
    for length in range(1, len(seen)):  # it did not go on after it should have ended
        before = seen[:length]
        assert not patience or length - 1 - before.index(max(before)) < patience
    assert selection.curve[0] == Measurement(10, "train_loss", 1.5)


@given(budget=st.integers(1, 50), every=st.integers(1, 60))
def test_the_last_validation_is_at_the_end_of_the_budget(budget: int, every: int) -> None:
    marks = FullBudget(train_episodes=budget, validate_every=every).validations()
    assert marks == sorted(set(marks))
    assert marks[-1] == budget
    assert all(mark % every == 0 for mark in marks[:-1])
    assert len(marks) == math.ceil(budget / every)


# What a worker does


class Logged(TaskSource):
    """Sinusoids that remember which split was asked for."""

    name = "logged"

    def __init__(self, source: TaskSource) -> None:
        self.source, self.asked = source, list[Split]()

    @property
    def shape(self) -> Any:
        return self.source.shape

    @property
    def label(self) -> str:
        return self.source.label

    def sample(self, split: Split, tasks: int, rng: np.random.Generator) -> Episode:
        self.asked.append(split)
        return self.source.sample(split, tasks, rng)

    def fingerprint(self, split: Split) -> tuple[str, str]:
        return self.source.fingerprint(split)


def test_the_test_tasks_are_seen_once_and_last(tmp_path: Path) -> None:
    tasks = Logged(configure().make_tasks())
    ended(list(reports(job(tmp_path), lambda _: tasks)))
    kinds = [(split, len(list(some))) for split, some in itertools.groupby(tasks.asked)]
    assert kinds[-1] == ("test", 1000)
    assert [split for split, _ in kinds[:-1]] == ["train", "validation"] * 4
    assert {number for split, number in kinds if split == "validation"} == {5}


def test_the_scores_are_those_of_the_best_weights(tmp_path: Path) -> None:
    """Trained again step by step, the weights at the best validation give the same scores."""
    config = configure(budget=BUDGET | {"train_episodes": 40, "validate_every": 4})
    found = list(reports(job(tmp_path, config), sources))
    result = ended(found)
    curve = {
        m.step: m.value
        for r in found
        if isinstance(r, Curve)
        for m in r.measurements
        if m.metric == "validation_score"
    }
    assert result.validation.value == max(curve.values())
    assert result.best_episodes == max(curve, key=lambda step: curve[step])
    assert result.train_episodes == 40
    assert sorted(curve) == list(range(4, 41, 4))

    space, tasks = config.make_space(), config.make_tasks()
    training = start(
        space, space.decode("maml"), tasks, config.make_learner, "auto", config.budget.train_episodes, 0
    )
    list(training.until(result.best_episodes))
    scores = episode_scores(training.learner, tasks, "test", 1000, training.arithmetic)
    assert tuple(scores) == result.scores
    assert (result.test.value, result.test.ci95) == mean_ci95(scores)
    assert result.test.split.endswith("/test")

    saved = torch.load(result.weights.uri, weights_only=True)
    mine = training.learner.state_dict()
    assert saved.keys() == mine.keys()
    assert all(torch.equal(saved[name], mine[name]) for name in mine)


@pytest.mark.parametrize("kills", [1, 4])
@pytest.mark.parametrize("patience", [0, 1])
def test_a_training_killed_anywhere_ends_as_if_it_had_not_been(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kills: int, patience: int
) -> None:
    """With a checkpoint after each step and reports in between, left at random and taken up again."""
    monkeypatch.setattr(work, "REPORT_SECONDS", -1.0)
    monkeypatch.setattr(work, "CHECKPOINT_SECONDS", -1.0)
    config = configure(budget=BUDGET | {"patience": patience})
    whole = list(reports(job(tmp_path / "whole", config), sources))
    chance = random.Random(kills)
    curve: dict[tuple[int, str], float] = {}
    broken = job(tmp_path / "broken", config)
    for last in range(kills + 1):
        torch.manual_seed(last)
        running = reports(broken, sources)
        left = len(whole) if last == kills else chance.randrange(1, 4)
        for report in itertools.islice(running, left):
            if isinstance(report, Curve):
                curve |= {(m.step, m.metric): m.value for m in report.measurements}
        running.close()
    expected = {(m.step, m.metric): m.value for r in whole if isinstance(r, Curve) for m in r.measurements}
    assert curve == expected
    assert isinstance(report, Trained)
    one, two = replace(report, seconds=0), replace(ended(whole), seconds=0)
    assert replace(one, weights=one.weights) == replace(
        two, weights=replace(two.weights, uri=one.weights.uri)
    )
    assert Path(one.weights.uri).name == Path(two.weights.uri).name


def test_a_checkpoint_that_does_not_fit_is_passed_over(tmp_path: Path) -> None:
    asked = job(tmp_path)
    expected = ended(list(reports(job(tmp_path / "whole"), sources)))
    checkpoint = Checkpoint(tmp_path, "one")
    checkpoint.save({"training": {"learner": {"w": torch.zeros(1)}}, "selection": {}})
    assert ended(list(reports(asked, sources))).scores == expected.scores
    checkpoint.path.write_bytes(b"not a checkpoint")
    assert ended(list(reports(asked, sources))).scores == expected.scores
    assert checkpoint.load() is not None
    assert checkpoint.load({**VERSIONS, "nas": "0.0.1"}) is None


def test_what_diverges_says_when_and_starts_afresh(tmp_path: Path) -> None:
    learner = {"name": "maml", "inner_lr": 1e30, "inner_steps": 3, "lr": 1e30}
    *_, last = reports(job(tmp_path, configure(learner=learner)), sources)
    assert isinstance(last, Failure)
    assert last.state == "failed"
    assert "Diverged" in last.error
    assert not Checkpoint(tmp_path, "one").path.exists()


def test_what_cannot_be_built_is_infeasible(tmp_path: Path) -> None:
    config = configure(space="nasbench201", tasks="glyphs", learner="prototypical")
    nothing = "|none~0|+|none~0|none~1|+|none~0|none~1|none~2|"
    [last] = reports(job(tmp_path, config, architecture=nothing), sources)
    assert isinstance(last, Failure)
    assert last.state == "infeasible"


# Files


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("sqlite:////data/results/nas.db", "/data/results/nas-artifacts"),
        ("sqlite:///nas.db", "nas-artifacts"),
        ("sqlite:///sub/mine.sqlite", "sub/mine-artifacts"),
        ("sqlite://", "nas-artifacts"),
        ("postgresql://me@host/nas", "nas-artifacts"),
    ],
)
def test_files_lie_beside_the_database(
    url: str, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert folder(url) == tmp_path / expected
    assert folder(url, Path("here")) == tmp_path / "here"


def test_weights_are_found_where_they_were_moved_and_known_by_their_hash(
    tmp_path: Path, store: Store
) -> None:
    result = ended(list(reports(job(tmp_path / "old"), sources)))
    row = claim(store)
    store.evaluations.complete(row.id, result)
    [weights] = store.evaluations.artifacts(row.id)
    assert locate(weights, tmp_path / "nowhere") == Path(result.weights.uri)
    (tmp_path / "old").rename(tmp_path / "new")
    moved = locate(weights, tmp_path / "new")
    assert moved.is_relative_to(tmp_path / "new")
    with pytest.raises(NotFound, match=r"no file at .*--artifacts"):
        locate(weights, tmp_path / "nowhere")
    moved.write_bytes(moved.read_bytes()[:-1])
    with pytest.raises(NotFound, match="sha256"):
        locate(weights, tmp_path / "new")


# Targets


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a-search/12", TrialReference("a-search", 12)),
        ("@last/0", TrialReference("@last", 0)),
        ("chain:conv4", SpaceReference("chain", "conv4")),
        ("chain:3x3/2:64,3x3/2:64@1", SpaceReference("chain", "3x3/2:64,3x3/2:64@1")),
        ("nas.testing.toys:Toy:0.1.2", SpaceReference("nas.testing.toys:Toy", "0.1.2")),
        ("mlp:16/2", SpaceReference("mlp", "16/2")),
        ("conv4", SpaceReference("chain", "conv4")),
        ("resnet", SpaceReference("nasbench201", "resnet")),
    ],
)
def test_references(text: str, expected: object) -> None:
    assert parse(text) == expected


@pytest.mark.parametrize("text", ["", "a-search", "a-search/", "a-search/one", "a/-1", "conv5"])
def test_what_is_no_reference_says_what_is(text: str) -> None:
    with pytest.raises(ConfigError, match=r"SPACE:ARCHITECTURE|a trial is a number"):
        parse(text)


def recorded(store: Store) -> Any:
    """Record a search of six trials of four networks, one of them infeasible."""
    config = {
        "space": {"name": "mlp"},
        "tasks": {"name": "sinusoid", "shots": 3},
        "learner": {"name": "maml", "inner_lr": 0.02},
        "resources": {"precision": "float32"},
    }
    row = search(store, name="s", space="mlp", config=config)
    space = configure().make_space()
    chance = np.random.default_rng(0)
    networks = [space.sample(chance) for _ in range(4)]
    for number, (network, score) in enumerate([(0, 0.5), (1, 0.9), (0, 0.7), (2, None), (1, 0.8), (3, 0.6)]):
        text = space.encode(networks[network])
        trial = begin(store, row, number, architecture=text, key=space.canonical(networks[network]))
        store.finish(trial, outcome(score, State.INFEASIBLE if score is None else State.COMPLETED))
    return row


def test_the_best_of_a_search_are_distinct_networks_in_order(store: Store) -> None:
    row = recorded(store)
    targets = Targets(store)
    best = targets.choose([], top=2, search="s")
    assert [target.origin for target in best] == [Origin(row.id, "s", n) for n in (1, 2)]
    assert [t.origin and t.origin.trial for t in targets.best("s", 9)] == [1, 2, 5]
    config = best[0].config
    assert (config.tasks["shots"], config.learner["inner_lr"], config.precision) == (3, 0.02, "float32")
    again = targets.choose(["s/1", "s/4", "s/2"])
    assert [target.origin and target.origin.trial for target in again] == [4, 2]
    empty = search(store, name="empty")
    with pytest.raises(NotFound, match="nas resume empty"):
        targets.best(empty.name, 1)


def test_an_architecture_takes_its_settings_from_a_search_or_from_the_user(store: Store) -> None:
    recorded(store)

    def change(values: dict[str, Any]) -> None:
        values.setdefault("tasks", {"name": "sinusoid"})["queries"] = 7
        values.setdefault("learner", {"name": "maml"})

    [like] = Targets(store, change).choose(["mlp:maml"], search="s")
    [own] = Targets(store, change).choose(["maml"])
    assert (like.config.tasks["shots"], like.config.tasks["queries"]) == (3, 7)
    assert like.config.precision == "float32"
    assert own.config.tasks["queries"] == 7
    assert own.config.tasks["shots"] != 3
    assert own.origin is like.origin is None
    assert own.settings != like.settings
    with pytest.raises(ConfigError, match=r"tasks\.name is missing"):
        Targets(store).choose(["maml"])
    with pytest.raises(ConfigError, match="prototypical"):
        Targets(store, lambda values: values.update(SINUSOID | {"learner": "prototypical"})).choose(["maml"])
    with pytest.raises(NotFound, match="no trial 99"):
        Targets(store).choose(["s/99"])


def test_the_baseline_shares_the_protocol(store: Store) -> None:
    values = SINUSOID | {"tasks": "glyphs", "learner": "prototypical"}

    def change(given: dict[str, Any]) -> None:
        given |= values | {"space": given["space"]}

    targets = Targets(store, change)
    [target] = targets.choose(["nasbench201:resnet"])
    baseline = targets.baseline("conv4", target)
    assert baseline.protocol == target.protocol
    assert baseline.settings != target.settings
    assert baseline.config.budget == target.config.budget
    assert baseline.config.space["name"] == "chain"
    with pytest.raises(ConfigError, match="--baseline s/3"):
        targets.baseline("s/3", target)


def test_a_baseline_that_the_space_s_settings_lack_has_the_defaults(store: Store) -> None:
    def change(given: dict[str, Any]) -> None:
        given |= SINUSOID | {"tasks": "glyphs", "learner": "prototypical"}
        given["space"] = {"name": "chain", "channels": [8], "layers": 1}

    targets = Targets(store, change)
    [target] = targets.choose(["chain:3x3/2:8"])
    assert targets.baseline("chain:1x1/1:8", target).config.space == target.config.space
    assert targets.baseline("conv4", target).config.space["layers"] == 4


def test_settings_hang_on_the_data_and_the_protocol_not_on_the_space() -> None:
    one, other = configure(), configure(space={"name": "mlp", "layers": 2})
    data, changed = {"test": "a"}, {"test": "b"}
    assert one.digest(data) != one.digest(changed)
    assert one.digest(data) != other.digest(data)
    assert one.digest(data, without="space") == other.digest(data, without="space")
    longer = configure(budget=BUDGET | {"train_episodes": 13})
    assert one.digest(data, without="space") != longer.digest(data, without="space")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"budget": {"test_episodes": 999}}, r"budget\.test_episodes.*1000"),
        ({"budget": {"patience": -1}}, r"budget\.patience"),
        ({"budget": {"epochs": 1}}, "'epochs'"),
        ({"precision": "float16"}, "precision"),
        ({"controller": "random"}, "setting 'controller'"),
    ],
)
def test_wrong_settings_are_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        configure(**changes)


# Ranking


def board(store: Store) -> list[dict[str, Any]]:
    """Record evaluations of many networks; return them as plain rows."""
    chance = random.Random(0)
    rows = []
    gone = search(store, name="gone")
    here = search(store, name="here")
    for number in range(30):
        asked = {"space": chance.choice(["chain", "mlp"]), "learner": chance.choice(["maml", "anil"])}
        origin = chance.choice([None, Origin(gone.id, "gone", number), Origin(here.id, "here", number)])
        config = CONFIG | {key: {"name": name} for key, name in asked.items()}
        cost = {"parameters": chance.randrange(1, 6), "macs": chance.randrange(1, 6), "seconds": 1.0 * number}
        scores = []
        seeds = chance.randrange(0, 4)
        for seed in range(seeds):
            row = claim(
                store,
                key=f"key{number}",
                architecture=f"{number}",
                seed=seed,
                config=config,
                origin=origin,
                space=asked["space"],
            )
            run = [chance.randrange(4) / 4 for _ in range(2)]
            scores.append(sum(run) / 2)
            store.evaluations.complete(row.id, trained(tuple(run), **cost))
        failed = claim(store, key=f"key{number}", seed=9, config=config, space=asked["space"])
        store.evaluations.fail(failed.id, EvaluationState.FAILED, "no")
        if seeds:
            score = sum(scores) / seeds
            found = {"score": score, "search": origin and origin.search, "number": number, "seeds": seeds}
            rows.append(asked | cost | found)
    store.delete(gone.id)
    return rows


@pytest.mark.parametrize(
    "query",
    [
        Query(limit=0),
        Query(limit=3),
        Query(searches=("gone",)),
        Query(searches=("her", "@last"), sort="parameters"),
        Query(space="mlp", learner="maml", limit=0),
        Query(tasks="glyphs 5-way 1-shot", sort="seconds"),
        Query(tasks="omniglot"),
        Query(max_parameters=3, max_macs=3, sort="macs"),
        Query(pareto=("score", "parameters"), limit=0),
        Query(pareto=("score", "macs", "seconds"), sort="macs", limit=0),
    ],
)
def test_the_test_leaderboard_is_what_brute_force_finds(store: Store, query: Query) -> None:
    rows = [
        row
        for row in board(store)
        if (not query.searches or row["search"] == ("gone" if "gone" in query.searches else "here"))
        and query.space in (None, row["space"])
        and query.learner in (None, row["learner"])
        and query.tasks != "omniglot"
        and row["parameters"] <= (query.max_parameters or 9)
        and row["macs"] <= (query.max_macs or 9)
    ]

    def point(row: dict[str, Any]) -> list[float]:
        return [float(-row[field] if field == "score" else row[field]) for field in query.pareto]

    if query.pareto:
        points = [point(row) for row in rows]
        rows = [
            row
            for row, mine in zip(rows, points, strict=True)
            if not any(
                other != mine and all(a <= b for a, b in zip(other, mine, strict=True)) for other in points
            )
        ]
    second = "parameters" if query.sort == "score" else "score"
    rows.sort(
        key=lambda row: (
            *(-row[field] if field == "score" else row[field] for field in (query.sort, second)),
            row["number"],
        )
    )
    found = rank(store, query)
    assert [(r.architecture, r.seeds) for r in found] == [
        (str(row["number"]), row["seeds"]) for row in rows[: query.limit or None]
    ]
    assert [r.test_score for r in found] == pytest.approx(
        [row["score"] for row in rows[: query.limit or None]]
    )


def test_questions_about_trials_alone_are_refused(store: Store) -> None:
    for query in (Query(controller="random"), Query(states=("failed",))):
        with pytest.raises(ConfigError, match="--stage test"):
            rank(store, query)
    with pytest.raises(NotFound, match="nas ls"):
        rank(store, Query(searches=("nothing",)))
