"""Controllers in the table of NAS-Bench-201, compared with what its authors published.

    NAS_DATA=… python benchmarks/nasbench201.py -o docs/results/nasbench201

The searches are those of `nas benchmark examples/nasbench201.toml`: the signal is the CIFAR-10 validation
accuracy after 12 epochs, the budget 12,000 simulated seconds, 500 seeds. A second benchmark lets networks be
trained once, as the service does by default. What is in the database already is not run again. Before that,
500 searches of 100 evaluations by evolution are timed. Writes FILE.json, FILE.md and FILE.png; with `--draw`
the last two alone, from FILE.json.

    NAS_DATA=… python benchmarks/nasbench201.py --all -o docs/results/nasbench201_controllers

With `--all` the same searches are made by every controller, and by samplers of other libraries, in memory:
each evaluation is paid for. The test accuracies are those on all three datasets. What is slow has fewer
seeds. Searches are recorded in FILE.jsonl, and not made again. Writes FILE.json and FILE.md.
"""

from __future__ import annotations

import argparse
import json
import platform
import shlex
import statistics
import sys
import tempfile
import textwrap
import time
from collections.abc import Sequence
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from arguments import at_least, data, require
from curves import drawn, recorded
from peers import PEERS, Found, Row, Start, available, ours, searches
from shell import nas
from silent import Silent

from nas.comparison.benchmark import plan, run
from nas.driver.search import SearchDriver
from nas.driver.trials import executor
from nas.intervals import half_width_over_seeds
from nas.plugins import installed
from nas.settings.search import SearchConfig
from nas.settings.sections import maker, read
from nas.storage.store import Store
from nas.tasks.base import TaskSource
from nas.training.provenance import environment

CONFIG = Path(__file__).parent.parent / "examples" / "nasbench201.toml"

PUBLISHED = {"random": (93.70, 0.36), "evolution": (93.92, 0.30), "rnn": (93.85, 0.37)}
"""CIFAR-10 test accuracy in %, mean and standard deviation of 500 runs (Dong & Yang 2020, table 5)."""

CONTROLLERS: dict[str, dict[str, Any]] = {
    "random": {"name": "random"},
    "evolution": {"name": "evolution", "population": 10, "sample": 3},
}

ALL: dict[str, dict[str, Any]] = {
    **CONTROLLERS,
    "evolution, our defaults": {"name": "evolution"},
    "evolution, sample 8": {"name": "evolution", "sample": 8},
    "evolution, fresh": {"name": "evolution", "sample": 8, "fresh": True},
    "evolution, the worst dies": {"name": "evolution", "sample": 8, "fresh": True, "dies": "worst"},
    "nsga2": {"name": "nsga2"},
    "rnn": {"name": "rnn"},
    "local_search": {"name": "local_search"},
    "bananas": {"name": "bananas"},
    "gp": {"name": "gp"},
    "optuna, tpe": {"name": "optuna"},
}
"""By label: every controller, and settings that tell what makes a difference."""

FEWER = {
    "bananas": 100,
    "optuna, tpe": 200,
    "Syne Tune REA": 100,
    "Syne Tune BORE": 9,
    "Syne Tune CQR": 3,
}
"""Seeds at most: BORE and CQR take minutes a search."""

TESTS = {"CIFAR-10": "c10_test_200", "CIFAR-100": "c100_test_200", "ImageNet16-120": "in16_test_200"}
"""The table's column of each dataset's test accuracy."""

ROWS = {
    "authors": ("nb201", ()),
    "once": ("nb201-once", ("--set=deduplicate=true", "--set=space.prune=true")),
}


