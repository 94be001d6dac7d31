"""Start a search if there is none of its name, else go on with it: one command, however often it is run."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from nas.driver.records import configuration
from nas.errors import ConfigError
from nas.settings.paths import differing, flat
from nas.settings.search import SearchConfig
from nas.states import SearchState
from nas.storage.lease import HEARTBEAT_SECONDS, SILENCE, driven, refuse
from nas.storage.schema import Search
from nas.storage.store import Store
from nas.verbs import Say, Session, resumed, started

_WHERE = ("workers",)
"""Settings that say how a search is run, and not what it is."""

_SHOWN = 5
"""Differences that a message names."""

PATIENCE = SILENCE.total_seconds() + 2 * HEARTBEAT_SECONDS
"""Seconds until a driver that died counts as dead, wherever it was; one that lives shows it in this time."""


@contextmanager
def launched(
    store: Store,
    config: SearchConfig,
    say: Say,
    *,
    source: str | None = None,
    workers: int | None = None,
    ray_address: str | None = None,
) -> Iterator[Session | None]:
    """Give the search of the configuration's name, new or as it was left; None: it is completed.

    Where a driver shows signs of life it is waited for, until it has ended or has shown that it lives.

    Args:
        store: where it is, or is to be.
        config: what was resolved; it has a name.
        say: told what is odd, and what takes long.
        source: the file that the configuration came from, verbatim.
        workers: trials at a time of a search that goes on; None: as before.
        ray_address: of a cluster.

    Raises:
        ConfigError: a search of this name has other settings, or a live process drives it.
        NasError: as `nas.verbs.started` and `nas.verbs.resumed`.
    """
    assert config.name is not None, "a search is found by its name"
    with ExitStack() as running:
        session = None
        if store.named(config.name) is None:
            try:
                session = running.enter_context(
                    started(store, config, say, source=source, ray_address=ray_address)
                )
            except ConfigError:
                if store.named(config.name) is None:  # else another process was first
                    raise
        if session is None:
            session = running.enter_context(_left(store, config, say, workers, ray_address))
        yield session


@contextmanager
def _left(
    store: Store, config: SearchConfig, say: Say, workers: int | None, ray_address: str | None
) -> Iterator[Session | None]:
    """Give the search as it was left; None: it is completed."""
    row = store.search(config.name or "", whole=True)
    _compare(row, config)
    row = _free(store, row, say)
    if row.state == SearchState.COMPLETED:
        yield None
        return
    say(f"Search '{row.name}' is in the database; it goes on where it was.")
    with resumed(store, row, say, workers=workers, ray_address=ray_address) as session:
        yield session


def _free(store: Store, row: Search, say: Say) -> Search:
    """Wait until no process drives a search; return it as it is then.

    Raises:
        ConfigError: a live process drives it.
    """
    if not driven(row):
        return row
    say(
        f"Search '{row.name}' is being run by pid {row.pid} on host {row.host}, unless that died a moment "
        f"ago: waiting for up to {PATIENCE:.0f} s…"
    )
    deadline = time.monotonic() + PATIENCE
    while driven(row):
        if time.monotonic() > deadline:
            raise refuse(row)
        time.sleep(HEARTBEAT_SECONDS / 2)
        row = store.search(row.name, whole=True)
    return row


def _compare(row: Search, config: SearchConfig) -> None:
    """Refuse a configuration that is not that of the search.

    Raises:
        ConfigError: they differ.
    """
    there, here = (_flat(each) for each in (configuration(row), config))
    if here["trials"] == row.trials:  # it was extended since
        there["trials"] = row.trials
    different = [path for path in differing(here, [there, here]) if path not in _WHERE]
    if not different:
        return
    told = "; ".join(
        f"{path} is {_text(there.get(path))} there, and {_text(here.get(path))} here"
        for path in different[:_SHOWN]
    )
    more = f"; and {len(different) - _SHOWN} more" if len(different) > _SHOWN else ""
    extend = (
        f"`nas resume {row.name} --trials N` changes its number of trials. " if "trials" in different else ""
    )
    raise ConfigError(
        f"Search '{row.name}' is in the database with other settings: {told}{more}. {extend}Give this one "
        f"another name, or go on with that one as it is: `nas resume {row.name}`"
    )


def _flat(config: SearchConfig) -> dict[str, Any]:
    return flat(config.model_dump(mode="json"))


def _text(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)
