"""Tables of scores that others measured, a row for each architecture of a space."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, NoReturn, final

import numpy as np

from nas.errors import ConfigError, NotFound, Unsupported
from nas.space import Architecture, SearchSpace, TaskShape
from nas.tasks.base import Episode, Split, TaskSource

if TYPE_CHECKING:
    import pandas as pd

NAMED = 3
"""How many architectures an error gives as examples."""


class Entry(NamedTuple):
    """One row: a validation score, a test score if the table has one, and the seconds of the evaluation."""

    score: float
    test: float | None
    seconds: float


@dataclass(frozen=True, slots=True)
class Columns:
    """Which columns to read."""

    arch: str
    metric: str
    test_metric: str | None
    cost: str | None

    @property
    def numbers(self) -> tuple[str, ...]:
        """The columns that hold numbers."""
        return tuple(name for name in (self.metric, self.test_metric, self.cost) if name is not None)


@final
class Table(TaskSource):
    """What stands where other searches have tasks: a table's scores of every architecture of a space."""

    name: ClassVar[str] = "table"

    def __init__(
        self, path: Path, metric: str, digest: str, entries: Mapping[tuple[int, ...], Entry]
    ) -> None:
        self._split = f"{path.name.partition('.')[0]}/{metric}"
        self._digest = digest
        self._entries = entries

    def __getitem__(self, architecture: Architecture) -> Entry:
        """Return the row of exactly this encoding: isomorphic ones have rows of their own."""
        return self._entries[architecture.choices]

    @property
    def shape(self) -> TaskShape:
        """None: a table has no tasks.

        Raises:
            Unsupported: always.
        """
        self._refuse()

    @property
    def label(self) -> str:
        """Such as `nasbench201 c10_valid_12`."""
        return self._split.replace("/", " ")

    def sample(self, split: Split, tasks: int, rng: np.random.Generator) -> Episode:
        """Refuse: a table has no tasks.

        Raises:
            Unsupported: always.
        """
        self._refuse()

    def fingerprint(self, split: Split) -> tuple[str, str]:
        """Return the table and the column of its scores, and a hash of the file."""
        return self._split, self._digest

    def _refuse(self) -> NoReturn:
        raise Unsupported(
            f"The table '{self.label}' has scores, no tasks: there are no inputs to build, train or count a "
            "network for. Leave out `constraints`, and take a controller that trains no supernet."
        )


_tables: dict[Any, Table] = {}


def load(path: Path, columns: Columns, space: SearchSpace) -> Table:
    """Return the table; this process reads and decodes a file that stays as it is once.

    Raises:
        NotFound: no such file.
        ConfigError: the file is no table, lacks columns or rows, or has rows that cannot be read.
    """
    try:
        file = path.stat()
    except OSError as error:
        raise NotFound(f"evaluator.table: cannot read {path}: {error.strerror}.") from None
    key = path, file.st_mtime_ns, file.st_size, columns, space.name, space.decisions
    if key not in _tables:
        frame = read(path, columns, space.name)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()[:16]
        _tables[key] = Table(path, columns.metric, digest, entries(frame, columns, space, str(path)))
    return _tables[key]


def read(path: Path, columns: Columns, space: str) -> pd.DataFrame:
    """Return a table's rows of a space: architectures as text, numbers as float64, NaN where there is none.

    Raises:
        ConfigError: the file is no table, or lacks columns.
    """
    import pandas as pd

    try:
        frame = (
            pd.read_parquet(path)
            if path.suffix in (".parquet", ".pq")
            else pd.read_csv(path, low_memory=False)
        )
    except ImportError:
        raise ConfigError(
            f"evaluator.table: {path} needs pyarrow; run `pip install 'nas-service[parquet]'`."
        ) from None
    except Exception as error:  # each compression and each parser has its own
        reason = str(error).strip().partition("\n")[0]
        raise ConfigError(f"evaluator.table: {path} is no table that can be read: {reason}.") from None
    missing = [name for name in (columns.arch, *columns.numbers) if name not in frame.columns]
    if missing:
        raise ConfigError(
            f"evaluator.table: {path} lacks {len(missing)} column{'s' * (len(missing) > 1)}: "
            f"{', '.join(missing)}. It has: {', '.join(map(str, frame.columns))}."
        )
    if "space" in frame.columns:
        frame = frame[frame["space"] == space]
    frame = frame[list(dict.fromkeys((columns.arch, *columns.numbers)))]
    numbers = {name: pd.to_numeric(frame[name], errors="coerce").astype(float) for name in columns.numbers}
    return frame.assign(**numbers)


def entries(
    frame: pd.DataFrame, columns: Columns, space: SearchSpace, where: str
) -> dict[tuple[int, ...], Entry]:
    """Return the rows by the choices of their architectures, all of the space's.

    Raises:
        ConfigError: architectures that cannot be parsed, come twice, have no finite number in a column (or
            a negative cost), or have no row; the message says which, and how many.
    """
    texts = [str(text) for text in frame[columns.arch]]
    found: dict[tuple[int, ...], Entry] = {}
    unreadable, twice = [], []
    values = [frame[name].to_list() if name else [None] * len(texts) for name in _roles(columns)]
    for text, score, test, seconds in zip(texts, *values, strict=True):
        try:
            choices = space.decode(text).choices
        except ConfigError:
            unreadable.append(text)
            continue
        if choices in found:
            twice.append(text)
        found[choices] = Entry(score, test, 1.0 if seconds is None else seconds)
    rows = len(texts)
    _complain(
        where, rows, f"have no architecture of space '{space.name}' in column '{columns.arch}'", unreadable
    )
    _complain(where, rows, "repeat an architecture", twice)
    for name in columns.numbers:
        what = "cost" if name == columns.cost else "score"
        bad = ~np.isfinite(frame[name]) | ((frame[name] < 0) & (what == "cost"))
        _complain(where, rows, f"have no {what} in column '{name}'", list(frame[columns.arch][bad].map(str)))
    if len(found) < space.size:
        every = product(*(range(len(decision.choices)) for decision in space.decisions))
        absent = (space.encode(Architecture(space.name, c)) for c in every if c not in found)
        raise ConfigError(
            f"evaluator.table: {where} lacks {space.size - len(found)} of the {space.size} architectures of "
            f"space '{space.name}', such as {next(absent)}."
        )
    return found


def _roles(columns: Columns) -> tuple[str | None, ...]:
    return columns.metric, columns.test_metric, columns.cost


def _complain(where: str, rows: int, what: str, texts: list[str]) -> None:
    if texts:
        shown = ", ".join(f"'{text}'" for text in texts[:NAMED]) + ", …" * (len(texts) > NAMED)
        raise ConfigError(f"evaluator.table: {where}: {len(texts)} of {rows} rows {what}: {shown}.")
