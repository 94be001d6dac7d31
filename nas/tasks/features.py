"""Tasks over features that a trained network gave."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Annotated, ClassVar, final

import numpy as np
from pydantic import Field

from nas.errors import ConfigError, DataMissing
from nas.plugins import FilePath
from nas.tasks.base import SPLITS, Split
from nas.tasks.images import (
    TRAINING_SETTINGS,
    Classes,
    ImageTasks,
    Queries,
    Shots,
    TrainQueries,
    TrainShots,
    TrainWays,
    Ways,
)
from nas.tasks.pooled import PooledSource

ARRAYS = ("features", "classes", "splits")


@final
class Features(PooledSource):
    """Few-shot tasks over vectors: the features of images, computed once by a network that stays as it is.

    `path` is an `.npz` file of three arrays: `features [N, D]`, and `classes [N]` and `splits [N]`, the name
    of each row's class and `train`, `validation` or `test`. `nas export TARGET -o FILE.npz` writes one.

    All features are divided by one number, their deviation in the training split, so that rates of steps and
    sizes of noise mean the same whatever the network.

    Raises:
        DataMissing: there is no such file.
        ConfigError: it holds other arrays, or a split has too few classes, or a class too few rows.
    """

    name: ClassVar[str] = "features"
    training_settings: ClassVar[tuple[str, ...]] = TRAINING_SETTINGS

    def __init__(
        self,
        *,
        path: Annotated[FilePath, Field(description="of the .npz file")] = "features.npz",
        ways: Ways = 5,
        shots: Shots = 1,
        queries: Queries = 15,
        train_ways: TrainWays = None,
        train_shots: TrainShots = None,
        train_queries: TrainQueries = None,
    ) -> None:
        features, classes, splits = _read(Path(path))
        order = np.lexsort((classes, splits))
        features, classes, splits = features[order], classes[order], splits[order]
        pools = dict[Split, Classes]()
        for split in SPLITS:
            rows = np.flatnonzero(splits == split)
            if len(rows):
                names, starts, counts = np.unique(classes[rows], return_index=True, return_counts=True)
                pools[split] = Classes(tuple(map(str, names)), starts + rows[0], counts)
        scale = _scale(features[splits == "train"] if "train" in pools else features)
        features = (features / scale).astype(np.float32)
        digest = hashlib.sha256(features.tobytes()).hexdigest()[:8]
        sizes = (ways, shots, queries, train_ways, train_shots, train_queries)
        self._tasks = ImageTasks(f"features/{digest}", features, pools, *sizes)


def _scale(features: np.ndarray) -> float:
    """Return the deviation of features `[N, D]` from their means; 1 where they do not vary."""
    return float(features.var(0, dtype=np.float64).mean() ** 0.5) or 1.0


def _read(path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return features, and the class and the split of each row."""
    if not path.is_file():
        raise DataMissing(
            f"tasks.path: there is no file {path}. `nas export TARGET -o {path}` writes the features of a "
            "trained network."
        )
    try:
        with np.load(path, allow_pickle=False) as file:
            features, classes, splits = (file[name] for name in ARRAYS)
    except Exception as error:  # whatever the bytes of another file happen to mean
        raise ConfigError(
            f"tasks.path: {path} holds no features ({type(error).__name__}). It needs the arrays "
            f"{', '.join(ARRAYS)}, as `nas export TARGET -o FILE.npz` writes them."
        ) from None
    if features.ndim != 2 or not len(features) == len(classes) == len(splits):
        raise ConfigError(
            f"tasks.path: {path} has features of shape {list(features.shape)} with {len(classes)} classes "
            f"and {len(splits)} splits; expected a row of features with a class and a split each."
        )
    unknown = sorted(set(map(str, np.unique(splits))) - set(SPLITS))
    if unknown:
        raise ConfigError(f"tasks.path: {path} has the split '{unknown[0]}'; allowed: {', '.join(SPLITS)}.")
    return np.ascontiguousarray(features, dtype=np.float32), classes.astype(str), splits.astype(str)
