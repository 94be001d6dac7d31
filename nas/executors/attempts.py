"""How often a job is tried: one rule for trials, supernets and evaluations."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

RETRIES = 1
"""Further attempts at a job, unless a setting says otherwise."""

Retries = Annotated[
    int, Field(ge=0, description="further attempts at a training that failed, or whose worker died")
]


def again(attempt: int, retries: int, *, in_vain: bool = False) -> bool:
    """Return whether a job that failed, or whose worker died, is tried again.

    Args:
        attempt: 0, or how often it was tried before, whatever ended it.
        retries: further attempts that it has in all.
        in_vain: whether another attempt would end the same way.
    """
    return attempt < retries and not in_vain
