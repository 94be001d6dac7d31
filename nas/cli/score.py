"""The verb that scores trained weights on other tasks: score."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nas.cli import completion
from nas.cli.interruption import interrupted_with
from nas.cli.options import DEFAULT_DB, ArtifactsOption, DbOption
from nas.cli.output import Format, FormatOption, emit, say
from nas.counts import counted
from nas.errors import ConfigError
from nas.progress.evaluations import counting

if TYPE_CHECKING:
    from nas.export.model import Loaded
    from nas.export.transfer import Transfer


def register(app: typer.Typer) -> None:
    """Add this verb to the command line."""
    app.command()(score)


def score(
    target: Annotated[
        str,
        typer.Argument(
            metavar="TARGET",
            help="A file of `nas export`; or what was evaluated: SEARCH/TRIAL, SPACE:ARCHITECTURE.",
            autocompletion=completion.searches,
        ),
    ],
    tasks: Annotated[
        str | None, typer.Option(help="Tasks, if other than those of training; `nas tasks` lists them.")
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="A setting of tasks, such as tasks.path=images; repeatable."
        ),
    ] = None,
    episodes: Annotated[int, typer.Option(min=2, help="Tasks behind the score.")] = 1000,
    seed: Annotated[
        int | None,
        typer.Option(min=0, help="Which training seed. (default: the best on validation tasks)"),
    ] = None,
    evaluation: Annotated[
        str | None,
        typer.Option(metavar="HASH", help="Only an evaluation whose hash of settings begins so."),
    ] = None,
    artifacts: ArtifactsOption = None,
    form: FormatOption = Format.TABLE,
    db: DbOption = DEFAULT_DB,
) -> None:
    """Score trained weights on other tasks: on one's own images, or in other ways and shots.

    The tasks are a fixed list, drawn from split `test`; of a folder that the training has not seen, all
    classes are. Images are read in the size and the colours of the training's. Nothing is learned but what
    the learner learns of each task, and nothing is recorded: a score here is no test result of a search,
    since anyone may ask for it as often as they like.
    """
    from nas.export.transfer import sources, transfer
    from nas.plugins import import_from_here
    from nas.settings.paths import assign

    values: dict[str, Any] = {"tasks": {}}
    for setting in settings or []:
        assign(values, setting)
    if values.keys() != {"tasks"} or not isinstance(values["tasks"], dict):
        raise ConfigError("--set: only settings of tasks can be set, such as tasks.ways=10.")
    given = values["tasks"]
    name = given.pop("name", None) if tasks is None else tasks
    import_from_here()
    loaded = _loaded(target, seed, evaluation, artifacts, db)
    source = sources(loaded.description, name, given)
    for remark in source.remarks:
        say(f"warning: {remark}")
    description = loaded.description
    say(
        f"Scoring {target} ({description.learner['name']}) on {source.label}: {counted(episodes, 'episode')} "
        "of split test (--episodes N for another number)."
    )
    fewer = "Nothing was recorded. The same command begins anew; fewer episodes take less time: --episodes N"
    with interrupted_with(fewer), counting(episodes) as scored:
        found = transfer(loaded, source, episodes, scored)
    row = {
        "model": target,
        "task": source.label,
        "score": found.score.value,
        "ci95": found.score.ci95,
        "episodes": found.score.episodes,
        "split": found.score.split,
        "classes": found.score.classes,
        "learner": description.learner["name"],
        "normalization": found.score.normalization,
        "trained_on": description.task,
        "test_score": description.test.score,
        "test_ci95": description.test.ci95,
        "seed": description.seed,
        "not_finite": found.not_finite,
        "architecture": description.architecture,
    }
    emit([row], form)
    for words in _words(found, loaded):
        say(words)


def _loaded(target: str, seed: int | None, evaluation: str | None, artifacts: Path | None, db: str) -> Loaded:
    from nas.evaluation.artifacts import folder
    from nas.export.files import WRITERS, load
    from nas.export.model import rebuild
    from nas.export.selector import Selector
    from nas.export.source import find
    from nas.storage.store import Store

    if Path(target).suffix in WRITERS:
        return load(target)
    with Store(db) as store:
        selector = Selector(None, None, evaluation, seed)
        return rebuild(find(store, target, selector, folder(db, artifacts)))


def _words(found: Transfer, loaded: Loaded) -> list[str]:
    from nas.tasks.appearance import differences

    words = [
        f"score: mean over {found.score.episodes} episodes, and half the width of its 95 % interval; "
        "test_score: that of its own tasks. Nothing was recorded."
    ]
    if found.not_finite:
        words.append(f"warning: {found.not_finite} episodes have a prediction that is not finite: wrong.")
    if found.images is not None:
        words.append(f"Images here: {found.images}.")
        if found.trained is None:
            words.append("How those of training look is not known: their data is not on this machine.")
        else:
            words.append(f"In training: {found.trained}.")
            words += [f"warning: {words}" for words in differences(found.images, found.trained)]
    return words
