"""The verb that writes the file of a search: init."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Annotated

import typer

from nas.cli.options import SettingsOption
from nas.cli.output import say
from nas.errors import ConfigError, UnknownName


def register(app: typer.Typer) -> None:
    """Add this verb to the command line."""
    app.command()(init)


def init(
    file: Annotated[
        Path | None, typer.Argument(metavar="[FILE]", help="The file; by default search.toml.")
    ] = None,
    space: Annotated[str, typer.Option(help="Search space; `nas spaces` lists them.")] = "few_shot",
    controller: Annotated[str, typer.Option(help="Controller; `nas controllers` lists them.")] = "evolution",
    tasks: Annotated[str, typer.Option(help="Tasks; `nas tasks` lists them.")] = "glyphs",
    learner: Annotated[str, typer.Option(help="Learner; `nas learners` lists them.")] = "prototypical",
    settings: SettingsOption = None,
    example: Annotated[
        str | None, typer.Option(metavar="NAME", help="Write an example instead, such as demo.")
    ] = None,
) -> None:
    """Write the file of a search, with every setting of its plug-ins: its value, and what it means.

    The file runs as it is: nas run FILE. Nothing that is there is overwritten.
    """
    if example is not None:
        source = _example(example)
        _write(file or Path(source.name), source.read_text(encoding="utf-8"))
        return
    from nas.cli.document import document
    from nas.plugins import import_from_here
    from nas.settings.paths import assign
    from nas.settings.search import validate
    from nas.settings.sections import choose

    values: dict[str, object] = {}
    chosen = {"space": space, "controller": controller, "tasks": tasks, "learner": learner}
    for kind, plugin in chosen.items():
        choose(values, kind, plugin)
    for setting in settings or []:
        assign(values, setting)
    import_from_here()
    target = file or Path("search.toml")
    text = document(validate(values), portable="executor" not in values and "workers" not in values)
    _write(target, f"# A search: nas run {target.name}\n{text}")


def examples() -> dict[str, Path]:
    """Return the files of the examples by name: in the package, or beside it where it is not installed."""
    package = Path(str(resources.files("nas")))
    folders = (package / "examples", package.parent / "examples")
    folder = next((folder for folder in folders if folder.is_dir()), folders[0])
    return {path.stem: path for path in sorted(folder.glob("*")) if path.suffix in (".toml", ".py")}


def _example(name: str) -> Path:
    known = examples()
    if name not in known:
        raise UnknownName("example", name, known)
    return known[name]


def _write(target: Path, text: str) -> None:
    try:
        with target.open("x", encoding="utf-8") as opened:
            opened.write(text)
    except FileExistsError:
        raise ConfigError(f"{target} is already there: give another name, `nas init FILE`.") from None
    except OSError as error:
        raise ConfigError(f"Cannot write {target}: {error.strerror}.") from None
    verb = "benchmark" if "\ncontrollers =" in text else "run"
    say(f"Wrote {target}." + (f" Run it: `nas {verb} {target}`" if target.suffix == ".toml" else ""))
