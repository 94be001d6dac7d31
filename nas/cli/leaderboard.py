"""The verb that ranks trials, or full evaluations, across searches: leaderboard."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nas import counts
from nas.cli import completion
from nas.cli.options import DEFAULT_DB, DbOption
from nas.cli.output import Format, FormatOption, WideOption, emit, headings, say

if TYPE_CHECKING:
    from nas.queries.boards import Board

DROP = (
    "normalization",
    "learner",
    "activations",
    "latency_batch",
    "latency",
    "macs",
    "task",
    "parameters",
    "ci95",
    "ci95_seeds",
)
"""What a narrow terminal can do without, the least important first; so below."""

TEST_DROP = (
    "normalization",
    "learner",
    "seconds",
    "activations",
    "latency_batch",
    "latency",
    "macs",
    "space",
    "validation_score",
    "seeds",
    "task",
    "parameters",
)


def _count(text: str) -> int:
    """Read an option that is a count."""
    try:
        return counts.read(text)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


class Stage(StrEnum):
    """Which scores to rank."""

    VALIDATION = "validation"
    TEST = "test"


def register(app: typer.Typer) -> None:
    """Add this verb to the command line."""
    app.command()(leaderboard)


def leaderboard(
    search: Annotated[
        list[str] | None,
        typer.Option(help="Only this search; repeatable.", autocompletion=completion.searches),
    ] = None,
    space: Annotated[str | None, typer.Option(help="Only this search space.")] = None,
    controller: Annotated[str | None, typer.Option(help="Only this controller.")] = None,
    tasks: Annotated[str | None, typer.Option(help="Only these tasks.")] = None,
    learner: Annotated[str | None, typer.Option(help="Only this learner.")] = None,
    max_parameters: Annotated[
        int | None, typer.Option(parser=_count, metavar="N", help="At most so many weights, such as 20k.")
    ] = None,
    max_macs: Annotated[
        int | None,
        typer.Option(parser=_count, metavar="N", help="At most so many multiply-accumulates, such as 1.5M."),
    ] = None,
    max_activations: Annotated[
        int | None, typer.Option(parser=_count, metavar="N", help="At most so many bytes of activations.")
    ] = None,
    max_latency: Annotated[
        float | None,
        typer.Option(min=0, metavar="SECONDS", help="At most so long a forward pass of one example."),
    ] = None,
    max_latency_batch: Annotated[
        float | None,
        typer.Option(min=0, metavar="SECONDS", help="At most so long a forward pass of 32 examples."),
    ] = None,
    max_seconds: Annotated[
        float | None, typer.Option(min=0, metavar="SECONDS", help="At most so much worker time.")
    ] = None,
    state: Annotated[
        list[str] | None, typer.Option(help="Trials in this state. (default: completed)")
    ] = None,
    sort: Annotated[
        str, typer.Option(help="The column to rank by, such as score, parameters or latency.")
    ] = "score",
    limit: Annotated[int, typer.Option(min=0, help="Rows of each list; 0 for all.")] = 20,
    pareto: Annotated[
        str | None,
        typer.Option(metavar="A,B", help="Only rows that no other beats, such as score,parameters."),
    ] = None,
    where: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SETTING=VALUE",
            help="Only what a search chose along with the network, such as learner.lr=0.01; repeatable.",
        ),
    ] = None,
    by: Annotated[
        str | None,
        typer.Option(metavar="SETTING", help="Only the best of each value of such a setting."),
    ] = None,
    stage: Annotated[
        Stage, typer.Option(help="validation: trials of searches; test: what `nas evaluate` found.")
    ] = Stage.VALIDATION,
    form: FormatOption = Format.TABLE,
    wide: WideOption = False,
    db: DbOption = DEFAULT_DB,
) -> None:
    """Rank trials, or full evaluations, across searches, the best first.

    Scores of different tasks, learners or settings do not compare: each has a list of its own.
    """
    from nas.queries.boards import COLUMNS, TEST_COLUMNS, common, listed, records, tests, trials
    from nas.queries.leaderboard import Query
    from nas.storage.store import Store

    limits = {
        "parameters": max_parameters,
        "macs": max_macs,
        "activations": max_activations,
        "latency": max_latency,
        "latency_batch": max_latency_batch,
        "seconds": max_seconds,
    }
    query = Query(
        searches=tuple(search or ()),
        space=space,
        controller=controller,
        tasks=tasks,
        learner=learner,
        limits={name: limit for name, limit in limits.items() if limit is not None},
        states=tuple(state or ("completed",)),
        sort=sort,
        limit=limit,
        pareto=tuple(part.strip() for part in pareto.split(",")) if pareto else (),
        where=tuple(where or ()),
        by=by,
    )
    with Store(db) as store:
        shown: Sequence[Board[Any]] = tests(store, query) if stage is Stage.TEST else trials(store, query)
    dispensable = TEST_DROP if stage is Stage.TEST else DROP
    drop = tuple(name for name in dispensable if name not in (query.sort, *query.pareto))
    if form in (Format.TABLE, Format.MARKDOWN) and shown:
        headed = len(shown) > 1 or any(board.unit for board in shown)
        for number, board in enumerate(shown):
            if headed:
                gap = "\n" if form is Format.MARKDOWN else ""
                typer.echo(("\n" if number else "") + "\n".join(headings(common(board))) + gap)
            columns, rows = listed(board, headed=headed)
            emit(rows, form, columns, drop=drop, wide=wide)
    else:
        emit(records(shown), form, TEST_COLUMNS if stage is Stage.TEST else COLUMNS, drop=drop, wide=wide)
    if not shown:
        say(
            "No evaluation matches. `nas evaluate --help` says how to make one."
            if stage is Stage.TEST
            else "No trial matches. List the searches with `nas ls`."
        )
    elif len(shown) > 1:
        say(
            f"{len(shown)} lists, since scores of different tasks, learners, settings, data or precisions "
            "do not compare: choose with --tasks, --learner or --search."
        )
