"""Other encodings, closed streams, pipes that nobody reads, full disks: nas prints what they bear."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import SCRIPTED, nas
from grids import rest_slow

from nas.cli import interruption
from nas.cli.main import main

READ = [
    "--help",
    "run --help",
    "ls",
    "ls -f csv",
    "show a",
    "show a/0",
    "leaderboard",
    "compare a b",
    "plot a --text",
    "spaces",
    "spaces few_shot",
    "controllers darts",
    "tasks",
    "learners maml",
    "spaces nowhere",
]
"""Questions, all signs that nas prints among the answers."""


@pytest.fixture(scope="module")
def searches(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with two searches."""
    folder = tmp_path_factory.mktemp("searches")
    db = f"sqlite:///{folder}/nas.db"
    for name in ("a", "b"):
        assert nas("run", *SCRIPTED, "--trials=6", f"--name={name}", f"--db={db}")[0] == 0
    return folder / "nas.db"


@pytest.fixture
def run(searches: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Return what runs the command line here, its stdout and stderr as files of an encoding."""
    monkeypatch.setenv("NAS_DB", f"sqlite:///{searches}")
    monkeypatch.setattr(interruption, "listen", lambda: None)

    def run(
        arguments: str, encoding: str = "utf-8", stdout: int | None = None
    ) -> tuple[object, bytes, bytes]:
        out, err = tmp_path / "out", tmp_path / "err"
        monkeypatch.setattr(sys, "argv", ["nas", *shlex.split(arguments)])
        if stdout is None:
            stdout = os.open(out, os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
        with (
            os.fdopen(stdout, "w", encoding=encoding) as to,
            err.open("w", encoding=encoding) as words,
            monkeypatch.context() as streams,
        ):
            streams.setattr(sys, "stdout", to)
            streams.setattr(sys, "stderr", words)
            with pytest.raises(SystemExit) as end:
                main()
            sys.stdout.flush()
            sys.stderr.flush()
        return end.value.code, out.read_bytes() if out.exists() else b"", err.read_bytes()

    return run


@pytest.mark.parametrize("encoding", rest_slow(["ascii", "cp1252"], ("ascii",)))
@pytest.mark.parametrize("arguments", READ)
def test_every_verb_prints_what_the_encoding_bears(run, arguments: str, encoding: str) -> None:
    code, out, err = run(arguments)
    got = run(arguments, encoding)
    assert code == got[0] == (2 if "nowhere" in arguments else 0)
    for here, there in zip((out, err), got[1:], strict=True):
        text = here.decode()
        plain = there.decode(encoding)
        assert len(plain.splitlines()) == len(text.splitlines())
        if text.isascii():
            assert plain == text


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("0.5 ± 0.1", b"0.5 +/- 0.1"),
        ("α²", b"alpha2"),
        ("é│├…", b"e|+..."),
        ("日本", b"??"),
        ("\udcff", b"\\xff"),
    ],
)
def test_the_nearest_ascii(run, text: str, plain: bytes) -> None:
    assert plain in run(f"spaces {shlex.quote(text)}", "ascii")[2]


def test_a_closed_pipe_is_no_failure_and_closing_words_come(run) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    code, _, err = run("compare a b", stdout=writer)
    assert code == 0
    assert err == run("compare a b")[2] != b""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_under_stdout_is_said(run) -> None:
    code, _, err = run("ls", stdout=os.open("/dev/full", os.O_WRONLY))
    assert (code, err.count(b"\n")) == (1, 1)
    assert b"No space left" in err


@pytest.mark.parametrize("closed", rest_slow([">&-", "2>&-", "<&- >&- 2>&-"], ("<&- >&- 2>&-",)))
def test_closed_streams_cost_nothing(tmp_path: Path, closed: str) -> None:
    """The database must not take their place, or what is printed goes into it."""
    command = shlex.join([sys.executable, "-m", "nas", "run", *SCRIPTED, "--trials=5", "--name=s"])
    done = subprocess.run(
        f"{command} --db sqlite:///{tmp_path}/nas.db {closed}", shell=True, capture_output=True, check=False
    )
    assert done.returncode == 0
    assert bool(done.stdout) == (closed == "2>&-")
    code, out, _ = nas("ls", "-f", "csv", f"--db=sqlite:///{tmp_path}/nas.db")
    assert (code, out.count("completed")) == (0, 1)
