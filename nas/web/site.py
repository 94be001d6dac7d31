"""The pages: from an address to rows of `nas.queries`, and from these to HTML, CSV or JSON."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import math
import re
import secrets
import shlex
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from threading import Lock
from typing import Any, TypeVar
from urllib.parse import quote, urlencode

from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

import nas
from nas import counts
from nas.comparison import comparison
from nas.comparison.groups import find
from nas.comparison.panels import Panel
from nas.costs import COSTS
from nas.drawing.svg import svg
from nas.errors import ConfigError, NasError, NotFound, StorageError, nearest
from nas.metrics import family
from nas.queries import boards, paging, portraits, searches, trials
from nas.queries.answer import answer, words
from nas.queries.cells import cell, setting
from nas.queries.chosen import apart
from nas.queries.leaderboard import SORTS, TEST_SORTS
from nas.queries.rows import record
from nas.queries.searches import SearchesQuery, SearchFacts
from nas.settings.paths import flat
from nas.states import SearchState, TrialState
from nas.storage.schema import Search
from nas.storage.sqlite import TRIES, Written
from nas.storage.store import Store
from nas.web import asked, drawn, figures
from nas.web.guard import Guard, Rules
from nas.web.tables import Sheet, moment

HERE = Path(__file__).parent

SHARE = 0.01
"""Of the time, what a page that refreshes itself takes of the server at most."""

EVERY = 2.0
"""Seconds between two looks of a page at least."""

KEPT = 64
"""Results that take long and are kept until something changes."""

IMAGE_POLICY = "default-src 'none'; style-src 'unsafe-inline'"
"""Of a drawing: it has its own styles, and nothing else."""

TRIAL_COLUMNS = (
    *("trial", "kind", "state", "score", "ci95", "parameters", "macs", "activations"),
    *("latency", "latency_batch", "seconds", "parent", "finished_at", "architecture", "chosen", "error"),
)

SEARCH_COLUMNS = (
    *("search", "state", "done", "trials", "failed", "best", "ci95", "seconds", "controller"),
    *("space", "task", "learner", "seed", "created_at", "sign_of_life", "note"),
)

EVALUATION_COLUMNS = (
    *("seed", "state", "task", "learner", "test_score", "test_ci95", "validation_score"),
    *("train_episodes", "seconds", "error"),
)

OPTIONAL = (
    *("kind", "activations", "latency", "latency_batch", "macs", "parameters", "ci95", "chosen"),
    *("error", "note", "learner", "sign_of_life", "finished_at", "parent"),
)
"""Columns that are left out where no row has a value."""

Found = TypeVar("Found")


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
        self._store, self._db, self._prefix, self._control = store, db, prefix, control
        self._run = secrets.token_hex(4)
        self._kept: OrderedDict[object, tuple[object, float, float, Any]] = OrderedDict()
        self._lock = Lock()
        self._plotly = importlib.metadata.version("plotly") if find_spec("plotly") else None
        self._pages = Environment(
            loader=FileSystemLoader(HERE / "templates"),
            autoescape=select_autoescape(default=True),
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._pages.globals.update(
            styled=_styled_by_plotly(),
            url=self.url,
            version=nas.__version__,
            plotly=self._plotly,
            control=control,
            cell=cell,
        )

    def app(self, rules: Rules) -> ASGIApp:
        """Return what answers requests that meet the rules."""
        pages: list[tuple[str, Callable[[Request], Response]]] = [
            ("/", self.searches),
            ("/searches/{name}", self.search),
            ("/searches/{name}/figures/{figure}.json", self.figure),
            ("/searches/{name}/figures/{figure}.svg", self.picture),
            ("/searches/{name}/trials/{number:int}", self.trial),
            ("/searches/{name}/trials/{number:int}/curves.json", self.curves),
            ("/searches/{name}/trials/{number:int}/curves.svg", self.curves),
            ("/searches/{name}/trials/{number:int}/drawing.svg", self.drawing),
            ("/leaderboard", self.leaderboard),
            ("/compare", self.compare),
            ("/compare/curves.json", self.compared),
            ("/compare/curves.svg", self.compared),
        ]
        routes = [Route(path, self._answered(page)) for path, page in pages]
        routes += [
            Route("/assets/{version}/{file}", self._answered(self.asset)),
            Route("/searches/{name}/stop", self._answered(self.stop), methods=["POST"]),
        ]
        app = Starlette(routes=routes, exception_handlers={HTTPException: self._unknown})
        app.add_middleware(GZipMiddleware, minimum_size=1000)
        return Guard(app, rules)

    # Addresses and commands

    def url(self, *parts: object, **query: object) -> str:
        """Return the address of a page below the prefix; what is None or empty is not asked for."""
        path = "/".join(quote(str(part), safe="") for part in parts)
        asked = [(key, value) for key, value in query.items() if value not in (None, "", (), [])]
        return f"{self._prefix}/{path}" + (f"?{urlencode(asked, doseq=True)}" if asked else "")

    def command(self, *arguments: str) -> str:
        """Return a command of the command line that asks the same database."""
        own = () if self._db is None else ("--db", self._db)
        return shlex.join(["nas", *arguments, *own])

    def _asset(self, file: str) -> str:
        version = self._plotly if file == PLOTLY else f"{nas.__version__}-{self._run}"
        return self.url("assets", version, file)

    # Answers

    def _answered(self, page: Callable[[Request], Response]) -> Callable[[Request], Response]:
        """Return a page that answers every error of ours in words."""

        def answered(request: Request) -> Response:
            began = time.perf_counter()
            try:
                response = self._again(page, request)
            except NasError as error:
                return self._refusal(request, str(error), _status(error))
            except OSError as error:  # the file of a database that is gone
                return self._refusal(request, f"{error.strerror}: {error.filename}.", 503)
            took = time.perf_counter() - began
            response.headers["Nas-Next"] = f"{max(EVERY, took / SHARE):.1f}"
            return response

        return answered

    def _again(self, page: Callable[[Request], Response], request: Request) -> Response:
        """Return a page; a file that was written while it was read is read again."""
        for _ in range(TRIES - 1):
            with suppress(Written):
                return page(request)
        return page(request)

    def _refusal(self, request: Request, why: str, status: int) -> Response:
        if not request.url.path.endswith((".json", ".svg")):
            return self._html("error.html", status=status, title="Not shown", why=why)
        return JSONResponse({"error": why}, status)

    def _unknown(self, request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        why = {404: "There is no such page.", 405: "That is not asked for in this way."}
        told = why.get(error.status_code, error.detail)
        return self._html("error.html", status=error.status_code, title="Not shown", why=told)

    def _html(self, template: str, *, status: int = 200, **context: Any) -> Response:
        text = self._pages.get_template(template).render(asset=self._asset, **context)
        return Response(text, status, media_type="text/html; charset=utf-8")

    def _page(
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
        response = self._html(template, tables=shown, download=_download(self._prefix, request), **context)
        tag = self._tag(request, version if version is not None else response.body)
        return self._unchanged(request, tag) or _tagged(response, tag)

    def _tag(self, request: Request, version: object) -> str:
        known = f"{self._run}\0{request.url.path}?{request.url.query}\0{version!r}"
        return f'W/"{hashlib.sha256(known.encode()).hexdigest()[:24]}"'

    def _unchanged(self, request: Request, tag: str) -> Response | None:
        """Return a 304 where the visitor has what is there."""
        known = [one.strip() for one in request.headers.get("if-none-match", "").split(",")]
        return _tagged(Response(status_code=304), tag) if tag in known else None

    def _keep(self, key: object, version: object, make: Callable[[], Found], *, running: bool) -> Found:
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

    # Pages

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
            _shown(SEARCH_COLUMNS, rows),
            rows,
            links={"search": lambda row: self.url("searches", row["search"])},
            command=self.command("ls", "--limit", "0"),
        )
        older = None
        if page.more and page.rows:
            kept = {key: value for key, value in given.items() if key != "before"}
            older = self.url("", **kept, before=page.rows[-1].search)
        names = searches.values(self._store, "controller", "space", "tasks")
        states = [state.value for state in SearchState]
        return self._page(
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

    def search(self, request: Request) -> Response:
        """Show one search."""
        search = self._named(request)
        version = searches.version(self._store, search)
        tag = self._tag(request, version)
        if (unchanged := self._unchanged(request, tag)) is not None:
            return unchanged
        query = asked.trials(request.query_params)
        facts = ("facts", search.id)
        found = self._keep(facts, version, lambda: searches.facts(self._store, search), running=False)
        running = found.row.state == SearchState.RUNNING
        told = self._keep(
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
        return self._page(
            request,
            "search.html",
            tables,
            version,
            title=search.name,
            found=found,
            answer=None if told is None else words(told),
            answer_trial=None if told is None else told.trial,
            left=None if found.left is None else counts.clock(found.left),
            cost=counts.clock(found.row.seconds),
            done=_share(found),
            moments={"created": moment(found.row.created_at), "finished": moment(found.finished_at)},
            resume=self.command(*_resume(found)),
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
        kept = _without(request, "after", "before", "last", "sort", "order", "format", "table")
        sorts = {}
        for name in paging.SORTS:
            own = name == query.sort
            falls = not query.descending if own else name in ("score", "trial", "finished_at")
            order = "desc" if falls else "asc"
            sorts[name] = self.url("searches", search.name, **kept, sort=name, order=order) + "#trials"
        return Sheet(
            "trials",
            f"Trials: {page.total:,} {'match' if page.total == 1 else 'matches'}",
            _shown(TRIAL_COLUMNS, rows),
            rows,
            links={
                "trial": lambda row: self.url("searches", search.name, "trials", row["trial"]),
            },
            command=self.command("show", search.name),
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
            links={"trial": lambda row: self.url("searches", search.name, "trials", row["trial"])},
            command=self.command("show", search.name, "--format", "csv"),
        )

    def _settings(self, name: str, caption: str, search: Search, values: Mapping[str, Any]) -> Sheet:
        rows = tuple(
            {"setting": path, "value": setting(value)}
            for path, value in flat(dict(values)).items()
            if value not in (None, [], {})
        )
        command = self.command("show", search.name, "--format", "json")
        return Sheet(name, caption, ("setting", "value"), rows, command=command)

    def _figures(self, search: Search, found: SearchFacts) -> list[dict[str, str]]:
        if found.row.best is None and not found.supernet:
            return []
        kinds = {"progress": "Best score so far over worker time"}
        if found.supernet:
            kinds["entropy"] = "Entropy of softmax(α) over epochs"
        cost = next((goal for goal in found.objective if goal in COSTS), "parameters")
        kinds[f"scatter-{cost}"] = f"Score against {cost}"
        if cost != "macs":
            kinds["scatter-macs"] = "Score against multiply-accumulates (MACs)"
        made = []
        for kind, caption in kinds.items():
            place = ("searches", search.name, "figures")
            svg = "" if kind.startswith("scatter") else self.url(*place, f"{kind}.svg")
            made.append({"caption": caption, "json": self.url(*place, f"{kind}.json"), "svg": svg})
        return made

    def _turns(self, request: Request, page: paging.TrialsPage) -> dict[str, str]:
        """Return the addresses of the other pages of trials."""
        kept = _without(request, "after", "before", "last", "format", "table")
        name = request.path_params["name"]

        def to(**where: object) -> str:
            return self.url("searches", name, **kept, **where) + "#trials"

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
        search, kind = self._named(request), request.path_params["figure"]
        version = searches.version(self._store, search)
        tag = self._tag(request, version)
        if (unchanged := self._unchanged(request, tag)) is not None:
            return unchanged
        name, _, cost = kind.partition("-")

        def made() -> str:
            if name == "scatter":
                return json.dumps(drawn.scatter(self._store, search, cost))
            return json.dumps(figures.of_panels(self._panels(search, kind)))

        running = searches.state(search) == SearchState.RUNNING
        text = self._keep((kind, search.id), version, made, running=running)
        return _tagged(Response(text, media_type="application/json"), tag)

    def picture(self, request: Request) -> Response:
        """Return a figure of a search as a picture, for browsers without JavaScript."""
        search = self._named(request)
        panels = self._panels(search, request.path_params["figure"])
        return _image(figures.svg(panels, f"{search.name}: {search.task_label}"))

    def _panels(self, search: Search, kind: str) -> list[Panel]:
        made = {"progress": drawn.progress, "entropy": drawn.entropy}.get(kind)
        if made is None:
            raise NotFound(f"No figure '{kind}'. There are: progress, entropy, scatter-parameters.")
        return made(self._store, search)

    def trial(self, request: Request) -> Response:
        """Show one trial."""
        search, number = self._named(request), request.path_params["number"]
        found = trials.details(self._store, search.name, number)
        network = found.trial.architecture is not None
        own = f"{search.name}/{number}"
        decisions, not_drawn = dict[str, str](), None
        if network:
            try:
                portrait = portraits.of_trial(self._store, search.name, number)
                values = portrait.space.values(portrait.architecture)
                decisions = {**{name: str(value) for name, value in values.items()}, **portrait.chosen}
            except NasError as error:
                not_drawn = str(error)
        facts = {name: value for name, value in apart(record(found.trial)).items() if name not in SAID}
        more = [self.command("evaluate", own), self.command("export", own, "-o", "model.pt")]
        return self._page(
            request,
            "trial.html",
            self._of_trial(search, found),
            title=own,
            search=search.name,
            number=number,
            trial=found.trial,
            facts={name: cell(name, value) for name, value in facts.items() if value is not None},
            moments={name: moment(getattr(found.trial, name)) for name in ("started_at", "finished_at")},
            drawn=network and not_drawn is None,
            not_drawn=not_drawn,
            decisions=decisions,
            curve=any(family(point.metric) == point.metric for point in found.measurements),
            commands=[self.command("show", own), *(more if network else [])],
        )

    def _of_trial(self, search: Search, found: trials.TrialDetails) -> list[Sheet]:
        number, tables = found.trial.trial, list[Sheet]()
        command = self.command("show", f"{search.name}/{number}", "--format", "json")
        if found.evaluations:
            rows = tuple(map(record, found.evaluations))
            columns = _shown(EVALUATION_COLUMNS, rows)
            tables.append(Sheet("evaluations", "Trained to the end", columns, rows, command=command))
        if found.trial.architecture is not None:
            kin = tuple(map(record, trials.kin(self._store, search, number)))
            links = {"trial": self._trial_link, "search": self._search_link}
            if kin:
                tables.append(Sheet("kin", "The same network elsewhere", tuple(kin[0]), kin, links))
        if found.derivation is not None:
            for name, caption, derived in (
                ("derived", "Derived, best first, with shared weights", found.derivation.derived),
                ("derived_epochs", "To be derived after each epoch", found.derivation.derived_epochs),
            ):
                if derived:
                    columns, rows = tuple(derived[0]), tuple(derived)
                    tables.append(Sheet(name, caption, columns, rows, command=command))
        return tables

    def curves(self, request: Request) -> Response:
        """Return what a trial measured as a figure."""
        search, number = self._named(request), request.path_params["number"]
        panels = drawn.learning(trials.details(self._store, search.name, number))
        return self._drawn(request, panels, f"{search.name}/{number}")

    def drawing(self, request: Request) -> Response:
        """Return the drawing of a trial's network."""
        search, number = self._named(request), request.path_params["number"]
        return _image(svg(portraits.of_trial(self._store, search.name, number).drawing).encode())

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
                    links={"trial": self._trial_link, "search": self._search_link},
                    command=self.command("leaderboard", *command),
                )
            )
        names = searches.values(self._store, "space", "controller", "tasks", "learner")
        return self._page(
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
            command=self.command("leaderboard", *command),
        )

    def _trial_link(self, row: Mapping[str, Any]) -> str | None:
        if row.get("search") is None or row.get("trial") is None:
            return None
        return self.url("searches", row["search"], "trials", row["trial"])

    def _search_link(self, row: Mapping[str, Any]) -> str | None:
        return None if row.get("search") is None else self.url("searches", row["search"])

    def compare(self, request: Request) -> Response:
        """Show searches side by side at equal cost."""
        names = asked.names(request.query_params)
        if not names:
            return self._page(
                request, "compare.html", [], title="Compare", names="", found=None, figure=None, command=None
            )
        found = comparison.compare(self._store, find(self._store, names))
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
            command=self.command("compare", *names),
        )
        return self._page(
            request,
            "compare.html",
            [table],
            title="Compare",
            names=" ".join(names),
            found=found,
            figure={
                "caption": "Best score so far, with the 95 % interval of the mean",
                "json": self.url("compare", "curves.json", search=names),
                "svg": self.url("compare", "curves.svg", search=names),
            },
            command=self.command("plot", *names, "--text"),
        )

    def compared(self, request: Request) -> Response:
        """Return the curves of a comparison as a figure."""
        return self._drawn(
            request, drawn.compared(self._store, asked.names(request.query_params)), "Best score so far"
        )

    def _drawn(self, request: Request, panels: Sequence[Panel], title: str) -> Response:
        if request.url.path.endswith(".svg"):
            return _image(figures.svg(panels, title))
        response = JSONResponse(figures.of_panels(panels))
        tag = self._tag(request, response.body)
        return self._unchanged(request, tag) or _tagged(response, tag)

    def stop(self, request: Request) -> Response:
        """Ask a search's driver to stop."""
        search = self._named(request)
        if not self._control:
            why = f"This server only shows. `{self.command('stop', search.name)}` stops the search."
            return self._refusal(request, why, 403)
        self._store.request_stop(search.id)
        return RedirectResponse(self.url("searches", search.name), 303)

    def asset(self, request: Request) -> Response:
        """Return a script or a style sheet; its address changes with its version."""
        file = request.path_params["file"]
        path = _plotly() if file == PLOTLY else None
        if path is None and file in ASSETS:
            path = HERE / "static" / file
        if path is None:
            raise NotFound(f"There is no file '{file}'.")
        response = FileResponse(path)
        response.headers["Cache-Control"] = "private, max-age=31536000, immutable"
        return response

    def _named(self, request: Request) -> Search:
        """Return the search of an address."""
        name = request.path_params["name"]
        if name == "@last":
            return self._store.search(name)
        found = self._store.named(name)
        if found is None:
            raise NotFound(f"No search '{name}'.{nearest(name, self._store.names())}")
        return found


