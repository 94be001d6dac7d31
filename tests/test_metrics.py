"""`--metrics`: what a driver tells Prometheus, by scraping it."""

from __future__ import annotations

import socket
import sys
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest
from command_line import SCRIPTED, nas
from facts import refusal
from prometheus_client.parser import text_string_to_metric_families

from nas.errors import ConfigError
from nas.progress import metrics
from nas.progress.metrics import LOCAL, address
from nas.storage.store import Store

Samples = dict[tuple[str, str], float]
"""Values by the name of the metric and its state or kind."""


@pytest.fixture
def port() -> int:
    with socket.socket() as free:
        free.bind((LOCAL, 0))
        return int(free.getsockname()[1])


def scrape(port: int) -> Samples:
    with urlopen(f"http://{LOCAL}:{port}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    return {
        (sample.name, sample.labels.get("state", sample.labels.get("kind", ""))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.labels.get("search", "s") == "s" and not sample.name.endswith("_bucket")
    }


def test_what_is_scraped_is_what_happened(db: Path, port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once while the third trial is recorded, once after a resume; the second fails once, then for good."""
    seen: list[Samples] = []
    recorded = metrics._Metrics.recorded

    def scraped(self: Any, number: int, outcome: Any) -> None:
        recorded(self, number, outcome)
        seen.append(scrape(port))

    monkeypatch.setattr(metrics._Metrics, "recorded", scraped)
    faults = ('--set=evaluator.faults={1="raise"}', "--set=retries=1", "--set=max_failed=1")
    run = ("run", *SCRIPTED, "--trials=3", "--name=s", f"--metrics={port}", *faults)
    assert nas(*run)[0] == 0
    with Store(f"sqlite:///{db}") as store:
        scores = [trial.score or 0.0 for trial in store.trials(store.search("s").id)]
        created = store.search("s").created_at.timestamp()
    first, second, third = seen
    assert [found["nas_trials", "completed"] for found in seen] == [1, 1, 2]
    assert [found["nas_trials", "failed"] for found in seen] == [0, 1, 1]
    assert [found["nas_trial_retries_total", ""] for found in seen] == [0, 1, 1]
    assert [found["nas_best_score", ""] for found in seen] == pytest.approx(
        [scores[0], scores[0], max(scores)]
    )
    assert (first["nas_trials_planned", ""], first["nas_slots", ""], first["nas_slots_busy", ""]) == (3, 1, 0)
    assert third["nas_search_created_time_seconds", ""] == pytest.approx(created)
    assert (
        third["nas_sign_of_life_time_seconds", ""] >= third["nas_driver_start_time_seconds", ""] > created - 1
    )
    for kind in ("read", "write"):
        assert third["nas_database_seconds_count", kind] > first["nas_database_seconds_count", kind] - 1
        assert third["nas_database_seconds_sum", kind] > 0
    assert third["nas_database_seconds_count", "write"] > first["nas_database_seconds_count", "write"]
    assert second["nas_trials", "running"] == 0
    seen.clear()
    assert nas("resume", "s", "--trials=+1", f"--metrics={port}")[0] == 0
    [last] = seen
    assert (last["nas_trials", "completed"], last["nas_trials", "failed"]) == (3, 1)
    with pytest.raises(OSError, match="refused"):
        scrape(port)


def test_busy_slots_are_counted(db: Path, port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Samples] = []
    started = metrics._Metrics.started

    def scraped(self: Any, job: Any) -> None:
        started(self, job)
        seen.append(scrape(port))

    monkeypatch.setattr(metrics._Metrics, "started", scraped)
    assert nas("run", *SCRIPTED, "--trials=1", "--name=s", f"--metrics={LOCAL}:{port}")[0] == 0
    [found] = seen
    assert (found["nas_slots_busy", ""], found["nas_trials", "running"]) == (1, 1)


def test_a_port_that_is_taken_is_refused(db: Path, port: int) -> None:
    with socket.socket() as taken:
        taken.bind((LOCAL, port))
        taken.listen()
        code, _, err = nas("run", *SCRIPTED, "--trials=1", "--name=s", f"--metrics={port}")
    assert (code, str(port) in err) == (2, True)
    assert not db.exists()  # no search is left that is named and was never begun


def test_addresses_are_local_unless_told() -> None:
    assert address("9464") == (LOCAL, 9464)
    assert address("0.0.0.0:9464") == ("0.0.0.0", 9464)
    assert address("[::1]:1") == ("::1", 1)
    for wrong in ("", "x", "host:"):
        with refusal(ConfigError, "--metrics", "PORT"):
            address(wrong)
    for wrong in ("99999", "1:99999"):
        with refusal(ConfigError, f"--metrics {wrong}", 65535):
            address(wrong)


def test_the_extra_is_named_where_it_is_not_installed(db: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    code, _, err = nas("run", *SCRIPTED, "--trials=1", "--name=s", "--metrics=0")
    assert (code, "nas-service[metrics]" in err) == (2, True)
    assert not db.exists()
