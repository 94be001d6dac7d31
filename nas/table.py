"""Tables of scores that others measured, a row for each architecture of a space."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice, product
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, NoReturn, final

import numpy as np

from nas.errors import ConfigError, NotFound, Unsupported
from nas.space import Architecture, SearchSpace, TaskShape
from nas.tasks.base import Episode, Split, TaskSource
from nas.tasks.files import legible

if TYPE_CHECKING:
    import pandas as pd

NAMED = 3
"""How many rows or architectures an error gives as examples."""

SPACES = 10
"""How many names of spaces an error gives."""


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
        self._split = f"{legible(path.name.partition('.')[0])}/{metric}"
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
    """Return a table's rows of a space as they stand there, by their number: the header is row 1.

    Raises:
        ConfigError: the file is no table, lacks columns, or has rows of other spaces only.
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
    frame.index = pd.RangeIndex(2, len(frame) + 2)
    if "space" in frame.columns and len(frame):
        others = frame["space"]
        frame = frame[others == space]
        if frame.empty:
            names = [_shown(name) for name in others.drop_duplicates()]
            raise ConfigError(
                f"evaluator.table: {path} has no row of space '{space}': its column 'space' has "
                f"{_listed(names, SPACES)}."
            )
    return frame[list(dict.fromkeys((columns.arch, *columns.numbers)))]


def entries(
    frame: pd.DataFrame, columns: Columns, space: SearchSpace, where: str
) -> dict[tuple[int, ...], Entry]:
    """Return the rows by the choices of their architectures, all of the space's.

    Raises:
        ConfigError: architectures that cannot be parsed, come twice, have no finite number in a column (or
            a negative cost), or have no row; the message says which, and how many.
    """
    import pandas as pd

    texts = frame[columns.arch]
    numbers = {name: pd.to_numeric(frame[name], errors="coerce").astype(float) for name in columns.numbers}
    found: dict[tuple[int, ...], Entry] = {}
    unreadable, twice = [], []
    values = [numbers[name].to_list() if name else [None] * len(texts) for name in _roles(columns)]
    for row, text, score, test, seconds in zip(frame.index, texts, *values, strict=True):
        try:
            choices = space.decode(str(text)).choices
        except ConfigError:
            unreadable.append(row)
            continue
        if choices in found:
            twice.append(row)
        found[choices] = Entry(score, test, 1.0 if seconds is None else seconds)
    _complain(
        where, texts, f"have no architecture of space '{space.name}' in column '{columns.arch}'", unreadable
    )
    _complain(where, texts, "repeat an architecture", twice)
    for name, column in numbers.items():
        cost = name == columns.cost
        bad = ~np.isfinite(column) | ((column < 0) & cost)
        what = "finite, non-negative cost" if cost else "finite score"
        _complain(where, frame[name], f"have no {what} in column '{name}'", frame.index[bad].to_list())
    if len(found) < space.size:
        every = product(*(range(len(decision.choices)) for decision in space.decisions))
        absent = (space.encode(Architecture(space.name, c)) for c in every if c not in found)
        raise ConfigError(
            f"evaluator.table: {where} lacks {space.size - len(found)} of the {space.size} architectures of "
            f"space '{space.name}': {_listed(list(islice(absent, NAMED + 1)))}."
        )
    return found


def _roles(columns: Columns) -> tuple[str | None, ...]:
    return columns.metric, columns.test_metric, columns.cost


def _complain(where: str, values: pd.Series[Any], what: str, bad: Sequence[int]) -> None:
    """Refuse rows, by number, for their values in a column."""
    if bad:
        shown = _listed([f"row {row}: {_shown(values[row])}" for row in bad[: NAMED + 1]])
        raise ConfigError(f"evaluator.table: {where}: {len(bad)} of {len(values)} rows {what}: {shown}.")


def _listed(texts: Sequence[str], most: int = NAMED) -> str:
    return ", ".join(texts[:most]) + ", …" * (len(texts) > most)


def _shown(value: Any) -> str:
    import pandas as pd

    return "nothing" if pd.isna(value) is True else repr(str(value))
