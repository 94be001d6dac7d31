"""The verb that sets searches side by side."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nas.cli.options import DEFAULT_DB, DbOption, hint
from nas.cli.output import Format, FormatOption, emit, say

if TYPE_CHECKING:
    from nas.comparison.curves import Curve
    from nas.comparison.groups import Group
    from nas.comparison.supernets import Supernets
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
    of them took, by the best score so far and, where it is known, the test score of the same architecture. A
    search that ended early for want of new networks keeps its best from there on, and shortens no other.
    Of one-shot searches it also tells how far scores with shared weights foretell those from scratch, and
    which supernets ended early.
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
    unfinished = [_named(s) for g in groups for s in g.searches if s.state != "completed"]
    if unfinished:
        more = f" and {len(unfinished) - 3} more" if len(unfinished) > 3 else ""
        say(f"Not complete: {', '.join(unfinished[:3])}{more}; `nas resume NAME` goes on.")
    return groups, [curves(store, group.searches) for group in groups]


def at_equal_cost(
    groups: Sequence[Group], curves: Sequence[Sequence[Curve]]
) -> tuple[list[Group], list[list[Curve]], float]:
    """Return the groups and curves of searches with a score, and the common cost; say whose it is.

    Raises:
        NotFound: no search has a score.
    """
    from nas.comparison.curves import clock
    from nas.comparison.summary import exhausted, scored, shortest

    kept, theirs, without = scored(groups, curves)
    if without:
        say(f"Left out, without a score: {', '.join(map(_named, without))}.")
    least = shortest(kept, theirs)
    time = clock(kept[0].searches[0])
    say(f"Each search counts up to {least.cost:,.0f} s of {time}, as long as '{least.search}' took.")
    early = [f"'{search}' ({cost:,.0f} s)" for search, cost in exhausted(kept, theirs)]
    if early:
        more = f" and {len(early) - 3} more" if len(early) > 3 else ""
        say(f"Ended early, for want of new networks: {', '.join(early[:3])}{more}; their best stays.")
    return kept, theirs, least.cost


def report(store: Store, searches: Sequence[Search], form: Format, db: str) -> None:
    """Print the table of a comparison, and what it means.

    Raises:
        ConfigError: the scores do not compare.
        NotFound: no search has a score.
    """
    from nas.comparison.baselines import baselines
    from nas.comparison.command import like
    from nas.comparison.groups import BASELINE
    from nas.comparison.summary import summarize
    from nas.comparison.supernets import PAIRS, supernets

    groups, curves, cost = at_equal_cost(*gather(store, searches))
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
    )
    spread = (
        "; std: standard deviation; ci95: half of the mean's 95 % interval" if "score_std" in shown else ""
    )
    say(f"{groups[0].searches[0].task_label}. score: best so far, mean over searches{spread}.")
    if any(row.p_score is not None for row in rows):
        say("p: two-sided Mann-Whitney rank test against random search.")
    for base in against:
        if base.note:
            say(base.note)
    lacking = [g for g in groups if not any(o.controller == BASELINE and o.space == g.space for o in groups)]
    if lacking:
        say(f"No random search beside {', '.join(g.label for g in lacking)}. The line to beat:")
        say(f"  {like(lacking[0].searches[0], BASELINE)}{hint(db)}")
    for row, group in zip(rows, groups, strict=True):
        if row.searches < len(group.searches):
            late = len(group.searches) - row.searches
            say(f"{row.group}: {late} {'search' if late == 1 else 'searches'} had no score by then.")
    if any(found.supernets for found in shared):
        say("rho: rank correlation of scores with shared weights and from scratch, over what was derived.")
    if any(one.rho is None for found in shared for one in found.supernets):
        say(f"rho -: fewer than {PAIRS} architectures have both scores, or all scores of one kind are equal.")
    for group, found in zip(groups, shared, strict=True):
        _supernets(group.label, found)


def _supernets(label: str, found: Supernets) -> None:
    """Say what became of the supernets of a group."""
    by_seed = sorted(found.supernets, key=lambda supernet: supernet.seed)
    if not by_seed:
        return
    rhos = ", ".join(
        f"{'-' if one.rho is None else f'{one.rho:.2f}'} of n = {one.pairs} (seed {one.seed})"
        for one in by_seed
    )
    say(f"{label}: rho {rhos}; of few architectures it says little.")
    skips = [f"{one.skips} (seed {one.seed})" for one in by_seed if one.skips is not None]
    if skips:
        say(f"{label}: skip connections that it would have derived at the end: {', '.join(skips)}.")
    early = [one for one in by_seed if one.ended_early is not None]
    for one in early:
        say(f"{label}: the supernet of seed {one.seed} ended early. {one.ended_early}")
    if not early:
        say(f"{label}: no supernet ended early.")


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
