"""The verb that sets searches side by side."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nas.cli import completion, remarks
from nas.cli.options import DEFAULT_DB, DbOption
from nas.cli.output import Format, FormatOption, WideOption, emit, say
from nas.cli.remarks import some
from nas.errors import NotFound

if TYPE_CHECKING:
    from nas.comparison.curves import Curve
    from nas.comparison.groups import Group
    from nas.storage.schema import Search
    from nas.storage.store import Store

COLUMNS = (
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
    "rho",
    "pairs",
    "rho_random",
    "pairs_random",
)
DROP = (
    "reused",
    "pairs",
    "pairs_random",
    "score_std",
    "test_std",
    "trials",
    "rho",
    "rho_random",
    "p_test",
    "searches",
)
"""What a narrow terminal can do without, the least telling first: each mean keeps its interval."""

LEFT_OUT = 0.1
"""The share of all trials which, left out for equal cost, is worth a remedy."""

SearchesArgument = Annotated[
    list[str],
    typer.Argument(
        metavar="NAME…",
        help="Searches: names, beginnings of names (all that begin so), patterns such as 'a-*-1', or @last.",
        autocompletion=completion.searches,
    ),
]
CompleteOption = Annotated[bool, typer.Option("--complete", help="Leave out searches that are not complete.")]


def register(app: typer.Typer) -> None:
    """Add this verb to the command line."""
    app.command()(compare)


def compare(
    names: SearchesArgument,
    complete: CompleteOption = False,
    form: FormatOption = Format.TABLE,
    wide: WideOption = False,
    db: DbOption = DEFAULT_DB,
) -> None:
    """Compare searches at equal cost: means over seeds, intervals, and a rank test against random search.

    Searches that differ in the seed alone are one row. All are compared at the worker time that the shortest
    of them took, by the best score so far and, where it is known, the test score of the same architecture. A
    search that ended early for lack of new networks keeps its best from there on, and shortens no other.
    Of one-shot searches it also tells how far scores with shared weights foretell those from scratch, and
    which supernets ended early.
    """
    from nas.comparison.groups import find
    from nas.storage.store import Store

    with Store(db) as store:
        report(store, find(store, names), form, complete=complete, wide=wide)


def gather(
    store: Store, searches: Sequence[Search], *, complete: bool
) -> tuple[list[Group], list[list[Curve]]]:
    """Return the groups of searches and the curves of each, and say what is unusual about them.

    Args:
        store: where they are.
        searches: at least one.
        complete: whether to leave out searches that are not.

    Raises:
        ConfigError: their scores do not compare.
        NotFound: none is complete, and all are to be.
    """
    from nas.comparison.curves import curves
    from nas.comparison.groups import grouped

    if complete:
        out = [search for search in searches if search.state != "completed"]
        searches = [search for search in searches if search.state == "completed"]
        if not searches:
            raise NotFound("None of these searches is complete; list them with `nas ls`.")
        if out:
            say(f"Left out, not complete: {some([_named(search) for search in out])}.")
    groups, repeated = grouped(searches)
    if repeated:
        say(f"Left out, since an older search has the same settings and seed: {some(repeated)}.")
    unfinished = [search for group in groups for search in group.searches if search.state != "completed"]
    if unfinished:
        say(
            f"Not complete: {some([_named(search) for search in unfinished])}. Go on with "
            f"`nas resume {unfinished[0].name}`, or leave what is not complete out with --complete."
        )
    return groups, [curves(store, group.searches) for group in groups]


def at_equal_cost(
    groups: Sequence[Group], curves: Sequence[Sequence[Curve]]
) -> tuple[list[Group], list[list[Curve]], float]:
    """Return the groups and curves of searches with a score, and the common cost; say whose it is.

    Raises:
        NotFound: no search has a score.
    """
    from nas.comparison.curves import clock
    from nas.comparison.summary import beyond, exhausted, scored, shortest

    kept, theirs, without = scored(groups, curves)
    if without:
        say(f"Left out, without a score: {some([_named(search) for search in without])}.")
    least = shortest(kept, theirs)
    time = clock(kept[0].searches[0])
    late, whole = beyond(theirs, least.cost)
    say(f"Each search counts up to {least.cost:,.0f} s of {time}, as long as '{least.search.name}' took.")
    if late > sum(map(len, theirs)):  # the last trial of each may well end beyond
        say(f"{late} of all {whole} trials came later, and do not count.")
    if late > LEFT_OUT * whole and least.search.state == "completed":
        say(remarks.remedy(least))
    early = [f"'{taken.search.name}' ({taken.cost:,.0f} s)" for taken in exhausted(kept, theirs)]
    if early:
        say(f"Ended early, for lack of new networks: {some(early)}; their best stays.")
    return kept, theirs, least.cost


def report(
    store: Store,
    searches: Sequence[Search],
    form: Format,
    *,
    complete: bool = False,
    wide: bool = False,
) -> None:
    """Print the table of a comparison, and what it means.

    Raises:
        ConfigError: the scores do not compare.
        NotFound: no search has a score, or none is complete and all are to be.
    """
    from nas.comparison.baselines import baselines
    from nas.comparison.summary import summarize
    from nas.comparison.supernets import supernets

    groups, curves, cost = at_equal_cost(*gather(store, searches, complete=complete))
    against = baselines(groups)
    rows = summarize(groups, curves, cost, against)
    shared = supernets(store, groups)
    cells = [asdict(row) | asdict(found) for row, found in zip(rows, shared, strict=True)]
    shown = [column for column in COLUMNS if any(_known(row[column]) for row in cells)]
    spaces = {row.space for row in rows}
    emit(
        [_printed(row, form) for row in cells],
        form,
        ["group", *(["space"] if len(spaces) > 1 else []), *shown],
        drop=DROP,
        wide=wide,
    )
    spread = (
        "; std: standard deviation; ci95: half of the mean's 95 % interval" if "score_std" in shown else ""
    )
    say(f"{groups[0].searches[0].task_label}. score: best so far, mean over searches{spread}.")
    remarks.ran(groups)
    remarks.tests(rows)
    for base in against:
        if base.note:
            say(base.note)
    remarks.missing(groups, curves)
    for row, group in zip(rows, groups, strict=True):
        if row.searches < len(group.searches):
            late = len(group.searches) - row.searches
            say(f"{row.group}: {late} {'search' if late == 1 else 'searches'} had no score by then.")
    remarks.foretold(groups, shared)


def _named(search: Search) -> str:
    return f"'{search.name}' ({search.state})"


def _known(value: object) -> bool:
    return value is not None and not (isinstance(value, float) and math.isnan(value))


def _printed(row: dict[str, Any], form: Format) -> dict[str, Any]:
    """Return a row as its format shows it.

    People read means of counts short, and small probabilities with their power of ten; CSV has no lists.
    """
    if form is Format.CSV:
        return {key: value for key, value in row.items() if key != "supernets"}
    if form not in (Format.TABLE, Format.MARKDOWN):
        return row
    shown = dict(row)
    for key in ("trials", "reused"):
        shown[key] = f"{row[key]:.1f}"
    for key in ("p_score", "p_test"):
        shown[key] = None if row[key] is None else f"{row[key]:.2g}"
    return shown
