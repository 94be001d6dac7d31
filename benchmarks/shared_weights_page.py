"""What supernets know about the networks of the few-shot table: the page of the measurements."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterator, Sequence
from statistics import fmean
from typing import Any

import numpy as np
import numpy.typing as npt
from correlations import correlation

from nas.comparison.ranks import spearman
from nas.prediction import Prediction
from search_spaces.few_shot import FewShot

Floats = npt.NDArray[np.float64]

SPACE = FewShot()
RECALLS = ((0.05, 0.1), (0.05, 0.2), (0.1, 0.2))
"""Of the best such share, how much is among the predicted best such share."""
BEST = 0.2
"""Share of networks, best by shared weights, within which ρ is taken, too."""
KNOWN = 100
"""Networks that others are predicted from: as many as `prescreen.supernet` scores."""
SPLITS = 10
"""Draws of the known networks."""
CANDIDATES = 8
"""New networks that a trial is chosen from, as of `prescreen.candidates`."""
BUDGETS = (10, 20, 40)
"""Of a search, in trials."""
ROUNDS = 1000
"""Searches simulated for each split."""


def page(report: dict[str, Any]) -> str:
    truth = _truth(report)
    lines = [
        "# What supernets know about the networks of the few-shot table",
        "",
        "`python benchmarks/shared_weights_table.py`",
        "",
        *_setting(report, len(truth)),
    ]
    if len(truth) >= 2 * KNOWN:
        guesses = _guesses(report, truth)
        lines += [*_ranks(report, truth, guesses), *_searches(report, truth, guesses)]
        lines += _relaxed(report, truth)
    return "\n".join(lines) + "\n"


def recall(predicted: Sequence[float], true: Sequence[float], top: float, within: float) -> float:
    """Return the share of the best by truth that are among the best predicted.

    Args:
        predicted: higher is better, the first of equal ones counts as better.
        true: of the same networks.
        top: share of the networks that are the best by truth, rounded up.
        within: share that are the best predicted, rounded up.
    """
    best, found = (
        set(sorted(range(len(true)), key=lambda i: -values[i])[: math.ceil(share * len(true))])
        for values, share in ((true, top), (predicted, within))
    )
    return len(best & found) / len(best)


def predicted(choices: Sequence[Sequence[int]], scores: Floats, known: Sequence[int]) -> Floats:
    """Return what the scores of a few networks predict of all, as `prescreen.supernet` does."""
    predict = Prediction([choices[i] for i in known], scores[list(known)].tolist())
    return np.array([predict(own) for own in choices])


def simulated(
    true: Floats, promise: Floats | None, budgets: Sequence[int], rng: np.random.Generator
) -> list[float]:
    """Return the best score that a search finds within each number of trials, the mean of `ROUNDS`.

    A trial trains the most promising of `CANDIDATES` draws from the networks; without a promise, one draw.
    """
    drawn = rng.integers(len(true), size=(ROUNDS, max(budgets), 1 if promise is None else CANDIDATES))
    first = np.zeros(drawn.shape[:2], dtype=int) if promise is None else promise[drawn].argmax(2)
    trained = np.take_along_axis(drawn, first[..., None], 2)[..., 0]
    best = np.maximum.accumulate(true[trained], 1).mean(0)
    return [float(best[budget - 1]) if budget > 0 else math.nan for budget in budgets]


def _truth(report: dict[str, Any]) -> dict[int, float]:
    """Return the scores from scratch under the first seed, by network."""
    return {int(number): value for number, value in report["table"]["scratch"].get("1", {}).items()}


def _choices(report: dict[str, Any], numbers: Sequence[int]) -> list[tuple[int, ...]]:
    return [SPACE.decode(report["table"]["arch"][number]).choices for number in numbers]


def _paragraph(text: str) -> list[str]:
    return [textwrap.fill(text, 110, break_long_words=False, break_on_hyphens=False), ""]


def _setting(report: dict[str, Any], count: int) -> Iterator[str]:
    yield from _paragraph(
        "The [few-shot table](few_shot_table.md)'s setting: Omniglot 20-way 1-shot, prototypical learner, "
        "the rate and schedule of its trials. A supernet scores the first "
        f"{report['networks']:,} networks of the table with its weights, on {report['episodes']} validation "
        f"tasks each. **{count:,} of them the table has trained from scratch** so far, by 300 tasks under "
        "seed 1. What follows is over these."
    )
    yield from _paragraph(
        "A *pass* is the gradient of one path on one task, so that methods of equal passes cost about the "
        "same. Each row is a training of its own, with a rate that falls to zero. Seconds are of CPU time, "
        "taken while other work ran on the same cores."
    )


def _measured(report: dict[str, Any]) -> Iterator[tuple[str, int, dict[str, dict[str, Any]]]]:
    for name, lengths in report["shared"].items():
        for passes in sorted(lengths, key=int):
            yield name, int(passes), lengths[passes]


def _scores(run: dict[str, Any], numbers: Sequence[int]) -> Floats:
    scores = run["scores"].split()
    return np.array([float(scores[number]) for number in numbers])


def _guesses(report: dict[str, Any], truth: dict[int, float]) -> dict[tuple[str, int], list[list[Floats]]]:
    """Return what scores predict, by the way and the length of training, run and split."""
    choices = _choices(report, list(truth))
    return {
        (name, passes): [_guess(choices, _scores(run, list(truth))) for run in runs.values()]
        for name, passes, runs in _measured(report)
    }


def _guess(choices: Sequence[Sequence[int]], scores: Floats) -> list[Floats]:
    return [predicted(choices, scores, known) for known in _splits(len(choices))]


def _splits(count: int) -> list[list[int]]:
    return [np.random.default_rng(split).permutation(count)[:KNOWN].tolist() for split in range(SPLITS)]


def _ranks(
    report: dict[str, Any], truth: dict[int, float], guesses: dict[tuple[str, int], list[list[Floats]]]
) -> Iterator[str]:
    numbers, true = list(truth), list(truth.values())
    choices = _choices(report, numbers)
    yield "## How they rank"
    yield ""
    yield from _paragraph(
        "Spearman's ρ with the scores from scratch (95 % interval by Fisher's z), for each seed of the "
        f"supernet. ρ within the {BEST:.0%} of networks that are best by the row itself. Of the table's best "
        "5 and 10 %, the share that is among the row's best 10 and 20 %. And ρ of what a Gaussian process "
        f"predicts of the other networks from {KNOWN} scores, which is what `prescreen.supernet` goes by: "
        f"the mean over {SPLITS} draws of the {KNOWN}."
    )
    recalls = " | ".join(f"best {top:.0%} in {within:.0%}" for top, within in RECALLS)
    yield f"| weights | passes | train s | ρ | best {BEST:.0%} | {recalls} | predicted |"
    yield "|---|---|---|---|---|" + "---|" * (len(RECALLS) + 1)
    for name, passes, runs in _measured(report):
        own = [_scores(run, numbers) for run in runs.values()]
        seconds = fmean(run["train_seconds"] for run in runs.values())
        rhos = "; ".join(correlation(scores.tolist(), true) for scores in own)
        agreed = fmean(_agreement(own_guess, true) for own_guess in guesses[name, passes])
        yield (f"| {name} | {passes:,} | {seconds:.0f} | {rhos} | {_cells(own, true)} | {agreed:.2f} |")
    for name in ("macs", "parameters"):
        values = np.array([float(report["table"][name][number]) for number in numbers])
        rho = correlation(values.tolist(), true)
        agreed = _agreement(_guess(choices, values), true)
        yield f"| {name} | | | {rho} | {_cells([values], true)} | {agreed:.2f} |"
    for seed, scores in report["table"]["scratch"].items():
        shared = [number for number in numbers if str(number) in scores]
        if seed != "1" and len(shared) > 10:
            others, mine = [scores[str(n)] for n in shared], [truth[n] for n in shared]
            yield (
                f"| from scratch, seed {seed} ({len(shared)} networks) | | | {correlation(others, mine)} | "
                f"{_cells([np.array(others)], mine)} | |"
            )
    yield ""


def _cells(runs: Sequence[Floats], true: Sequence[float]) -> str:
    inside = []
    for scores in runs:
        top = np.argsort(-scores, kind="stable")[: math.ceil(BEST * len(true))]
        inside.append(spearman(scores[top].tolist(), [true[i] for i in top]) or 0.0)
    shares = [fmean(recall(scores.tolist(), true, *pair) for scores in runs) for pair in RECALLS]
    return " | ".join([f"{fmean(inside):.2f}", *(f"{share:.0%}" for share in shares)])


def _agreement(guesses: Sequence[Floats], true: Sequence[float]) -> float:
    """Return the mean ρ of guesses with the truth, each over the networks that it was not made from."""
    found = []
    for guess, known in zip(guesses, _splits(len(true)), strict=True):
        others = sorted(set(range(len(true))) - set(known))
        found.append(spearman(guess[others].tolist(), [true[i] for i in others]) or 0.0)
    return fmean(found)


def _searches(
    report: dict[str, Any], truth: dict[int, float], guesses: dict[tuple[str, int], list[list[Floats]]]
) -> Iterator[str]:
    numbers, true = list(truth), np.array(list(truth.values()))
    trial = _trial_seconds(report)
    yield "## What it is worth to a search"
    yield ""
    yield from _paragraph(
        f"Random search, simulated on the table at equal CPU time, {SPLITS * ROUNDS:,} searches each: the "
        "mean of the best score from scratch, in %. A guided search pays for its supernet and for the "
        f"scores of {KNOWN} networks, and trains the most promising of {CANDIDATES} candidates with the "
        f"trials that are left. A trial takes {trial:.1f} s, computed from the passes and scores measured "
        "here. Guiding by multiply-accumulates is free."
    )
    yield "| guided by | s before trial 1 | " + " | ".join(f"{b} trials' time" for b in BUDGETS) + " |"
    yield "|---|---|" + "---|" * len(BUDGETS)

    def row(name: str, promises: Sequence[Floats | None], seconds: float) -> str:
        spent = math.ceil(seconds / trial)
        budgets = [max(budget - spent, 0) for budget in BUDGETS]
        found = [
            simulated(true, promise, budgets, np.random.default_rng(i)) for i, promise in enumerate(promises)
        ]
        cells = ["–" if math.isnan(x) else f"{100 * x:.2f}" for x in np.mean(found, 0)]
        return f"| {name} | {seconds:.0f} | {' | '.join(cells)} |"

    yield row("nothing", [None] * SPLITS, 0)
    macs = np.array([float(report["table"]["macs"][number]) for number in numbers])
    yield row("macs", [macs] * SPLITS, 0)
    for name, passes, runs in _measured(report):
        promises = [guess for own in guesses[name, passes] for guess in own]
        scoring = fmean(run["score_seconds"] for run in runs.values()) * KNOWN / report["networks"]
        training = fmean(run["train_seconds"] for run in runs.values())
        yield row(f"{name}, {passes:,} passes", promises, training + scoring)
    yield ""


def _trial_seconds(report: dict[str, Any]) -> float:
    """Return the CPU time of a trial: its training tasks and its validation tasks, by what was measured."""
    runs = [
        (passes, run)
        for name, passes, runs in _measured(report)
        if name == "uniform" and passes
        for run in runs.values()
    ]
    step = sum(run["train_seconds"] for _, run in runs) / sum(passes for passes, _ in runs)
    task = fmean(run["score_seconds"] for _, run in runs) / report["networks"] / report["episodes"]
    return float(step * report["trial"]["train_episodes"] + task * report["trial"]["validation_episodes"])


def _relaxed(report: dict[str, Any], truth: dict[int, float]) -> Iterator[str]:
    if not report["relaxed"]:
        return
    numbers, true = list(truth), list(truth.values())
    yield "## What α says"
    yield ""
    yield from _paragraph(
        "Of a supernet that learns α: a network's probability, which is the product of its choices' weights, "
        "summed over its encodings; its rank correlation with the scores from scratch; and what is derived, "
        "trained from scratch as the table's trials are. The place is the share of the table's networks that "
        "score less."
    )
    yield "| strategy | seed | steps | train s | entropy of α | ρ | derived | score | place |"
    yield "|---|---|---|---|---|---|---|---|---|"
    for name, runs in report["relaxed"].items():
        for seed, run in runs.items():
            rho = correlation(_scores(run, numbers).tolist(), true)
            place = fmean(value < run["scratch"] for value in true)
            text = run["derived"].replace("|", "\\|")
            yield (
                f"| {name} | {seed} | {report['steps']:,} | {run['train_seconds']:.0f} | "
                f"{run['entropy']:.2f} | {rho} | `{text}` | {100 * run['scratch']:.1f} | {place:.0%} |"
            )
    yield ""
