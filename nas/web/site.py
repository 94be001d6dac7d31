"""The site: which page has which address, and what is in front of all."""

from __future__ import annotations

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from nas.storage.store import Store
from nas.web import assets
from nas.web.guard import Guard, Rules
from nas.web.links import Links
from nas.web.list_pages import ListPages
from nas.web.replies import Page, Replies
from nas.web.search_pages import SearchPages
from nas.web.trial_pages import TrialPages


class Site:
    """All pages of one database.

    Args:
        store: what they show; nothing is written but a wish to stop, if `control`.
        db: its URL as commands name it; None: the one that they ask anyway.
        prefix: of all addresses, as `/nas`, or nothing.
        control: whether a page may ask a search to stop.
    """

    def __init__(
        self, store: Store, *, db: str | None = None, prefix: str = "", control: bool = False
    ) -> None:
        links = Links(prefix, db)
        self._replies = Replies(links, control=control)
        self._lists = ListPages(store, links, self._replies)
        self._search = SearchPages(store, links, self._replies, control=control)
        self._trial = TrialPages(store, links, self._replies)

    def app(self, rules: Rules) -> ASGIApp:
        """Return what answers requests that meet the rules."""
        search, trial = "/searches/{name}", "/searches/{name}/trials/{number:int}"
        pages: dict[str, Page] = {
            "/": self._lists.searches,
            search: self._search.search,
            f"{search}/figures/{{figure}}.json": self._search.figure,
            f"{search}/figures/{{figure}}.svg": self._search.picture,
            trial: self._trial.trial,
            f"{trial}/layers": self._trial.layers,
            f"{trial}/curves.json": self._trial.curves,
            f"{trial}/curves.svg": self._trial.curves,
            f"{trial}/drawing.svg": self._trial.drawing,
            "/leaderboard": self._lists.leaderboard,
            "/compare": self._lists.compare,
            "/compare/curves.json": self._lists.compared,
            "/compare/curves.svg": self._lists.compared,
            "/assets/{version}/{file}": _asset,
        }
        answered = self._replies.answered
        routes = [Route(path, answered(page)) for path, page in pages.items()]
        routes.append(Route(f"{search}/stop", answered(self._search.stop), methods=["POST"]))
        app = Starlette(routes=routes, exception_handlers={HTTPException: self._replies.unknown})
        app.add_middleware(GZipMiddleware, minimum_size=1000)
        return Guard(app, rules)


def _asset(request: Request) -> Response:
    """Return a script or a style sheet."""
    return assets.response(request.path_params["file"])
