"""The verb that shows a search, or one of its trials: show."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nas.cli import completion, looks
from nas.cli.looks import WatchOption
from nas.cli.options import DEFAULT_DB, DbOption
from nas.cli.output import (
    WARNING,
    Format,
    FormatOption,
    Record,
    WideOption,
    cell,
    emit,
    facts,
    room,
    say,
    setting,
)
from nas.counts import counted
from nas.errors import ConfigError, NasError
from nas.metrics import ALPHA, family

if TYPE_CHECKING:
    from nas.queries.portraits import Portrait
    from nas.queries.searches import SearchDetails
    from nas.queries.trials import TrialDetails
    from nas.storage.store import Store

COLUMNS = (
    "trial",
    "kind",
    "state",
    "parent",
    "score",
    "ci95",
    "parameters",
    "macs",
    "activations",
    "latency",
    "latency_batch",
    "seconds",
    "architecture",
    "chosen",
    "error",
)
DROP = ("activations", "latency_batch", "latency", "macs", "seconds", "kind", "parameters", "ci95")
"""What a narrow terminal can do without, the least important first."""

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


ROOM = 5
"""Lines of a terminal that are left for titles and long facts while a search is watched."""

HEAVY = ("states", "config", "environment", "trial_rows")
"""Fields of a search that its facts do not print, or print otherwise."""

SAID = ("name", "trials", "objective")
"""Settings that its facts print anyway."""


def register(app: typer.Typer) -> None:
    """Add this verb to the command line."""
    app.command()(show)


def show(
    target: Annotated[
        str,
        typer.Argument(
            metavar="TARGET",
            help="SEARCH, SEARCH/TRIAL, or SPACE:ARCHITECTURE such as few_shot:residual.",
            autocompletion=completion.searches,
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="Draw the network: .svg, .png or .pdf; of a SEARCH, write a table of its trials, with a "
            "column a decision: .csv or .parquet.",
        ),
    ] = None,
    layers: Annotated[
        bool, typer.Option("--layers", help="List the network's layers: shapes, parameters, MACs.")
    ] = False,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="A setting of the space of SPACE:ARCHITECTURE, such as space.channels=36; repeatable.",
        ),
    ] = None,
    shape: Annotated[
        str | None,
        typer.Option(
            "--input",
            metavar="CxHxW",
            help="Shape of one example for SPACE:ARCHITECTURE, such as 3x84x84; by default 1x28x28.",
        ),
    ] = None,
    watch: WatchOption = False,
    form: FormatOption = Format.TABLE,
    wide: WideOption = False,
    db: DbOption = DEFAULT_DB,
) -> None:
    """Show a search with its trials, one trial in full, or a network of a space."""
    from nas.queries import searches, trials
    from nas.storage.store import Store

    if watch:
        looks.check(form)
        if output is not None or layers or ":" in target or "/" in target:
            raise ConfigError("--watch is for a search: give its name alone, without a trial or a picture.")
    if output is not None and not layers and form is not Format.TABLE:
        raise ConfigError(
            f"--format {form}: with -o no rows are printed, and the suffix of {output} says what is written. "
            "Leave one of them out."
        )
    if ":" in target.partition("/")[0]:
        _network(_of_space(target, settings or [], shape), form, wide, output, layers)
        return
    if settings or shape is not None:
        option = "--set" if settings else "--input"
        raise ConfigError(
            f"{option} goes with SPACE:ARCHITECTURE; '{target}' has the settings and the tasks of its search."
        )
    name, number = trials.split(target)
    with Store(db) as store:
        if number is None:
            if output is not None or layers:
                _table(store, name, output, layers=layers)
                return
            if watch:
                with suppress(KeyboardInterrupt):
                    _watch(store, name, form, wide)
                return
            _search(searches.details(store, name), form, wide)
        elif output is not None or layers:
            from nas.queries import portraits

            _network(portraits.of_trial(store, name, number), form, wide, output, layers)
        else:
            _trial(trials.details(store, name, number), form, wide, store)


def _table(store: Store, name: str, output: Path | None, *, layers: bool) -> None:
    """Write the trials of a search to a file."""
    from nas.plugins import import_from_here
    from nas.transfer.trials import SUFFIXES, write

    if layers or output is None or output.suffix not in SUFFIXES:
        raise ConfigError(
            f"Which network? Name a trial, such as {name}/0: `nas show {name}` lists them. "
            f"A table of all trials is a file {' or '.join(SUFFIXES)}."
        )
    import_from_here()
    count = write(store, name, output)
    say(f"Wrote {counted(count, 'trial')} to {output}.")


def _of_space(target: str, settings: list[str], shape: str | None) -> Portrait:
    from nas.evaluation.references import SpaceReference, parse
    from nas.queries import portraits
    from nas.settings.paths import assign

    values: dict[str, Any] = {"space": {}}
    for each in settings:
        assign(values, each)
    if values.keys() != {"space"} or not isinstance(values["space"], dict):
        raise ConfigError("--set: of a network alone only the space has settings, such as space.channels=36.")
    reference = parse(target)
    assert isinstance(reference, SpaceReference)
    given = {} if shape is None else {"input": _input(shape)}
    return portraits.of_space(reference.space, reference.architecture, values["space"], **given)


def _input(text: str) -> tuple[int, ...]:
    """Read the shape of one example."""
    parts = text.replace("×", "x").split("x")
    if len(parts) not in (1, 3) or not all(part.isdecimal() and 0 < int(part) < 10**5 for part in parts):
        raise ConfigError(f"--input {text}: expected CxHxW, such as 3x84x84, or one number of features.")
    return tuple(map(int, parts))


def _of_trial(store: Store, found: TrialDetails) -> Portrait:
    from nas.queries import portraits  # loads the space, and with it torch

    return portraits.of_trial(store, found.search, found.trial.trial)


def _network(found: Portrait, form: Format, wide: bool, output: Path | None, layers: bool) -> None:
    if output is not None:
        from nas.drawing.picture import write

        write(found.drawing, output)
        say(f"Wrote {output}.")
        if not layers:
            return
    from nas.errors import Infeasible

    rows = found.layers() if layers or form is not Format.TABLE else []
    try:
        cost = found.space.cost(found.architecture, found.shape)._asdict()
    except Infeasible as reason:
        cost = {}
        say(f"{WARNING}{reason}")
    told = {
        "space": found.space.name,
        "architecture": found.space.encode(found.architecture),
        "input": list(found.shape.input),
        **cost,
    }
    if form in (Format.JSON, Format.NDJSON):
        _document({**told, "chosen": dict(found.chosen), "layers": rows}, form)
        return
    if form is Format.TABLE:
        _facts({**told, "input": "×".join(map(str, found.shape.input)), **found.chosen})
        _sketch(lambda: found)
        if not rows:
            return
        typer.echo()
    emit(rows, form, wide=wide)


def _sketch(portrait: Callable[[], Portrait]) -> None:
    """Print a network as lines; where its space or plug-in is gone, say why not."""
    from nas.drawing.sketch import sketch

    try:
        drawing = portrait().drawing
    except NasError as error:
        say(f"{WARNING}the network is not drawn: {error}")
        return
    typer.echo()
    if drawing.graphs:
        typer.echo(sketch(drawing, room() or 80))
    else:
        _facts(drawing.settings)


def _search(found: SearchDetails, form: Format, wide: bool) -> None:
    from nas.queries.answer import words
    from nas.queries.chosen import choices
    from nas.queries.rows import record

    if form in (Format.JSON, Format.NDJSON):
        _document(record(found), form)
        return
    if form is Format.TABLE:
        said = {key: value for key, value in record(found).items() if key not in HEAVY}
        if not found.remarks:
            del said["remarks"]
        if found.front is None:
            del said["front"]
        if found.answer is None:
            del said["answer"]
        else:
            said["answer"] = words(found.answer)
        known = [f"{one.search} ({counted(one.networks, 'network')}, {one.task})" for one in found.inherited]
        said["inherited"] = known
        if not known:
            del said["inherited"]
        said["trials"] = _trials(found)
        settings = {key: setting(value) for key, value in found.config.items() if key not in SAID}
        if found.config.get("slots"):
            settings["slots"] = choices(found.config["slots"])
        _facts({**said, **settings})
        typer.echo()
    _emit(found, _records(found), form, wide)


def _trials(found: SearchDetails) -> str:
    states = ", ".join(f"{count} {state}" for state, count in found.states.items()) or "none yet"
    return f"{found.trials} ({states})"


def _records(found: SearchDetails) -> list[Record]:
    """Return the rows of a search's trials, with the first line of each error."""
    from nas.queries.rows import record

    rows = [record(row) for row in found.trial_rows]
    return [{**row, "error": (row["error"] or "").partition("\n")[0]} for row in rows]


