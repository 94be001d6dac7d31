"""The verb that runs one trial again: rerun."""

from __future__ import annotations

from typing import Annotated

import typer

from nas.cli import completion
from nas.cli.options import DEFAULT_DB, DbOption
from nas.cli.output import Format, FormatOption, WideOption, emit, say
from nas.errors import ConfigError


def register(app: typer.Typer) -> None:
    """Add this verb to the command line."""
    app.command()(rerun)


def rerun(
    target: Annotated[
        str,
        typer.Argument(
            metavar="SEARCH/TRIAL", help="A trial that has a score.", autocompletion=completion.searches
        ),
    ],
    tolerance: Annotated[
        float | None, typer.Option(min=0, help="How far the scores may differ, if not as said above.")
    ] = None,
    form: FormatOption = Format.TABLE,
    wide: WideOption = False,
    db: DbOption = DEFAULT_DB,
) -> None:
    """Run one trial again by itself, with its settings and seed, and compare the scores; nothing is recorded.

    With the recorded versions, on the recorded machine and on its CPU, the scores have to be the same.
    Elsewhere sums round in another way, which a training amplifies as it does another seed: there they may
    differ by ci95, half the width of the recorded interval. The exit code is 0 if they agree, 1 if not.
    """
    from nas.driver.rerun import Rerun
    from nas.evaluation.references import TrialReference, parse
    from nas.evaluation.targets import tried
    from nas.plugins import import_from_here
    from nas.queries.reruns import compared
    from nas.queries.rows import record
    from nas.storage.store import Store

    reference = parse(target)
    if not isinstance(reference, TrialReference):
        raise ConfigError(f"'{target}': give SEARCH/TRIAL; `nas show SEARCH` lists the trials.")
    import_from_here()
    with Store(db) as store:
        row, trial, _ = tried(store, reference)
        if trial.reused is not None:
            say(f"{row.name}/{trial.number} took over the score of trial {trial.reused}, which runs again.")
            trial = store.trial(row.id, trial.reused)
        lineage = store.lineage(trial)
    again = Rerun(row, lineage)
    say(f"Running {row.name}/{trial.number} again; it took {trial.seconds or 0:.1f} s.")
    result, reasons = compared(row, trial, again.run(), tolerance)
    emit([record(result)], form, wide=wide)
    for reason in reasons or ["Machine and versions are those that were recorded."]:
        say(reason)
    if not result.agrees:
        if not reasons:
            say("So the code of nas or of a plug-in has changed since, or chance is at work in it.")
        raise typer.Exit(1)
