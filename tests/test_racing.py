"""Races among finalists, and what a search recommends: decisions by hand, and how often they are right."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from itertools import product
from statistics import fmean, median
from typing import Any

import numpy as np
import pytest
from command_line import nas
from facts import lacking
from grids import rest_slow
from scripted_searches import Dying, Killed, configure, killed, reopen, results, run, start

from nas.answer import Level, Levels, Singles, levels
from nas.controller import Evaluate, Outcome, Score
from nas.driver.ledger import Ledger
from nas.driver.trials import Trials, executor
from nas.errors import ConfigError
from nas.executors.base import Executor, Workload
from nas.executors.worker import reports
from nas.queries.answer import answer, words
from nas.racing import Race, Racing
from nas.settings.search import SearchConfig
from nas.space import Architecture
from nas.states import TrialState
from nas.storage.store import Store
from nas.testing.stores import begin, outcome, search
from nas.testing.toys import Toy

TOY = Toy(layers=1)
NETWORKS = [Architecture("toy", (0, width, act, 0)) for width in range(4) for act in range(2)]


def ended(architecture: Architecture, value: float | None, repeat: int = 0) -> Outcome:
    if value is None:
        return Outcome(TrialState.FAILED, architecture, repeat=repeat)
    return Outcome(TrialState.COMPLETED, architecture, Score(value, 0.1, 10), 300, repeat=repeat)


def texts(many: int) -> list[str]:
    """Return so many networks, as text."""
    rng, found = np.random.default_rng(0), dict[str, str]()
    while len(found) < many:
        drawn = Toy().sample(rng)
        found.setdefault(Toy().canonical(drawn), Toy().encode(drawn))
    return list(found.values())


def raced(
    settings: Racing, score: Callable[[Architecture, int], float | None], workers: int = 1
) -> list[tuple[Architecture, int]]:
    """Run a race whose first scores are those of the networks' numbers, negated; return its trainings."""
    race, asked, pending = Race(settings, TOY), list[tuple[Architecture, int]](), list[Evaluate]()
    for number, architecture in enumerate(NETWORKS):
        race.observe(number, ended(architecture, -number))
    while True:
        job = race.propose(pending) if len(pending) < workers else None
        if job is not None:
            pending.append(job)
            asked.append((job.architecture, job.repeat))
        elif pending:
            done = pending.pop(0)
            value = score(done.architecture, done.repeat)
            race.observe(100 + len(asked), ended(done.architecture, value, done.repeat))
        else:
            return asked


class Two(Executor):
    """Runs two jobs at a time, in this process: the older one ends first."""

    def __init__(self, config: SearchConfig) -> None:
        self._runner = Trials(config, config.make_source())

    def run(self, workload: Workload) -> None:
        jobs: list[Any] = []
        while True:
            while len(jobs) < 2 and not workload.done and (job := workload.next()) is not None:
                jobs.append(job)
            if not jobs:
                return
            for report in reports(self._runner, done := jobs.pop(0)):
                (workload.finish if report.final else workload.report)(done, report)


def test_a_clear_race_ends_after_two_rounds() -> None:
    levels_ = dict(zip(NETWORKS, [1.0, 5.0, 2.0, 0.0, 9.0, 9.0, 9.0, 9.0], strict=True))
    found = raced(Racing(finalists=3), lambda a, repeat: levels_[a] + repeat / 1000)
    assert found == [(architecture, repeat) for repeat in (1, 2) for architecture in NETWORKS[:3]]


def test_equal_networks_race_to_the_end() -> None:
    rng = np.random.default_rng(0)
    settings = Racing(finalists=2, max_repeats=5)
    found = raced(settings, lambda a, repeat: float(rng.normal()))
    assert len(found) == 10


def test_who_fails_is_dropped_and_a_race_of_one_is_none() -> None:
    found = raced(Racing(finalists=2), lambda a, repeat: None if a == NETWORKS[0] else 1.0)
    assert [repeat for _, repeat in found] == [1, 1, 2, 2]
    race = Race(Racing(), TOY)
    race.observe(0, ended(NETWORKS[0], 0.5))
    assert race.propose(()) is None


