"""The store: every fact of every search, each written in one transaction."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from datetime import datetime
from typing import TYPE_CHECKING, Any, Self

from sqlalchemy import ColumnElement, Connection, select, update
from sqlalchemy.orm import InstrumentedAttribute, Session

from nas.errors import ConfigError, NotFound, StorageError
from nas.states import SearchState, TrialState
from nas.storage import lease, searches, statements, trials
from nas.storage.columns import now
from nas.storage.database import Database, Timed
from nas.storage.evaluations import Evaluations
from nas.storage.outage import Patience, repeatable
from nas.storage.schema import Artifact, Inherited, Search, Trial
from nas.storage.searches import NewInherited, NewSearch, Summary
from nas.storage.trials import Derivations, Measured, NewTrial, TrialCounts

if TYPE_CHECKING:
    from nas.controller import Outcome


class Store:
    """A database of searches, trials, measurements and artifacts; and, at `evaluations`, of evaluations.

    Rows come back detached: plain objects that further writes do not change. Any number of processes may read
    while the driver of each search writes. Every method raises StorageError where the database fails: locked,
    full, unreachable, unwritable. Once open, a server may be away for up to `outage.OUTAGE_SECONDS`: what was
    asked is done again, and what was written is there once. Only `create_search` without a name, `delete` and
    `add_artifact` are not done again.

    What a process drives it alone writes: from when another took a search over, what the former driver writes
    of it is refused, by the database and not by a clock.

    Args:
        url: `sqlite:///PATH` or `postgresql://USER:PASSWORD@HOST/NAME`.
        create: whether to create the tables where there are none (and the file of an SQLite database).
        patient: whether a server may be away from the beginning.

    Raises:
        ConfigError: the text is no database URL, or its driver is not installed.
        NotFound: there is no database, and `create` is false.
        StorageError: it cannot be opened, belongs to another program or is at another revision.
    """

    def __init__(self, url: str, *, create: bool = False, patient: bool = False) -> None:
        self._driven: set[int] = set()
        self._database = Database(url, create=create, patient=patient, returned=self._renew)
        self._architecture_ids: dict[tuple[int, str, str], int] = {}
        self.evaluations = Evaluations(self._database)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Close every connection."""
        self._database.close()

    @property
    def patience(self) -> Patience:
        """What outlasts the database's outages."""
        return self._database.patience

    @property
    def timed(self) -> Timed | None:
        """Who is told how long each transaction took; None: nobody."""
        return self._database.timed

    @timed.setter
    def timed(self, timed: Timed | None) -> None:
        self._database.timed = timed

    def read(self) -> AbstractContextManager[Session]:
        """Open a session for queries of one's own, which sees one state of the database throughout."""
        return self._database.read()

    # Searches

    def create_search(self, new: NewSearch, inherited: Sequence[NewInherited] = ()) -> Search:
        """Record a search that no one drives yet.

        Without a name it is called `{controller}-{space}-{tasks}`, made unique by `-2`, `-3`…

        Args:
            new: the search.
            inherited: what it knows of earlier ones.

        Raises:
            ConfigError: the name is taken, or is no name.
        """
        if new.name is None:  # after a lost connection it might be there under two names
            return self._create(new, inherited)
        return self.patience.outlast(lambda: self._create(new, inherited))

    def _create(self, new: NewSearch, inherited: Sequence[NewInherited]) -> Search:
        search = new.row()
        with self._database.edit() as session:
            searches.add(session, search, new.name)
            session.flush()
            rows = (
                Inherited(search_id=search.id, place=i, **one._asdict()) for i, one in enumerate(inherited)
            )
            session.add_all(rows)
        return search

    @repeatable
    def inherited(self, search_id: int) -> list[Inherited]:
        """Return what a search knew of earlier ones when it began, in order."""
        with self._database.read() as session:
            mine = select(Inherited).where(Inherited.search_id == search_id)
            return list(session.scalars(mine.order_by(Inherited.place)))

    @repeatable
    def check_free(self, name: str | None) -> None:
        """Refuse a name that a search has, before what takes long is done for a new one.

        Raises:
            ConfigError: the name is taken, or is no name.
        """
        if name is not None:
            with self._database.read() as session:
                searches.check_free(session, name)

    @repeatable
    def name(self, name: str | None, *parts: str) -> str:
        """Return the name that a new search would get now.

        Args:
            name: its own; None: it is made of its parts.
            parts: names of its controller, space and tasks.

        Raises:
            ConfigError: the name is taken, or is no name.
        """
        with self._database.read() as session:
            return searches.named(session, name, *parts)

    @repeatable
    def search(self, reference: str, *, whole: bool = False) -> Search:
        """Return a search by its name, by a prefix that no other name has, or the newest as `@last`.

        Args:
            reference: to it.
            whole: whether to refuse a prefix: what changes a search might else change another one.

        Raises:
            NotFound: no such search.
            ConfigError: several names have the prefix, or the name is to be whole.
        """
        with self._database.read() as session:
            found = searches.find(session, reference)
        if whole and reference not in (found.name, "@last"):
            raise ConfigError(
                f"'{reference}' only begins '{found.name}', and this changes it: give its whole name."
            )
        return found

    @repeatable
    def named(self, name: str) -> Search | None:
        """Return the search of this very name; None: there is none."""
        with self._database.read() as session:
            return session.scalar(select(Search).where(Search.name == name))

    @repeatable
    def searches(self, limit: int = 0, only: Sequence[int] | None = None) -> list[Summary]:
        """Return the searches, newest first, with their trials by state and their best completed score.

        Args:
            limit: how many at most; 0: all. Of others not a trial is read.
            only: ids of those that are asked for; None: all.
        """
        with self._database.read() as session:
            return searches.summaries(session, limit, only)

    @repeatable
    def names(self) -> list[str]:
        """Return the names of all searches, newest first."""
        with self._database.read() as session:
            return list(session.scalars(select(Search.name).order_by(Search.id.desc())))

    @repeatable
    def annotate(self, search_id: int, note: str | None) -> None:
        """Write a note about a search, in place of the one before; None leaves it without one.

        Raises:
            NotFound: there is none with this id.
        """
        with self._database.edit() as session:
            searches.locked(session, search_id).note = None if note is None else statements.storable(note)

    def delete(self, search_id: int) -> None:
        """Delete a search with its trials, measurements and artifacts (their files stay); evaluations stay.

        Raises:
            ConfigError: a live process drives it.
        """
        with self._database.edit() as session:
            searches.delete(session, search_id)

    # The driver's lease

    @repeatable
    def acquire(
        self, search_id: int, *, total: int = 0, known: TrialCounts | None = None, again: str | None = None
    ) -> Search:
        """Make this process the search's driver; it is `running` until `release`.

        Args:
            search_id: which.
            total: how many trials it is to run from now on, if more than before.
            known: the trials that the driver goes on from; None: whatever there are.
            again: the command that goes on with it as this process does; None: `nas resume NAME`.

        Raises:
            ConfigError: another live process drives it, or one did since its trials were read.
        """
        with self._database.edit() as session:
            search = searches.locked(session, search_id)
            if lease.driven(search) and not lease.mine(search):
                raise lease.refuse(search)
            if known is not None and known != trials.known(session, search_id):
                raise ConfigError(
                    f"Search '{search.name}' went on in another process since its trials were read. Run the "
                    "same command again."
                )
            search.trials = max(search.trials, total)
            search.state = SearchState.RUNNING.value
            search.host, search.pid, search.driver = lease.holder()
            search.heartbeat_at = now()
            search.started_at = search.started_at or search.heartbeat_at
            search.finished_at = None
            search.stop_requested = False
            search.environment = searches.continued(search.environment, again)
        self._driven.add(search_id)
        return search

    @repeatable
    def settle(self, search_id: int, environment: dict[str, Any]) -> None:
        """Replace what is recorded of where a search runs.

        Raises:
            StorageError: another process took over what this one drove.
        """
        with self._database.edit() as session:
            self._fence(session.connection(), search=search_id)
            searches.locked(session, search_id).environment = environment

    @repeatable
    def heartbeat(self, search_id: int) -> bool:
        """Tell that this driver lives; return whether it is asked to stop.

        Raises:
            StorageError: another process took the search over, or it was deleted.
        """
        return self._beat(search_id)

    def _renew(self) -> None:
        """Show a sign of life after an outage: another driver may have taken a search over meanwhile."""
        for search_id in self._driven:
            self._beat(search_id)

    def _beat(self, search_id: int) -> bool:
        by = lease.holder().driver
        with self._database.write() as connection:
            asked: bool | None = connection.scalar(
                statements.HEARTBEAT, {"search": search_id, "by": by, "heartbeat_at": now()}
            )
        if asked is None:
            raise _taken()
        return asked

    def _by(self, search_id: int | None = None) -> str | None:
        """Return who alone may write to a search, or to trials, acquired here; None: acquired elsewhere."""
        driven = self._driven if search_id is None else self._driven & {search_id}
        return lease.holder().driver if driven else None

    def _fence(self, connection: Connection, *, search: int | None = None, trial: int | None = None) -> None:
        """Refuse a write to a search, or to a trial, that this process drove and another took over.

        Raises:
            StorageError: another process drives it.
        """
        by = self._by(search)
        if by is None:
            return
        statement, of = (
            (statements.DRIVES_TRIAL, {"trial": trial})
            if search is None
            else (statements.DRIVES_SEARCH, {"search_id": search})
        )
        if connection.scalar(statement, {"by": by, **of}) is None:
            raise _taken()

    @repeatable
    def request_stop(self, search_id: int) -> None:
        """Ask the search's driver to stop; it hears of it at its next heartbeat."""
        with self._database.edit() as session:
            searches.locked(session, search_id).stop_requested = True

    @repeatable
    def release(self, search_id: int, state: SearchState | str) -> None:
        """Leave the search in a state other than `running`; nothing happens if another process drives it."""
        with self._database.edit() as session:
            search = searches.locked(session, search_id)
            if lease.mine(search):
                search.state, search.finished_at = SearchState(state).value, now()
        self._driven.discard(search_id)

    @repeatable
    def restore(self, before: Search) -> None:
        """Undo `acquire` where nothing could be run; nothing happens if another process drives the search."""
        with self._database.edit() as session:
            search = searches.locked(session, before.id)
            if lease.mine(search):
                for column in ("trials", "environment", "state", "started_at", "finished_at", *lease.COLUMNS):
                    setattr(search, column, getattr(before, column))
        self._driven.discard(before.id)

    # Trials

    def begin(self, search_id: int, new: NewTrial, outcome: Outcome | None = None) -> int:
        """Record that a trial runs; return its id.

        Args:
            search_id: whose trial it is.
            new: the trial.
            outcome: of a trial that needs no worker: it begins and ends in one transaction.

        Raises:
            ValueError: the outcome is not final.
            StorageError: another process took over the search that this one drove.
        """
        return self._begin(search_id, new, outcome, now())

    @repeatable
    def _begin(self, search_id: int, new: NewTrial, outcome: Outcome | None, began: datetime) -> int:
        identity = search_id, new.space, new.key or ""
        architecture_id = None if new.key is None else self._architecture_ids.get(identity)
        with self._database.write() as connection:
            if architecture_id is None and new.key is not None:
                upsert = statements.upsert_architecture(connection.dialect.name)
                found = {"space": new.space, "key": new.key, "text": new.architecture}
                architecture_id = connection.scalar(upsert, found)
            trial_id = trials.insert(connection, search_id, new, architecture_id, began, self._by(search_id))
            if trial_id is None:
                self._fence(connection, search=search_id)
                raise StorageError(
                    f"Another process recorded trial {new.number} of this search. "
                    "See `nas ls` for who drives it."
                )
            if outcome is not None:
                trials.close(connection, trial_id, outcome, began)
        if architecture_id is not None:
            # A trial of this search now refers to the architecture, so it stays as long as the search does.
            self._architecture_ids[identity] = architecture_id
        return trial_id

    @repeatable
    def restart(self, trial_id: int, *, attempt: int, seed: int, seconds: float = 0.0) -> None:
        """Run a trial again that failed or was interrupted before it was recorded as final.

        Args:
            trial_id: which.
            attempt: how often it was tried before.
            seed: of the training, in [0, 2⁶³).
            seconds: worker time that the attempts before took.

        Raises:
            ValueError: it is final.
            StorageError: another process took over the search that this one drove.
        """
        with self._database.write() as connection:
            self._fence(connection, trial=trial_id)
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

    def finish(self, trial_id: int, outcome: Outcome, derivations: Derivations | None = None) -> int | None:
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
            StorageError: another process took over the search that this one drove.
        """
        return self._finish(trial_id, outcome, derivations, now())

    @repeatable
    def _finish(
        self, trial_id: int, outcome: Outcome, derivations: Derivations | None, ended: datetime
    ) -> int | None:
        with self._database.write() as connection:
            place = trials.close(connection, trial_id, outcome, ended, derivations, self._by())
            if place is None:
                self._fence(connection, trial=trial_id)
            return place

    @repeatable
    def interrupt(self, search_id: int) -> int:
        """Mark the running trials of a search as interrupted; return how many there were.

        Raises:
            StorageError: another process took over the search that this one drove.
        """
        running = update(Trial).where(Trial.search_id == search_id, Trial.state == TrialState.RUNNING.value)
        with self._database.write() as connection:
            self._fence(connection, search=search_id)
            return connection.execute(running.values(state=TrialState.INTERRUPTED.value)).rowcount

    def trials(self, search_id: int) -> list[Trial]:
        """Return the trials of a search by number."""
        return self._trials(Trial.search_id == search_id, order=Trial.number)

    def unfinished(self, search_id: int) -> list[Trial]:
        """Return the running and interrupted trials by number."""
        return self._trials(Trial.search_id == search_id, Trial.observed.is_(None), order=Trial.number)

    def history(self, search_id: int, after: int = 0) -> list[Trial]:
        """Return the final trials in the order of their outcomes, those after the first `after`."""
        return self._trials(Trial.search_id == search_id, Trial.observed > after, order=Trial.observed)

    @repeatable
    def _trials(self, *where: ColumnElement[bool], order: InstrumentedAttribute[Any]) -> list[Trial]:
        with self._database.read() as session:
            return list(session.scalars(select(Trial).where(*where).order_by(order)))

    @repeatable
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

    @repeatable
    def measurements(self, search_id: int, number: int | None = None) -> list[Measured]:
        """Return what the trials of a search measured, or one of them: by number, then metric, then step."""
        with self._database.read() as session:
            return trials.measurements(session, search_id, number)

    def lineage(self, trial: Trial) -> list[Trial]:
        """Return the trials that a training went through, the first one first and this one last."""
        found = [trial]
        while (parent := found[0].parent) is not None:
            found.insert(0, self.trial(trial.search_id, parent))
        return found

    def add_artifact(self, trial_id: int, *, kind: str, uri: str, sha256: str, bytes: int) -> None:
        """Record a file that a trial left behind."""
        with self._database.edit() as session:
            session.add(
                Artifact(trial_id=trial_id, kind=kind, uri=uri, sha256=sha256, bytes=bytes, created_at=now())
            )

    @repeatable
    def artifacts(self, trial_id: int) -> list[Artifact]:
        """Return the files of a trial, oldest first."""
        with self._database.read() as session:
            return list(
                session.scalars(select(Artifact).where(Artifact.trial_id == trial_id).order_by(Artifact.id))
            )


def _taken() -> StorageError:
    host, pid, _ = lease.holder()
    return StorageError(
        f"This process (pid {pid} on host {host}) no longer drives the search: another took it over, "
        "or it was deleted. See `nas ls`."
    )