def _emit(found: SearchDetails, rows: Sequence[Record], form: Format, wide: bool) -> None:
    from nas.queries.chosen import apart

    columns = [name for name in COLUMNS if name != "chosen" or found.config.get("slots")]
    if form in (Format.TABLE, Format.MARKDOWN):
        rows = [apart(dict(row)) for row in rows]
    emit(rows, form, columns, drop=DROP, wide=wide)


def _watch(store: Store, name: str, form: Format, wide: bool) -> None:
    """Show a search until its driver has left it."""
    from nas.queries import searches
    from nas.storage.lease import driven

    name = store.search(name).name  # `@last` may be another one later

    def look() -> tuple[SearchDetails, bool]:
        goes_on = driven(store.search(name))  # asked first: what ended before is then seen
        return searches.details(store, name), goes_on

    def draw() -> bool:
        from nas.queries.answer import words

        found, goes_on = look()
        answer = {} if found.answer is None else {"answer": words(found.answer)}
        said = {"search": found.search, "task": found.task, "state": found.state, "trials": _trials(found)}
        _facts({**said, **answer})
        typer.echo()
        latest = max(shutil.get_terminal_size().lines - len(said) - ROOM, 1)
        _emit(found, _records(found)[-latest:], form, wide)
        return goes_on

    def rows() -> tuple[list[Record], bool]:
        now, goes_on = look()
        return _records(now), goes_on

    if looks.on_terminal(form):
        looks.in_place(draw)
        return
    found, _ = look()
    looks.changes(rows, lambda changed: _emit(found, changed, form, wide), "trial")


