"""The head of a Ray cluster: whether it is there, and whether it lets this process in."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
from facts import refusal

from nas.errors import ConfigError, HeadLost

pytest.importorskip("ray")

from ray.exceptions import AuthenticationError

from nas.executors import ray as on_ray

pytestmark = pytest.mark.ray


@pytest.fixture
def head() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server


def address(server: socket.socket) -> str:
    return f"127.0.0.1:{server.getsockname()[1]}"


def test_a_head_that_is_silent_for_long_is_lost(head: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(on_ray, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    where, watched = address(head), on_ray._Head(address(head))
    watched.check()
    head.close()
    slept = 100.0  # a driver that slept, and whose network is not back at once
    for clock[0] in (1.0, slept, slept + on_ray.HEAD_SECONDS):
        watched.check()
    clock[0] += on_ray.LOOK_SECONDS
    with refusal(HeadLost, where):
        watched.check()


def test_a_head_that_answers_again_is_not_lost(head: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    clock, answers = [0.0], [True, False, True, False, False]
    monkeypatch.setattr(on_ray, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    watched = on_ray._Head(address(head))

    def connect(where: object, timeout: float) -> SimpleNamespace:
        if not answers.pop(0):
            raise OSError("no route")
        return SimpleNamespace(close=lambda: None)

    monkeypatch.setattr(on_ray.socket, "create_connection", connect)
    for clock[0] in (0.0, 20.0, 40.0, 60.0, 80.0):
        watched.check()


def test_a_head_that_cannot_be_asked_from_here_is_not_asked(
    head: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    head.close()
    clock = [0.0]
    monkeypatch.setattr(on_ray, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    watched = on_ray._Head("127.0.0.1:9")
    for clock[0] in (0.0, 100.0, 1000.0):
        watched.check()


def test_a_token_that_the_head_refuses_is_named(
    head: socket.socket, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def refuse(address: str) -> None:
        os.write(2, b"a warning of Ray's own")
        raise AuthenticationError("InvalidAuthToken")

    monkeypatch.setattr(on_ray._RAYLET, "GcsClient", refuse)
    with refusal(ConfigError, "RAY_AUTH_TOKEN"), on_ray.start(address=address(head)):
        pass
    assert capfd.readouterr().err == ""
