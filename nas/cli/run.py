"""Verbs that change searches: run, resume, stop, rm."""

from __future__ import annotations

import shutil
import sys
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from nas import submission
from nas.cli import completion
from nas.cli.interruption import continued_by, interrupted_with
from nas.cli.messages import LogFormat
from nas.cli.options import (
    DEFAULT_DB,
    ArtifactsOption,
    DbOption,
    LogFormatOption,
    MetricsOption,
    RayAddressOption,
    SettingsOption,
    SlotOption,
    TensorBoardOption,
    WholeSearchArgument,
    artifacts_folder,
    files_hint,
    typed,
)
from nas.cli.output import Format, emit, events, say
from nas.counts import counted
from nas.errors import ConfigError
from nas.states import TrialState

if TYPE_CHECKING:
    from nas.settings.search import SearchConfig
    from nas.storage.store import Store
    from nas.tasks.base import ScoreSource
    from nas.verbs import Session

TOP = 10
"""Rows of the leaderboard at the end of a run."""

COLUMNS = (
    "rank",
    "trial",
    "seeds",
    "score",
    "ci95",
    "ci95_seeds",
    "parameters",
    "macs",
    "seconds",
    "architecture",
    "chosen",
)
DROP = ("seconds", "macs", "parameters", "ci95", "ci95_seeds")
"""What a narrow terminal can do without, the least important first."""


class Watched(NamedTuple):
    """Where else a search is told of while it runs; None: nowhere.

    Attributes:
        metrics: address at which Prometheus asks.
        tensorboard: folder of event files.
    """

    metrics: str | None
    tensorboard: Path | None


def register(app: typer.Typer) -> None:
    """Add these verbs to the command line."""
    for verb in (run, resume, stop, rm):
        app.command()(verb)


def run(
    config: Annotated[Path | None, typer.Argument(metavar="[CONFIG]", help="A TOML file.")] = None,
    space: Annotated[str | None, typer.Option(help="Search space; `nas spaces` lists them.")] = None,
    controller: Annotated[str | None, typer.Option(help="Controller; `nas controllers` lists them.")] = None,
    tasks: Annotated[str | None, typer.Option(help="Tasks; `nas tasks` lists them.")] = None,
    learner: Annotated[str | None, typer.Option(help="Learner; `nas learners` lists them.")] = None,
    evaluator: Annotated[str | None, typer.Option(help="Evaluator; by default `train`.")] = None,
    trials: Annotated[int | None, typer.Option(help="Architectures to try. (default: 32)")] = None,
    workers: Annotated[int | None, typer.Option(help="Trials at a time. (default: one a core)")] = None,
    seed: Annotated[int | None, typer.Option(help="Of everything random. (default: 0)")] = None,
    name: Annotated[
        str | None, typer.Option(help="Name of the search; by default made from its parts.")
    ] = None,
    executor: Annotated[
        str | None,
        typer.Option(help="ray, process or inline. (default: ray; inline for tabular)"),
    ] = None,
    scheduler: Annotated[
        str | None,
        typer.Option(
            help="How trials train for unequal lengths: asha, curves, halving, hyperband, median, promotion."
        ),
    ] = None,
    derive: Annotated[
        int | None,
        typer.Option(metavar="K", help="Architectures that a one-shot controller derives and evaluates."),
    ] = None,
    keep: Annotated[
        str | None,
        typer.Option(
            metavar="all|top:K",
            help="States of short trainings that stay while a scheduler promotes: all, or the K best besides "
            "those that it may promote. (default: all)",
        ),
    ] = None,
    ray_address: RayAddressOption = None,
    warm_start_from: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SEARCH",
            help="An earlier search, whose best networks are tried first; repeatable.",
            autocompletion=completion.searches,
        ),
    ] = None,
    slots: SlotOption = None,
    settings: SettingsOption = None,
    resume_or_start: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Go on with the search of this name, or start it if there is none; if it is completed, only "
            "say so. It may be run again however it ended, and waits for a driver that died.",
            autocompletion=completion.searches,
        ),
    ] = None,
    log_format: LogFormatOption = LogFormat.TEXT,
    metrics: MetricsOption = None,
    tensorboard: TensorBoardOption = None,
    dry: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Print the settings, what the first networks cost and how long it would take; run nothing.",
        ),
    ] = False,
    artifacts: ArtifactsOption = None,
    db: DbOption = DEFAULT_DB,
) -> None:
    """Start a search and follow it to its leaderboard.

    A search is a TOML file, options, or both; options win over the file, --set over options.
    """
    from nas.plugins import import_from_here
    from nas.settings.paths import assign, assign_options
    from nas.settings.search import validate
    from nas.settings.sections import choose, read
    from nas.settings.warm_start import begin
    from nas.verbs import fill_in, started

    import_from_here()
    text, values = read(config) if config else (None, {})
    if "controllers" in values:
        raise ConfigError(
            f"controllers: {config} is the file of a benchmark; `nas benchmark {config}` runs it."
        )
    for kind, plugin in {
        "space": space,
        "controller": controller,
        "tasks": tasks,
        "learner": learner,
        "evaluator": evaluator,
    }.items():
        if plugin is not None:
            choose(values, kind, plugin)
    if resume_or_start is not None and name not in (None, resume_or_start):
        raise ConfigError(
            f"--name {name}: --resume-or-start {resume_or_start} names the search already; leave --name out."
        )
    if resume_or_start is not None:
        name = resume_or_start
    given = {"trials": trials, "workers": workers, "seed": seed, "name": name, "executor": executor}
    given["keep"] = keep
    values.update({key: value for key, value in given.items() if value is not None})
    if scheduler is not None:
        assign(values, f"scheduler.name={scheduler}")
    if derive is not None:
        assign(values, f"controller.derive={derive}")
    if warm_start_from:
        begin(values, warm_start_from)
    assign_options(values, slots, settings)
    at_a_time = values.get("workers")
    fill_in(values)
    resolved = validate(values)
    if dry:
        from nas.cli.dry_run import dry_run

        dry_run(resolved, db, resumes=resume_or_start is not None)
        return

    from nas.storage.store import Store

    if resume_or_start is not None:
        _launch(resolved, text, at_a_time, ray_address, artifacts, Watched(metrics, tensorboard), db)
        return
    with Store(db, create=True) as store, ExitStack() as running:
        with interrupted_with(f"No search was written. Start it again: `{typed(db)}`"):
            _refuse_taken(store, resolved, tensorboard)
            session = running.enter_context(
                started(store, resolved, say, source=text, ray_address=ray_address)
            )
        _follow(session, db, artifacts, Watched(metrics, tensorboard))


