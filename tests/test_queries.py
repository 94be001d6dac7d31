"""Searches and trials as rows."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from recorded import MIXED, Trained, close, record, record_one_shot, search

from nas.controller import Measurement, Outcome
from nas.errors import ConfigError, NotFound
from nas.queries import rows, searches, trials
from nas.queries.trials import MeasurementRow
from nas.states import TrialState
from nas.storage.columns import now
from nas.storage.schema import Search
from nas.storage.store import Store
from nas.storage.trials import NewTrial
from nas.testing.evaluations import CONFIG, claim, trained
from nas.testing.toys import Toy

NETWORK = Toy().encode(Toy().sample(np.random.default_rng(0)))


def test_a_search_in_a_list(store: Store) -> None:
    record(store, MIXED, name="a", seed=3)
    search(store, name="b")
    last, first = searches.searches(store)
    assert (first.search, first.state, first.controller, first.space) == ("a", "completed", "random", "toy")
    assert (first.task, first.learner, first.seed) == ("sinusoid 10-shot", "maml", 3)
    assert (first.done, first.trials, first.failed, first.best) == (7, 9, 1, 0.6)
    assert abs((datetime.now(UTC) - first.created_at).total_seconds()) < 60
    assert (last.search, last.state, last.done, last.best) == ("b", "interrupted", 0, None)
    assert [row.search for row in searches.searches(store, 1)] == ["b"]


def test_what_took_over_a_score_is_not_done_where_time_is_the_limit(store: Store) -> None:
    record(store, MIXED, name="a", max_seconds=100.0)
    assert searches.searches(store)[0].done == 6


def test_a_search_in_full(store: Store) -> None:
    row = record(store, MIXED, name="a")
    store.annotate(row.id, "a note")
    found = searches.details(store, "@last")
    assert (found.search, found.state, found.trials, found.note) == ("a", "completed", 9, "a note")
    assert found.states == {"completed": 3, "failed": 1, "infeasible": 1, "reused": 1, "stopped": 1}
    assert found.config["controller"]["name"] == "random"
    assert [trial.trial for trial in found.trial_rows] == list(range(7))
    assert [(trial.state, trial.score, trial.seconds) for trial in found.trial_rows] == [
        (state, score, seconds) for state, score, seconds, _ in MIXED
    ]


def test_one_trial_in_full(store: Store) -> None:
    row = record(store, MIXED, name="a")
    architecture = store.trial(row.id, 3).architecture or ""
    key = Toy().canonical(Toy().decode(architecture))
    for section in (row.config["space"], {"name": "chain"}):
        config = CONFIG | {"space": section}
        of = claim(
            store, space="toy", key=key, architecture=architecture, config=config, settings=str(section)
        )
        store.evaluations.complete(of.id, trained((0.5, 0.7)))
    found = trials.details(store, "a", 3)
    assert (found.search, found.trial.trial, found.trial.score, found.derivation) == ("a", 3, 0.3, None)
    assert found.measurements == (MeasurementRow(0, "test_score", 0.9),)
    assert [(one.seed, one.state, one.test_score, one.test_episodes) for one in found.evaluations] == [
        (0, "completed", 0.6, 2)
    ]
    with pytest.raises(NotFound):
        trials.details(store, "a", 99)


def test_a_trial_of_a_supernet(store: Store) -> None:
    record_one_shot(store, Trained([(NETWORK, 0.6)], skips=[2, 3]), {NETWORK: ("completed", 0.5)}, name="s")
    found = trials.details(store, "s", 0)
    assert (found.trial.kind, found.trial.architecture, found.trial.score) == ("supernet", None, None)
    assert found.derivation is not None
    assert found.derivation.supernet == {"strategy": "darts"}
    assert found.derivation.derived == [{"architecture": NETWORK, "score": 0.6}]
    assert [(point.step, point.value) for point in found.measurements] == [(0, 2.0), (10, 3.0)]


def test_a_number_that_was_not_finite_is_none(store: Store) -> None:
    row = search(store, name="a")
    trial = store.begin(row.id, NewTrial(0, architecture="1.0", key="1.0", space="toy", seed=0, attempt=0))
    nan = Measurement(1, "train_loss", float("nan"))
    store.finish(
        trial, Outcome(TrialState.FAILED, (1, 0), seconds=1.0, measurements=(nan,), error="no\nmore")
    )
    close(store, row, "failed")
    found = trials.details(store, "a", 0)
    assert found.measurements == (MeasurementRow(1, "train_loss", None),)
    assert found.trial.error == "no\nmore"


def test_records_are_json(store: Store) -> None:
    record(store, MIXED, name="a")
    found = searches.details(store, "a")
    read = json.loads(json.dumps(rows.record(found)))
    assert datetime.fromisoformat(read["created_at"]) == found.created_at
    assert datetime.fromisoformat(read["trial_rows"][0]["started_at"]) == found.trial_rows[0].started_at
    assert read["states"] == found.states


def test_a_target_names_a_search_or_a_trial() -> None:
    assert trials.split("a") == ("a", None)
    assert trials.split("a/12") == ("a", 12)
    for wrong in ("a/b", "a/", "a/-1"):
        with pytest.raises(ConfigError):
            trials.split(wrong)


def test_a_driver_s_sign_of_life_has_an_age(store: Store) -> None:
    row = store.acquire(search(store, name="s").id)
    with store._database.edit() as session:
        session.get_one(Search, row.id).heartbeat_at = now() - timedelta(seconds=30)
    [listed] = searches.searches(store)
    assert listed.sign_of_life == pytest.approx(30, abs=15)
    store.release(row.id, "stopped")
    assert searches.searches(store)[0].sign_of_life is None
