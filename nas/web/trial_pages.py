"""The pages of one trial: its network, what it cost and measured, and what became of it elsewhere."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from nas.drawing.svg import svg
from nas.errors import Infeasible, NasError, Unsupported
from nas.metrics import family
from nas.queries import portraits, trials
from nas.queries.cells import cell
from nas.queries.chosen import apart
from nas.queries.rows import record
from nas.storage.schema import Search
from nas.storage.store import Store
from nas.web import drawn
from nas.web.links import Links
from nas.web.replies import Replies, image
from nas.web.search_pages import named
from nas.web.tables import Sheet, moment, shown

EVALUATION_COLUMNS = (
    *("seed", "state", "task", "learner", "test_score", "test_ci95", "validation_score"),
    *("train_episodes", "seconds", "error"),
)

SAID = ("started_at", "finished_at", "error", "state", "parent", "reused")
"""Fields of a trial that its page shows otherwise."""


class TrialPages:
    """Pages of one trial.

    Args:
        store: what they show.
        links, replies: of the server.
    """

    def __init__(self, store: Store, links: Links, replies: Replies) -> None:
        self._store, self._links, self._replies = store, links, replies

    def trial(self, request: Request) -> Response:
        """Show one trial."""
        search, number = named(self._store, request), request.path_params["number"]
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
        more = [self._links.command("evaluate", own), self._links.command("export", own, "-o", "model.pt")]
        return self._replies.page(
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
            commands=[self._links.command("show", own), *(more if network else [])],
        )

    def layers(self, request: Request) -> Response:
        """Show the layers of a trial's network; torch is loaded for it, which takes a while once."""
        search, number = named(self._store, request), request.path_params["number"]
        own = f"{search.name}/{number}"
        rows, reason = list[dict[str, Any]](), ""
        try:
            rows = portraits.of_trial(self._store, search.name, number).layers()
        except (Infeasible, Unsupported) as error:
            reason = str(error)
        command = self._links.command("show", own, "--layers")
        caption = "In the order of computation, with the shape of what each returns for one example"
        table = Sheet("layers", caption, tuple(rows[0]) if rows else (), tuple(rows), command=command)
        return self._replies.page(
            request,
            "layers.html",
            [table],
            title=f"Layers of {own}",
            search=search.name,
            number=number,
            reason=reason,
        )

    def _of_trial(self, search: Search, found: trials.TrialDetails) -> list[Sheet]:
        number, tables = found.trial.trial, list[Sheet]()
        command = self._links.command("show", f"{search.name}/{number}", "--format", "json")
        if found.evaluations:
            rows = tuple(map(record, found.evaluations))
            columns = shown(EVALUATION_COLUMNS, rows)
            tables.append(Sheet("evaluations", "Trained to the end", columns, rows, command=command))
        if found.trial.architecture is not None:
            kin = tuple(map(record, trials.kin(self._store, search, number)))
            links = {"trial": self._links.trial, "search": self._links.search}
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
        search, number = named(self._store, request), request.path_params["number"]
        panels = drawn.learning(trials.details(self._store, search.name, number))
        return self._replies.drawn(request, panels, f"{search.name}/{number}")

    def drawing(self, request: Request) -> Response:
        """Return the drawing of a trial's network."""
        search, number = named(self._store, request), request.path_params["number"]
        return image(svg(portraits.of_trial(self._store, search.name, number).drawing).encode())
