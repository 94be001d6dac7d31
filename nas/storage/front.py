"""Pareto fronts, found with few rows leaving the database."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import ColumnElement, and_, or_, select
from sqlalchemy.orm import InstrumentedAttribute, Session

from nas.objective import GOALS, SCORE
from nas.pareto import nondominated
from nas.storage.schema import Trial

FIELDS: dict[str, InstrumentedAttribute[Any]] = {name: getattr(Trial, name) for name in GOALS}
"""What trials are ranked by: the score, where more is better, and costs, where less is."""

FIRST_ROUND = 250
"""Rows fetched in the first round; each one doubles it."""

PIVOTS = 8
"""How much of a front the next round is pruned with."""


def front(session: Session, fields: Sequence[str], where: Sequence[ColumnElement[bool]]) -> list[int]:
    """Return the ids of the trials that no other one matches in all fields and beats in one.

    The candidates are the trials that meet `where` and have a value in every field.

    Some rows, the best by the first field, are fetched first; what their front dominates need not be fetched
    at all. Each round does this with more rows, until they are all that is left.
    """
    columns = [FIELDS[field] for field in fields]
    signs = [-1 if field == SCORE else 1 for field in fields]
    order = [column.desc() if sign < 0 else column for column, sign in zip(columns, signs, strict=True)]
    candidates = select(Trial.id, *columns).where(*where, *(column.is_not(None) for column in columns))
    candidates = candidates.order_by(*order)
    kept: list[ColumnElement[bool]] = []
    size = FIRST_ROUND
    while True:
        rows = session.execute(candidates.where(*kept).limit(size)).all()
        best = nondominated([tuple(s * v for s, v in zip(signs, row[1:], strict=True)) for row in rows])
        if len(rows) < size:
            return [rows[i][0] for i in best]
        pivots = [rows[i][1:] for i in {*best[:: 1 + len(best) // PIVOTS], best[-1]}]
        kept = [_beats_or_is(columns, signs, pivot) for pivot in pivots]
        size *= 2


def _beats_or_is(
    columns: Sequence[InstrumentedAttribute[Any]], signs: Sequence[int], pivot: Sequence[float]
) -> ColumnElement[bool]:
    pairs = list(zip(columns, pivot, strict=True))
    beats = [c > v if s < 0 else c < v for (c, v), s in zip(pairs, signs, strict=True)]
    return or_(*beats, and_(*(c == v for c, v in pairs)))
