"""Verbs that ask the database: ls, show, leaderboard."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nas import counts
from nas.cli import completion
from nas.cli.options import DEFAULT_DB, DbOption
from nas.cli.output import Format, FormatOption, WideOption, cell, emit, facts, headings, say
from nas.errors import ConfigError
from nas.metrics import ALPHA, family

if TYPE_CHECKING:
    from nas.queries.leaderboard import Query
    from nas.storage.schema import Evaluation
    from nas.storage.schema import Search as SearchRow
    from nas.storage.searches import Summary
    from nas.storage.store import Store

COLUMNS = (
    "rank",
    "search",
    "trial",
    "task",
    "learner",
    "normalization",
    "score",
    "ci95",
    "parameters",
    "macs",
    "architecture",
    "space_settings",
)
DROP = ("normalization", "learner", "macs", "task", "parameters", "ci95")
"""What a narrow terminal can do without, the least telling first; so for the other columns below."""

TRIAL_COLUMNS = (
    "trial",
    "kind",
    "state",
    "score",
    "ci95",
    "parameters",
    "macs",
    "seconds",
    "architecture",
    "error",
)
TRIAL_DROP = ("kind", "macs", "seconds", "parameters", "ci95")

TEST_COLUMNS = (
    "rank",
    "search",
    "trial",
    "space",
    "task",
    "learner",
    "normalization",
    "seeds",
    "test_score",
    "ci95_seeds",
    "ci95_episodes",
    "validation_score",
    "parameters",
    "macs",
    "seconds",
    "architecture",
    "space_settings",
)
TEST_DROP = (
    "normalization",
    "learner",
    "seconds",
    "macs",
    "space",
    "validation_score",
    "seeds",
    "task",
    "parameters",
)
EVALUATION_COLUMNS = (
    "seed",
    "state",
    "task",
    "learner",
    "test_score",
    "test_ci95",
    "validation_score",
    "train_episodes",
    "seconds",
    "error",
)
EVALUATION_DROP = ("learner", "seconds", "train_episodes", "validation_score", "task")
SEARCH_DROP = ("created_at", "learner", "space", "controller", "failed", "seed", "task")

UNFINISHED = ("running", "interrupted")
SUPERNET = ("supernet", "derived", "derived_epochs")
"""What the trial of a supernet has beside the rest."""


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
    """Add these verbs to the command line."""
    for verb in (ls, show, leaderboard):
        app.command()(verb)


def ls(
    limit: Annotated[int, typer.Option(min=0, help="Rows to print; 0 for all.")] = 20,
    form: FormatOption = Format.TABLE,
    wide: WideOption = False,
    db: DbOption = DEFAULT_DB,
) -> None:
    """List the searches, newest first."""
    from nas.queries.leaderboard import NO_LEARNER
    from nas.storage.store import Store

    with Store(db) as store:
        rows = [
            {
                "search": summary.search.name,
                "state": _state(summary.search),
                "controller": summary.search.controller,
                "space": summary.search.space,
                "task": summary.search.task_label,
                "learner": None if summary.search.learner == NO_LEARNER else summary.search.learner,
                "seed": summary.search.seed,
                "done": _done(summary),
                "trials": _planned(summary),
                "failed": summary.trials.get("failed", 0),
                "best": summary.best,
                "created_at": summary.search.created_at.isoformat(),
                "note": summary.search.note,
            }
            for summary in store.searches()[: limit or None]
        ]
    emit(rows, form, drop=SEARCH_DROP, wide=wide)
    if not rows:
        say("No searches yet. Start one: `nas run --help`")


def show(
    target: Annotated[
        str,
        typer.Argument(
            metavar="SEARCH[/TRIAL]",
            help="A search, or one of its trials.",
            autocompletion=completion.searches,
        ),
    ],
    form: FormatOption = Format.TABLE,
    wide: WideOption = False,
    db: DbOption = DEFAULT_DB,
) -> None:
    """Show a search with its trials, or one trial in full."""
    from nas.storage.store import Store

    name, slash, number = target.partition("/")
    if slash and not number.isdecimal():
        raise ConfigError(f"'{target}': a trial is a number, such as {name}/0.")
    with Store(db) as store:
        row = store.search(name)
        if slash:
            _show_trial(store, row, int(number), form, wide)
        else:
            _show_search(store, row, form, wide)


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
    state: Annotated[
        list[str] | None, typer.Option(help="Trials in this state. (default: completed)")
    ] = None,
    sort: Annotated[
        str, typer.Option(help="The column to rank by, such as score, parameters or macs.")
    ] = "score",
    limit: Annotated[int, typer.Option(min=0, help="Rows of each list; 0 for all.")] = 20,
    pareto: Annotated[
        str | None,
        typer.Option(metavar="A,B", help="Only rows that no other beats, such as score,parameters."),
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
    from nas.queries.leaderboard import Query
    from nas.storage.store import Store

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
    with Store(db) as store:
        boards = _tests(store, query) if stage is Stage.TEST else _trials(store, query)
    columns, drop = (TEST_COLUMNS, TEST_DROP) if stage is Stage.TEST else (COLUMNS, DROP)
    if form in (Format.TABLE, Format.MARKDOWN) and boards:
        headed = len(boards) > 1 or any(board.simulated for board in boards)
        for number, board in enumerate(boards):
            if headed:
                gap = "\n" if form is Format.MARKDOWN else ""
                typer.echo(("\n" if number else "") + "\n".join(headings(board.common)) + gap)
            rows = _told_apart(board.rows)
            needless = {*(board.said if headed else ())}
            if not any(row["space_settings"] for row in rows):
                needless.add("space_settings")
            emit(rows, form, [name for name in columns if name not in needless], drop=drop, wide=wide)
    else:
        paths = dict.fromkeys(path for board in boards for path in board.differing)
        rows = [
            row | {path: board.settings.get(path) for path in paths} for board in boards for row in board.rows
        ]
        emit(rows, form, columns, drop=drop, wide=wide)
    if not boards:
        say(
            "No evaluation matches. `nas evaluate --help` says how to make one."
            if stage is Stage.TEST
            else "No trial matches. List the searches with `nas ls`."
        )
    elif len(boards) > 1:
        say(
            f"{len(boards)} lists, since scores of different tasks, learners, settings, data or precisions "
            "do not compare: choose with --tasks, --learner or --search."
        )


@dataclass(frozen=True, slots=True)
class Board:
    """A list of rows that compare.

    Attributes:
        common: what they have in common, in phrases.
        said: the columns that these phrases make needless.
        simulated: whether seconds are looked up, as scores are.
        settings: what their scores depend on besides network and seed, by path.
        differing: paths of those that are other in other lists of the task and learner.
        rows: to print.
    """

    common: list[str]
    said: tuple[str, ...]
    simulated: bool
    settings: dict[str, Any]
    differing: list[str]
    rows: list[dict[str, Any]]


def _trials(store: Store, query: Query) -> list[Board]:
    from nas.queries.leaderboard import sections

    boards = [(section.example, [asdict(row) for row in section.rows]) for section in sections(store, query)]
    for search, rows in boards:
        if search.config["tasks"] is None:  # searches from before had an interval of 0
            rows[:] = [row | {"ci95": None} for row in rows]
    return _boards(boards)


def _tests(store: Store, query: Query) -> list[Board]:
    from nas.queries.ranking import sections

    return _boards(
        [
            (example, [{"rank": place, **asdict(row)} for place, row in enumerate(results, start=1)])
            for example, results in sections(store, query)
        ]
    )


def _boards(found: Sequence[tuple[SearchRow | Evaluation, list[dict[str, Any]]]]) -> list[Board]:
    """Return the lists, each of an example and its rows, under what their rows have in common."""
    alike: dict[tuple[str, str], list[dict[str, Any]]] = {}
    every = [_protocol(example) for example, _ in found]
    for (example, _), settings in zip(found, every, strict=True):
        alike.setdefault((example.task_label, example.learner), []).append(settings)
    return [
        _board(example, rows, settings, _differing(settings, alike[example.task_label, example.learner]))
        for (example, rows), settings in zip(found, every, strict=True)
    ]


def _board(
    example: SearchRow | Evaluation,
    rows: list[dict[str, Any]],
    settings: dict[str, Any],
    differing: list[str],
) -> Board:
    named = [f"{path}={_setting(settings.get(path))}" for path in differing]
    if example.config["tasks"] is None:
        unit = f"scores in the unit of {rows[0]['unit']}, seconds simulated"
        return Board([example.task_label, unit, *named], ("task",), True, settings, differing, rows)
    modes = {row["normalization"] for row in rows}
    mode = [f"{modes.pop()} normalization"] if len(modes) == 1 and modes != {None} else []
    said = ("task", "learner", *(["normalization"] if mode else []))
    common = [example.task_label, example.learner, *mode, *named]
    return Board(common, said, False, settings, differing, rows)


def _protocol(example: SearchRow | Evaluation) -> dict[str, Any]:
    """Return what scores depend on besides network and seed, by path."""
    from nas.comparison.groups import PROTOCOL
    from nas.settings.sections import flat

    settings = {path: value for path, value in flat(example.config).items() if path.startswith(PROTOCOL)}
    known = example.environment
    settings |= {"precision": known.get("precision", example.config.get("precision"))}
    return settings | {f"data of {split}": value for split, value in known.get("classes", {}).items()}


def _differing(settings: dict[str, Any], others: Sequence[dict[str, Any]]) -> list[str]:
    """Return the paths of the settings that are not the same in all others."""
    return [
        path
        for path in dict.fromkeys(path for other in others for path in other)
        if any(other.get(path) != settings.get(path) for other in others)
    ]


def _told_apart(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return rows in which those of one architecture show the settings of the space in which they differ."""
    from nas.settings.sections import flat

    alike: dict[tuple[str, str], list[dict[str, Any]]] = {}
    every = [flat(row["space_settings"]) for row in rows]
    for row, settings in zip(rows, every, strict=True):
        alike.setdefault((row["space"], row["architecture"]), []).append(settings)
    return [
        row
        | {
            "space_settings": " ".join(
                f"{path}={_setting(settings.get(path))}"
                for path in _differing(settings, alike[row["space"], row["architecture"]])
            )
        }
        for row, settings in zip(rows, every, strict=True)
    ]


