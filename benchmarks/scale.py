"""What a trial costs the driver on Ray, from the first to the last of many, and how busy many slots are.

    python benchmarks/scale.py --db postgresql+psycopg://nas@localhost/scale -o docs/results/scale

Searches of no-op trials: the driver's CPU time, with that of Ray's threads in it, and its memory, over the
trials before each mark; then the time to take the search up again, which replays all of them. Last, a search
of trials that sleep, on many slots. Writes FILE.json and FILE.md.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from arguments import at_least
from silent import Silent

from nas.controller import Outcome
from nas.driver.creation import create
from nas.driver.search import SearchDriver
from nas.driver.trials import executor
from nas.evaluator import AnyJob
from nas.executors.ray import start
from nas.settings.search import SearchConfig, validate
from nas.storage.store import Store
from nas.training.provenance import environment
from nas.transfer.files import load

WORKERS = 2
"""Slots for trials that take no time."""

RESUMED = ("random", "evolution")
"""Controllers whose searches are taken up again."""

WINDOW = 1_000
"""Trials behind each figure: the last ones before a mark."""


def configure(
    trials: int, workers: int, seconds: float = 0.0, controller: str = "evolution", executor: str = "ray"
) -> SearchConfig:
    return validate(
        {
            "space": "nas.testing.toys:Toy",
            "controller": controller,
            "executor": executor,
            "tasks": "sinusoid",
            "learner": "maml",
            "evaluator": {"name": "nas.testing.evaluators:Scripted", "seconds": seconds},
            "workers": workers,
            "trials": trials,
            "deduplicate": False,
        }
    )


def memory() -> float:
    """Return the memory that this process alone has, in MB."""
    gc.collect()
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    private = [line.split() for line in lines if line.startswith("Private_")]
    return sum(int(kilobytes) for _, kilobytes, _ in private) / 1e3


class Marks:
    """Notes time and memory where the trials before a mark begin, and at the mark.

    Args:
        marks: numbers of trials that have ended.
    """

    def __init__(self, marks: Sequence[int]) -> None:
        self._at = {*marks, *(mark - min(WINDOW, marks[0]) for mark in marks)}
        self._ended = 0
        self.seen: dict[int, tuple[float, float, float]] = {}

    def _now(self) -> tuple[float, float, float]:
        return time.process_time(), time.perf_counter(), memory()

    def recorded(self, number: int, outcome: Outcome) -> None:
        self._ended += 1
        if self._ended in self._at:
            self.seen[self._ended] = self._now()

    def started(self, job: AnyJob) -> None:
        if not self.seen:  # workers are ready: their start is no trial's
            self.seen[0] = self._now()

    def reported(self, job: AnyJob, outcome: Outcome) -> None: ...

    def retried(self, job: AnyJob, error: str) -> None: ...


class Slots:
    """Notes when trials that sleep begin and end."""

    def __init__(self) -> None:
        self.begun: list[float] = []
        self.ended: list[float] = []

    def started(self, job: AnyJob) -> None:
        self.begun.append(time.perf_counter())

    def recorded(self, number: int, outcome: Outcome) -> None:
        self.ended.append(time.perf_counter())

    def reported(self, job: AnyJob, outcome: Outcome) -> None: ...

    def retried(self, job: AnyJob, error: str) -> None:
        raise AssertionError(error)


def grow(url: str, marks: Sequence[int]) -> dict[str, Any]:
    """Return what trials cost before each mark, and the seconds to take all of them up again."""
    config = configure(marks[-1], WORKERS)
    tasks, space = config.make_source(), config.make_space()
    with Store(url, create=True) as store:
        row = create(store, config, tasks)
        noted = Marks(marks)
        SearchDriver(store, row, config, space, tasks, noted).run(executor(config, tasks))
        rows = []
        for mark in marks:
            before = mark - min(WINDOW, marks[0])
            cpu, wall, _ = (b - a for a, b in zip(noted.seen[before], noted.seen[mark], strict=True))
            count = mark - before
            rows.append(
                {
                    "trials": mark,
                    "cpu_ms": round(1e3 * cpu / count, 3),
                    "wall_ms": round(1e3 * wall / count, 3),
                    "memory_mb": round(noted.seen[mark][2], 1),
                }
            )
        began = time.perf_counter(), time.process_time()
        again = SearchDriver(store, store.search(row.name), config, space, tasks, Marks(marks))
        again.run(executor(config, tasks))
        resumed = time.perf_counter() - began[0], time.process_time() - began[1]
        store.delete(row.id)
    found = {"marks": rows, "resume_s": round(resumed[0], 2), "resume_cpu_s": round(resumed[1], 2)}
    print(found, flush=True)
    return found


def resume(file: Path, others: Mapping[str, str], trials: int) -> list[dict[str, Any]]:
    """Return what it takes to take up searches of so many trials, by controller and database.

    They run in this process on a new SQLite database, and are copied to the others, which are by name.
    """
    here, rows = f"sqlite:///{file}", list[dict[str, Any]]()
    settings = {name: configure(trials, 1, controller=name, executor="inline") for name in RESUMED}
    tasks, space = settings[RESUMED[0]].make_source(), settings[RESUMED[0]].make_space()
    with Store(here, create=True) as store:
        for config in settings.values():
            row = create(store, config, tasks)
            SearchDriver(store, row, config, space, tasks, Silent()).run(executor(config, tasks))
        names = store.names()[::-1]
    for url in others.values():
        load(url, file)
    for (controller, config), name in zip(settings.items(), names, strict=True):
        for database, url in {"SQLite": here, **others}.items():
            with Store(url) as store:
                began = time.perf_counter(), time.process_time()
                again = SearchDriver(store, store.search(name), config, space, tasks, Silent())
                again.run(executor(config, tasks))
                took = time.perf_counter() - began[0], time.process_time() - began[1]
                if url != here:
                    store.delete(store.search(name).id)
            found = {"controller": controller, "database": database, "trials": trials}
            rows.append(found | {"seconds": round(took[0], 2), "cpu_s": round(took[1], 2)})
            print(rows[-1], flush=True)
    return rows


def sleep(url: str, slots: int, seconds: float, rounds: int) -> dict[str, Any]:
    """Return the share of the slots' time that trials sleep, until no trial is left to begin."""
    config = configure(slots * rounds, slots, seconds)
    tasks = config.make_source()
    with Store(url, create=True) as store:
        row = create(store, config, tasks)
        seen = Slots()
        began = time.perf_counter()
        work = SearchDriver(store, row, config, config.make_space(), tasks, seen)
        work.run(executor(config, tasks))
        store.delete(row.id)
    there, last = first_taken(seen), seen.begun[-1]
    slept = sum(max(min(end, last) - (end - seconds), 0.0) for end in seen.ended)
    return {
        "slots": len(there),
        "seconds": seconds,
        "trials": len(seen.ended),
        "first_after_s": round(there[0] - began, 1),
        "all_after_s": round(there[-1] - began, 1),
        "last_after_s": round(last - began, 1),
        "busy": round(slept / sum(last - at for at in there), 4),
    }


