"""The time that a controller takes for a proposal, and to learn again what a search has recorded.

    python benchmarks/proposal_time.py -o docs/results/proposal_time

Nothing is trained: the scores of networks of the space `darts` are their hashes. Times are CPU times of one
thread. A proposal is timed together with the outcome before it, since some controllers learn there and others
when they are asked. Writes FILE.json and FILE.md.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import platform
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from arguments import at_least, require

from nas.backbone import BackboneSpace
from nas.controller import Outcome, Score
from nas.settings.sections import maker
from nas.space import Architecture
from nas.states import TrialState
from nas.testing.controllers import generator
from nas.training.provenance import environment

CONTROLLERS: dict[str, dict[str, Any]] = {
    "random": {"name": "random"},
    "evolution": {"name": "evolution"},
    "evolution, the worst dies": {"name": "evolution", "dies": "worst", "fresh": True, "sample": 8},
    "nsga2": {"name": "nsga2"},
    "local_search": {"name": "local_search"},
    "rnn": {"name": "rnn"},
    "bananas": {"name": "bananas"},
    "gp": {"name": "gp"},
    "optuna, tpe": {"name": "optuna"},
    "optuna, nsga2": {"name": "optuna", "sampler": "nsga2"},
}
OBSERVED = (100, 5_000)
"""Outcomes before the proposals that are timed."""


def outcome(space: BackboneSpace, architecture: Architecture) -> Outcome:
    """Return a completed trial, its score a function of the network."""
    digest = hashlib.sha256(space.canonical(architecture).encode()).digest()
    score = Score(int.from_bytes(digest[:4], "big") / 2**32, ci95=0.0, episodes=1)
    return Outcome(TrialState.COMPLETED, architecture, score)


def measure(section: dict[str, Any], observed: int, steps: int) -> dict[str, Any]:
    """Return the seconds to learn so many outcomes, and those of each proposal after them, in ms."""
    space: BackboneSpace = maker("space", {"name": "darts"})()
    rng, controller = np.random.default_rng(0), maker("controller", section)(space, 0)
    history = [outcome(space, space.sample(rng)) for _ in range(observed)]
    began = time.process_time()
    for number, known in enumerate(history):
        controller.observe(number, known)
    proposal = controller.propose(observed, (), generator(0, observed))
    resumed, taken = time.process_time() - began, []
    for number in range(observed, observed + steps):
        known = outcome(space, proposal.architecture)
        began = time.process_time()
        controller.observe(number, known)
        proposal = controller.propose(number + 1, (), generator(0, number + 1))
        taken.append(1000 * (time.process_time() - began))
    return {"resume": round(resumed, 3), "proposals": " ".join(f"{ms:.3f}" for ms in taken)}


def page(report: dict[str, Any]) -> str:
    few, many = (f"{count:,}" for count in OBSERVED)
    lines = [
        "# The time of a proposal",
        "",
        f"`{report['command']}`",
        "",
        "CPU time of one thread for an outcome and the proposal after it, in the space `darts`: the median",
        f"and the 99th percentile of {report['steps']} in ms, after {few} and after {many} outcomes. Resume:",
        f"the seconds to learn {many} recorded outcomes again, and to propose once.",
        "",
        f"| controller | after {few} | 99 % | after {many} | 99 % | resume |",
        "|---|---|---|---|---|---|",
    ]
    for name, found in report["controllers"].items():
        taken = [np.array(found[str(count)]["proposals"].split(), float) for count in OBSERVED]
        cells = [f"{np.percentile(ms, q):.1f}" for ms in taken for q in (50, 99)]
        lines.append(f"| {name} | {' | '.join(cells)} | {found[str(OBSERVED[-1])]['resume']:.1f} |")
    return "\n".join([*lines, ""])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=at_least(1), default=100, help="proposals that are timed")
    parser.add_argument("-o", "--output", type=Path, required=True)
    arguments = parser.parse_args()
    require(parser, "optuna")
    torch.set_num_threads(1)
    report: dict[str, Any] = {
        "command": f"python benchmarks/proposal_time.py --steps {arguments.steps}",
        "environment": environment(),
        "machine": platform.processor() or platform.machine(),
        "steps": arguments.steps,
        "controllers": {
            name: {str(count): measure(section, count, arguments.steps) for count in OBSERVED}
            for name, section in CONTROLLERS.items()
        },
    }
    arguments.output.with_suffix(".json").write_text(json.dumps(report, indent=1) + "\n")
    arguments.output.with_suffix(".md").write_text(page(report))


if __name__ == "__main__":
    main()
