"""`--log-format json`: one event a line, each with its time; and the times of plain lines."""

from __future__ import annotations

import itertools
import json
import re
import signal
import socket
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from command_line import SCRIPTED, nas, process, start

from nas.progress.events import FIELDS, Event, line
from nas.storage.store import Store

HERE = Path(__file__).parent.parent
DATED = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}[+-]\d\d:\d\d ")
JSON = "--log-format=json"
TRAINED = ("--space=mlp", "--tasks=sinusoid", "--learner=maml", "--executor=inline")
SHORT = ("--set=budget.train_episodes=10", "--set=budget.validation_episodes=4")


def told(text: str) -> list[dict[str, Any]]:
    """Return the events of a stream, each line one, with no field that its kind has not."""
    found = [json.loads(one) for one in text.splitlines()]
    for event in found:
        moment = datetime.fromisoformat(event["time"])
        assert moment.utcoffset() is not None
        assert abs(datetime.now(UTC) - moment) < timedelta(minutes=5)
        assert event.keys() - {"time", "event"} <= set(FIELDS[Event(event["event"])]), event
    return found


def of(kind: Event, events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [event for event in events if event["event"] == kind]


def test_a_search_tells_what_becomes_of_each_trial(db: Path) -> None:
    code, _, err = nas("run", *TRAINED, *SHORT, "--controller=random", "--trials=2", "--name=s", JSON)
    assert code == 0
    events = told(err)
    [began], [ended] = of(Event.SEARCH_STARTED, events), of(Event.SEARCH_ENDED, events)
    assert (began["search"], began["done"], began["total"], began["seed"]) == ("s", 0, 2, 0)
    assert (ended["state"], ended["done"], ended["failed"]) == ("completed", 2, 0)
    trials = of(Event.TRIAL_ENDED, events)
    assert [(trial["search"], trial["trial"], trial["attempt"], trial["state"]) for trial in trials] == [
        ("s", 0, 0, "completed"),
        ("s", 1, 0, "completed"),
    ]
    assert {trial["node"] for trial in trials} == {socket.gethostname()}
    with Store(f"sqlite:///{db}") as store:
        rows = store.trials(store.search("s").id)
    assert [trial["score"] for trial in trials] == [row.score for row in rows]
    assert ended["best"]["score"] == max(row.score or -9 for row in rows)
    assert [event["trial"] for event in of(Event.TRIAL_STARTED, events)] == [0, 1]
    reports = of(Event.TRIAL_REPORTED, events)
    assert [set(event["measured"]) for event in reports[:1]] == [{"train_loss"}]
    times = {number: [] for number in (0, 1)}
    for event in reports:
        times[event["trial"]].append(datetime.fromisoformat(event["time"]))
    for own in times.values():
        assert own
        assert all(later - before > timedelta(seconds=0.9) for before, later in itertools.pairwise(own))
    assert any("nas show s" in event["text"] for event in of(Event.MESSAGE, events))


def test_a_failure_is_told_with_its_attempt_and_error(db: Path) -> None:
    code, _, err = nas(
        "run",
        *SCRIPTED,
        "--trials=1",
        "--name=s",
        '--set=evaluator.faults={0="raise"}',
        "--set=retries=1",
        JSON,
    )
    events = told(err.partition("error: ")[0])  # which `main` tells
    [again], [ended] = of(Event.TRIAL_RETRIED, events), of(Event.TRIAL_ENDED, events)
    assert (again["attempt"], ended["attempt"], ended["state"]) == (0, 1, "failed")
    assert again["error"] == ended["error"]
    assert ended["error"]
    assert of(Event.SEARCH_ENDED, events)[0]["state"] == "failed"
    assert code == 5


@pytest.mark.usefixtures("few_test_tasks")
def test_evaluations_tell_their_scores_and_that_they_were_there(db: Path) -> None:
    ask = ("evaluate", "mlp:maml", "--tasks=sinusoid", "--learner=maml", "--seeds=1", "--executor=inline")
    ask += ("--train-episodes=10", "--validate-every=5", "--validation-episodes=4")
    code, out, err = nas(*ask, "-f", "json", JSON)
    assert code == 0
    events, [result] = told(err), json.loads(out)
    [ended] = of(Event.EVALUATION_ENDED, events)
    assert (ended["state"], ended["seed"], ended["attempt"]) == ("completed", 0, 0)
    assert (ended["done"], ended["total"], ended["node"]) == (1, 1, socket.gethostname())
    assert ended["test_score"] == pytest.approx(result["test_score"])
    reports = of(Event.EVALUATION_REPORTED, events)
    curve = [event["train_episodes"] for event in reports if "validation_score" in event]
    assert curve == [5, 10]
    [again] = of(Event.EVALUATION_ENDED, told(nas(*ask, JSON)[2]))
    assert (again["reused"], again["evaluation"]) == ("by this code", ended["evaluation"])


def test_an_error_and_a_signal_are_events_too(tmp_path: Path) -> None:
    url = f"--db=sqlite:///{tmp_path}/nas.db"
    code, _, err = process("resume", "nothing", JSON, url, folder=tmp_path)
    [error] = told(err)
    assert (code, error["event"], error["code"]) == (3, Event.ERROR, 3)
    slow = ("run", *SCRIPTED, "--set=evaluator.seconds=60", "--trials=2", "--name=s", JSON, url)
    lines = []
    with start(*slow, folder=tmp_path) as running:
        assert running.stderr is not None
        for one in running.stderr:
            lines.append(one)
            if json.loads(one)["event"] == Event.TRIAL_STARTED:
                running.send_signal(signal.SIGTERM)
    assert running.returncode == 128 + signal.SIGTERM
    events = told("".join(lines))
    assert [event["signal"] for event in of(Event.INTERRUPTED, events)] == ["SIGTERM"]
    assert "nas resume s" in of(Event.MESSAGE, events)[-1]["text"]


def test_a_lost_database_is_told_in_time(tmp_path: Path) -> None:
    """What is logged, as of an outage, is an event, or has its time."""
    script = (
        "import logging, sys; from nas.cli import messages, output; output.tell_what_is_logged();"
        "messages.log_as(messages.LogFormat(sys.argv[1])); logging.getLogger('x').warning('warning: away')"
    )

    def logged(form: str) -> str:
        done = subprocess.run([sys.executable, "-c", script, form], capture_output=True, text=True, cwd=HERE)
        return done.stderr

    [event] = told(logged("json"))
    assert (event["level"], event["text"]) == ("warning", "away")
    assert DATED.sub("", logged("text")) == "warning: away\n"
    assert DATED.match(logged("text"))


def test_plain_lines_of_progress_have_their_time(db: Path) -> None:
    code, _, err = nas("run", *SCRIPTED, "--trials=2", "--name=s")
    lines = [one for one in err.splitlines() if " completed " in one]
    assert (code, len(lines)) == (0, 2)
    assert all(DATED.match(one) for one in lines)


def test_progress_tells_how_long_a_training_was_that_was_to_be_short(db: Path) -> None:
    budget = ("--set=budget.train_episodes=90", "--scheduler=promotion")
    _, _, err = nas("run", *SCRIPTED, *budget, "--trials=12", "--name=s")
    told = re.findall(r"trial (\d+) paused .* after (\d+) episodes", err)
    with Store(f"sqlite:///{db}") as store:
        rows = store.trials(store.search("s").id)
    paused = [(str(row.number), str(row.train_episodes)) for row in rows if row.state == "paused"]
    assert sorted(told) == sorted(paused) != []


def test_a_line_has_no_number_that_json_lacks() -> None:
    event = json.loads(
        line(Event.TRIAL_ENDED, search="s", ci95=float("nan"), error="a\nb", best={"ci95": 1.0})
    )
    assert "ci95" not in event
    assert event["error"] == "a\nb"
    assert event["best"] == {"ci95": 1.0}
    with pytest.raises(AssertionError):
        line(Event.MESSAGE, score=1)


def test_every_event_and_field_is_documented() -> None:
    page = (HERE / "docs" / "howto" / "operate.md").read_text()
    rows = dict(re.findall(r"^\| `(\w+)` \| (.*) \|$", page, re.MULTILINE))
    assert {event.value: set(fields) for event, fields in FIELDS.items()} == {
        event.value: set(re.findall(r"`(\w+)`", rows[event.value])) for event in Event
    }
