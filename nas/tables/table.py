"""Tables of scores that others measured, a row for each architecture of a space."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice, product
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar, cast, final

import numpy as np

from nas.backbone import BackboneSpace
from nas.costs import COUNTED
from nas.errors import ConfigError, Infeasible, NotFound
from nas.files import legible
from nas.space import Architecture, TaskShape
from nas.tasks.base import ScoreSource, Split

if TYPE_CHECKING:
    import pandas as pd

NAMED = 3
"""How many rows or architectures an error gives as examples."""

SPACES = 10
"""How many names of spaces an error gives."""


class LengthScore(NamedTuple):
    """What training of one length gave: a validation score, and the seconds that it took from the start."""

    length: int
    score: float
    seconds: float


class Entry(NamedTuple):
    """One row: a score for each training length, ascending; a test score and costs, if there are any."""

    scores: tuple[LengthScore, ...]
    test: float | None
    costs: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Columns:
    """Which columns to read.

    Attributes:
        arch: holds the architectures' texts; several hold them together, with a space between.
        metrics: hold validation scores, each with the training length behind it, ascending; a table of one
            length does not say which, and calls it 0.
        test_metric: holds the test scores; None: there are none.
        costs: hold seconds: one column for each of `metrics`, or one for the whole training, of which a
            shorter one takes its share; none: the whole training takes 1 s.
        own: hold what the network costs, each with a name of `nas.costs.OWN`.
    """

    arch: tuple[str, ...]
    metrics: tuple[tuple[int, str], ...]
    test_metric: str | None
    costs: tuple[str, ...]
    own: tuple[tuple[str, str], ...] = ()

    @property
    def text(self) -> str:
        """What the column of the architectures' texts is called, once they are together."""
        return " ".join(self.arch)

    @property
    def whole(self) -> str:
        """The column of the scores after the whole training."""
        return self.metrics[-1][1]

    @property
    def numbers(self) -> tuple[str, ...]:
        """The columns that hold numbers, each once."""
        tests = () if self.test_metric is None else (self.test_metric,)
        own = (name for _, name in self.own)
        return tuple(dict.fromkeys([*(name for _, name in self.metrics), *tests, *self.costs, *own]))

    def entry(self, row: Mapping[str, float]) -> Entry:
        """Return the entry of a row, given as numbers by column."""
        if len(self.costs) == len(self.metrics):
            seconds = [row[name] for name in self.costs]
        else:
            longest = self.metrics[-1][0] or 1
            whole = row[self.costs[0]] if self.costs else 1.0
            seconds = [whole * (length or 1) / longest for length, _ in self.metrics]
        scores = (
            LengthScore(length, row[name], took)
            for (length, name), took in zip(self.metrics, seconds, strict=True)
        )
        own = tuple((cost, round(row[name]) if cost in COUNTED else row[name]) for cost, name in self.own)
        return Entry(tuple(scores), None if self.test_metric is None else row[self.test_metric], own)


class Scores(ScoreSource):
    """What stands where other searches have tasks: scores that are known, and nothing to sample.

    Args:
        path: of the file that they come from.
        metric: the column that gives the split its name.
        digest: hash of the file.
        space: whose architectures are scored.
        shape: of an example of the tasks, which the costs of networks are counted for; None: they are not.

    Raises:
        ConfigError: the space has no networks for this shape.
    """

    def __init__(
        self, path: Path, metric: str, digest: str, space: BackboneSpace, shape: Sequence[int] | None
    ) -> None:
        self._split = f"{legible(path.name.partition('.')[0])}/{metric}"
        self._digest, self._space = digest, space
        self._shape = None if shape is None else TaskShape(tuple(shape), outputs=1)
        self._counted: dict[str, Mapping[str, float]] = {}
        if self._shape is not None:
            try:
                space.check_shape(self._shape)
            except Infeasible as error:
                raise ConfigError(f"evaluator.input: {error}") from None

    def costs(self, architecture: Architecture) -> Mapping[str, float]:
        """Return what the space counts for the shape that was given; each network is counted once."""
        if self._shape is None:
            return {}
        key = self._space.canonical(architecture)
        if key not in self._counted:
            self._counted[key] = self._space.cost(architecture, self._shape)._asdict()
        return self._counted[key]

    @property
    def label(self) -> str:
        """Such as `nasbench201 c10_valid_12`."""
        return self._split.replace("/", " ")

    def fingerprint(self, split: Split) -> tuple[str, str]:
        """Return the table and the column of its scores, and a hash of the file."""
        return self._split, self._digest


