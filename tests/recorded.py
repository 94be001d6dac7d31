"""Searches as the database holds them, written down without being run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from nas.controller import Measurement, Outcome, Score
from nas.metrics import shared_metric
from nas.settings.search import validate
from nas.states import TrialState
from nas.storage.schema import Search
from nas.storage.searches import NewSearch
from nas.storage.store import Store
from nas.storage.trials import Derivations, NewTrial
from nas.testing.toys import Toy

SCRIPTED = "nas.testing.evaluators:Scripted"

Trial = tuple[str, float | None, float, float | None]
"""State, score, seconds, test score."""

MIXED: list[Trial] = [
    ("failed", None, 5.0, None),
    ("completed", 0.4, 10.0, 0.5),
    ("stopped", 0.9, 3.0, None),
    ("completed", 0.3, 10.0, 0.9),
    ("reused", 0.4, 0.0, None),
    ("infeasible", None, 0.0, None),
    ("completed", 0.6, 2.0, 0.45),
]
"""Costs: 5, 15, 18, 28, 28, 28, 30."""

LOOKED_UP: dict[str, Any] = {
    "tasks": None,
    "learner": None,
    "evaluator": {"name": "tabular", "table": "table.csv", "metric": "valid"},
}
"""Settings of a search in a table, which need not be there."""


class Trained(NamedTuple):
    """A supernet's training of 10 s.

    Attributes:
        derived: architecture and score with shared weights, best first.
        skips: skip connections after each epoch.
        ended: why it ended before its budget; None: it did not.
        sampled: scores with shared weights, by architecture, of what nobody selected.
    """

    derived: Sequence[tuple[str, float | None]]
    skips: Sequence[int] = ()
    ended: str | None = None
    sampled: Mapping[str, float] = MappingProxyType({})


def search(store: Store, *, environment: Mapping[str, str] = MappingProxyType({}), **changes: Any) -> Search:
    """Write a search without trials, by default of random search on sinusoids in the space `Toy`."""
    values: dict[str, Any] = {
        "space": "nas.testing.toys:Toy",
        "controller": "random",
        "tasks": "sinusoid",
        "learner": "maml",
        "evaluator": SCRIPTED,
        "trials": 9,
    }
    config = validate(values | changes)
    return store.create_search(
        NewSearch(
            name=config.name,
            source=None,
            config=config.model_dump(mode="json"),
            space="toy",
            controller=config.controller["name"],
            tasks="sinusoid",
            task_label="sinusoid 10-shot",
            learner="maml",
            executor=config.executor,
            seed=config.seed,
            trials=config.trials,
            settings=config.settings,
            environment={"classes": {"sinusoid/train": "abc"}, **environment},
        )
    )


def close(store: Store, row: Search, state: str = "completed") -> Search:
    """Leave a search in a state, and return it as it is then."""
    store.acquire(row.id)
    store.release(row.id, state)
    return store.search(row.name)


def record(store: Store, trials: Sequence[Trial], /, **changes: Any) -> Search:
    """Write a completed search with these trials, in the order recorded."""
    space, row = Toy(), search(store, **changes)
    rng = np.random.default_rng(0)
    for number, (state, score, seconds, test) in enumerate(trials):
        architecture = space.sample(rng)
        trial = store.begin(
            row.id,
            NewTrial(
                number,
                architecture=space.encode(architecture),
                key=space.canonical(architecture),
                space="toy",
                seed=1,
                attempt=0,
            ),
        )
        outcome = Outcome(
            TrialState(state),
            architecture,
            None if score is None else Score(score, 0.0, 1),
            seconds=seconds,
            measurements=() if test is None else (Measurement(0, "test_score", test),),
        )
        store.finish(trial, outcome)
    return close(store, row)


def record_one_shot(
    store: Store, trained: Trained, scratch: Mapping[str, tuple[str, float | None]], /, **changes: Any
) -> Search:
    """Write a completed search of a supernet, and of architectures by text: state, and score from scratch."""
    row = search(store, **changes)
    trial = store.begin(
        row.id,
        NewTrial(
            0, architecture=None, key=None, space="toy", seed=0, attempt=0, supernet={"strategy": "darts"}
        ),
    )
    seen = [Measurement(10 * epoch, "skips", float(n)) for epoch, n in enumerate(trained.skips)]
    seen += [Measurement(10, shared_metric(text), score) for text, score in trained.sampled.items()]
    derived = [{"architecture": text, "score": score} for text, score in trained.derived]
    outcome = Outcome(TrialState.COMPLETED, None, seconds=10.0, measurements=tuple(seen), error=trained.ended)
    store.finish(trial, outcome, Derivations(derived, []))
    _scratch(store, row, scratch, first=1)
    return close(store, row)


def record_scratch(
    store: Store, scratch: Mapping[str, tuple[str, float | None]], /, **changes: Any
) -> Search:
    """Write a completed search of architectures by text: state, and score from scratch."""
    row = search(store, **changes)
    _scratch(store, row, scratch, first=0)
    return close(store, row)


def _scratch(
    store: Store, row: Search, scratch: Mapping[str, tuple[str, float | None]], *, first: int
) -> None:
    for number, (text, (state, score)) in enumerate(scratch.items(), start=first):
        trial = store.begin(
            row.id, NewTrial(number, architecture=text, key=text, space="toy", seed=0, attempt=0)
        )
        found = None if score is None else Score(score, 0.0, 1)
        store.finish(trial, Outcome(TrialState(state), Toy().decode(text), found, seconds=1.0))
