"""How often a job is tried: one rule for trials, supernets and evaluations.

A job that failed and a job whose worker died are counted apart: a machine that is taken away is no fault of a
network's.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

RETRIES = 1
"""Further attempts at a job, unless a setting says otherwise."""

DEATHS = 5
"""Further attempts at a job whose worker died: one that kills its worker each time ends, too."""

Retries = Annotated[
    int,
    Field(
        ge=0,
        description=f"further attempts at a training that failed; one whose worker died has {DEATHS} besides",
    ),
]


def again(failures: int, retries: int, *, in_vain: bool = False) -> bool:
    """Return whether a job that failed is tried again.

    Args:
        failures: how many attempts failed before this one.
        retries: further attempts that it has in all.
        in_vain: whether another attempt would end the same way.
    """
    return failures < retries and not in_vain


def revived(deaths: int) -> bool:
    """Return whether a job whose worker died is tried again, after so many deaths before this one."""
    return deaths < DEATHS
