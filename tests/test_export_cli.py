"""`nas export` after real evaluations."""

from __future__ import annotations

import json
import shutil
import sqlite3
from pathlib import Path

import pytest
from command_line import nas as run
from facts import lacking

import nas
from nas.evaluation.targets import course
from nas.precision import choose
from nas.settings.sections import maker
from nas.storage.store import Store
from nas.training.scoring import episode_scores

pytestmark = pytest.mark.slow

SMALL = ["--workers=1", "--validate-every=20", "--validation-episodes=20"]
SINUSOID = ["evaluate", "mlp:20-0-0-tanh", "--tasks=sinusoid", "--learner=maml", *SMALL]
TEXT = "3x3/2:4"
GLYPHS = [
    *("evaluate", f"chain:{TEXT}", "--tasks=glyphs", "--learner=prototypical", "--seeds=1", *SMALL),
    *("--set=space.layers=1", "--set=space.channels=[4]", "--set=tasks.queries=2", "--train-episodes=20"),
]


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `nas.db`: a network with three seeds, one under two budgets, one in another space."""
    folder = tmp_path_factory.mktemp("evaluated")
    db = f"--db=sqlite:///{folder / 'nas.db'}"
    for command in (
        [*SINUSOID, "--seeds=3", "--train-episodes=40"],
        [*SINUSOID, "--seeds=1", "--train-episodes=20", "--set=learner.order=1"],
        GLYPHS,
    ):
        assert run(*command, db)[0] == 0
    return folder


@pytest.fixture
def here(evaluated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of that folder to work in; its files are no longer where they were written."""
    folder = tmp_path / "moved"
    shutil.copytree(evaluated, folder)
    with sqlite3.connect(folder / "nas.db") as connection:
        connection.execute("UPDATE artifacts SET uri = replace(uri, ?, ?)", (str(evaluated), "/nowhere"))
    monkeypatch.chdir(folder)
    monkeypatch.setenv("NAS_DB", "sqlite:///nas.db")
    return folder


def rows(query: str) -> list[tuple[object, ...]]:
    with sqlite3.connect("nas.db") as connection:
        return connection.execute(query).fetchall()


def settings(train_episodes: int) -> str:
    [[found]] = rows(
        "SELECT DISTINCT settings FROM evaluations WHERE learner = 'maml' AND "
        f"json_extract(config, '$.budget.train_episodes') = {train_episodes}"
    )
    return str(found)


@pytest.mark.usefixtures("here", "one_thread")
@pytest.mark.parametrize(
    ("target", "suffix"),
    [("mlp:20-0-0-tanh", ".pt"), ("mlp:20-0-0-tanh", ".json"), (f"chain:{TEXT}", ".pt")],
)
def test_a_loaded_learner_scores_as_the_evaluation_did(target: str, suffix: str) -> None:
    narrow = [f"--settings={settings(40)}"] if target.startswith("mlp") else []
    code, _, err = run("export", target, "-o", f"model{suffix}", *narrow)
    assert (code, "nas.load(" in err) == (0, True)
    loaded = nas.load(f"model{suffix}")
    description = loaded.description
    with Store("sqlite:///nas.db") as store:
        of_network = store.evaluations.of_network(description.space["name"], description.key)
        [row] = [row for row in of_network if row.test_score == description.test.score]
        wanted = store.evaluations.scores(row.id)
    images = len(description.input) == 3
    arithmetic = choose(description.precision, images=images, sensitive=loaded.learner.sensitive)
    learner = arithmetic.prepare(loaded.learner)
    tasks = maker("tasks", description.tasks)()
    assert episode_scores(learner, tasks, "test", 100, arithmetic) == wanted[:100]
    assert row.normalization == description.normalization
    assert (row.validation_score, row.test_ci95) == (description.validation.score, description.test.ci95)


@pytest.mark.usefixtures("here")
def test_the_seed_is_the_best_on_validation_never_on_test() -> None:
    hashed = settings(40)
    with sqlite3.connect("nas.db") as connection:
        for seed, validation, test in ((0, -2.0, -1.0), (1, -1.0, -3.0), (2, -3.0, -2.0)):
            connection.execute(
                "UPDATE evaluations SET validation_score = ?, test_score = ? WHERE seed = ? AND settings = ?",
                (validation, test, seed, hashed),
            )
    for chosen, option in ((1, []), (0, ["--seed=0"]), (2, ["--seed=2"])):
        code, out, _ = run(
            *("export", "mlp:20-0-0-tanh", "-o", "m.pt", "--force", "-f", "json"),
            *(f"--settings={hashed[:6]}", *option),
        )
        assert code == 0
        assert json.loads(out)[0]["seed"] == chosen
    code, _, err = run("export", "mlp:20-0-0-tanh", "-o", "n.pt", f"--settings={hashed}", "--seed=9")
    assert (code, "0, 1, 2" in err, err.endswith(" --seeds 10`")) == (3, True, True)


