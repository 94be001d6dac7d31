"""The evaluator that looks scores up in a table, with a simulated clock."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, final

from pydantic import AfterValidator, Field

from nas.controller import Measurement, Outcome, Score, State
from nas.errors import Unsupported
from nas.evaluator import Context, Job, Lookup
from nas.metrics import TEST_SCORE
from nas.space import SearchSpace
from nas.table import Columns, Table, load
from nas.tasks.files import absolute


@final
class Tabular(Lookup):
    """Looks scores up in a table (CSV, also compressed, or Parquet) with a row for each architecture.

    Its clock is simulated: a trial takes the seconds that the table says, and ends at once. Scores keep the
    table's unit, percent or not; higher has to be better. Rows are found by the architecture's encoding, so
    that isomorphic ones keep their own scores; `space.prune = false` of `nasbench201` and `deduplicate =
    false` let a search see them all. A column named `space`, if there is one, says whose row it is.
    """

    def __init__(
        self,
        context: Context,
        *,
        table: Annotated[
            str, AfterValidator(absolute), Field(description="file: .csv, .csv.gz, …, or .parquet")
        ],
        metric: Annotated[str, Field(description="column of the scores that the search sees")],
        test_metric: Annotated[
            str | None, Field(description="column of the test scores, recorded and never used for choosing")
        ] = None,
        cost: Annotated[
            str | None, Field(description="column of an evaluation's seconds; without it each takes 1 s")
        ] = None,
        arch: Annotated[str, Field(description="column of the architectures' text form")] = "arch",
    ) -> None:
        if not isinstance(context.tasks, Table):
            raise Unsupported("The evaluator 'tabular' takes its scores from a table, not from tasks.")
        self._table = context.tasks

    @classmethod
    def source(cls, space: SearchSpace, **settings: Any) -> Table:
        """Read the table.

        Raises:
            NotFound: no such file.
            ConfigError: the file is no table, lacks columns or rows, or has rows that cannot be read.
        """
        path = Path(settings["table"])
        columns = Columns(settings["arch"], settings["metric"], settings["test_metric"], settings["cost"])
        return load(path, columns, space)

    def evaluate(self, job: Job) -> Iterator[Outcome]:
        """Yield the row's score, with the test score as a measurement."""
        entry = self._table[job.architecture]
        split, digest = self._table.fingerprint("validation")
        test = () if entry.test is None else (Measurement(0, TEST_SCORE, entry.test),)
        yield Outcome(
            State.COMPLETED,
            job.architecture,
            Score(entry.score, 0.0, 0, split, digest),
            seconds=entry.seconds,
            measurements=test,
        )