def _launch(
    config: SearchConfig,
    source: str | None,
    workers: int | None,
    ray_address: str | None,
    artifacts: Path | None,
    watched: Watched,
    db: str,
) -> None:
    """Start a search, or go on with it, whichever is due."""
    from nas.launching import launched
    from nas.storage.store import Store

    again = submission.command() or typed(db)
    with ExitStack() as running:
        with continued_by(again):
            store = running.enter_context(Store(db, create=True, patient=True))
            if store.named(config.name or "") is None:
                _refuse_taken(store, config, watched.tensorboard)
            session = running.enter_context(
                launched(store, config, say, source=source, workers=workers, ray_address=ray_address)
            )
        if session is not None:
            _follow(session, db, artifacts, watched, again)
            return
    say(
        f"Search '{config.name}' is completed; nothing was started. What it found: "
        f"`nas leaderboard --search {config.name}`"
    )


def _refuse_taken(store: Store, config: SearchConfig, tensorboard: Path | None) -> None:
    """Refuse a folder of event files that has something else under the name that a new search gets."""
    from nas.driver.creation import name
    from nas.progress.tensorboard import refuse_taken

    if tensorboard is not None:
        refuse_taken(tensorboard, name(store, config))


def resume(
    search: WholeSearchArgument,
    trials: Annotated[
        str | None, typer.Option(metavar="[+]N", help="New number of trials; +N adds to it.")
    ] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Trials at a time, if not as before.")] = None,
    log_format: LogFormatOption = LogFormat.TEXT,
    metrics: MetricsOption = None,
    tensorboard: TensorBoardOption = None,
    ray_address: RayAddressOption = None,
    artifacts: ArtifactsOption = None,
    db: DbOption = DEFAULT_DB,
) -> None:
    """Continue a search from the database: nothing recorded is run again, nothing lost."""
    from nas.plugins import import_from_here
    from nas.storage.store import Store
    from nas.verbs import resumed, total

    import_from_here()
    with Store(db) as store, ExitStack() as running:
        row = store.search(search, whole=True)
        wanted = row.trials if trials is None else total(trials, row.trials)
        if trials is not None and trials.startswith("+") and wanted == row.trials:
            say(
                f"--trials {trials} adds no trial to search '{row.name}', so nothing was started. To go "
                f"on with those it is set to: `nas resume {row.name}`"
            )
            return
        with continued_by(typed(db)):  # trials that are asked for are not recorded yet
            session = running.enter_context(
                resumed(store, row, say, trials=wanted, workers=workers, ray_address=ray_address)
            )
        _follow(session, db, artifacts, Watched(metrics, tensorboard))


def stop(search: WholeSearchArgument, db: DbOption = DEFAULT_DB) -> None:
    """Ask a running search to finish its running trials and stop."""
    from nas.storage.lease import driven
    from nas.storage.searches import continuation
    from nas.storage.store import Store

    with Store(db) as store:
        row = store.search(search, whole=True)
        again = f"`{continuation(row)}`"
        if not driven(row):
            state = "its driver died" if row.state == "running" else f"it is {row.state}"
            raise ConfigError(f"Search '{row.name}' is not running: {state}. Continue it: {again}")
        store.request_stop(row.id)
    say(f"Search '{row.name}' will stop when its running trials end. Continue it: {again}")


