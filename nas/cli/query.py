"""Verbs that ask the database: ls, show, leaderboard."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nas.cli.options import DEFAULT_DB, DbOption
from nas.cli.output import Format, FormatOption, cell, emit, say
from nas.errors import ConfigError

if TYPE_CHECKING:
    from nas.storage.schema import Search as SearchRow
    from nas.storage.store import Store

COLUMNS = (
    "rank",
    "search",
    "trial",
    "task",
    "learner",
    "score",
    "ci95",
    "parameters",
    "macs",
    "architecture",
)
TRIAL_COLUMNS = ("trial", "state", "score", "ci95", "parameters", "macs", "seconds", "architecture", "error")

UNFINISHED = ("running", "interrupted")


def register(app: typer.Typer) -> None:
    """Add these verbs to the command line."""
    for verb in (ls, show, leaderboard):
        app.command()(verb)


def ls(
    limit: Annotated[int, typer.Option(min=0, help="Rows to print; 0 for all.")] = 20,
    form: FormatOption = Format.TABLE,
    db: DbOption = DEFAULT_DB,
) -> None:
    """List the searches, newest first."""
    from nas.storage.store import Store

    with Store(db, create=False) as store:
        rows = [
            {
                "search": summary.search.name,
                "state": _state(summary.search),
                "controller": summary.search.controller,
                "space": summary.search.space,
                "task": summary.search.task_label,
                "learner": summary.search.learner,
                "seed": summary.search.seed,
                "done": sum(n for state, n in summary.trials.items() if state not in UNFINISHED),
                "trials": summary.search.trials,
                "failed": summary.trials.get("failed", 0),
                "best": summary.best,
                "created_at": summary.search.created_at.isoformat(),
            }
            for summary in store.searches()[: limit or None]
        ]
    emit(rows, form)
    if not rows:
        say("No searches yet. Start one: nas run --help")


def show(
    target: Annotated[str, typer.Argument(metavar="SEARCH[/TRIAL]", help="A search, or one of its trials.")],
    form: FormatOption = Format.TABLE,
    db: DbOption = DEFAULT_DB,
) -> None:
    """Show a search with its trials, or one trial in full."""
    from nas.storage.store import Store

    name, slash, number = target.partition("/")
    if slash and not number.isdecimal():
        raise ConfigError(f"'{target}': a trial is a number, such as {name}/0.")
    with Store(db, create=False) as store:
        row = store.search(name)
        if slash:
            _show_trial(store, row, int(number), form)
        else:
            _show_search(store, row, form)


def leaderboard(
    search: Annotated[list[str] | None, typer.Option(help="Only this search; repeatable.")] = None,
    space: Annotated[str | None, typer.Option(help="Only this search space.")] = None,
    controller: Annotated[str | None, typer.Option(help="Only this controller.")] = None,
    tasks: Annotated[str | None, typer.Option(help="Only these tasks.")] = None,
    learner: Annotated[str | None, typer.Option(help="Only this learner.")] = None,
    max_parameters: Annotated[int | None, typer.Option(min=0, help="At most so many weights.")] = None,
    max_macs: Annotated[int | None, typer.Option(min=0, help="At most so many multiply-accumulates.")] = None,
    state: Annotated[
        list[str] | None, typer.Option(help="Trials in this state. (default: completed)")
    ] = None,
    sort: Annotated[str, typer.Option(help="What to rank by: score, parameters, macs or seconds.")] = "score",
    limit: Annotated[int, typer.Option(min=0, help="Rows to print; 0 for all.")] = 20,
    pareto: Annotated[
        str | None,
        typer.Option(metavar="A,B", help="Only rows that no other beats, such as score,parameters."),
    ] = None,
    form: FormatOption = Format.TABLE,
    db: DbOption = DEFAULT_DB,
) -> None:
    """Rank trials across searches, the best first."""
    from nas.leaderboard import Query
    from nas.leaderboard import leaderboard as ask
    from nas.storage.store import Store

    with Store(db, create=False) as store:
        query = Query(
            searches=tuple(search or ()),
            space=space,
            controller=controller,
            tasks=tasks,
            learner=learner,
            max_parameters=max_parameters,
            max_macs=max_macs,
            states=tuple(state or ("completed",)),
            sort=sort,
            limit=limit,
            pareto=tuple(part.strip() for part in pareto.split(",")) if pareto else (),
        )
        rows = [asdict(row) for row in ask(store, query)]
    emit(rows, form, COLUMNS)
    if not rows:
        say("No trial matches. `nas ls` lists the searches.")
    elif len({row["settings"] for row in rows}) > 1:
        say(
            "These rows mix tasks, learners, budgets or precisions, so their scores do not compare: choose "
            "with --search, --tasks or --learner (`-f json` shows which rows share `settings`)."
        )


def _state(row: SearchRow) -> str:
    """Return a search's state; one whose driver died without a word is interrupted."""
    from nas.storage.lease import driven

    return "interrupted" if row.state == "running" and not driven(row) else row.state


