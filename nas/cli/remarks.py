"""What `nas compare` says beside its table: what the numbers mean, and what they do not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from nas.cli.output import say

if TYPE_CHECKING:
    from nas.comparison.curves import Curve
    from nas.comparison.groups import Group
    from nas.comparison.summary import Row, Taken
    from nas.comparison.supernets import Supernets

TOLD = 0.05
"""The usual level: a p below it is taken to tell two groups apart."""


def some(names: Sequence[str]) -> str:
    """Return the first three of names, and how many more there are."""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more


def remedy(shortest: Taken) -> str:
    """Return why a completed search was that short, and how to give all the same time."""
    if shortest.search.config.get("max_seconds") is not None:
        return "Give all searches the same max_seconds, and trials enough to use it up."
    reused = f": {shortest.reused} of its {shortest.trials} trials were reused, and cost nothing"
    return (
        f"Trials take unequal time{reused if shortest.reused else ''}. To give all searches the same worker "
        "time, set max_seconds in place of trials: a reused trial is then none of the trials."
    )


def ran(groups: Sequence[Group]) -> None:
    """Say on which kinds of machines the searches ran, in which precision and on how many threads."""
    from nas.comparison.groups import settled
    from nas.comparison.machines import machines

    kinds = machines([search for group in groups for search in group.searches])
    if not kinds:
        return
    settings = settled(groups[0].searches[0])
    precision, threads = settings.get("resources.precision", "auto"), settings.get("resources.cpus", 1)
    how = f"{precision}, {threads} {'thread' if threads == 1 else 'threads'} a trial"
    if len(kinds) == 1:
        say(f"Ran on: {next(iter(kinds))}; {how}.")
        return
    where = "; ".join(f"{kind} ({some([repr(name) for name in names])})" for kind, names in kinds.items())
    say(
        f"Ran on {len(kinds)} kinds of machines, in {how}: {where}. Rounding differs, so that under "
        "one seed the same network scores otherwise on another kind: compare means over seeds alone."
    )


def tests(rows: Sequence[Row]) -> None:
    """Say what the p-values are, and where so few searches can tell nothing."""
    from nas.comparison.ranks import least

    tested = [row for row in rows if row.p_score is not None]
    if not tested:
        return
    say("p: two-sided Mann-Whitney rank test against random search.")
    sizes = {row.group: row.searches for row in rows}
    of_baseline = {row.group: sizes[row.baseline] for row in tested if row.baseline is not None}
    few = [row for row in tested if least(row.searches, of_baseline[row.group]) > TOLD]
    if few:
        ours, theirs = few[0].searches, of_baseline[few[0].group]
        say(
            f"Too few searches to tell any difference: of {ours} against {theirs}, p is at least "
            f"{least(ours, theirs):.2g}; of 4 against 4 it can be {least(4, 4):.2g}, of 5 against 5 "
            f"{least(5, 5):.2g}."
        )


def missing(groups: Sequence[Group], curves: Sequence[Sequence[Curve]]) -> None:
    """Say which groups have no random search beside them, and how to run one of equal cost."""
    from nas.comparison.groups import BASELINE
    from nas.settings.command import like, one_shot

    lacking = [
        (group, some_curves)
        for group, some_curves in zip(groups, curves, strict=True)
        if not any(other.controller == BASELINE and other.space == group.space for other in groups)
    ]
    if not lacking:
        return
    say(f"No random search beside {', '.join(group.label for group, _ in lacking)}. The line to beat:")
    spaces: list[object] = []
    for group, _ in lacking:
        if group.space in spaces:
            continue
        spaces.append(group.space)
        alike = [(g, c) for g, c in lacking if g.space == group.space]
        timed = any(one_shot(g.searches[0]) for g, _ in alike)
        cost = max(curve.total for _, some_curves in alike for curve in some_curves) if timed else None
        first, *others = group.searches
        say(f"  {like(first, BASELINE, cost)}")
        if others:
            seeds = " and with ".join(f"--set=seed={search.seed}" for search in others)
            say(f"and the same with {seeds} at its end, a search each.")


def foretold(groups: Sequence[Group], shared: Sequence[Supernets]) -> None:
    """Say how far supernets foretell scores from scratch, and what became of them."""
    from nas.comparison.supernets import PAIRS

    every = [one for found in shared for one in found.supernets]
    if not every:
        return
    say(
        "rho: rank correlation of scores with shared weights and from scratch among what a supernet derived. "
        "That is its own selection, whose shared scores hardly differ, and rho is smaller than among all."
    )
    say(
        "rho_random: the same among the first proposals of the random search under the same seed, which "
        "nobody selected: how well shared weights rank any networks."
    )
    if not any(one.pairs_random for one in every):
        say(
            "rho_random -: no compared random search has the space and the seed of a supernet, or these were "
            "trained before such scores were recorded."
        )
    if any(one.rho is None for one in every):
        say(f"rho -: fewer than {PAIRS} architectures have both scores, or all scores of one kind are equal.")
    for group, found in zip(groups, shared, strict=True):
        _supernets(group.label, found)


def _supernets(label: str, found: Supernets) -> None:
    """Say what became of the supernets of a group."""
    by_seed = sorted(found.supernets, key=lambda supernet: supernet.seed)
    if not by_seed:
        return
    own = [f"{_rho(one.rho, one.pairs)} (seed {one.seed})" for one in by_seed]
    say(f"{label}: rho {', '.join(own)}; of few architectures it says little.")
    unselected = [
        f"{_rho(one.rho_random, one.pairs_random)} (seed {one.seed})" for one in by_seed if one.pairs_random
    ]
    if unselected:
        say(f"{label}: rho_random {', '.join(unselected)}.")
    skips = [f"{one.skips} (seed {one.seed})" for one in by_seed if one.skips is not None]
    if skips:
        say(f"{label}: skip connections that it would have derived at the end: {', '.join(skips)}.")
    early = [one for one in by_seed if one.ended_early is not None]
    for one in early:
        say(f"{label}: the supernet of seed {one.seed} ended early. {one.ended_early}")
    if not early:
        say(f"{label}: no supernet ended early.")


def _rho(rho: float | None, pairs: int) -> str:
    return f"{'-' if rho is None else f'{rho:.2f}'} of n = {pairs}"
