"""Fronts of accuracy and multiplications in the table of NAS-Bench-201: which controller finds better ones.

    NAS_DATA=… python benchmarks/pareto.py -o docs/results/pareto

Each search has the objective `score,macs`: the CIFAR-10 validation accuracy after 12 epochs, and the
published FLOPs. All have the same simulated seconds. A front counts by its hypervolume, as a share of that of
the whole table. What is in the database already is not run again. Writes FILE.json, FILE.md and FILE.png;
with `--draw` the last two alone, from FILE.json.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from arguments import at_least, data
from silent import Silent

from nas.comparison.benchmark import plan, run
from nas.comparison.ranks import mann_whitney
from nas.driver.search import SearchDriver
from nas.driver.trials import executor
from nas.intervals import half_width_over_seeds
from nas.pareto import nondominated
from nas.queries.leaderboard import Query, leaderboard
from nas.settings.search import SearchConfig, validate
from nas.states import TrialState
from nas.storage.store import Store
from nas.tasks.base import ScoreSource
from nas.training.provenance import environment

CONTROLLERS = ("random", "evolution", "nsga2")

BUDGET = 12_000
"""Simulated seconds of a search: about 100 evaluations, as in the benchmark of the table's authors."""

GRID = 60
"""Places along the budget at which hypervolumes are recorded."""

POINT = tuple[float, float]
"""An accuracy in %, and multiply-accumulates."""


def front(points: Sequence[POINT]) -> list[POINT]:
    """Return the points that no other matches in both coordinates and beats in one, cheap first."""
    ordered = sorted((macs, -accuracy) for accuracy, macs in set(points))
    return [(-ordered[i][1], ordered[i][0]) for i in nondominated(ordered)]


def hypervolume(points: Sequence[POINT], reference: POINT) -> float:
    """Return the area that points dominate, up to the reference: the least accuracy and the most macs.

    In two dimensions it is a sum of rectangles, one for each point of the front (Zitzler & Thiele 1999).
    """
    area, reached = 0.0, reference[0]
    for accuracy, macs in front(points):
        if accuracy > reached and macs < reference[1]:
            area += (accuracy - reached) * (reference[1] - macs)
            reached = accuracy
    return area


TABLE = Path(tempfile.gettempdir()) / "nas-pareto" / "nasbench201.csv"
"""The table with multiply-accumulates as whole numbers: in one place, so that searches stay the same."""


def table(published: Path) -> pd.DataFrame:
    """Write `TABLE`; return it with all columns that were published."""
    frame = pd.read_csv(published)
    frame["macs"] = (1e6 * frame["flops_M_c10"]).round().astype(int)
    columns = ["arch", "c10_valid_12", "c10_test_200", "cost_12_s", "macs"]
    TABLE.parent.mkdir(exist_ok=True)
    frame[columns].to_csv(TABLE, index=False)
    return frame


def search(store: Store, controllers: Sequence[str], seeds: int, seconds: int) -> list[Any]:
    """Return the searches of a benchmark, run."""
    values = {
        "name": "pareto",
        "controllers": list(controllers),
        "seeds": seeds,
        "space": "nasbench201",
        "objective": ["score", "macs"],
        "trials": 10_000,
        "max_seconds": seconds,
        "evaluator": {
            "name": "tabular",
            "table": str(TABLE),
            "metric": "c10_valid_12",
            "test_metric": "c10_test_200",
            "cost": "cost_12_s",
            "costs": {"macs": "macs"},
        },
    }

    def drive(row: Any, config: SearchConfig, tasks: ScoreSource) -> str:
        driver = SearchDriver(store, row, config, config.make_space(), tasks, Silent())
        return driver.run(executor(config, tasks))

    return run(store, plan(values, "pareto"), drive).searches


