"""Evaluations at a full budget: who runs one, and what came out."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar

from sqlalchemy import ColumnElement, Connection, case, delete, insert, select, update

from nas.costs import OWN
from nas.errors import NotFound, StorageError
from nas.states import EvaluationState
from nas.storage import lease
from nas.storage.columns import now
from nas.storage.database import Database
from nas.storage.outage import Patience, repeatable
from nas.storage.schema import (
    Architecture,
    Artifact,
    Evaluation,
    EvaluationMeasurement,
    EvaluationScore,
    Search,
    Trial,
)
from nas.storage.statements import into, storable, upsert_architecture

if TYPE_CHECKING:
    from nas.controller import Measurement, Score


@dataclass(frozen=True, slots=True)
class Origin:
    """The trial that proposed an architecture."""

    search_id: int
    search: str
    trial: int


@dataclass(frozen=True, slots=True)
class File:
    """A file that an evaluation left behind."""

    kind: str
    uri: str
    sha256: str
    bytes: int


@dataclass(frozen=True, slots=True)
class Trained:
    """What training and scoring found.

    Attributes:
        validation: of the weights that were kept.
        test: of the same weights.
        scores: of the test episodes, in the order of the fixed list.
        costs: the backbone's, by the names in `nas.costs.OWN`.
        seconds: worker time, over every run of it.
        best_episodes: training episodes behind the weights that were kept.
        train_episodes: training episodes when training stopped.
        weights: the file that holds them.
        node: name of the machine that ran it, for those who watch.
    """

    final: ClassVar[bool] = True
    validation: Score
    test: Score
    scores: tuple[float, ...]
    costs: Mapping[str, float]
    seconds: float
    best_episodes: int
    train_episodes: int
    weights: File
    node: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class NewEvaluation:
    """An evaluation to be claimed.

    Attributes:
        architecture: the encoding asked for.
        key: its canonical key.
        space: the name that the space of both gives itself.
        settings: hash of all that the result depends on but the architecture and the seed.
        protocol: the same without the space's settings.
        seed: of the training, in [0, 2⁶³).
        config: what the hashes are made of, resolved; its sections name space, tasks and learner.
        task_label: the task in a few words.
        environment: versions of what runs it, and the classes of each split.
        plugins: what the plug-ins of the configuration are now.
        origin: the trial that proposed the architecture; kept where none was known before.
    """

    architecture: str
    key: str
    space: str
    settings: str
    protocol: str
    seed: int
    config: dict[str, Any]
    task_label: str
    environment: dict[str, Any]
    plugins: dict[str, Any] | None = None
    origin: Origin | None = None


class Evaluations:
    """The evaluations of a database: at most one for an architecture, settings and seed.

    Rows come back detached. Every method raises StorageError where the database fails.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    @property
    def patience(self) -> Patience:
        """What outlasts the database's outages."""
        return self._database.patience

    @repeatable
    def claim(self, new: NewEvaluation, *, anew: bool = False) -> Evaluation:
        """Find or record an evaluation, and make this process its driver unless it is done or being run.

        The row that comes back tells which: `completed`, or `running` and `lease.mine`, or `running` by
        another process. What failed or was interrupted runs again.

        Args:
            new: the evaluation.
            anew: whether one that is done is run again, too. Its result stays until there is another.
        """
        time, origin = now(), new.origin
        with self._database.edit() as session:
            architecture_id = session.scalar(
                upsert_architecture(self._database.dialect.name),
                {"space": new.space, "key": new.key, "text": new.architecture},
            )
            row = {
                "architecture_id": architecture_id,
                "architecture": new.architecture,
                "settings": new.settings,
                "protocol": new.protocol,
                "seed": new.seed,
                "config": new.config,
                "space": new.config["space"]["name"],
                "tasks": new.config["tasks"]["name"],
                "task_label": new.task_label,
                "learner": new.config["learner"]["name"],
                "state": EvaluationState.INTERRUPTED.value,
                "environment": new.environment,
                "created_at": time,
                "started_at": time,
            }
            session.execute(_insert(self._database.dialect.name), row)
            found = session.scalars(
                select(Evaluation)
                .where(
                    Evaluation.architecture_id == architecture_id,
                    Evaluation.settings == new.settings,
                    Evaluation.seed == new.seed,
                )
                .with_for_update()
            ).one()
            if origin is not None and found.origin_search_id is None:
                found.origin_search, found.origin_trial = origin.search, origin.trial
                # Between reading the trial and now the search may have been deleted.
                found.origin_search_id = session.scalar(
                    select(Search.id).where(Search.id == origin.search_id)
                )
            done = found.state == EvaluationState.COMPLETED
            if (anew or not done) and (lease.mine(found) or not lease.driven(found)):
                found.state = EvaluationState.RUNNING.value
                found.host, found.pid, found.driver = lease.holder()
                found.started_at = found.heartbeat_at = time
                found.finished_at = found.error = None
                found.environment, found.plugins = new.environment, new.plugins
        return found

    @repeatable
    def heartbeat(self, ids: Collection[int]) -> None:
        """Tell that the driver of these evaluations lives.

        Raises:
            StorageError: another process took one of them over.
        """
        mine = update(Evaluation).where(Evaluation.id.in_(ids), _driven_here())
        with self._database.write() as connection:
            if connection.execute(mine.values(heartbeat_at=now())).rowcount != len(ids):
                raise _taken()

    @repeatable
    def measure(self, evaluation_id: int, measurements: Sequence[Measurement]) -> None:
        """Record numbers seen along the way; one measured again replaces the one before.

        Raises:
            StorageError: this process does not drive it any more.
        """
        rows = [
            {"evaluation_id": evaluation_id, "metric": m.metric, "step": m.step, "value": m.value}
            for m in measurements
        ]
        if rows:
            mine = select(Evaluation.id).where(Evaluation.id == evaluation_id, _driven_here())
            with self._database.write() as connection:
                if connection.scalar(mine.with_for_update(read=True)) is None:
                    raise _taken()
                connection.execute(_upsert_measurement(connection.dialect.name), rows)

    def complete(self, evaluation_id: int, trained: Trained) -> None:
        """Close an evaluation with its scores and its weights.

        Raises:
            StorageError: this process does not drive it any more.
        """
        self._complete(evaluation_id, trained, now())

    @repeatable
    def _complete(self, evaluation_id: int, trained: Trained, ended: datetime) -> None:
        test, weights = trained.test, trained.weights
        changes = {
            "validation_score": trained.validation.value,
            "validation_ci95": trained.validation.ci95,
            "test_score": test.value,
            "test_ci95": test.ci95,
            "test_episodes": test.episodes,
            "split": test.split,
            "classes": test.classes,
            "normalization": test.normalization,
            **{name: trained.costs.get(name) for name in OWN},
            "seconds": trained.seconds,
            "best_episodes": trained.best_episodes,
            "train_episodes": trained.train_episodes,
        }
        scores = [
            {"evaluation_id": evaluation_id, "episode": episode, "score": score}
            for episode, score in enumerate(trained.scores)
        ]
        file = {
            "evaluation_id": evaluation_id,
            "kind": weights.kind,
            "uri": weights.uri,
            "sha256": weights.sha256,
            "bytes": weights.bytes,
            "created_at": ended,
        }
        with self._database.write() as connection:
            if _close(connection, evaluation_id, EvaluationState.COMPLETED, ended, changes):
                for kind in (EvaluationScore, Artifact):  # of the result before
                    connection.execute(delete(kind).where(kind.evaluation_id == evaluation_id))
                connection.execute(insert(EvaluationScore), scores)
                connection.execute(insert(Artifact), file)

    def fail(self, evaluation_id: int, state: EvaluationState, error: str) -> None:
        """Close an evaluation as `failed` or `infeasible`, with the reason; a result that it had stays.

        Raises:
            StorageError: this process does not drive it any more.
        """
        self._fail(evaluation_id, state, error, now())

    @repeatable
    def _fail(self, evaluation_id: int, state: EvaluationState, error: str, ended: datetime) -> None:
        with self._database.write() as connection:
            _close(connection, evaluation_id, state, ended, {"error": storable(error)})

    @repeatable
    def interrupt(self, ids: Collection[int]) -> None:
        """Leave evaluations that this process drives, to be continued; a result that one had stays."""
        running = update(Evaluation).where(
            Evaluation.id.in_(ids), Evaluation.state == EvaluationState.RUNNING.value, _driven_here()
        )
        with self._database.write() as connection:
            connection.execute(
                running.values(state=_unless_done(EvaluationState.INTERRUPTED), finished_at=now())
            )

    @repeatable
    def get(self, evaluation_id: int) -> Evaluation:
        """Return one evaluation.

        Raises:
            NotFound: there is none with this id.
        """
        with self._database.read() as session:
            found = session.get(Evaluation, evaluation_id)
        if found is None:
            raise NotFound(f"No evaluation has the id {evaluation_id}; see `nas leaderboard --stage test`.")
        return found

    @repeatable
    def of_network(self, space: str, key: str) -> list[Evaluation]:
        """Return the evaluations of a network, whatever the settings and the state, oldest first."""
        with self._database.read() as session:
            return list(
                session.scalars(
                    select(Evaluation)
                    .join(Architecture, Architecture.id == Evaluation.architecture_id)
                    .where(Architecture.space == space, Architecture.key == key)
                    .order_by(Evaluation.id)
                )
            )

    @repeatable
    def of_trial(self, trial_id: int) -> list[Evaluation]:
        """Return the evaluations of the network that a trial tried, oldest first."""
        with self._database.read() as session:
            return list(
                session.scalars(
                    select(Evaluation)
                    .join(Trial, Trial.architecture_id == Evaluation.architecture_id)
                    .where(Trial.id == trial_id)
                    .order_by(Evaluation.id)
                )
            )

    @repeatable
    def of_origin(self, search_id: int, number: int) -> list[Evaluation]:
        """Return the evaluations of what a trial of a search proposed, oldest first."""
        with self._database.read() as session:
            return list(
                session.scalars(
                    select(Evaluation)
                    .where(Evaluation.origin_search_id == search_id, Evaluation.origin_trial == number)
                    .order_by(Evaluation.id)
                )
            )

    @repeatable
    def of_search(self, search_id: int) -> list[tuple[Evaluation, str, str]]:
        """Return the evaluations of what a search proposed, each with its network: space and key."""
        return self._with_networks(Evaluation.origin_search_id == search_id)

    @repeatable
    def unfinished(self) -> list[tuple[Evaluation, str, str]]:
        """Return the evaluations that are not completed, of whatever search, likewise."""
        return self._with_networks(Evaluation.state != EvaluationState.COMPLETED)

    def _with_networks(self, which: ColumnElement[bool]) -> list[tuple[Evaluation, str, str]]:
        with self._database.read() as session:
            rows = session.execute(
                select(Evaluation, Architecture.space, Architecture.key)
                .join(Architecture, Architecture.id == Evaluation.architecture_id)
                .where(which)
                .order_by(Evaluation.id)
            )
            return [(row, space, key) for row, space, key in rows]

    @repeatable
    def scores(self, evaluation_id: int) -> list[float]:
        """Return the scores on the test episodes, in the order of the fixed list."""
        with self._database.read() as session:
            return list(
                session.scalars(
                    select(EvaluationScore.score)
                    .where(EvaluationScore.evaluation_id == evaluation_id)
                    .order_by(EvaluationScore.episode)
                )
            )

    @repeatable
    def measurements(self, evaluation_id: int) -> list[tuple[str, int, float | None]]:
        """Return the learning curve as (metric, training episodes, value): by metric, then by episodes."""
        columns = EvaluationMeasurement.metric, EvaluationMeasurement.step, EvaluationMeasurement.value
        with self._database.read() as session:
            rows = session.execute(
                select(*columns)
                .where(EvaluationMeasurement.evaluation_id == evaluation_id)
                .order_by(EvaluationMeasurement.metric, EvaluationMeasurement.step)
            )
            return [(metric, step, value) for metric, step, value in rows]

    @repeatable
    def artifacts(self, evaluation_id: int) -> list[Artifact]:
        """Return the files of an evaluation, oldest first; its weights are of kind `weights`."""
        with self._database.read() as session:
            return list(
                session.scalars(
                    select(Artifact).where(Artifact.evaluation_id == evaluation_id).order_by(Artifact.id)
                )
            )


