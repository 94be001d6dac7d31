"""What the service adds to a trial: propose, run, commit, observe, with nothing to train.

    python benchmarks/overhead.py -o docs/results/overhead.json

Inline and processes are timed alone, the latter with the start of the processes; on Ray, each size runs as a
search and as bare Ray Tune (a no-op class trainable, random suggestions, warm actors that import torch,
loggers off, the same number at a time), in turn on the same cluster.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from arguments import at_least
from silent import Silent

from nas.driver.creation import create
from nas.driver.search import SearchDriver
from nas.driver.trials import executor as make_executor
from nas.executors.ray import start
from nas.settings.search import SearchConfig, validate
from nas.storage.store import Store

WORKERS = 2

FASTEST = {
    "RAY_AIR_NEW_OUTPUT": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "3600",
}
"""What makes Tune spend least on its own, in its environment."""


def configure(trials: int, executor: str) -> SearchConfig:
    return validate(
        {
            "space": "nas.testing.toys:Toy",
            "controller": "evolution",
            "tasks": "sinusoid",
            "learner": "maml",
            "evaluator": "nas.testing.evaluators:Scripted",
            "executor": executor,
            "workers": 1 if executor == "inline" else WORKERS,
            "trials": trials,
            "deduplicate": False,
        }
    )


def search(trials: int, executor: str) -> float:
    """Return the seconds of a whole search, from its first proposal to its last commit."""
    config = configure(trials, executor)
    tasks = config.make_source()
    runner = make_executor(config, tasks)
    with tempfile.TemporaryDirectory() as folder, Store(f"sqlite:///{folder}/nas.db", create=True) as store:
        row = create(store, config, tasks)
        work = SearchDriver(store, row, config, config.make_space(), tasks, Silent())
        begin = time.perf_counter()
        work.run(runner)
        seconds = time.perf_counter() - begin
        assert len(store.history(row.id)) == trials
    return seconds


def bare_tune(trials: int) -> float:
    """Return the seconds of a bare Ray Tune run."""
    os.environ.update(FASTEST)
    from ray import tune

    class Noop(tune.Trainable):
        def setup(self, config: dict[str, Any]) -> None:
            import torch  # noqa: F401  (as every trainable that trains does)

        def reset_config(self, new_config: dict[str, Any]) -> bool:
            return True

        def step(self) -> dict[str, Any]:
            return {"score": 0.5, "done": True}

    with tempfile.TemporaryDirectory() as folder:
        tuner = tune.Tuner(
            tune.with_resources(Noop, {"cpu": 1}),
            param_space={"x": tune.uniform(0, 1)},
            tune_config=tune.TuneConfig(num_samples=trials, max_concurrent_trials=WORKERS, reuse_actors=True),
            run_config=tune.RunConfig(
                storage_path=folder,
                verbose=0,
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
            ),
        )
        begin = time.perf_counter()
        results = tuner.fit()
        seconds = time.perf_counter() - begin
        assert len(results) == trials
        assert not results.errors
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", type=at_least(1), nargs="+", default=[100, 1000, 3000])
    parser.add_argument("--repeats", type=at_least(1), default=3)
    parser.add_argument("-o", "--output", type=Path)
    arguments = parser.parse_args()
    rows = []
    for path, trials in itertools.product(("inline", "process"), arguments.sizes):
        seconds = [search(trials, path) for _ in range(arguments.repeats)]
        rows.append(
            {"path": path, "trials": trials, "ms_per_trial": 1e3 * statistics.median(seconds) / trials}
        )
        print(rows[-1], flush=True)
    with start(cpus=WORKERS):
        bare_tune(20)
        for trials in arguments.sizes:
            pairs = [(search(trials, "ray"), bare_tune(trials)) for _ in range(arguments.repeats)]
            ours, bare = (1e3 * statistics.median(column) / trials for column in zip(*pairs, strict=True))
            ratios = [a / b for a, b in pairs]
            rows.append(
                {
                    "path": "ray",
                    "trials": trials,
                    "ms_per_trial": ours,
                    "bare_tune_ms_per_trial": bare,
                    "ratio": statistics.median(ratios),
                    "ratios": ratios,
                }
            )
            print(rows[-1], flush=True)
    if arguments.output:
        arguments.output.write_text(json.dumps({"workers": WORKERS, "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
