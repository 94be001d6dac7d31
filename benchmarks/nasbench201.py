"""Controllers in the table of NAS-Bench-201, compared with what its authors published.

    NAS_DATA=… python benchmarks/nasbench201.py -o docs/results/nasbench201

The searches are those of `nas benchmark examples/nasbench201.toml`: the signal is the CIFAR-10 validation
accuracy after 12 epochs, the budget 12,000 simulated seconds, 500 seeds. A second benchmark lets networks be
trained once, as the service does by default. What is in the database already is not run again. Before that,
500 searches of 100 evaluations by evolution are timed. Writes FILE.json, FILE.md and FILE.png; with `--draw`
the last two alone, from FILE.json.
"""

from __future__ import annotations

import argparse
import json
import platform
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from arguments import at_least, data
from curves import drawn, recorded
from shell import nas

from nas.comparison.benchmark import plan, run
from nas.driver.search import SearchDriver
from nas.driver.trials import executor
from nas.plugins import installed
from nas.settings.search import SearchConfig
from nas.settings.sections import read
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

ROWS = {
    "authors": ("nb201", ()),
    "once": ("nb201-once", ("--set=deduplicate=true", "--set=space.prune=true")),
}


class Silent:
    """An observer without a word."""

    def started(self, *arguments: object) -> None: ...

    reported = recorded = retried = started


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
    parser.add_argument("--draw", action="store_true", help="draw FILE.png and write FILE.md from FILE.json")
    arguments = parser.parse_args()
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


def interval(row: dict[str, Any], of: str) -> str:
    if row[f"{of}_std"] is None:  # of a single seed
        return f"{row[of]:.2f}"
    return f"{row[of]:.2f} ± {row[f'{of}_std']:.2f} ({row[f'{of}_ci95']:.2f})"


if __name__ == "__main__":
    main()
