"""Record what the service does, to the last bit, and compare after a change that should change nothing.

The record holds the proposals of every controller, what every space says of its architectures, and the
results of small searches and evaluations: every space, learner and strategy. Scores compare on one machine
alone; give each run as many threads (OMP_NUM_THREADS=1).
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import proposals
from typer.testing import CliRunner

from nas.cli.main import app
from nas.training.provenance import environment, machine

TRIAL = (
    *("kind", "state", "score", "ci95", "episodes", "train_episodes", "parameters", "macs", "architecture"),
    *("seed", "attempt", "reused", "split", "classes", "normalization", "derived", "derived_epochs"),
)
"""What is recorded of a trial besides its measurements."""

EVERY = {
    "executor": "inline",
    "resources.precision": "float32",
    "budget.train_episodes": 6,
    "budget.validation_episodes": 4,
}
GLYPHS = {"tasks.name": "glyphs", "tasks.ways": 3, "tasks.queries": 2}
PROTOTYPICAL = {**GLYPHS, "learner.name": "prototypical"}
RANDOM = {"controller.name": "random"}
FEW_SHOT = {"space.name": "few_shot", "space.channels": 4}

SPACES: dict[str, dict[str, Any]] = {
    "few_shot": {**FEW_SHOT, **PROTOTYPICAL},
    "chain": {"space.name": "chain", "space.channels": [4, 8], **PROTOTYPICAL},
    "darts": {"space.name": "darts", "space.channels": 2, **PROTOTYPICAL},
    "nasbench201": {"space.name": "nasbench201", "space.channels": 4, **PROTOTYPICAL},
    "mlp": {
        "space.name": "mlp",
        "tasks.name": "sinusoid",
        "learner.name": "maml",
        "learner.inner_lr": 0.01,
    },
}
LEARNERS: dict[str, dict[str, Any]] = {
    "anil": {"name": "anil", "inner_steps": 2},
    "classifier": {"name": "classifier"},
    "maml": {"name": "maml", "inner_steps": 2},
    "maml, first order": {"name": "maml", "order": 1, "normalization": "support", "schedule": "cosine"},
    "matching": {"name": "matching", "meta_batch": 2},
    "matching, full context": {"name": "matching", "full_context": True, "distance": "l2"},
    "meta_sgd": {"name": "meta_sgd", "inner_steps": 2, "test_steps": 3},
    "pretrain": {"name": "pretrain", "inner_lr": 0.5, "test_steps": 2},
    "prototypical": {"name": "prototypical", "meta_batch": 2, "schedule": "linear"},
    "prototypical, running": {"name": "prototypical", "lr": 0.02, "normalization": "running"},
    "relation": {"name": "relation", "hidden": 16},
    "reptile": {"name": "reptile", "inner_lr": 0.05, "inner_steps": 3, "test_steps": 5, "meta_batch": 2},
}
STRATEGIES: dict[str, dict[str, Any]] = {
    "darts": {"name": "darts"},
    "darts, second order": {"name": "darts", "order": 2},
    "darts, exact": {"name": "darts", "order": "exact", "stop_eigenvalue": 1e9},
    "enas": {"name": "enas", "weight_steps": 2, "policy_steps": 1, "children": 2, "samples": 4},
    "gdas": {"name": "gdas"},
    "random_sharing": {"name": "random_sharing", "samples": 4},
}
EVALUATED = ("space mlp", "learner prototypical")
"""The searches of which a trial is evaluated on test tasks."""

EVALUATION = (
    *("--train-episodes=6", "--validate-every=3", "--patience=0", "--validation-episodes=4"),
    *("--test-episodes=1000", "--seeds=1", "--workers=1"),
)
TESTED = (
    *("seed", "state", "precision", "test_score", "test_ci95", "test_episodes", "validation_score"),
    *("train_episodes", "best_episodes", "split", "normalization"),
)
"""What is recorded of an evaluation."""

SUPERNET = {"derive": 2, "budget.epochs": 2, "budget.steps": 2, "budget.validation_episodes": 2}


def searches(images: Path) -> dict[str, dict[str, Any]]:
    """Return the settings of each search, by its name in the record.

    Args:
        images: ordinary data, for the learner that takes no few-shot tasks.
    """
    small = {**FEW_SHOT, **RANDOM, "trials": 3}
    made = {f"space {name}": {**own, **RANDOM, "trials": 5} for name, own in SPACES.items()}
    ordinary = {"tasks.name": "supervised", "tasks.path": str(images), "tasks.batch": 8}
    for name, own in LEARNERS.items():
        tasks = ordinary if own["name"] == "classifier" else GLYPHS
        made[f"learner {name}"] = {**small, **tasks, **within("learner", own)}
    for name, own in STRATEGIES.items():
        controller = within("controller", {**own, **SUPERNET})
        made[f"strategy {name}"] = {**FEW_SHOT, **PROTOTYPICAL, **controller}
    asha = {"scheduler.minimum": 2, "scheduler.eta": 2}
    made["scheduler asha"] = {**small, **PROTOTYPICAL, **asha, "trials": 6}
    made["precision bfloat16"] = {**small, **PROTOTYPICAL, "resources.precision": "bfloat16"}
    return made


def within(section: str, settings: dict[str, Any]) -> dict[str, Any]:
    return {f"{section}.{name}": value for name, value in settings.items()}


def told(*arguments: str) -> str:
    """Run `nas` in this process, to start but once; return what it printed on stdout."""
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    if result.exit_code:
        sys.exit(f"nas {' '.join(arguments)} ended with {result.exit_code}: {result.stderr}")
    return result.stdout


def shown(name: str, db: str) -> dict[str, Any]:
    return dict(json.loads(told("show", name, "-f", "json", f"--db={db}")))


def searched(name: str, settings: dict[str, Any], db: str) -> list[dict[str, Any]]:
    """Run a search; return its trials."""
    given = [f"--set={key}={json.dumps(value)}" for key, value in {**EVERY, **settings}.items()]
    told("run", f"--name={name}", f"--db={db}", *given)
    return [trial(f"{name}/{row['trial']}", db) for row in shown(name, db)["trial_rows"]]


def trial(name: str, db: str) -> dict[str, Any]:
    known = shown(name, db)
    measured = [[one["metric"], one["step"], one["value"]] for one in known["measurements"]]
    return {key: known.get(key) for key in TRIAL} | {"measurements": sorted(measured)}


def evaluated(name: str, db: str) -> list[dict[str, Any]]:
    """Evaluate a trial in full; return its evaluations."""
    told("evaluate", name, f"--db={db}", *EVALUATION)
    return [{key: one.get(key) for key in TESTED} for one in shown(name, db)["evaluations"]]


def record() -> dict[str, Any]:
    """Return the record: entries by name, lists of rows or of trials."""
    made: dict[str, Any] = {"machine": machine(environment())}
    made |= {name: make() for name, make in proposals.entries().items()}
    with tempfile.TemporaryDirectory() as folder:
        images, rng = Path(folder) / "images.npz", np.random.default_rng(0)
        np.savez(images, x=rng.integers(0, 256, (120, 12, 12), np.uint8), y=np.arange(120) % 4)
        db = f"sqlite:///{folder}/golden.db"
        for number, (name, settings) in enumerate(searches(images).items()):
            print(name, file=sys.stderr)
            made[name] = searched(f"search{number}", settings, db)
            if name in EVALUATED:
                made[f"evaluation in {name}"] = evaluated(f"search{number}/1", db)
    return json.loads(json.dumps(made))


def leaves(value: Any, place: str = "") -> Iterator[tuple[str, str]]:
    """Yield each value that has no parts, as JSON, with its place."""
    if isinstance(value, list | dict):
        for key, part in value.items() if isinstance(value, dict) else enumerate(value):
            yield from leaves(part, f"{place}/{key}")
    else:
        yield place, json.dumps(value)


def differences(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Return a line for each entry that differs, with the first place where it does; new entries do not."""
    lines = []
    for name, recorded in before.items():
        old, new = dict(leaves(recorded)), dict(leaves(now.get(name)))
        places = [place for place in old | new if old.get(place) != new.get(place)]
        if places:
            first = places[0]
            lines.append(f"{name}: {first or '/'} was {old.get(first)}, is {new.get(first)}")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    action = parser.add_mutually_exclusive_group(required=True)
    action.add_argument("-o", "--output", type=Path, metavar="FILE.json", help="record")
    action.add_argument("--check", type=Path, metavar="FILE.json", help="record again, and compare")
    given = parser.parse_args()
    before = json.loads(given.check.read_text()) if given.check else None
    made = record()
    if before is None:
        given.output.write_text(json.dumps(made, indent=1) + "\n")
    elif lines := differences(before, made):
        sys.exit("\n".join(lines))


if __name__ == "__main__":
    main()
