"""The verb that checks the environment: this machine, or every one of a cluster."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, NamedTuple

import typer

from nas.cli.options import DEFAULT_DB, ArtifactsOption, DbOption
from nas.cli.output import Format, FormatOption, WideOption, emit
from nas.errors import NasError
from nas.executors.capacity import cores

DROP = ("gpus", "cpus", "data", "plugins", "clock", "ray", "torch", "python", "nas", "folder")
"""What a narrow terminal can do without of a machine, the least important first."""


class Check(NamedTuple):
    """One finding: `ok`, `optional`, `warning` or `error`, and what to do."""

    check: str
    status: str
    finding: str


def register(app: typer.Typer) -> None:
    """Add these verbs to the command line."""
    app.command()(doctor)


def doctor(
    ray_address: Annotated[
        str | None,
        typer.Option(
            metavar="HOST:PORT",
            help="Check every machine of this Ray cluster against this one: versions, plugins, data, the "
            "shared folder of artifacts, the clock.",
        ),
    ] = None,
    form: FormatOption = Format.TABLE,
    wide: WideOption = False,
    artifacts: ArtifactsOption = None,
    db: DbOption = DEFAULT_DB,
) -> None:
    """Check this machine, or a cluster: versions, plugins, shared memory, Ray, GPU, data, database.

    The exit code is 1 where something is wrong.
    """
    if ray_address is not None:
        _cluster(ray_address, artifacts, form, wide, db)
        return
    findings = [check for part in (_versions, _plugins, _machine, _ray, _data) for check in part()]
    findings.append(_database(db))
    emit([check._asdict() for check in findings], form, wide=wide)
    if any(check.status == "error" for check in findings):
        raise typer.Exit(1)


def _cluster(address: str, artifacts: Path | None, form: Format, wide: bool, db: str) -> None:
    from nas.evaluation.artifacts import folder
    from nas.executors import nodes
    from nas.executors.ray import start
    from nas.queries.rows import record

    with start(address=address):
        found = nodes.inspect(folder(db, artifacts))
    emit([record(row) for row in found], form, drop=DROP, wide=wide)
    if any(row.status == "error" for row in found):
        raise typer.Exit(1)


def _versions() -> Iterator[Check]:
    yield Check("python", "ok", platform.python_version())
    for package in ("nas-service", "torch", "ray", "sqlalchemy", "psycopg"):
        try:
            yield Check(package, "ok", version(package))
        except PackageNotFoundError:
            yield Check(
                package,
                "optional",
                "not installed; needed for PostgreSQL: pip install 'nas-service[postgres]'",
            )


def _plugins() -> Iterator[Check]:
    from nas import plugins

    for kind in plugins.GROUPS:
        broken = [error for plugin in plugins.installed(kind).values() if (error := _error(plugin.load))]
        count = len(plugins.installed(kind))
        name = plugins.GROUPS[kind].removeprefix("nas.").replace("_", " ")
        yield Check(f"plugins: {name}", "error" if broken else "ok", "; ".join(broken) or f"{count} load")


def _machine() -> Iterator[Check]:
    import torch

    from nas.precision import choose

    yield Check("cores", "ok", str(cores()))
    gpus = torch.cuda.device_count()
    yield Check("gpus", "ok", ", ".join(torch.cuda.get_device_name(i) for i in range(gpus)) or "none")
    yield Check(
        "precision",
        "ok",
        f"images in {choose('auto', images=True, sensitive=False).dtype}".replace("torch.", ""),
    )


def _ray() -> Iterator[Check]:
    shm = Path("/dev/shm")
    if shm.is_dir():
        free = shutil.disk_usage(shm).free
        enough = free >= 256 * 2**20
        advice = "" if enough else "; Ray wants more (docker: --shm-size=2gb)"
        yield Check("shared memory", "ok" if enough else "warning", f"{free / 2**30:.1f} GiB free{advice}")
    mode = os.environ.get("RAY_AUTH_MODE", "default")
    address = os.environ.get("RAY_ADDRESS")
    if address and mode != "token":
        finding = f"RAY_ADDRESS is set, RAY_AUTH_MODE is {mode}: set it to token on every node"
        yield Check("ray token", "warning", finding)
    else:
        yield Check(
            "ray runs",
            "ok",
            f"cluster at {address}" if address else "started on this machine for each search",
        )


def _data() -> Iterator[Check]:
    from nas.tasks.data import DATASETS, data_root, present

    for name in DATASETS:
        if present(name):
            yield Check(f"data: {name}", "ok", f"in {data_root() / name}")
        else:
            finding = f"not here: `nas data fetch {name}`, or point NAS_DATA at a folder with {name}/"
            yield Check(f"data: {name}", "optional", finding)


def _database(url: str) -> Check:
    from nas.errors import NotFound
    from nas.storage.store import Store

    try:
        with Store(url) as store:
            return Check("database", "ok", f"{len(store.searches())} searches")
    except NotFound:
        return Check("database", "ok", "none yet: the first run creates it")
    except NasError as error:
        return Check("database", "error", str(error))


def _error(action: Callable[[], object]) -> str:
    try:
        action()
    except NasError as error:
        return str(error)
    return ""
