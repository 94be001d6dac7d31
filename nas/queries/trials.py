"""Trials of one search as rows: in a list, and one in full with its curve and its evaluations."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import select

from nas.costs import COSTS
from nas.errors import ConfigError
from nas.queries.chosen import Texts
from nas.storage.schema import Evaluation, Search, Trial, TrialKind
from nas.storage.store import Store


@dataclass(frozen=True, slots=True)
class TrialRow:
    """One trial.

    Attributes:
        trial: its number, from 0 in the order proposed.
        kind: `evaluate`, `race` under a further seed of one of the best, or `supernet` where one is trained.
        state: `running`, `interrupted`, or how it ended.
        score, ci95: on validation tasks, with half of its 95 % interval; higher is better.
        episodes, train_episodes: behind the score, and of training.
        parameters, macs, activations: the backbone's cost; see `nas.backbone.Cost`.
        latency, latency_batch: seconds of its forward pass, of one example and of a batch; None: unknown.
        seconds: worker time.
        architecture: text of the space; None where a supernet is trained.
        chosen: settings that the search chose along with the network, by their path.
        seed: of the weights and the training episodes.
        repeat: which of the architecture's seeds: 0 is the first.
        asked_episodes: training episodes asked for; None: as many as the search's budget says.
        continued_episodes: training episodes that another training had done; None: none.
        parent: number of the trial that the training went on from; None: it began anew.
        attempt: how often it was tried before.
        reused: number of the trial whose score this is; None: it is its own.
        split, classes: of the tasks behind the score, the classes as a hash.
        normalization: how batch norm found its statistics.
        started_at, finished_at: in UTC.
        error: why it failed or is infeasible, or why a supernet ended early.
    """

    trial: int
    kind: str
    state: str
    score: float | None
    ci95: float | None
    episodes: int | None
    train_episodes: int | None
    parameters: int | None
    macs: int | None
    activations: int | None
    latency: float | None
    latency_batch: float | None
    seconds: float | None
    architecture: str | None
    chosen: dict[str, Any]
    seed: int
    repeat: int
    asked_episodes: int | None
    continued_episodes: int | None
    parent: int | None
    attempt: int
    reused: int | None
    split: str | None
    classes: str | None
    normalization: str | None
    started_at: datetime | None
    finished_at: datetime | None
    error: str | None


@dataclass(frozen=True, slots=True)
class MeasurementRow:
    """One number that a trial measured after `step` training episodes; None: it was not finite."""

    step: int
    metric: str
    value: float | None


@dataclass(frozen=True, slots=True)
class EvaluationRow:
    """One evaluation: a training to the end under one seed, and its test score.

    Attributes:
        test_ci95: half of the test score's 95 % interval over episodes.
        validation_score: of the weights that were kept.
        train_episodes, best_episodes: when training stopped, and behind the weights that were kept.
        settings, protocol: hashes, as of `nas.queries.results.Result`.
        error: the first line.
    """

    seed: int
    state: str
    task: str
    learner: str
    normalization: str | None
    precision: str
    test_score: float | None
    test_ci95: float | None
    test_episodes: int | None
    validation_score: float | None
    train_episodes: int | None
    best_episodes: int | None
    seconds: float | None
    split: str | None
    settings: str
    protocol: str
    error: str | None


@dataclass(frozen=True, slots=True)
class PartRow:
    """One part of a training that went on from another trial.

    Attributes:
        trial: its number.
        train_episodes: of the training at its end.
        seconds: worker time of this part alone.
        chosen: settings that it had, by their path.
    """

    trial: int
    train_episodes: int | None
    score: float | None
    seconds: float | None
    chosen: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Derivation:
    """What a trial that trained a supernet has besides.

    Attributes:
        supernet: strategy, settings, budget and number of architectures to derive.
        derived: `{architecture, score}`, best first, scored with the shared weights; None: not yet.
        derived_epochs: `{step, architecture, score}`: what it would have derived after each epoch.
    """

    supernet: dict[str, Any]
    derived: list[dict[str, Any]] | None
    derived_epochs: list[dict[str, Any]] | None


@dataclass(frozen=True, slots=True)
class TrialDetails:
    """One trial in full.

    Attributes:
        search: name of its search.
        trial: its row.
        derivation: of a supernet; None: it trained one architecture.
        measurements: its curve, by metric and then by step.
        evaluations: of its network under the settings that the search has for its space, oldest first.
        lineage: the parts of its training, the first one first and itself last; empty: it began anew.
    """

    search: str
    trial: TrialRow
    derivation: Derivation | None
    measurements: tuple[MeasurementRow, ...]
    evaluations: tuple[EvaluationRow, ...]
    lineage: tuple[PartRow, ...] = ()


@dataclass(frozen=True, slots=True)
class KinRow:
    """Another trial of the same network."""

    search: str
    trial: int
    state: str
    score: float | None
    ci95: float | None
    train_episodes: int | None
    task: str


def kin(store: Store, search: Search, number: int, limit: int = 20) -> list[KinRow]:
    """Return other trials of a trial's network, in any search, the newest first, `limit` at most.

    Raises:
        NotFound: the search has no such trial.
    """
    own = store.trial(search.id, number)
    columns = (Trial.number, Trial.state, Trial.score, Trial.ci95, Trial.train_episodes, Search.task_label)
    others = (
        select(Search.name, *columns)
        .join(Search, Search.id == Trial.search_id)
        .where(Trial.architecture_id == own.architecture_id, Trial.id != own.id)
        .order_by(Trial.id.desc())
        .limit(limit)
    )
    with store.read() as session:
        return [KinRow(*row) for row in session.execute(others)]


def split(target: str) -> tuple[str, int | None]:
    """Return the search and the number in `SEARCH/TRIAL`; of a search alone the number is None.

    Raises:
        ConfigError: what follows the slash is no number.
    """
    name, slash, number = target.partition("/")
    if slash and not number.isdecimal():
        raise ConfigError(f"'{target}': a trial is a number, such as {name}/0.")
    return name, int(number) if slash else None


def details(store: Store, reference: str, number: int) -> TrialDetails:
    """Return a trial of a search that is named, or meant by a unique prefix or `@last`.

    Raises:
        NotFound: no such search, or it has no such trial.
        ConfigError: several searches have the prefix.
    """
    search = store.search(reference)
    found = store.trial(search.id, number)
    derivation = None
    if found.kind == TrialKind.SUPERNET:
        derivation = Derivation(found.supernet or {}, found.derived, found.derived_epochs)
    texts = Texts(search.config.get("slots"))
    parts = () if found.parent is None else store.lineage(found)
    return TrialDetails(
        search.name,
        trial(found, texts),
        derivation,
        tuple(
            MeasurementRow(m.step, m.metric, m.value) for m in store.measurements(search.id, number=number)
        ),
        tuple(
            evaluation(row)
            for row in _evaluations(store, search, found)
            if row.config["space"] == search.config["space"]
        ),
        tuple(
            PartRow(p.number, p.train_episodes, p.score, p.seconds, texts.chosen(p.architecture))
            for p in parts
        ),
    )


def _evaluations(store: Store, search: Search, found: Trial) -> list[Evaluation]:
    """Return the evaluations of what a trial tried: of its network, or of this and the settings it chose."""
    if search.config.get("slots"):
        return store.evaluations.of_origin(search.id, found.number)
    return store.evaluations.of_trial(found.id)


def trial(row: Trial, texts: Texts) -> TrialRow:
    """Return the row of a recorded trial.

    Args:
        row: the trial.
        texts: reads what the trials of its search chose.
    """
    return TrialRow(
        trial=row.number,
        kind=row.kind,
        state=row.state,
        score=row.score,
        ci95=row.ci95,
        episodes=row.episodes,
        train_episodes=row.train_episodes,
        **{name: getattr(row, name) for name in COSTS},
        architecture=row.architecture,
        chosen=texts.chosen(row.architecture),
        seed=row.seed,
        repeat=row.repeat,
        asked_episodes=row.asked_episodes,
        continued_episodes=row.continued_episodes,
        parent=row.parent,
        attempt=row.attempt,
        reused=row.reused,
        split=row.split,
        classes=row.classes,
        normalization=row.normalization or None,
        started_at=row.started_at,
        finished_at=row.finished_at,
        error=row.error,
    )


def evaluation(row: Evaluation) -> EvaluationRow:
    """Return the row of a recorded evaluation."""
    return EvaluationRow(
        seed=row.seed,
        state=row.state,
        task=row.task_label,
        learner=row.learner,
        normalization=row.normalization,
        precision=row.config["precision"],
        test_score=row.test_score,
        test_ci95=row.test_ci95,
        test_episodes=row.test_episodes,
        validation_score=row.validation_score,
        train_episodes=row.train_episodes,
        best_episodes=row.best_episodes,
        seconds=row.seconds,
        split=row.split,
        settings=row.settings,
        protocol=row.protocol,
        error=row.error and row.error.partition("\n")[0],
    )
