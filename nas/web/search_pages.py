"""The pages of one search: what it is doing, its trials, and its figures."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from nas import counts
from nas.comparison.curves import clock
from nas.comparison.panels import Panel
from nas.comparison.units import cost_name
from nas.costs import COSTS
from nas.errors import NotFound, nearest
from nas.metrics import ALPHA
from nas.queries import paging, searches
from nas.queries.answer import answer, words
from nas.queries.cells import setting
from nas.queries.chosen import apart
from nas.queries.rows import record
from nas.queries.searches import SearchFacts
from nas.settings.paths import flat
from nas.states import SearchState, TrialState
from nas.storage.schema import Search
from nas.storage.store import Store
from nas.web import asked, drawn, figures
from nas.web.links import Links, without
from nas.web.replies import Replies, image, tagged
from nas.web.tables import Sheet, moment, shown

TRIAL_COLUMNS = (
    *("trial", "kind", "state", "score", "ci95", "parameters", "macs", "activations"),
    *("latency", "latency_batch", "seconds", "parent", "finished_at", "architecture", "chosen", "error"),
)


class SearchPages:
    """Pages of one search.

    Args:
        store: what they show; nothing is written but a wish to stop, if `control`.
        links, replies: of the server.
        control: whether a page may ask a search to stop.
    """

    def __init__(self, store: Store, links: Links, replies: Replies, *, control: bool) -> None:
        self._store, self._links, self._replies, self._control = store, links, replies, control

    def search(self, request: Request) -> Response:
        """Show one search."""
        search = named(self._store, request)
        version = searches.version(self._store, search)
        tag = self._replies.tag(request, version)
        if (unchanged := self._replies.unchanged(request, tag)) is not None:
            return unchanged
        query = asked.trials(request.query_params)
        facts = ("facts", search.id)
        found = self._replies.keep(facts, version, lambda: searches.facts(self._store, search), running=False)
        running = found.row.state == SearchState.RUNNING
        told = self._replies.keep(
            ("answer", search.id),
            version,
            lambda: None if len(found.objective) > 1 else answer(self._store, search.name),
            running=running,
        )
        page = paging.page(self._store, search, query)
        failed = [
            paging.page(self._store, search, paging.TrialsQuery(state=state, limit=10))
            for state in (TrialState.FAILED.value, TrialState.INFEASIBLE.value)
            if found.states.get(state)
        ]
        tables = [
            self._trials_table(request, search, query, page),
            *([self._failures(search, failed)] if failed else []),
            self._settings("settings", "Settings", search, found.config),
            self._settings("environment", "What ran it", search, found.environment),
        ]
        return self._replies.page(
            request,
            "search.html",
            tables,
            version,
            title=search.name,
            found=found,
            answer=None if told is None else words(told),
            answer_trial=None if told is None else told.trial,
            left=None if found.left is None else counts.clock(found.left),
            cost=f"{counts.clock(found.row.seconds)} of {clock(search)}",
            done=_share(found),
            moments={"created": moment(found.row.created_at), "finished": moment(found.finished_at)},
            resume=self._links.command(*_resume(found)),
            figures=self._figures(search, found),
            page=page,
            query=query,
            asked=request.query_params,
            states=found.states,
            links=self._turns(request, page),
            setting=setting,
        )

    def _trials_table(
        self, request: Request, search: Search, query: paging.TrialsQuery, page: paging.TrialsPage
    ) -> Sheet:
        rows = tuple(apart(_short(record(row))) for row in page.rows)
        kept = without(request, "after", "before", "last", "sort", "order", "format", "table")
        sorts = {}
        for name in paging.SORTS:
            own = name == query.sort
            falls = not query.descending if own else name in ("score", "trial", "finished_at")
            order = "desc" if falls else "asc"
            sorts[name] = self._links.url("searches", search.name, **kept, sort=name, order=order) + "#trials"
        return Sheet(
            "trials",
            f"Trials: {page.total:,} {'match' if page.total == 1 else 'matches'}",
            shown(TRIAL_COLUMNS, rows),
            rows,
            links={
                "trial": lambda row: self._links.url("searches", search.name, "trials", row["trial"]),
            },
            command=self._links.command("show", search.name),
            sorts=sorts,
            sorted_by=query.sort,
            descending=query.descending,
        )

    def _failures(self, search: Search, pages: Sequence[paging.TrialsPage]) -> Sheet:
        rows = tuple(_short(record(row)) for page in pages for row in page.rows)
        return Sheet(
            "failures",
            "Trials that failed or are infeasible, the last ones",
            ("trial", "state", "attempt", "architecture", "error"),
            rows,
            links={"trial": lambda row: self._links.url("searches", search.name, "trials", row["trial"])},
            command=self._links.command("show", search.name, "--format", "csv"),
        )

    def _settings(self, name: str, caption: str, search: Search, values: Mapping[str, Any]) -> Sheet:
        rows = tuple(
            {"setting": path, "value": setting(value)}
            for path, value in flat(dict(values)).items()
            if value not in (None, [], {})
        )
        command = self._links.command("show", search.name, "--format", "json")
        return Sheet(name, caption, ("setting", "value"), rows, command=command)

    def _figures(self, search: Search, found: SearchFacts) -> list[dict[str, str]]:
        if found.row.best is None and not found.supernet:
            return []
        kinds = {} if found.row.best is None else {"progress": f"Best score so far over {clock(search)}"}
        if drawn.ENTROPY in found.supernet_metrics:
            kinds["entropy"] = "Entropy of softmax(α) over epochs"
        if ALPHA in found.supernet_metrics:
            kinds["alpha"] = "Weights by α over epochs, decision by decision"
        goals = [goal for goal in found.objective if goal in COSTS]
        for cost in dict.fromkeys([*(goals or ["parameters"]), "macs"]):
            if cost in found.costs:
                kinds[f"scatter-{cost}"] = f"Score against {cost_name(cost)}"
        made = []
        for kind, caption in kinds.items():
            place = ("searches", search.name, "figures")
            svg = "" if kind.startswith("scatter") else self._links.url(*place, f"{kind}.svg")
            made.append({"caption": caption, "json": self._links.url(*place, f"{kind}.json"), "svg": svg})
        return made

    def _turns(self, request: Request, page: paging.TrialsPage) -> dict[str, str]:
        """Return the addresses of the other pages of trials."""
        kept = without(request, "after", "before", "last", "format", "table")
        name = request.path_params["name"]

        def to(**where: object) -> str:
            return self._links.url("searches", name, **kept, **where) + "#trials"

        found = {}
        if page.earlier:
            found["First"] = to()
            if page.rows:
                found["Previous"] = to(before=page.rows[0].trial)
        if page.later and page.rows:
            found["Next"] = to(after=page.rows[-1].trial)
            found["Last"] = to(last=1)
        return found

    def figure(self, request: Request) -> Response:
        """Return a figure of a search for the browser to draw."""
        search, kind = named(self._store, request), request.path_params["figure"]
        version = searches.version(self._store, search)
        tag = self._replies.tag(request, version)
        if (unchanged := self._replies.unchanged(request, tag)) is not None:
            return unchanged
        name, _, cost = kind.partition("-")

        def made() -> str:
            if name == "scatter":
                return json.dumps(drawn.scatter(self._store, search, cost))
            return json.dumps(figures.of_panels(self._panels(search, kind)))

        running = searches.state(search) == SearchState.RUNNING
        text = self._replies.keep((kind, search.id), version, made, running=running)
        return tagged(Response(text, media_type="application/json"), tag)

    def picture(self, request: Request) -> Response:
        """Return a figure of a search as a picture, for browsers without JavaScript."""
        search = named(self._store, request)
        panels = self._panels(search, request.path_params["figure"])
        return image(figures.svg(panels, f"{search.name}: {search.task_label}"))

    def _panels(self, search: Search, kind: str) -> list[Panel]:
        made = {"progress": drawn.progress, "entropy": drawn.entropy, "alpha": drawn.alpha}.get(kind)
        if made is None:
            raise NotFound(f"No figure '{kind}'. There are: progress, entropy, alpha, scatter-parameters.")
        return made(self._store, search)

    def stop(self, request: Request) -> Response:
        """Ask a search's driver to stop."""
        search = named(self._store, request)
        if not self._control:
            why = f"This server only shows. `{self._links.command('stop', search.name)}` stops the search."
            return self._replies.refusal(request, why, 403)
        self._store.request_stop(search.id)
        return RedirectResponse(self._links.url("searches", search.name), 303)


def named(store: Store, request: Request) -> Search:
    """Return the search of an address.

    Raises:
        NotFound: there is none of this name.
    """
    name = request.path_params["name"]
    if name == "@last":
        return store.search(name)
    found = store.named(name)
    if found is None:
        raise NotFound(f"No search '{name}'.{nearest(name, store.names())}")
    return found


def _short(row: dict[str, Any]) -> dict[str, Any]:
    return {**row, "error": (row["error"] or "").partition("\n")[0] or None}


def _share(found: SearchFacts) -> float:
    """Return how far a search is, from 0 to 1."""
    seconds = found.config.get("max_seconds")
    part = found.row.seconds / seconds if seconds else found.row.done / max(found.row.trials, 1)
    return 1.0 if found.row.state == SearchState.COMPLETED else min(part, 1.0)


def _resume(found: SearchFacts) -> list[str]:
    more = ["--trials", "+20"] if found.row.state == SearchState.COMPLETED else []
    return ["resume", found.row.search, *more]
