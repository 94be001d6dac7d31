"""How pages are answered: templates, versions, what is kept of a server's work, and errors in words."""

from __future__ import annotations

import hashlib
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from threading import Lock
from typing import Any, TypeVar
from urllib.parse import quote, urlencode

from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

import nas
from nas.comparison.panels import Panel
from nas.errors import ConfigError, NasError, NotFound, StorageError
from nas.queries.cells import cell
from nas.storage.sqlite import TRIES, Written
from nas.web import assets, figures
from nas.web.links import Links
from nas.web.tables import Sheet

SHARE = 0.01
"""Of the time, what a page that refreshes itself takes of the server at most."""

EVERY = 2.0
"""Seconds between two looks of a page at least."""

KEPT = 64
"""Results that take long and are kept until something changes."""

IMAGE_POLICY = "default-src 'none'; style-src 'unsafe-inline'"
"""Of a drawing: it has its own styles, and nothing else."""

Found = TypeVar("Found")

Page = Callable[[Request], Response]
"""Answers a request, or raises an error of ours."""


class Replies:
    """Answers of one server, each with a version, so that nothing is sent twice.

    Args:
        links: of its pages.
        control: whether a page may ask a search to stop.
    """

    def __init__(self, links: Links, *, control: bool = False) -> None:
        self._links = links
        self._run = secrets.token_hex(4)
        self._kept: OrderedDict[object, tuple[object, float, float, Any]] = OrderedDict()
        self._lock = Lock()
        self._plotly = assets.version()
        self._pages = Environment(
            loader=FileSystemLoader(Path(__file__).parent / "templates"),
            autoescape=select_autoescape(default=True),
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._pages.globals.update(
            styled=assets.styled_by_plotly(),
            url=links.url,
            version=nas.__version__,
            plotly=self._plotly,
            control=control,
            cell=cell,
        )

    def answered(self, page: Page) -> Page:
        """Return a page that answers every error of ours in words."""

        def answered(request: Request) -> Response:
            began = time.perf_counter()
            try:
                response = self._again(page, request)
            except NasError as error:
                return self.refusal(request, str(error), _status(error))
            except OSError as error:  # the file of a database that is gone
                return self.refusal(request, f"{error.strerror}: {error.filename}.", 503)
            took = time.perf_counter() - began
            response.headers["Nas-Next"] = f"{max(EVERY, took / SHARE):.1f}"
            return response

        return answered

    def _again(self, page: Page, request: Request) -> Response:
        """Return a page; a file that was written while it was read is read again."""
        for _ in range(TRIES - 1):
            with suppress(Written):
                return page(request)
        return page(request)

    def refusal(self, request: Request, why: str, status: int) -> Response:
        """Return why something is not shown or done: a page, or JSON in place of a figure."""
        if not request.url.path.endswith((".json", ".svg")):
            return self._html("error.html", status=status, title="Not shown", why=why)
        return JSONResponse({"error": why}, status)

    def unknown(self, request: Request, error: Exception) -> Response:
        """Return the answer to an address that is none."""
        assert isinstance(error, HTTPException)
        why = {404: "There is no such page.", 405: "That is not asked for in this way."}
        told = why.get(error.status_code, error.detail)
        return self._html("error.html", status=error.status_code, title="Not shown", why=told)

    def _html(self, template: str, *, status: int = 200, **context: Any) -> Response:
        text = self._pages.get_template(template).render(asset=self._asset, **context)
        return Response(text, status, media_type="text/html; charset=utf-8")

    def _asset(self, file: str) -> str:
        version = self._plotly if file == assets.PLOTLY else f"{nas.__version__}-{self._run}"
        return self._links.url("assets", version, file)

    def page(
        self, request: Request, template: str, tables: Sequence[Sheet], version: object = None, **context: Any
    ) -> Response:
        """Return a page, or one of its tables as CSV or JSON; nothing where the visitor has it already.

        Args:
            request: for it.
            template: of the page.
            tables: that it shows.
            version: another value whenever the page changes; None: its text is compared.
            context: of the template.
        """
        form, name = request.query_params.get("format"), request.query_params.get("table", "")
        if form is not None:
            table = next((table for table in tables if table.name == name or len(tables) == 1), None)
            if table is None or form not in ("csv", "json"):
                raise NotFound(f"No table '{name}' as {form}: choose one of the links below a table.")
            return table.csv() if form == "csv" else table.json()
        shown = {table.name: table for table in tables}
        response = self._html(template, tables=shown, download=_download(request), **context)
        tag = self.tag(request, version if version is not None else response.body)
        return self.unchanged(request, tag) or tagged(response, tag)

    def tag(self, request: Request, version: object) -> str:
        """Return the entity tag of a page at a version."""
        known = f"{self._run}\0{request.url.path}?{request.url.query}\0{version!r}"
        return f'W/"{hashlib.sha256(known.encode()).hexdigest()[:24]}"'

    def unchanged(self, request: Request, tag: str) -> Response | None:
        """Return a 304 where the visitor has what is there."""
        known = [one.strip() for one in request.headers.get("if-none-match", "").split(",")]
        return tagged(Response(status_code=304), tag) if tag in known else None

    def drawn(self, request: Request, panels: Sequence[Panel], title: str) -> Response:
        """Return panels as a figure for the browser to draw, or as a picture where the address says so."""
        if request.url.path.endswith(".svg"):
            return image(figures.svg(panels, title))
        response = JSONResponse(figures.of_panels(panels))
        tag = self.tag(request, response.body)
        return self.unchanged(request, tag) or tagged(response, tag)

    def keep(self, key: object, version: object, make: Callable[[], Found], *, running: bool) -> Found:
        """Return what takes long to make, as it was made for this version.

        Of a running search what took very long may be a little older.
        """
        with self._lock:
            kept = self._kept.get(key)
            if kept is not None:
                self._kept.move_to_end(key)
        if kept is not None:
            same = kept[0] == version
            if same or (running and time.monotonic() - kept[1] < kept[2] / SHARE):
                found: Found = kept[3]
                return found
        began = time.monotonic()
        made = make()
        with self._lock:
            self._kept[key] = version, time.monotonic(), time.monotonic() - began, made
            while len(self._kept) > KEPT:
                self._kept.popitem(last=False)
        return made


def tagged(response: Response, tag: str) -> Response:
    """Return an answer with its entity tag."""
    response.headers["ETag"] = tag
    return response


def image(content: bytes) -> Response:
    """Return an SVG file."""
    response = Response(content, media_type="image/svg+xml")
    response.headers["Content-Security-Policy"] = IMAGE_POLICY
    return response


def _status(error: NasError) -> int:
    if isinstance(error, NotFound):
        return 404
    if isinstance(error, StorageError):
        return 503
    return 400 if isinstance(error, ConfigError) else 500


def _download(request: Request) -> Callable[[str, str], str]:
    """Return what makes the address of a page's table as CSV or JSON."""
    kept = [pair for pair in request.query_params.multi_items() if pair[0] not in ("format", "table")]
    path = quote(request.scope["path"])

    def download(table: str, form: str) -> str:
        return f"{path}?{urlencode([*kept, ('table', table), ('format', form)])}"

    return download
