"""Searches by a supernet: its row, what it derives, and how they end."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import nas
from facts import lacking, refusal
from scripted_searches import Silent, start

from nas.controller import Finish, Reuse
from nas.driver.creation import create
from nas.driver.ledger import Ledger
from nas.driver.records import Records
from nas.driver.search import SearchDriver
from nas.driver.trials import executor
from nas.errors import ConfigError, Infeasible, TooManyFailures
from nas.metrics import SHARED
from nas.queries.leaderboard import Query, leaderboard
from nas.settings.search import SearchConfig, validate
from nas.storage.searches import NewSearch
from nas.storage.store import Store
from nas.testing import oneshot
from nas.testing.oneshot import job
from nas.training.checkpoint import Checkpoint


def configure(**changes: Any) -> SearchConfig:
    """Return a search whose supernet trains without an inner loop: in a tenth of the time."""
    glyphs = {"name": "glyphs", "ways": 3, "queries": 2}
    return oneshot.configure(**{"tasks": glyphs, "learner": "prototypical"} | changes)


def run(store: Store, config: SearchConfig, folder: Path | None = None) -> Any:
    tasks = config.make_tasks()
    row = create(store, config, tasks)
    search = SearchDriver(store, row, config, config.make_space(), tasks, Silent(), folder)
    search.run(executor(config, tasks))
    return store.search(row.name)


def test_a_search_ends_after_what_was_derived(store: Store, tmp_path: Path) -> None:
    row = run(store, configure(), tmp_path / "files")
    assert row.state == "completed"
    supernet, *derived = store.trials(row.id)
    assert (supernet.kind, supernet.architecture, supernet.score) == ("supernet", None, None)
    assert supernet.supernet["strategy"] == "nas.testing.oneshot:Noisy"
    assert [entry["architecture"] for entry in supernet.derived] == [t.architecture for t in derived]
    assert [entry["step"] for entry in supernet.derived_epochs] == [16, 32, 48]
    assert [trial.kind for trial in derived] == ["evaluate"] * 2
    measured = {m.metric for m in store.measurements(row.id, number=0)}
    assert {"train_loss", "supernet_score", "alpha.curve2.none"} <= measured
    assert [r.trial for r in leaderboard(store, Query())] != []
    assert all(r.trial > 0 for r in leaderboard(store, Query(sort="parameters")))
    assert not list((tmp_path / "files").rglob("*.pt"))


@pytest.mark.slow
@pytest.mark.parametrize("controller", ["darts", "drnas", "enas", "gdas", "random_sharing"])
def test_settings_that_could_be_chosen_stay_at_their_default(store: Store, controller: str) -> None:
    budget = {"epochs": 2, "steps": 2, "batch": 2, "validation_episodes": 2}
    asked = {"name": controller, "derive": 2, "budget": budget}
    row = run(store, oneshot.configure(controller=asked, slots={"learner": {"lr": [0.1, 0.001]}}))
    assert row.state == "completed"
    supernet, *derived = store.trials(row.id)
    assert [entry["architecture"] for entry in supernet.derived] == [t.architecture for t in derived]
    assert all(trial.architecture.endswith(" | learner: lr=0.001") for trial in derived)
    shared = [m.metric for m in store.measurements(row.id, number=0) if m.metric.startswith(f"{SHARED}/")]
    assert shared
    assert all(metric.endswith(" | learner: lr=0.001") for metric in shared)


def test_derived_architectures_beyond_the_limits_are_infeasible(store: Store) -> None:
    with refusal(Infeasible, 2, "constraints.max_parameters"):
        run(store, configure(constraints={"max_parameters": 1}))
    row = store.search("@last")
    assert row.state == "failed"
    assert [trial.state for trial in store.trials(row.id)] == ["completed", "infeasible", "infeasible"]


def test_a_supernet_that_fails_ends_the_search(store: Store) -> None:
    controller = {"name": "nas.testing.oneshot:ToyOneShot", "strategy": "nas.testing.toy_supernet:ToyCurves"}
    config = configure(controller=controller, name="fails")
    tasks = config.make_tasks()
    row = store.create_search(
        NewSearch(
            name="fails",
            source=None,
            config={},
            space="curves",
            controller="x",
            tasks="glyphs",
            task_label="g",
            learner="prototypical",
            executor="inline",
            seed=0,
            trials=10,
            settings="0",
            environment={},
        )
    )
    search = SearchDriver(store, row, config, config.make_space(), tasks, Silent())
    with refusal(TooManyFailures, "trial 0", "nas.testing.toy_supernet:ToyCurves"):
        search.run(executor(config, tasks))
    [trial] = store.trials(row.id)
    assert trial.attempt == 1
    assert lacking(trial.error, "Strategy", "nas.testing.toy_supernet:ToyCurves") == []
    assert search._controller.propose(1, (), np.random.default_rng(0)) == Finish()


@pytest.mark.parametrize("error", [Infeasible("It takes 9 TiB."), RuntimeError("out of memory")])
def test_a_search_without_its_supernet_has_failed(
    store: Store, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = configure(name="s", max_failed=1.0, retries=0)
    tasks = config.make_tasks()
    row = create(store, config, tasks)

    def failing(*_: Any) -> Any:
        raise error

    monkeypatch.setattr("nas.driver.trials.train_supernet", failing)
    for _ in range(2):  # and so it does when it is resumed
        search = SearchDriver(store, row, config, config.make_space(), tasks, Silent())
        with refusal(TooManyFailures, error, "nas show s") as raised:
            search.run(executor(config, tasks))
        assert raised.value.exit_code == 5
        assert store.search("s").state == "failed"
        assert len(store.trials(row.id)) == 1


def test_what_ended_a_search_is_known(store: Store) -> None:
    config = configure(max_seconds=1e6)
    search = start(store, config)
    assert search.run(executor(config, config.make_tasks())) == "completed"
    assert search.ending is not None
    assert "is complete" in search.ending


def test_trials_must_reach_for_all_that_is_derived(store: Store) -> None:
    controller = {"name": "nas.testing.oneshot:ToyOneShot", "derive": 3}
    config = configure(controller=controller, trials=3)
    with refusal(ConfigError, "trials", "controller.derive = 3", 4):
        create(store, config, config.make_tasks())
    assert store.searches() == []
    row = run(store, configure(controller=controller, trials=4))
    assert len(store.trials(row.id)) == 4


def test_what_a_supernet_derives_decides_how_many_trials_there_are(store: Store) -> None:
    """However many `trials` there are by default: nobody set them."""
    given = configure().model_dump(mode="json", exclude={"trials", "controller"})
    config = validate({**given, "controller": {"name": "nas.testing.oneshot:ToyOneShot", "derive": 40}})
    assert config.trials < 40
    row = create(store, config, config.make_tasks())
    assert row.trials == 41
    assert Ledger(config, row.trials).ending is not None  # none can be added, though the trials ran out


def test_the_checkpoint_of_other_data_is_another(tmp_path: Path) -> None:
    config = configure()
    names = {
        Records("s", config, config.make_space(), tmp_path, data).supernet(0, job().supernet).name
        for data in ({"train": "1"}, {"train": "2"}, {"train": "1"})
    }
    assert len(names) == 2


def test_rm_deletes_the_checkpoints_of_its_search_alone(
    store: Store, db: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = configure(name="s")
    tasks, folder = config.make_tasks(), db.parent / "nas-artifacts"
    row = create(store, config, tasks)
    written = []
    for name in ("s", "s-2", "s-0"):
        made = Records(name, config, config.make_space(), folder, {}).supernet(0, job().supernet).name
        written.append(Checkpoint(folder, made))
        written[-1].save({})
    part = written[0].path.with_name(f".{written[0].path.name}.x.part")
    part.touch()
    monkeypatch.delenv("NAS_ARTIFACTS", raising=False)
    code, _, err = nas("rm", row.name, "--yes")
    assert code == 0, err
    assert [checkpoint.path.exists() for checkpoint in written] == [False, True, True]
    assert not part.exists()


def test_replay_gives_the_controller_what_it_had_seen(store: Store) -> None:
    row = run(store, configure())
    config = configure()
    again = SearchDriver(store, row, config, config.make_space(), config.make_tasks(), Silent())
    again._replay()
    first = store.trials(row.id)[1]
    proposal = again._controller.propose(1, (), np.random.default_rng(0))
    assert isinstance(proposal, Reuse)  # it has been evaluated
    assert config.make_space().encode(proposal.architecture) == first.architecture
    assert again.next() is None
    assert again.done


def test_the_command_line_shows_a_supernet(store: Store, db: Path) -> None:
    run(store, configure(name="s"))
    code, shown, err = nas("show", "s/0")
    assert code == 0, err
    trial = store.trial(store.search("s").id, 0)
    for entry in trial.derived or []:
        line = rf"^ *{re.escape(entry['architecture'])} +{entry['score']:.4f}$"
        assert re.search(line, shown, re.MULTILINE)
    assert re.search(r"^supernet.budget +epochs=3 steps=4 batch=2 validation_episodes=4$", shown, re.M)
    whole = json.loads(nas("show", "s/0", "-f", "json")[1])
    assert whole["derived_epochs"] == trial.derived_epochs
    code, _, err = nas("evaluate", "s/0")
    assert (code, lacking(err, "s/0", "s/1")) == (2, [])
    listed = json.loads(nas("controllers", "nas.testing.oneshot:ToyOneShot", "-f", "json")[1])
    settings = {row["setting"]: row["default"] for row in listed}
    assert settings["controller.budget.epochs"] == "3"  # the controller's default, not the model's
    assert settings["controller.derive"] == "2"
