"""How much is kept of what trainings leave behind: all of it, or that of the best."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator

from nas.errors import ConfigError

ALL, TOP = "all", "top:"


def kept(text: str) -> int | None:
    """Return how many of the best are kept; None: all.

    Raises:
        ConfigError: the text is neither `all` nor `top:K`.
    """
    if text == ALL:
        return None
    if not re.fullmatch(rf"{TOP}[1-9]\d{{0,8}}", text):
        raise ConfigError(f"keep: '{text}'; allowed: {ALL}, or {TOP}K, such as {TOP}8.")
    return int(text.removeprefix(TOP))


def _checked(text: str) -> str:
    kept(text)
    return text


Keep = Annotated[str, AfterValidator(_checked)]
"""`all` or `top:K`."""