def _trial(found: TrialDetails, form: Format, wide: bool, store: Store) -> None:
    from nas.queries.chosen import apart, told
    from nas.queries.rows import record

    row = {"search": found.search, **record(found.trial)}
    curve = [record(point) for point in found.measurements]
    evaluations = [record(evaluation) for evaluation in found.evaluations]
    lineage = [record(part) for part in found.lineage]
    if form in (Format.JSON, Format.NDJSON):
        derivation = {} if found.derivation is None else record(found.derivation)
        rest = {"lineage": lineage, "measurements": curve, "evaluations": evaluations}
        _document({**row, **derivation, **rest}, form)
        return
    if form is not Format.TABLE:
        emit([row], form)
        return
    _facts({key: value for key, value in apart(row).items() if value is not None})
    if found.trial.architecture is not None and room() is not None:
        _sketch(lambda: _of_trial(store, found))
    if found.derivation is not None:
        supernet = found.derivation.supernet
        _facts({f"supernet.{key}": setting(value) for key, value in supernet.items()})
        typer.echo("\nderived, best first, scored with the shared weights")
        emit(found.derivation.derived or [], form, wide=wide)
        typer.echo("\nwhat it would have derived after each epoch")
        emit(found.derivation.derived_epochs or [], form, wide=wide)
    if lineage:
        typer.echo("\nparts of its training (`nas export` with a file .toml writes them as phases)")
        emit([{**part, "chosen": told(part["chosen"])} for part in lineage], form, wide=wide)
    typer.echo()
    families = [family(point["metric"]) for point in curve]
    shown = [point for point, kind in zip(curve, families, strict=True) if kind == point["metric"]]
    emit(shown, form, wide=wide)
    if ALPHA in families:
        say(f"Weights by α after each epoch: `nas plot {found.search} --metric {ALPHA} --text`.")
    if evaluations:
        typer.echo("\nevaluations of this network (`nas evaluate`)")
        emit(evaluations, form, EVALUATION_COLUMNS, drop=EVALUATION_DROP, wide=wide)


def _document(values: Mapping[str, Any], form: Format) -> None:
    typer.echo(json.dumps(values, indent=2 if form is Format.JSON else None))


def _facts(values: Mapping[str, Any]) -> None:
    facts({name: cell(name, value) for name, value in values.items()})
