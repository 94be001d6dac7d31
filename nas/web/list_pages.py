"""The pages of many searches: their list, the leaderboard, and a comparison."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from nas.comparison.comparison import Comparison, compare
from nas.comparison.groups import find
from nas.comparison.series import anytime
from nas.costs import COSTS
from nas.queries import boards, searches
from nas.queries.leaderboard import SORTS, TEST_SORTS
from nas.queries.rows import record
from nas.queries.searches import SearchesQuery
from nas.states import SearchState, TrialState
from nas.storage.store import Store
from nas.web import asked
from nas.web.links import Links
from nas.web.replies import Replies
from nas.web.tables import Sheet, shown

SEARCH_COLUMNS = (
    *("search", "state", "done", "trials", "failed", "best", "ci95", "seconds", "controller"),
    *("space", "task", "learner", "seed", "created_at", "sign_of_life", "note"),
)


class ListPages:
    """Pages of many searches.

    Args:
        store: what they show.
        links, replies: of the server.
    """

    def __init__(self, store: Store, links: Links, replies: Replies) -> None:
        self._store, self._links, self._replies = store, links, replies

    def searches(self, request: Request) -> Response:
        """Show the list of searches."""
        given = request.query_params
        query = SearchesQuery(
            state=given.get("state") or None,
            space=given.get("space") or None,
            controller=given.get("controller") or None,
            tasks=given.get("tasks") or None,
            text=given.get("text") or None,
            before=given.get("before") or None,
        )
        page = searches.page(self._store, query)
        rows = tuple(record(row) for row in page.rows)
        table = Sheet(
            "searches",
            "Searches, newest first",
            shown(SEARCH_COLUMNS, rows),
            rows,
            links={"search": lambda row: self._links.url("searches", row["search"])},
            command=self._links.command("ls", "--limit", "0"),
        )
        older = None
        if page.more and page.rows:
            kept = {key: value for key, value in given.items() if key != "before"}
            older = self._links.url("", **kept, before=page.rows[-1].search)
        names = searches.values(self._store, "controller", "space", "tasks")
        states = [state.value for state in SearchState]
        return self._replies.page(
            request,
            "searches.html",
            [table],
            title="Searches",
            asked=request.query_params,
            choices={"state": states, **names},
            total=page.total,
            older=older,
            first=bool(query.before),
        )

    def leaderboard(self, request: Request) -> Response:
        """Show the best trials, or test scores, of all searches."""
        test = request.query_params.get("stage") == "test"
        query, command = asked.leaderboard(request.query_params)
        found: Sequence[boards.Board[Any]] = (boards.tests if test else boards.trials)(self._store, query)
        tables = []
        for number, board in enumerate(found):
            columns, rows = boards.listed(board, headed=True)
            columns = [name for name in columns if any(row.get(name) not in (None, "") for row in rows)]
            tables.append(
                Sheet(
                    f"board{number + 1}",
                    " · ".join(boards.common(board)),
                    tuple(columns),
                    tuple(rows),
                    links={"trial": self._links.trial, "search": self._links.search},
                    command=self._links.command("leaderboard", *command),
                )
            )
        names = searches.values(self._store, "space", "controller", "tasks", "learner")
        return self._replies.page(
            request,
            "leaderboard.html",
            tables,
            title="Leaderboard",
            asked=request.query_params,
            choices=names,
            states=[state.value for state in TrialState],
            sorts=sorted({*SORTS, *(TEST_SORTS if test else ())}),
            test=test,
            costs=COSTS,
            command=self._links.command("leaderboard", *command),
        )

    def compare(self, request: Request) -> Response:
        """Show searches side by side at equal cost."""
        names = asked.names(request.query_params)
        if not names:
            return self._replies.page(
                request, "compare.html", [], title="Compare", names="", found=None, figure=None, command=None
            )
        found = self._compared(names)
        rows = tuple(found.records())
        wanted = (
            *("group", "space", "searches", "trials", "reused", "score", "score_std", "score_ci95"),
            *("p_score", "test", "test_std", "test_ci95", "p_test", "rho", "pairs"),
        )
        table = Sheet(
            "groups",
            f"{found.task}: best score so far, mean over searches",
            tuple(name for name in wanted if any(_known(row.get(name)) for row in rows)),
            tuple({key: value if _known(value) else None for key, value in row.items()} for row in rows),
            command=self._links.command("compare", *names),
        )
        return self._replies.page(
            request,
            "compare.html",
            [table],
            title="Compare",
            names=" ".join(names),
            found=found,
            figure={
                "caption": "Best score so far, with the 95 % interval of the mean",
                "json": self._links.url("compare", "curves.json", search=names),
                "svg": self._links.url("compare", "curves.svg", search=names),
            },
            command=self._links.command("plot", *names, "--text"),
        )

    def compared(self, request: Request) -> Response:
        """Return the curves of a comparison as a figure."""
        equal = self._compared(asked.names(request.query_params)).equal
        return self._replies.drawn(
            request, anytime(equal.groups, equal.curves, equal.cost), "Best score so far"
        )

    def _compared(self, names: list[str]) -> Comparison:
        """Return searches side by side, as they were when one of them last changed."""
        chosen = find(self._store, names)
        version = tuple(searches.version(self._store, search) for search in chosen)
        running = any(searches.state(search) == SearchState.RUNNING for search in chosen)
        return self._replies.keep(
            ("compare", *names), version, lambda: compare(self._store, chosen), running=running
        )


def _known(value: object) -> bool:
    return value is not None and not (isinstance(value, float) and math.isnan(value))