@final
class Table(Scores):
    """A table's scores of the architectures of a space.

    Args:
        path, metric, digest, space, shape: as of `Scores`.
        entries: the rows, by the choices of their architectures.
    """

    def __init__(
        self,
        path: Path,
        metric: str,
        digest: str,
        space: BackboneSpace,
        shape: Sequence[int] | None,
        entries: Mapping[tuple[int, ...], Entry],
    ) -> None:
        super().__init__(path, metric, digest, space, shape)
        self._entries = entries

    def get(self, architecture: Architecture) -> Entry | None:
        """Return the row of exactly this encoding, or else of the same network; None: neither has one."""
        own = self._entries.get(architecture.choices)
        if own is not None or len(self._entries) == self._space.size:
            return own
        return self._networks.get(self._space.canonical(architecture))

    @cached_property
    def _networks(self) -> dict[str, Entry]:
        """The rows by canonical key, of one network the first."""
        found: dict[str, Entry] = {}
        for choices, entry in self._entries.items():
            found.setdefault(self._space.canonical(Architecture(self._space.name, choices)), entry)
        return found

    def costs(self, architecture: Architecture) -> Mapping[str, float]:
        """Return those of the row, and what is counted besides; none where there is no row."""
        entry = self.get(architecture)
        return {} if entry is None else {**super().costs(architecture), **dict(entry.costs)}

    @property
    def remarks(self) -> tuple[str, ...]:
        """How many architectures have no row."""
        if len(self._entries) == self._space.size:
            return ()
        return (
            f"The table '{self.label}' has {len(self._entries):,} of the {self._space.size:,} architectures "
            "of the space; a trial of any other is infeasible.",
        )


_known: dict[Any, Scores] = {}

_Known = TypeVar("_Known", bound=Scores)


def once(path: Path, about: tuple[Any, ...], make: Callable[[str], _Known]) -> _Known:
    """Return what is made of a file: of one that stays as it is, this process makes it once.

    Args:
        path: of the file.
        about: whatever else it depends on.
        make: makes it, given a hash of the file.

    Raises:
        NotFound: no such file.
    """
    try:
        file = path.stat()
    except OSError as error:
        raise NotFound(f"evaluator.table: cannot read {path}: {error.strerror}.") from None
    key = path, file.st_mtime_ns, file.st_size, *about
    if key not in _known:
        _known[key] = make(hashlib.sha256(path.read_bytes()).hexdigest()[:16])
    return cast(_Known, _known[key])


def load(
    path: Path, columns: Columns, space: BackboneSpace, shape: Sequence[int] | None, *, partial: bool
) -> Table:
    """Return the table.

    Args:
        path: of the file.
        columns: which to read.
        space: whose architectures the rows are of.
        shape: as of `Scores`.
        partial: whether architectures may have no row.

    Raises:
        NotFound: no such file.
        ConfigError: the file is no table, lacks columns or rows, or has rows that cannot be read.
    """

    def make(digest: str) -> Table:
        rows = entries(read(path, columns, space.name), columns, space, str(path))
        if not partial:
            _complete(rows, space, str(path))
        return Table(path, columns.whole, digest, space, shape, rows)

    about = (Table, columns, space.name, space.decisions, partial, None if shape is None else tuple(shape))
    return once(path, about, make)


def read(path: Path, columns: Columns, space: str) -> pd.DataFrame:
    """Return a table's rows of a space as they stand there, by their number: the header is row 1.

    All columns of a text file are texts, so that no architecture is taken for a number or for nothing.

    Raises:
        ConfigError: the file is no table, lacks columns, or has rows of other spaces only.
    """
    import pandas as pd

    needed = tuple(dict.fromkeys((*columns.arch, *columns.numbers)))
    rows = frame(path, needed, "evaluator.table")
    for name in columns.arch:
        if not all(isinstance(text, str) for text in rows[name].dropna()):
            raise ConfigError(
                f"evaluator.arch: column '{name}' of {path} holds {rows[name].dtype}, not text. "
                "Store it as text: a number loses the zeros that a text begins or ends with."
            )
    if len(columns.arch) > 1:
        rows[columns.text] = rows[list(columns.arch)].fillna("").agg(" ".join, axis=1).str.strip()
    rows.index = pd.RangeIndex(2, len(rows) + 2)
    if "space" in rows.columns and len(rows):
        others = rows["space"]
        rows = rows[others == space]
        if rows.empty:
            names = [_shown(name) for name in others.drop_duplicates()]
            raise ConfigError(
                f"evaluator.table: {path} has no row of space '{space}': its column 'space' has "
                f"{_listed(names, SPACES)}."
            )
    return rows[list(dict.fromkeys((columns.text, *columns.numbers)))]


