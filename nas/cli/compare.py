"""The verb that sets searches side by side."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nas.cli import completion, remarks
from nas.cli.options import DEFAULT_DB, DbOption
from nas.cli.output import Format, FormatOption, WideOption, emit, say
from nas.cli.remarks import some

if TYPE_CHECKING:
    from nas.comparison.comparison import Comparison, EqualCost, Gathered
    from nas.comparison.panels import Panel
    from nas.storage.schema import Search

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
"""What a narrow terminal can do without, the least important first: each mean keeps its interval."""

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
    picture: Annotated[
        Path | None,
        typer.Option("--plot", metavar="FILE", help="Draw the curves, too, as `nas plot -o FILE` does."),
    ] = None,
    form: FormatOption = Format.TABLE,
    wide: WideOption = False,
    db: DbOption = DEFAULT_DB,
) -> None:
    """Compare searches at equal cost: means over seeds, intervals, and a rank test against random search.

    Searches that differ in the seed alone are one row. All are compared at the worker time that the shortest
    of them took, by the best score so far and, where it is known, the test score of the same architecture. A
    search that ended early because it found no new networks keeps its best score, and does not shorten the
    comparison for the others.
    Of one-shot searches it also tells how far scores with shared weights predict those from scratch, and
    which supernets ended early.
    """
    from nas.comparison import comparison
    from nas.comparison.groups import find
    from nas.plugins import import_from_here
    from nas.storage.store import Store

    import_from_here()
    with Store(db) as store:
        found = comparison.compare(store, find(store, names), complete=complete)
    report(found, form, wide=wide)
    if picture is not None:
        drawn(found.equal, picture)


def drawn(equal: EqualCost, file: Path) -> None:
    """Draw the curves of searches up to their common cost, and say what is not drawn.

    Raises:
        ConfigError: matplotlib is not installed, or the file has another suffix than .png, .svg or .pdf.
        NasError: the file cannot be written.
    """
    from nas.comparison.series import anytime

    save(anytime(equal.groups, equal.curves, equal.cost), equal.groups[0].searches[0], file)


def save(panels: Sequence[Panel], first: Search, file: Path) -> None:
    """Draw panels of searches of which this is one, and say what is not drawn."""
    from nas.comparison.draw import draw
    from nas.comparison.panels import caption

    absent(panels)
    said = caption([line for panel in panels for line in panel.lines])
    draw(panels, f"{first.task_label} · {said}" if said else first.task_label, file)
    say(f"Wrote {file}.")


def absent(panels: Sequence[Panel]) -> None:
    """Say what is not drawn."""
    for sentence in dict.fromkeys(sentence for panel in panels for sentence in panel.absent):
        say(sentence)


def left_out(gathered: Gathered) -> None:
    """Say which searches were left out, and which of the others are not complete."""
    if gathered.incomplete:
        say(f"Left out, not complete: {some(map(_named, gathered.incomplete))}.")
    if gathered.repeated:
        say(f"Left out, since an older search has the same settings and seed: {some(gathered.repeated)}.")
    if gathered.unfinished:
        from nas.storage.searches import continuation

        say(
            f"Not complete: {some(map(_named, gathered.unfinished))}. Go on with "
            f"`{continuation(gathered.unfinished[0])}`, or leave what is not complete out with --complete."
        )


def equal_cost(equal: EqualCost) -> None:
    """Say at which cost searches are compared, whose it is, and what does not count."""
    if equal.unscored:
        say(f"Left out, without a score: {some(map(_named, equal.unscored))}.")
    shortest = equal.shortest
    say(
        f"Each search counts up to {equal.cost:,.0f} s of {equal.clock}, as long as "
        f"'{shortest.search.name}' took."
    )
    if equal.late > sum(map(len, equal.curves)):  # the last trial of each may well end beyond
        say(f"{equal.late} of all {equal.trials} trials came later, and do not count.")
    if equal.lossy:
        say(remarks.remedy(shortest))
    early = [f"'{taken.search.name}' ({taken.cost:,.0f} s)" for taken in equal.exhausted]
    if early:
        say(f"Found no new networks and ended early: {some(early)}. They keep their best score.")


def report(found: Comparison, form: Format, *, wide: bool = False) -> None:
    """Print the table of a comparison, and what it means."""
    left_out(found.gathered)
    equal_cost(found.equal)
    cells = found.records()
    shown = [column for column in COLUMNS if any(_known(row[column]) for row in cells)]
    spaces = {row.space for row in found.rows}
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
    say(f"{found.task}. score: best so far, mean over searches{spread}.")
    remarks.ran(found)
    remarks.tests(found)
    for base in found.baselines:
        if base.note:
            say(base.note)
    remarks.missing(found.lacking)
    for group, late in found.late.items():
        say(f"{group}: {late} {'search' if late == 1 else 'searches'} had no score by then.")
    remarks.foretold(found)


def _named(search: Search) -> str:
    return f"'{search.name}' ({search.state})"


def _known(value: object) -> bool:
    return value is not None and not (isinstance(value, float) and math.isnan(value))


def _printed(row: dict[str, Any], form: Format) -> dict[str, Any]:
    """Return a row as its format shows it: CSV has no lists."""
    return {key: value for key, value in row.items() if form is not Format.CSV or key != "supernets"}
