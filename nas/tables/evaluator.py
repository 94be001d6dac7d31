"""The evaluator that looks scores up in a table, with a simulated clock."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias, final

from pydantic import Field

from nas.backbone import BackboneSpace
from nas.controller import Measurement, Outcome, Score
from nas.costs import COUNTED
from nas.errors import ConfigError, Unsupported
from nas.evaluator import Job, Lookup, LookupContext
from nas.metrics import TEST_SCORE
from nas.plugins import FilePath
from nas.states import TrialState
from nas.tables.table import Columns, Entry, Scores, Table, load

PerLength: TypeAlias = str | Annotated[dict[Annotated[int, Field(ge=1)], str], Field(min_length=1)]
"""A column, or one for each training length, such as `{12 = "valid_12", 108 = "valid_108"}`."""


Arch: TypeAlias = Annotated[
    str | Annotated[list[str], Field(min_length=1)],
    Field(description="column of the architectures' text form, or several that hold it together"),
]


OwnCost: TypeAlias = Literal["parameters", "macs", "activations", "latency", "latency_batch"]
"""A name of `nas.costs.OWN`."""

Input: TypeAlias = Annotated[
    Annotated[list[Annotated[int, Field(ge=1)]], Field(min_length=1)] | None,
    Field(
        description="shape of an example of the tasks, such as [3, 32, 32], which parameters, "
        "multiply-accumulates and activations of networks are counted for; default: they are not counted"
    ),
]


@final
class Tabular(Lookup):
    """Looks scores up in a table (CSV, also compressed, or Parquet) with a row for each architecture.

    Its clock is simulated: a trial takes the seconds that the table says, and ends at once. Scores keep the
    table's unit, percent or not; higher has to be better. Rows are found by the architecture's encoding, so
    that isomorphic ones keep their own scores, and one without a row has that of an isomorphic one, where
    there is one; `space.prune = false` of `nasbench201` and `deduplicate =
    false` let a search see them all. A column named `space`, if there is one, says whose row it is.

    With a column for each of several training lengths, `scheduler` stops trials at the shorter ones. They are
    its rungs, `budget.train_episodes` is the longest, in the table's unit, such as epochs. A stopped trial
    takes the seconds of its length, or that share of the whole where `cost` is one column. So does a trial
    of a shorter training; a longer one takes all of its own seconds, as in a table each begins from scratch.
    """

    def __init__(
        self,
        context: LookupContext,
        *,
        table: Annotated[FilePath, Field(description="file: .csv, .csv.gz, …, or .parquet")],
        metric: Annotated[
            PerLength,
            Field(description="column of the scores that the search sees, or one for each training length"),
        ],
        test_metric: Annotated[
            str | None, Field(description="column of the test scores, recorded and never used for choosing")
        ] = None,
        cost: Annotated[
            PerLength | None,
            Field(description="column of an evaluation's seconds, or one for each length; default: 1 s each"),
        ] = None,
        costs: Annotated[
            dict[OwnCost, str] | None,
            Field(description='column of each cost of the networks, such as {macs = "flops"}'),
        ] = None,
        input: Input = None,
        arch: Arch = "arch",
        partial: Annotated[
            bool, Field(description="the table lacks architectures; trials of these are infeasible")
        ] = False,
    ) -> None:
        if not isinstance(context.source, Table):
            raise Unsupported("The evaluator 'tabular' takes its scores from a table, not from tasks.")
        self._table = context.source
        self._rungs = context.rungs

    @classmethod
    def source(cls, space: BackboneSpace, **settings: Any) -> Table:
        """Read the table.

        Raises:
            NotFound: no such file.
            ConfigError: the file is no table, lacks columns or rows, or has rows that cannot be read.
        """
        metrics, costs = columns_of(settings["metric"]), columns_of(settings["cost"])
        lengths, timed = [length for length, _ in metrics], [length for length, _ in costs]
        if isinstance(settings["cost"], dict) and lengths != timed:
            raise ConfigError(
                f"evaluator.cost: its training lengths are {timed}, those of evaluator.metric {lengths}. "
                "Give both the same, or cost the column of the longest training alone."
            )
        columns = Columns(
            arch_of(settings["arch"]),
            metrics,
            settings["test_metric"],
            tuple(name for _, name in costs),
            tuple((settings["costs"] or {}).items()),
        )
        partial = settings["partial"]
        return load(Path(settings["table"]), columns, space, settings["input"], partial=partial)

    @classmethod
    def lengths(cls, **settings: Any) -> tuple[int, ...]:
        """Return the training lengths that the table has a column of scores for."""
        metric = settings["metric"]
        return () if isinstance(metric, str) else tuple(sorted(metric))

    @classmethod
    def told(cls, **settings: Any) -> tuple[str, ...]:
        """Return the costs that the table has a column of, and those that are counted."""
        return tuple(dict.fromkeys((*(settings["costs"] or ()), *counted(settings["input"]))))

    def evaluate(self, job: Job) -> Iterator[Outcome]:
        """Yield the row's score at each rung, then the last one, with the test score as a measurement."""
        entry = self._table.get(job.architecture)
        if entry is None:
            error = f"The table '{self._table.label}' has no row of this architecture."
            yield Outcome(TrialState.INFEASIBLE, job.architecture, error=error)
            return
        if job.repeat:
            raise Unsupported(
                f"The table '{self._table.label}' has one score of each architecture, and no further seeds."
            )
        yield from outcomes(entry, job, self._rungs, self._table)


def outcomes(entry: Entry, job: Job, rungs: Sequence[int], source: Scores) -> Iterator[Outcome]:
    """Yield the score at each rung, then that of the length asked for, of the longest with the test score.

    Args:
        entry: what a training gives, at each of its lengths.
        job: what was asked for.
        rungs: lengths at which a score is wanted, besides the last.
        source: of the scores.

    Raises:
        Unsupported: there is no such length.
    """
    split, digest = source.fingerprint("validation")
    costs = source.costs(job.architecture)
    last = entry.scores[-1]
    if job.episodes is not None:
        lengths = [scored.length for scored in entry.scores]
        if job.episodes not in lengths:
            raise Unsupported(
                f"The table has no scores of trainings of {job.episodes}; it has those of {lengths}. "
                "Give more columns with evaluator.metric."
            )
        last = entry.scores[lengths.index(job.episodes)]
    for scored in entry.scores[: entry.scores.index(last) + 1]:
        whole = scored is last
        if not whole and scored.length not in rungs:
            continue
        seen = [Measurement(scored.length, "score", scored.score)] if scored.length else []
        if whole and job.episodes is None and entry.test is not None:
            seen.append(Measurement(scored.length, TEST_SCORE, entry.test))
        yield Outcome(
            TrialState.COMPLETED if whole else TrialState.RUNNING,
            job.architecture,
            Score(scored.score, math.nan, 0, split, digest),
            scored.length,
            scored.seconds,
            costs,
            measurements=tuple(seen),
        )


def counted(shape: Sequence[int] | None) -> tuple[str, ...]:
    """Return the costs that are counted where the shape of an example is told."""
    return () if shape is None else COUNTED


def columns_of(given: str | dict[int, str] | None) -> tuple[tuple[int, str], ...]:
    """Return columns by the training length behind them, ascending; the length is 0 where it is not told."""
    if given is None:
        return ()
    return ((0, given),) if isinstance(given, str) else tuple(sorted(given.items()))


def arch_of(given: str | list[str]) -> tuple[str, ...]:
    """Return the columns that hold architectures' texts."""
    return (given,) if isinstance(given, str) else tuple(given)
