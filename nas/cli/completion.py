"""What the shell completes: names of searches."""

from __future__ import annotations

from typing import Any


def searches(ctx: Any, incomplete: str) -> list[str]:
    """Return the names of searches that begin so, newest first; none where the database cannot be read.

    Args:
        ctx: the command as far as it is typed.
        incomplete: what is typed of the name.
    """
    from nas.storage.store import Store

    try:
        with Store(ctx.params["db"]) as store:
            names = store.names()
    except Exception:  # whatever is wrong, a shell that completes has no place to say it
        return []
    return [name for name in ("@last", *names) if name.startswith(incomplete)]
