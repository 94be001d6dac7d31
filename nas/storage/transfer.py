"""Searches and evaluations copied from one database into another: each once, and all or nothing.

A search is the same in two databases if it began at the same microsecond with the same configuration: both
stay as they are, whatever it is called. A trial is the same by its number and by when and as which outcome it
ended. An evaluation is the same by its network, settings and seed, of which a database has one.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import islice
from typing import Any, NamedTuple, TypeVar

from sqlalchemy import ColumnElement, delete, insert, or_, select, text
from sqlalchemy.orm import InstrumentedAttribute, Session

from nas.errors import ConfigError
from nas.states import EvaluationState, SearchState, TrialState
from nas.storage import lease, names, searches
from nas.storage.schema import (
    Architecture,
    Artifact,
    Base,
    Evaluation,
    EvaluationMeasurement,
    EvaluationScore,
    Inherited,
    Measurement,
    Search,
    Trial,
)
from nas.storage.statements import into

AT_ONCE = 500
"""Rows in one statement: databases limit how many values it may have."""

MANY = 5_000
"""Rows read at a time where there may be millions."""

_LOCK = 0x6E617369
"""Key of the PostgreSQL advisory lock under which one process at a time imports: "nasi" in ASCII."""

_NOBODY = dict.fromkeys(lease.COLUMNS)
_HERE = ("id", "search_id", "architecture_id", "trial_id", "evaluation_id")
"""Columns whose values mean something in one database alone."""

Item = TypeVar("Item")
Row = dict[str, Any]


@dataclass(slots=True)
class Copied:
    """What came of it.

    Attributes:
        added: names of searches that are new, as they are called now.
        renamed: those of them that had another name, by it.
        extended: names of searches that were there with fewer trials.
        known: names of searches that were there, as far or further.
        evaluations: how many are new, or have a result now.
        evaluations_known: how many were there.
    """

    added: list[str] = field(default_factory=list)
    renamed: dict[str, str] = field(default_factory=dict)
    extended: list[str] = field(default_factory=list)
    known: list[str] = field(default_factory=list)
    evaluations: int = 0
    evaluations_known: int = 0


class _Placed(NamedTuple):
    """A search of the source in the target."""

    id: int
    name: str


Relocate = Callable[[Artifact], str]
"""Returns where the file of an artifact of the source is to be found from the target."""


def copy(
    source: Session, target: Session, chosen: Collection[int] | None, *, relocate: Relocate, rename: bool
) -> Copied:
    """Copy searches with all that belongs to them, and the evaluations of what they tried.

    Nobody drives what was copied: what ran is interrupted.

    Args:
        source: read.
        target: written; its transaction is the caller's.
        chosen: ids of searches; None: all, and all evaluations.
        relocate: tells where files are.
        rename: whether a search whose name another one has gets a free one.

    Raises:
        ConfigError: a name is taken by another search, or a search went on in both databases.
    """
    return _Copy(source, target, relocate).run(chosen, rename)


class _Copy:
    def __init__(self, source: Session, target: Session, relocate: Relocate) -> None:
        self._source, self._target, self._relocate = source, target, relocate
        self._dialect = target.get_bind().dialect.name
        self._architectures: dict[int, int] = {}
        self._placed: dict[int, _Placed | None] = {}
        self._copied = Copied()

    def run(self, chosen: Collection[int] | None, rename: bool) -> Copied:
        if self._dialect == "postgresql":  # SQLite has one writer anyway; drivers go on meanwhile
            self._target.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
        everything = select(Search).order_by(Search.id)
        wanted = everything if chosen is None else everything.where(Search.id.in_(chosen))
        rows = list(self._source.scalars(wanted))
        twins = {row.id: self._twin(row) for row in rows}
        called = self._names([row for row in rows if twins[row.id] is None], rename)
        for row in rows:
            twin = twins[row.id]
            if twin is None:
                self._add(row, called[row.id])
            else:
                self._placed[row.id] = _Placed(twin.id, twin.name)
                self._extend(row, twin)
        self._evaluations(None if chosen is None else [row.id for row in rows])
        return self._copied

    # Searches

    def _twin(self, row: Search) -> Search | None:
        """Return the same search in the target."""
        same = self._target.scalars(select(Search).where(Search.created_at == row.created_at))
        return next((found for found in same if found.config == row.config), None)

    def _names(self, new: Sequence[Search], rename: bool) -> dict[int, str]:
        """Return what new searches will be called.

        Raises:
            ConfigError: a name is taken.
        """
        taken = set(self._target.scalars(select(Search.name)))
        clashes = [row.name for row in new if row.name in taken]
        if clashes and not rename:
            raise ConfigError(
                f"Other searches have these names here: {', '.join(clashes)}. Nothing was imported. With "
                f"--rename they get free ones, such as {names.free(clashes[0], taken)}."
            )
        called = {}
        for row in new:
            called[row.id] = names.free(row.name, taken)
            taken.add(called[row.id])
        return called

    def _add(self, row: Search, name: str) -> None:
        values = {**_values(row), "name": name, "state": _left(row.state), **_NOBODY, "stop_requested": False}
        values["environment"] = searches.continued(row.environment, None)
        search_id: int = self._target.scalars(insert(Search).returning(Search.id), [values]).one()
        self._placed[row.id] = _Placed(search_id, name)
        self._copied.added.append(name)
        if name != row.name:
            self._copied.renamed[row.name] = name
        mine = select(Inherited).where(Inherited.search_id == row.id).order_by(Inherited.place)
        self._insert(
            Inherited, ({**_values(one), "search_id": search_id} for one in self._source.scalars(mine))
        )
        self._trials(row.id, search_id, keep=())

    def _extend(self, row: Search, twin: Search) -> None:
        """Add what became of a search since it was copied: further trials, or that it is completed.

        Raises:
            ConfigError: it went on in both places, or a process drives it here.
        """
        there, here = self._ended(self._source, row.id), self._ended(self._target, twin.id)
        finished = row.state == SearchState.COMPLETED and twin.state == SearchState.INTERRUPTED
        finished = finished and there == here and row.trials == twin.trials
        if there.items() <= here.items() and not finished:
            self._copied.known.append(twin.name)
            return
        if not here.items() <= there.items():
            raise ConfigError(
                f"Search '{twin.name}' went on here and in the file '{row.name}' since they parted, so that "
                "they are two now. Nothing was imported. Delete one of them with `nas rm`, and import again."
            )
        twin = searches.locked(self._target, twin.id)
        if lease.driven(twin):
            raise lease.refuse(twin)
        open_ = delete(Trial).where(Trial.search_id == twin.id, Trial.observed.is_(None))
        self._target.execute(open_)
        twin.state, twin.trials = _left(row.state), max(row.trials, twin.trials)
        twin.started_at, twin.finished_at = row.started_at, row.finished_at
        twin.environment = searches.continued(row.environment, None)
        self._target.flush()
        self._trials(row.id, twin.id, keep=here.keys())
        self._copied.extended.append(twin.name)

    @staticmethod
    def _ended(session: Session, search_id: int) -> dict[int, tuple[int | None, datetime | None]]:
        """Return the outcomes of a search by the number of the trial."""
        rows = session.execute(
            select(Trial.number, Trial.observed, Trial.finished_at).where(
                Trial.search_id == search_id, Trial.observed.is_not(None)
            )
        )
        return {number: (observed, finished) for number, observed, finished in rows}

    def _trials(self, of: int, search_id: int, keep: Collection[int]) -> None:
        """Copy the trials of a search but those whose numbers are to be kept as they are."""
        mine = select(Trial).where(Trial.search_id == of).order_by(Trial.number)
        rows = self._source.scalars(mine.execution_options(yield_per=AT_ONCE))
        new = (row for row in rows if row.number not in keep)
        for some in _batches(new, AT_ONCE):
            self._know({row.architecture_id for row in some if row.architecture_id is not None})
            self._insert(
                Trial,
                [
                    {
                        **_values(row),
                        "search_id": search_id,
                        "architecture_id": row.architecture_id and self._architectures[row.architecture_id],
                        "state": _left_trial(row.state),
                    }
                    for row in some
                ],
            )
            for row in some:
                self._source.expunge(row)
        here = self._target.execute(select(Trial.number, Trial.id).where(Trial.search_id == search_id))
        ids = {number: trial_id for number, trial_id in here}  # noqa: C416
        self._children(Measurement, Trial.number, Trial.id, Trial.search_id == of, ids, keep)
        self._artifacts(Artifact.trial_id, Trial.number, Trial.id, Trial.search_id == of, ids, keep)

    def _know(self, ids: set[int]) -> None:
        """Find or add architectures of the source in the target."""
        unknown = sorted(ids - self._architectures.keys())
        for some in _batches(unknown, AT_ONCE):
            rows = list(self._source.scalars(select(Architecture).where(Architecture.id.in_(some))))
            add = into(self._dialect, Architecture).on_conflict_do_nothing(
                index_elements=[Architecture.space, Architecture.key]
            )
            self._target.execute(add, [_values(row) for row in rows])
            for space in {row.space for row in rows}:
                keys = {row.key: row.id for row in rows if row.space == space}
                found = self._target.execute(
                    select(Architecture.key, Architecture.id).where(
                        Architecture.space == space, Architecture.key.in_(keys)
                    )
                )
                self._architectures |= {keys[key]: here for key, here in found}

    # Evaluations

    def _evaluations(self, of: Sequence[int] | None) -> None:
        """Copy the evaluations of what these searches tried or proposed; None: all."""
        wanted = select(Evaluation).order_by(Evaluation.id)
        if of is not None:
            tried = select(Trial.architecture_id).where(Trial.search_id.in_(of))
            wanted = wanted.where(
                or_(Evaluation.origin_search_id.in_(of), Evaluation.architecture_id.in_(tried))
            )
        for row in self._source.scalars(wanted):
            self._evaluation(row)

    def _evaluation(self, row: Evaluation) -> None:
        self._know({row.architecture_id})
        architecture = self._architectures[row.architecture_id]
        same = select(Evaluation).where(
            Evaluation.architecture_id == architecture,
            Evaluation.settings == row.settings,
            Evaluation.seed == row.seed,
        )
        found = self._target.scalar(same)
        if found is not None and (_scored(found) or not _scored(row) or lease.driven(found)):
            self._copied.evaluations_known += 1
            return
        if found is not None:
            self._target.delete(found)
            self._target.flush()
        state = EvaluationState.COMPLETED.value if _scored(row) else _left(row.state)
        values = {**_values(row), "architecture_id": architecture, **_NOBODY, "state": state}
        origin = None if row.origin_search_id is None else self._place(row.origin_search_id)
        values["origin_search_id"] = origin and origin.id
        if origin is not None:
            values["origin_search"] = origin.name
        here: int = self._target.scalars(insert(Evaluation).returning(Evaluation.id), [values]).one()
        self._copied.evaluations += 1
        own, ids = Evaluation.id == row.id, {row.id: here}
        for kind in (EvaluationMeasurement, EvaluationScore):
            self._children(kind, Evaluation.id, Evaluation.id, own, ids, ())
        self._artifacts(Artifact.evaluation_id, Evaluation.id, Evaluation.id, own, ids, ())

    def _place(self, search_id: int) -> _Placed | None:
        """Return where a search of the source is in the target; None: it is not there."""
        if search_id not in self._placed:
            row = self._source.get(Search, search_id)
            twin = None if row is None else self._twin(row)
            self._placed[search_id] = None if twin is None else _Placed(twin.id, twin.name)
        return self._placed[search_id]

    # Rows of rows

    def _children(
        self,
        kind: type[Measurement | EvaluationMeasurement | EvaluationScore],
        key: InstrumentedAttribute[int],
        parent: InstrumentedAttribute[int],
        which: ColumnElement[bool],
        ids: Mapping[int, int],
        keep: Collection[int],
    ) -> None:
        """Copy what was measured; `ids` are those of the parents in the target, by a key of the source's."""
        table = kind.__table__
        refers = next(column for column in table.c if column.foreign_keys)
        rest = [column for column in table.c if column is not refers]
        rows = self._source.execute(
            select(key, *rest).join(kind, refers == parent).where(which).execution_options(yield_per=MANY)
        )
        called = [column.name for column in rest]
        new = (
            {refers.name: ids[of], **dict(zip(called, values, strict=True))}
            for of, *values in rows
            if of not in keep
        )
        self._insert(kind, new)

    def _artifacts(
        self,
        refers: InstrumentedAttribute[int | None],
        key: InstrumentedAttribute[int],
        parent: InstrumentedAttribute[int],
        which: ColumnElement[bool],
        ids: Mapping[int, int],
        keep: Collection[int],
    ) -> None:
        rows = self._source.execute(
            select(key, Artifact).join(Artifact, refers == parent).where(which).order_by(Artifact.id)
        )
        self._insert(
            Artifact,
            [
                {**_values(file), refers.key: ids[number], "uri": self._relocate(file)}
                for number, file in rows
                if number not in keep
            ],
        )

    def _insert(self, kind: type[Base], rows: Iterable[Row]) -> None:
        for some in _batches(rows, AT_ONCE):
            self._target.execute(insert(kind.__table__), some)  # type: ignore[arg-type]


def _values(row: Base) -> Row:
    """Return the columns of a row that mean the same in every database."""
    return {column.key: getattr(row, column.key) for column in row.__table__.c if column.key not in _HERE}


def _scored(row: Evaluation) -> bool:
    """Return whether an evaluation has a result, which it keeps while it is run again."""
    return row.state == EvaluationState.COMPLETED or row.test_score is not None


def _left(state: str) -> str:
    """Return the state of a search or an evaluation once nobody drives it."""
    return SearchState.INTERRUPTED.value if state == SearchState.RUNNING else state


def _left_trial(state: str) -> str:
    return TrialState.INTERRUPTED.value if state == TrialState.RUNNING else state


def _batches(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    source = iter(items)
    while some := list(islice(source, size)):
        yield some
