"""What a search would be, without one: its settings, its first networks, and about how long it takes."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

import torch
import typer

from nas.cli.document import document
from nas.cli.output import say
from nas.counts import clock, counted
from nas.driver import estimates
from nas.driver.search import MEMORY, check, supernet
from nas.settings.search import SearchConfig
from nas.space import Architecture
from nas.states import TrialState
from nas.tasks.base import ScoreSource, TaskSource


def dry_run(config: SearchConfig, tasks: ScoreSource) -> None:
    """Print the resolved settings as a file on stdout, and words on the search on stderr; write nothing.

    Raises:
        NasError: the search would be refused, for the same reason.
    """
    made_by = check(config, tasks, say)
    typer.echo(document(config), nl=False)
    space = config.make_space()
    shared = supernet(config, space, tasks)
    first = estimates.architectures(config, space, tasks)
    torch.set_num_threads(config.resources.cpus)
    if not isinstance(tasks, TaskSource):
        _looked_up(config, tasks, first)
        return
    seconds = estimates.trial_seconds(config, space, tasks, first, say)
    if shared is not None:
        before = estimates.supernet_seconds(config, space, tasks, shared, made_by[MEMORY])
        say(f"The supernet: about {clock(before)}, extrapolated from a few of its steps.")
        _whole(config, seconds, shared.derive if shared.whole else config.trials - 1, before)
    else:
        _whole(config, seconds, config.trials)


def _looked_up(config: SearchConfig, tasks: ScoreSource, architectures: Sequence[Architecture]) -> None:
    space, outcomes = config.make_space(), estimates.looked_up(config, tasks, architectures)
    for outcome, architecture in zip(outcomes, architectures, strict=True):
        if outcome.state is TrialState.INFEASIBLE:
            say(f"{space.encode(architecture)}: infeasible: {outcome.error}")
        else:
            say(f"{outcome.seconds:.1f} s of simulated time: {space.encode(architecture)}")
    if not estimates.feasible(outcomes):
        say("None of these networks is in the table, so how long trials take is not known.")
        return
    mean = fmean(outcome.seconds for outcome in outcomes)
    trials = f"{counted(config.trials, 'trial')}: about {clock(config.trials * mean)} of simulated time"
    if config.max_seconds is not None and config.max_seconds < config.trials * mean:
        ends = counted(max(round(config.max_seconds / mean), 1), "trial")
        trials += f", but it ends at {config.max_seconds:g} s, after about {ends}"
    say(f"{trials}. Its evaluator trains nothing, so it takes milliseconds a trial.")


def _whole(config: SearchConfig, seconds: float | None, trials: int, before: float = 0.0) -> None:
    if seconds is None:
        say("None of these networks is feasible for the tasks, so nothing was measured.")
        return
    total = estimates.total(config, seconds, trials, before)
    shorter = [
        words
        for words, so in (
            ("trials that are stopped early", config.scheduler is not None),
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
