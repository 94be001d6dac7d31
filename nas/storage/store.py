"""The store: every fact of every search, each written in one transaction."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from sqlalchemy import ColumnElement, Connection, delete, exists, func, or_, select, text, update
from sqlalchemy.orm import InstrumentedAttribute, Session

from nas.errors import ConfigError, NotFound, StorageError
from nas.storage import lease, names, statements
from nas.storage.columns import now
from nas.storage.database import Database
from nas.storage.evaluations import Evaluations
from nas.storage.schema import (
    Architecture,
    Artifact,
    Evaluation,
    Measurement,
    Search,
    SearchState,
    Trial,
    TrialKind,
    TrialState,
)

if TYPE_CHECKING:
    from nas import controller


@dataclass(frozen=True, slots=True)
class Summary:
    """A search in a list: its trials by state, and the best score among those completed."""

    search: Search
    trials: dict[str, int] = field(default_factory=dict)
    best: float | None = None


class Measured(NamedTuple):
    """One number that a trial measured after `step` training episodes; None for NaN."""

    trial_id: int
    metric: str
    step: int
    value: float | None


@dataclass(frozen=True, slots=True)
class Derivations:
    """What a supernet derived, as JSON.

    Attributes:
        final: `{architecture, score}`, best first.
        epochs: `{step, architecture, score}`: what it would have derived after each epoch.
    """

    final: list[dict[str, Any]]
    epochs: list[dict[str, Any]]


class Store:
    """A database of searches, trials, measurements and artifacts; and, at `evaluations`, of evaluations.

    Rows come back detached: plain objects that further writes do not change. Any number of processes may read
    while the driver of each search writes. Every method raises StorageError where the database fails: locked,
    full, unreachable, unwritable.

    Args:
        url: `sqlite:///PATH` or `postgresql://USER:PASSWORD@HOST/NAME`.
        create: whether to create the tables in an empty database (and the file of an SQLite one).

    Raises:
        ConfigError: the text is no database URL, or its driver is not installed.
        NotFound: there is no database, and `create` is false.
        StorageError: it cannot be opened, belongs to another program or is at another revision.
    """

    def __init__(self, url: str, *, create: bool = True) -> None:
        self._database = Database(url, create=create)
        self._architecture_ids: dict[tuple[int, str, str], int] = {}
        upserts = statements.upserts(self._database.dialect)
        self._upsert_architecture, self._upsert_measurement = upserts
        self.evaluations = Evaluations(self._database)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Close every connection."""
        self._database.close()

    def read(self) -> AbstractContextManager[Session]:
        """Open a session for queries of one's own, which sees one state of the database throughout."""
        return self._database.read()

    # Searches

    def create_search(
        self,
        *,
        name: str | None,
        source: str | None,
        config: dict[str, Any],
        space: str,
        controller: str,
        tasks: str,
        task_label: str,
        learner: str,
        executor: str,
        seed: int,
        trials: int,
        settings: str,
        environment: dict[str, Any],
    ) -> Search:
        """Record a search that no one drives yet.

        Without a name it is called `{controller}-{space}-{tasks}`, made unique by `-2`, `-3`…

        Raises:
            ConfigError: the name is taken, or is no name.
        """
        base = names.default(controller, space, tasks) if name is None else names.checked(name)
        search = Search(
            state=SearchState.INTERRUPTED.value,
            source=source,
            config=config,
            space=space,
            controller=controller,
            tasks=tasks,
            task_label=task_label,
            learner=learner,
            executor=executor,
            seed=seed,
            trials=trials,
            settings=settings,
            environment=environment,
            created_at=now(),
            stop_requested=False,
        )
        with self._database.edit() as session:
            if self._database.dialect.name == "postgresql":  # SQLite has one writer anyway
                session.execute(text("LOCK TABLE searches IN SHARE ROW EXCLUSIVE MODE"))
            taken = set(
                session.scalars(select(Search.name).where(Search.name.startswith(base, autoescape=True)))
            )
            if name in taken:
                raise ConfigError(
                    f"name: a search '{name}' already exists; resume it with `nas resume {name}`, or choose "
                    "another --name."
                )
            search.name = names.free(base, taken)
            session.add(search)
        return search

    def search(self, reference: str) -> Search:
        """Return a search by its name, by a prefix that no other name has, or the newest as `@last`.

        Raises:
            NotFound: no such search.
            ConfigError: several names have the prefix.
        """
        with self._database.read() as session:
            if reference == "@last":
                last = session.scalar(select(Search).order_by(Search.id.desc()).limit(1))
                if last is None:
                    raise NotFound("There is no search yet; start one with `nas run`.")
                return last
            name = names.resolve(reference, session.scalars(select(Search.name)).all())
            return session.scalars(select(Search).where(Search.name == name)).one()

    def searches(self) -> list[Summary]:
        """Return every search, newest first, with its trials by state and its best completed score."""
        best = func.max(Trial.score).filter(Trial.state == TrialState.COMPLETED.value)
        trials = (
            select(Trial.search_id, Trial.state, func.count().label("count"), best.label("best"))
            .group_by(Trial.search_id, Trial.state)
            .subquery()
        )
        query = select(Search, trials.c.state, trials.c.count, trials.c.best).outerjoin(trials)
        summaries: dict[int, Summary] = {}
        with self._database.read() as session:
            for search, state, number, score in session.execute(query.order_by(Search.id.desc())):
                summary = summaries.setdefault(search.id, Summary(search))
                if state is not None:
                    summary.trials[state] = number
                if score is not None:
                    summaries[search.id] = replace(summary, best=score)
        return list(summaries.values())

    def extend(self, search_id: int, trials: int) -> int:
        """Add `trials` to the number that the search is to run; return the new number.

        Raises:
            ConfigError: `trials` is not positive.
        """
        if trials < 1:
            raise ConfigError(f"trials: {trials} more trials; allowed: at least 1.")
        with self._database.edit() as session:
            search = self._locked(session, search_id)
            search.trials += trials
            return search.trials

    def delete(self, search_id: int) -> None:
        """Delete a search with its trials, measurements and artifacts (their files stay); evaluations stay.

        Raises:
            ConfigError: a live process drives it.
        """
        with self._database.edit() as session:
            search = self._locked(session, search_id)
            if lease.driven(search):
                raise lease.refuse(search)
            mine = select(Trial.architecture_id).where(Trial.search_id == search_id)
            architectures = session.scalars(mine.distinct()).all()
            session.execute(delete(Search).where(Search.id == search_id))
            unused = ~or_(
                exists().where(Trial.architecture_id == Architecture.id),
                exists().where(Evaluation.architecture_id == Architecture.id),
            )
            for start in range(0, len(architectures), 500):
                some = Architecture.id.in_(architectures[start : start + 500])
                session.execute(delete(Architecture).where(some, unused))

    # The driver's lease

    def acquire(self, search_id: int) -> Search:
        """Make this process the search's driver; it is `running` until `release`.

        Raises:
            ConfigError: another live process drives it.
        """
        with self._database.edit() as session:
            search = self._locked(session, search_id)
            if lease.driven(search) and not lease.mine(search):
                raise lease.refuse(search)
            search.state = SearchState.RUNNING.value
            search.host, search.pid = lease.holder()
            search.heartbeat_at = now()
            search.started_at = search.started_at or search.heartbeat_at
            search.finished_at = None
            search.stop_requested = False
        return search

    def heartbeat(self, search_id: int) -> bool:
        """Tell that this driver lives; return whether it is asked to stop.

        Raises:
            StorageError: another process took the search over, or it was deleted.
        """
        host, pid = lease.holder()
        with self._database.write() as connection:
            asked: bool | None = connection.scalar(
                statements.HEARTBEAT, {"search": search_id, "on": host, "by": pid, "heartbeat_at": now()}
            )
        if asked is None:
            raise StorageError(
                f"This process (pid {pid} on host {host}) no longer drives the search: another took it over, "
                "or it was deleted. See `nas ls`."
            )
        return asked

    def request_stop(self, search_id: int) -> None:
        """Ask the search's driver to stop; it hears of it at its next heartbeat."""
        with self._database.edit() as session:
            self._locked(session, search_id).stop_requested = True

    def release(self, search_id: int, state: SearchState | str) -> None:
        """Leave the search in a state other than `running`; nothing happens if another process drives it."""
        with self._database.edit() as session:
            search = self._locked(session, search_id)
            if lease.mine(search):
                search.state, search.finished_at = SearchState(state).value, now()

    @staticmethod
    def _locked(session: Session, search_id: int) -> Search:
        search = session.get(Search, search_id, with_for_update=True)
        if search is None:
            raise NotFound(f"No search has the id {search_id}; list them with `nas ls`.")
        return search

    # Trials

    def begin(
        self,
        search_id: int,
        number: int,
        *,
        architecture: str | None,
        key: str | None,
        space: str,
        seed: int,
        attempt: int,
        supernet: dict[str, Any] | None = None,
        outcome: controller.Outcome | None = None,
    ) -> int:
        """Record that a trial runs; return its id.

        Args:
            search_id: whose trial it is.
            number: from 0, unique in the search.
            architecture: the encoding proposed; None where a supernet is trained.
            key: its canonical key, or None.
            space: the space of both.
            seed: of the training, in [0, 2⁶³).
            attempt: how often it was tried before.
            supernet: what was proposed, where a supernet is trained.
            outcome: of a trial that needs no worker: it begins and ends in one transaction.

        Raises:
            ValueError: the outcome is not final.
        """
        identity = search_id, space, key or ""
        architecture_id = None if key is None else self._architecture_ids.get(identity)
        time = now()
        with self._database.write() as connection:
            if architecture_id is None and key is not None:
                architecture_id = connection.scalar(
                    self._upsert_architecture, {"space": space, "key": key, "text": architecture}
                )
            row = {
                "search_id": search_id,
                "number": number,
                "kind": TrialKind.EVALUATE.value if supernet is None else TrialKind.SUPERNET.value,
                "state": TrialState.RUNNING.value,
                "attempt": attempt,
                "architecture_id": architecture_id,
                "architecture": architecture,
                "supernet": supernet,
                "seed": seed,
                "created_at": time,
                "started_at": time,
            }
            trial_id = connection.scalars(statements.INSERT_TRIAL, row).one()
            if outcome is not None:
                self._close(connection, trial_id, outcome)
        if architecture_id is not None:
            # A trial of this search now refers to the architecture, so it stays as long as the search does.
            self._architecture_ids[identity] = architecture_id
        return trial_id

    def restart(self, trial_id: int, *, attempt: int, seed: int, seconds: float = 0.0) -> None:
        """Run a trial again that failed or was interrupted before it was recorded as final.

        Args:
            trial_id: which.
            attempt: how often it was tried before.
            seed: of the training, in [0, 2⁶³).
            seconds: worker time that the attempts before took.

        Raises:
            ValueError: it is final.
        """
        with self._database.write() as connection:
            again = update(Trial).where(Trial.id == trial_id, Trial.observed.is_(None))
            changes = {
                "state": TrialState.RUNNING.value,
                "attempt": attempt,
                "seed": seed,
                "seconds": seconds,
                "started_at": now(),
            }
            if connection.execute(again.values(changes)).rowcount != 1:
                raise ValueError(f"Trial id {trial_id} is final, or there is none.")

    def finish(
        self, trial_id: int, outcome: controller.Outcome, derivations: Derivations | None = None
    ) -> int | None:
        """Close a trial with its measurements.

        Args:
            trial_id: which.
            outcome: final.
            derivations: what a supernet derived, as texts.

        Returns:
            Its place (1, 2, 3…) in the order in which the search's outcomes were recorded; None if it was
            closed before, and then nothing changes.

        Raises:
            ValueError: the outcome is not final.
        """
        with self._database.write() as connection:
            return self._close(connection, trial_id, outcome, derivations)

    def _close(
        self,
        connection: Connection,
        trial_id: int,
        outcome: controller.Outcome,
        derivations: Derivations | None = None,
    ) -> int | None:
        if not outcome.state.final:
            raise ValueError(f"An outcome that is {outcome.state} closes no trial.")
        row = {"trial": trial_id, "finished_at": now(), **statements.columns(outcome)}
        if derivations is not None:
            row |= {"derived": derivations.final, "derived_epochs": derivations.epochs}
        observed: int | None = connection.scalar(statements.FINISH_TRIAL, row)
        if observed is not None:
            self._measure(connection, trial_id, outcome.measurements)
        return observed

    def _measure(
        self, connection: Connection, trial_id: int, measurements: Sequence[controller.Measurement]
    ) -> None:
        rows = [
            {"trial_id": trial_id, "metric": m.metric, "step": m.step, "value": m.value} for m in measurements
        ]
        if rows:
            connection.execute(self._upsert_measurement, rows)

    def interrupt(self, search_id: int) -> int:
        """Mark the running trials of a search as interrupted; return how many there were."""
        running = update(Trial).where(Trial.search_id == search_id, Trial.state == TrialState.RUNNING.value)
        with self._database.write() as connection:
            return connection.execute(running.values(state=TrialState.INTERRUPTED.value)).rowcount

    def trials(self, search_id: int) -> list[Trial]:
        """Return the trials of a search by number."""
        return self._trials(Trial.search_id == search_id, order=Trial.number)

    def unfinished(self, search_id: int) -> list[Trial]:
        """Return the running and interrupted trials by number."""
        return self._trials(Trial.search_id == search_id, Trial.observed.is_(None), order=Trial.number)

    def history(self, search_id: int) -> list[Trial]:
        """Return the final trials in the order in which their outcomes were recorded."""
        return self._trials(Trial.search_id == search_id, Trial.observed.is_not(None), order=Trial.observed)

    def _trials(self, *where: ColumnElement[bool], order: InstrumentedAttribute[Any]) -> list[Trial]:
        with self._database.read() as session:
            return list(session.scalars(select(Trial).where(*where).order_by(order)))

    def trial(self, search_id: int, number: int) -> Trial:
        """Return one trial of a search.

        Raises:
            NotFound: it has no trial of this number.
        """
        with self._database.read() as session:
            found = session.scalar(select(Trial).where(Trial.search_id == search_id, Trial.number == number))
            if found is None:
                name = session.scalar(select(Search.name).where(Search.id == search_id))
                raise NotFound(f"Search '{name}' has no trial {number}; list them with `nas show {name}`.")
            return found

    def measurements(self, search_id: int, number: int | None = None) -> list[Measured]:
        """Return what the trials of a search measured, or one of them: by number, then metric, then step."""
        query = (
            select(Measurement.trial_id, Measurement.metric, Measurement.step, Measurement.value)
            .join(Trial, Trial.id == Measurement.trial_id)
            .where(Trial.search_id == search_id)
            .order_by(Trial.number, Measurement.metric, Measurement.step)
        )
        if number is not None:
            query = query.where(Trial.number == number)
        with self._database.read() as session:
            return [Measured._make(row) for row in session.execute(query)]

    def add_artifact(self, trial_id: int, *, kind: str, uri: str, sha256: str, bytes: int) -> None:
        """Record a file that a trial left behind."""
        with self._database.edit() as session:
            session.add(
                Artifact(trial_id=trial_id, kind=kind, uri=uri, sha256=sha256, bytes=bytes, created_at=now())
            )

    def artifacts(self, trial_id: int) -> list[Artifact]:
        """Return the files of a trial, oldest first."""
        with self._database.read() as session:
            return list(
                session.scalars(select(Artifact).where(Artifact.trial_id == trial_id).order_by(Artifact.id))
            )
