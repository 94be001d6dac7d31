"""Evaluations without a result: what became of them, and whether another try may end otherwise."""

from __future__ import annotations

from collections.abc import Sequence

from nas.counts import counted
from nas.errors import Diverged
from nas.states import EvaluationState
from nas.storage.schema import Evaluation


def repeats(row: Evaluation) -> bool:
    """Return whether another try at an evaluation ends the same way."""
    return in_vain(row.state, row.error)


def in_vain(state: str, error: str | None) -> bool:
    """Return whether what ended so ends so again: the architecture is infeasible, or the seed diverges."""
    return state == EvaluationState.INFEASIBLE or (
        state == EvaluationState.FAILED and (error or "").startswith(f"{Diverged.__name__}:")
    )


def complaint(rows: Sequence[Evaluation]) -> str | None:
    """Return which evaluations have no result, why, and which of them the same call takes up again.

    None: all have one.
    """
    missing = [row for row in rows if row.state != EvaluationState.COMPLETED]
    if not missing:
        return None
    have = "has" if len(missing) == 1 else "have"
    vain = [row for row in missing if repeats(row)]
    lines = [f"{len(missing)} of {counted(len(rows), 'evaluation')} {have} no result."]
    for heading, some in (
        ("The same command takes up again:", [row for row in missing if row not in vain]),
        ("Another try would end the same way:", vain),
    ):
        if some:
            lines += [heading, *(f"  {fate}" for fate in fates(some, named=True))]
    return "\n".join(lines)


def fates(rows: Sequence[Evaluation], *, named: bool) -> list[str]:
    """Return a line for each set of seeds of an architecture that ended alike: which, in what state, and why.

    Args:
        rows: those without a result.
        named: whether each line begins with the architecture.
    """
    alike: dict[tuple[str, str], list[int]] = {}
    for row in rows:
        name = f"{row.space}:{row.architecture} " if named else ""
        alike.setdefault((name, _fate(row)), []).append(row.seed)
    return [f"{name}{seeds(numbers)} {fate}" for (name, fate), numbers in alike.items()]


def _fate(row: Evaluation) -> str:
    reason = (row.error or "").strip().partition("\n")[0]
    if row.state == EvaluationState.RUNNING:
        reason = f"pid {row.pid} on host {row.host} is running it"
    return f"{row.state}: {reason}" if reason else row.state


def seeds(numbers: Sequence[int]) -> str:
    """Return seeds as a sentence names them: `seed 0`, `seeds 0, 1`."""
    return f"{'seed' if len(numbers) == 1 else 'seeds'} {', '.join(map(str, sorted(numbers)))}"
