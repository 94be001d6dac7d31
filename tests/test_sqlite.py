"""Reading an SQLite database: without write permission, without a trace, and while others write."""

from __future__ import annotations

import os
import shlex
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from command_line import SCRIPTED, nas
from facts import refusal
from grids import rest_slow

from nas.errors import NotFound, StorageError
from nas.storage.sqlite import Written
from nas.storage.store import Store
from nas.testing.stores import search

READ_ONLY = "mount --bind {0} {0} && mount -o remount,ro,bind {0} && "
"""Shell commands after which a folder is on a read-only file system, in a mount namespace of one's own."""

VERBS = (
    ("ls",),
    ("show", "s"),
    ("show", "s/0"),
    ("leaderboard",),
    ("leaderboard", "--stage", "test"),
    ("compare", "s"),
    ("plot", "s", "--text"),
    ("db", "current"),
)

WRITER = """
import sys
from nas.storage.store import Store
from nas.testing.stores import search
with Store(sys.argv[1]) as store:
    search(store, name="live")
    print(flush=True)
    input()
"""

READER = """
import sys
from nas.storage.store import Store
with Store(sys.argv[1]) as store:
    print(*(summary.search.name for summary in store.searches()))
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "a b" / "nas.db"
    path.parent.mkdir()
    assert nas("run", *SCRIPTED, "--trials=4", "--name=s", f"--db=sqlite:///{path}")[0] == 0
    return path


@contextmanager
def writer(path: Path) -> Iterator[subprocess.Popen[str]]:
    """Start a process that has committed a search 'live', and keeps the database open."""
    with subprocess.Popen(
        [sys.executable, "-c", WRITER, f"sqlite:///{path}"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield process


@contextmanager
def nobody() -> Iterator[None]:
    """Be another user for a while."""
    if os.geteuid() != 0:
        pytest.skip("needs the right to become another user")
    os.setegid(65534)
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)


def contents(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Return what a folder holds, and when each file was changed."""
    return {file.name: (file.read_bytes(), file.stat().st_mtime_ns) for file in folder.iterdir()}


def names(path: Path) -> list[str]:
    with Store(f"sqlite:///{path}") as store:
        return [summary.search.name for summary in store.searches()]


@pytest.mark.parametrize("verb", VERBS, ids=" ".join)
def test_reading_changes_nothing(path: Path, verb: tuple[str, ...]) -> None:
    before = contents(path.parent)
    folder = path.parent.stat().st_mtime_ns
    assert nas(*verb, "--db", f"sqlite:///{path}")[0] == 0
    assert contents(path.parent) == before
    assert path.parent.stat().st_mtime_ns == folder


@pytest.mark.parametrize(
    "verb", [*VERBS, ("export", "s/0", "-o", "a.pt"), ("resume", "s"), ("rm", "s")], ids=" ".join
)
def test_what_does_not_create_makes_no_file(tmp_path: Path, verb: tuple[str, ...]) -> None:
    assert nas(*verb, "--db", f"sqlite:///{tmp_path}/nope.db")[0] == 3
    with pytest.raises(NotFound):
        Store(f"sqlite:///{tmp_path}/nope.db")
    assert list(tmp_path.iterdir()) == []


def test_a_database_in_another_journal_mode_stays_in_it_until_it_is_written(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA journal_mode = DELETE")
    connection.close()
    before = contents(path.parent)
    assert names(path) == ["s"]
    assert contents(path.parent) == before
    with Store(f"sqlite:///{path}") as store:
        search(store)
    assert path.read_bytes()[18:20] == b"\2\2"


def test_what_a_killed_writer_left_is_read_as_it_is(path: Path) -> None:
    with writer(path) as process:
        process.kill()
    before = contents(path.parent)
    assert set(before) == {"nas.db", "nas.db-shm", "nas.db-wal"}
    assert names(path) == ["live", "s"]
    assert {name: before[name] for name in ("nas.db", "nas.db-wal")}.items() <= contents(path.parent).items()
    (path.parent / "nas.db-shm").unlink()
    with refusal(StorageError, "nas db upgrade"):
        names(path)
    assert nas("db", "upgrade", "--db", f"sqlite:///{path}")[0] == 0
    assert names(path) == ["live", "s"]


def test_a_reader_sees_what_was_written_since(path: Path) -> None:
    with Store(f"sqlite:///{path}") as reader:
        assert len(reader.searches()) == 1
        with Store(f"sqlite:///{path}") as other:
            search(other)
            assert len(reader.searches()) == 2
        assert len(reader.searches()) == 2
        search(reader)
        assert len(reader.searches()) == 3


def test_a_reader_says_so_where_what_it_reads_is_written_under_it(path: Path) -> None:
    def read_and_write(reader: Store) -> None:
        with reader.read(), Store(f"sqlite:///{path}") as other:
            search(other)

    with Store(f"sqlite:///{path}") as reader:
        with refusal(Written, path):
            read_and_write(reader)
        assert len(reader.searches()) == 2


@pytest.mark.parametrize("mode", rest_slow([0o444, 0o644], [0o644]), ids=oct)
def test_another_user_reads_and_leaves_nothing_behind(path: Path, mode: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o777)
        mine = Path(shutil.copy(path, folder))
        mine.chmod(mode)
        with nobody():
            assert nas("ls", "--db", f"sqlite:///{mine}")[0] == 0
            assert list(folder.iterdir()) == [mine]
            with Store(f"sqlite:///{mine}") as store, refusal(StorageError, mine):
                search(store)
            assert list(folder.iterdir()) == [mine]
        with writer(mine) as process:
            with nobody():
                assert names(mine) == ["live", "s"]
            process.communicate("\n")
        assert process.returncode == 0
        assert {file.stat().st_uid for file in folder.iterdir()} == {0}
        with Store(f"sqlite:///{mine}") as store:
            search(store)


def test_a_folder_that_nobody_else_may_enter_is_named(path: Path) -> None:
    path.parent.chmod(0o700)
    with nobody():
        code, _, errors = nas("ls", "--db", f"sqlite:///{path}")
    assert code == 4
    assert str(path) in errors


def test_a_read_only_file_system_is_read(path: Path) -> None:
    reader = sys.executable, "-c", READER, f"sqlite:///{path}"
    mount = READ_ONLY.format(shlex.quote(str(path.parent)))
    if subprocess.run(["unshare", "--mount", "sh", "-c", mount + "true"], capture_output=True).returncode:
        pytest.skip("needs the right to mount")
    for live in (False, True):
        if live:
            with writer(path) as process:
                process.kill()
        result = subprocess.run(
            ["unshare", "--mount", "sh", "-c", mount + 'exec "$@"', "", *reader],
            capture_output=True,
            text=True,
        )
        assert (result.stdout.split(), result.stderr) == (["live", "s"] if live else ["s"], "")
