"""The verb that sets searches side by side."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from nas.cli.options import DEFAULT_DB, DbOption, hint
from nas.cli.output import Format, FormatOption, emit, say

if TYPE_CHECKING:
    from nas.comparison.curves import Curve
    from nas.comparison.groups import Group
    from nas.storage.schema import Search
    from nas.storage.store import Store

COLUMNS = (
    "group",
    "searches",
    "trials",
    "reused",
    "score",
    "score_std",
    "score_ci95",
    "p_score",
    "test",
    "test_std",
    "test_ci95",
    "p_test",
)

SearchesArgument = Annotated[
    list[str],
    typer.Argument(
        metavar="NAME…",
        help="Searches: names, beginnings of names (all that begin so), patterns such as 'a-*-1', or @last.",
    ),
]


def register(app: typer.Typer) -> None:
    """Add this verb to the command line."""
    app.command()(compare)


def compare(names: SearchesArgument, form: FormatOption = Format.TABLE, db: DbOption = DEFAULT_DB) -> None:
    """Compare searches at equal cost: means over seeds, intervals, and a rank test against random search.

    Searches that differ in the seed alone are one row. All are compared at the worker time that the shortest
    of them took, by the best score so far and, where it is known, the test score of the same architecture.
    """
    from nas.comparison.groups import find
    from nas.storage.store import Store

    with Store(db, create=False) as store:
        report(store, find(store, names), form, db)


def gather(store: Store, searches: Sequence[Search]) -> tuple[list[Group], list[list[Curve]]]:
    """Return the groups of searches and the curves of each, and say what is unusual about them.

    Raises:
        ConfigError: their scores do not compare.
    """
    from nas.comparison.curves import curves
    from nas.comparison.groups import grouped

    groups, repeated = grouped(searches)
    if repeated:
        say(f"Left out, since an older search has the same settings and seed: {', '.join(repeated)}.")
    unfinished = [f"'{s.name}' ({s.state})" for g in groups for s in g.searches if s.state != "completed"]
    if unfinished:
        more = f" and {len(unfinished) - 3} more" if len(unfinished) > 3 else ""
        say(f"Not complete: {', '.join(unfinished[:3])}{more}; `nas resume NAME` goes on.")
    return groups, [curves(store, group.searches) for group in groups]


def report(store: Store, searches: Sequence[Search], form: Format, db: str) -> None:
    """Print the table of a comparison, and what it means.

    Raises:
        ConfigError: the scores do not compare.
        NotFound: a search has no trial that ended.
    """
    from nas.comparison.command import like
    from nas.comparison.groups import BASELINE
    from nas.comparison.summary import equal_cost, summarize

    groups, curves = gather(store, searches)
    cost = equal_cost(curves)
    rows = summarize(groups, curves, cost)
    shown = [column for column in COLUMNS if any(_known(getattr(row, column)) for row in rows)]
    spaces = {row.space for row in rows}
    emit(
        [_rounded(asdict(row), form) for row in rows],
        form,
        ["group", *(["space"] if len(spaces) > 1 else []), *shown[1:]],
    )
    task = groups[0].searches[0].task_label
    say(
        f"{task}, each search after {cost:,.0f} s of worker time, as long as the shortest took. score: best "
        "so far, mean over searches; std: standard deviation; ci95: half of the mean's 95 % interval."
    )
    if any(row.p_score is not None for row in rows):
        say("p: two-sided Mann-Whitney rank test against random search.")
    lacking = [g for g in groups if not any(o.controller == BASELINE and o.space == g.space for o in groups)]
    if lacking:
        say(f"No random search beside {', '.join(g.label for g in lacking)}. The line to beat:")
        say(f"  {like(lacking[0].searches[0], BASELINE)}{hint(db)}")
    for row, group in zip(rows, groups, strict=True):
        if row.searches < len(group.searches):
            say(f"{row.group}: {len(group.searches) - row.searches} searches had no score by then.")


def _known(value: object) -> bool:
    return value is not None and not (isinstance(value, float) and math.isnan(value))


def _rounded(row: dict[str, object], form: Format) -> dict[str, object]:
    """Return a row as people read it: means of counts short, small probabilities with their power of ten."""
    if form not in (Format.TABLE, Format.MARKDOWN):
        return row
    shown = dict(row)
    for key in ("trials", "reused"):
        shown[key] = f"{row[key]:.1f}"
    for key in ("p_score", "p_test"):
        shown[key] = None if row[key] is None else f"{row[key]:.2g}"
    return shown
