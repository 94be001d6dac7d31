"""Which short training of `few_shot` ranks networks as a long one does, for what it costs.

    NAS_DATA=… python benchmarks/few_shot_pilot.py -o docs/results/few_shot_pilot

Omniglot 20-way 1-shot, prototypical learner: the first networks of the [table](few_shot_table.md) under each
setting and seed. Full trainings are the table's own. What FILE.json has is not run again. Writes FILE.json
after each training, and FILE.md.
"""

from __future__ import annotations

import argparse
import json
import textwrap
import time
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from statistics import fmean
from typing import Any

import pandas as pd
import torch
from arguments import at_least, data
from correlations import correlation
from few_shot_table import SPACE, networks, read

from nas.files import replacing
from nas.settings.sections import maker
from nas.training.loop import start
from nas.training.provenance import training_seed
from nas.training.scoring import episode_scores

EPISODES, VALIDATION, AVERAGED = 300, 200, 75
"""Training tasks, validation tasks, and the last steps whose weights are averaged."""

KINDS = {
    "score": f"{VALIDATION}",
    "half": f"{VALIDATION // 2}",
    "averaged": f"averaged, {VALIDATION}",
    "averaged, half": f"averaged, {VALIDATION // 2}",
}
"""What a score is measured on."""

SETTINGS: dict[str, dict[str, Any]] = {
    "40 ways": {"train_ways": 40, "train_queries": 1, "lr": 0.004, "schedule": "cosine"},
    "20 ways": {"train_ways": 20, "train_queries": 1, "lr": 0.004, "schedule": "cosine"},
    "60 ways": {"train_ways": 60, "train_queries": 1, "lr": 0.004, "schedule": "cosine"},
    "20 ways, 3 queries": {"train_ways": 20, "train_queries": 3, "lr": 0.004, "schedule": "cosine"},
    "40 ways, common tasks": {
        "train_ways": 40,
        "train_queries": 1,
        "lr": 0.004,
        "schedule": "cosine",
        "common": True,
    },
}


def trained(text: str, setting: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """Train a network as a setting says; return its scores and what each part took of the processor."""
    ways = {key: setting[key] for key in ("train_ways", "train_queries")}
    tasks = maker("tasks", {"name": "omniglot", "ways": 20, **ways})()
    learner = maker("learner", {"name": "prototypical", "lr": setting["lr"], "schedule": setting["schedule"]})
    architecture = SPACE.decode(text)
    own = training_seed(seed, "all" if setting.get("common") else SPACE.canonical(architecture), 0)
    began = time.process_time()
    training = start(SPACE, architecture, tasks, learner, "float32", EPISODES, own)
    for _ in training.until(EPISODES - AVERAGED):
        pass
    total, count = None, 0
    for _ in training.until(EPISODES):
        weights = [weight.detach().clone() for weight in training.learner.parameters()]
        total = weights if total is None else torch._foreach_add(total, weights)
        count += 1
    trained_in = time.process_time() - began
    scores = episode_scores(training.learner, tasks, "validation", VALIDATION, training.arithmetic)
    scored_in = time.process_time() - began - trained_in
    mean = deepcopy(training.learner)
    with torch.no_grad():
        for weight, summed in zip(mean.parameters(), total or [], strict=True):
            weight.copy_(summed / count)
    averaged = episode_scores(mean, tasks, "validation", VALIDATION, training.arithmetic)
    return {
        "score": fmean(scores),
        "half": fmean(scores[: VALIDATION // 2]),
        "averaged": fmean(averaged),
        "averaged, half": fmean(averaged[: VALIDATION // 2]),
        "training": trained_in,
        "scoring": scored_in,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--networks", type=at_least(4), default=16)
    parser.add_argument("--seeds", type=at_least(1), default=2)
    parser.add_argument("--page", action="store_true", help="write FILE.md from FILE.json, and train none")
    parser.add_argument("--table", type=Path, default=Path("docs/results/few_shot_table.csv.gz"))
    parser.add_argument("-o", "--output", type=Path, required=True)
    arguments = parser.parse_args()
    data(parser, "omniglot")
    torch.set_num_threads(1)
    file = arguments.output.with_suffix(".json")
    found: list[dict[str, Any]] = json.loads(file.read_text()) if file.exists() else []
    known = {(one["setting"], one["seed"], one["network"]) for one in found}
    texts = networks()[: arguments.networks]
    for seed in () if arguments.page else range(1, 1 + arguments.seeds):
        for name, setting in SETTINGS.items():
            for number, text in enumerate(texts):
                if (name, seed, number) not in known:
                    outcome = trained(text, setting, seed)
                    found.append({"setting": name, "seed": seed, "network": number, **outcome})
                    with replacing(file) as temporary:
                        temporary.write_text(json.dumps(found, indent=1) + "\n")
    command = f"python benchmarks/few_shot_pilot.py --networks {arguments.networks} --seeds {arguments.seeds}"
    table = read(arguments.table)
    arguments.output.with_suffix(".md").write_text(page(command, pd.DataFrame(found), table))


def page(command: str, found: pd.DataFrame, table: pd.DataFrame) -> str:
    full = table.dropna(subset=["test"]).set_index("number")["test"]
    lines = [
        "# Settings of a short training of `few_shot`",
        "",
        f"`{command}`",
        "",
        textwrap.fill(
            f"Omniglot 20-way 1-shot, prototypical learner, Adam with a cosine schedule, {EPISODES} training "
            "tasks. Standard deviations in points of accuracy: between trainings of one network under two "
            "seeds, beyond what all networks share, and between networks, without the part that is the "
            "seeds'. Reliability: the share of the variance of a score that is the network's. ρ: "
            "Spearman's, of the first seed with the test "
            f"score of a full training. `{VALIDATION}`, `{VALIDATION // 2}`: validation tasks; `averaged`: "
            f"the mean of the weights after each of the last {AVERAGED} tasks. Seconds of the processor, a "
            "training and its score, while other work ran. Cells are empty where fewer networks are trained.",
            110,
        ),
        "",
        "| training | score | s | networks | by the seed | between networks | reliability | ρ, full |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name in SETTINGS:
        own = found[found["setting"] == name].set_index("network")
        first, second = (own[own["seed"] == seed] for seed in (1, 2))
        for kind in KINDS:
            seconds = own["training"].mean() + own["scoring"].mean() / (2 if "half" in kind else 1)
            ranks = pd.concat([first[kind].rename("short"), full.rename("full")], axis=1).dropna()
            rho = correlation(ranks["short"].to_list(), ranks["full"].to_list()) if len(ranks) > 4 else ""
            cells = variances(first[kind], second[kind])
            lines.append(f"| {name} | {KINDS[kind]} | {seconds:.1f} | {' | '.join(cells)} | {rho} |")
    return "\n".join([*lines, ""])


def variances(first: pd.Series[float], second: pd.Series[float]) -> list[str]:
    """Return on how many networks both seeds are known, and what the seed and the network make of a score."""
    both = pd.concat([first.rename("first"), second.rename("second")], axis=1).dropna()
    if len(both) < 4:
        return ["", "", "", ""]
    seed = float((both["first"] - both["second"]).var(ddof=1) / 2)
    between = max(float(both.mean(axis=1).var(ddof=1)) - seed / 2, 0.0)
    parts = [f"{100 * part**0.5:.2f}" for part in (seed, between)]
    return [str(len(both)), *parts, f"{between / (between + seed):.2f}"]


if __name__ == "__main__":
    main()