def timed(table: str, seeds: int, evaluations: int) -> dict[str, float]:
    """Return the seconds of so many searches by evolution, in this process, in a file of SQLite."""
    _, values = read(CONFIG)
    values["evaluator"]["table"] = table
    del values["max_seconds"]
    configs = plan({**values, "trials": evaluations, "seeds": seeds}, "timed")
    chosen = [config for config in configs if config.controller["name"] == "evolution"]

    def drive(row: Any, config: SearchConfig, tasks: TaskSource) -> str:
        search = SearchDriver(store, row, config, config.make_space(), tasks, Silent())
        return search.run(executor(config, tasks))

    with tempfile.TemporaryDirectory() as folder, Store(f"sqlite:///{folder}/nas.db", create=True) as store:
        wall, cpu = time.perf_counter(), time.process_time()
        run(store, chosen, drive)
        return {
            "searches": seeds,
            "evaluations": evaluations,
            "seconds": time.perf_counter() - wall,
            "cpu_seconds": time.process_time() - cpu,
        }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=at_least(1), default=500)
    here = [name for name in PUBLISHED if name in installed("controller")]
    parser.add_argument("--controllers", nargs="+", choices=PUBLISHED, default=here)
    parser.add_argument("--table", help="by default nasbench201/nasbench201.csv.gz in NAS_DATA")
    parser.add_argument("--db", default="sqlite:///nasbench201.db")
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--all", action="store_true", help="every controller, and other libraries")
    parser.add_argument("--only", nargs="+", choices=[*ALL, *PEERS], help="make these of --all alone")
    parser.add_argument(
        "--peers", nargs="*", choices=PEERS, default=available(), help="by default all installed"
    )
    parser.add_argument("--draw", action="store_true", help="draw FILE.png and write FILE.md from FILE.json")
    arguments = parser.parse_args()
    if arguments.all:
        require(parser, "optuna", "scipy")
        torch.set_num_threads(1)
        everything(arguments, arguments.table or str(data(parser, "nasbench201/nasbench201.csv.gz")))
        return
    if arguments.draw:
        report = json.loads(arguments.output.with_suffix(".json").read_text())
        if "curves" not in report:
            parser.error("FILE.json is from before curves were recorded; run the benchmark again.")
        write(report, arguments.output)
        return
    torch.set_num_threads(1)
    table = arguments.table or str(data(parser, "nasbench201/nasbench201.csv.gz"))
    sections = (CONTROLLERS.get(name, {"name": name}) for name in arguments.controllers)
    controllers = f"[{', '.join(map(inline, sections))}]"

    speed = timed(table, arguments.seeds, 100)
    results = []
    for protocol, (name, settings) in ROWS.items():
        printed = nas(
            "benchmark",
            str(CONFIG),
            f"--name={name}",
            f"--seeds={arguments.seeds}",
            f"--set=controllers={controllers}",
            f"--set=evaluator.table={table}",
            *settings,
            "--format=json",
            db=arguments.db,
        )
        results += [{"protocol": protocol, **row} for row in json.loads(printed)]
    names = [f"nb201-{name}-*" for name in arguments.controllers]

    command = f"python benchmarks/nasbench201.py --seeds {arguments.seeds} --controllers "
    command += " ".join(arguments.controllers)
    report = {
        "command": command,
        "environment": environment(),
        "machine": platform.processor() or platform.machine(),
        "published": PUBLISHED,
        "speed": speed,
        "results": results,
        "curves": recorded(arguments.db, names),
    }
    arguments.output.with_suffix(".json").write_text(json.dumps(report, indent=1) + "\n")
    write(report, arguments.output)


def everything(arguments: argparse.Namespace, table: str) -> None:
    """Make every search, and write the page."""
    space, cells = maker("space", {"name": "nasbench201", "prune": False})(), pd.read_csv(table)
    places = {space.decode(text).choices: place for place, text in enumerate(cells["arch"])}
    scored = zip(places, cells["c10_valid_12"], cells["cost_12_s"], strict=True)
    rows = {choices: Row(score, seconds) for choices, score, seconds in scored}
    starts: dict[str, Start] = {label: ours(maker("controller", section)) for label, section in ALL.items()}
    starts |= {name: PEERS[name][1] for name in arguments.peers}
    seconds, found = read(CONFIG)[1]["max_seconds"], dict[str, list[Found]]()
    for name in arguments.only or starts:
        seeds = min(arguments.seeds, FEWER.get(name, arguments.seeds))
        record = arguments.output.with_suffix(".jsonl")
        found[name] = list(searches(name, starts[name], space, rows, seconds, seeds, record))
    if arguments.only:
        return
    columns = {"validation": "c10_valid_12", **TESTS}
    report = {
        "command": shlex.join(["python", "benchmarks/nasbench201.py", *sys.argv[1:]]),
        "environment": environment(),
        "versions": {
            name: version(name) for name in ("optuna", "syne-tune") if find_spec(name.replace("-", "_"))
        },
        "best": {dataset: float(cells[column].max()) for dataset, column in TESTS.items()},
        "searches": {
            name: {
                "trials": statistics.fmean(one.trials for one in some),
                **{
                    key: " ".join(f"{cells[column][places[one.best]]:.4f}" for one in some)
                    for key, column in columns.items()
                },
            }
            for name, some in found.items()
        },
    }
    arguments.output.with_suffix(".json").write_text(json.dumps(report, indent=1) + "\n")
    arguments.output.with_suffix(".md").write_text(compared(report))


def write(report: dict[str, Any], output: Path) -> None:
    """Write the page and the picture of a report."""
    picture = output.with_suffix(".png")
    drawn(report["curves"], picture)
    output.with_suffix(".md").write_text(page(report, picture.name))


def inline(section: dict[str, Any]) -> str:
    """Return a section as TOML in one line."""
    return "{" + ", ".join(f"{key} = {json.dumps(value)}" for key, value in section.items()) + "}"


