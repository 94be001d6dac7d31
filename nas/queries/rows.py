"""What every row of an answer has: a form in plain values, and many of them as a data frame."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from datetime import datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd
    from _typeshed import DataclassInstance


def record(row: DataclassInstance) -> dict[str, Any]:
    """Return a row's fields by name, in plain values as JSON has them: times are texts of ISO 8601."""
    return {name: _plain(value) for name, value in asdict(row).items()}


def _plain(value: Any) -> Any:
    """Return a value with the times within it as texts."""
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, Mapping):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return value


def frame(records: Sequence[Mapping[str, Any]], kind: type[DataclassInstance]) -> pd.DataFrame:
    """Return records as a pandas data frame, a column each key; without records the fields of `kind`."""
    import pandas as pd

    return pd.DataFrame(records, columns=None if records else [field.name for field in fields(kind)])
