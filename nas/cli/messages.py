"""Words on stderr: the commands in them ask what was asked, and lines fit the terminal.

A command asks the database that was asked; one that goes on with a search runs it on the same cluster.

A command is marked by backticks, `` `nas show NAME` ``, or is a line of its own, two spaces in.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum

from typer.core import TyperGroup

from nas import submission
from nas.cli.layout import wrap
from nas.errors import ConfigError
from nas.storage import DEFAULT_DB

_MARKED = re.compile(r"`(nas [^`\n]+)`")
_LINE = re.compile(r"^  (nas .+)$", re.MULTILINE)
_HELD = "\0"
"""Stands for a space at which no line is broken."""


@dataclass(slots=True)
class _Asked:
    """What this command line is, what it asks and how it tells, once that is known."""

    verbs: TyperGroup | None = None
    db: str | None = None
    cluster: str | None = None
    events: bool = False


_asked = _Asked()


def begin(verbs: TyperGroup) -> None:
    """Take note of the verbs there are, before one of them is parsed."""
    _asked.verbs, _asked.db, _asked.cluster, _asked.events = verbs, None, None, False


def ask(db: str) -> str:
    """Take note of the database that is asked; return it."""
    _asked.db = db
    return db


def run_at(address: str | None) -> str | None:
    """Take note of the cluster that trials run on; return its address."""
    _asked.cluster = address
    return address


class LogFormat(StrEnum):
    """How stderr tells what happens."""

    TEXT = "text"
    JSON = "json"


def log_as(form: LogFormat) -> LogFormat:
    """Take note of how this command tells what happens; return it."""
    _asked.events = form is LogFormat.JSON
    return form


def as_events() -> bool:
    """Return whether each line on stderr is to be a JSON document."""
    return _asked.events


def cluster() -> str | None:
    """Return the address of the cluster that was named; None: none was."""
    return _asked.cluster


def laid_out(text: str, width: int | None) -> str:
    """Return a message as it is printed.

    Args:
        text: lines, each a paragraph.
        width: of the terminal; None: there is none, and no line is broken. In a terminal lines break
            between words, and a command with arguments has a line of its own, which is never broken.
    """
    text = _MARKED.sub(lambda found: f"`{_asking(found[1])}`", text)
    text = _LINE.sub(lambda found: f"  {_asking(found[1])}", text)
    if width is None:
        return text
    return "\n".join(line for paragraph in text.split("\n") for line in _broken(paragraph, width))


def terminal() -> int | None:
    """Return how many cells a line of the terminal has that stderr is; None: it is none."""
    if sys.stderr is None or not sys.stderr.isatty():
        return None
    columns = 0
    with suppress(OSError, ValueError):  # stdout may be no terminal, which is the one that `shutil` asks
        columns = os.get_terminal_size(sys.stderr.fileno()).columns
    return shutil.get_terminal_size((columns or 80, 24)).columns


def _asking(command: str) -> str:
    """Return a command that asks the same cluster and database; a password is not printed."""
    # Who reads the log of a job is elsewhere, and has not the environment of its driver.
    known = None if submission.command() is not None else os.environ.get("RAY_ADDRESS")
    if _goes_on(command) and _asked.cluster not in (None, known):
        command = f"{command} --ray-address {shlex.quote(_asked.cluster)}"
    if _asked.db in (None, os.environ.get("NAS_DB") or DEFAULT_DB) or not _asks(command):
        return command
    from nas.storage.engine import parse, shown

    try:
        url = shown(parse(_asked.db))
    except ConfigError:  # which is what the message says
        return command
    return f"{command} --db {shlex.quote(url)}"


def _goes_on(command: str) -> bool:
    """Return whether a command goes on with a search, and does not say where."""
    words = [word.partition("=")[0] for word in command.split()]
    return words[:2] == ["nas", "resume"] and not {"--ray-address", "--help"} & {*words}


def _asks(command: str) -> bool:
    """Return whether a command asks a database, and does not say which."""
    _, *words = command.split()
    if "--help" in words or any(word.partition("=")[0] == "--db" for word in words):
        return False
    verb = _asked.verbs
    for word in words:
        if not isinstance(verb, TyperGroup):
            break
        verb = verb.commands.get(word)  # type: ignore[assignment]
    return verb is not None and any(parameter.name == "db" for parameter in verb.params)


def _broken(paragraph: str, width: int) -> Iterator[str]:
    """Yield the lines of a paragraph; a break between words keeps its indentation."""
    if _LINE.fullmatch(paragraph):
        yield paragraph
        return
    words = paragraph.lstrip(" ")
    indent = " " * (len(paragraph) - len(words))
    words = _MARKED.sub(lambda found: _held(found[0]) if len(found[1].split()) < 3 else found[0], words)
    prose, *rest = _MARKED.split(words)
    for command, after in zip(rest[::2], rest[1::2], strict=True):
        if prose := prose.rstrip():
            yield from _wrapped(f"{prose}:" if prose[-1].isalnum() else prose, indent, width)
        yield f"{indent}  {command}"
        prose = after.lstrip(" .,;:")
    if prose or not rest:
        yield from _wrapped(prose, indent, width)


def _held(text: str) -> str:
    return text.replace(" ", _HELD)


def _wrapped(prose: str, indent: str, width: int) -> list[str]:
    lines = wrap(prose, max(width - len(indent), 1), whole=True)
    return [f"{indent}{line}".replace(_HELD, " ") for line in lines]
