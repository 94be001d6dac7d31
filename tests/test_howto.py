"""The pages of docs/howto/ and the walk of README do what they say."""

from __future__ import annotations

import itertools
import json
import re
import shlex
import shutil
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from command_line import nas
from PIL import Image
from small_models import described, trained

from nas import plugins
from nas.errors import ConfigError
from nas.export.files import load, save
from nas.learners.maml import Maml
from nas.storage.store import Store
from nas.tasks.glyphs import Glyphs
from nas.tasks.supervised import Supervised
from search_spaces.nasbench201 import NasBench201

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
EXAMPLES = ROOT / "examples"
CHEAP = ("--set=budget.train_episodes=2", "--set=budget.validation_episodes=2", "--executor=inline")


def howto(name: str) -> Path:
    return ROOT / "docs" / "howto" / f"{name}.md"


def block(page: Path, holds: str) -> str:
    """Return the one block of a page that holds a text."""
    every = re.findall(r"^```\w*\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)
    [found] = [block for block in every if holds in block]
    return str(found)


def commands(block: str) -> list[list[str]]:
    """Return the arguments of the `nas` commands of a block."""
    lines = block.replace("\\\n", " ").splitlines()
    return [shlex.split(line, comments=True)[1:] for line in lines if line.startswith("nas ")]


def suite(page: str, name: str) -> Any:
    """Return the tests that a page shows; they run here."""
    names: dict[str, Any] = {"__name__": __name__}
    exec(block(howto(page), f"class {name}("), names)
    return names[name]


TestWidths = suite("space", "TestWidths")
TestClimber = suite("controller", "TestClimber")
TestCosine = suite("learner", "TestCosine")
TestBlobs = suite("tasks", "TestBlobs")
TestHeavyBall = suite("learner_slots", "TestHeavyBall")
TestErase = suite("learner_slots", "TestErase")
TestTrimmed = suite("learner_slots", "TestTrimmed")
TestGradNorm = suite("proxies", "TestGradNorm")


@pytest.fixture
def here(db: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The examples in the working directory, and a database elsewhere."""
    monkeypatch.chdir(EXAMPLES)


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("page", "holds"),
    [
        ("space", "--space widths:Widths"),
        ("space", "--space marked:Model"),
        ("controller", "--space widths:Widths"),
        ("controller", "--space few_shot"),
        ("learner", "cosine:Cosine --trials"),
        ("learner_slots", "heavy_ball:HeavyBall"),
        ("tasks", "blobs:Blobs --learner"),
        ("evaluator", "untrained:Untrained"),
        ("proxies", "--search promising"),
        ("proxies", "grad_norm:GradNorm"),
    ],
)
def test_an_example_runs(page: str, holds: str) -> None:
    verb, *arguments = commands(block(howto(page), holds))[0]
    assert verb == "run"
    code, _, err = nas(verb, *arguments, *CHEAP, "--trials=3", "--workers=1")
    assert code == 0, err
    assert "3/3 trials" in err


@pytest.mark.slow
@pytest.mark.usefixtures("here")
def test_the_best_of_a_marked_model_is_exported(tmp_path: Path) -> None:
    run, evaluate, export = commands(block(howto("space"), "--space marked:Model"))
    assert nas(*run, *CHEAP, "--trials=1", "--workers=1")[0] == 0
    cheap = ["--train-episodes=4", "--validate-every=2", "--validation-episodes=4"]
    kept = [word for word in evaluate if not word.startswith("--") and not word.isdigit()]
    assert nas(*kept, "--seeds=1", *cheap, f"--artifacts={tmp_path / 'artifacts'}")[0] == 0
    file = tmp_path / "marked.pt"
    code, _, err = nas(*export[:-1], str(file))
    assert code == 0, err
    assert load(file) is not None


def test_several_objectives_end_in_a_front(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run, show, board = commands(block(howto("search"), "--set objective="))
    assert nas(*run, *CHEAP, "--trials=4", "--workers=1")[0] == 0
    rows = json.loads(nas(*board, "--format=json")[1])
    assert {row["trial"] for row in rows} == set(json.loads(nas(*show, "--format=json")[1])["front"])
    for one, other in itertools.permutations(rows, 2):
        assert one["score"] > other["score"] or one["macs"] < other["macs"]  # neither is beaten in both


def test_settings_are_searched(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By options, and by the file that says the same."""
    monkeypatch.chdir(tmp_path)
    [command] = commands(block(howto("slots"), "--slot"))
    assert nas(*command, *CHEAP, "--trials=2", "--workers=1")[0] == 0
    trials, searched = store.trials(store.search("joint").id), store.search("joint").config["slots"]
    assert all("| learner: inner_lr=0." in trial.architecture for trial in trials)
    assert searched == tomllib.loads(block(howto("slots"), "[slots.tasks]"))["slots"]


def test_weights_of_examples_are_learned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the command; its measurements are shown and drawn; the file makes the data worse."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 255, (300, 8, 8), dtype=np.uint8)
    np.savez(tmp_path / "digits.npz", x=images, y=np.arange(300) % 3)
    run, show, plot = commands(block(howto("example_weights"), "--name weighed"))
    code, _, err = nas(*run, *CHEAP, "--trials=1", "--workers=1")
    assert code == 0, err
    told = {seen["metric"] for seen in json.loads(nas(*show, "--format=json")[1])["measurements"]}
    assert {metric for option, metric in itertools.pairwise(plot) if option == "--metric"} <= told
    code, out, err = nas(*plot)
    assert code == 0, err
    assert "weight at 4" in out
    given = tomllib.loads(block(howto("example_weights"), "noise_rate = "))["tasks"]
    resolved = plugins.resolve(Supervised, {k: v for k, v in given.items() if k != "name"}, "tasks")
    assert given.items() - {("path", "digits.npz")} <= ({"name": "supervised"} | resolved).items()


def test_a_file_fills_a_slot() -> None:
    """As options do: a section within the learner's."""
    given = tomllib.loads(block(howto("learner_slots"), "[learner.augmentation]"))["learner"]
    resolved = plugins.resolve(Maml, {"augmentation": given["augmentation"]}, "learner")
    assert given["name"] == "maml"
    assert resolved["augmentation"] == given["augmentation"] == {"name": "erase:Erase", "size": 6}


def test_a_text_form() -> None:
    names: dict[str, Any] = {"__name__": "page"}
    exec(block(howto("space"), "class Readable"), names)
    space = names["Readable"]()
    every = [space.decode("-".join(w)) for w in itertools.product(("8", "16", "32", "64"), repeat=3)]
    assert len(set(every)) == space.size
    assert [space.decode(space.encode(a)) for a in every] == every
    assert space.encode(space.decode("8-16-64")) == "8-16-64"
    for wrong in ("8-16", "8-16-65", "8-16-64-", "", "0.1.2"):
        with pytest.raises(ConfigError):
            space.decode(wrong)


def test_a_table_of_scores(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    space, rng = NasBench201(), np.random.default_rng(0)
    texts = sorted({space.encode(space.sample(rng)) for _ in range(8000)})
    scores = {name: rng.random(len(texts)) for name in ("valid_12", "valid_200", "seconds")}
    monkeypatch.chdir(tmp_path)
    pd.DataFrame({"arch": texts, **scores}).to_csv("scores.csv", index=False)
    [command] = commands(block(howto("evaluator"), "--name looked-up"))
    code, _, err = nas(*command, "--trials=40")
    assert code == 0, err
    states = {trial.state for trial in store.trials(store.search("looked-up").id)}
    assert states >= {"completed", "stopped", "infeasible"}


def test_what_costs_count(capsys: pytest.CaptureFixture[str]) -> None:
    exec(block(howto("space"), "space.cost("), {})
    assert capsys.readouterr().out == "802426 113951370\n"


def test_a_file_is_written_and_resolved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for verb, *arguments in commands(block(howto("search"), "nas init search.toml")):
        cheap = (*CHEAP, "--dry-run") if verb == "run" else ()
        assert nas(verb, *arguments, *cheap)[0] == 0
    assert Path("demo.toml").read_text() == (EXAMPLES / "demo.toml").read_text()


def test_the_database_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    [command] = commands(block(howto("search"), "--name first"))
    assert nas(*command, *CHEAP, "--trials=2")[0] == 0
    for asked in commands(block(howto("search"), "nas leaderboard --pareto")):
        code, out, _ = nas(*asked)
        assert code == 0
        assert "first" in out


@pytest.mark.slow
def test_python_does_what_the_verbs_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(cheap(block(howto("python"), 'name="first"')), names)
    assert (names["found"].name, names["found"].state) == ("first", "completed")
    exec(block(howto("python"), "nas.resume("), names)
    assert len(names["found"].trials) == 16
    exec(block(howto("python"), "groupby"), names)
    ranked = names["ranked"]
    assert ranked["trial"].tolist()[0] == names["found"].best.trial
    assert set(ranked["search"]) == {"first"}
    exec(block(howto("python"), "evolutoin"), names)
    assert "'evolution'" in capsys.readouterr().out
    example = block(howto("python"), "nas.evaluate(")
    short = "train_episodes=2, validation_episodes=2"
    exec(example.replace("train_episodes=1000", short).replace("seeds=2", "seeds=1"), names)
    assert [row.search for row in names["tested"].results] == ["first", None]
    for text in re.findall(r"`(nas\.leaderboard\([^`]+\))`", howto("python").read_text()):
        assert len(eval(text, names)) == 2


@pytest.mark.slow
def test_python_in_readme(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(cheap(block(README, "nas.search(")), names)
    found = names["found"]
    assert (found.state, len(found.trials), found.show().config["tasks"]["ways"]) == ("completed", 8, 3)


def cheap(example: str) -> str:
    """Return an example whose trials hardly train."""
    length = '"train_episodes": 200'
    assert length in example
    return example.replace(length, '"train_episodes": 2, "validation_episodes": 2')


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`model.pt` here, of images of 8×8 in one channel."""
    monkeypatch.chdir(tmp_path)
    save(trained(described())[0], "model.pt")


@pytest.mark.usefixtures("model")
@pytest.mark.parametrize(("ways", "shots"), [(5, 1), (3, 4)])
def test_an_episode_of_images(ways: int, shots: int) -> None:
    """Each query is an image of the support: it is told to be of that image's class."""
    support = torch.rand(ways, shots, 1, 8, 8)
    queries = support.mean(1).repeat_interleave(2, 0)
    names: dict[str, Any] = {"support": support, "queries": queries}
    exec(block(howto("model"), "support.flatten"), names)
    assert names["chosen"].shape == (2 * ways,)
    if shots == 1:
        assert names["chosen"].tolist() == [label for label in range(ways) for _ in range(2)]
    with torch.no_grad():
        episode, learner = names["episode"], names["model"].learner
        assert torch.equal(learner(episode).argmax(-1)[0], names["chosen"])


@pytest.mark.usefixtures("model")
def test_episodes_of_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(0)
    for label in range(6):
        (tmp_path / "mine" / f"class{label}").mkdir(parents=True)
        for number in range(5):
            pixels = np.clip(40 * label + rng.integers(0, 30, (9, 9)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / "mine" / f"class{label}" / f"{number}.png")
    names: dict[str, Any] = {"np": np, "torch": torch, "FOLDER": str(tmp_path / "mine")}
    exec("import nas; model = nas.load('model.pt')", names)
    exec(block(howto("model"), "source.sample"), names)
    assert len(names["four"]) == 4
    assert (len(names["listed"]), {len(episode) for episode in names["listed"]}) == (100, {1})
    assert re.fullmatch(r"accuracy [01]\.\d{3} ± 0\.\d{3}\n", capsys.readouterr().out)


def test_drawings_shrink_as_those_of_omniglot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    ink = np.zeros((105, 105), dtype=bool)
    ink[:15, :30] = True  # 4 × 8 areas of 3.75 × 3.75
    Image.fromarray(np.where(ink, 0, 255).astype(np.uint8)).save("drawing.png")
    names: dict[str, Any] = {}
    exec(block(howto("images"), "area_average"), names)
    expected = torch.zeros(1, 1, 28, 28)
    expected[:, :, :4, :8] = 1
    assert torch.equal(names["x"], expected)


def test_the_walk_is_the_same_in_both_pages() -> None:
    for holds in ("nas export small/", "nas.load"):
        assert block(README, holds) in howto("model").read_text()


@pytest.mark.slow
def test_the_walk_to_a_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(EXAMPLES, tmp_path / "examples")
    monkeypatch.chdir(tmp_path)
    cheap = {
        "run": [
            "--set=budget.train_episodes=1",
            "--set=budget.validation_episodes=2",
            "--set=tasks.queries=1",
            "--set=space.channels=4",
        ],
        "evaluate": ["--seeds=1", "--train-episodes=1", "--validation-episodes=2", "--workers=1"],
        "leaderboard": ["-f", "json"],
        "export": [],
    }
    ranked: list[dict[str, Any]] = []
    for verb, *arguments in commands(block(README, "nas export small/")):
        if verb == "export":  # another trial wins where none was trained
            [best] = [row["trial"] for row in ranked if row["search"] == "small"]
            arguments[0] = f"small/{best}"
        code, out, err = nas(verb, *arguments, *cheap.pop(verb))
        assert code == 0, err
        if verb == "leaderboard":
            ranked = json.loads(out)
            assert {row["space"] for row in ranked} == {"few_shot", "chain"}
    assert not cheap
    episode = next(Glyphs().episodes("test", 1))
    names: dict[str, Any] = {"episode": episode, "x": episode.query_x[0]}
    exec(block(README, "nas.load"), names)
    assert names["predictions"].shape == (1, 25, 5)
    assert names["features"].shape == (25, names["model"].network.backbone.out_features)
    assert names["outputs"] == []  # a prototypical network has no head
