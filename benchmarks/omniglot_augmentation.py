"""Augmentation fixed, searched and learned on Omniglot 20-way 1-shot, at equal worker seconds.

    NAS_DATA=… python benchmarks/omniglot_augmentation.py -o docs/results/omniglot_augmentation
    NAS_DATA=… python benchmarks/omniglot_augmentation.py --joint -o docs/results/joint_augmentation

The prototypical learner. Each search has `--seconds` of one core, and what it found is trained to the end by
`--episodes` training episodes and scored on test classes. The first command compares, for a Conv-4 with
strides, no augmentation, `randaugment` and `trivialaugment`, whose last training is longer by those seconds;
policies that random search and evolution choose; the schedule that `pba` finds, with as many whole trainings
as the seconds allow; and the policy that `dada` learns. The second compares searches for the network alone,
for the policy alone and for both: by random search, by evolution and by gradients, in `few_shot`.

One search after the other, each seed by itself, in the database `--db`; what is there already is not run
again, and FILE.json, which is written after each, keeps the sizes that were measured at first. So a command
that was ended goes on. Writes FILE.json and FILE.md.
"""

from __future__ import annotations

import argparse
import json
import statistics
import textwrap
from pathlib import Path
from typing import Any

import torch
from arguments import at_least

import nas
from nas.driver.creation import check, supernet
from nas.driver.estimates import supernet_seconds
from nas.files import replacing
from nas.intervals import half_width_over_seeds
from nas.settings.search import validate
from nas.tasks.base import TaskSource
from nas.training.provenance import MEMORY, environment

CONV4 = {"name": "one_network:OneNetwork", "network": "3x3/2:64,3x3/2:64@1,3x3/2:64@2,3x3/2:64@3"}
CELL = "max_pool|conv_3x3~0|+|conv_3x3~0|conv_3x3~1|"
DEFAULT = {"name": "one_network:OneNetwork", "of": "few_shot", "network": f"{CELL}/{CELL}"}
"""Two cells of convolutions: the space's default has no path."""
CELLS = {"name": "few_shot"}
EVOLUTION = {"name": "evolution", "population": 6, "sample": 3}
ANY = {"name": "autoaugment", "policy": "any"}
PAUSES = 10
"""Epochs of a supernet, and parts of a training of `pba`."""
DERIVED = 2
"""Trainings of what a supernet derived."""

FIXED = ("none", "randaugment", "trivialaugment")
ALONE: dict[str, dict[str, Any]] = {
    **{name: {"space": CONV4, "controller": {"name": "random"}, "fixed": name} for name in FIXED},
    "autoaugment, random": {"space": CONV4, "controller": {"name": "random"}, "policy": ANY},
    "autoaugment, evolution": {"space": CONV4, "controller": EVOLUTION, "policy": ANY},
    "pba": {"space": CONV4, "controller": {"name": "pba"}, "policy": {"name": "pba", "policy": "any"}},
    "dada": {"space": CONV4, "controller": {"name": "dada"}, "policy": ANY},
}
JOINT: dict[str, dict[str, Any]] = {
    "none": {"space": DEFAULT, "controller": {"name": "random"}, "fixed": "none"},
    "network, random": {"space": CELLS, "controller": {"name": "random"}},
    "network, evolution": {"space": CELLS, "controller": EVOLUTION},
    "network, darts": {"space": CELLS, "controller": {"name": "darts"}},
    "policy, random": {"space": DEFAULT, "controller": {"name": "random"}, "policy": ANY},
    "policy, evolution": {"space": DEFAULT, "controller": EVOLUTION, "policy": ANY},
    "policy, dada": {"space": DEFAULT, "controller": {"name": "dada"}, "policy": ANY},
    "both, random": {"space": CELLS, "controller": {"name": "random"}, "policy": ANY},
    "both, evolution": {"space": CELLS, "controller": EVOLUTION, "policy": ANY},
    "both, dada": {"space": CELLS, "controller": {"name": "dada"}, "policy": ANY},
}
GRADIENTS = ("darts", "dada")


def values(arm: dict[str, Any], report: dict[str, Any]) -> dict[str, Any]:
    """Return the settings of a search, but for what is sized by time."""
    settings = report["settings"]
    given: dict[str, Any] = {
        "space": arm["space"],
        "controller": arm["controller"],
        "tasks": settings["tasks"],
        "learner": {"name": "prototypical", "augmentation": arm.get("fixed", "none")},
        "budget": {"train_episodes": settings["trial"], "validation_episodes": 200},
        "executor": "inline",
    }
    if "policy" in arm:
        del given["learner"]["augmentation"]
        given["slots"] = {"learner": {"augmentation": arm["policy"]}}
    return given


