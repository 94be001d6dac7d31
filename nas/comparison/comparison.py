"""A comparison of searches as data: groups at equal cost, what was left out, and what tells too little."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nas.comparison.baselines import Baseline, Lacking, baselines, lacking
from nas.comparison.curves import Curve, clock, outlines, read_at
from nas.comparison.groups import Group, grouped
from nas.comparison.ranks import least
from nas.comparison.summary import ComparisonRow, Taken, beyond, exhausted, scored, shortest, summarize
from nas.comparison.supernets import Supernets, supernets
from nas.errors import NotFound
from nas.queries.rows import frame, record
from nas.states import SearchState
from nas.storage.schema import Search
from nas.storage.store import Store
from nas.training import provenance

if TYPE_CHECKING:
    import pandas as pd

TOLD = 0.05
"""The usual level: a p below it is taken to tell two groups apart."""

LEFT_OUT = 0.1
"""The share of all trials which, left out for equal cost, is worth a remedy."""


@dataclass(frozen=True, slots=True)
class Gathered:
    """Searches of one protocol in groups that differ in the seed alone.

    Attributes:
        groups: that of random search first.
        curves: of each group's searches.
        incomplete: searches that were left out since they are not complete.
        repeated: names of searches that were left out since an older one has the same settings and seed.
    """

    groups: tuple[Group, ...]
    curves: tuple[tuple[Curve, ...], ...]
    incomplete: tuple[Search, ...]
    repeated: tuple[str, ...]

    @property
    def unfinished(self) -> tuple[Search, ...]:
        """Searches that count, and are not complete."""
        every = (search for group in self.groups for search in group.searches)
        return tuple(search for search in every if search.state != SearchState.COMPLETED)


@dataclass(frozen=True, slots=True)
class EqualCost:
    """Searches with a score, and the cost at which they are compared.

    Attributes:
        groups, curves: of searches with a score.
        unscored: searches that were left out, for they have none.
        shortest: the search whose cost it is.
        clock: what its seconds are: `worker time`, or `simulated time`.
        late, trials: how many trials came after this cost, and how many there are.
        exhausted: searches that ended earlier, with known networks alone to propose: their best stays.
    """

    groups: tuple[Group, ...]
    curves: tuple[tuple[Curve, ...], ...]
    unscored: tuple[Search, ...]
    shortest: Taken
    clock: str
    late: int
    trials: int
    exhausted: tuple[Taken, ...]

    @property
    def cost(self) -> float:
        """Worker seconds of each search."""
        return self.shortest.cost

    @property
    def lossy(self) -> bool:
        """Whether so many trials do not count that searches of equal length would be better."""
        return self.late > LEFT_OUT * self.trials and self.shortest.search.state == SearchState.COMPLETED


@dataclass(frozen=True, slots=True)
class Weak:
    """A rank test of so few searches that it can tell nothing.

    Attributes:
        searches, baselines: of the group, and of the random search that it is tested against.
        p: the least p-value that so many can give.
    """

    searches: int
    baselines: int
    p: float


@dataclass(frozen=True, slots=True)
class Comparison:
    """Groups of searches at equal cost.

    Attributes:
        gathered: what is compared, and what was left out.
        equal: at which cost, and what does not count.
        task: in a few words.
        rows: a row each group.
        supernets: what became of each group's supernets.
        baselines: what each group is tested against.
        lacking: groups without a random search to compare with, and the command of one of equal cost.
        machines: names of searches by the kind of machine that they ran on.
        weak: the first test that can tell nothing; None: all can tell something.
    """

    gathered: Gathered
    equal: EqualCost
    task: str
    rows: tuple[ComparisonRow, ...]
    supernets: tuple[Supernets, ...]
    baselines: tuple[Baseline, ...]
    lacking: tuple[Lacking, ...]
    machines: dict[str, list[str]]
    weak: Weak | None

    @property
    def late(self) -> dict[str, int]:
        """How many searches of a group had no score by the common cost, by the group's label."""
        groups = zip(self.rows, self.equal.groups, strict=True)
        found = {row.group: len(group.searches) - row.searches for row, group in groups}
        return {label: count for label, count in found.items() if count}

    def records(self) -> list[dict[str, Any]]:
        """Return the groups by field, each with what became of its supernets."""
        return [record(row) | record(found) for row, found in zip(self.rows, self.supernets, strict=True)]

    def frame(self) -> pd.DataFrame:
        """Return the groups as a pandas data frame, a row each."""
        return frame(self.records(), ComparisonRow)