@pytest.mark.usefixtures("here")
def test_several_settings_are_listed_with_what_differs() -> None:
    code, _, err = run("export", "mlp:20-0-0-tanh", "-o", "m.pt")
    assert code == 2
    for train_episodes, order in ((40, 2), (20, 1)):
        line = next(line for line in err.splitlines() if settings(train_episodes)[:8] in line)
        assert line.endswith(f"learner.order={order} budget.train_episodes={train_episodes}")
    assert not Path("m.pt").exists()


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("option", ["--tasks=glyphs", "--learner=prototypical", "--settings=ffff"])
def test_options_that_leave_nothing(option: str) -> None:
    code, _, err = run("export", "mlp:20-0-0-tanh", "-o", "m.pt", option)
    assert (code, "sinusoid 10-shot, maml" in err) == (3, True)


@pytest.mark.usefixtures("here")
def test_an_architecture_means_what_its_space_made_of_it() -> None:
    """The text is of a one-layer `chain`; by default that space has four."""
    assert run("export", f"chain:{TEXT}", "-o", "m.pt", "--learner=prototypical", "--tasks=glyphs")[0] == 0
    assert nas.load("m.pt").description.space["layers"] == 1


@pytest.mark.usefixtures("here")
def test_isomorphic_texts_share_weights() -> None:
    code, out, _ = run("export", "mlp:0-20-0-tanh", "-o", "m.pt", f"--settings={settings(40)}", "-f", "json")
    assert (code, json.loads(out)[0]["architecture"]) == (0, "20-0-0-tanh")


@pytest.mark.usefixtures("here")
def test_a_trial_exports_what_was_evaluated_of_it() -> None:
    search = ["--space=mlp", "--tasks=sinusoid", "--learner=maml", "--executor=inline", "--trials=1"]
    fixed = ["--controller=fixed", '--set=controller.architectures=["20-0-0-tanh"]', "--name=s"]
    short = ["--set=budget.train_episodes=2", "--set=budget.validation_episodes=2"]
    assert run("run", *search, *fixed, *short)[0] == 0
    assert run("export", "s/0", "-o", "m.pt", f"--settings={settings(40)}")[0] == 0
    code, _, err = run("export", "s/1", "-o", "n.pt")
    assert (code, "nas show s" in err) == (3, True)


@pytest.mark.usefixtures("here")
def test_a_trial_without_weights() -> None:
    search = ["--space=mlp", "--tasks=sinusoid", "--learner=maml", "--executor=inline", "--trials=1"]
    fixed = ["--controller=fixed", '--set=controller.architectures=["maml"]', "--name=s"]
    short = ["--set=budget.train_episodes=2", "--set=budget.validation_episodes=2"]
    assert run("run", *search, *fixed, *short)[0] == 0
    code, _, err = run("export", "s/0", "-o", "m.pt")
    assert code == 3
    assert err == "error: 's/0' was never evaluated, so it has no weights. Train it: `nas evaluate s/0`"
    elsewhere = ["--db=sqlite:///./nas.db", "--artifacts=my files"]
    code, _, err = run("export", "@last/0", "-o", "m.pt", "--learner=anil", "--seed=4", *elsewhere)
    words = "--learner anil --seeds 5 --artifacts 'my files' --db sqlite:///./nas.db"
    assert (code, err.endswith(f"Train it: `nas evaluate s/0 {words}`")) == (3, True)


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("options", "words"),
    [
        ([], "--tasks TASKS --learner LEARNER"),
        (["--tasks=sinusoid", "--learner=maml"], "--tasks sinusoid --learner maml"),
        (["--tasks=image_folder"], "--tasks image_folder --learner LEARNER --set tasks.path=PATH"),
    ],
)
def test_an_architecture_that_was_never_evaluated(options: list[str], words: str) -> None:
    code, _, err = run("export", "mlp:80-0-0-tanh", "-o", "m.pt", *options)
    assert (code, err.endswith(f" `nas evaluate mlp:80-0-0-tanh {words}`")) == (3, True)


NOTHING = "|none~0|+|none~0|none~1|+|none~0|none~1|none~2|"


