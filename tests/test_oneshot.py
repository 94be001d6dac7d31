"""Supernet trials: what they report, and that a killed one goes on from its last epoch to the same bits."""

from __future__ import annotations

import functools
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from nas.checkpoint import Checkpoint
from nas.cli.main import app
from nas.config import SearchConfig, validate
from nas.controller import Finish, Outcome, Reuse, SupernetBudget, TrainSupernet
from nas.errors import ConfigError, Diverged, Infeasible, TooManyFailures, Unsupported
from nas.evaluator import Context, SupernetJob
from nas.executors.inline import InlineExecutor
from nas.executors.worker import Worker
from nas.leaderboard import Query, leaderboard
from nas.oneshot.assembly import assemble
from nas.oneshot.batches import Bilevel
from nas.oneshot.training import train_supernet
from nas.records import Records
from nas.search import Search, create
from nas.space import SearchSpace
from nas.storage.store import Store
from nas.tasks.base import TaskSource
from nas.testing.controllers import ControllerSuite
from nas.testing.oneshot import Noisy, OneShot, Paths

NOISY = "nas.testing.oneshot:Noisy"
BUDGET = SupernetBudget(epochs=4, steps=3, batch=2, validation_episodes=4)


class TestOneShot(ControllerSuite):
    @pytest.fixture
    def space(self) -> SearchSpace:
        return Paths()

    @pytest.fixture
    def make(self, space: SearchSpace) -> Any:
        return lambda seed: OneShot(space, seed)


def configure(**changes: Any) -> SearchConfig:
    values: dict[str, Any] = {
        "space": "nas.testing.oneshot:Paths",
        "controller": "nas.testing.oneshot:OneShot",
        "tasks": {"name": "sinusoid"},
        "learner": {"name": "maml", "inner_lr": 0.01},
        "budget": {"train_episodes": 4, "validation_episodes": 4},
        "executor": "inline",
        "trials": 10,
    }
    return validate(values | changes)


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@functools.cache
def source(tasks: str) -> TaskSource:
    return configure(tasks=json.loads(tasks)).make_tasks()


def context(**changes: Any) -> Context:
    config = configure(**changes)
    return config.make_context(config.make_space(), source(json.dumps(config.tasks)))


def job(
    folder: Path | None = None, derive: int = 2, budget: SupernetBudget = BUDGET, **settings: Any
) -> SupernetJob:
    return SupernetJob(0, 0, TrainSupernet(NOISY, settings, derive, budget), 7, "one", folder and str(folder))


def plain(outcomes: list[Outcome]) -> list[Any]:
    """Return all of the outcomes but times and processes."""
    return [
        (o.state, o.train_episodes, [m for m in o.measurements if m.metric != "process"], o.derived, o.error)
        for o in outcomes
    ]


LEARNERS = [
    "prototypical",
    {"name": "maml", "order": 2},
    {"name": "maml", "order": 1},
    "anil",
    "matching",
    "relation",
]


@pytest.mark.parametrize("learner", LEARNERS, ids=str)
def test_each_epoch_is_reported_and_the_best_are_derived(learner: Any) -> None:
    glyphs = {"name": "glyphs", "ways": 3, "queries": 2}
    outcomes = list(train_supernet(context(tasks=glyphs, learner=learner), job(derive=3)))
    assert [o.state for o in outcomes] == ["running"] * 4 + ["completed"]
    assert [o.train_episodes for o in outcomes[:4]] == [12, 24, 36, 48]  # 3 steps of 2 + 2 tasks
    for outcome in outcomes[:4]:
        metrics = {m.metric: m.value for m in outcome.measurements}
        assert {"train_loss", "supernet_score", "derived_score", "alpha.layer0.skip"} <= set(metrics)
        [derived] = outcome.derived
        assert derived.score == metrics["derived_score"]
    scores = [derived.score for derived in outcomes[-1].derived]
    assert scores == sorted(scores, reverse=True)
    assert len({derived.architecture for derived in outcomes[-1].derived}) == 3
    assert all(outcome.architecture is None and outcome.score is None for outcome in outcomes)
    alphas = [[m.value for m in o.measurements if m.metric.startswith("alpha.")] for o in outcomes[:4]]
    assert len({tuple(alpha) for alpha in alphas}) == 4


