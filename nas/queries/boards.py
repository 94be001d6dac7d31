"""Leaderboards: lists of rows that compare, each with what tells it from the others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from nas.queries import leaderboard, protocol, ranking
from nas.queries.cells import setting
from nas.queries.chosen import apart
from nas.queries.leaderboard import NO_LEARNER, LeaderboardRow, Query, unit
from nas.queries.ranking import Ranked
from nas.queries.rows import record
from nas.settings.paths import differing, flat
from nas.storage.schema import Evaluation, Search
from nas.storage.store import Store

COLUMNS = (
    "rank",
    "search",
    "trial",
    "task",
    "learner",
    "normalization",
    "train_episodes",
    "parent",
    "seeds",
    "score",
    "ci95",
    "ci95_seeds",
    "parameters",
    "macs",
    "activations",
    "latency",
    "latency_batch",
    "architecture",
    "chosen",
    "space_settings",
)
"""What a table shows of trials; and of evaluations."""

TEST_COLUMNS = (
    "rank",
    "search",
    "trial",
    "space",
    "task",
    "learner",
    "normalization",
    "seeds",
    "test_score",
    "ci95_seeds",
    "ci95_episodes",
    "validation_score",
    "parameters",
    "macs",
    "activations",
    "latency",
    "latency_batch",
    "seconds",
    "architecture",
    "chosen",
    "space_settings",
)

Entry = TypeVar("Entry", LeaderboardRow, Ranked)


@dataclass(frozen=True, slots=True)
class Board(Generic[Entry]):
    """Rows whose scores compare.

    Attributes:
        task, learner: what all of them have; without a learner scores were looked up.
        normalization: the mode of all of them; None: they have several, or none.
        unit: what a table calls the scores, in simulated seconds; None: the scores were trained for.
        settings: what scores depend on besides network and seed, by path.
        differing: the paths at which these are other in another board of the task and learner.
        rows: ranked from 1.
    """

    task: str
    learner: str | None
    normalization: str | None
    unit: str | None
    settings: dict[str, Any]
    differing: tuple[str, ...]
    rows: tuple[Entry, ...]


def trials(store: Store, query: Query) -> list[Board[LeaderboardRow]]:
    """Return the trials that a query asks for; its limit and front are those of each board.

    Raises:
        NotFound, ConfigError: as `nas.queries.leaderboard.sections`.
    """
    return _boards([(section.example, section.rows) for section in leaderboard.sections(store, query)])


def tests(store: Store, query: Query) -> list[Board[Ranked]]:
    """Return the results of evaluations that a query asks for, as `trials` does those of trials.

    Raises:
        NotFound, ConfigError: as `nas.queries.ranking.sections`.
    """
    return _boards(ranking.sections(store, query))


def records(boards: Sequence[Board[LeaderboardRow]] | Sequence[Board[Ranked]]) -> list[dict[str, Any]]:
    """Return the rows of all boards by field, with the settings in which boards of one task differ."""
    paths = dict.fromkeys(path for board in boards for path in board.differing)
    return [
        {"rank": row.rank} | record(row) | {path: board.settings.get(path) for path in paths}
        for board in boards
        for row in board.rows
    ]


def common(board: Board[Any]) -> list[str]:
    """Return what the rows of a board have in common, in phrases."""
    phrases = [board.task, board.learner]
    if board.normalization:
        phrases.append(f"{board.normalization} normalization")
    if board.unit:
        phrases.append(f"scores in the unit of {board.unit}, seconds simulated")
    differing = [f"{path}={setting(board.settings.get(path))}" for path in board.differing]
    return [phrase for phrase in phrases if phrase is not None] + differing


def listed(board: Board[Any], *, headed: bool) -> tuple[list[str], list[dict[str, Any]]]:
    """Return the columns of a board's table and its rows, without columns that say nothing.

    Args:
        board: of trials, or of evaluations.
        headed: whether `common` stands above the table.
    """
    rows = [apart(row) for row in _told_apart(records([board]))]
    test = any(isinstance(row, Ranked) for row in board.rows)
    said = {"task": board.task, "learner": board.learner, "normalization": board.normalization}
    needless = {name for name, value in said.items() if headed and value}
    needless |= {key for key in ("chosen", "space_settings") if not any(row.get(key) for row in rows)}
    if not test and all(row["seeds"] == 1 for row in rows):
        needless |= {"seeds", "ci95_seeds"}
    if not test and len({row["train_episodes"] for row in rows}) == 1:
        needless.add("train_episodes")
    return [name for name in (TEST_COLUMNS if test else COLUMNS) if name not in needless], rows


def _told_apart(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return rows in which those of one architecture show the settings of the space in which they differ."""
    alike: dict[tuple[str, str], list[dict[str, Any]]] = {}
    every = [flat(row["space_settings"]) for row in rows]
    for row, settings in zip(rows, every, strict=True):
        alike.setdefault((row["space"], row["architecture"]), []).append(settings)
    return [
        row
        | {
            "space_settings": " ".join(
                f"{path}={setting(settings.get(path))}"
                for path in differing(settings, alike[row["space"], row["architecture"]])
            )
        }
        for row, settings in zip(rows, every, strict=True)
    ]


def _boards(found: Sequence[tuple[Search | Evaluation, Sequence[Entry]]]) -> list[Board[Entry]]:
    alike: dict[tuple[str, str], list[dict[str, Any]]] = {}
    every = [protocol.settings(example) for example, _ in found]
    for (example, _), settings in zip(found, every, strict=True):
        alike.setdefault((example.task_label, example.learner), []).append(settings)
    boards = []
    for (example, rows), settings in zip(found, every, strict=True):
        modes = {row.normalization for row in rows}
        boards.append(
            Board(
                example.task_label,
                None if example.learner == NO_LEARNER else example.learner,
                modes.pop() if len(modes) == 1 else None,
                unit(example),
                settings,
                tuple(differing(settings, alike[example.task_label, example.learner])),
                tuple(rows),
            )
        )
    return boards
