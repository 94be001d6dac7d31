"""The tables.

    searches ─< trials ─< measurements
    searches ─< inherited
    architectures ─<  └─< artifacts
    architectures ─< evaluations ─< evaluation_measurements, evaluation_scores, artifacts

A trial is one wide row, so that a leaderboard is one indexed query. An evaluation is one training at a full
budget, scored on test tasks; it outlives the search that proposed its architecture. NULL stands for NaN.
Every time is UTC.
Change a table only together with a new revision in `migrations/versions` and `HEAD`.
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    CheckConstraint,
    ForeignKey,
    Index,
    MetaData,
    Text,
    UniqueConstraint,
    false,
    literal_column,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from nas.storage.columns import Finite, UTCDateTime

HEAD = "0011"
"""The revision of the tables below."""


class TrialKind(StrEnum):
    """What a trial does."""

    EVALUATE = "evaluate"
    """Train one architecture from scratch and score it."""
    RACE = "race"
    """Train one of the best under a further seed, once the search's own trials have ended."""
    SUPERNET = "supernet"
    """Train a supernet and derive architectures from it."""


_NO_ID_TWICE = {"sqlite_autoincrement": True}
"""A driver that wakes up after its search was deleted must not find another's rows under its ids."""


class Base(DeclarativeBase):
    """The tables' metadata, and the column types that annotations stand for."""

    metadata = MetaData(
        naming_convention={
            "pk": "pk_%(table_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
        }
    )
    type_annotation_map = {  # noqa: RUF012
        datetime: UTCDateTime,
        float: Finite,
        dict[str, Any]: JSON(none_as_null=True),
        list[dict[str, Any]]: JSON(none_as_null=True),
    }


class Search(Base):
    """One search: what was asked for, and who drives it."""

    __tablename__ = "searches"
    __table_args__ = _NO_ID_TWICE

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    state: Mapped[str]
    source: Mapped[str | None] = mapped_column(Text)
    """The configuration file, verbatim."""
    config: Mapped[dict[str, Any]]
    """The configuration, every default filled in."""
    space: Mapped[str]
    controller: Mapped[str]
    tasks: Mapped[str]
    task_label: Mapped[str]
    """The task in a few words, such as `omniglot 20-way 1-shot`."""
    learner: Mapped[str]
    executor: Mapped[str]
    seed: Mapped[int] = mapped_column(BigInteger)
    trials: Mapped[int]
    """How many trials it is to run."""
    settings: Mapped[str]
    """Hash of all that a score depends on but the architecture and the seed."""
    environment: Mapped[dict[str, Any]]
    """Versions of what ran it, the classes of each split, and what precision `auto` is where it began."""
    created_at: Mapped[datetime]
    started_at: Mapped[datetime | None]
    """When a driver first took it up."""
    finished_at: Mapped[datetime | None]
    """When the last driver left it; NULL while it runs."""
    heartbeat_at: Mapped[datetime | None]
    host: Mapped[str | None]
    pid: Mapped[int | None]
    stop_requested: Mapped[bool] = mapped_column(server_default=false())
    note: Mapped[str | None] = mapped_column(Text)
    """What its owner wrote about it."""
    driver: Mapped[str | None]
    """Which process the driver is, beyond its pid; NULL where an older nas took the search up."""
    plugins: Mapped[dict[str, Any] | None]
    """What the plug-ins were when the search began; NULL where an older nas made it."""


class Inherited(Base):
    """What a search knew of one network from earlier searches when it began; stays when these go on or go."""

    __tablename__ = "inherited"
    __table_args__ = {"sqlite_with_rowid": False}  # noqa: RUF012

    search_id: Mapped[int] = mapped_column(ForeignKey("searches.id", ondelete="CASCADE"), primary_key=True)
    place: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    """From 0: search after search, each in the order in which its outcomes were recorded."""
    origin: Mapped[str]
    """Name of the earlier search."""
    architecture: Mapped[str] = mapped_column(Text)
    """The encoding, in the space of the search that knows it."""
    share: Mapped[float]
    """Of the networks of the earlier search, the share that it outranked."""