PLOTLY = "plotly.min.js"

ASSETS = ("live.js", "style.css", "plotly.css", "icon.svg")

SAID = ("started_at", "finished_at", "error", "state", "parent", "reused")
"""Fields of a trial that its page shows otherwise."""


def _plotly() -> Path | None:
    """Return the file of plotly's JavaScript; None: it is not installed."""
    spec = find_spec("plotly")
    places = [] if spec is None else spec.submodule_search_locations or []
    return next((file for place in places if (file := Path(place, "package_data", PLOTLY)).is_file()), None)


def _styled_by_plotly() -> list[str]:
    """Return the ids of the style sheets that plotly adds to a page where it does not find them.

    They are for maps, and the policy forbids them: a page that has such ids is left alone.
    """
    file = _plotly()
    text = "" if file is None else file.read_text(encoding="utf-8")
    return re.findall(r'if\(!document\.getElementById\("([0-9a-f]{64})"\)\)', text)


def _status(error: NasError) -> int:
    if isinstance(error, NotFound):
        return 404
    if isinstance(error, StorageError):
        return 503
    return 400 if isinstance(error, ConfigError) else 500


def _tagged(response: Response, tag: str) -> Response:
    response.headers["ETag"] = tag
    return response


def _image(content: bytes) -> Response:
    response = Response(content, media_type="image/svg+xml")
    response.headers["Content-Security-Policy"] = IMAGE_POLICY
    return response


