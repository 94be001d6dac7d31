"""What a search chose, as a picture and as a table: importance, choices over time, the best trials."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nas.comparison.decisions import ChoicesMade, means, shares
from nas.comparison.draw import GREY, picture

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.image import AxesImage

SHOWN = 8
"""Decisions at most: those that matter most."""

PERIODS = 12
"""Of a search, in the pictures of choices over time."""

BEST = 10
"""Trials whose choices stand side by side, in colour."""

OTHERS = 200
"""Trials behind them, in grey."""

BLUE = "#0072b2"

LONGEST = 18
"""Characters of a name or a choice in parallel coordinates."""

ROW = 0.24
"""Inches of a choice."""


def draw(found: ChoicesMade, importance: Mapping[str, float], title: str, file: Path) -> None:
    """Write a picture: importance, parallel coordinates, and for each decision its choices over time.

    Raises:
        ConfigError: see `picture`.
        NasError: the file cannot be written.
    """
    names = list(importance)[:SHOWN]
    places = {decision.name: place for place, decision in enumerate(found.space.decisions)}
    heights = [len(found.space.decisions[places[name]].choices) for name in names]
    pairs = math.ceil(len(names) / 2)
    tall = [max(heights[2 * i : 2 * i + 2]) for i in range(pairs)]
    rows = [ROW * len(names) + 0.6, ROW * max(heights) + 1.8, *(ROW * height + 0.45 for height in tall)]
    with picture(file, (10.5, sum(rows) + 1.2), title) as figure:
        grid = figure.add_gridspec(len(rows), 2, height_ratios=rows)
        _importance(figure.add_subplot(grid[0, :]), {name: importance[name] for name in names})
        _parallel(figure.add_subplot(grid[1, :]), found, [places[name] for name in names])
        over_time = [figure.add_subplot(grid[2 + number // 2, number % 2]) for number in range(len(names))]
        for axes, name in zip(over_time, names, strict=True):
            image = _over_time(axes, found, places[name])
        bar = figure.colorbar(image, ax=over_time, location="bottom", aspect=60, shrink=0.5)
        bar.ax.xaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f} %")
        bar.ax.tick_params(labelsize=7)
        bar.set_label("of the trials in that part of the search", fontsize=7)


def _importance(axes: Axes, found: dict[str, float]) -> None:
    axes.barh(list(found), list(found.values()), color=BLUE)
    axes.invert_yaxis()
    axes.set_xlabel("share of the variance of scores that it explains alone")
    axes.spines[["top", "right"]].set_visible(False)


def _parallel(axes: Axes, found: ChoicesMade, places: list[int]) -> None:
    known = np.flatnonzero(np.isfinite(found.scores))
    ranked = known[np.argsort(-found.scores[known], kind="stable")]
    rng = np.random.default_rng(0)
    widths = np.array([max(len(found.space.decisions[place].choices) - 1, 1) for place in places])
    for rank, trial in reversed([*enumerate(ranked[: BEST + OTHERS])]):
        best = rank < BEST
        shift = rng.uniform(-0.02, 0.02, len(places))  # lines through the same choices stay apart
        y = found.choices[trial, places] / widths + shift
        look: dict[str, Any] = (
            {"color": BLUE, "alpha": 0.7, "linewidth": 1.2} if best else {"color": GREY, "alpha": 0.12}
        )
        axes.plot(range(len(places)), y, zorder=2 if best else 1, **look)
    names = [found.space.decisions[place].name for place in places]
    axes.set_xticks(range(len(places)), [_short(name) for name in names], fontsize=7)
    axes.set_yticks([])
    axes.invert_yaxis()  # the first choice is on top, as over time
    axes.margins(x=0.06)
    for x, place in enumerate(places):
        axes.axvline(x, color="#999999", linewidth=0.6, zorder=0)
        for number, choice in enumerate(found.space.decisions[place].choices):
            box = {"facecolor": "white", "alpha": 0.75, "edgecolor": "none", "pad": 0.6}
            place_of: dict[str, Any] = {"ha": "center", "va": "center", "bbox": box, "zorder": 3}
            axes.text(x, number / widths[x], _short(str(choice)), fontsize=6.5, **place_of)
    axes.set_title(f"the {min(BEST, len(ranked))} best trials, and others in grey", fontsize=8)
    axes.spines[:].set_visible(False)


def _short(text: str) -> str:
    """Return a text that has room between two lines."""
    return text if len(text) <= LONGEST else f"{text[: LONGEST // 2]}…{text[-(LONGEST // 2 - 1) :]}"


def _over_time(axes: Axes, found: ChoicesMade, place: int) -> AxesImage:
    decision = found.space.decisions[place]
    periods = min(PERIODS, len(found.progress))
    image = axes.imshow(
        shares(found, place, periods),
        aspect="auto",
        cmap="Blues",
        vmin=0,
        vmax=1,
        extent=(0, 100, len(decision.choices) - 0.5, -0.5),
    )
    axes.set_yticks(range(len(decision.choices)), [str(choice) for choice in decision.choices], fontsize=7)
    axes.set_title(f"{decision.name}: how often, over the search", fontsize=8)
    axes.tick_params(labelsize=7)
    axes.set_xlabel("% of the search", fontsize=7)
    return image


def table(found: ChoicesMade, importance: Mapping[str, float]) -> list[dict[str, object]]:
    """Return a row a decision, the most important first: what was chosen early, late and by the best."""
    places = {decision.name: place for place, decision in enumerate(found.space.decisions)}
    best = found.choices[int(np.nanargmax(found.scores))]
    rows: list[dict[str, object]] = []
    for name, share in importance.items():
        place = places[name]
        options = [str(choice) for choice in found.space.decisions[place].choices]
        own = means(found, place)
        ranked = max((i for i, (mean, _) in enumerate(own) if not math.isnan(mean)), key=lambda i: own[i][0])
        over = np.nan_to_num(shares(found, place, 2))
        rows.append(
            {
                "decision": name,
                "importance": share,
                "of_the_best": options[int(best[place])],
                "highest_mean": options[ranked],
                "mean_score": own[ranked][0],
                "trials": own[ranked][1],
                "first_half": options[int(over[:, 0].argmax())],
                "second_half": options[int(over[:, 1].argmax())],
            }
        )
    return rows
