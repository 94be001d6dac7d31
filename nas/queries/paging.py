"""Trials of one search, a page at a time: filtered, sorted and cut by the database, whatever their number."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import ColumnElement, and_, func, or_, select
from sqlalchemy.orm import InstrumentedAttribute, Session

from nas.costs import COSTS
from nas.errors import ConfigError, UnknownName
from nas.queries.chosen import Texts
from nas.queries.trials import TrialRow, trial
from nas.states import TrialState
from nas.storage.schema import Search, Trial
from nas.storage.store import Store

SORTS: dict[str, InstrumentedAttribute[Any]] = {
    "trial": Trial.number,
    "state": Trial.state,
    "score": Trial.score,
    **{name: getattr(Trial, name) for name in COSTS},
    "train_episodes": Trial.train_episodes,
    "architecture": Trial.architecture,
    "finished_at": Trial.finished_at,
}
"""Columns that trials are sorted by; those without a value come last."""


@dataclass(frozen=True, slots=True)
class TrialsQuery:
    """Which trials of a search, and in which order.

    Attributes:
        state: of the trials; None: any.
        text: that the architecture contains; None: any.
        limits: by cost, inclusive; trials whose cost is unknown are left out.
        sort: one of `SORTS`; of equal values the smaller number comes first.
        descending: whether the largest comes first.
        after, before: number of a trial: the page begins after it, or ends before it; one of them at most.
        last: whether the last page is asked for.
        limit: how many trials a page has.

    Raises:
        UnknownName: no such state, cost or column.
        ConfigError: `limit` is not positive.
    """

    state: str | None = None
    text: str | None = None
    limits: Mapping[str, float] = field(default_factory=dict)
    sort: str = "trial"
    descending: bool = True
    after: int | None = None
    before: int | None = None
    last: bool = False
    limit: int = 50

    def __post_init__(self) -> None:
        states = [state.value for state in TrialState]
        for what, given, allowed in (
            ("state", () if self.state is None else (self.state,), states),
            ("cost in limits", self.limits, COSTS),
            ("column in sort", (self.sort,), tuple(SORTS)),
        ):
            for name in given:
                if name not in allowed:
                    raise UnknownName(what, name, allowed)
        if self.limit < 1:
            raise ConfigError(f"limit: {self.limit} trials; a page has 1 or more.")

    def where(self, dialect: str) -> list[ColumnElement[bool]]:
        """Return what the trials have to meet, their search aside, in the words of a kind of database."""
        found: list[ColumnElement[bool]] = []
        if self.state is not None:
            found.append(Trial.state == self.state)
        if self.text is not None:
            text = Trial.architecture
            contains = text.contains if dialect == "sqlite" else text.icontains  # LIKE ignores case there
            found.append(contains(self.text, autoescape=True))
        return found + [SORTS[name] <= limit for name, limit in self.limits.items()]


@dataclass(frozen=True, slots=True)
class TrialsPage:
    """Some trials of a search.

    Attributes:
        rows: in the order asked for.
        total: how many trials match, on all pages.
        earlier, later: whether there are pages before and after this one.
    """

    rows: tuple[TrialRow, ...]
    total: int
    earlier: bool
    later: bool


def page(store: Store, search: Search, query: TrialsQuery) -> TrialsPage:
    """Return one page of a search's trials; no more of them than it shows leave the database."""
    backwards = query.last or query.before is not None
    mark = query.before if query.before is not None else query.after
    with store.read() as session:
        where = [Trial.search_id == search.id, *query.where(session.get_bind().dialect.name)]
        total = session.scalar(select(func.count()).select_from(Trial).where(*where)) or 0
        start = None if mark is None or query.last else _place(session, search.id, query.sort, mark)
        numbers = _numbers(session, where, query, start, backwards=backwards) if total else []
        more = len(numbers) > query.limit
        numbers = numbers[: query.limit]
        if backwards:
            numbers.reverse()
        shown = select(Trial).where(Trial.search_id == search.id, Trial.number.in_(numbers))
        found = {row.number: row for row in session.scalars(shown)}
    texts = Texts(search.config.get("slots"))
    rows = tuple(trial(found[number], texts) for number in numbers)
    if backwards:
        return TrialsPage(rows, total, earlier=more, later=start is not None)
    return TrialsPage(rows, total, earlier=start is not None, later=more)


Place = tuple[Any, int]
"""What a trial is sorted by, and its number."""


def _place(session: Session, search_id: int, sort: str, number: int) -> Place | None:
    """Return where a trial stands; None: there is none of this number."""
    mine = select(SORTS[sort]).where(Trial.search_id == search_id, Trial.number == number)
    found = session.execute(mine).one_or_none()
    return None if found is None else (found[0], number)


def _numbers(
    session: Session,
    where: Sequence[ColumnElement[bool]],
    query: TrialsQuery,
    start: Place | None,
    *,
    backwards: bool,
) -> list[int]:
    """Return the numbers of a page's trials and of one more, if there is one; backwards: the last one first.

    Trials with a value and those without are asked for apart: so an index gives each in its order.
    """
    column = SORTS[query.sort]
    falls = query.descending != backwards
    by_value = column.desc() if falls else column.asc()
    by_number = Trial.number.desc() if backwards else Trial.number.asc()
    parts: list[tuple[ColumnElement[bool], list[ColumnElement[Any]]]]
    parts = [(column.is_not(None), [by_value, by_number]), (column.is_(None), [by_number])]
    if column is Trial.number:
        parts = [(column.is_not(None), [by_value])]
    elif backwards:
        parts.reverse()
    if start is not None:
        value, number = start
        beyond = Trial.number < number if backwards else Trial.number > number
        if value is None:
            reached, place = beyond, int(not backwards)
        elif column is Trial.number:
            reached, place = (column < value if falls else column > value), 0
        else:
            bound = column <= value if falls else column >= value
            reached, place = and_(bound, or_(column != value, beyond)), int(backwards)
        condition, order = parts[place]
        parts = [(and_(condition, reached), order), *parts[place + 1 :]]
    numbers: list[int] = []
    for condition, order in parts:
        rest = query.limit + 1 - len(numbers)
        if rest > 0:
            asked = select(Trial.number).where(*where, condition).order_by(*order).limit(rest)
            numbers += session.scalars(asked)
    return numbers
