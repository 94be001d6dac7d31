"""The verb that runs several controllers over several seeds."""

from __future__ import annotations

import shlex
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nas.cli.compare import report
from nas.cli.interruption import continued_by
from nas.cli.options import (
    DEFAULT_DB,
    ArtifactsOption,
    DbOption,
    RayAddressOption,
    SettingsOption,
    SlotOption,
    artifacts_folder,
    typed,
)
from nas.cli.output import Format, FormatOption, WideOption, emit, say
from nas.counts import clock
from nas.errors import NotFound, TooManyFailures

if TYPE_CHECKING:
    from nas.settings.search import SearchConfig
    from nas.storage.schema import Search
    from nas.storage.store import Store
    from nas.tasks.base import ScoreSource

EVERY = 10.0
"""Seconds between two lines about searches that each take less."""


def register(app: typer.Typer) -> None:
    """Add this verb to the command line."""
    app.command()(benchmark)


def benchmark(
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="A TOML file.")],
    seeds: Annotated[int | None, typer.Option(min=1, help="Seeds 0, 1, … of each controller.")] = None,
    name: Annotated[str | None, typer.Option(help="Name of the benchmark; by default the file's.")] = None,
    ray_address: RayAddressOption = None,
    slots: SlotOption = None,
    settings: SettingsOption = None,
    dry: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="List the searches that would run, and about how long each takes; run nothing."
        ),
    ] = False,
    form: FormatOption = Format.TABLE,
    wide: WideOption = False,
    artifacts: ArtifactsOption = None,
    db: DbOption = DEFAULT_DB,
) -> None:
    """Run several controllers over several seeds, random search always among them, and compare them.

    The file is that of a search with `controllers = ["random", "evolution", {name = "rnn", …}]` and `seeds =
    3` in place of its controller and seed. Its searches are called NAME-CONTROLLER-SEED. The same command
    again goes on where it was; what is complete is not run again.
    """
    from nas.comparison.benchmark import plan, run
    from nas.comparison.comparison import compare
    from nas.plugins import import_from_here
    from nas.settings.paths import assign_options
    from nas.settings.sections import read
    from nas.storage.store import Store
    from nas.verbs import fill_in, ready

    import_from_here()
    text, values = read(config)
    values |= {key: value for key, value in (("seeds", seeds), ("name", name)) if value is not None}
    assign_options(values, slots, settings)
    fill_in(values)
    configs = plan(values, config.stem)
    if dry:
        _dry_run(configs, form, wide, db)
        return
    with Store(db, create=True) as store:
        say(f"{len(configs)} searches of at most {configs[0].trials} trials.")
        if configs[0].max_seconds is None:
            say(
                "Trials take unequal time, and a reused one takes none: all searches will be compared at the "
                "worker time of the shortest. max_seconds in place of trials gives all the same."
            )
        on_ray = configs[0].executor == "ray"
        driver = _Driver(store, ray_address, configs, artifacts_folder(db, artifacts, cluster=on_ray))
        with continued_by(typed(db)), ready(configs[0], say, ray_address):
            ended = run(store, configs, driver.drive, text, say)
        for complaint in ended.failed:
            say(complaint)
        if ended.stopped is not None:
            say(f"Stopped on request, in search '{ended.stopped}'. The same command goes on.")
        try:
            report(compare(store, ended.searches), form, wide=wide)
        except NotFound as error:
            if not ended.failed and ended.stopped is None:
                raise
            say(str(error))
        else:
            ours = shlex.quote(f"{values.get('name', config.stem)}-")
            say(f"Next: `nas plot {ours} --text`, and this table again: `nas compare {ours}`")
    if ended.failed:
        raise TooManyFailures(
            f"{len(ended.failed)} of {len(configs)} searches failed, for the reasons above. "
            "The same command tries them again."
        )


def _dry_run(configs: Sequence[SearchConfig], form: Format, wide: bool, db: str) -> None:
    """Print which searches of a plan would run, and about how long; write nothing."""
    from nas.comparison.benchmark import pending
    from nas.driver.estimates import estimates
    from nas.queries.rows import record
    from nas.queries.searches import planned
    from nas.storage.store import Store

    try:
        with Store(db) as store:
            left = pending(store, configs)
    except NotFound:  # the first run makes the database
        left = [(config, config.planned(config.make_space()) or config.trials) for config in configs]
    found = [planned(*estimate) for estimate in estimates(left, say)]
    rows = [record(row) | {"time": None if row.seconds is None else clock(row.seconds)} for row in found]
    emit(rows, form, ("search", "controller", "seed", "trials", "time"), wide=wide)
    if len(left) < len(configs):
        say(f"Complete, and not run again: {len(configs) - len(left)} of {len(configs)} searches.")
    known = [row.seconds for row in found if row.seconds is not None]
    if len(known) < len(found):
        say("Without a time: none of the networks that were looked at is feasible, so none was measured.")
    simulated = " of simulated time" if configs[0].looks_up else ", one search after the other"
    say(f"The whole: about {clock(sum(known))}{simulated}. Nothing was written.")


class _Driver:
    """Runs searches: those that only look scores up with a line now and then, others with their progress."""

    def __init__(
        self, store: Store, ray_address: str | None, configs: Sequence[SearchConfig], folder: Path
    ) -> None:
        self._store, self._ray_address, self._folder = store, ray_address, folder
        self._names = [config.name for config in configs]
        self._said = time.monotonic()

    def drive(self, row: Search, config: SearchConfig, tasks: ScoreSource) -> str:
        """Run one search to its end."""
        from nas.driver.trials import executor
        from nas.progress.searches import progress
        from nas.verbs import Session

        runner = executor(config, tasks, self._ray_address, say)
        address = self._ray_address if config.executor == "ray" else None
        session = Session(self._store, row, config, tasks, runner, config.workers, address)
        self._say(row, now=not config.looks_up)
        quiet, length = config.looks_up, config.budget.train_episodes
        with progress(row, length, self._store, say, quiet=quiet) as observer:
            return session.run(observer, self._folder).state

    def _say(self, row: Search, *, now: bool) -> None:
        if now or time.monotonic() - self._said >= EVERY:
            self._said = time.monotonic()
            say(f"{row.name}: search {self._names.index(row.name) + 1} of {len(self._names)}")