def _done(summary: Summary) -> int:
    """Return how many of a search's trials ended; with `max_seconds` those reused are none of them."""
    apart = summary.search.config.get("max_seconds") is not None
    rest = (*UNFINISHED, "reused") if apart else UNFINISHED
    return sum(n for state, n in summary.trials.items() if state not in rest)


def _planned(summary: Summary) -> int:
    """Return how many trials a search is to have; a supernet decides itself how many it derives."""
    search = summary.search
    ended = search.state == "completed" and "derive" in search.config["controller"]
    return _done(summary) if ended else search.trials


def _state(row: SearchRow) -> str:
    """Return a search's state; one whose driver died without a word is interrupted."""
    from nas.storage.lease import driven

    return "interrupted" if row.state == "running" and not driven(row) else row.state


def _show_search(store: Store, row: SearchRow, form: Format, wide: bool) -> None:
    trials = [_trial(trial) for trial in store.trials(row.id)]
    facts = {
        "search": row.name,
        "state": _state(row),
        "task": row.task_label,
        "precision": row.environment.get("precision"),
        **({"remarks": " ".join(row.environment["remarks"])} if "remarks" in row.environment else {}),
        "trials": _counts(trials, row),
        "created_at": row.created_at.isoformat(),
        "finished_at": row.finished_at.isoformat() if row.finished_at else None,
        "note": row.note,
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
    emit(trials, form, TRIAL_COLUMNS, drop=TRIAL_DROP, wide=wide)


def _show_trial(store: Store, row: SearchRow, number: int, form: Format, wide: bool) -> None:
    trial = store.trial(row.id, number)
    facts = {"search": row.name, **_trial(trial)}
    supernet = {name: getattr(trial, name) for name in SUPERNET if trial.kind == "supernet"}
    measured = store.measurements(row.id, number=number)
    curve = [{"step": m.step, "metric": m.metric, "value": m.value} for m in measured]
    evaluations = [
        _evaluation(evaluation)
        for evaluation in store.evaluations.of_trial(trial.id)
        if evaluation.config["space"] == row.config["space"]
    ]
    if form in (Format.JSON, Format.NDJSON):
        whole = {**facts, **supernet, "measurements": curve, "evaluations": evaluations}
        typer.echo(json.dumps(whole, indent=2 if form is Format.JSON else None))
        return
    if form is Format.TABLE:
        _facts({key: value for key, value in facts.items() if value is not None})
        if supernet:
            _facts({f"supernet.{key}": _setting(value) for key, value in supernet["supernet"].items()})
            typer.echo("\nderived, best first, scored with the shared weights")
            emit(supernet["derived"] or [], form, wide=wide)
            typer.echo("\nwhat it would have derived after each epoch")
            emit(supernet["derived_epochs"] or [], form, wide=wide)
        typer.echo()
        families = [family(m.metric) for m in measured]
        shown = [point for point, kind in zip(curve, families, strict=True) if kind == point["metric"]]
        emit(shown, form, wide=wide)
        if ALPHA in families:
            say(f"softmax(α) after each epoch: `nas plot {row.name} --metric {ALPHA} --text`.")
        if evaluations:
            typer.echo("\nevaluations of this network (`nas evaluate`)")
            emit(evaluations, form, EVALUATION_COLUMNS, drop=EVALUATION_DROP, wide=wide)
    else:
        emit([facts], form)


def _trial(trial: Any) -> dict[str, Any]:
    return {
        "trial": trial.number,
        "kind": trial.kind,
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
        "normalization": trial.normalization or None,
        "started_at": trial.started_at.isoformat() if trial.started_at else None,
        "finished_at": trial.finished_at.isoformat() if trial.finished_at else None,
        "error": trial.error,
    }


def _evaluation(evaluation: Evaluation) -> dict[str, Any]:
    return {
        "seed": evaluation.seed,
        "state": evaluation.state,
        "task": evaluation.task_label,
        "learner": evaluation.learner,
        "normalization": evaluation.normalization,
        "precision": evaluation.config["precision"],
        "test_score": evaluation.test_score,
        "test_ci95": evaluation.test_ci95,
        "test_episodes": evaluation.test_episodes,
        "validation_score": evaluation.validation_score,
        "train_episodes": evaluation.train_episodes,
        "best_episodes": evaluation.best_episodes,
        "seconds": evaluation.seconds,
        "split": evaluation.split,
        "settings": evaluation.settings,
        "protocol": evaluation.protocol,
        "error": evaluation.error and evaluation.error.partition("\n")[0],
    }


def _setting(value: Any) -> str:
    """Return a section as `name key=value …`, those within it by their path; anything else as it was set."""
    if isinstance(value, float):
        return f"{value:g}"
    if not isinstance(value, dict):
        return cell("", value)
    from nas.settings.sections import flat

    name = [str(value["name"])] if "name" in value else []
    given = flat({key: inner for key, inner in value.items() if key != "name"})
    return (
        " ".join(
            [*name, *(f"{path}={_setting(inner)}" for path, inner in given.items() if inner is not None)]
        )
        or "-"
    )


def _counts(trials: list[dict[str, Any]], row: SearchRow) -> str:
    states = [trial["state"] for trial in trials]
    counts = ", ".join(f"{states.count(state)} {state}" for state in sorted(set(states))) or "none yet"
    complete = row.state == "completed" and "derive" in row.config["controller"]
    return f"{len(trials) if complete else row.trials} ({counts})"


def _facts(values: dict[str, Any]) -> None:
    facts({name: cell(name, value) for name, value in values.items()})
