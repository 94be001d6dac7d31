"""The data sheet of the table of `few_shot`: what it holds, how noisy it is, and what it says."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from correlations import correlation, kendall
from few_shot_proxies import PROXIES, TOOK

from nas.tables.regression import Regression, seed_covariance
from search_spaces.few_shot import FewShot
from search_spaces.few_shot_cells import PATHS

Floats = npt.NDArray[np.float64]

SPACE = FewShot()
LENGTHS = (30, 75, 150, 300)
WHOLE = f"score_{LENGTHS[-1]}"
FOLDS = 5
ENOUGH = 60
"""Networks below which no surrogate is fitted, and no decision judged."""


def page(table: pd.DataFrame, command: str, trial: str, full: str) -> str:
    trials = table[table[WHOLE].notna()]
    return "\n".join(
        [
            "# Trained networks of `few_shot`, a table",
            "",
            f"`{command}`",
            "",
            *held(table, trials, trial, full),
            *noise(trials),
            *agreement(table, trials),
            *untrained(table, trials),
            *spread(table, trials),
            *(decisions(trials) if trials["number"].nunique() >= ENOUGH else []),
            *(surrogate(trials) if trials["number"].nunique() >= ENOUGH else []),
            *COLUMNS,
        ]
    )


def paragraph(text: str) -> list[str]:
    return [textwrap.fill(text, 110, break_long_words=False, break_on_hyphens=False), ""]


def held(table: pd.DataFrame, trials: pd.DataFrame, trial: str, full: str) -> Iterator[str]:
    seeds = trials.groupby("number")["seed"].nunique()
    ended = table["test"].notna()
    hours = table["seconds"].sum() / 3600
    yield from paragraph(
        "Omniglot 20-way 1-shot, Vinyals split, prototypical learner, transductive batch norm, float32. The "
        "space has 51,984 networks, counted by canonical key; the table lists "
        f"{table['number'].nunique():,} of them, drawn uniformly. **{len(seeds):,} are trained as a trial, "
        f"{int((seeds >= 3).sum()):,} of them under three seeds; {int(ended.sum()):,} are trained to a full "
        "budget.** It grows: the same command adds what is missing, block after block of 25 networks. "
        f"{hours:.1f} hours of workers by the clock so far, most of them while other work ran on the same "
        f"cores. Machines: {'; '.join(sorted(table['machine'].dropna().unique())) or 'none'}."
    )
    yield from paragraph(
        "A trial has one query of a class, so that it is short, a rate of 0.004 and a falling schedule: a "
        "[pilot](few_shot_pilot.md) compared it with trials of more ways and queries. A full training has "
        "the ways of the learner's paper, one query of a class, a falling rate, and fewer tasks."
    )
    yield from ["A trial:", "", f"    {trial}", "", "A full training:", "", f"    {full}", ""]


def noise(trials: pd.DataFrame) -> Iterator[str]:
    columns = [f"score_{length}" for length in LENGTHS]
    covariance = seed_covariance(trials[columns].to_numpy(), trials["number"].to_list())
    if covariance is None:
        return
    means = trials.groupby("number")[columns].mean()
    counts = trials.groupby("number").size()
    yield from ["## Noise", ""]
    yield from paragraph(
        "Standard deviations in points of accuracy: between trainings of one network under several seeds; "
        "and between networks, without the part that is the seeds'. Reliability: the share of the variance "
        "of a training's score that is the network's, which is the correlation of two seeds."
    )
    yield from ["| training tasks | by the seed | between networks | reliability |", "|---|---|---|---|"]
    for place, length in enumerate(LENGTHS):
        seed = covariance[place, place]
        between = max(float(means.iloc[:, place].var(ddof=1)) - seed * float((1 / counts).mean()), 0.0)
        share = between / (between + seed)
        yield f"| {length} | {points(seed**0.5)} | {points(between**0.5)} | {share:.2f} |"
    yield ""


def agreement(table: pd.DataFrame, trials: pd.DataFrame) -> Iterator[str]:
    one = trials[trials["seed"] == 1].set_index("number")
    others = trials[trials["seed"] != 1].groupby("number")[WHOLE].mean()
    every = trials.groupby("number")[WHOLE].agg(["mean", "size"])
    thrice = every.loc[every["size"] >= 3, "mean"]
    ends = table[table["test"].notna()].set_index("number")
    targets = {
        "the same length, other seeds": others,
        "full, validation": ends["validation"],
        "full, test": ends["test"],
    }
    scores = {f"{length} tasks, one seed": one[f"score_{length}"] for length in LENGTHS}
    scores |= {f"{LENGTHS[-1]} tasks, mean of three seeds": thrice, "full, validation": ends["validation"]}
    rows = []
    for name, score in scores.items():
        own = {"the same length, other seeds"} if "three" in name or "full" in name else set()
        cells = ["" if target in {*own, name} else pairs(score, values) for target, values in targets.items()]
        if any(cells):
            rows.append(f"| {name} | {' | '.join(cells)} |")
    if rows:
        yield from ["## Do short trainings rank as long ones do?", ""]
        yield from paragraph("Spearman's ρ (95 % interval by Fisher's z; networks).")
        yield from [f"| | {' | '.join(targets)} |", f"|---|{'---|' * len(targets)}", *rows, ""]


def untrained(table: pd.DataFrame, trials: pd.DataFrame) -> Iterator[str]:
    """Yield how zero-cost proxies rank networks."""
    own = table[table["episodes"] == 0].set_index("number")
    looked = own[own[TOOK].notna()]
    if looked.empty:
        return
    ends = table[table["test"].notna()].set_index("number")
    targets = {
        f"{LENGTHS[-1]} tasks, mean over seeds": trials.groupby("number")[WHOLE].mean(),
        "full, validation": ends["validation"],
        "full, test": ends["test"],
    }
    yield from ["## Do zero-cost proxies rank as trainings do?", ""]
    yield from paragraph(
        "Spearman's ρ (95 % interval by Fisher's z; networks). Weights are those that the training under "
        f"seed 1 begins with. {len(looked):,} networks were looked at; all five proxies of one together take "
        f"{looked[TOOK].median():.2f} processor seconds (median)."
    )
    yield from [f"| | {' | '.join(targets)} |", f"|---|{'---|' * len(targets)}"]
    for name in (*PROXIES, "parameters", "macs"):
        cells = [pairs(looked[name], values) for values in targets.values()]
        yield f"| `{name}` | {' | '.join(cells)} |"
    yield ""


def pairs(one: pd.Series[Any], other: pd.Series[Any]) -> str:
    """Return the rank correlation over the networks that both have."""
    both = pd.concat([one.rename("one"), other.rename("other")], axis=1).dropna()
    if len(both) < 5:
        return ""
    return f"{correlation(both['one'].to_list(), both['other'].to_list())[:-1]}; {len(both)})"


def spread(table: pd.DataFrame, trials: pd.DataFrame) -> Iterator[str]:
    means = trials.groupby("number")[WHOLE].mean()
    tests = table.set_index("number")["test"].dropna()
    yield from [
        "## Spread, and the best",
        "",
        "| | least | 5 % | median | 95 % | best |",
        "|---|---|---|---|---|---|",
    ]
    for name, values in ((f"{LENGTHS[-1]} tasks, mean over seeds", means), ("full, test", tests)):
        if len(values):
            cells = [points(value) for value in np.quantile(values, [0, 0.05, 0.5, 0.95, 1])]
            yield f"| {name} | {' | '.join(cells)} |"
    first = table.drop_duplicates("number").set_index("number")
    yield from [
        "",
        "| best by | score | seeds | parameters | MACs | architecture |",
        "|---|---|---|---|---|---|",
    ]
    seeds = trials.groupby("number").size()
    for name, values, count in ((f"{LENGTHS[-1]} tasks", means, 3), ("full, test", tests, 3)):
        for number, value in values.sort_values(ascending=False).head(count).items():
            row = first.loc[number]
            text = str(row["arch"]).replace("|", "\\|")
            runs = seeds.get(number, 0) if values is means else 1
            cost = f"{row['parameters'] / 1e3:.1f}k | {row['macs'] / 1e6:.1f}M"
            yield f"| {name} | {points(value)} | {runs} | {cost} | `{text}` |"
    yield ""


def decisions(trials: pd.DataFrame) -> Iterator[str]:
    """Yield by how much networks with a part differ from those without it, largest first."""
    networks = trials.groupby("number").agg(arch=("arch", "first"), score=(WHOLE, "mean"))
    parts = [f"stage {n}: {part}" for n in (1, 2) for part in ("avg_pool", *(named(path) for path in PATHS))]
    has = np.stack([SPACE.features(SPACE.decode(text)) for text in networks["arch"]]) > 0
    scores = networks["score"].to_numpy()
    rows = []
    for part, own in zip(parts, has.T, strict=True):
        if 5 <= own.sum() <= len(own) - 5:
            groups = scores[own], scores[~own]
            half = 1.96 * sum(float(group.var(ddof=1)) / len(group) for group in groups) ** 0.5
            rows.append((float(groups[0].mean() - groups[1].mean()), half, int(own.sum()), part))
    rows.sort(key=lambda row: row[1] - abs(row[0]))
    yield from ["## What decisions matter", ""]
    yield from paragraph(
        "Mean score of the networks that have a part less that of those without it, in points ± half of its "
        "95 % interval; the twelve that differ most beyond it. A path goes from a cell's input to its output."
    )
    yield from ["| part | networks | difference |", "|---|---|---|"]
    for difference, half, count, part in rows[:12]:
        yield f"| {part} | {count} | {100 * difference:+.2f} ± {100 * half:.2f} |"
    yield ""


def named(path: Sequence[str]) -> str:
    return f"path {' → '.join(path) or 'identity'}"


def surrogate(trials: pd.DataFrame) -> Iterator[str]:
    """Yield how well a regression predicts networks that it was not fitted to."""
    x = np.stack([SPACE.features(SPACE.decode(text)) for text in trials["arch"]])
    columns, networks = [f"score_{length}" for length in LENGTHS], trials["number"].to_numpy()
    y = trials[columns].to_numpy()
    found, means = predicted(x, y, networks), trials.groupby("number")[columns].mean().to_numpy()
    counts = trials.groupby("number").size().to_numpy()
    yield from ["## The surrogate", ""]
    yield from paragraph(
        "`nas run --evaluator surrogate` fits a regression to these trainings. This is how well it predicts "
        f"networks that it was not fitted to, by {FOLDS} folds of {len(found)} networks, each with the mean "
        "over its seeds: R², Spearman's ρ (95 % interval by Fisher's z), Kendall's τ, and the root mean "
        "squared error in points, as it is and without the noise of the scores themselves. By the seed: what "
        "trainings of one network differ by, which a trial's score gets as its noise."
    )
    yield from [
        "| training tasks | R² | ρ | τ | error | without noise | by the seed |",
        "|---|---|---|---|---|---|---|",
    ]
    covariance = seed_covariance(y, networks.tolist())
    for place, length in enumerate(LENGTHS):
        own, score = found[:, place], means[:, place]
        squares, noise = float(((own - score) ** 2).mean()), ["", ""]
        if covariance is not None:
            seed = covariance[place, place]
            noise = [points(max(squares - seed * float((1 / counts).mean()), 0.0) ** 0.5), points(seed**0.5)]
        cells = [
            f"{1 - squares / float(score.var()):.2f}",
            correlation(own.tolist(), score.tolist()),
            f"{kendall(own, score):.2f}",
            points(squares**0.5),
            *noise,
        ]
        yield f"| {length} | {' | '.join(cells)} |"
    yield ""


def predicted(x: Floats, y: Floats, networks: npt.NDArray[np.int64]) -> Floats:
    """Return targets of each network, ascending by number, as trainings of other networks predict them.

    Args:
        x: features of each training's network, `[trainings, features]`.
        y: its targets, `[trainings, targets]`.
        networks: the number of its network.
    """
    numbers, places = np.unique(networks, return_inverse=True)
    order, found = np.random.default_rng(0).permutation(len(numbers)), np.empty((len(numbers), y.shape[1]))
    for fold in range(FOLDS):
        out = order[fold::FOLDS]
        left = np.isin(places, out)
        first = [int(np.flatnonzero(places == place)[0]) for place in out]
        found[out] = Regression(x[~left], y[~left])(x[first])
    return found


def points(value: float) -> str:
    return f"{100 * value:.2f}"


COLUMNS = """## Columns

A row is one training. A network has a row before any, with 0 episodes and seed 0; what belongs to the network
stands in all of its rows.

| column | |
|---|---|
| `number`, `arch` | of the network in the order drawn, and its text: the first of its encodings |
| `seed`, `episodes` | of the training: as `nas run --seed`, as `nas evaluate` counts (from 0); its length |
| `score_30` … `score_300` | accuracy on the validation tasks after so many training tasks; of trials |
| `validation`, `test` | accuracy of the weights kept, on validation and on test tasks; of full trainings |
| `ci95` | half of the 95 % interval of the last score over its tasks (of `test`, in full trainings) |
| `seconds`, `machine` | of the worker by the clock, whatever else ran there; what it ran on |
| `parameters`, `macs`, `activations` | counted, as `nas.backbone.Cost` |
| `cost_30` … `cost_300` | processor seconds of a training so long and of its last score, on one core |
| `latency`, `latency_batch` | processor seconds of a forward pass of 1 and of 32 images |
| `measured` | 1: costs and latencies are measured; 0: fitted to pooling, paths and operations |
| `naswot` … `grasp` | zero-cost proxies of the untrained network; −∞: it has no such number |
| `cost_proxies` | processor seconds of these five, with building the network |
""".splitlines()