def measured(store: Store, row: Any, test: dict[str, float], scales: dict[str, Any]) -> dict[str, Any]:
    """Return what a search found, at last and along its budget."""
    space = validate(row.config).make_space()
    trials = [t for t in store.history(row.id) if t.state == TrialState.COMPLETED]
    points = [(t.score, float(t.macs)) for t in trials]
    spent = np.cumsum([t.seconds for t in trials])
    found = front(points)
    listed = leaderboard(store, Query(searches=(row.name,), pareto=("score", "macs"), sort="score", limit=0))
    assert {(r.score, float(r.macs or 0)) for r in listed} == set(found), row.name
    reference, whole = scales["valid_reference"], scales["valid_hypervolume"]
    places = np.linspace(0, scales["seconds"], GRID + 1)[1:]
    counts = np.searchsorted(spent, places, side="right")
    curve = [hypervolume(points[:count], reference) / whole for count in counts]
    kept = [t for t, point in zip(trials, points, strict=True) if point in set(found)]
    published = (space.encode(space.decode(t.architecture)) for t in kept)  # not by a name such as resnet
    tested = [(test[text], float(t.macs)) for text, t in zip(published, kept, strict=True)]
    tested_hypervolume = hypervolume(tested, scales["test_reference"]) / scales["test_hypervolume"]
    return {
        "controller": row.controller,
        "seed": row.seed,
        "evaluations": len(trials),
        "hypervolume": hypervolume(points, reference) / whole,
        "test_hypervolume": tested_hypervolume,
        "curve": curve,
        "front": found,
    }


