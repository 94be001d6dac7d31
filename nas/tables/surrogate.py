"""The evaluator that predicts scores by a regression on a table of trainings, with a simulated clock."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, final

import numpy as np
from pydantic import Field

from nas.backbone import BackboneSpace
from nas.controller import Outcome
from nas.errors import ConfigError, Unsupported
from nas.evaluator import Job, Lookup, LookupContext
from nas.plugins import FilePath
from nas.space import Architecture
from nas.tables.evaluator import Arch, Input, PerLength, arch_of, columns_of, counted, outcomes
from nas.tables.regression import Floats, Regression, seed_covariance
from nas.tables.table import Columns, Entry, Scores, architectures, numbers, once, read


@final
class Surrogate(Lookup):
    """Predicts scores by a regression on the trainings in a table, as NAS-Bench-301 does (Siems et al. 2020).

    The table (CSV, also compressed, or Parquet) has a row for each training, several for a network that was
    trained under several seeds. The regression learns what `Space.features` says of a network; it is fitted
    anew, to the same numbers, in each process. A trial's score is what it predicts plus noise: a draw, by the
    trial's seed, of what trainings of one network in the table differ by. The prediction without the noise is
    recorded as the test score, and never used for choosing. Its clock is simulated.
    """

    repeats = True

    def __init__(
        self,
        context: LookupContext,
        *,
        table: Annotated[FilePath, Field(description="file of trainings: .csv, .csv.gz, …, or .parquet")],
        metric: Annotated[
            PerLength,
            Field(description="column of the scores that the search sees, or one for each training length"),
        ],
        cost: Annotated[
            PerLength | None,
            Field(description="column of a training's seconds, or one for each length; default: 1 s each"),
        ] = None,
        input: Input = None,
        arch: Arch = "arch",
        noise: Annotated[
            bool, Field(description="add what another training seed would change, drawn for each trial")
        ] = True,
    ) -> None:
        if not isinstance(context.source, Fitted):
            raise Unsupported("The evaluator 'surrogate' predicts scores from a table, not from tasks.")
        self._fitted, self._rungs = context.source, context.rungs

    @classmethod
    def source(cls, space: BackboneSpace, **settings: Any) -> Fitted:
        """Read the table, and fit the regressions.

        Raises:
            NotFound: no such file.
            ConfigError: the file is no table, lacks columns or rows, or has rows that cannot be read; or
                no network was trained twice, and scores are to differ; or scikit-learn is not installed.
        """
        costs = tuple(name for _, name in columns_of(settings["cost"]))
        columns = Columns(arch_of(settings["arch"]), columns_of(settings["metric"]), None, costs)
        path, noisy, given = Path(settings["table"]), settings["noise"], settings["input"]
        shape = None if given is None else tuple(given)
        return once(
            path,
            (Fitted, columns, space.name, space.decisions, noisy, shape),
            lambda digest: Fitted(path, digest, columns, space, shape, noisy=noisy),
        )

    @classmethod
    def lengths(cls, **settings: Any) -> tuple[int, ...]:
        """Return the training lengths that the table has a column of scores for."""
        metric = settings["metric"]
        return () if isinstance(metric, str) else tuple(sorted(metric))

    @classmethod
    def told(cls, **settings: Any) -> tuple[str, ...]:
        """Return the costs that are counted."""
        return counted(settings["input"])

    def evaluate(self, job: Job) -> Iterator[Outcome]:
        """Yield the score at each rung, then the last one, with the mean over seeds as a measurement."""
        yield from outcomes(self._fitted.entry(job.architecture, job.seed), job, self._rungs, self._fitted)


@final
class Fitted(Scores):
    """What stands where other searches have tasks: a regression of the columns of a table.

    Args:
        path: of the table.
        digest: hash of the file.
        columns: which to read; rows without a score, such as those of longer trainings, are left out.
        space, shape: as of `Scores`.
        noisy: whether scores differ from seed to seed.

    Raises:
        ConfigError: the file is no table, lacks columns or rows, or has rows that cannot be read; or no
            network was trained twice, and scores are to differ; or scikit-learn is not installed.
    """

    def __init__(
        self,
        path: Path,
        digest: str,
        columns: Columns,
        space: BackboneSpace,
        shape: Sequence[int] | None,
        *,
        noisy: bool,
    ) -> None:
        super().__init__(path, columns.whole, digest, space, shape)
        where, metrics = str(path), [name for _, name in columns.metrics]
        frame = read(path, columns, space.name)
        frame = frame[~frame[metrics].isin(["", None]).all(axis=1)]
        found = architectures(frame, columns, space, where)
        values = np.stack([*numbers(frame, columns, where).values()], 1)
        self._columns = columns
        self._regression = Regression([space.features(architecture) for architecture in found], values)
        self._least = values.min(0)
        self._keys = [space.canonical(architecture) for architecture in found]
        self._entries: dict[str, Entry] = {}
        self._noise: Floats = np.zeros((len(metrics), len(metrics)))
        if noisy:
            covariance = seed_covariance(values[:, : len(metrics)], self._keys)
            if covariance is None:
                raise ConfigError(
                    f"evaluator.noise: {where} has no network twice, so that nothing tells what another seed "
                    "would change. Set evaluator.noise=false, or add trainings of some networks."
                )
            self._noise = root(covariance)

    def entry(self, architecture: Architecture, seed: int) -> Entry:
        """Return what a training of a seed gives; as its test score, the mean over seeds.

        Seconds are none below the table's.

        Raises:
            Infeasible: the architecture has no network.
        """
        expected = self._expected(architecture)
        normal = np.random.default_rng(seed).standard_normal(len(self._noise))
        drawn = (self._noise @ normal).tolist()
        scores = (
            scored._replace(score=scored.score + noise)
            for scored, noise in zip(expected.scores, drawn, strict=True)
        )
        return Entry(tuple(scores), expected.scores[-1].score)

    def _expected(self, architecture: Architecture) -> Entry:
        key = self._space.canonical(architecture)
        if key not in self._entries:
            costs = [name in self._columns.costs for name in self._columns.numbers]
            predicted = self._regression(self._space.features(architecture))
            predicted = np.where(costs, np.maximum(predicted, self._least), predicted)
            row = dict(zip(self._columns.numbers, predicted.tolist(), strict=True))
            self._entries[key] = self._columns.entry(row)
        return self._entries[key]

    @property
    def remarks(self) -> tuple[str, ...]:
        """What the predictions stand on."""
        trainings, networks = len(self._keys), len(set(self._keys))
        return (
            f"Scores are predicted from {trainings:,} trainings of {networks:,} networks in '{self.label}'.",
        )


def root(covariance: Floats) -> Floats:
    """Return a matrix R with R Rᵀ the covariance, which may be singular."""
    values, vectors = np.linalg.eigh(covariance)
    found: Floats = vectors * np.sqrt(values.clip(0))
    return found
