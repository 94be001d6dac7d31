"""Every error that nas raises on purpose.

    NasError                 exit code 1
    ├── ConfigError          2   a setting is wrong
    │   ├── UnknownName      2   no such plugin, setting or architecture name
    │   ├── PluginError      2   a plugin cannot be loaded, or does not do what its kind promises
    │   └── Unsupported      2   a plugin cannot do what another one asks of it
    ├── NotFound             3   no such search, trial or file
    │   └── DataMissing      3   a dataset is not on this machine
    ├── StorageError         4   the database is unreachable, locked or at another revision
    │   ├── Unreachable      4   the database does not answer, or the connection to it was lost
    │   └── Unwritable       4   a checkpoint or weights cannot be written: no trial is to blame
    ├── TooManyFailures      5   a search ended with more failed trials than allowed
    ├── HeadLost             6   the head of the Ray cluster is gone
    ├── Stillborn            1   workers die, one after the other, before they have a job
    ├── Unready              *   a worker cannot work: the exit code of what is wrong there
    ├── Unreadable           1   a model file is damaged, of another version, or does not fit
    ├── Infeasible           1   an architecture cannot be built for the task's shape, or none of a search
    └── Diverged             1   a training loss is not a number

The command line prints the message alone and leaves with the class's exit code. A message says what is
wrong, where, and the next command or setting to try.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable
from functools import partial


def nearest(name: str, names: Iterable[str]) -> str:
    """Return the question whether the name most like this one is meant, after a space; or nothing."""
    near = difflib.get_close_matches(name, list(names), n=1, cutoff=0.5)
    return f" Did you mean '{near[0]}'?" if near else ""


class NasError(Exception):
    """The root: catch it to catch all that nas raises on purpose."""

    exit_code = 1


class ConfigError(NasError):
    """A setting is wrong; the message names the setting and what it allows."""

    exit_code = 2


class UnknownName(ConfigError):
    """A name that nothing answers to; the message gives the nearest match and every name allowed.

    Args:
        what: the kind of thing that has the name, such as `setting`.
        name: as given.
        allowed: every name there is.
        otherwise: a sentence on what may be given in place of a name.
        of: what would have the name, such as `the space`; nothing: the kind alone says it.
    """

    def __init__(
        self, what: str, name: str, allowed: Iterable[str], otherwise: str = "", *, of: str = ""
    ) -> None:
        names = sorted(allowed)
        rest = f" {otherwise}" if otherwise else ""
        owner = f" of {of}" if of else ""
        super().__init__(
            f"Unknown {what} '{name}'{owner}.{nearest(name, names)} "
            f"Allowed: {', '.join(names) or 'none'}.{rest}"
        )
        self._given, self._of = (what, name, names, otherwise), of

    def __reduce__(self) -> tuple[Callable[..., UnknownName], tuple[object, ...]]:
        return partial(UnknownName, of=self._of), self._given


class PluginError(ConfigError):
    """A plugin is installed but cannot be loaded, or does not do what its kind promises."""


class Unsupported(ConfigError):
    """A plugin cannot do what another one asks of it, such as a supernet of a space that has none."""


class NotFound(NasError):
    """No such search, trial or file."""

    exit_code = 3


class DataMissing(NotFound):
    """A dataset is not on this machine; the message gives the command that fetches it."""


class StorageError(NasError):
    """The database is unreachable, locked, unwritable or at another revision."""

    exit_code = 4


class Unreachable(StorageError):
    """The database does not answer, or the connection to it was lost: the same may work a moment later."""


class Unwritable(StorageError):
    """A checkpoint or weights cannot be written: the disk is full, or the folder is read-only or gone."""


class TooManyFailures(NasError):
    """A search ended with more failed trials than `max_failed` allows, or without the supernet it needs."""

    exit_code = 5


class HeadLost(NasError):
    """The head of the Ray cluster does not answer any more: its workers can be told nothing."""

    exit_code = 6


class Stillborn(NasError):
    """Workers die, one after the other, before they have a job: no job is to blame."""


class Unready(NasError):
    """A worker cannot work where others may: its machine lacks a plug-in, the data, or what a package needs.

    Args:
        host: of the worker.
        why: it cannot, in sentences.
        exit_code: of the error that says why.
    """

    def __init__(self, host: str, why: str, exit_code: int = 1) -> None:
        super().__init__(f"The worker on host {host} cannot work: {why}")
        self.host, self.why, self.exit_code = host, why, exit_code

    def __reduce__(self) -> tuple[type[Unready], tuple[str, str, int]]:
        return Unready, (self.host, self.why, self.exit_code)


class Unreadable(NasError):
    """A model file is damaged, of another version, or its weights do not fit the network."""


class Infeasible(NasError):
    """An architecture cannot be built for this task shape, or breaks a constraint; or all of a search do."""


class Diverged(NasError):
    """A training loss became NaN or infinite."""
