"""Addresses of pages, read as queries: a value that is wrong is refused in words."""

from __future__ import annotations

from starlette.datastructures import ImmutableMultiDict

from nas import counts
from nas.costs import COSTS, COUNTED
from nas.errors import ConfigError
from nas.queries import paging
from nas.queries.leaderboard import Query
from nas.states import TrialState

Asked = ImmutableMultiDict[str, str]
"""What stands behind the question mark."""

MOST = 500
"""Rows of a list at most: a page is read by people."""


def trials(asked: Asked) -> paging.TrialsQuery:
    """Return the query in the address of a search.

    Raises:
        ConfigError: a value is none that it may be.
    """
    sort = asked.get("sort") or "trial"
    order = asked.get("order") or ("desc" if sort in ("trial", "score", "finished_at") else "asc")
    return paging.TrialsQuery(
        state=asked.get("state") or None,
        text=asked.get("text") or None,
        limits=_limits(asked),
        sort=sort,
        descending=order == "desc",
        after=_whole(asked, "after"),
        before=_whole(asked, "before"),
        last=bool(asked.get("last")),
    )


def _limits(asked: Asked) -> dict[str, float]:
    found: dict[str, float] = {}
    for name in COSTS:
        text = (asked.get(f"max_{name}") or "").strip()
        if text:
            try:
                found[name] = counts.read(text) if name in COUNTED else float(text)
            except ValueError as error:
                raise ConfigError(f"max_{name}: {error}") from None
    return found


def _whole(asked: Asked, name: str) -> int | None:
    text = asked.get(name)
    if not text:
        return None
    if not (text.isascii() and text.isdecimal() and len(text) <= 18):
        raise ConfigError(f"{name}: '{text}' is no number of a trial.")
    return int(text)


def names(asked: Asked) -> list[str]:
    """Return the references to searches in an address: one or several, or several in one with spaces."""
    return [name for value in asked.getlist("search") for name in value.split()]


def leaderboard(asked: Asked) -> tuple[Query, list[str]]:
    """Return the query of a leaderboard in an address, and the options of `nas leaderboard` that ask it.

    Raises:
        ConfigError: a value is none that it may be.
    """
    limits = _limits(asked)
    single = {name: asked.get(name) or None for name in ("space", "controller", "tasks", "learner", "by")}
    test = asked.get("stage") == "test"
    sort, pareto = asked.get("sort") or "score", asked.get("pareto") or ""
    goals = tuple(part.strip() for part in pareto.split(",") if part.strip())
    lists = {
        name: tuple(part for value in asked.getlist(name) for part in value.split())
        for name in ("search", "state", "where")
    }
    limit = min(_whole(asked, "limit") or 20, MOST)
    query = Query(
        searches=lists["search"],
        **single,
        limits=limits,
        states=lists["state"] or (TrialState.COMPLETED.value,),
        sort=sort,
        limit=limit,
        pareto=goals,
        where=lists["where"],
    )
    options = {f"max-{name.replace('_', '-')}": f"{value:.15g}" for name, value in limits.items()}
    options |= {name: value for name, value in single.items() if value is not None}
    words = [f"--{name}={value}" for name, values in lists.items() for value in values]
    words += [f"--{name}={value}" for name, value in options.items()]
    words += [f"--pareto={','.join(goals)}"] if goals else []
    words += [f"--sort={sort}"] if sort != "score" else []
    words += [f"--limit={limit}"] if limit != 20 else []
    return query, [*words, *(["--stage=test"] if test else [])]