@pytest.mark.usefixtures("here")
def test_a_trial_that_no_evaluation_can_train() -> None:
    """Its cell is zero; another trial only breaks a constraint, and evaluations have none."""
    search = ["--tasks=glyphs", "--learner=prototypical", "--executor=inline", "--trials=1"]
    for name, text, *limit in (
        ("zero", NOTHING),
        ("limited", NOTHING, "--set=constraints.max_parameters=1"),
        ("large", "resnet", "--set=constraints.max_parameters=1"),
    ):
        fixed = ["--controller=fixed", f'--set=controller.architectures=["{text}"]', f"--name={name}"]
        run("run", "--space=nasbench201", *search, *fixed, *limit)
    for name in ("zero", "limited"):
        code, _, err = run("export", f"{name}/0", "-o", "m.pt")
        assert code == 3
        assert lacking(err, f"'{name}/0'", f"'{NOTHING}'") == []
        assert "nas evaluate" not in err
    assert "`nas evaluate large/0" in run("export", "large/0", "-o", "m.pt")[2]
    assert "`nas evaluate zero/0 --tasks" in run("export", "zero/0", "-o", "m.pt", "--tasks=sinusoid")[2]


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("state", "error", "facts"),
    [
        ("interrupted", None, ("seed 0 interrupted", "--seeds 1")),
        ("failed", "RuntimeError: no\nat line 3", ("seed 0 failed: RuntimeError: no", "--seeds 1")),
        ("failed", "Diverged: nan", ("seed 0 failed: Diverged: nan", "--seeds 2")),
        ("infeasible", "zero", ("seed 0 infeasible: zero",)),
    ],
)
def test_evaluations_without_a_result(state: str, error: str | None, facts: tuple[str, ...]) -> None:
    with sqlite3.connect("nas.db") as connection:
        changed = "UPDATE evaluations SET state = ?, error = ? WHERE space = 'chain'"
        connection.execute(changed, (state, error))
    code, _, err = run("export", f"chain:{TEXT}", "-o", "m.pt")
    assert (code, lacking(err, *facts)) == (3, [])
    assert ("nas evaluate" in err) == (state != "infeasible")


@pytest.mark.usefixtures("here")
def test_a_failure_under_other_settings_is_not_this_one_s() -> None:
    with sqlite3.connect("nas.db") as connection:
        connection.execute("UPDATE evaluations SET state = 'failed', error = 'short' WHERE space = 'mlp'")
        longer = "UPDATE evaluations SET error = 'long' WHERE settings = ? AND seed < 2"
        connection.execute(longer, (settings(40),))
    for train_episodes, mine, other in (
        (40, "seeds 0, 1 failed: long", "seed 0 failed: short"),
        (20, "short", "long"),
    ):
        _, _, err = run("export", "mlp:20-0-0-tanh", "-o", "m.pt", f"--settings={settings(train_episodes)}")
        assert (mine in err, other in err) == (True, False)
        assert f"--train-episodes {train_episodes} " in err
    _, _, err = run("export", "mlp:20-0-0-tanh", "-o", "m.pt")
    assert [err.count(f"--settings {settings(budget)[:8]}") for budget in (20, 40)] == [1, 1]
    assert err.count("`nas evaluate") == 2
    _, _, err = run("export", "mlp:20-0-0-tanh", "-o", "m.pt", "--learner=anil")
    assert "failed" not in err
    assert err.count("(none completed)") == 2
    assert "`nas evaluate mlp:20-0-0-tanh --tasks TASKS --learner anil" in err


def test_weights_that_changed_or_went(here: Path) -> None:
    of_chain = "SELECT uri FROM artifacts JOIN evaluations ON evaluations.id = evaluation_id"
    [[uri]] = rows(f"{of_chain} WHERE space = 'chain'")
    file = here / "nas-artifacts" / "weights" / Path(str(uri)).name
    whole = file.read_bytes()
    file.write_bytes(whole[:-1] + b"x")
    code, _, err = run("export", f"chain:{TEXT}", "-o", "m.pt")
    assert (code, "sha256" in err, "nas evaluate" in err) == (3, True, True)
    file.unlink()
    code, _, err = run("export", f"chain:{TEXT}", "-o", "m.pt")
    assert (code, str(file) in err) == (3, True)
    again = err.rpartition("`nas evaluate")[1].lstrip("`") + err.rpartition("`nas evaluate")[2]
    assert again.startswith(f"nas evaluate chain:{TEXT} --tasks glyphs --learner prototypical ")
    assert again.endswith(" --seeds 1 --lost-weights`")
    elsewhere = here / "elsewhere" / "weights"
    elsewhere.mkdir(parents=True)
    (elsewhere / file.name).write_bytes(whole)
    assert run("export", f"chain:{TEXT}", "-o", "m.pt", "--artifacts=elsewhere")[0] == 0


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("target", "code", "message"),
    [
        ("mlp:20-20", 2, "'mlp'"),
        ("mlp:80-0-0-tanh", 3, "nas evaluate mlp:80-0-0-tanh"),
        ("gone:1", 2, "'gone'"),
        ("nobody", 2, "'nobody'"),
        ("nosearch/1", 3, "nas ls"),
    ],
)
def test_targets_without_a_model(target: str, code: int, message: str) -> None:
    found, _, err = run("export", target, "-o", "m.pt")
    assert (found, message in err) == (code, True)