def _shown(columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """Return the columns without those that may go and have no value."""
    return tuple(
        name
        for name in columns
        if name not in OPTIONAL
        or any(row.get(name) not in (None, "") and (name, row[name]) != ("kind", "evaluate") for row in rows)
    )


def _short(row: dict[str, Any]) -> dict[str, Any]:
    return {**row, "error": (row["error"] or "").partition("\n")[0] or None}


def _known(value: object) -> bool:
    return value is not None and not (isinstance(value, float) and math.isnan(value))


def _without(request: Request, *names: str) -> dict[str, str]:
    return {key: value for key, value in request.query_params.items() if key not in names}


def _download(prefix: str, request: Request) -> Callable[[str, str], str]:
    """Return what makes the address of a page's table as CSV or JSON."""
    kept = [pair for pair in request.query_params.multi_items() if pair[0] not in ("format", "table")]
    path = quote(request.scope["path"])

    def download(table: str, form: str) -> str:
        return f"{path}?{urlencode([*kept, ('table', table), ('format', form)])}"

    return download


def _share(found: SearchFacts) -> float:
    """Return how far a search is, from 0 to 1."""
    seconds = found.config.get("max_seconds")
    part = found.row.seconds / seconds if seconds else found.row.done / max(found.row.trials, 1)
    return 1.0 if found.row.state == SearchState.COMPLETED else min(part, 1.0)


def _resume(found: SearchFacts) -> list[str]:
    more = ["--trials", "+20"] if found.row.state == SearchState.COMPLETED else []
    return ["resume", found.row.search, *more]
