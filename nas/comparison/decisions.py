"""What a search chose: how much each decision matters for the score, and how choices change over time."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from sqlalchemy import select

from nas.comparison.curves import Floats
from nas.comparison.groups import Group
from nas.comparison.units import score_name
from nas.driver.records import configuration
from nas.errors import ConfigError, NotFound
from nas.space import Space
from nas.states import TrialState
from nas.storage.schema import Trial, TrialKind
from nas.storage.store import Store

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

Indices = npt.NDArray[np.int64]

LEAST = 10
"""Scored trials from which the importance of decisions is estimated."""


@dataclass(frozen=True, slots=True, eq=False)
class ChoicesMade:
    """What the trials of a group chose, search after search in the order of their numbers.

    Attributes:
        group: the searches.
        space: that they searched.
        score_label: what their scores are.
        progress: `[trials]` share of its search that was begun before each trial.
        choices: `[trials, decisions]` indices of what was chosen.
        scores: `[trials]`, NaN where there is none.
    """

    group: Group
    space: Space[Any]
    score_label: str
    progress: Floats
    choices: Indices
    scores: Floats


def chosen(store: Store, groups: Sequence[Group]) -> ChoicesMade:
    """Return what the trials of the one group chose; those that trained a supernet chose nothing.

    Raises:
        ConfigError: there are several groups: what unlike controllers chose has no common picture.
        NotFound: too few of its trials have a score.
    """
    if len(groups) > 1:
        labels = "; ".join(f"{group.label} ({group.searches[0].name})" for group in groups)
        raise ConfigError(f"--decisions draws the searches of one controller; these are several: {labels}.")
    (group,) = groups
    space = configuration(group.searches[0]).make_space()
    progress, choices, scores = list[float](), list[tuple[int, ...]](), list[float]()
    for search in group.searches:
        query = (
            select(Trial.architecture, Trial.state, Trial.score)
            .where(Trial.search_id == search.id, Trial.kind == TrialKind.EVALUATE)
            .order_by(Trial.number)
        )
        with store.read() as session:
            rows = session.execute(query).all()
        for place, (text, state, score) in enumerate(rows):
            assert text is not None  # of a trial that trained no supernet
            progress.append(place / len(rows))
            choices.append(space.decode(text).choices)
            scores.append(np.nan if score is None or state != TrialState.COMPLETED else score)
    scored = int(np.isfinite(scores).sum())
    if scored < LEAST:
        raise NotFound(f"Decisions are compared over {LEAST} trials with a score, and there are {scored}.")
    label = score_name(group.searches[0], float(np.nanmin(scores)))
    return ChoicesMade(group, space, label, np.array(progress), np.array(choices), np.array(scores))


def importance(found: ChoicesMade) -> dict[str, float]:
    """Return the share of the scores' variance that each decision explains by itself, the largest first.

    By functional ANOVA on a random forest (Hutter, Hoos & Leyton-Brown 2014), as Optuna computes it. A
    decision that was always the same explains nothing.

    Raises:
        ConfigError: Optuna, or scikit-learn, is not installed.
    """
    try:
        import optuna
        import sklearn  # noqa: F401  (Optuna's forest)
    except ImportError:
        raise ConfigError(
            "The importance of decisions needs Optuna and scikit-learn; run `pip install "
            "'nas-service[optuna,surrogate]'`."
        ) from None
    optuna.logging.set_verbosity(logging.WARNING)
    names = [decision.name for decision in found.space.decisions]
    known = np.isfinite(found.scores)
    varied = [place for place in range(len(names)) if len(np.unique(found.choices[known, place])) > 1]
    shares = dict.fromkeys(names, 0.0)
    if varied and np.ptp(found.scores[known]) > 0:
        study = optuna.create_study(direction="maximize")
        spread: dict[str, BaseDistribution] = {
            names[i]: optuna.distributions.CategoricalDistribution(
                tuple(range(len(found.space.decisions[i].choices)))
            )
            for i in varied
        }
        for row, score in zip(found.choices[known], found.scores[known], strict=True):
            params = {names[i]: int(row[i]) for i in varied}
            study.add_trial(
                optuna.trial.create_trial(params=params, distributions=spread, value=float(score))
            )
        shares |= optuna.importance.FanovaImportanceEvaluator(seed=0).evaluate(study)
    return dict(sorted(shares.items(), key=lambda pair: -pair[1]))


def shares(found: ChoicesMade, decision: int, periods: int) -> Floats:
    """Return how often each choice was made in each period of the search, `[choices, periods]`.

    Each column adds up to one; NaN where a period has no trial.
    """
    count = len(found.space.decisions[decision].choices)
    period = np.minimum((found.progress * periods).astype(np.int64), periods - 1)
    table = np.zeros((count, periods))
    np.add.at(table, (found.choices[:, decision], period), 1.0)
    totals = table.sum(0)
    found_shares: Floats = np.divide(table, totals, out=np.full_like(table, np.nan), where=totals > 0)
    return found_shares


def means(found: ChoicesMade, decision: int) -> list[tuple[float, int]]:
    """Return the mean score of the trials with each choice, and how many these are; NaN where none."""
    told = []
    for choice in range(len(found.space.decisions[decision].choices)):
        own = found.scores[(found.choices[:, decision] == choice) & np.isfinite(found.scores)]
        told.append((float(own.mean()) if len(own) else float("nan"), len(own)))
    return told
