"""What the pages of `nas serve` take: each page, table and figure of a database with a long search.

    python benchmarks/web_page.py -o docs/results/web_page

Writes a database of two searches in the space `few_shot`, one ended and one running, and asks for every page
as a browser does: of a server that has just started, and again after one more trial of the running search.
Times are the server's; bytes are those sent, compressed. Writes FILE.json and FILE.md.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from arguments import at_least, require
from sqlalchemy import insert

from nas.controller import Measurement as Measured
from nas.controller import Outcome, Score
from nas.settings.search import SearchConfig, validate
from nas.space import Space
from nas.states import SearchState, TrialState
from nas.storage.columns import now
from nas.storage.database import Database
from nas.storage.schema import Architecture, Measurement, Search, Trial
from nas.storage.searches import NewSearch
from nas.storage.store import Store
from nas.storage.trials import NewTrial

STATES = ("completed", "stopped", "reused", "infeasible", "failed")
SHARES = (0.8, 0.1, 0.05, 0.03, 0.02)
STEPS = (100, 200, 300)
LIMIT_MS = 200


class Asked(NamedTuple):
    """What a browser asks for."""

    name: str
    path: str


def pages(trials: int, long: str, ended: str) -> list[Asked]:
    """Return every page, table and figure, and the trials sorted, filtered and paged in all ways."""
    search, middle = f"/searches/{long}", trials // 2
    found = [
        Asked("searches", "/"),
        Asked("a search", search),
        Asked("a search that ended", f"/searches/{ended}"),
    ]
    for column in SORTS:
        found.append(Asked(f"trials by {column.replace('_', ' ')}", f"{search}?sort={column}"))
    for name, query in (
        ("trials from the middle", f"after={middle}"),
        ("trials from the middle, by score", f"sort=score&after={middle}"),
        ("trials back from the middle, by parameters", f"sort=parameters&before={middle}"),
        ("last trials, by score", "sort=score&last=1"),
        ("trials that failed", "state=failed"),
        ("completed trials, by score", "state=completed&sort=score"),
        ("trials of few parameters, by score", "max_parameters=20k&sort=score"),
        ("trials of few MACs", "max_macs=2M"),
        ("trials whose architecture contains a text, by score", "text=conv_3x3&sort=score"),
        ("trials whose architecture contains no such text", "text=nothing"),
        ("trials as CSV", "table=trials&format=csv"),
        ("trials as JSON", "table=trials&format=json"),
    ):
        found.append(Asked(name, f"{search}?{query}"))
    for figure in FIGURES:
        found.append(Asked(f"figure {figure}", f"{search}/figures/{figure}.json"))
    best = f"{search}/trials/{middle}"
    found += [Asked("a trial", best), Asked("a trial's drawing", f"{best}/drawing.svg")]
    found += [Asked("a trial's curves", f"{best}/curves.json")]
    for name, query in (
        ("leaderboard", ""),
        ("leaderboard of one controller", "?controller=evolution"),
        ("leaderboard of few parameters", "?max_parameters=20k"),
        ("front of score and parameters", "?pareto=score,parameters"),
        ("leaderboard of tests", "?stage=test"),
    ):
        found.append(Asked(name, f"/leaderboard{query}"))
    both = f"search={long}&search={ended}"
    found += [Asked("compare", f"/compare?{both}"), Asked("curves compared", f"/compare/curves.json?{both}")]
    return found


SORTS = ("trial", "state", "score", "parameters", "macs", "seconds", "architecture", "finished_at")
FIGURES = ("progress", "scatter-parameters", "scatter-macs")


def configure(name: str, controller: str, trials: int) -> SearchConfig:
    return validate(
        {
            "name": name,
            "space": "few_shot",
            "controller": controller,
            "tasks": "glyphs",
            "learner": "prototypical",
            "trials": trials,
        }
    )


def create(store: Store, config: SearchConfig) -> Search:
    """Create a search as `nas run` does, but for the data, which is not looked at."""
    return store.create_search(
        NewSearch(
            name=config.name,
            source=None,
            config=config.model_dump(mode="json"),
            space=config.space["name"],
            controller=config.controller["name"],
            tasks="glyphs",
            task_label="glyphs 20-way 1-shot",
            learner="prototypical",
            executor=config.executor,
            seed=config.seed,
            trials=config.trials,
            settings=config.settings,
            environment={"python": platform.python_version()},
        )
    )


def rows(search: Search, first: int, texts: list[str], rng: np.random.Generator) -> list[dict[str, Any]]:
    """Draw trials whose accuracy grows with the logarithm of their size."""
    trials = len(texts)
    size = 10 ** rng.uniform(4, 6.5, trials)
    score = np.clip(0.2 + 0.1 * np.log10(size) + rng.normal(0, 0.05, trials), 0.05, 1)
    states = rng.choice(STATES, trials, p=SHARES)
    moment = now()
    return [
        {
            "search_id": search.id,
            "number": number,
            "state": str(states[number]),
            "attempt": 0,
            "architecture_id": first + number,
            "architecture": texts[number],
            "score": float(score[number]) if states[number] in STATES[:3] else None,
            "ci95": 0.01,
            "episodes": 200,
            "train_episodes": 300,
            "seconds": float(rng.exponential(30)),
            "parameters": int(size[number]),
            "macs": int(size[number] * rng.uniform(50, 500)),
            "activations": int(size[number] * rng.uniform(1, 50)),
            "seed": int(rng.integers(2**62)),
            "split": "glyphs/validation",
            "classes": "0" * 64,
            "normalization": "transductive",
            "error": "ValueError: no\nTraceback" if states[number] == "failed" else None,
            "observed": number + 1,
            "created_at": moment,
            "started_at": moment,
            "finished_at": moment,
        }
        for number in range(trials)
    ]


def fill(url: str, trials: int, names: tuple[str, str]) -> None:
    """Write two searches with their trials and measurements in bulk."""
    rng = np.random.default_rng(0)
    database = Database(url, create=True)
    with Store(url, create=True) as store:
        for place, (name, controller) in enumerate(zip(names, ("evolution", "random"), strict=True)):
            config = configure(name, controller, 2 * trials)
            row, space = create(store, config), config.make_space()
            texts = [space.encode(space.sample(rng)) for _ in range(trials)]
            first = 1 + place * trials
            with database.write() as connection:
                keys = [
                    {"id": first + n, "space": "few_shot", "key": f"{name}{n}", "text": text}
                    for n, text in enumerate(texts)
                ]
                connection.execute(insert(Architecture), keys)
                connection.execute(insert(Trial), rows(row, first, texts, rng))
                curves = [
                    {"trial_id": first + n, "metric": metric, "step": step, "value": step / 400}
                    for n in range(trials)
                    for metric in ("score", "train_loss")
                    for step in STEPS
                ]
                connection.execute(insert(Measurement), curves)
            if controller == "random":
                store.acquire(row.id)
                store.release(row.id, SearchState.COMPLETED)
    database.close()


def one_more(store: Store, search: Search, number: int, space: Space[Any], rng: np.random.Generator) -> None:
    """Record one more trial of a search that runs."""
    architecture = space.sample(rng)
    trial = store.begin(
        search.id,
        NewTrial(
            number,
            architecture=space.encode(architecture),
            key=f"more{number}",
            space="few_shot",
            seed=number,
            attempt=0,
        ),
    )
    score = Score(float(rng.uniform(0.5, 0.8)), 0.01, 200, "glyphs/validation", "0" * 64, "transductive")
    costs = {"parameters": int(rng.integers(10**4, 10**6)), "macs": 10**7}
    seen = (Measured(300, "score", 0.7),)
    store.finish(trial, Outcome(TrialState.COMPLETED, architecture, score, 300, 30.0, costs, seen))


def measure(url: str, trials: int, names: tuple[str, str], repeats: int) -> list[dict[str, Any]]:
    """Return a row for each page: milliseconds when asked for first, and after one more trial; bytes.

    Each first look is at a new server, which has shown a search of no trials before: templates are read.
    """
    from starlette.testclient import TestClient

    from nas.web.guard import rules
    from nas.web.site import Site

    rng = np.random.default_rng(1)
    asked = pages(trials, *names)
    numbers = iter(range(trials, 10 * trials + 10_000))
    looks = {one.name: Looks([], [], []) for one in asked}
    sent: dict[str, int] = {}
    space = configure(names[0], "evolution", 1).make_space()
    with Store(url, create=True) as driver, Store(url) as store:
        search = driver.acquire(driver.search(names[0]).id)
        create(driver, configure("none", "random", 1))

        def browser() -> TestClient:
            site = Site(store).app(rules("127.0.0.1", token=None, prefix="", public=None, port=8000))
            client = TestClient(site, base_url="http://127.0.0.1:8000")
            for path in ("/searches/none", "/compare", "/leaderboard?stage=test"):
                client.get(path)
            return client

        def take(client: TestClient, one: Asked) -> tuple[float, float]:
            began = time.perf_counter(), time.process_time()
            with client.stream("GET", one.path) as answer:
                size = sum(map(len, answer.iter_raw()))
            took = 1000 * (time.perf_counter() - began[0]), 1000 * (time.process_time() - began[1])
            assert answer.status_code == 200, (one, answer.status_code)
            sent[one.name] = size
            return took

        for one in asked:  # what is imported counts for none
            take(browser(), one)
        for _ in range(repeats):
            for one in asked:
                client, seen = browser(), looks[one.name]
                wall, cpu = take(client, one)
                seen.wall.append(wall)
                seen.cpu.append(cpu)
                one_more(driver, search, next(numbers), space, rng)
                seen.again.append(take(client, one)[1])
        driver.release(search.id, SearchState.STOPPED)
    return [
        {
            "page": one.name,
            "path": one.path,
            "cpu_ms": round(min(looks[one.name].cpu), 1),
            "wall_ms": round(min(looks[one.name].wall), 1),
            "again_cpu_ms": round(min(looks[one.name].again), 1),
            "bytes": sent[one.name],
        }
        for one in asked
    ]


class Looks(NamedTuple):
    """Milliseconds that went by, of CPU time, and of CPU time after one more trial."""

    wall: list[float]
    cpu: list[float]
    again: list[float]


def page(report: dict[str, Any]) -> str:
    """Return the page of a report."""
    found, load = report["rows"], report["load"]
    slow = [row for row in found if row["cpu_ms"] > LIMIT_MS]
    most = max(found, key=lambda row: row["bytes"])
    lines = [
        "# Pages of a long search",
        "",
        f"`{report['command']}`",
        "",
        f"Two searches of {report['trials']:,} trials each, with {6 * report['trials']:,} measurements each,",
        f"on {report['database']}; one of them runs. The least of {report['repeats']} times, on a machine",
        f"with {report['cores']} cores that others used, too: its load was {load[0]:.1f} at the beginning",
        f"and {load[1]:.1f} at the end. So it is CPU time that tells; on an idle machine it is what goes by.",
        "",
        "*First*: asked of a server that has shown nothing of these searches. *Again*: after one more trial",
        "of the search that runs. Bytes are those sent, compressed.",
        "",
        f"{len(found) - len(slow)} of {len(found)} take {LIMIT_MS} ms of CPU time at most at first.",
        *([f"More take: {'; '.join(row['page'] for row in slow)}."] if slow else []),
        f"The largest answer, {most['page']}, has {most['bytes']:,} bytes.",
        "",
        "| | first, CPU ms | first, ms | again, CPU ms | bytes |",
        "|---|---|---|---|---|",
    ]
    for row in found:
        times = f"{row['cpu_ms']:.0f} | {row['wall_ms']:.0f} | {row['again_cpu_ms']:.0f}"
        lines.append(f"| {row['page']} | {times} | {row['bytes']:,} |")
    return "\n".join([*lines, ""])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trials", type=at_least(10), default=100_000, help="of each of two searches")
    parser.add_argument("--repeats", type=at_least(1), default=5)
    parser.add_argument("--db", metavar="URL", help="an empty database; default: a file of SQLite")
    parser.add_argument("-o", "--output", type=Path, required=True)
    arguments = parser.parse_args()
    require(parser, "starlette", "httpx2")
    before = os.getloadavg()[0]
    names = ("long", "long-random")
    with tempfile.TemporaryDirectory() as folder:
        url = arguments.db or f"sqlite:///{folder}/nas.db"
        fill(url, arguments.trials, names)
        found = measure(url, arguments.trials, names, arguments.repeats)
    report = {
        "command": f"python benchmarks/web_page.py --trials {arguments.trials} --repeats {arguments.repeats}"
        + (" --db URL" if arguments.db else ""),
        "database": "PostgreSQL" if url.startswith("postgresql") else "SQLite",
        "trials": arguments.trials,
        "repeats": arguments.repeats,
        "python": platform.python_version(),
        "cores": os.cpu_count(),
        "load": [round(before, 1), round(os.getloadavg()[0], 1)],
        "rows": found,
    }
    arguments.output.with_suffix(".json").write_text(json.dumps(report, indent=1) + "\n")
    arguments.output.with_suffix(".md").write_text(page(report))


if __name__ == "__main__":
    main()