@pytest.mark.parametrize("workers", [2, 5])
def test_with_several_workers_the_same_is_trained(workers: int) -> None:
    def score(architecture: Architecture, repeat: int) -> float:
        return float(np.random.default_rng([NETWORKS.index(architecture), repeat]).normal())

    settings = Racing(finalists=4, max_repeats=6)
    assert sorted(raced(settings, score, workers), key=str) == sorted(raced(settings, score), key=str)


@pytest.mark.slow
def test_a_race_seldom_drops_the_best() -> None:
    """Levels differ by half of the noise: the best is dropped in less than 5 % of the races."""
    rng, dropped, trainings = np.random.default_rng(0), 0, 0
    for _ in range(150):
        found = raced(
            Racing(finalists=3, max_repeats=6),
            lambda a, repeat: -0.5 * NETWORKS.index(a) + float(rng.normal()),
        )
        last = max(repeat for _, repeat in found)
        dropped += (NETWORKS[0], last) not in found
        trainings += len(found)
    assert dropped / 150 <= 0.05
    assert trainings < 150 * 18


def test_a_search_races_and_resumes(store: Store) -> None:
    changes: dict[str, Any] = {"racing": {"finalists": 3, "max_repeats": 4}, "trials": 12}
    config = configure(name="whole", **changes)
    whole = run(store, config)
    trials = store.trials(store.search("whole").id)
    own, further = trials[:12], trials[12:]
    assert {trial.kind for trial in own} == {"evaluate"}
    assert {trial.kind for trial in further} == {"race"}
    best = sorted((t for t in own if t.state == "completed"), key=lambda t: -(t.score or 0.0))[:3]
    assert {trial.architecture for trial in further} == {trial.architecture for trial in best}
    assert {trial.repeat for trial in further} <= {1, 2, 3, 4}
    broken = configure(name="broken", **changes)
    assert killed(store, broken, 14) == whole
    assert [summary.best for summary in store.searches()] == [best[0].score] * 2
    extended = reopen(store, "broken", more=3)
    assert extended.run(executor(broken, broken.make_tasks())) == "completed"
    assert sum(trial.kind == "evaluate" for trial in store.trials(store.search("broken").id)) == 15


@pytest.mark.parametrize("controller", ["random", "fixed"])
def test_an_extended_search_proposes_what_it_would_have_proposed_without_a_race(
    store: Store, controller: str
) -> None:
    given = {"architectures": texts(8)} if controller == "fixed" else {}
    changes: dict[str, Any] = {"controller": {"name": controller, **given}, "deduplicate": False}
    run(store, configure(name="plain", trials=8, **changes))
    config = configure(name="raced", trials=4, racing={"finalists": 2, "max_repeats": 3}, **changes)
    run(store, config)
    reopen(store, "raced", more=4).run(executor(config, config.make_tasks()))
    rows = store.trials(store.search("raced").id)
    own = [row.architecture for row in rows if row.kind == "evaluate"]
    assert own == [architecture for _, _, architecture, *_ in results(store, "plain")]
    assert len(rows) > len(own)


@pytest.mark.parametrize(("name", "trials"), [("halving", 27), ("promotion", 17)])
def test_a_search_extended_amid_a_race_promotes_as_without(store: Store, name: str, trials: int) -> None:
    """The race goes on while the controller proposes, which does not hear of it."""
    changes: dict[str, Any] = {
        "scheduler": {"name": name, "minimum": 30, "eta": 3},
        "racing": {"finalists": 2, "max_repeats": 2},
        "controller": "random",
        "trials": trials,
    }
    own = {}
    for kill in (None, trials + 1):
        config = configure(name=f"killed-{kill}", **changes)
        if kill is None:
            run(store, config)
        else:
            with pytest.raises(Killed):
                start(store, config).run(Dying(config, kill))
        reopen(store, f"killed-{kill}", more=9).run(Two(config))
        rows = store.trials(store.search(f"killed-{kill}").id)
        own[kill] = [(row.architecture, row.asked_episodes) for row in rows if row.kind == "evaluate"]
    assert own[trials + 1] == own[None]