def test_a_training_is_a_function_of_its_seed() -> None:
    shared = context()
    first, again = (plain(list(train_supernet(shared, job()))) for _ in range(2))
    assert first == again
    other = SupernetJob(0, 0, job().supernet, 8)
    assert plain(list(train_supernet(shared, other))) != first


@pytest.mark.parametrize("learner", [{"name": "maml", "inner_lr": 0.01}, {"name": "anil", "inner_lr": 0.01}])
@pytest.mark.parametrize("epochs", [1, 3, 4])
def test_it_goes_on_from_a_checkpoint_to_the_same_bits(
    tmp_path: Path, learner: Any, epochs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared = context(learner=learner)
    whole = list(train_supernet(shared, job(tmp_path / "whole")))
    broken = train_supernet(shared, job(tmp_path))
    for _ in range(epochs):
        next(broken)
    broken.close()
    torch.manual_seed(99)
    steps = []
    step = Noisy.step
    monkeypatch.setattr(Noisy, "step", lambda *a, **k: steps.append(0) or step(*a, **k))
    resumed = list(train_supernet(shared, job(tmp_path)))
    assert plain(resumed) == plain(whole)
    assert len(steps) == (4 - epochs) * 3
    seconds = [outcome.seconds for outcome in resumed]
    assert seconds == sorted(seconds)


def test_a_checkpoint_that_does_not_fit_is_passed_over(tmp_path: Path) -> None:
    shared = context()
    whole = plain(list(train_supernet(shared, job())))
    checkpoint = Checkpoint(tmp_path, "one")
    checkpoint.save({"learner": {}, "epochs": []})
    assert plain(list(train_supernet(shared, job(tmp_path)))) == whole
    checkpoint.path.write_bytes(b"nothing")
    assert plain(list(train_supernet(shared, job(tmp_path)))) == whole


def test_a_strategy_may_end_the_training(tmp_path: Path) -> None:
    outcomes = list(train_supernet(context(), job(tmp_path, stop=2)))
    assert [o.state for o in outcomes] == ["running", "running", "completed"]
    assert outcomes[-1].error == "asked to stop"
    assert len(outcomes[-1].derived) == 2
    assert plain(list(train_supernet(context(), job(tmp_path, stop=2)))) == plain(outcomes)


def test_what_diverges_says_what_to_lower_and_leaves_no_checkpoint(tmp_path: Path) -> None:
    shared = context(learner={"name": "maml", "lr": 1e30, "inner_lr": 1e20})
    with pytest.raises(Diverged, match=r"`learner.inner_lr` or `learner.lr`"):
        list(train_supernet(shared, job(tmp_path)))
    assert not Checkpoint(tmp_path, "one").path.exists()


def test_what_cannot_share_weights_is_refused() -> None:
    with pytest.raises(Unsupported, match="has no supernet"):
        assemble(context(space="chain"), job().supernet, 0)
    with pytest.raises(Unsupported, match="'reptile' is no gradient"):
        assemble(context(learner="reptile"), job().supernet, 0)


def test_losses_are_functions_of_mixture_and_weights() -> None:
    """Gradients by a stand-in for the weights equal those by the weights, and a batch stays what it is."""
    assembly = assemble(context(learner="maml"), job().supernet, 0)
    batches = Bilevel(assembly, context().tasks, 2, 0).next()
    mixture = [torch.softmax(torch.randn(4), 0).requires_grad_() for _ in range(3)]
    one = batches.inner(mixture)
    weights = {name: weight.detach().clone().requires_grad_() for name, weight in batches.weights.items()}
    two = batches.inner(mixture, weights)
    assert one.item() == two.item() != batches.outer(mixture).item()
    names = [name for name, weight in batches.weights.items() if weight.requires_grad]
    first = torch.autograd.grad(one, [batches.weights[name] for name in names] + mixture, allow_unused=True)
    second = torch.autograd.grad(two, [weights[name] for name in names] + mixture, allow_unused=True)
    for a, b in zip(first, second, strict=True):
        assert (a is None and b is None) or torch.equal(a, b)  # type: ignore[arg-type]
    assert any(gradient is not None and gradient.any() for gradient in first[-3:])


def test_only_what_is_asked_for_is_drawn() -> None:
    assembly = assemble(context(), job().supernet, 0)
    bilevel = Bilevel(assembly, context().tasks, 5, 0)
    batches = bilevel.next()
    assert bilevel.drawn == 0
    batches.inner(assembly.strategy.mixture())
    batches.inner(assembly.strategy.mixture())
    assert bilevel.drawn == 5


# Through a search


class Silent:
    def started(self, job: Any) -> None: ...

    def reported(self, job: Any, outcome: Outcome) -> None: ...

    def recorded(self, number: int, outcome: Outcome) -> None: ...

    def retried(self, job: Any, error: str) -> None: ...


@pytest.fixture
def store(tmp_path: Path):
    with Store(f"sqlite:///{tmp_path}/nas.db") as store:
        yield store


def run(store: Store, config: SearchConfig, folder: Path | None = None) -> Any:
    tasks = source(json.dumps(config.tasks))
    row = create(store, config, tasks)
    search = Search(store, row, config, config.make_space(), tasks, Silent(), folder)
    search.run(InlineExecutor(config, tasks))
    return store.search(row.name)


def test_a_search_ends_after_what_was_derived(store: Store, tmp_path: Path) -> None:
    row = run(store, configure(), tmp_path / "files")
    assert row.state == "completed"
    supernet, *derived = store.trials(row.id)
    assert (supernet.kind, supernet.architecture, supernet.score) == ("supernet", None, None)
    assert supernet.supernet["strategy"] == NOISY
    assert [entry["architecture"] for entry in supernet.derived] == [t.architecture for t in derived]
    assert [entry["step"] for entry in supernet.derived_epochs] == [16, 32, 48]
    assert [trial.kind for trial in derived] == ["evaluate"] * 2
    measured = {m.metric for m in store.measurements(row.id, number=0)}
    assert {"train_loss", "supernet_score", "alpha.layer2.none"} <= measured
    assert [r.trial for r in leaderboard(store, Query())] != []
    assert all(r.trial > 0 for r in leaderboard(store, Query(sort="parameters")))
    assert not list((tmp_path / "files").rglob("*.pt"))


def test_derived_architectures_beyond_the_limits_are_infeasible(store: Store) -> None:
    row = run(store, configure(constraints={"max_parameters": 1}))
    assert [trial.state for trial in store.trials(row.id)] == ["completed", "infeasible", "infeasible"]


def test_a_supernet_that_fails_ends_the_search(store: Store) -> None:
    controller = {"name": "nas.testing.oneshot:OneShot", "strategy": "nas.testing.oneshot:Paths"}
    config = configure(controller=controller, name="fails")
    tasks = source(json.dumps(config.tasks))
    row = store.create_search(
        name="fails",
        source=None,
        config={},
        space="paths",
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
    search = Search(store, row, config, config.make_space(), tasks, Silent())
    with pytest.raises(TooManyFailures, match=r"The supernet \(trial 0\) is failed: .* start a new search"):
        search.run(InlineExecutor(config, tasks))
    [trial] = store.trials(row.id)
    assert trial.attempt == 1
    assert "is no Strategy" in trial.error
    assert search._controller.propose(1, (), np.random.default_rng(0)) == Finish()


@pytest.mark.parametrize("error", [Infeasible("It takes 9 TiB."), RuntimeError("out of memory")])
def test_a_search_without_its_supernet_has_failed(
    store: Store, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = configure(name="s", max_failed=1.0, retries=0)
    tasks = source(json.dumps(config.tasks))
    row = create(store, config, tasks)

    def failing(*_: Any) -> Any:
        raise error

    monkeypatch.setattr("nas.executors.worker.train_supernet", failing)
    for _ in range(2):  # and so it does when it is resumed
        search = Search(store, row, config, config.make_space(), tasks, Silent())
        with pytest.raises(TooManyFailures, match=str(error)) as raised:
            search.run(InlineExecutor(config, tasks))
        assert raised.value.exit_code == 5
        assert store.search("s").state == "failed"
        assert len(store.trials(row.id)) == 1


def test_what_ended_a_search_is_known(store: Store) -> None:
    config = configure(max_seconds=1e6)
    tasks = source(json.dumps(config.tasks))
    search = Search(store, create(store, config, tasks), config, config.make_space(), tasks, Silent())
    assert search.run(InlineExecutor(config, tasks)) == "completed"
    assert search.ending is not None
    assert "nothing more to propose" in search.ending


def test_trials_must_reach_for_all_that_is_derived(store: Store) -> None:
    controller = {"name": "nas.testing.oneshot:OneShot", "derive": 3}
    config = configure(controller=controller, trials=3)
    with pytest.raises(ConfigError, match=r"trials: 3; .* controller.derive = 3 .* are 4"):
        create(store, config, source(json.dumps(config.tasks)))
    assert store.searches() == []
    row = run(store, configure(controller=controller, trials=4))
    assert len(store.trials(row.id)) == 4


def test_a_supernet_that_fails_after_a_checkpoint_counts_all_its_seconds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, tasks = configure(), context().tasks
    broken = train_supernet(context(), job(tmp_path))
    for _ in range(2):
        next(broken)
    broken.close()
    checkpoint = Checkpoint(tmp_path, "one")
    saved = checkpoint.load()
    assert saved is not None
    saved["seconds"] = saved["epochs"][-1]["seconds"] = 100.0
    checkpoint.save(saved)

    def failing(*_: Any) -> Any:
        raise RuntimeError

    monkeypatch.setattr(Noisy, "step", failing)
    *_, last = Worker(config, tasks).run(job(tmp_path))
    assert last.state == "failed"
    assert 100 < last.seconds < 130


def test_the_checkpoint_of_other_data_is_another(tmp_path: Path) -> None:
    config = configure()
    names = {
        Records("s", config, config.make_space(), tmp_path, data).supernet(0, job().supernet).name
        for data in ({"train": "1"}, {"train": "2"}, {"train": "1"})
    }
    assert len(names) == 2


def test_rm_deletes_the_checkpoints_of_its_search_alone(store: Store, tmp_path: Path) -> None:
    config = configure(name="s")
    tasks, folder = source(json.dumps(config.tasks)), tmp_path / "nas-artifacts"
    row = create(store, config, tasks)
    written = []
    for name in ("s", "s-2", "s-0"):
        made = Records(name, config, config.make_space(), folder, {}).supernet(0, job().supernet).name
        written.append(Checkpoint(folder, made))
        written[-1].save({})
    part = written[0].path.with_name(f".{written[0].path.name}.x.part")
    part.touch()
    arguments = ["rm", row.name, "--yes", "--db", f"sqlite:///{tmp_path}/nas.db"]
    removed = CliRunner().invoke(app, arguments, env={"NAS_ARTIFACTS": ""})
    assert removed.exit_code == 0, removed.output
    assert [checkpoint.path.exists() for checkpoint in written] == [False, True, True]
    assert not part.exists()


def test_replay_gives_the_controller_what_it_had_seen(store: Store) -> None:
    row = run(store, configure())
    config = configure()
    again = Search(store, row, config, config.make_space(), source(json.dumps(config.tasks)), Silent())
    again._replay()
    first = store.trials(row.id)[1]
    proposal = again._controller.propose(1, (), np.random.default_rng(0))
    assert isinstance(proposal, Reuse)  # it has been evaluated
    assert config.make_space().encode(proposal.architecture) == first.architecture
    assert again.next() is None
    assert again.done


def test_the_command_line_shows_a_supernet(store: Store, tmp_path: Path) -> None:
    run(store, configure(name="s"))
    db = ["--db", f"sqlite:///{tmp_path}/nas.db"]
    shown = CliRunner().invoke(app, ["show", "s/0", *db])
    assert shown.exit_code == 0, shown.output
    trial = store.trial(store.search("s").id, 0)
    for entry in trial.derived or []:
        line = rf"^ *{re.escape(entry['architecture'])} +{entry['score']:.4f}$"
        assert re.search(line, shown.stdout, re.MULTILINE)
    assert re.search(r"^supernet.budget +epochs=3 steps=4 batch=2 validation_episodes=4$", shown.stdout, re.M)
    whole = json.loads(CliRunner().invoke(app, ["show", "s/0", "-f", "json", *db]).stdout)
    assert whole["derived_epochs"] == trial.derived_epochs
    refused = CliRunner().invoke(app, ["evaluate", "s/0", *db])
    assert isinstance(refused.exception, ConfigError)
    assert "s/0 trained a supernet and is no architecture" in str(refused.exception)
    listed = CliRunner().invoke(app, ["controllers", "nas.testing.oneshot:OneShot", "-f", "json"])
    settings = {row["setting"]: row["default"] for row in json.loads(listed.stdout)}
    assert settings["controller.budget.epochs"] == "3"  # the controller's default, not the model's
    assert settings["controller.derive"] == "2"


def nas(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "nas", *arguments], cwd=folder, capture_output=True, text=True, timeout=200
    )


def asked(kill: Path, executor: str) -> list[str]:
    return [
        "run", "--space=nas.testing.oneshot:Paths", "--controller=nas.testing.oneshot:OneShot",
        "--tasks=sinusoid", "--learner=maml", "--set=learner.inner_lr=0.01", f"--executor={executor}",
        "--workers=1", "--name=s",
        "--trials=9", "--set=budget.train_episodes=4", "--set=budget.validation_episodes=4",
        "--set=controller.budget.epochs=4", f"--set=controller.kill={kill}", "--derive=3",
    ]  # fmt: skip


def shown(folder: Path, trial: int) -> dict[str, Any]:
    done = nas("show", f"s/{trial}", "-f", "json", folder=folder)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def same(killed: dict[str, Any], whole: dict[str, Any]) -> set[float]:
    """Assert that two supernet trials agree in every bit; return the processes of the first."""
    assert (killed["derived"], killed["derived_epochs"]) == (whole["derived"], whole["derived_epochs"])
    curves = [[m for m in trial["measurements"] if m["metric"] != "process"] for trial in (killed, whole)]
    assert curves[0] == curves[1]
    assert len(whole["derived_epochs"]) == 4
    return {m["value"] for m in killed["measurements"] if m["metric"] == "process"}


@pytest.mark.ray
def test_killed_supernets_go_on_with_the_same_alpha(tmp_path: Path) -> None:
    """kill -9 of the driver, and of a worker on Ray, against a training that nothing interrupts."""
    folders = [tmp_path / name for name in ("whole", "driver", "worker")]
    flag = tmp_path / "flag"
    for folder in folders:
        folder.mkdir()
    done = nas(*asked(flag, "inline"), folder=folders[0])
    assert done.returncode == 0, done.stderr
    whole = shown(folders[0], 0)
    assert [shown(folders[0], n)["state"] for n in range(4)] == ["completed"] * 4

    flag.touch()
    assert nas(*asked(flag, "inline"), folder=folders[1]).returncode == -9
    [checkpoint] = folders[1].rglob("*.pt")
    saved = torch.load(checkpoint, weights_only=True)["content"]
    assert len(saved["epochs"]) == 2
    done = nas("resume", "s", folder=folders[1])
    assert done.returncode == 0, done.stderr
    assert len(same(shown(folders[1], 0), whole)) == 2

    flag.touch()
    done = nas(*asked(flag, "ray"), folder=folders[2])
    assert done.returncode == 0, done.stderr
    killed = shown(folders[2], 0)
    assert killed["attempt"] == 1
    assert len(same(killed, whole)) == 2
    assert not list(tmp_path.rglob("*.pt"))