@pytest.mark.usefixtures("here")
def test_a_file_that_cannot_be_written_is_refused_first() -> None:
    Path("m.pt").write_text("precious")
    assert run("export", "nobody", "-o", "m.pt")[2].endswith("--force.")
    assert ".pt, .json, .onnx" in run("export", "nobody", "-o", "m.zip")[2]
    assert Path("m.pt").read_text() == "precious"


@pytest.mark.usefixtures("here")
def test_an_onnx_file() -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    code, _, err = run("export", f"chain:{TEXT}", "-o", "m.onnx")
    assert (code, "onnxruntime" in err) == (0, True)
    [images] = onnxruntime.InferenceSession("m.onnx").get_inputs()
    assert images.shape == ["batch", 1, 28, 28]


@pytest.mark.parametrize("form", ["table", "ndjson", "csv", "markdown"])
@pytest.mark.usefixtures("here")
def test_every_format(form: str) -> None:
    code, out, _ = run("export", f"chain:{TEXT}", "-o", "m.json", "-f", form)
    assert (code, TEXT in out) == (0, True)


@pytest.mark.usefixtures("one_thread")
def test_a_policy_that_a_search_learned_is_exported_with_the_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From a one-shot search for a policy over its evaluation to the file."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NAS_DB", "sqlite:///nas.db")
    small = ["--set=controller.budget.epochs=1", "--set=controller.budget.steps=3", "--derive=1"]
    small += ["--set=controller.budget.validation_episodes=2", "--set=budget.validation_episodes=4"]
    network = ["--space=chain", "--set=space.layers=1", "--set=space.channels=[4]", "--set=tasks.queries=2"]
    policy = '--slot=learner.augmentation={name="autoaugment", policy="any"}'
    searched = ["run", *network, "--tasks=glyphs", "--learner=prototypical", "--controller=dada", policy]
    short = ["--executor=inline", "--set=budget.train_episodes=4", "--name=learned"]
    assert run(*searched, *small, *short)[0] == 0
    trained = ["--train-episodes=20", "--validate-every=20", "--validation-episodes=4", "--seeds=1"]
    assert run("evaluate", "learned/1", "--workers=1", *trained)[0] == 0
    assert run("export", "learned/1", "-o", "model.pt")[0] == 0
    with Store("sqlite:///nas.db") as store:
        [trial] = [trial for trial in store.trials(store.search("learned").id) if trial.architecture]
    description = nas.load("model.pt").description
    augmentation = description.learner["augmentation"]
    assert description.chosen == {"learner": {"augmentation": augmentation}}
    assert description.phases is None
    assert augmentation["name"] == "autoaugment"
    assert augmentation["policy"] in trial.architecture


@pytest.mark.usefixtures("one_thread", "few_test_tasks")
def test_a_schedule_that_a_search_found_is_exported_with_the_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From population-based augmentation over an evaluation, which goes through the schedule, to the file."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NAS_DB", "sqlite:///nas.db")
    network = ["--space=chain", "--set=space.layers=1", "--set=space.channels=[4]", "--set=tasks.queries=2"]
    policy = '--slot=learner.augmentation={name="pba", policy="any"}'
    searched = ["run", *network, "--tasks=glyphs", "--learner=prototypical", "--controller=pba", policy]
    short = ["--set=controller.population=4", "--set=controller.interval=4", "--set=controller.quantile=0.5"]
    short += ["--set=budget.train_episodes=12", "--set=budget.validation_episodes=4", "--executor=inline"]
    assert run(*searched, *short, "--name=found")[0] == 0
    with Store("sqlite:///nas.db") as store:
        search = store.search("found")
        courses = {
            trial.number: course(search, store.lineage(trial))
            for trial in store.trials(search.id)
            if trial.state == "completed" and trial.parent is not None
        }
    number, phases = next((number, phases) for number, phases in courses.items() if phases)
    trained = ["--train-episodes=24", "--validate-every=24", "--validation-episodes=4", "--seeds=1"]
    assert run("evaluate", f"found/{number}", "--executor=inline", *trained)[0] == 0
    assert run("export", f"found/{number}", "-o", "model.pt")[0] == 0
    description = nas.load("model.pt").description
    policies = [phase.learner["augmentation"]["policy"] for phase in description.phases or ()]
    assert policies == [phase["learner"]["augmentation"]["policy"] for phase in phases]
    assert len(set(policies)) > 1
    assert description.learner["augmentation"]["policy"] == policies[-1]
