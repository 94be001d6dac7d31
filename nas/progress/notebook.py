"""A line in a notebook that changes in place."""

from __future__ import annotations

import sys
import time
from typing import Any

EVERY = 0.25
"""Seconds between two changes."""


def here() -> bool:
    """Return whether this code runs in the cell of a notebook."""
    interactive: Any = sys.modules.get("IPython")
    shell = None if interactive is None else interactive.get_ipython()
    return hasattr(shell, "kernel")  # the shell of a terminal has none


class StatusLine:
    """The line; nothing is shown before the first text."""

    def __init__(self) -> None:
        self._handle: Any = None
        self._shown = 0.0

    def show(self, text: str, *, now: bool = False) -> None:
        """Show a text in place of the one before, unless that has only just been shown.

        Args:
            text: of one line.
            now: whether to show it in any case, such as the last.
        """
        if not now and time.monotonic() - self._shown < EVERY:
            return
        self._shown = time.monotonic()
        content = {"text/plain": text}
        if self._handle is None:
            display: Any = sys.modules["IPython"].display
            self._handle = display.display(content, raw=True, display_id=True)
        else:
            self._handle.update(content, raw=True)
