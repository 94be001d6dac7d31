"""What evaluations say of an architecture: its test score over seeds, and how it differs from a baseline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean, median
from typing import Any

from nas.costs import COSTS, COUNTED, MEASURED
from nas.intervals import by_episode, half_width_over_episodes, half_width_over_seeds
from nas.states import EvaluationState
from nas.storage.schema import Architecture, Evaluation
from nas.storage.store import Store

NOT_FINITE = "test_not_finite"
"""The metric of how many test episodes have a prediction that is not finite."""

Identity = tuple[str, str, str]
"""What no two targets share: space, canonical key, and settings."""


@dataclass(frozen=True, slots=True)
class Result:
    """An architecture under settings, over the training seeds that completed.

    Attributes:
        space, tasks, task, learner: as of a search; `task` is the label.
        normalization: how batch norm found its statistics.
        search, trial: what proposed the architecture, if a search did.
        seeds: how many training seeds the numbers are over.
        test_score: mean over seeds of the mean over test episodes; higher is better.
        ci95_seeds: half width of its interval over seeds (Student's t); None for a single seed.
        ci95_episodes: half width of its interval over episodes, each episode's score the mean over seeds.
        test_episodes: how many episodes each seed was scored on.
        test_not_finite: in how many of all the seeds' a prediction was not finite, and counts as wrong.
        validation_score: mean over seeds, of the weights that were kept.
        parameters, macs, activations: the backbone's cost; None: an older nas did not count it.
        latency, latency_batch: seconds of its forward pass, of one example and of a batch: the median over
            seeds; None: an older nas did not measure it.
        seconds, train_episodes, best_episodes: means over seeds: the worker's time, training episodes when
            training stopped, and those behind the weights that were kept.
        architecture, key: text and canonical key.
        protocol: hash of what scores depend on besides network and seed: equal means comparable.
        settings: the same with the settings of the space.
        space_settings: these settings: the same architecture is another network under other ones.
        chosen: settings that a search chose along with the network, by their path.
    """

    space: str
    tasks: str
    task: str
    learner: str
    normalization: str
    search: str | None
    trial: int | None
    seeds: int
    test_score: float
    ci95_seeds: float | None
    ci95_episodes: float
    test_episodes: int
    test_not_finite: int
    validation_score: float
    parameters: int
    macs: int
    activations: int | None
    latency: float | None
    latency_batch: float | None
    seconds: float
    train_episodes: float
    best_episodes: float
    architecture: str
    key: str
    protocol: str
    settings: str
    space_settings: dict[str, Any]
    chosen: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Difference:
    """A test score less the baseline's, over the training seeds that both completed.

    Attributes:
        value: the mean.
        ci95_episodes: half width of its interval over episodes, paired: each episode's difference is the
            mean over seeds.
        by_seed: the mean difference of each seed.
        ci95_seeds: half width of the interval over those; None for a single seed.
    """

    value: float
    ci95_episodes: float
    by_seed: tuple[float, ...]
    ci95_seeds: float | None


@dataclass(frozen=True, slots=True)
class Compared(Result):
    """A result, and how it differs from one baseline.

    Attributes:
        name: of a published network, if it was asked for by that.
        baseline: what it is compared with: a name, or `SPACE:ARCHITECTURE`; None: with nothing.
        difference, difference_ci95_episodes, difference_ci95_seeds, difference_by_seed: see `Difference`.
    """

    name: str | None
    baseline: str | None
    difference: float | None
    difference_ci95_episodes: float | None
    difference_ci95_seeds: float | None
    difference_by_seed: tuple[float, ...] | None


def completed(rows: Sequence[Evaluation]) -> list[Evaluation]:
    """Return the rows that have a result, by seed."""
    return sorted((row for row in rows if row.state == EvaluationState.COMPLETED), key=lambda row: row.seed)


def summarize(store: Store, rows: Sequence[Evaluation]) -> Result | None:
    """Return the result of the evaluations of one architecture under one settings; None if none completed."""
    done = completed(rows)
    if not done:
        return None
    first = done[0]
    with store.read() as session:
        key = session.get_one(Architecture, first.architecture_id).key
    runs = [store.evaluations.scores(row.id) for row in done]
    means = [fmean(run) for run in runs]
    costs: dict[str, Any] = {name: cost(done, name) for name in COSTS}
    return Result(
        space=first.space,
        tasks=first.tasks,
        task=first.task_label,
        learner=first.learner,
        normalization=first.normalization or "",
        search=first.origin_search,
        trial=first.origin_trial,
        seeds=len(done),
        test_score=fmean(means),
        ci95_seeds=half_width_over_seeds(means),
        ci95_episodes=half_width_over_episodes(by_episode(runs)),
        test_episodes=len(runs[0]),
        test_not_finite=sum(_not_finite(store, row) for row in done),
        validation_score=fmean(row.validation_score or 0.0 for row in done),
        **costs,
        train_episodes=fmean(row.train_episodes or 0 for row in done),
        best_episodes=fmean(row.best_episodes or 0 for row in done),
        architecture=first.architecture,
        key=key,
        protocol=first.protocol,
        settings=first.settings,
        space_settings={key: value for key, value in first.config["space"].items() if key != "name"},
        chosen=chosen_by(first),
    )


def cost(rows: Sequence[Evaluation], name: str) -> float | None:
    """Return a cost of an architecture by its completed evaluations; None: none of them tells.

    What is counted is the same under every seed. Of a latency it is the median over seeds, of `seconds` the
    mean.
    """
    known: list[float] = [value for row in rows if (value := getattr(row, name)) is not None]
    if not known:
        return None
    if name in COUNTED:
        return known[0]
    return median(known) if name in MEASURED else fmean(known)


def chosen_by(row: Evaluation) -> dict[str, Any]:
    """Return the settings of an evaluation that a search chose along with the network, by their path."""
    return {
        f"{kind}.{key}": row.config[kind].get(key, usual)
        for kind, own in row.config.get("base", {}).items()
        for key, usual in own.items()
    }


def _not_finite(store: Store, row: Evaluation) -> int:
    curve = store.evaluations.measurements(row.id)
    return sum(round(value or 0) for metric, _, value in curve if metric == NOT_FINITE)


def compare(store: Store, rows: Sequence[Evaluation], baseline: Sequence[Evaluation]) -> Difference | None:
    """Return how an architecture differs from a baseline; None if no seed completed for both.

    Both were scored on the same list of test episodes, so that the differences are paired.
    """
    others = {row.seed: row for row in completed(baseline)}
    pairs = [
        (store.evaluations.scores(row.id), store.evaluations.scores(others[row.seed].id))
        for row in completed(rows)
        if row.seed in others
    ]
    if not pairs:
        return None
    differences = [[a - b for a, b in zip(mine, theirs, strict=True)] for mine, theirs in pairs]
    by_seed = tuple(fmean(run) for run in differences)
    return Difference(
        fmean(by_seed),
        half_width_over_episodes(by_episode(differences)),
        by_seed,
        half_width_over_seeds(by_seed),
    )


def against(
    result: Result, name: str | None, differences: Sequence[tuple[str, Difference]]
) -> list[Compared]:
    """Return a row for each baseline that a result is compared with; one where there is none.

    Args:
        result: of one architecture.
        name: of a published network, if it was asked for by that.
        differences: what each baseline is called, and the difference from it.
    """
    own = asdict(result) | {"name": name}
    pairs: list[tuple[str | None, Difference | None]] = [*differences]
    return [
        Compared(
            **own,
            baseline=baseline,
            difference=None if found is None else found.value,
            difference_ci95_episodes=None if found is None else found.ci95_episodes,
            difference_ci95_seeds=None if found is None else found.ci95_seeds,
            difference_by_seed=None if found is None else found.by_seed,
        )
        for baseline, found in pairs or [(None, None)]
    ]


def compared(
    store: Store,
    evaluated: Mapping[Identity, Sequence[Evaluation]],
    baselines: Mapping[Identity, Sequence[Identity]],
) -> list[tuple[Identity, Result, dict[Identity, Difference]]]:
    """Return the result of each target that has one, with its differences from its baselines.

    Args:
        store: where the scores are.
        evaluated: the rows of each target and of each baseline.
        baselines: what a target is compared with; itself is passed over.
    """
    found = []
    for identity, rows in evaluated.items():
        result = summarize(store, rows)
        if result is not None:
            others = [other for other in baselines.get(identity, ()) if other != identity]
            made = {other: compare(store, rows, evaluated[other]) for other in others}
            known = {other: difference for other, difference in made.items() if difference is not None}
            found.append((identity, result, known))
    return found