def compare(store: Store, searches: Sequence[Search], *, complete: bool = False) -> Comparison:
    """Compare searches at the cost of the shortest.

    Args:
        store: where they are.
        searches: at least one.
        complete: whether to leave out searches that are not.

    Raises:
        ConfigError: their scores do not compare.
        NotFound: no search has a score, or none is complete and all are to be.
    """
    gathered = gather(store, searches, complete=complete)
    equal = at_equal_cost(store, gathered)
    against = baselines(equal.groups)
    rows = summarize(equal.groups, equal.curves, equal.cost, against)
    return Comparison(
        gathered,
        equal,
        equal.groups[0].searches[0].task_label,
        tuple(rows),
        tuple(supernets(store, equal.groups, equal.curves)),
        tuple(against),
        tuple(lacking(equal.groups, equal.curves)),
        machines([search for group in equal.groups for search in group.searches]),
        _weak(rows),
    )


def gather(store: Store, searches: Sequence[Search], *, complete: bool = False) -> Gathered:
    """Return the groups of searches and the curves of each.

    Args:
        store: where they are.
        searches: at least one.
        complete: whether to leave out searches that are not.

    Raises:
        ConfigError: their scores do not compare.
        NotFound: none is complete, and all are to be.
    """
    incomplete = [search for search in searches if complete and search.state != SearchState.COMPLETED]
    kept = [search for search in searches if search not in incomplete]
    if not kept:
        raise NotFound("None of these searches is complete; list them with `nas ls`.")
    groups, repeated = grouped(kept)
    return Gathered(
        tuple(groups),
        tuple(tuple(outlines(store, group.searches)) for group in groups),
        tuple(incomplete),
        tuple(repeated),
    )


def at_equal_cost(store: Store, gathered: Gathered) -> EqualCost:
    """Return the searches that have a score, and the cost of the shortest.

    Args:
        store: where they are.
        gathered: what is compared.

    Raises:
        NotFound: no search has a score.
    """
    groups, theirs, without = scored(gathered.groups, gathered.curves)
    least_cost = shortest(groups, theirs)
    theirs = [
        [
            read_at(store, search, curve, least_cost.cost)
            for search, curve in zip(group.searches, some, strict=True)
        ]
        for group, some in zip(groups, theirs, strict=True)
    ]
    late, trials = beyond(theirs, least_cost.cost)
    return EqualCost(
        tuple(groups),
        tuple(map(tuple, theirs)),
        tuple(without),
        least_cost,
        clock(groups[0].searches[0]),
        late,
        trials,
        tuple(exhausted(groups, theirs)),
    )


def _weak(rows: Sequence[ComparisonRow]) -> Weak | None:
    sizes = {row.group: row.searches for row in rows}
    for row in rows:
        if row.p_score is not None and row.baseline is not None:
            p = least(row.searches, sizes[row.baseline])
            if p > TOLD:
                return Weak(row.searches, sizes[row.baseline], p)
    return None


def machines(searches: Sequence[Search]) -> dict[str, list[str]]:
    """Return the names of the searches that ran on each kind of machine; a kind is a few words.

    One that was resumed on another kind names both. Searches in a table train nothing, and are of no kind;
    those of before a machine was recorded are of `an unknown machine`.
    """
    found: dict[str, list[str]] = {}
    for search in searches:
        if search.config["tasks"] is not None:
            found.setdefault(_kind(search), []).append(search.name)
    return found


def _kind(search: Search) -> str:
    return ", then ".join(provenance.machines(search.environment)) or "an unknown machine"
