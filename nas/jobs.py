"""Searches whose driver runs on a Ray cluster, as a Ray job: submitted, asked about, followed, stopped.

What a job is submitted with can be read by all who list jobs. So it holds no secrets: a driver finds the
database and its password in the environment of the cluster's head.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import shlex
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

from nas import own_code, submission
from nas.errors import ConfigError, NasError, NotFound

if TYPE_CHECKING:
    from ray.job_submission import JobDetails, JobSubmissionClient

CONFIG = "search.toml"
"""The file of the search in the folder that a job runs in."""

SEARCH = "search"
"""Where the metadata of a job names its search."""

EXTRA = "pip install 'nas-service[cluster]'"

_ADDRESS = "RAY_API_SERVER_ADDRESS"
_PAUSE = 1.0
_TALKATIVE = (
    "ray.dashboard.modules.dashboard_sdk",
    "ray.dashboard.modules.job.sdk",
    "ray._private.runtime_env.packaging",
)
"""Loggers that tell of every upload and connection."""


@dataclass(frozen=True, slots=True)
class ClusterJob:
    """A job of a cluster.

    Attributes:
        id: of the job.
        search: that it drives; None: another job of the cluster.
        state: `pending`, `running`, `stopped`, `succeeded` or `failed`.
        began, ended: when; None: not yet.
        message: what Ray says of the state, the end of the log where it failed.
        command: that submitted it; None: another program did.
    """

    id: str
    search: str | None
    state: str
    began: datetime | None
    ended: datetime | None
    message: str
    command: str | None

    @property
    def over(self) -> bool:
        """Whether it has ended."""
        return self.state in ("stopped", "succeeded", "failed")


class Jobs:
    """The Jobs API of a Ray cluster.

    Args:
        address: of the API, such as `http://127.0.0.1:8265`.

    Raises:
        ConfigError: no cluster answers there, it refuses the token, or a package is not installed here.
    """

    def __init__(self, address: str) -> None:
        self._address = address if "://" in address else f"http://{address}"
        self._client: JobSubmissionClient
        with self._asking(), mock.patch.dict(os.environ, {_ADDRESS: self._address}):
            from ray.job_submission import JobSubmissionClient

            self._client = JobSubmissionClient(self._address)
        for name in _TALKATIVE:
            logging.getLogger(name).setLevel(logging.WARNING)

    def submit(self, name: str, config: str, options: list[str], *, needs: list[str], command: str) -> str:
        """Submit the driver of a search, with the user's own modules; return the job's id.

        Submitted again, it goes on with the search.

        Args:
            name: of the search.
            config: its file, as text.
            options: more of `nas run`.
            needs: names of environment variables that the head must have, or the job fails at once.
            command: that submits it again, for the driver to name.
        """
        lacking = "set it in the environment that the head is started in"
        checks = " && ".join(f': "${{{variable}:?{lacking}}}"' for variable in needs)
        driver = ["python", "-m", "nas", "run", CONFIG, "--resume-or-start", name, *options]
        entrypoint = f"{checks} && exec {shlex.join(driver)}" if checks else f"exec {shlex.join(driver)}"
        with tempfile.TemporaryDirectory(prefix="nas-") as text:
            folder = Path(text)
            (folder / CONFIG).write_text(config, encoding="utf-8")
            own_code.copy(folder)
            with self._asking():
                job: str = self._client.submit_job(
                    entrypoint=entrypoint,
                    submission_id=f"{name}-{secrets.token_hex(4)}",
                    runtime_env={"working_dir": text},
                    metadata={SEARCH: name, submission.COMMAND: command},
                )
        return job

    def job(self, job: str) -> ClusterJob:
        """Return what is known of a job.

        Raises:
            NotFound: there is none of this id.
        """
        with self._asking(job):
            return _job(self._client.get_job_info(job))

    def log(self, job: str) -> str:
        """Return what a job has printed so far; it is kept as long as the cluster is.

        Raises:
            NotFound: there is none of this id.
        """
        with self._asking(job):
            text: str = self._client.get_job_logs(job)
        return text

    def follow(self, job: str, tell: Callable[[str], object]) -> ClusterJob:
        """Tell what a job prints from its beginning, until it ends; return what is known of it then.

        Raises:
            NotFound: there is none of this id.
        """
        told = 0
        while True:
            over = self.job(job)
            with self._asking(job):
                told = asyncio.run(_follow(self._client, job, told, tell))
            if over.over:
                return over
            time.sleep(_PAUSE)

    def stop(self, job: str) -> bool:
        """End a job as SIGTERM does; return whether it ran, once it has ended.

        Raises:
            NotFound: there is none of this id.
        """
        with self._asking(job):
            ran: bool = self._client.stop_job(job)
        while not self.job(job).over:
            time.sleep(_PAUSE)
        return ran

    @contextmanager
    def _asking(self, job: str | None = None) -> Iterator[None]:
        """Turn every error of the API into ours."""
        import requests
        from ray.exceptions import AuthenticationError

        try:
            yield
        except AuthenticationError:
            raise ConfigError(
                f"The Ray cluster at {self._address} refuses the token. Set RAY_AUTH_MODE=token, and "
                "RAY_AUTH_TOKEN_PATH to a file with the token that the cluster was started with, or "
                "RAY_AUTH_TOKEN to the token."
            ) from None
        except (ConnectionError, requests.exceptions.RequestException):
            raise ConfigError(
                f"No Jobs API of Ray answers at {self._address}: give --jobs-address http://HEAD:8265 (or "
                f"{_ADDRESS}). A head has one where `{EXTRA}` was run before it was started."
            ) from None
        except RuntimeError as error:
            words = str(error)
            if "ray[default]" in words:
                raise ConfigError(f"Jobs on a Ray cluster need a package more: `{EXTRA}`.") from None
            if job is not None and ("404" in words or "does not exist" in words):
                raise NotFound(f"The cluster at {self._address} has no job '{job}'.") from None
            first = words.strip().splitlines()[0] if words.strip() else type(error).__name__
            raise NasError(f"The Ray cluster at {self._address} says: {first}") from error


async def _follow(client: Any, job: str, told: int, tell: Callable[[str], object]) -> int:
    """Tell what a job's log has beyond so many characters; return how many it has, once it says no more.

    The connection may end before the job does: then it has to be asked for again.
    """
    seen = 0
    lines: AsyncIterator[str] = client.tail_job_logs(job)
    try:
        async for text in lines:
            if new := text[max(told - seen, 0) :]:
                tell(new)
            seen += len(text)
            told = max(told, seen)
    except RuntimeError:  # that it ended
        pass
    return told


def _job(found: JobDetails) -> ClusterJob:
    return ClusterJob(
        found.submission_id or found.job_id or "",
        (found.metadata or {}).get(SEARCH),
        str(found.status.value).lower(),
        _time(found.start_time),
        _time(found.end_time),
        (found.message or "").strip(),
        (found.metadata or {}).get(submission.COMMAND),
    )


def _time(milliseconds: int | None) -> datetime | None:
    return None if not milliseconds else datetime.fromtimestamp(milliseconds / 1000, UTC)
