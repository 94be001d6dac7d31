"""What Ray tells the driver of a job in its environment: how it was submitted, and what came along."""

from __future__ import annotations

import json
import os
from typing import Any

COMMAND = "command"
"""Where the metadata of a job has the command by which it was submitted."""


def command() -> str | None:
    """Return the command that submitted this process, a driver on a cluster; None: nobody submitted it."""
    said: str | None = _job().get("metadata", {}).get(COMMAND)
    return said


def brought() -> bool:
    """Return whether this process is the driver of a Ray job that came with a folder of its own."""
    return "working_dir" in (_job().get("runtime_env") or {})


def _job() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR") or "{}")
    return found
