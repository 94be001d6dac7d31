"""What viewers of `nas serve` cost: the search's pace, the server's time and its memory.

    python benchmarks/web_viewers.py -o docs/results/web_viewers

A search of trials that sleep runs on this machine, and a server shows it. Viewers ask for the page of the
search as a browser does that is left open: again when the server says, with the tag of what they have, and
for its figures when it changed. Turns with viewers and without take turns. Writes FILE.json and FILE.md.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from arguments import at_least
from sqlalchemy import func, select

from nas.storage.schema import Trial
from nas.storage.store import Store

NAME = "watched"
FIGURES = ("progress",)


class Viewer(threading.Thread):
    """A page that is open until it is told to close."""

    def __init__(self, address: str) -> None:
        super().__init__(daemon=True)
        self._address, self.closed, self.asked = address, threading.Event(), 0
        self._tags: dict[str, str] = {}

    def run(self) -> None:
        pause = 0.0
        while not self.closed.wait(pause):
            pause, changed = self._ask(f"{self._address}/searches/{NAME}")
            for figure in FIGURES if changed else ():
                self._ask(f"{self._address}/searches/{NAME}/figures/{figure}.json")

    def _ask(self, address: str) -> tuple[float, bool]:
        known = self._tags.get(address)
        request = urllib.request.Request(address, headers={"If-None-Match": known} if known else {})
        self.asked += 1
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                answer.read()
                self._tags[address] = answer.headers["ETag"]
                return float(answer.headers["Nas-Next"]), True
        except urllib.error.HTTPError as error:
            if error.code not in (304, 404):  # no figure before the first score
                raise
            return float(error.headers.get("Nas-Next") or 2), False


def used(pid: int) -> float:
    """Return the CPU seconds that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def memory(pid: int) -> float:
    """Return the memory that a process alone has, in MB."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_")) / 1e3


def begun(store: Store) -> int:
    with store.read() as session:
        return session.scalar(select(func.count()).select_from(Trial)) or 0


def turn(store: Store, address: str, pids: tuple[int, int], viewers: int, seconds: float) -> dict[str, Any]:
    """Return what happened while so many viewers looked for so long."""
    open_pages = [Viewer(address) for _ in range(viewers)]
    for page in open_pages:
        page.start()
    time.sleep(min(3.0, seconds / 4))
    server, driver = pids
    before = begun(store), used(server), used(driver), time.perf_counter()
    time.sleep(seconds)
    after = begun(store), used(server), used(driver), time.perf_counter()
    for page in open_pages:
        page.closed.set()
    for page in open_pages:
        page.join()
    trials, served, drove, took = (b - a for a, b in zip(before, after, strict=True))
    return {
        "viewers": viewers,
        "seconds": round(took, 1),
        "trials": trials,
        "pace": round(trials / took, 3),
        "driver_cpu_ms": round(1000 * drove / max(trials, 1), 2),
        "server_cpu_share": round(served / took, 5),
        "server_mb": round(memory(server), 1),
        "asked": sum(page.asked for page in open_pages),
    }


def measure(folder: str, viewers: int, seconds: float, turns: int, sleep: float) -> list[dict[str, Any]]:
    db = f"--db=sqlite:///{folder}/nas.db"
    nas = [sys.executable, "-m", "nas"]
    search = [
        *("--space=nas.testing.toys:Toy", "--controller=random", "--tasks=sinusoid", "--learner=maml"),
        *("--evaluator=nas.testing.evaluators:Scripted", f"--set=evaluator.seconds={sleep}"),
        *("--set=deduplicate=false", "--executor=inline", "--trials=1000000", f"--name={NAME}", db),
    ]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    driver = subprocess.Popen([*nas, "run", *search], **quiet)
    server = None
    try:
        while not Path(folder, "nas.db").exists():
            time.sleep(0.5)
            assert driver.poll() is None
        time.sleep(5)
        server = subprocess.Popen([*nas, "serve", "--port=0", db], stderr=subprocess.PIPE, text=True)
        assert server.stderr is not None
        found = re.search(r"http://\S+", server.stderr.readline())
        assert found is not None
        address, pids, rows = found[0].rstrip("/"), (server.pid, driver.pid), []
        with Store(db.removeprefix("--db=")) as store:
            turn(store, address, pids, 1, min(seconds, 5.0))  # what is imported counts for none
            for _ in range(turns):
                for count in (0, 1, viewers):
                    rows.append(turn(store, address, pids, count, seconds))
                    print(rows[-1], flush=True)
        return rows
    finally:
        for process in (server, driver):
            if process is not None:
                process.terminate()
                process.wait(60)


def page(report: dict[str, Any]) -> str:
    """Return the page of a report."""
    rows, load, many = report["rows"], report["load"], report["viewers"]

    def middle(viewers: int, name: str) -> float:
        return statistics.median(row[name] for row in rows if row["viewers"] == viewers)

    alone = middle(0, "pace")
    lines = [
        "# Viewers of a search that runs",
        "",
        f"`{report['command']}`",
        "",
        f"A search of trials that sleep {report['sleep']:g} s, on SQLite, and `nas serve` beside it, on a",
        f"machine with {report['cores']} cores that others used, too: its load was {load[0]:.1f} at the",
        f"beginning and {load[1]:.1f} at the end. Medians over {report['turns']} turns of",
        f"{report['seconds']:g} s with each number of viewers.",
        "",
        "| viewers | trials a second | against none | driver, CPU ms a trial | server, CPU | memory, MB |",
        "|---|---|---|---|---|---|",
    ]
    for viewers in (0, 1, many):
        pace = middle(viewers, "pace")
        server = f"{100 * middle(viewers, 'server_cpu_share'):.2f} % | {middle(viewers, 'server_mb'):.1f}"
        against = f"{100 * (pace / alone - 1):+.1f} %"
        driver = f"{middle(viewers, 'driver_cpu_ms'):.1f}"
        lines.append(f"| {viewers} | {pace:.3f} | {against} | {driver} | {server} |")
    last = [row["server_mb"] for row in rows if row["viewers"] == many]
    lines += [
        "",
        f"The server's memory after each turn of {many}: {', '.join(f'{mb:.1f}' for mb in last)} MB.",
    ]
    return "\n".join([*lines, ""])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--viewers", type=at_least(2), default=20)
    parser.add_argument("--seconds", type=float, default=400.0, help="of a turn")
    parser.add_argument("--turns", type=at_least(1), default=3, help="of each number of viewers")
    parser.add_argument("--sleep", type=float, default=0.5, help="seconds of a trial")
    parser.add_argument("-o", "--output", type=Path, required=True)
    given = parser.parse_args()
    before = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        rows = measure(folder, given.viewers, given.seconds, given.turns, given.sleep)
    report = {
        "command": f"python benchmarks/web_viewers.py --viewers {given.viewers} --seconds {given.seconds:g} "
        f"--turns {given.turns} --sleep {given.sleep:g}",
        "viewers": given.viewers,
        "seconds": given.seconds,
        "turns": given.turns,
        "sleep": given.sleep,
        "python": platform.python_version(),
        "cores": os.cpu_count(),
        "load": [round(before, 1), round(os.getloadavg()[0], 1)],
        "rows": rows,
    }
    given.output.with_suffix(".json").write_text(json.dumps(report, indent=1) + "\n")
    given.output.with_suffix(".md").write_text(page(report))


if __name__ == "__main__":
    main()