def frame(path: Path, columns: Sequence[str], setting: str) -> pd.DataFrame:
    """Return a table as it stands there; all columns of a text file are texts.

    Args:
        path: of the file.
        columns: what it must have.
        setting: that names the file, for messages.

    Raises:
        NotFound: no such file.
        ConfigError: the file is no table, or lacks columns.
    """
    import pandas as pd

    try:
        rows = (
            pd.read_parquet(path)
            if path.suffix in (".parquet", ".pq")
            else pd.read_csv(path, dtype=str, keep_default_na=False)
        )
    except ImportError:
        raise ConfigError(
            f"{setting}: {path} needs pyarrow; run `pip install 'nas-service[parquet]'`."
        ) from None
    except FileNotFoundError as error:
        raise NotFound(f"{setting}: cannot read {path}: {error.strerror}.") from None
    except Exception as error:  # each compression and each parser has its own
        reason = str(error).strip().partition("\n")[0]
        raise ConfigError(f"{setting}: {path} is no table that can be read: {reason}.") from None
    missing = [name for name in columns if name not in rows.columns]
    if missing:
        raise ConfigError(
            f"{setting}: {path} lacks {len(missing)} column{'s' * (len(missing) > 1)}: "
            f"{', '.join(missing)}. It has: {', '.join(map(str, rows.columns))}."
        )
    return rows


def entries(
    frame: pd.DataFrame, columns: Columns, space: BackboneSpace, where: str
) -> dict[tuple[int, ...], Entry]:
    """Return the rows by the choices of their architectures.

    Raises:
        ConfigError: there are none, or architectures that cannot be parsed, come twice, or have no finite
            number in a column (or a negative cost); the message says which, and how many.
    """
    found: dict[tuple[int, ...], int] = {}
    twice = []
    for row, architecture in zip(frame.index, architectures(frame, columns, space, where), strict=True):
        if found.setdefault(architecture.choices, row) != row:
            twice.append(row)
    _complain(where, frame[columns.text], "repeat an architecture", twice)
    values = zip(*(column.to_list() for column in numbers(frame, columns, where).values()), strict=True)
    return {
        choices: columns.entry(dict(zip(columns.numbers, own, strict=True)))
        for choices, own in zip(found, values, strict=True)
    }


def architectures(
    frame: pd.DataFrame, columns: Columns, space: BackboneSpace, where: str
) -> list[Architecture]:
    """Return the architecture of each row.

    Raises:
        ConfigError: there are no rows, or architectures that cannot be parsed.
    """
    texts, found, unreadable = frame[columns.text], list[Architecture](), []
    for row, text in zip(frame.index, texts, strict=True):
        try:
            found.append(space.decode(text if isinstance(text, str) else ""))
        except ConfigError:
            unreadable.append(row)
    example = space.encode(Architecture(space.name, (0,) * len(space.decisions)))
    _complain(
        where,
        texts,
        f"have no architecture of space '{space.name}' in column '{columns.text}'",
        unreadable,
        f" It reads texts such as '{example}'.",
    )
    if not found:
        raise ConfigError(f"evaluator.table: {where} has no rows.")
    return found


def numbers(frame: pd.DataFrame, columns: Columns, where: str) -> dict[str, pd.Series[float]]:
    """Return the columns that hold numbers, by name.

    Raises:
        ConfigError: a row has no finite number in one of them, or a negative cost.
    """
    import pandas as pd

    found = {name: pd.to_numeric(frame[name], errors="coerce").astype(float) for name in columns.numbers}
    for name, column in found.items():
        cost = name in columns.costs or name in dict(columns.own).values()
        bad = ~np.isfinite(column) | ((column < 0) & cost)
        what = "finite, non-negative cost" if cost else "finite score"
        _complain(where, frame[name], f"have no {what} in column '{name}'", frame.index[bad].to_list())
    return found


def _complete(found: Mapping[tuple[int, ...], Entry], space: BackboneSpace, where: str) -> None:
    """Refuse a table without a row for every architecture of a space.

    Raises:
        ConfigError: some have none; the message says which, and how many.
    """
    if len(found) < space.size:
        every = product(*(range(len(decision.choices)) for decision in space.decisions))
        absent = (space.encode(Architecture(space.name, c)) for c in every if c not in found)
        raise ConfigError(
            f"evaluator.table: {where} lacks {space.size - len(found)} of the {space.size} architectures of "
            f"space '{space.name}': {_listed(list(islice(absent, NAMED + 1)))}. To search in a part of "
            "a space, set evaluator.partial=true: trials of other architectures are infeasible then."
        )


def _complain(where: str, values: pd.Series[Any], what: str, bad: Sequence[int], more: str = "") -> None:
    """Refuse rows, by number, for their values in a column."""
    if bad:
        shown = _listed([f"row {row}: {_shown(values[row])}" for row in bad[: NAMED + 1]])
        raise ConfigError(
            f"evaluator.table: {where}: {len(bad)} of {len(values)} rows {what}: {shown}.{more}"
        )


def _listed(texts: Sequence[str], most: int = NAMED) -> str:
    return ", ".join(texts[:most]) + ", …" * (len(texts) > most)


def _shown(value: Any) -> str:
    import pandas as pd

    return "nothing" if pd.isna(value) is True or value == "" else repr(str(value))
