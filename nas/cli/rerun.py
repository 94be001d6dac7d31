"""The verb that runs one trial again: rerun."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nas.cli import completion
from nas.cli.options import DEFAULT_DB, DbOption
from nas.cli.output import Format, FormatOption, WideOption, emit, say
from nas.errors import ConfigError, NasError

if TYPE_CHECKING:
    from nas.controller import Outcome
    from nas.settings.search import SearchConfig
    from nas.storage.schema import Search, Trial
    from nas.tasks.base import TaskSource

EXACT = 1e-6
"""How far scores may differ that come from the same arithmetic: they are recorded to more digits."""

IRRELEVANT = ("ray", "sqlalchemy", "cores")
"""What of a machine and of its versions no score depends on."""


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
    from nas.driver.records import configuration
    from nas.evaluation.references import TrialReference, parse
    from nas.evaluation.targets import tried
    from nas.storage.store import Store
    from nas.training.provenance import classes

    reference = parse(target)
    if not isinstance(reference, TrialReference):
        raise ConfigError(f"'{target}': give SEARCH/TRIAL; `nas show SEARCH` lists the trials.")
    from nas.plugins import import_from_here

    import_from_here()
    with Store(db) as store:
        row, trial, _ = tried(store, reference)
        if trial.reused is not None:
            say(f"{row.name}/{trial.number} took over the score of trial {trial.reused}, which runs again.")
            trial = store.trial(row.id, trial.reused)
    name = f"{row.name}/{trial.number}"
    if trial.state not in ("completed", "stopped"):
        raise ConfigError(
            f"{name} is {trial.state}, so there is no score to compare with; see `nas show {name}`."
        )
    config = configuration(row, executor="inline", workers=1, resources=_resources(row))
    tasks = config.make_tasks()
    recorded = row.environment.get("classes")
    if recorded not in (None, classes(tasks)):
        raise ConfigError(
            f"The data of search '{row.name}' has changed since: its classes were {recorded}, and are "
            f"{classes(tasks)}. Bring the data back."
        )
    say(f"Running {name} again; it took {trial.seconds or 0:.1f} s.")
    result = _compared(row, trial, _outcome(row, trial, config, tasks), tolerance)
    emit([{"trial": name, **result.row}], form, wide=wide)
    for line in result.words:
        say(line)
    if not result.agrees:
        raise typer.Exit(1)


def _resources(row: Search) -> dict[str, Any]:
    """Return the recorded resources, with the precision that `auto` was."""
    resources: dict[str, Any] = row.config["resources"]
    return {**resources, "precision": row.environment.get("precision", resources["precision"])}


def _outcome(row: Search, trial: Trial, config: SearchConfig, tasks: TaskSource) -> Outcome:
    """Run a trial to where it ended, at the last rung if it was stopped there.

    Raises:
        NasError: it has no score this time.
    """
    from nas.driver.records import Records
    from nas.driver.trials import Trials
    from nas.executors.worker import reports
    from nas.training.provenance import classes

    job = Records(row.name, config, config.make_space(), None, classes(tasks)).job(trial)
    outcome = None
    for outcome in reports(Trials(config, tasks), job):
        reached = outcome.train_episodes >= (trial.train_episodes or 0)
        if trial.state == "stopped" and outcome.score and reached:
            break
    if outcome is None or outcome.score is None:
        why = "" if outcome is None or not outcome.error else f": {outcome.error.strip()}"
        raise NasError(f"{row.name}/{trial.number} has no score this time{why}")
    return outcome


@dataclass(frozen=True, slots=True)
class _Result:
    """How a trial and its rerun compare: a row, words about it, and the verdict."""

    row: dict[str, Any]
    words: list[str]
    agrees: bool


def _compared(row: Search, trial: Trial, outcome: Outcome, tolerance: float | None) -> _Result:
    import torch

    from nas.training.provenance import LATER, MACHINE, environment

    assert trial.score is not None
    assert outcome.score is not None
    now = environment()
    differing = {
        key: (row.environment.get(key), now.get(key))
        for key in sorted({*now, *MACHINE})
        if key not in IRRELEVANT and row.environment.get(key) != now.get(key)
    }
    words = [
        f"{key}: {before or 'not recorded'} then, {after or 'gone'} now"
        for key, (before, after) in differing.items()
    ]
    if LATER in row.environment:
        words.append(f"The search was resumed on other machines: {'; '.join(row.environment[LATER])}.")
    if torch.cuda.is_available():
        words.append("A GPU adds up in an order that changes from run to run.")
    if tolerance is None:
        tolerance = max(trial.ci95 or 0.0, EXACT) if words else EXACT
    difference = outcome.score.value - trial.score
    agrees = abs(difference) <= tolerance
    if not words:
        words = ["Machine and versions are those that were recorded."]
        if not agrees:
            words.append("So the code of nas or of a plug-in has changed since, or chance is at work in it.")
    return _Result(
        {
            "score": outcome.score.value,
            "recorded": trial.score,
            "difference": difference,
            "tolerance": tolerance,
            "agrees": agrees,
            "seconds": outcome.seconds,
            "recorded_seconds": trial.seconds,
            "seed": trial.seed,
            "architecture": trial.architecture,
        },
        words,
        agrees,
    )
