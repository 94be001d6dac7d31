from __future__ import annotations

import errno
import functools
import hashlib
import http.server
import os
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import platformdirs
import pytest
from facts import refusal

from nas.errors import NasError, UnknownName
from nas.tasks import data, files
from nas.tasks.data import DATASETS, Remote, data_root, fetch, present
from nas.testing.tasks import write_omniglot

BIG = bytes(range(256)) * 4096


class Handler(http.server.SimpleHTTPRequestHandler):
    """Serves a folder in silence and notes what is asked for; `broken.bin` stops halfway."""

    asked: list[str]

    def do_GET(self) -> None:
        self.asked.append(self.path)
        if self.path == "/broken.bin":
            self.send_response(200)
            self.send_header("Content-Length", str(len(BIG)))
            self.end_headers()
            self.wfile.write(BIG[: len(BIG) // 2])
        else:
            super().do_GET()

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def published(tmp_path: Path) -> Path:
    """The served folder."""
    folder = tmp_path / "published"
    folder.mkdir()
    (folder / "big.bin").write_bytes(BIG)
    (folder / "small.txt").write_text("one\ntwo\n")
    return folder


@pytest.fixture
def asked() -> list[str]:
    return []


@pytest.fixture
def url(published: Path, asked: list[str]) -> Iterator[str]:
    handler = type("Noting", (Handler,), {"asked": asked})
    with http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(handler, directory=str(published))
    ) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


@pytest.fixture
def remotes(url: str, monkeypatch: pytest.MonkeyPatch) -> list[Remote]:
    """The files of the data set `toy`, to be changed by a test."""
    listed = [
        Remote("a/big.bin", f"{url}/big.bin", "md5", hashlib.md5(BIG).hexdigest()),
        Remote("small.txt", f"{url}/small.txt", "sha256", hashlib.sha256(b"one\ntwo\n").hexdigest()),
    ]
    monkeypatch.setitem(DATASETS, "toy", listed)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    return listed


@pytest.mark.usefixtures("remotes")
def test_fetch_brings_every_file_and_reports_its_bytes(tmp_path: Path) -> None:
    seen: list[tuple[str, int, int | None]] = []
    fetched = fetch("toy", tmp_path, lambda path, done, total: seen.append((path, done, total)))
    assert fetched == [tmp_path / "toy" / "a" / "big.bin", tmp_path / "toy" / "small.txt"]
    assert fetched[0].read_bytes() == BIG
    assert fetched[1].read_text() == "one\ntwo\n"
    big = [(done, total) for path, done, total in seen if path == "a/big.bin"]
    assert len(big) > 1
    assert [done for done, _ in big] == sorted({done for done, _ in big})
    assert big[-1] == (len(BIG), len(BIG))
    assert {total for _, total in big} == {len(BIG)}
    assert seen[-1] == ("small.txt", 8, 8)
    assert sorted(path.name for path in tmp_path.rglob("*.*") if "toy" in path.parts) == [
        "big.bin",
        "small.txt",
    ]


@pytest.mark.usefixtures("remotes")
def test_what_is_there_and_right_is_not_fetched_again(tmp_path: Path, asked: list[str]) -> None:
    assert not present("toy", tmp_path)
    fetch("toy", tmp_path)
    assert present("toy", tmp_path)
    asked.clear()
    assert fetch("toy", tmp_path) == []
    assert asked == []
    (tmp_path / "toy" / "a" / "big.bin").write_bytes(BIG[:-1])
    assert not present("toy", tmp_path)
    assert fetch("toy", tmp_path) == [tmp_path / "toy" / "a" / "big.bin"]
    assert asked == ["/big.bin"]
    assert (tmp_path / "toy" / "a" / "big.bin").read_bytes() == BIG


def test_an_interrupted_fetch_goes_on_with_the_file_it_was_at(
    tmp_path: Path, remotes: list[Remote], asked: list[str], url: str
) -> None:
    remotes[1] = replace(remotes[1], url=f"{url}/missing.txt")
    with refusal(NasError, "404"):
        fetch("toy", tmp_path)
    remotes[1] = replace(remotes[1], url=f"{url}/small.txt")
    assert fetch("toy", tmp_path) == [tmp_path / "toy" / "small.txt"]
    assert asked == ["/big.bin", "/missing.txt", "/small.txt"]

    def interrupt(path: str, done: int, total: int | None) -> None:
        raise KeyboardInterrupt

    (tmp_path / "toy" / "a" / "big.bin").unlink()
    with pytest.raises(KeyboardInterrupt):
        fetch("toy", tmp_path, interrupt)
    assert list((tmp_path / "toy" / "a").iterdir()) == []


def test_without_a_network_the_error_says_what_to_copy_where(tmp_path: Path, remotes: list[Remote]) -> None:
    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as closed:
        dead = f"http://127.0.0.1:{closed.server_address[1]}"
    remotes[:] = [replace(remote, url=f"{dead}/{remote.path}") for remote in remotes]
    with pytest.raises(NasError) as caught:
        fetch("toy", tmp_path)
    message = str(caught.value)
    assert message.startswith(f"Cannot download {dead}/a/big.bin: ")
    for remote in remotes:
        assert f"{remote.url}\n    to {tmp_path / 'toy' / remote.path}" in message


def test_a_connection_that_breaks_leaves_nothing(tmp_path: Path, remotes: list[Remote], url: str) -> None:
    remotes[0] = replace(remotes[0], url=f"{url}/broken.bin")
    with refusal(NasError, "broken.bin", len(BIG) // 2, len(BIG)):
        fetch("toy", tmp_path)
    assert list((tmp_path / "toy" / "a").iterdir()) == []


def test_a_file_with_another_checksum_is_refused(
    tmp_path: Path, remotes: list[Remote], published: Path
) -> None:
    (published / "small.txt").write_text("one\nTWO\n")
    wrong = hashlib.sha256(b"one\nTWO\n").hexdigest()
    with refusal(NasError, "small.txt", wrong, 8, remotes[1].checksum):
        fetch("toy", tmp_path)
    assert (tmp_path / "toy" / "a" / "big.bin").exists()
    assert [path.name for path in (tmp_path / "toy").iterdir()] == ["a"]


@pytest.mark.usefixtures("remotes")
def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with refusal(NasError, tmp_path / "file" / "toy" / "a" / "big.bin", os.strerror(errno.ENOTDIR)):
        fetch("toy", tmp_path / "file")


@pytest.mark.usefixtures("remotes")
def test_a_full_disk_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: str, done: int, total: int | None) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with refusal(NasError, tmp_path / "toy" / "a" / "big.bin", os.strerror(errno.ENOSPC)):
        fetch("toy", tmp_path, full)
    assert list((tmp_path / "toy" / "a").iterdir()) == []


def test_an_unknown_data_set_is_named() -> None:
    with refusal(UnknownName, "'omniglott'", "'omniglot'"):
        fetch("omniglott")
    with pytest.raises(UnknownName):
        present("cifar")


@pytest.mark.parametrize("zipped", [True, False])
def test_a_copy_is_right_by_its_content(tmp_path: Path, zipped: bool, remotes: list[Remote]) -> None:
    folder = write_omniglot(tmp_path, zipped)
    (folder).rename(tmp_path / "toy")
    name = "images_background.zip"
    remote = Remote(name, "http://127.0.0.1:9/none", "md5", "0" * 32, images=66, classes=11)
    remotes[:] = [remote]
    assert present("toy", tmp_path)
    assert fetch("toy", tmp_path) == []
    for wrong in (replace(remote, images=67), replace(remote, classes=12)):
        remotes[:] = [wrong]
        assert not present("toy", tmp_path)
    remotes[:] = [remote]
    stored = files.stored(tmp_path / "toy" / name)
    assert stored is not None
    if zipped:
        content = stored.read_bytes()
        stored.write_bytes(content[:5000] + bytes(20) + content[5020:])
    else:
        image = next(stored.rglob("*.png"))
        image.write_bytes(image.read_bytes()[:-1])
    assert not present("toy", tmp_path)


def test_names_and_contents_of_zips_and_folders_agree(tmp_path: Path) -> None:
    zipped = write_omniglot(tmp_path / "zip") / "images_background.zip"
    folder = write_omniglot(tmp_path / "folder", zipped=False) / "images_background"
    with zipfile.ZipFile(zipped, "a") as archive:
        archive.writestr("__MACOSX/images_background/Angelic/._character01.png", b"")
        archive.writestr("images_background/readme.txt", b"")
    (folder / "readme.txt").touch()
    assert list(files.contents(zipped)) == list(files.contents(folder))
    assert files.names(zipped) == [name for name, _ in files.contents(zipped)] == files.names(folder)
    assert len(files.names(zipped)) == 66
    assert files.sources(zipped) == [zipped]
    assert len(files.sources(folder)) == 66


def test_the_root_is_nas_data_or_the_users_data_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("NAS_DATA", "~/data")
    assert data_root() == Path.home() / "data"
    monkeypatch.setenv("NAS_DATA", "")
    monkeypatch.setattr(platformdirs, "user_data_path", lambda name: tmp_path / name)
    assert data_root() == tmp_path / "nas"


def test_every_registered_file_has_a_checksum_and_a_place_of_its_own() -> None:
    for remotes in DATASETS.values():
        assert len({remote.path for remote in remotes}) == len(remotes)
        for remote in remotes:
            assert remote.url.startswith("https://")
            assert len(remote.checksum) == remote.hasher().digest_size * 2


def test_the_real_omniglot_is_right(nas_data: Path) -> None:
    if not (nas_data / "omniglot").is_dir():
        pytest.skip(f"needs {nas_data / 'omniglot'}")
    assert present("omniglot", nas_data)


def test_the_hints_name_the_command() -> None:
    assert "`nas data fetch toy`" in str(data.missing("toy", "it is gone"))
