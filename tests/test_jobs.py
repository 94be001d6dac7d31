"""Searches whose driver is a Ray job: what is refused, and how a log is followed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest
from command_line import nas
from facts import lacking

pytest.importorskip("ray")

from nas import jobs

NOWHERE = "--jobs-address=http://127.0.0.1:9"
SEARCH = """
space = "nas.testing.toys:Toy"
controller = "random"
tasks = "sinusoid"
learner = "maml"
evaluator = "nas.testing.evaluators:Scripted"
workers = 2
"""

pytestmark = pytest.mark.ray


@pytest.fixture
def config(db: Path, tmp_path: Path) -> str:
    (tmp_path / "search.toml").write_text(SEARCH)
    return "search.toml"


@pytest.mark.parametrize(
    ("options", "facts"),
    [
        (["--db=postgresql://nas:hidden@host/nas"], ["--db", "NAS_DB", "PGPASSFILE"]),
        (["--db=postgresql://nas@host/nas?password=hidden"], ["--db", "NAS_DB"]),
        (["--db=postgresql://nas@host/nas?sslpassword=hidden"], ["--db", "NAS_DB"]),
        (["--set=executor=process"], ["executor", "process", "ray"]),
        (["--set=tasks.way=3"], ["way"]),
        (["--name=a b"], ["a b"]),
        ([], ["--jobs-address", "RAY_API_SERVER_ADDRESS"]),
    ],
    ids=["password", "password of the query", "password of a key", "executor", "setting", "name", "address"],
)
def test_what_cannot_run_is_not_submitted(config: str, options: list[str], facts: list[str]) -> None:
    code, out, err = nas("submit", config, *options, NOWHERE)
    if not options and "nas-service[cluster]" in err:
        facts = []  # the client is not installed here
    assert (code, out, lacking(err, *facts)) == (2, "", []), err
    assert "hidden" not in err


def test_the_number_of_workers_has_to_be_said(config: str) -> None:
    Path(config).write_text(SEARCH.replace("workers = 2\n", ""))
    code, _, err = nas("submit", config, NOWHERE)
    assert (code, lacking(err, "--workers")) == (2, [])


@pytest.mark.parametrize("verb", ["status", "logs", "stop"])
def test_where_no_cluster_answers_a_line_says_so(verb: str) -> None:
    code, _, err = nas("job", verb, "some", NOWHERE)
    assert code == 2
    assert "nas-service[cluster]" in err
    assert len(err.splitlines()) == 1


def test_who_stops_following_is_told_where_the_job_is(monkeypatch: pytest.MonkeyPatch) -> None:
    def follow(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(jobs, "Jobs", lambda address: SimpleNamespace(follow=follow))
    code, _, err = nas("job", "logs", "--follow", "s-1", NOWHERE)
    assert (code, lacking(err, f"nas job stop s-1 {NOWHERE.replace('=', ' ')}")) == (0, [])


class Log:
    """A client whose connection ends after some characters, and is asked for again."""

    def __init__(self, text: str, cuts: Sequence[int]) -> None:
        self._text, self._cuts = text, list(cuts)

    async def tail_job_logs(self, job: str) -> AsyncIterator[str]:
        cut = self._cuts.pop(0)
        for start in range(0, cut, 3):
            yield self._text[start : min(start + 3, cut)]
        if cut < len(self._text):
            raise RuntimeError("WebSocket connection closed unexpectedly")


@pytest.mark.parametrize("cuts", [[20], [7, 20], [7, 5, 20], [0, 1, 2, 19, 20]])
def test_a_log_is_told_once_however_often_the_connection_ends(cuts: list[int]) -> None:
    text, told, heard = "".join(map(chr, range(97, 117))), 0, list[str]()
    client = Log(text, cuts)
    for _ in cuts:
        told = asyncio.run(jobs._follow(client, "job", told, heard.append))
    assert ("".join(heard), told) == (text, 20)


def test_a_job_is_told_in_our_words() -> None:
    found = SimpleNamespace(
        submission_id="s-1",
        job_id="01",
        metadata={"search": "s"},
        status=SimpleNamespace(value="FAILED"),
        start_time=1000,
        end_time=None,
        message="It failed.\n",
    )
    job = jobs._job(found)  # type: ignore[arg-type]
    assert (job.id, job.search, job.state, job.message, job.over) == (
        "s-1",
        "s",
        "failed",
        "It failed.",
        True,
    )
    assert (job.began is not None and job.began.timestamp(), job.ended) == (1.0, None)
