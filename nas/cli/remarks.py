"""What `nas compare` says about its table: what the numbers mean, and what they do not."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from nas.cli.output import say

if TYPE_CHECKING:
    from nas.comparison.baselines import Lacking
    from nas.comparison.comparison import Comparison
    from nas.comparison.summary import Taken
    from nas.comparison.supernets import Supernets


def some(several: Iterable[str]) -> str:
    """Return the first three of names, and how many more there are."""
    names = list(several)
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


def ran(found: Comparison) -> None:
    """Say on which kinds of machines the searches ran, in which precision and on how many threads."""
    from nas.comparison.groups import settled

    kinds = found.machines
    if not kinds:
        return
    settings = settled(found.equal.groups[0].searches[0])
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


def tests(found: Comparison) -> None:
    """Say what the p-values are, and where so few searches can tell nothing."""
    from nas.comparison.ranks import least

    if all(row.p_score is None for row in found.rows):
        return
    say("p: two-sided Mann-Whitney rank test against random search.")
    weak = found.weak
    if weak is not None:
        say(
            f"Too few searches to tell any difference: of {weak.searches} against {weak.baselines}, p is at "
            f"least {weak.p:.2g}; of 4 against 4 it can be {least(4, 4):.2g}, of 5 against 5 "
            f"{least(5, 5):.2g}."
        )


def missing(lacking: Sequence[Lacking]) -> None:
    """Say which groups have no random search to compare with, and how to run one of equal cost."""
    if not lacking:
        return
    labels = ", ".join(label for some_space in lacking for label in some_space.labels)
    say(f"No random search to compare with: {labels}. The line to beat:")
    for some_space in lacking:
        say(f"  {some_space.command}")
        if some_space.seeds:
            seeds = " and with ".join(f"--set=seed={seed}" for seed in some_space.seeds)
            say(f"and the same with {seeds} at its end, a search each.")


def foretold(found: Comparison) -> None:
    """Say how far supernets predict scores from scratch, and what became of them."""
    from nas.comparison.supernets import PAIRS

    every = [one for of_group in found.supernets for one in of_group.supernets]
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
    for row, of_group in zip(found.rows, found.supernets, strict=True):
        _supernets(row.group, of_group)


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