def first_taken(seen: Slots) -> list[float]:
    """Return when each slot was taken for the first time: workers get a job as soon as they are ready."""
    events = sorted([(at, 1) for at in seen.begun] + [(at, -1) for at in seen.ended])
    running, found = 0, list[float]()
    for at, change in events:
        running += change
        if running > len(found):
            found.append(at)
    return found


def page(report: dict[str, Any]) -> str:
    (before, after), first = report["load"], report["grow"][0]["marks"][0]["trials"]
    lines = [
        "# Many trials, many slots",
        "",
        f"`{report['command']}`",
        "",
        f"On Ray, on one machine with {report['cores']} cores, which others used, too: its load was",
        f"{before:.1f} at the beginning and {after:.1f} at the end.",
        "",
        f"No-op trials on {WORKERS} workers, in one search. The driver's CPU time for a trial, and the time",
        f"that went by, over the {min(WINDOW, first):,} trials before each mark; the memory that the driver",
        "alone holds at the mark.",
        "",
        "| database | trials | CPU ms a trial | ms a trial | memory, MB |",
        "|---|---|---|---|---|",
    ]
    for found in report["grow"]:
        for mark in found["marks"]:
            cells = f"{mark['cpu_ms']:.2f} | {mark['wall_ms']:.2f} | {mark['memory_mb']:.1f}"
            lines.append(f"| {found['database']} | {mark['trials']:,} | {cells} |")
    lines += ["", "To take up such a search again, after its last trial:", ""]
    for found in (one for one in report["grow"] if "resume_s" in one):
        cpu = f"{found['resume_cpu_s']:.1f} s are CPU time"
        lines.append(f"- {found['database']}: {found['resume_s']:.1f} s, of which {cpu}")
    lines += ["", report["remark"]] if "remark" in report else []
    for found in report["sleep"]:
        slots, trials, seconds = found["slots"], found["trials"], found["seconds"]
        first, every, last = (found[f"{which}_after_s"] for which in ("first", "all", "last"))
        lines += [
            "",
            f"**{slots} slots, {trials:,} trials that sleep {seconds:g} s:** the first worker was ready",
            f"{first:.0f} s after the start, the last one after {every:.0f} s. From when each was ready to",
            f"when the last trial began, after {last:.0f} s, {100 * found['busy']:.1f} % of it was slept.",
        ]
    if "resume" in report:
        lines += [
            "",
            f"`{report['resume']['command']}`",
            "",
            "To take up a search that ran in one process, by controller, under a load of "
            f"{report['resume']['load'][0]:.0f}:",
            "",
            "| controller | database | trials | seconds | of CPU time |",
            "|---|---|---|---|---|",
        ]
        for found in report["resume"]["rows"]:
            cells = f"{found['trials']:,} | {found['seconds']:.1f} | {found['cpu_s']:.1f}"
            lines.append(f"| {found['controller']} | {found['database']} | {cells} |")
    return "\n".join([*lines, ""])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--marks", type=at_least(1), nargs="*", default=[1_000, 5_000, 20_000])
    parser.add_argument("--db", action="append", default=[], help="a database besides a file of SQLite")
    parser.add_argument("--slots", type=at_least(1), nargs="*", default=[64])
    parser.add_argument("--seconds", type=float, default=2.0, help="that a trial sleeps")
    parser.add_argument("--rounds", type=at_least(2), default=15, help="trials of a slot")
    parser.add_argument("--resume", type=at_least(1), help="take up searches of so many trials, nothing else")
    parser.add_argument("-o", "--output", type=Path, required=True)
    arguments = parser.parse_args()
    file = arguments.output.with_suffix(".json")
    before = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder, ExitStack() as running:
        if arguments.resume is None:
            report = measured(arguments, Path(folder), running)
            report["load"] = [round(before, 1), round(os.getloadavg()[0], 1)]
        else:
            report = json.loads(file.read_text())
            others = {_database(url): url for url in arguments.db}
            rows = resume(Path(folder) / "nas.db", others, arguments.resume)
            shown = f"python benchmarks/scale.py --resume {arguments.resume}{' --db URL' * len(others)}"
            load = [round(before, 1), round(os.getloadavg()[0], 1)]
            report["resume"] = {"command": shown, "load": load, "rows": rows}
    file.write_text(json.dumps(report, indent=1) + "\n")
    arguments.output.with_suffix(".md").write_text(page(report))