def test_a_race_does_not_begin_a_search_again_that_has_no_more_to_try(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two networks in turn: enough known ones end the search; a race is no reason to go on."""
    monkeypatch.setattr("nas.driver.ledger.REPEATS", 40)
    given = {"name": "fixed", "architectures": texts(2)}
    racing = {"finalists": 2, "max_repeats": 2}
    run(store, configure(name="x", controller=given, trials=5, max_seconds=1e9, racing=racing))
    assert Counter(trial.kind for trial in store.trials(store.search("x").id)) == {
        "evaluate": 2 + 40,
        "race": 4,
    }


def test_failures_of_a_race_are_a_share_of_all_trainings(store: Store) -> None:
    """Three of 4 + 16 trainings fail: that is less than half of them."""
    racing = {"finalists": 4, "max_repeats": 8}
    faults = {"name": "nas.testing.evaluators:Scripted", "faults": dict.fromkeys((4, 5, 6), "raise")}
    changes: dict[str, Any] = {"evaluator": faults, "retries": 0, "racing": racing, "trials": 4}
    run(store, configure(name="x", **changes))
    assert store.search("x").state == "completed"


def test_what_is_infeasible_is_told_as_a_share_of_the_trials_before_the_race() -> None:
    ledger = Ledger(configure(racing={}), 2)
    ledger.add(0, Outcome(TrialState.INFEASIBLE, TOY.default, error="too large"))
    ledger.add(1, ended(TOY.default, 0.5))
    ledger.add(2, ended(TOY.default, 0.5, repeat=1), race=True)
    assert lacking(ledger.infeasible or "", "1 of 2 trials", "too large") == []


def test_what_cannot_race_is_refused() -> None:
    with pytest.raises(ConfigError, match="racing"):
        configure(racing={}, objective=["score", "macs"])


# The answer


def estimated(scores: list[list[float]], widths: list[float]) -> tuple[Levels, list[Level]]:
    """Return what is estimated from the scores of candidates, and the level of each."""
    center = median(own[0] for own in scores)
    single = [own[0] for own in scores if len(own) == 1]
    better = [score - center for score in single if score > center]
    widths2 = fmean(width**2 for width in widths) if widths else math.nan
    summed = Singles(len(single), len(better), sum(value**2 for value in better), widths2)
    found = levels([own for own in scores if len(own) > 1], summed, center)
    return found, [found.level(own) for own in scores]


def test_levels_by_hand() -> None:
    """Two seeds each give the noise, the better half the spread: means 4 and 3 are 2 and 1 off the middle.

    With as many scores of each there is a closed form: 0.5 / 4 is the noise, (2² + 1²) / 2 the spread and
    half of the noise.
    """
    found, candidates = estimated([[4.5, 3.5], [3.0, 3.0], [1.0, 1.0], [0.0, 0.0]], [])
    assert (found.freedom, found.center) == (4, 2.0)
    assert found.noise**2 == pytest.approx(0.125)
    weight = 1 - 0.0625 / 2.5
    means = [candidate.mean for candidate in candidates[:2]]
    assert means == pytest.approx([2 + 2 * weight, 2 + weight])
    alone, candidates = estimated([[4.0], [3.0]], [1.96, 1.96])
    assert (alone.noise, alone.freedom, candidates[0].mean) == (1.0, None, 4.0)
    assert alone.beats(*candidates) == pytest.approx(0.76025, abs=1e-5)
    unknown, candidates = estimated([[4.0], [3.0]], [])
    assert unknown.beats(*candidates) is None


def test_the_variances_are_the_most_likely() -> None:
    """Of a normal distribution of all scores of a candidate, with the covariance written out."""
    rng = np.random.default_rng(0)
    scores = [
        rng.normal(level, 1, seeds).tolist() for level, seeds in zip(range(9), [1, 2, 4] * 3, strict=True)
    ]
    found, _ = estimated(scores, [])

    def likelihood(noise: float, spread: float) -> float:
        total = 0.0
        for own in scores:
            x, n = np.array(own), len(own)
            if own[0] <= found.center:  # of these, how the scores differ
                x, n = np.diff(x), n - 1
                covariance = noise**2 * (2 * np.eye(n) - np.eye(n, k=1) - np.eye(n, k=-1))
            else:
                x, covariance = x - found.center, noise**2 * np.eye(n) + spread**2
            if n:
                total -= (np.linalg.slogdet(covariance)[1] + x @ np.linalg.solve(covariance, x)) / 2
        return total

    best = likelihood(found.noise, found.spread)
    for noise, spread in ((0.99, 1), (1.01, 1), (1, 0.99), (1, 1.01), (1.01, 1.01), (0.99, 1.01)):
        assert likelihood(noise * found.noise, spread * found.spread) < best


@pytest.mark.parametrize(("spread", "seeds"), rest_slow(product([0.5, 2.0], [1, 4]), [(0.5, 4)]))
def test_the_probability_is_how_often_it_is_right(seeds: int, spread: float) -> None:
    """Over 400 simulated searches of 30 candidates, of which the best four have several seeds."""
    rng, claimed, right, luck, off = np.random.default_rng(1), [], [], [], []
    for _ in range(400):
        level = rng.normal(0, spread, 30)
        scores = [[float(value)] for value in level + rng.normal(size=30)]
        for place in np.argsort([-own[0] for own in scores])[:4]:
            scores[place] += (level[place] + rng.normal(size=seeds - 1)).tolist()
        found, candidates = estimated(scores, [1.96] * 30)
        first, second = sorted(range(30), key=lambda i: -candidates[i].mean)[:2]
        chance = found.beats(candidates[first], candidates[second])
        assert chance is not None
        claimed.append(chance)
        right.append(level[first] > level[second])
        luck.append(candidates[first].observed - level[first])
        off.append(candidates[first].mean - level[first])
    assert fmean(claimed) == pytest.approx(fmean(right), abs=0.05)
    assert abs(fmean(off)) < (0.2 if seeds == 1 else 0.1)
    if seeds == 1:
        shrunk = fmean(luck)
        assert shrunk > 0.5  # the best of single draws is too good by that much of the noise


def few_good(rng: np.random.Generator, count: int) -> Any:
    """Return levels of which most are bad, and about a fifth are good."""
    return np.where(rng.random(count) < 0.8, rng.normal(0, 0.3, count), rng.normal(3, 0.5, count))


@pytest.mark.parametrize(
    "draw", [lambda rng, count: rng.normal(size=count), few_good], ids=["normal", "few_good"]
)
def test_no_more_is_claimed_over_a_baseline_than_is_true(draw: Callable[..., Any]) -> None:
    """Over 300 simulated searches of 24 candidates, whose best four have five seeds; a baseline has three.

    The baseline's level is among the best fifth. Its mean is not shrunk, so that it is too good where it was
    lucky; what is claimed over it is right at least so often.
    """
    rng, claims, runners_up = np.random.default_rng(2), [], []
    for _ in range(300):
        level = draw(rng, 24)
        scores = [[float(value)] for value in level + rng.normal(size=24)]
        for place in np.argsort([-own[0] for own in scores])[:4]:
            scores[place] += (level[place] + rng.normal(size=4)).tolist()
        bar = float(np.quantile(draw(rng, 1000), rng.uniform(0.8, 0.99)))
        found, candidates = estimated(scores, [])
        first, second = sorted(range(24), key=lambda i: -candidates[i].mean)[:2]
        winner, given = candidates[first], found.alone((bar + rng.normal(size=3)).tolist())
        claims.append((found.beats(winner, given), level[first] > bar))
        runners_up.append((found.beats(winner, candidates[second]), level[first] > level[second]))
    claimed, right = map(np.array, zip(*claims, strict=True))
    assert right.mean() > claimed.mean()
    sure = (claimed > 0.7) & (claimed < 0.97)
    assert sure.sum() > 60
    assert right[sure].mean() > claimed[sure].mean() - 0.05
    claimed, right = map(np.array, zip(*runners_up, strict=True))
    assert claimed.mean() == pytest.approx(right.mean(), abs=0.05)


def test_the_answer_is_not_the_luckiest_draw(store: Store) -> None:
    row = search(store)
    draws = {"a": [0.90], "b": [0.88, 0.89, 0.88], "c": [0.60], "d": [0.55, 0.80], "e": [0.50]}
    number = 0
    for text, values in draws.items():
        for repeat, value in enumerate(values):
            trial = begin(store, row, number, key=text, architecture=text, repeat=repeat)
            store.finish(trial, outcome(value, train_episodes=300))
            number += 1
    found = answer(store, row.name)
    assert found is not None
    assert (found.architecture, found.trial, found.seeds, found.noise_of) == ("b", 1, 3, "seeds")
    assert found.runner_up == 0
    assert found.beats_runner_up is not None
    assert 0.5 < found.beats_runner_up < 1
    assert found.expected < found.score
    assert found.baseline is None
    unknown = replace(found, noise=None)
    expected = f"{found.expected:.4f}"
    assert (expected in words(found), expected in words(unknown)) == (True, False)


@pytest.mark.parametrize(("deduplicate", "raced"), [*product([True, False], [True, False])])
def test_the_database_sums_up_what_the_answer_needs(store: Store, deduplicate: bool, raced: bool) -> None:
    """Trials of 60 networks, some under further seeds and some failed, against all scores in Python."""
    rng = np.random.default_rng(3)
    row = search(store, config={"space": {"name": "chain"}, "tasks": None, "deduplicate": deduplicate})
    scores: dict[str, dict[int, float]] = {}
    first: dict[str, int] = {}
    widths: dict[str, float] = {}
    for number in range(100 if raced else 60):
        text = str(number if deduplicate and number < 60 else int(rng.integers(60)))
        repeat = 0 if number < 60 else int(rng.integers(1, 4))
        trial = begin(store, row, number, key=text, architecture=text, repeat=repeat)
        network = Architecture("chain", (0,))
        if number % 9 == 0:
            store.finish(trial, Outcome(TrialState.FAILED, network, repeat=repeat))
            continue
        score = Score(float(rng.normal()), float(rng.uniform(0.5, 1.5)), 10)
        store.finish(trial, Outcome(TrialState.COMPLETED, network, score, repeat=repeat))
        first.setdefault(text, number)
        widths.setdefault(text, score.ci95)
        scores.setdefault(text, {}).setdefault(repeat, score.value)
    found, each = estimated([[*own.values()] for own in scores.values()], [*widths.values()])
    level = dict(zip(scores, each, strict=True))
    best, second = sorted(level, key=lambda text: (-level[text].mean, -level[text].observed))[:2]
    told = answer(store, row.name)
    assert told is not None
    assert (told.trial, told.runner_up, told.seeds) == (first[best], first[second], len(scores[best]))
    assert told.expected == pytest.approx(level[best].mean)
    assert told.noise == pytest.approx(found.noise)
    assert told.beats_runner_up == pytest.approx(found.beats(level[best], level[second]))


def test_a_given_network_of_the_same_protocol_is_the_baseline(db: Any) -> None:
    scripted = (
        "run",
        "--space=nas.testing.toys:Toy",
        "--tasks=sinusoid",
        "--learner=maml",
        "--evaluator=nas.testing.evaluators:Scripted",
        "--executor=inline",
    )
    space = Toy()
    texts = [space.encode(space.sample(np.random.default_rng(seed))) for seed in range(2)]
    given = f"--set=controller.architectures={texts}"
    assert nas(*scripted, "--controller=fixed", given, "--trials=2", "--name=base")[0] == 0
    racing = "--set=racing.finalists=2"
    code, _, err = nas(*scripted, "--controller=random", "--trials=8", "--name=found", racing)
    assert code == 0
    assert "base/" in err
    with Store(f"sqlite:///{db}") as store:
        found = answer(store, "found")
    assert found is not None
    assert found.baseline in ("base/0", "base/1")
    assert found.beats_baseline is not None
    assert "Recommended" in nas("show", "found")[1]