def _close(
    connection: Connection,
    evaluation_id: int,
    state: EvaluationState,
    ended: datetime,
    changes: dict[str, Any],
) -> bool:
    """Close an evaluation that runs; return False where that was done before, at this very time."""
    mine = update(Evaluation).where(
        Evaluation.id == evaluation_id, Evaluation.state == EvaluationState.RUNNING.value, _driven_here()
    )
    now_in = _unless_done(state)
    if connection.execute(mine.values(state=now_in, finished_at=ended, **changes)).rowcount == 1:
        return True
    same = select(Evaluation.id).where(
        Evaluation.id == evaluation_id, Evaluation.finished_at == ended, _driven_here()
    )
    if connection.scalar(same) is None:
        raise _taken()
    return False


def _unless_done(state: EvaluationState) -> ColumnElement[str]:
    """Return a state for an evaluation; `completed`, where it has a result from before."""
    done = EvaluationState.COMPLETED.value
    return case((Evaluation.test_score.is_not(None), done), else_=state.value)


def _driven_here() -> ColumnElement[bool]:
    return Evaluation.driver == lease.holder().driver


def _taken() -> StorageError:
    host, pid, _ = lease.holder()
    return StorageError(
        f"This process (pid {pid} on host {host}) no longer drives the evaluation: another took it over. Ask "
        "again with the same command when that one is done."
    )


@cache
def _insert(dialect: str) -> Any:
    """Return the statement that records an evaluation unless it is there."""
    return into(dialect, Evaluation).on_conflict_do_nothing(
        index_elements=[Evaluation.architecture_id, Evaluation.settings, Evaluation.seed]
    )


@cache
def _upsert_measurement(dialect: str) -> Any:
    """Return the statement that sets a measurement of an evaluation."""
    measurement = into(dialect, EvaluationMeasurement)
    keys = (EvaluationMeasurement.evaluation_id, EvaluationMeasurement.metric, EvaluationMeasurement.step)
    return measurement.on_conflict_do_update(index_elements=keys, set_={"value": measurement.excluded.value})