def page(report: dict[str, Any], picture: str) -> str:
    speed, results = report["speed"], report["results"]
    lines = [
        "# Controllers on NAS-Bench-201",
        "",
        f"`{report['command']}`",
        "",
        "CIFAR-10 accuracy in %, mean ± standard deviation over seeds (half of the mean's 95 % interval",
        "in brackets). The search sees the validation accuracy after 12 epochs; `test` is the mean test",
        "accuracy after 200 epochs of the architecture with the best of them. p: two-sided Mann-Whitney",
        "test against random search, on the test accuracies. `published`: Dong & Yang 2020, 500 runs each.",
        "",
        "| protocol | controller | seeds | simulated s | trials | reused | validation | test | published "
        "| p |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in results:
        mean, std = PUBLISHED[row["controller"]]
        p = "" if row["p_test"] is None else f"{row['p_test']:.1e}"
        lines.append(
            f"| {row['protocol']} | {row['controller']} | {row['searches']} | {row['cost']:.0f} "
            f"| {row['trials']:.1f} | {row['reused']:.1f} | {interval(row, 'score')} "
            f"| {interval(row, 'test')} | {mean:.2f} ± {std:.2f} | {p} |"
        )
    return "\n".join(
        [
            *lines,
            "",
            "Protocol `authors`: every evaluation is paid for, as in their searches. `once`: an evaluation",
            "of a network that was evaluated before costs nothing, and isomorphic cells are one network;",
            "this is the service's default. The picture shows `authors`.",
            "",
            f"![Best validation accuracy and its test accuracy over simulated time]({picture})",
            "",
            f"{speed['searches']} searches of {speed['evaluations']} evaluations by evolution, each trial",
            f"two transactions in a file of SQLite, took {speed['cpu_seconds']:.0f} s of CPU time on one",
            f"thread ({speed['seconds']:.0f} s on the clock).",
            "",
        ]
    )


def compared(report: dict[str, Any]) -> str:
    """Return the page of every controller and of other libraries."""
    from scipy.stats import ttest_ind

    found = {
        name: {key: [float(value) for value in own[key].split()] for key in ("validation", *TESTS)}
        for name, own in report["searches"].items()
    }

    def p(name: str, other: str, dataset: str) -> str:
        if other not in found or name == other:
            return ""
        test = ttest_ind(found[name][dataset], found[other][dataset], equal_var=False)
        return f"{test.pvalue:.0e}"

    best = ", ".join(f"{value:.2f} on {dataset}" for dataset, value in report["best"].items())
    lines = [
        "# Every controller on NAS-Bench-201, and other libraries",
        "",
        f"`{report['command']}`",
        "",
        textwrap.fill(
            "A search sees the CIFAR-10 validation accuracy after 12 epochs, and ends after 12,000 "
            "simulated seconds; every evaluation is paid for, also of a cell that was evaluated before. Test "
            "accuracy in % after 200 epochs of the cell with the best validation accuracy, mean ± standard "
            "deviation over seeds (half of the mean's 95 % interval in brackets). The best of the table: "
            f"{best}. p: two-sided Welch tests, of CIFAR-10 against Optuna's TPE, and of all three against "
            "`evolution`.",
            100,
        ),
        "",
        "| search | seeds | trials | validation | CIFAR-10 | CIFAR-100 | ImageNet16-120 | p, TPE "
        "| p, `evolution` |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, own in found.items():
        against = ", ".join(filter(None, (p(name, "evolution", dataset) for dataset in TESTS)))
        lines.append(
            f"| {name if name in PEERS else f'`{name}`'} | {len(own['validation'])} "
            f"| {report['searches'][name]['trials']:.1f} | {' | '.join(map(spread, own.values()))} "
            f"| {p(name, 'Optuna TPE', 'CIFAR-10')} | {against} |"
        )
    others = {label: section for label, section in ALL.items() if section != {"name": label}}
    settings = (f"`{label}`: `{inline(section)}`" for label, section in others.items())
    versions = ", ".join(f"{name} {number}" for name, number in report["versions"].items())
    return "\n".join(
        [
            *lines,
            "",
            "Settings that are no defaults, or labels that are no names:",
            "",
            *(f"- {one}" for one in settings),
            "",
            f"Other libraries, at their defaults: {versions}.",
            "",
        ]
    )


def spread(values: Sequence[float]) -> str:
    """Return mean, standard deviation and half of the mean's 95 % interval."""
    mean, half = statistics.fmean(values), half_width_over_seeds(values)
    return f"{mean:.2f}" if half is None else f"{mean:.2f} ± {statistics.stdev(values):.2f} ({half:.2f})"


def interval(row: dict[str, Any], of: str) -> str:
    if row[f"{of}_std"] is None:  # of a single seed
        return f"{row[of]:.2f}"
    return f"{row[of]:.2f} ± {row[f'{of}_std']:.2f} ({row[f'{of}_ci95']:.2f})"


if __name__ == "__main__":
    main()
