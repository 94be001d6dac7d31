"""Signals: the first one interrupts, a second one ends at once, and what is ignored stays so."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from facts import refusal

from nas.cli import interruption
from nas.cli.interruption import continued_by, listen
from nas.errors import ConfigError, HeadLost, StorageError, Unready

SLOW = """
import time
from nas.cli.interruption import listen
listen()
try:
    print("ready", flush=True)
    time.sleep(100)
except KeyboardInterrupt:
    print("saving", flush=True)
    time.sleep(100)
"""


def test_a_second_signal_ends_at_once_but_not_the_same_one_twice() -> None:
    with subprocess.Popen([sys.executable, "-c", SLOW], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.terminate()
        assert process.stdout.readline() == "saving\n"
        process.terminate()
        time.sleep(2 * interruption.TWICE_SECONDS)
        assert process.poll() is None
        process.terminate()
        assert process.wait(timeout=30) == -signal.SIGTERM


def test_what_is_ignored_stays_ignored() -> None:
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        listen()
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
        assert callable(signal.getsignal(signal.SIGTERM))
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def test_the_command_that_goes_on_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(KeyboardInterrupt), continued_by("nas resume s"):
        raise KeyboardInterrupt
    assert "nas resume s" in capsys.readouterr().err
    with refusal(StorageError, "nas resume s"), continued_by("nas resume s"):
        raise StorageError("The disk is full.")
    with refusal(HeadLost, "nas resume s"), continued_by("nas resume s"):
        raise HeadLost("No answer.")
    with pytest.raises(Unready) as unready, continued_by("nas resume s"):
        raise Unready("node-3", "No data.", 3)
    assert unready.value.exit_code == 3
    assert "node-3" in str(unready.value)
    assert "`nas resume s`" in str(unready.value)
    with pytest.raises(ConfigError) as refused, continued_by("nas resume s"):
        raise ConfigError("No.")
    assert str(refused.value) == "No."


PARENT = """
import subprocess, time
from nas.cli.interruption import leave_if_interrupted, listen
listen()
try:
    subprocess.Popen(["sh", "-c", "setsid sleep 100 & echo $!; wait"])
    time.sleep(100)
except KeyboardInterrupt:
    leave_if_interrupted()
"""


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
def test_what_a_process_started_ends_with_it() -> None:
    with subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        grandchild = Path("/proc") / process.stdout.readline().strip() / "stat"
        assert grandchild.exists()
        process.terminate()
        assert process.wait(timeout=30) == 128 + signal.SIGTERM
        deadline = time.monotonic() + 10
        while grandchild.exists() and " Z " not in grandchild.read_text() and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not grandchild.exists() or " Z " in grandchild.read_text()