def report(results: list[dict[str, Any]], scales: dict[str, Any], seeds: int) -> dict[str, Any]:
    """Return all that the page and the picture show."""
    rows, curves, fronts = [], {}, {}
    names = list(dict.fromkeys(result["controller"] for result in results))
    of = {name: [result for result in results if result["controller"] == name] for name in names}
    for name in names:
        row: dict[str, Any] = {"controller": name, "searches": len(of[name])}
        row["evaluations"] = statistics.fmean(result["evaluations"] for result in of[name])
        for key in ("hypervolume", "test_hypervolume"):
            values = [result[key] for result in of[name]]
            row[key] = statistics.fmean(values)
            row[f"{key}_std"] = statistics.stdev(values) if len(values) > 1 else None
            row[f"{key}_ci95"] = half_width_over_seeds(values)
            for other in names[: names.index(name)]:
                row[f"{key}_p_{other}"] = mann_whitney(values, [result[key] for result in of[other]])
        rows.append(row)
        stacked = np.array([result["curve"] for result in of[name]])
        half = [half_width_over_seeds(column) or 0.0 for column in stacked.T.tolist()]
        curves[name] = {"mean": stacked.mean(0).round(5).tolist(), "half": np.round(half, 5).tolist()}
        middle = sorted(of[name], key=lambda result: result["hypervolume"])[len(of[name]) // 2]
        fronts[name] = middle["front"]
    return {
        "command": f"python benchmarks/pareto.py --seeds {seeds} --controllers {' '.join(names)}",
        "environment": environment(),
        **scales,
        "results": rows,
        "curves": curves,
        "fronts": fronts,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=at_least(1), default=100)
    parser.add_argument("--seconds", type=at_least(1), default=BUDGET, help="simulated, of a search")
    parser.add_argument("--controllers", nargs="+", choices=CONTROLLERS, default=list(CONTROLLERS))
    parser.add_argument("--table", type=Path, help="by default nasbench201/nasbench201.csv.gz in NAS_DATA")
    parser.add_argument("--db", default="sqlite:///pareto.db")
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--draw", action="store_true", help="draw FILE.png and write FILE.md from FILE.json")
    arguments = parser.parse_args()
    if not arguments.draw:
        published = arguments.table or data(parser, "nasbench201/nasbench201.csv.gz")
        with Store(arguments.db, create=True) as store:
            frame = table(published)
            scales: dict[str, Any] = {"seconds": arguments.seconds}
            for kind, column in (("valid", "c10_valid_12"), ("test", "c10_test_200")):
                points = list(zip(frame[column], frame["macs"].astype(float), strict=True))
                reference = float(frame[column].median()), float(frame["macs"].max())
                scales[f"{kind}_reference"] = reference
                scales[f"{kind}_hypervolume"] = hypervolume(points, reference)
                scales[f"{kind}_front"] = [point for point in front(points) if point[0] > reference[0]]
            rows = search(store, arguments.controllers, arguments.seeds, arguments.seconds)
            test = dict(zip(frame["arch"], frame["c10_test_200"], strict=True))
            results = [measured(store, row, test, scales) for row in rows]
        found = report(results, scales, arguments.seeds)
        arguments.output.with_suffix(".json").write_text(json.dumps(found, indent=1) + "\n")
    write(json.loads(arguments.output.with_suffix(".json").read_text()), arguments.output)


def write(found: dict[str, Any], output: Path) -> None:
    """Write the page and the picture of a report."""
    picture = output.with_suffix(".png")
    draw(found, picture)
    output.with_suffix(".md").write_text(page(found, picture.name))


def draw(found: dict[str, Any], file: Path) -> None:
    """Draw hypervolumes along the budget, and each controller's front of the median hypervolume."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), layout="constrained")
    along, ends = figure.subplots(1, 2)
    seconds = np.linspace(0, found["seconds"], GRID + 1)[1:]
    for name, curve in found["curves"].items():
        mean, half = np.array(curve["mean"]), np.array(curve["half"])
        along.plot(seconds, mean, label=name)
        along.fill_between(seconds, mean - half, mean + half, alpha=0.25)
    along.set(xlabel="simulated seconds", ylabel="hypervolume, share of the table's", ylim=(0.7, 1.0))
    along.legend()
    reference = found["valid_reference"]
    drawn = {"all of the table": found["valid_front"], **found["fronts"]}
    for name, points in drawn.items():
        kept = [(macs / 1e6, accuracy) for accuracy, macs in points if accuracy > reference[0]]
        style = (
            {"color": "black", "linewidth": 1} if name not in found["fronts"] else {"marker": "o", "ms": 3}
        )
        ends.step(*zip(*kept, strict=True), where="post", label=name, **style)
    ends.set(xlabel="million multiply-accumulates", ylabel="validation accuracy after 12 epochs, %")
    ends.legend()
    figure.savefig(file, dpi=120)


def page(found: dict[str, Any], picture: str) -> str:
    rows = found["results"]
    accuracy, macs = found["valid_reference"]
    tested, _ = found["test_reference"]
    lines = [
        "# Fronts of accuracy and multiplications",
        "",
        f"`{found['command']}`",
        "",
        f"Searches on NAS-Bench-201 with the objective `score,macs`, {found['seconds']:,} simulated seconds",
        "each. The score is the CIFAR-10 validation accuracy after 12 epochs. Hypervolume is the area that a",
        "front dominates, as a share of what the front of all 15,625 cells does. `test` takes the test",
        "accuracies after 200 epochs of the networks on a search's front, which no search saw. Mean ±",
        "standard deviation over seeds, half of the mean's 95 % interval in brackets.",
        "",
        f"The reference point is the table's median accuracy ({accuracy:.2f} %; for `test` {tested:.2f} %)",
        f"and its largest network ({macs / 1e6:.1f} million multiply-accumulates).",
        "",
        "| controller | seeds | evaluations | hypervolume | test |",
        "|---|---|---|---|---|",
    ]
    for row in rows:
        lines.append(
            f"| {row['controller']} | {row['searches']} | {row['evaluations']:.0f} "
            f"| {interval(row, 'hypervolume')} | {interval(row, 'test_hypervolume')} |"
        )
    lines += ["", "p, by the two-sided Mann-Whitney test:", "", "| | hypervolume | test |", "|---|---|---|"]
    for row in rows:
        for other in found["curves"]:
            if f"hypervolume_p_{other}" in row:
                p, p_test = row[f"hypervolume_p_{other}"], row[f"test_hypervolume_p_{other}"]
                lines.append(f"| {row['controller']}, {other} | {p:.1e} | {p_test:.1e} |")
    return "\n".join(
        [
            *lines,
            "",
            f"![Hypervolume along the budget, and fronts]({picture})",
            "",
            "Left: the mean over seeds, with its 95 % interval. Right: the front of the search of the median",
            "hypervolume, and that of the whole table. Isomorphic cells are one network, trained once.",
            "",
        ]
    )


def interval(row: dict[str, Any], of: str) -> str:
    if row[f"{of}_std"] is None:  # of a single seed
        return f"{row[of]:.4f}"
    return f"{row[of]:.4f} ± {row[f'{of}_std']:.4f} ({row[f'{of}_ci95']:.4f})"


if __name__ == "__main__":
    main()
