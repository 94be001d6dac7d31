"""Threads that draw from torch's generators."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch

from nas import chance
from nas.executors.inline import InlineExecutor


class Idle:
    """A workload and a runner that do nothing."""

    done, left = False, 0

    def __init__(self) -> None:
        self.ticked = threading.Event()

    def warm(self) -> None:
        """Do nothing."""

    def next(self) -> None:
        """Return no job."""

    def tick(self) -> None:
        """Take note."""
        self.ticked.set()


def test_an_executor_that_waits_for_its_turn_shows_signs_of_life(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chance, "_WAIT_SECONDS", 0.01)
    idle: Any = Idle()
    with chance.alone():
        thread = threading.Thread(target=InlineExecutor(lambda: idle).run, args=(idle,))
        thread.start()
        assert idle.ticked.wait(30)
        assert thread.is_alive()
    thread.join(30)
    assert not thread.is_alive()


def test_the_last_to_leave_restores_the_generator() -> None:
    before = torch.get_rng_state()
    with chance.undisturbed:
        torch.rand(3)
        within = torch.get_rng_state()
        with chance.undisturbed:
            pass
        assert torch.equal(torch.get_rng_state(), within)
    assert torch.equal(torch.get_rng_state(), before)