def _show_search(store: Store, row: SearchRow, form: Format) -> None:
    trials = [_trial(trial) for trial in store.trials(row.id)]
    facts = {
        "search": row.name,
        "state": _state(row),
        "task": row.task_label,
        "trials": f"{row.trials} ({_counts(trials)})",
        "created_at": row.created_at.isoformat(),
        "finished_at": row.finished_at.isoformat() if row.finished_at else None,
    }
    if form in (Format.JSON, Format.NDJSON):
        whole = {**facts, "config": row.config, "environment": row.environment, "trial_rows": trials}
        typer.echo(json.dumps(whole, indent=2 if form is Format.JSON else None))
        return
    if form is Format.TABLE:
        settings = {
            key: _setting(value) for key, value in row.config.items() if key not in ("name", "trials")
        }
        _facts({**facts, **settings})
        typer.echo()
    for trial in trials:
        trial["error"] = (trial["error"] or "").partition("\n")[0]
    emit(trials, form, TRIAL_COLUMNS)


def _show_trial(store: Store, row: SearchRow, number: int, form: Format) -> None:
    trial = store.trial(row.id, number)
    facts = {"search": row.name, **_trial(trial)}
    curve = [
        {"step": m.step, "metric": m.metric, "value": m.value}
        for m in store.measurements(row.id, number=number)
    ]
    if form in (Format.JSON, Format.NDJSON):
        whole = {**facts, "measurements": curve}
        typer.echo(json.dumps(whole, indent=2 if form is Format.JSON else None))
        return
    if form is Format.TABLE:
        _facts({key: value for key, value in facts.items() if value is not None})
        typer.echo()
        emit(curve, form)
    else:
        emit([facts], form)


def _trial(trial: Any) -> dict[str, Any]:
    return {
        "trial": trial.number,
        "state": trial.state,
        "score": trial.score,
        "ci95": trial.ci95,
        "episodes": trial.episodes,
        "train_episodes": trial.train_episodes,
        "parameters": trial.parameters,
        "macs": trial.macs,
        "seconds": trial.seconds,
        "architecture": trial.architecture,
        "seed": trial.seed,
        "attempt": trial.attempt,
        "reused": trial.reused,
        "split": trial.split,
        "classes": trial.classes,
        "normalization": trial.normalization,
        "started_at": trial.started_at.isoformat() if trial.started_at else None,
        "finished_at": trial.finished_at.isoformat() if trial.finished_at else None,
        "error": trial.error,
    }


def _setting(value: Any) -> str:
    """Return a section as `name key=value …`, anything else as it is."""
    if not isinstance(value, dict):
        return str(value)
    name = [str(value["name"])] if "name" in value else []
    return " ".join([*name, *(f"{k}={v}" for k, v in value.items() if k != "name" and v is not None)])


def _counts(trials: list[dict[str, Any]]) -> str:
    states = [trial["state"] for trial in trials]
    return ", ".join(f"{states.count(state)} {state}" for state in sorted(set(states))) or "none"


def _facts(facts: dict[str, Any]) -> None:
    width = max(map(len, facts)) + 2
    for key, value in facts.items():
        typer.echo(f"{key.ljust(width)}{cell(key, value)}")