def _database(url: str) -> str:
    """Return what people call a database."""
    return "PostgreSQL" if url.startswith("postgresql") else "SQLite"


def measured(arguments: argparse.Namespace, folder: Path, running: ExitStack) -> dict[str, Any]:
    """Return what trials cost on Ray, and how much of their slots' time they sleep."""
    marks = sorted(arguments.marks)
    given = {
        "marks": marks,
        "slots": arguments.slots,
        "seconds": [arguments.seconds],
        "rounds": [arguments.rounds],
    }
    shown = " ".join(
        f"--{name} {' '.join(f'{value:g}' for value in values)}" for name, values in given.items()
    )
    report: dict[str, Any] = {
        "command": f"python benchmarks/scale.py {shown}{' --db URL' * len(arguments.db)}",
        "environment": environment(),
        "machine": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "grow": [],
        "sleep": [],
    }
    file = f"sqlite:///{folder}/nas.db"
    running.enter_context(start(cpus=max([WORKERS, *arguments.slots])))
    for url in (file, *arguments.db):
        report["grow"].append({"database": _database(url), **grow(url, marks)})
    for slots in arguments.slots:
        report["sleep"].append(sleep(file, slots, arguments.seconds, arguments.rounds))
        print(report["sleep"][-1], flush=True)
    return report


if __name__ == "__main__":
    main()