def rm(
    search: WholeSearchArgument,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    artifacts: ArtifactsOption = None,
    db: DbOption = DEFAULT_DB,
) -> None:
    """Delete a search, all its trials, the checkpoints of what was not done, and what its workers printed."""
    from nas.driver.records import checkpoints
    from nas.evaluation.artifacts import folder
    from nas.executors.output import of_trials
    from nas.storage.lease import driven, refuse
    from nas.storage.store import Store

    with Store(db) as store:
        row = store.search(search, whole=True)
        if driven(row):
            raise refuse(row)
        if not yes:
            if not sys.stdin.isatty():
                raise ConfigError(f"Deleting '{row.name}' cannot be undone: confirm with --yes.")
            question = f"Delete search '{row.name}' and all its trials? [y/N]"
            answer = typer.prompt(question, default="n", show_default=False, err=True)
            if answer.strip().lower() not in ("y", "yes"):
                raise ConfigError(f"Nothing was deleted: the answer was '{answer}', not 'y' or 'yes'.")
        store.delete(row.id)
        for checkpoint in checkpoints(folder(db, artifacts), row.name):
            checkpoint.remove()
        shutil.rmtree(of_trials(folder(db, artifacts), row.name), ignore_errors=True)
    say(f"Deleted '{row.name}'.")


def _follow(
    session: Session, db: str, artifacts: Path | None, watched: Watched, again: str | None = None
) -> None:
    """Run a search to its leaderboard; `again` is the command that goes on with it, if not `nas resume`."""
    from nas.progress.metrics import address, serving
    from nas.progress.searches import progress
    from nas.progress.tensorboard import recording
    from nas.queries.answer import answer, words
    from nas.queries.chosen import apart
    from nas.queries.leaderboard import Query, leaderboard

    store, row, config = session.store, session.row, session.config
    again = again or f"nas resume {row.name}{files_hint(artifacts)}"
    say(session.plan)
    files = artifacts_folder(db, artifacts, cluster=config.executor == "ray")
    length = config.budget.train_episodes
    where = None if watched.metrics is None else address(watched.metrics)
    with (
        continued_by(again),
        progress(row, length, store, say, log=events()) as shown,
        serving(where, row, config.workers, store, shown) as served,
        recording(watched.tensorboard, row, config, store, say, served) as observer,
    ):
        ended = session.run(observer, files, named=artifacts is not None)
    if ended.state == "stopped":
        say(f"Stopped on request. Continue: `{again}`")
    aim, front = config.aim, config.aim.several
    pareto, limit = (aim.goals, 0) if front else ((), TOP)
    rows = leaderboard(store, Query(searches=(row.name,), sort=aim.goals[0], pareto=pareto, limit=limit))
    needless = {"chosen"} if not any(row.chosen for row in rows) else set()
    if all(row.seeds == 1 for row in rows):
        needless |= {"seeds", "ci95_seeds"}
    known = [name for name in COLUMNS if name not in needless]
    goals = [goal for goal in aim.goals if goal not in known]
    place = known.index("architecture")
    columns = [*known[:place], *goals, *known[place:]]
    drop = [name for name in DROP if name not in aim.goals]
    trials = store.history(row.id)
    tried = sum(trial.architecture is not None and not trial.repeat for trial in trials)
    paused = sum(trial.state == TrialState.PAUSED for trial in trials)
    if rows or not paused:
        emit([apart(asdict(entry)) for entry in rows], Format.TABLE, columns, drop=drop)
    which, pick = f"The best {len(rows)}", ""
    if front:
        which, pick = f"The front of {aim}: {len(rows)}", f" --pareto {','.join(aim.goals)}"
    if paused and not rows:
        say(f"No trial had the whole budget: {paused} of {counted(tried, 'trial')} had less. The longest:")
        pick = " --state paused"
    else:
        say(f"{which} of {counted(tried, 'trial')}; a score that was reused counts once. More:")
    say(f"  nas leaderboard --search {row.name}{pick} --limit 0\n  nas show {row.name}")
    if ended.infeasible is not None:
        say(ended.infeasible)
    found = answer(store, row.name)
    if found is not None:
        say(words(found))
    if rows and not config.looks_up:
        which = f"--top 1 --search {row.name}" if found is None else f"{row.name}/{found.trial}"
        say(f"Train {'the best' if found is None else 'it'} to the end, and score it on test tasks:")
        say(f"  nas evaluate {which}{_baseline(config, session.tasks)}")
    if ended.state == "completed" and ended.ending is not None:
        say(ended.ending)
    else:
        say(f"Go on: `nas resume {row.name} --trials +N`")


def _baseline(config: SearchConfig, tasks: ScoreSource) -> str:
    """Return the option of `nas evaluate` that adds the baseline of the learner's paper, or another."""
    from nas.evaluation.published import own
    from nas.tasks.base import TaskSource

    if config.learner is None or not isinstance(tasks, TaskSource) or len(tasks.shape.input) != 3:
        return ""
    return f" --baseline {own(config.learner['name'], tasks.shape) or 'conv4'}"
