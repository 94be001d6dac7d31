"""Controllers × seeds: a benchmark's searches, planned from one configuration and run one after the other."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

from sqlalchemy import select

from nas.comparison.groups import BASELINE, differences
from nas.driver.creation import create
from nas.driver.records import configuration
from nas.errors import ConfigError, Infeasible, TooManyFailures
from nas.settings.paths import flat
from nas.settings.search import SearchConfig, validate
from nas.states import SearchState
from nas.storage.lease import driven, refuse
from nas.storage.names import checked
from nas.storage.schema import Search
from nas.storage.store import Store
from nas.tasks.base import ScoreSource

SEEDS = 3
"""How many seeds a benchmark has if it does not say."""

Drive = Callable[[Search, SearchConfig, ScoreSource], str]
"""Runs a search to its end and returns its state, as `nas.driver.search.SearchDriver.run` does."""


def plan(values: Mapping[str, Any], name: str) -> list[SearchConfig]:
    """Return the searches of a benchmark, seed by seed, those of the baseline first.

    Args:
        values: a search's configuration, but with `controllers`, a list of names or sections, and with
            `seeds`, a number or a list, in place of `controller` and `seed`. A section may have a `label`,
            which names its searches, `NAME-LABEL-SEED`; by default that is the controller's name.
        name: of the benchmark, if the configuration has none.

    Raises:
        UnknownName: no such setting, or no such plugin.
        ConfigError: a value has the wrong type or is out of range, or two controllers share a label.
    """
    values = dict(values)
    name = checked(values.pop("name", name))
    seeds = _seeds(values.pop("seeds", SEEDS))
    sections = _controllers(values.pop("controllers", None))
    for key, instead in (("controller", "controllers"), ("seed", "seeds")):
        if key in values:
            raise ConfigError(f"{key}: a benchmark has several; give `{instead}`.")
    configs = [(label, validate({**values, "controller": section})) for label, section in sections.items()]
    return [
        config.model_copy(update={"name": checked(f"{name}-{label}-{seed}"), "seed": seed})
        for seed in seeds
        for label, config in configs
    ]


class BenchmarkResult(NamedTuple):
    """How a benchmark ended.

    Attributes:
        searches: all of the plan that there are.
        failed: why some failed, a sentence each.
        stopped: name of the search that was stopped on request; None: none was.
    """

    searches: list[Search]
    failed: list[str]
    stopped: str | None


def run(
    store: Store,
    configs: Sequence[SearchConfig],
    drive: Drive,
    source: str | None = None,
    say: Callable[[str], None] = lambda words: None,
) -> BenchmarkResult:
    """Run every search that is not complete yet.

    A search that is stopped on request ends the benchmark; one with too many failures, or without a feasible
    architecture, does not.

    Args:
        store: where they are, and go to.
        configs: of a `plan`.
        drive: runs one search.
        source: the TOML file that the plan came from, verbatim.
        say: told what is odd about the data, once for all searches, and what takes long.

    Raises:
        Unsupported: as of `nas.driver.creation.create`, whatever the seed.
        ConfigError: a search of such a name has another configuration, or another process drives it.
    """
    known = _checked(store, configs)
    sources: dict[str, ScoreSource] = {}
    once = cache(say)
    failed: list[str] = []
    stopped = None
    for config in configs:
        assert config.name is not None
        row = known.get(config.name)
        if row is None or row.state != SearchState.COMPLETED:
            key = json.dumps([config.space, config.tasks, config.evaluator])
            if key not in sources:
                sources[key] = config.make_source()
            row = row or create(store, config, sources[key], source, once)
            try:
                end = drive(row, config, sources[key])
            except (TooManyFailures, Infeasible) as error:
                failed.append(str(error))
                continue
            if end == SearchState.STOPPED:
                stopped = row.name
                break
    return BenchmarkResult(list(_known(store, configs).values()), failed, stopped)


def pending(store: Store, configs: Sequence[SearchConfig]) -> list[tuple[SearchConfig, int]]:
    """Return the searches of a plan that are not complete yet, each with how many of its trials are to go.

    Raises:
        ConfigError: as of `run`.
    """
    known = _checked(store, configs)
    found = []
    for config in configs:
        row = known.get(config.name or "")
        if row is None:
            found.append((config, config.planned(config.make_space()) or config.trials))
        elif row.state != SearchState.COMPLETED:
            found.append((config, max(row.trials - len(store.history(row.id)), 0)))
    return found


def _checked(store: Store, configs: Sequence[SearchConfig]) -> dict[str, Search]:
    """Return the searches of the plan that are in the database by name, all of them as planned."""
    known = _known(store, configs)
    for config in configs:
        if config.name in known:
            _same(known[config.name], config)
    return known


def _known(store: Store, configs: Sequence[SearchConfig]) -> dict[str, Search]:
    """Return the searches of the plan that are in the database, as they are now, by name."""
    names = {config.name for config in configs}
    with store.read() as session:
        return {row.name: row for row in session.scalars(select(Search)) if row.name in names}


def _same(row: Search, config: SearchConfig) -> None:
    """Refuse to go on with a search that is not the one planned; where it runs is of no account.

    A setting that its version of nas did not have is at its default.
    """
    if driven(row):
        raise refuse(row)
    recorded = configuration(row).model_dump(mode="json")
    differ = [
        f"{path}: {before} there and {now} here"
        for path, before, now in differences(flat(recorded), flat(config.model_dump(mode="json")))
    ]
    if differ:
        raise ConfigError(
            f"The search '{row.name}' of this benchmark already exists with other settings: "
            f"{'; '.join(differ)}. Give the benchmark another --name, or delete it: `nas rm {row.name}`"
        )


def _seeds(given: Any) -> list[int]:
    if isinstance(given, int) and not isinstance(given, bool) and given >= 1:
        return list(range(given))
    whole = isinstance(given, list) and all(type(seed) is int and 0 <= seed < 2**63 for seed in given)
    if whole and given and len(set(given)) == len(given):
        return list(given)
    raise ConfigError(f"seeds: expected a number of seeds, or a list of different ones (given: {given!r}).")


def _controllers(given: Any) -> dict[str, Any]:
    """Return the controllers' sections by label, random search among them."""
    if given is None:
        raise ConfigError(
            'controllers is missing: a benchmark has several, such as controllers = ["random", "evolution"]. '
            "Run the file of a single search with `nas run FILE`."
        )
    if not isinstance(given, list) or not given:
        raise ConfigError(
            f'controllers: expected a list of names or sections, such as ["random", "evolution"] '
            f"(given: {given!r})."
        )
    found: dict[str, Any] = {}
    for entry in given:
        section = (
            {"name": entry} if isinstance(entry, str) else dict(entry) if isinstance(entry, dict) else {}
        )
        label = section.pop("label", section.get("name"))
        if not isinstance(label, str):
            raise ConfigError(f"controllers: expected a name, or a section with a name (given: {entry!r}).")
        if label in found:
            raise ConfigError(f"controllers: two are called '{label}'; give one of them another `label`.")
        if label == BASELINE != section.get("name"):
            raise ConfigError(
                f"controllers: '{BASELINE}' is the name of the baseline, and cannot label another controller "
                f"(given: {entry!r}); give it another `label`."
            )
        found[label] = section
    if not any(section.get("name") == BASELINE for section in found.values()):
        found = {BASELINE: {"name": BASELINE}, **found}
    return found
