"""The verb that draws searches side by side."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nas.cli.compare import CompleteOption, SearchesArgument, absent, equal_cost, left_out, save
from nas.cli.options import DEFAULT_DB, DbOption
from nas.cli.output import Format, emit, say
from nas.costs import COSTS
from nas.errors import ConfigError
from nas.metrics import ALPHA

if TYPE_CHECKING:
    from nas.comparison.decisions import ChoicesMade
    from nas.comparison.groups import Group
    from nas.comparison.mixtures import Mixtures
    from nas.comparison.tradeoff import Tradeoff


def register(app: typer.Typer) -> None:
    """Add this verb to the command line."""
    app.command()(plot)


def plot(
    names: SearchesArgument,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="A picture: .png, .svg or .pdf.")
    ] = None,
    text: Annotated[bool, typer.Option("--text", help="Draw in the terminal.")] = False,
    metric: Annotated[
        list[str] | None,
        typer.Option(
            help="Instead of best scores, what trials measured along the way, such as train_loss, score or "
            "alpha_entropy; repeatable. alpha alone: each weight by α over epochs."
        ),
    ] = None,
    against: Annotated[
        str | None,
        typer.Option(
            metavar="COST",
            help=f"Instead of best scores over time, each trial's score against a cost: {', '.join(COSTS)}.",
        ),
    ] = None,
    decisions: Annotated[
        bool,
        typer.Option(
            "--decisions",
            help="Instead of best scores, what was chosen: how much each decision matters, and choices over "
            "time.",
        ),
    ] = False,
    complete: CompleteOption = False,
    db: DbOption = DEFAULT_DB,
) -> None:
    """Draw best scores over worker time; or what was measured, scores against a cost, or what was chosen.

    A line is the mean over the searches of a group, which differ in the seed alone, with its 95 % interval;
    fewer than five are drawn one by one instead. Random search is grey. What trials of unlike architectures
    measured has no mean: the trial with the best score stands out.
    """
    from nas.comparison.comparison import at_equal_cost, gather
    from nas.comparison.decisions import chosen
    from nas.comparison.groups import find
    from nas.comparison.mixtures import mixtures
    from nas.comparison.series import anytime, measured
    from nas.comparison.text import render
    from nas.comparison.tradeoff import tradeoff
    from nas.storage.store import Store

    if output is None and not text:
        raise ConfigError("Where to? Give a file with -o, such as -o curves.png, or --text for the terminal.")
    if metric and ALPHA in metric and set(metric) != {ALPHA}:
        raise ConfigError(f"--metric {ALPHA} is a picture of its own; draw other metrics by another command.")
    if bool(metric) + (against is not None) + decisions > 1:
        raise ConfigError("--metric, --against and --decisions are pictures of their own: give one of them.")
    with Store(db) as store:
        gathered = gather(store, find(store, names), complete=complete)
        left_out(gathered)
        if against is not None:
            _tradeoff(tradeoff(store, gathered.groups, against), gathered.groups[0], output, text)
            return
        if decisions:
            _decisions(chosen(store, gathered.groups), output, text)
            return
        if metric and ALPHA in metric:
            _alpha(mixtures(store, gathered.groups), output, text)
            return
        if metric:
            panels = [measured(store, gathered.groups, name) for name in metric]
        else:
            equal = at_equal_cost(store, gathered)
            equal_cost(equal)
            panels = anytime(equal.groups, equal.curves, equal.cost)
    if output is not None:
        save(panels, gathered.groups[0].searches[0], output)
    else:
        absent(panels)
    if text:
        typer.echo("\n\n".join(render(panel, _width()) for panel in panels))


def _width() -> int:
    return min(shutil.get_terminal_size((100, 24)).columns, 120)


def _tradeoff(found: Tradeoff, first: Group, output: Path | None, text: bool) -> None:
    """Draw or print scores against a cost."""
    from nas.comparison import tradeoff

    for sentence in found.absent:
        say(sentence)
    if output is not None:
        title = f"{first.searches[0].task_label} · a point: a trial; line: those that no other beats in both"
        tradeoff.draw(found, title, output)
        say(f"Wrote {output}.")
    if text:
        typer.echo(tradeoff.text(found, _width()))


def _decisions(found: ChoicesMade, output: Path | None, text: bool) -> None:
    """Draw or print what was chosen."""
    from nas.comparison import decisions_picture
    from nas.comparison.decisions import importance

    shares = importance(found)
    if output is not None:
        searches = found.group.searches
        several = f", n = {len(searches)} seeds" if len(searches) > 1 else ""
        title = f"'{searches[0].name}': {found.group.label} in {searches[0].space}, {searches[0].task_label}"
        decisions_picture.draw(found, shares, f"{title}{several}", output)
        say(f"Wrote {output}.")
    if text:
        emit(decisions_picture.table(found, shares), Format.TABLE)


def _alpha(found: Mixtures, output: Path | None, text: bool) -> None:
    """Draw or print the weights by α."""
    from nas.comparison.grid import draw_mixtures
    from nas.comparison.panels import caption
    from nas.comparison.text import table

    for sentence in found.absent:
        say(sentence)
    first, *others = found.group.searches
    several = f", n = {1 + len(others)} seeds" if others else ""
    name = f"'{first.name}'" + (f" … '{others[-1].name}'" if others else "")
    title = f"{name}: {found.group.label} in {first.space}, {first.task_label}{several}"
    if output is not None:
        said = caption([line for decision in found.decisions for line in decision.lines])
        draw_mixtures(found, f"{title} · {said}" if said else title, output)
        say(f"Wrote {output}.")
    if text:
        typer.echo(f"Weights by α of {title}\n{table(found)}")