class Architecture(Base):
    """One network: every encoding with the same canonical key."""

    __tablename__ = "architectures"
    __table_args__ = (UniqueConstraint("space", "key"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    space: Mapped[str]
    key: Mapped[str]
    text: Mapped[str] = mapped_column(Text)
    """The encoding in which it was first proposed."""


class Trial(Base):
    """One architecture tried in one search, or one supernet trained."""

    __tablename__ = "trials"
    __table_args__ = (
        UniqueConstraint("search_id", "number"),
        UniqueConstraint("search_id", "observed"),
        _NO_ID_TWICE,
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    search_id: Mapped[int] = mapped_column(ForeignKey("searches.id", ondelete="CASCADE"))
    number: Mapped[int]
    """From 0, in the order proposed."""
    kind: Mapped[str] = mapped_column(server_default=TrialKind.EVALUATE.value)
    state: Mapped[str]
    attempt: Mapped[int]
    """How often it was tried before."""
    architecture_id: Mapped[int | None] = mapped_column(ForeignKey("architectures.id"), index=True)
    architecture: Mapped[str | None] = mapped_column(Text)
    """The encoding proposed; NULL where a supernet is trained."""
    supernet: Mapped[dict[str, Any] | None]
    """Strategy, settings, budget and number of architectures to derive, where a supernet is trained."""
    score: Mapped[float | None]
    ci95: Mapped[float | None]
    episodes: Mapped[int | None]
    """Evaluation episodes behind the score."""
    train_episodes: Mapped[int | None]
    """Training episodes behind the score."""
    seconds: Mapped[float | None]
    parameters: Mapped[int | None] = mapped_column(BigInteger)
    macs: Mapped[int | None] = mapped_column(BigInteger)
    activations: Mapped[int | None] = mapped_column(BigInteger)
    """Bytes at once; NULL where an older nas counted the others."""
    latency: Mapped[float | None]
    latency_batch: Mapped[float | None]
    """Seconds of a forward pass, of one example and of a batch; NULL where they were not measured."""
    seed: Mapped[int] = mapped_column(BigInteger)
    """Of the weights and the training episodes, below 2⁶³."""
    split: Mapped[str | None]
    classes: Mapped[str | None]
    normalization: Mapped[str | None]
    error: Mapped[str | None] = mapped_column(Text)
    reused: Mapped[int | None]
    """Number of the trial of this search whose score this is."""
    derived: Mapped[list[dict[str, Any]] | None]
    """`{architecture, score}` of what a supernet derived, best first, scored with the shared weights."""
    derived_epochs: Mapped[list[dict[str, Any]] | None]
    """`{step, architecture, score}`: what it would have derived after each epoch."""
    observed: Mapped[int | None]
    """1, 2, 3… in the order in which outcomes were recorded; NULL until the state is final."""
    repeat: Mapped[int] = mapped_column(server_default="0")
    """Which of the architecture's seeds: 0 is the first."""
    asked_episodes: Mapped[int | None]
    """Training episodes asked for; NULL: as many as the search's budget says."""
    continued_episodes: Mapped[int | None]
    """Training episodes that another training had done; NULL: none."""
    parent: Mapped[int | None]
    """Number of the trial of this search that the training went on from; NULL: it began anew."""
    created_at: Mapped[datetime]
    started_at: Mapped[datetime]
    finished_at: Mapped[datetime | None]


# All that a leaderboard filters, sorts and draws fronts by: it reads the table itself for the rows it shows.
Index(
    "ix_trials_leaderboard",
    Trial.state,
    Trial.score,
    Trial.parameters,
    Trial.macs,
    Trial.activations,
    Trial.latency,
    Trial.latency_batch,
    Trial.seconds,
    Trial.search_id,
    Trial.repeat,
    sqlite_where=Trial.score.is_not(None),
    postgresql_where=Trial.score.is_not(None),
)


# All that is counted, sorted and drawn of one search: a long one is summed up without reading its rows.
Index(
    "ix_trials_search",
    Trial.search_id,
    Trial.state,
    Trial.score,
    Trial.number,
    Trial.repeat,
    Trial.kind,
    Trial.observed,
    Trial.seconds,
    Trial.ci95,
    Trial.architecture_id,
    Trial.parameters,
    Trial.macs,
    Trial.activations,
    Trial.latency,
    Trial.latency_batch,
    Trial.train_episodes,
    Trial.finished_at,
)


FURTHER_SEED = Trial.repeat > literal_column("0")
"""The trials that do not stand for an architecture where one score is asked for; most searches have none."""

Index(
    "ix_trials_repeats",
    Trial.search_id,
    sqlite_where=FURTHER_SEED,
    postgresql_where=FURTHER_SEED,
)


class Measurement(Base):
    """One number seen along the way: `metric` after `step` training episodes."""

    __tablename__ = "measurements"
    __table_args__ = {"sqlite_with_rowid": False}  # noqa: RUF012

    trial_id: Mapped[int] = mapped_column(ForeignKey("trials.id", ondelete="CASCADE"), primary_key=True)
    metric: Mapped[str] = mapped_column(primary_key=True)
    step: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    value: Mapped[float | None]


class Evaluation(Base):
    """One architecture trained once at a full budget, then scored once on test tasks."""

    __tablename__ = "evaluations"
    __table_args__ = (UniqueConstraint("architecture_id", "settings", "seed"), _NO_ID_TWICE)

    id: Mapped[int] = mapped_column(primary_key=True)
    architecture_id: Mapped[int] = mapped_column(ForeignKey("architectures.id"))
    architecture: Mapped[str] = mapped_column(Text)
    """The encoding asked for."""
    settings: Mapped[str]
    """Hash of all that the result depends on but the architecture and the seed."""
    protocol: Mapped[str]
    """The same without the search space's settings: equal means that scores compare."""
    seed: Mapped[int] = mapped_column(BigInteger)
    """Of the weights and the training episodes, below 2⁶³."""
    config: Mapped[dict[str, Any]]
    """Space, tasks, learner, budget and precision, every default filled in."""
    space: Mapped[str]
    tasks: Mapped[str]
    task_label: Mapped[str]
    learner: Mapped[str]
    origin_search_id: Mapped[int | None] = mapped_column(
        ForeignKey("searches.id", ondelete="SET NULL"), index=True
    )
    origin_search: Mapped[str | None]
    """Name of the search that proposed the architecture; stays when the search is deleted."""
    origin_trial: Mapped[int | None]
    state: Mapped[str]
    validation_score: Mapped[float | None]
    """Of the weights that were kept: the best of the curve."""
    validation_ci95: Mapped[float | None]
    test_score: Mapped[float | None]
    test_ci95: Mapped[float | None]
    """Half width over episodes."""
    test_episodes: Mapped[int | None]
    split: Mapped[str | None]
    classes: Mapped[str | None]
    normalization: Mapped[str | None]
    parameters: Mapped[int | None] = mapped_column(BigInteger)
    macs: Mapped[int | None] = mapped_column(BigInteger)
    activations: Mapped[int | None] = mapped_column(BigInteger)
    latency: Mapped[float | None]
    latency_batch: Mapped[float | None]
    """As in `Trial`; NULL where an older nas ran it."""
    seconds: Mapped[float | None]
    best_episodes: Mapped[int | None]
    """Training episodes behind the weights that were kept."""
    train_episodes: Mapped[int | None]
    """Training episodes when training stopped."""
    error: Mapped[str | None] = mapped_column(Text)
    environment: Mapped[dict[str, Any]]
    """Versions of what ran it, and the classes of each split."""
    created_at: Mapped[datetime]
    started_at: Mapped[datetime]
    """When a driver last took it up."""
    finished_at: Mapped[datetime | None]
    heartbeat_at: Mapped[datetime | None]
    host: Mapped[str | None]
    pid: Mapped[int | None]
    driver: Mapped[str | None]
    """As in `Search`."""
    plugins: Mapped[dict[str, Any] | None]
    """What the plug-ins were when a driver last took it up."""


class EvaluationMeasurement(Base):
    """One number of an evaluation's learning curve: `metric` after `step` training episodes."""

    __tablename__ = "evaluation_measurements"
    __table_args__ = {"sqlite_with_rowid": False}  # noqa: RUF012

    evaluation_id: Mapped[int] = mapped_column(
        ForeignKey("evaluations.id", ondelete="CASCADE"), primary_key=True
    )
    metric: Mapped[str] = mapped_column(primary_key=True)
    step: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    value: Mapped[float | None]


class EvaluationScore(Base):
    """The score on one episode of the fixed list of test episodes, so that differences are paired."""

    __tablename__ = "evaluation_scores"
    __table_args__ = {"sqlite_with_rowid": False}  # noqa: RUF012

    evaluation_id: Mapped[int] = mapped_column(
        ForeignKey("evaluations.id", ondelete="CASCADE"), primary_key=True
    )
    episode: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    """From 0, in the order of the list."""
    score: Mapped[float]


class Artifact(Base):
    """A file that a trial or an evaluation left behind, such as weights."""

    __tablename__ = "artifacts"
    __table_args__ = (CheckConstraint("(trial_id IS NULL) <> (evaluation_id IS NULL)", name="owner"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    trial_id: Mapped[int | None] = mapped_column(ForeignKey("trials.id", ondelete="CASCADE"), index=True)
    evaluation_id: Mapped[int | None] = mapped_column(
        ForeignKey("evaluations.id", ondelete="CASCADE"), index=True
    )
    kind: Mapped[str]
    uri: Mapped[str] = mapped_column(Text)
    sha256: Mapped[str]
    bytes: Mapped[int] = mapped_column(BigInteger)
    created_at: Mapped[datetime]
