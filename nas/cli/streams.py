"""stdin, stdout and stderr as they are: closed, in another encoding, or a pipe that nobody reads any more."""

from __future__ import annotations

import codecs
import errno
import io
import os
import sys
import unicodedata
from typing import Final, TextIO

PLAIN: Final = "plain"
"""Name of the error handler that writes the nearest ASCII for what an encoding lacks."""

_ASCII: Final = "plain-ascii"

_NEAREST: Final = {
    **dict.fromkeys("│┃║‖┆┊▏▎▕", "|"),
    **dict.fromkeys("─━═┄┈╌−–—‐‑·", "-"),
    **dict.fromkeys("┌┐└┘├┤┬┴┼╭╮╰╯╔╗╚╝╠╣╦╩╬┏┓┗┛╸╺╴╶", "+"),
    **dict.fromkeys("█▇▆▅▓■▌▐▋▊▉●•", "#"),
    **dict.fromkeys("▄▃▂▁▒░", ":"),
    **dict.fromkeys("‘’′", "'"),
    **dict.fromkeys("“”″", '"'),
    **dict.fromkeys("⟨", "<"),
    **dict.fromkeys("⟩", ">"),
    "±": "+/-",
    "×": "x",
    "…": "...",
    "→": "->",
    "←": "<-",
    "≤": "<=",
    "≥": ">=",
    "√": "sqrt",
    "α": "alpha",
    "β": "beta",
    "γ": "gamma",
    "ε": "epsilon",
    "λ": "lambda",
    "μ": "mu",
    "ξ": "xi",
    "π": "pi",
    "ρ": "rho",
    "σ": "sigma",
    "τ": "tau",
    "φ": "phi",
    "ß": "ss",
}


def prepare() -> None:
    """Make the three streams bear whatever is printed.

    A closed one reads and writes nothing; characters that an encoding lacks are written in ASCII; and once
    nobody reads a pipe or a terminal any more, what is printed to it goes nowhere.
    """
    _open_all()
    codecs.register_error(PLAIN, _plain)
    codecs.register(_plain_ascii)
    if sys.stdin is None:
        sys.stdin = open(0, closefd=False)  # noqa: SIM115
    sys.stdout = _lasting(sys.stdout or open(1, "w", closefd=False), "stdout")  # noqa: SIM115
    sys.stderr = _lasting(sys.stderr or open(2, "w", closefd=False), "stderr")  # noqa: SIM115


def _open_all() -> None:
    """Put the null device where one is closed: the next file that is opened would take its place."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)


def _lasting(stream: TextIO, name: str) -> TextIO:
    """Return a stream to the same file that outlives its reader; one without a file is returned as it is."""
    try:
        descriptor = stream.fileno()
    except (OSError, AttributeError):
        return stream
    stream.flush()
    encoding = stream.encoding
    ascii_only = codecs.lookup(encoding).name == "ascii"
    return io.TextIOWrapper(
        io.BufferedWriter(_Descriptor(descriptor, name)),
        encoding=_ASCII if ascii_only else encoding,
        errors=PLAIN,
        line_buffering=stream.isatty() or name == "stderr",
    )


class _Descriptor(io.FileIO):
    """An open file. Where its reader is gone, or it is stderr and fails, the rest goes to the null device."""

    def __init__(self, descriptor: int, name: str) -> None:
        super().__init__(descriptor, "w", closefd=False)
        self._name, self._terminal = name, os.isatty(descriptor)

    def write(self, data: object) -> int | None:  # type: ignore[override]
        try:
            return super().write(data)  # type: ignore[arg-type]
        except OSError as error:
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, self.fileno())
            os.close(null)
            unread = isinstance(error, BrokenPipeError) or (self._terminal and error.errno == errno.EIO)
            if unread or self._name == "stderr":
                return memoryview(data).nbytes  # type: ignore[arg-type]
            raise OSError(error.errno, error.strerror, f"<{self._name}>") from None


def _plain(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(map(_nearest, error.object[error.start : error.end])), error.end


def _nearest(character: str) -> str:
    if character in _NEAREST:
        return _NEAREST[character]
    if 0xDC80 <= ord(character) <= 0xDCFF:  # a byte of a file's name that is no UTF-8
        return f"\\x{ord(character) - 0xDC00:02x}"
    if unicodedata.combining(character):
        return ""
    decomposed = unicodedata.normalize("NFKD", character)
    return "".join(letter for letter in decomposed if letter.isascii()) or "?"


def _plain_ascii(name: str) -> codecs.CodecInfo | None:
    """Find ASCII under another name: Typer writes UTF-8 to a stream whose encoding is called ASCII."""
    if name.replace("_", "-") == _ASCII:
        found = codecs.lookup("ascii")
        return codecs.CodecInfo(
            found.encode,
            found.decode,
            found.streamreader,
            found.streamwriter,
            found.incrementalencoder,
            found.incrementaldecoder,
            name=_ASCII,
        )
    return None
