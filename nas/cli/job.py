"""Verbs of searches whose driver runs on the cluster: submit; job status, logs, stop."""

from __future__ import annotations

import os
import shlex
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from nas.cli.options import SettingsOption
from nas.cli.output import Format, FormatOption, emit, say
from nas.errors import ConfigError

DEFAULT_ADDRESS, ADDRESS_VARIABLE = "http://127.0.0.1:8265", "RAY_API_SERVER_ADDRESS"

JobsAddressOption = Annotated[
    str,
    typer.Option(
        "--jobs-address",
        envvar=ADDRESS_VARIABLE,
        metavar="URL",
        help="Jobs API of a Ray cluster.",
        show_default=True,
    ),
]
JobArgument = Annotated[str, typer.Argument(metavar="ID", help="The id that `nas submit` printed.")]


def register(app: typer.Typer) -> None:
    """Add these verbs to the command line."""
    app.command()(submit)
    job = typer.Typer(no_args_is_help=True, help="Ask about, follow or stop a job of `nas submit`.")
    for verb in (status, logs, stop):
        job.command()(verb)
    app.add_typer(job, name="job")


def submit(
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="A TOML file.")],
    name: Annotated[
        str | None, typer.Option(help="Name of the search; by default that of the file.", show_default=False)
    ] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Trials at a time.")] = None,
    settings: SettingsOption = None,
    artifacts: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Folder of weights and checkpoints that all nodes see; by default the head's NAS_ARTIFACTS.",
        ),
    ] = None,
    db: Annotated[
        str | None,
        typer.Option(
            metavar="URL", help="Database of results, without a password; by default NAS_DB of the head."
        ),
    ] = None,
    jobs_address: JobsAddressOption = DEFAULT_ADDRESS,
) -> None:
    """Run a search with its driver on a Ray cluster: nothing of it depends on this machine any more.

    Submitted again under its name, it goes on. The driver takes the database and its password from the
    environment of the head: what is given to a job can be read by all who list jobs.
    """
    from nas.cli.document import toml
    from nas.jobs import Jobs
    from nas.plugins import import_from_here
    from nas.settings.paths import assign
    from nas.settings.search import validate
    from nas.settings.sections import read, root
    from nas.storage.engine import parse, secret
    from nas.storage.names import checked

    import_from_here()
    _, values = read(config)
    for setting in settings or []:
        assign(values, setting)
    root(values, Path.cwd())
    if workers is not None:
        values["workers"] = workers
    values["name"] = checked(name or values.get("name") or config.stem)
    values.setdefault("executor", "ray")
    resolved = validate(values)
    if resolved.executor != "ray":
        raise ConfigError(
            f"executor: '{resolved.executor}'; on a cluster trials run with 'ray'. Leave it out, or run it "
            f"here: `nas run {config}`"
        )
    if "workers" not in values:
        raise ConfigError("--workers: say how many trials the cluster is to run at a time.")
    options, needs = [], []
    if db is None:
        needs.append("NAS_DB")
    elif secret(parse(db)):
        raise ConfigError(
            "--db: a password in it could be read by all who list the cluster's jobs. Set NAS_DB in the "
            "environment of the head, or leave the password to PGPASSFILE there."
        )
    else:
        options += ["--db", db]
    if artifacts is None:
        needs.append("NAS_ARTIFACTS")
    else:
        options += ["--artifacts", str(artifacts)]
    text = "\n".join(f"{key} = {toml(value)}" for key, value in values.items() if value is not None)
    job = Jobs(jobs_address).submit(
        resolved.name or "", text + "\n", options, needs=needs, command=shlex.join(["nas", *sys.argv[1:]])
    )
    typer.echo(job)
    at = _at(jobs_address)
    say(
        f"Search '{resolved.name}' was submitted. Follow it, ask about it, stop it:\n"
        f"  nas job logs --follow {job}{at}\n  nas job status {job}{at}\n  nas job stop {job}{at}"
    )


def status(
    job: JobArgument, jobs_address: JobsAddressOption = DEFAULT_ADDRESS, form: FormatOption = Format.TABLE
) -> None:
    """Tell what has become of a job."""
    from nas.jobs import Jobs

    found = Jobs(jobs_address).job(job)
    row = {**asdict(found), "began": _stamp(found.began), "ended": _stamp(found.ended)}
    emit([row], form, ["id", "search", "state", "began", "ended"])
    if form is Format.TABLE and found.state == "failed":
        say(found.message)


def logs(
    job: JobArgument,
    follow: Annotated[bool, typer.Option("--follow", help="Go on until the job ends.")] = False,
    jobs_address: JobsAddressOption = DEFAULT_ADDRESS,
) -> None:
    """Print what a job has printed; Ctrl-C ends the following, and not the job."""
    from nas.jobs import Jobs

    jobs = Jobs(jobs_address)
    if not follow:
        typer.echo(jobs.log(job), nl=False)
        return
    try:
        ended = jobs.follow(job, lambda text: typer.echo(text, nl=False))
    except KeyboardInterrupt:
        say(f"\nThe job goes on. Stop it: `nas job stop {job}{_at(jobs_address)}`")
        return
    say(f"The job has ended: {ended.state}.")


def stop(job: JobArgument, jobs_address: JobsAddressOption = DEFAULT_ADDRESS) -> None:
    """End a job as Ctrl-C would: all that is done is saved, and the same `nas submit` goes on."""
    from nas.jobs import Jobs

    jobs = Jobs(jobs_address)
    ran, found = jobs.stop(job), jobs.job(job)
    what = f"Job {job} was stopped." if ran else f"Job {job} had ended before: {found.state}."
    say(what if found.command is None else f"{what} Go on with its search: `{found.command}`")


def _at(jobs_address: str) -> str:
    """Return what to add to a command so that it asks the same cluster."""
    known = os.environ.get(ADDRESS_VARIABLE, DEFAULT_ADDRESS)
    return "" if jobs_address == known else f" --jobs-address {shlex.quote(jobs_address)}"


def _stamp(time: object) -> str | None:
    return None if time is None else f"{time:%Y-%m-%d %H:%M:%S} UTC"
