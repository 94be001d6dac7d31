"""A database that is away for a while: what may be done twice is done again until it answers."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Concatenate, ParamSpec, Protocol, TypeVar

from nas.errors import Unreachable

OUTAGE_SECONDS = 120.0
"""How long a database that was opened may be away before a process gives up."""

_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 2.0

_log = logging.getLogger(__name__)

Result = TypeVar("Result")
Arguments = ParamSpec("Arguments")


class Patience:
    """Outlasts the outages of one database.

    Args:
        returned: called once the database answers again, before what was asked is done again.
    """

    def __init__(self, returned: Callable[[], None]) -> None:
        self._returned = returned
        self._look: Callable[[], object] = lambda: None
        self._over = False

    @contextmanager
    def minding(self, look: Callable[[], object]) -> Iterator[None]:
        """Look after something else, too, while the block waits; what that raises ends the wait.

        Args:
            look: called before each further try.
        """
        before, self._look = self._look, look
        try:
            yield
        finally:
            self._look = before

    def outlast(self, action: Callable[[], Result]) -> Result:
        """Return what an action returns; while the database does not answer, do it again.

        Once the patience is over, or interrupted, actions fail at once until one succeeds: what a process
        cleans up on its way out must not wait again.

        Args:
            action: one transaction, which changes nothing more where it was committed before.

        Raises:
            Unreachable: the database was away for `OUTAGE_SECONDS`.
        """
        try:
            result = action()
        except Unreachable as error:
            if self._over:
                raise
            result = self._wait(action, error)
        self._over = False
        return result

    def _wait(self, action: Callable[[], Result], error: Unreachable) -> Result:
        began, pause = time.monotonic(), _FIRST_PAUSE
        self._over = True
        while time.monotonic() - began < OUTAGE_SECONDS:
            self._look()
            time.sleep(pause)
            try:
                self._returned()
                result = action()
            except Unreachable as again:
                if pause == _FIRST_PAUSE:
                    _log.warning("warning: %s Trying again for %g s…", again, OUTAGE_SECONDS)
                error, pause = again, min(2 * pause, _LONGEST_PAUSE)
                continue
            if pause > _FIRST_PAUSE:
                _log.warning("The database answers again, after %.0f s.", time.monotonic() - began)
            return result
        raise error


class _Patient(Protocol):
    @property
    def patience(self) -> Patience: ...


Self = TypeVar("Self", bound=_Patient)


def repeatable(
    method: Callable[Concatenate[Self, Arguments], Result],
) -> Callable[Concatenate[Self, Arguments], Result]:
    """Do a method again where the connection is lost: it is one transaction, and may be committed twice."""

    @wraps(method)
    def outlasting(self: Self, /, *args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        return self.patience.outlast(lambda: method(self, *args, **kwargs))

    return outlasting
