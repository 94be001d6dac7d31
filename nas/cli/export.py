"""The verb that writes trained networks to files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from nas.cli import completion
from nas.cli.options import DEFAULT_DB, ArtifactsOption, DbOption, files_hint
from nas.cli.output import Format, FormatOption, WideOption, emit, say


def register(app: typer.Typer) -> None:
    """Add this verb to the command line."""
    app.command()(export)


def export(
    target: Annotated[
        str,
        typer.Argument(
            metavar="TARGET",
            help="SEARCH/TRIAL, or SPACE:ARCHITECTURE such as chain:conv4.",
            autocompletion=completion.searches,
        ),
    ],
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="The file; its suffix names the format: .pt, .json or .onnx; .npz for features, or "
            ".toml for what a trial did.",
        ),
    ],
    seed: Annotated[
        int | None,
        typer.Option(min=0, help="Which training seed. (default: the best on validation tasks)"),
    ] = None,
    tasks: Annotated[str | None, typer.Option(help="Only an evaluation on these tasks.")] = None,
    learner: Annotated[str | None, typer.Option(help="Only an evaluation with this learner.")] = None,
    settings: Annotated[
        str | None,
        typer.Option(metavar="HASH", help="Only an evaluation whose hash of settings begins so."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
    artifacts: ArtifactsOption = None,
    form: FormatOption = Format.TABLE,
    wide: WideOption = False,
    db: DbOption = DEFAULT_DB,
) -> None:
    """Write what `nas evaluate` trained to a file: weights, and how to rebuild the network around them.

    With the suffix .npz it is the features that the network gives all images of its tasks, for the tasks
    'features'. With the suffix .toml it is a search of one trial instead, for `nas run FILE`: the trial
    again, from its very beginning, with all that its search chose as settings. Of a training whose settings
    changed on the way, such as by the controllers pbt and pba, these are the phases.
    """
    from nas import export as files
    from nas.evaluation.artifacts import folder
    from nas.export.selector import Selector
    from nas.export.source import find
    from nas.plugins import import_from_here
    from nas.storage.store import Store

    if output.suffix == ".toml":
        files.check_free(output, force=force)
        import_from_here()
        _search(target, output, db)
        return
    files.check(output, force=force)
    import_from_here()
    with Store(db) as store:
        selector = Selector(tasks, learner, settings, seed)
        model = find(store, target, selector, folder(db, artifacts), files_hint(artifacts))
    files.save(model, output, force=force)
    description = model.description
    row = {
        "file": str(output),
        "bytes": output.stat().st_size,
        "task": description.task,
        "learner": description.learner["name"],
        "normalization": description.normalization,
        "seed": description.seed,
        "validation_score": description.validation.score,
        "test_score": description.test.score,
        "test_ci95": description.test.ci95,
        "parameters": description.parameters,
        "architecture": description.architecture,
    }
    emit([row], form, wide=wide)
    if output.suffix == ".npz":
        say(f"Use it: --tasks features --set tasks.path={output}")
    elif output.suffix == ".onnx":
        say(f'Use it: onnxruntime.InferenceSession("{output}")')
    else:
        say(f"Use it: python -c 'import nas; model = nas.load(\"{output}\"); print(model.learner)'")


def _search(target: str, output: Path, db: str) -> None:
    """Write a trial as a search of its own."""
    from nas.cli.document import document
    from nas.errors import ConfigError
    from nas.evaluation.references import TrialReference, parse
    from nas.evaluation.targets import as_search, tried
    from nas.files import replacing
    from nas.storage.store import Store

    reference = parse(target)
    if not isinstance(reference, TrialReference):
        raise ConfigError(f"'{target}': a file .toml is of a trial. Give SEARCH/TRIAL.")
    with Store(db) as store:
        search, trial, _ = tried(store, reference)
        config = as_search(search, store.lineage(trial))
    with replacing(output) as temporary:
        temporary.write_text(document(config), encoding="utf-8")
    say(f"Run it again: nas run {output}")
