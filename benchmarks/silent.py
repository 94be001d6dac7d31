"""An observer of searches that are only to be timed, or whose outcomes are read afterwards."""

from __future__ import annotations


class Silent:
    """An observer without a word."""

    def started(self, *arguments: object) -> None: ...

    reported = recorded = retried = started
