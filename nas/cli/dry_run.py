"""What a search would be, without one: its settings, its first networks, and about how long it takes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from contextlib import suppress

import torch
import typer

from nas.cli.document import document
from nas.cli.output import say
from nas.counts import clock, counted
from nas.driver import estimates
from nas.driver.creation import check, supernet
from nas.driver.inheritance import gather
from nas.driver.schedules import Pace, Planned, planned
from nas.errors import NotFound
from nas.settings.search import SearchConfig
from nas.space import Architecture
from nas.states import TrialState
from nas.storage.store import Store
from nas.tasks.base import ScoreSource, TaskSource
from nas.training.provenance import MEMORY


def dry_run(config: SearchConfig, db: str, *, resumes: bool) -> None:
    """Print the resolved settings as a file on stdout, and words on the search on stderr; write nothing.

    Args:
        config: what was resolved.
        db: URL of the database that the search would be written to, and that has those it begins with.
        resumes: whether a search of this name would go on.

    Raises:
        NasError: the search would be refused, for the same reason.
    """
    if config.name is not None and not resumes:
        with suppress(NotFound), Store(db) as store:
            store.check_free(config.name)
    if config.warm_start is not None:
        with Store(db) as store:
            inherited = gather(store, config, config.make_space())
    tasks = config.make_source()
    if config.warm_start is not None:
        config.make_controller(config.make_space(), tasks).inherit(inherited)  # which may refuse
    made_by = check(config, tasks, say)
    typer.echo(document(config), nl=False)
    space = config.make_space()
    shared = supernet(config, space, tasks)
    first = estimates.architectures(config, space, tasks)
    torch.set_num_threads(config.resources.cpus)
    if not isinstance(tasks, TaskSource):
        _looked_up(config, tasks, first)
        return
    pace = estimates.trial_pace(config, space, tasks, first, say)
    if shared is not None:
        before = estimates.supernet_seconds(config, space, tasks, shared, made_by[MEMORY])
        say(f"The supernet: about {clock(before)}, extrapolated from a few of its steps.")
        _whole(config, pace, shared.derive if shared.whole else config.trials - 1, before)
    else:
        _whole(config, pace, config.planned(space) or config.trials)


def _scheduled(config: SearchConfig, pace: Pace) -> list[Planned]:
    """Say how many trials of which length there would be; return them."""
    every = planned(config, config.make_space(), pace)
    counts = Counter(trial.length for trial in every)
    shortest, *longer = sorted(counts)
    parts = [f"{counted(counts[shortest], 'trial')} of {shortest:,} training episodes"]
    parts += [f"{counts[length]:,} of {length:,}" for length in longer]
    goes_on = pace.step or config.proposer.continues
    again = " A longer one goes on from a shorter one." if goes_on else ""
    episodes = sum(trial.episodes for trial in every)
    say(f"Scheduled: about {', '.join(parts)}; {episodes:,} training episodes in all.{again}")
    whole = config.budget.train_episodes
    if whole not in counts:
        say(f"None gets the whole budget of {whole:,}, which leaderboards rank: give more --trials.")
    return every


def _looked_up(config: SearchConfig, tasks: ScoreSource, architectures: Sequence[Architecture]) -> None:
    space, outcomes = config.make_space(), estimates.looked_up(config, tasks, architectures)
    for outcome, architecture in zip(outcomes, architectures, strict=True):
        if outcome.state is TrialState.INFEASIBLE:
            say(f"{space.encode(architecture)}: infeasible: {outcome.error}")
        else:
            say(f"{outcome.seconds:.1f} s of simulated time: {space.encode(architecture)}")
    pace = estimates.pace_of(config, outcomes)
    if pace is None:
        say("None of these networks is in the table, so how long trials take is not known.")
        return
    whole = pace.seconds(config.budget.train_episodes)
    taken = [whole] * config.trials
    if config.promotes:
        taken = [trial.ends - trial.begins for trial in _scheduled(config, pace)]
    trials = f"{counted(len(taken), 'trial')}: about {clock(sum(taken))} of simulated time"
    if config.max_seconds is not None and config.max_seconds < sum(taken):
        ends = counted(max(round(config.max_seconds * len(taken) / sum(taken)), 1), "trial")
        trials += f", but it ends at {config.max_seconds:g} s, after about {ends}"
    say(f"{trials}. Its evaluator trains nothing, so it takes milliseconds a trial.")


def _whole(config: SearchConfig, pace: Pace | None, trials: int, before: float = 0.0) -> None:
    if pace is None:
        say("None of these networks is feasible for the tasks, so nothing was measured.")
        return
    if config.staged:
        _scheduled(config, pace)
    total = estimates.total(config, pace, trials, before)
    shorter = [
        words
        for words, so in (
            ("trials that are stopped early", config.scheduler is not None and not config.staged),
            ("networks that are known", config.deduplicate),
        )
        if so
    ]
    less = f"; {' and '.join(shorter)} make it less" if shorter else ""
    what = f"{'the supernet and ' if before else ''}{counted(trials, 'trial')}"
    say(
        f"The whole: about {clock(total)} for {what}, "
        f"{config.workers} at a time, each as fast as measured here{less}. Nothing was written."
    )
