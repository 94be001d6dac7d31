"""The trials of a search as a table in a file, for other programs: what was chosen, and what was measured."""

from __future__ import annotations

from pathlib import Path
from types import NoneType
from typing import TYPE_CHECKING, Any, get_args, get_type_hints

from sqlalchemy import func, select

from nas.driver.records import configuration
from nas.errors import ConfigError
from nas.files import replacing, writing
from nas.metrics import family
from nas.queries.chosen import Texts
from nas.queries.rows import record
from nas.queries.trials import TrialRow, trial
from nas.storage.schema import Measurement, Search, Trial
from nas.storage.store import Store

if TYPE_CHECKING:
    from collections.abc import Iterable

    import pandas as pd

SUFFIXES = (".csv", ".parquet")
"""How the names of such files end."""

TEXT = "string"
"""Type of a column of text."""


def write(store: Store, reference: str, file: Path) -> int:
    """Write the trials of a search to a file; return how many there are.

    Args:
        store: where it is.
        reference: its name, a unique prefix, or `@last`.
        file: `.csv`, or `.parquet` (extra `parquet`); it is replaced.

    Raises:
        NotFound: no such search.
        ConfigError: the file ends otherwise, or pyarrow is not installed.
        PluginError: the search's space is gone, or has changed since it began.
        Unwritable: the file cannot be written.
    """
    if file.suffix not in SUFFIXES:
        raise ConfigError(f"{file}: trials are written to a file that ends with {' or '.join(SUFFIXES)}.")
    found = table(store, store.search(reference))
    with writing(file, ", or give the file another place"), replacing(file) as temporary:
        if file.suffix == ".csv":
            found.to_csv(temporary, index=False)
        else:
            try:
                found.to_parquet(temporary, index=False)
            except ImportError:
                raise ConfigError(
                    "Parquet needs pyarrow: run `pip install 'nas-service[parquet]'`, or write NAME.csv."
                ) from None
    return len(found)


def table(store: Store, search: Search) -> pd.DataFrame:
    """Return the trials of a search, a row each in the order proposed.

    Columns are the fields of `nas.queries.trials.TrialRow`; `decision.NAME` of what each decision chose; and
    `measured.METRIC`, the last value of each metric. Whole numbers stay whole where some are absent. A
    decision with choices of several types is text, unless they are numbers.

    Raises:
        PluginError: as `write`.
    """
    import pandas as pd

    space = configuration(search).make_space()
    texts = Texts(search.config.get("slots"))
    last = _last_values(store, search)
    metrics = sorted({metric for own in last.values() for metric in own})
    rows = []
    for row in store.trials(search.id):
        values = record(trial(row, texts))
        text, measured = row.architecture, last.get(row.id, {})
        chosen = {} if text is None else space.values(space.decode(text))
        del values["chosen"]  # decisions, too
        values |= {f"decision.{d.name}": chosen.get(d.name) for d in space.decisions}
        rows.append(values | {f"measured.{metric}": measured.get(metric) for metric in metrics})
    hints = {name: hint for name, hint in get_type_hints(TrialRow).items() if name != "chosen"}
    types = {name: _type(get_args(hint) or [hint]) for name, hint in hints.items()}
    types |= {f"decision.{d.name}": _type(map(type, d.choices)) for d in space.decisions}
    types |= {f"measured.{metric}": _type([float]) for metric in metrics}
    return pd.DataFrame(
        {name: pd.Series(_column(rows, name, kind), dtype=kind) for name, kind in types.items()}
    )


def _last_values(store: Store, search: Search) -> dict[int, dict[str, float | None]]:
    """Return the last value of each metric, by the id of the trial; families, such as α, are left out."""
    mine = select(Measurement.trial_id, Measurement.metric, func.max(Measurement.step).label("step"))
    mine = mine.join(Trial, Trial.id == Measurement.trial_id).where(Trial.search_id == search.id)
    last = mine.group_by(Measurement.trial_id, Measurement.metric).subquery()
    values = select(Measurement.trial_id, Measurement.metric, Measurement.value).join(
        last,
        (Measurement.trial_id == last.c.trial_id)
        & (Measurement.metric == last.c.metric)
        & (Measurement.step == last.c.step),
    )
    found: dict[int, dict[str, float | None]] = {}
    with store.read() as session:
        for number, metric, value in session.execute(values):
            if family(metric) == metric:
                found.setdefault(number, {})[metric] = value
    return found


def _type(kinds: Iterable[type]) -> str:
    """Return the type of a column whose values are of such kinds, or absent."""
    own = set(kinds) - {NoneType}
    if len(own) == 1:
        return {int: "Int64", bool: "boolean", float: "float64"}.get(own.pop(), TEXT)
    return "float64" if own == {int, float} else TEXT


def _column(rows: list[dict[str, Any]], name: str, kind: str) -> list[Any]:
    values = [row[name] for row in rows]
    return [None if value is None else str(value) for value in values] if kind == TEXT else values
