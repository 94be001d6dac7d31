"""What a search's figures are made of: panels of curves, and the points of scores against costs."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from sqlalchemy import func, or_, select

from nas.comparison.baselines import beside
from nas.comparison.curves import outline, outlines
from nas.comparison.draw import COLOURS
from nas.comparison.groups import BASELINE, Group
from nas.comparison.mixtures import mixtures
from nas.comparison.panels import Panel
from nas.comparison.series import anytime, measured
from nas.comparison.units import cost_name, score_name
from nas.costs import COSTS, COUNTED
from nas.errors import NotFound, UnknownName
from nas.metrics import family
from nas.objective import SCORE
from nas.queries.trials import TrialDetails
from nas.states import TrialState
from nas.storage.front import FIELDS, front
from nas.storage.schema import Search, Trial
from nas.storage.store import Store
from nas.web.figures import Figure, trial_panel

ENTROPY = "alpha_entropy"
"""What supernets measure of α after each epoch."""

POINTS = 1500
"""Trials of a scatter at most, those of the front aside."""

METRICS = 6
"""Panels of a trial's curves at most."""


def progress(store: Store, search: Search) -> list[Panel]:
    """Return the best score of a search over its cost, and that of random search under the same protocol.

    Raises:
        NotFound: it has no score yet.
    """
    own = outline(store, search)
    panels = anytime([Group(search.controller, (search,))], [[own]], own.total)
    if search.controller == BASELINE:
        return panels
    searches = beside(store, search)
    theirs = outlines(store, searches)
    if searches:
        longest = max(curve.total for curve in theirs)
        pairs = [
            pair for pair in zip(searches, theirs, strict=True) if pair[1].total >= min(own.total, longest)
        ]
        group = Group(BASELINE, tuple(row for row, _ in pairs))
        common = min(own.total, *(curve.total for _, curve in pairs))
        with suppress(NotFound):  # no score by then
            lines = anytime([group], [[curve for _, curve in pairs]], common)
            both = zip(panels, lines, strict=False)
            panels = [
                Panel(a.x_label, a.y_label, a.steps, (*a.lines, *b.lines), a.absent) for a, b in both
            ] + panels[len(lines) :]
    return panels


def entropy(store: Store, search: Search) -> list[Panel]:
    """Return how far the supernet of a search has decided, epoch by epoch.

    Raises:
        NotFound: none of its trials measured that.
    """
    try:
        return [measured(store, [Group(search.controller, (search,))], ENTROPY)]
    except UnknownName as error:
        raise NotFound(str(error)) from None


def alpha(store: Store, search: Search) -> list[Panel]:
    """Return the weights by α of each decision of a search's supernets, epoch by epoch.

    Raises:
        NotFound: none of its trials recorded α.
    """
    found = mixtures(store, [Group(search.controller, (search,))])
    return [Panel("epoch", mixture.decision, False, mixture.lines) for mixture in found.decisions]


def learning(found: TrialDetails) -> list[Panel]:
    """Return what a trial measured, a panel each metric, its score first.

    Raises:
        NotFound: it measured nothing.
    """
    points: dict[str, list[tuple[int, float]]] = {}
    for row in found.measurements:
        if row.value is not None and family(row.metric) == row.metric:
            points.setdefault(row.metric, []).append((row.step, row.value))
    if not points:
        raise NotFound(f"Trial {found.trial.trial} of '{found.search}' measured nothing yet.")
    names = sorted(points, key=lambda name: (name != SCORE, name))[:METRICS]
    return [trial_panel(name, points[name]) for name in names]


def scatter(store: Store, search: Search, cost: str) -> Figure:
    """Return the scores of a search's whole trainings against a cost, with the front.

    All of the front is there; of very many others every n-th.

    Raises:
        UnknownName: there is no such cost.
        NotFound: no trial has both.
    """
    if cost not in COSTS:
        raise UnknownName("cost", cost, COSTS)
    column = FIELDS[cost]
    where = [
        Trial.search_id == search.id,
        Trial.state == TrialState.COMPLETED.value,
        Trial.score.is_not(None),
        Trial.repeat == 0,
        column.is_not(None),
    ]
    with store.read() as session:
        count = session.scalar(select(func.count()).select_from(Trial).where(*where)) or 0
        if not count:
            raise NotFound(f"No trial of '{search.name}' has a score and {cost} yet.")
        best = front(session, (SCORE, cost), where)
        every = -(-count // POINTS)
        some = select(Trial.id, Trial.number, column, Trial.score).where(*where)
        if every > 1:
            some = some.where(or_(Trial.number % every == 0, Trial.id.in_(best)))
        rows = [(*row,) for row in session.execute(some.order_by(column, Trial.score))]
    chosen = {*best}
    on = [row[1:] for row in rows if row[0] in chosen]
    off = [row[1:] for row in rows if row[0] not in chosen]
    told = f"{len(off)} of {count - len(on)} other trials" if every > 1 else "other trials"
    data = [
        _points(told, off, {"color": COLOURS[0], "size": 6, "opacity": 0.5}, "markers", cost),
        _points("front", on, {"color": COLOURS[1], "size": 8}, "lines+markers", cost),
    ]
    lowest = min(score for _, _, score in (*on, *off))
    layout = {
        "height": 360,
        "hovermode": "closest",
        "xaxis": {
            "title": {"text": cost_name(cost)},
            "type": "log",
            # Each number whole: else there is a bare 2 between 10k and 100k.
            "tickformat": "~s" if cost in COUNTED else "~g",
        },
        "yaxis": {"title": {"text": f"validation {score_name(search, lowest)}"}},
    }
    return {"data": data, "layout": layout}


def _points(name: str, rows: list[Any], marker: dict[str, Any], mode: str, cost: str) -> dict[str, Any]:
    return {
        "type": "scatter",
        "name": name,
        "mode": mode,
        "marker": marker,
        "line": {"color": marker["color"], "width": 1, "shape": "hv"},
        "customdata": [number for number, _, _ in rows],
        "x": [value for _, value, _ in rows],
        "y": [round(score, 6) for _, _, score in rows],
        "hovertemplate": f"trial %{{customdata}}<br>score %{{y:.4f}}<br>{cost} %{{x}}<extra></extra>",
    }
