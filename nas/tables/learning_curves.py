"""Learning curves of trainings that others made, from a table."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from nas.errors import ConfigError
from nas.tables.table import frame

WHERE = "scheduler.table"


def learning_curves(path: Path, columns: Mapping[int, str]) -> list[dict[int, float]]:
    """Return the scores of each training by its length; rows without a finite one for every length are none.

    Args:
        path: of the table, a row for each training.
        columns: hold the scores, by the training length behind them.

    Raises:
        NotFound: no such file.
        ConfigError: the file is no table, lacks columns, or has no row with a score for every length.
    """
    import pandas as pd

    table = frame(path, tuple(columns.values()), WHERE)
    scores = np.column_stack([pd.to_numeric(table[name], errors="coerce") for name in columns.values()])
    whole = scores[np.isfinite(scores).all(axis=1)]
    if not len(whole):
        raise ConfigError(
            f"{WHERE}: no row of {path} has a finite score in each of these columns: "
            f"{', '.join(columns.values())}. Name others by scheduler.metric."
        )
    return [dict(zip(columns, row, strict=True)) for row in whole.tolist()]