def sized(name: str, arm: dict[str, Any], report: dict[str, Any]) -> dict[str, Any]:
    """Return what of a search follows from the time that it has; what was measured once is kept."""
    settings, plan = report["settings"], report["plan"]
    controller = arm["controller"]["name"]
    if "fixed" in arm:
        return {"trials": 1}
    if controller == "pba":
        interval = -(-settings["trial"] // PAUSES)
        own = {"population": max(2, round(settings["seconds"] / plan["trial"])), "interval": interval}
        return {"controller": {"name": "pba", **own}}
    if controller in GRADIENTS:
        if name not in plan:
            left = max(settings["seconds"] - DERIVED * plan["trial"], plan["trial"])
            plan[name] = steps(values(arm, report), left)
        budget = {"epochs": PAUSES, "steps": plan[name], "validation_episodes": 20}
        return {"controller": {"name": controller, "derive": DERIVED, "budget": budget}}
    return {"trials": 10_000, "max_seconds": settings["seconds"]}


def steps(given: dict[str, Any], seconds: float) -> int:
    """Return about how many steps of an epoch let the training of a supernet take so long."""
    few = {"epochs": PAUSES, "steps": 10, "validation_episodes": 20}
    config = validate({**given, "controller": {**given["controller"], "derive": DERIVED, "budget": few}})
    tasks, space = config.make_tasks(), config.make_space()
    first = supernet(config, space, tasks)
    assert first is not None
    assert isinstance(tasks, TaskSource)
    taken = supernet_seconds(config, space, tasks, first, check(config, tasks)[MEMORY])
    return max(1, round(10 * seconds / taken))


def searched(name: str, arm: dict[str, Any], seed: int, report: dict[str, Any], db: str) -> dict[str, Any]:
    """Run a search, or go on with it; return its best trial, and what it took."""
    given = {**values(arm, report), **sized(name, arm, report)}
    label = f"{report['kind']}-{name}-{seed}".replace(", ", "-")
    handle = nas.search(**given, name=label, seed=seed, db=db, resume_or_start=True, quiet=True)
    whole = [row for row in handle.trials if row.state == "completed" and row.score is not None]
    best = max(whole, key=lambda row: row.score or 0.0)
    return {
        "target": f"{label}/{best.trial}",
        "trials": len(whole),
        "seconds": sum(row.seconds for row in handle.trials),
        "validation": best.score,
        "chosen": best.architecture,
    }


def tested(target: str, seeds: int, episodes: int, report: dict[str, Any], db: str) -> dict[str, Any]:
    """Train what was found to the end, under so many seeds; return its test score, a mean over them."""
    found = nas.evaluate(
        target,
        seeds=seeds,
        train_episodes=episodes,
        validate_every=max(1, episodes // 6),
        validation_episodes=report["settings"]["validation"],
        patience=0,
        db=db,
        quiet=True,
        learner={"schedule": "cosine"},
    )
    [row] = found.results
    return {"test": row.test_score, "half": row.ci95_seeds, "episodes": episodes}


def page(report: dict[str, Any]) -> str:
    settings, joint = report["settings"], report["kind"] == "joint"
    title = "The network and its augmentation, chosen together" if joint else "Augmentation on Omniglot"
    lines = [
        f"# {title}",
        "",
        f"`{report['command']}`",
        "",
        textwrap.fill(
            f"{report['task']}, prototypical learner. Each search has {settings['seconds']:g} worker seconds "
            f"of one core, trials of {settings['trial']} training episodes and 200 validation episodes that "
            "all share. The best trial of each search is trained once more, for "
            f"{settings['episodes']:,} training episodes, its rate falling by a cosine, and tested on 1,000 "
            "episodes of test classes. What is fixed has the seconds of a search as further training "
            f"episodes. Accuracy in %: mean over {len(report['seeds'])} seeds of the search, or of the last "
            "training of what is fixed, and half of its 95 % interval (Student's t).",
            100,
        ),
        "",
        "| search | trials | seconds | best validation | test |",
        "|---|---|---|---|---|",
    ]
    arms = JOINT if joint else ALONE
    for name in arms:
        runs = [run for key, run in report["runs"].items() if key.rpartition("/")[0] == name]
        if runs and (len(runs) == len(report["seeds"]) or "fixed" in arms[name]):
            trials, seconds = (statistics.mean(run[key] for run in runs) for key in ("trials", "seconds"))
            scores = " | ".join(_cell(runs, key) for key in ("validation", "test"))
            lines.append(f"| {name} | {trials:.1f} | {seconds:.0f} | {scores} |")
    lines += ["", "## What was found", "", "| search | trial | candidate |", "|---|---|---|"]
    for key, run in report["runs"].items():
        name, _, seed = key.rpartition("/")
        if "fixed" not in arms[name]:
            candidate = run["chosen"].replace("|", "\\|")
            lines.append(f"| {name}, seed {seed} | {run['target'].rpartition('/')[2]} | `{candidate}` |")
    return "\n".join([*lines, ""])


def _cell(runs: list[dict[str, Any]], key: str) -> str:
    """Return the mean of a score over searches; of what is fixed, the test score is a mean already."""
    scores = [run[key] for run in runs]
    half = half_width_over_seeds(scores) if len(scores) > 1 else runs[0]["half"] if key == "test" else None
    return f"{100 * statistics.mean(scores):.1f} ± {'?' if half is None else f'{100 * half:.1f}'}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--joint", action="store_true", help="compare with searches for the network")
    parser.add_argument("--seeds", type=at_least(0), nargs="+", default=[1, 2, 3])
    parser.add_argument("--seconds", type=float, default=180.0, help="of one core, that a search has")
    parser.add_argument("--trial", type=at_least(PAUSES), default=300, help="training episodes of a trial")
    parser.add_argument("--episodes", type=at_least(6), default=3000, help="of the last training")
    parser.add_argument("--validation", type=at_least(2), default=400, help="its validation episodes")
    parser.add_argument("--tasks", default="omniglot")
    parser.add_argument("--ways", type=at_least(2), default=20)
    parser.add_argument("--db", default="sqlite:///omniglot_augmentation.db")
    parser.add_argument("-o", "--output", type=Path, required=True)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    settings = {name: getattr(arguments, name) for name in ("seconds", "trial", "episodes", "validation")}
    settings["tasks"] = {"name": arguments.tasks, "ways": arguments.ways, "shots": 1}
    file = arguments.output.with_suffix(".json")
    report = json.loads(file.read_text()) if file.exists() else {"plan": {}, "runs": {}}
    if report.setdefault("settings", settings) != settings:
        parser.error(f"{file} holds runs under other settings, {report['settings']}; give another -o")
    given = ["--joint"] if arguments.joint else []
    for name in ("seeds", "seconds", "trial", "episodes", "validation", "tasks", "ways"):
        if (value := getattr(arguments, name)) != parser.get_default(name):
            given += [f"--{name}", *map(str, value if isinstance(value, list) else [value])]
    report |= {
        "command": " ".join(["python benchmarks/omniglot_augmentation.py", *given]),
        "kind": "joint" if arguments.joint else "alone",
        "environment": environment(),
        "seeds": arguments.seeds,
    }
    arms = JOINT if arguments.joint else ALONE

    def save() -> None:
        with replacing(file) as temporary:
            temporary.write_text(json.dumps(report, indent=1) + "\n")

    for seed in arguments.seeds:
        for name, arm in arms.items():
            again = "fixed" in arm and seed != arguments.seeds[0]
            if again or f"{name}/{seed}" in report["runs"]:
                continue
            found = searched(name, arm, seed, report, arguments.db)
            report["plan"].setdefault("trial", found["seconds"])  # the first search has one trial
            further = settings["seconds"] / report["plan"]["trial"] * settings["trial"]
            episodes = settings["episodes"] + (round(further) if "fixed" in arm else 0)
            trainings = len(arguments.seeds) if "fixed" in arm else 1
            run = {**found, **tested(found["target"], trainings, episodes, report, arguments.db)}
            report["runs"][f"{name}/{seed}"] = run
            print(name, seed, run, flush=True)
            save()
    config = validate({**values(arms["none"], report), "name": "one"})
    report["task"] = config.make_tasks().label
    save()
    arguments.output.with_suffix(".md").write_text(page(report))


if __name__ == "__main__":
    main()
