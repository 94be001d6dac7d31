"""The blocks of docs/extending.md do what the page says."""

from __future__ import annotations

import itertools
import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from command_line import nas
from PIL import Image
from small_models import described, trained

from nas.errors import ConfigError
from nas.export.files import save
from nas.storage.store import Store
from search_spaces.nasbench201 import NasBench201

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "extending.md").read_text()
TEXT, COSTS, EPISODE, FOLDER, INK = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


def test_a_text_form(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "examples")
    names: dict[str, Any] = {"__name__": "page"}
    exec(TEXT, names)
    space = names["Readable"]()
    every = [space.decode("-".join(w)) for w in itertools.product(("8", "16", "32", "64"), repeat=3)]
    assert len(set(every)) == space.size
    assert [space.decode(space.encode(a)) for a in every] == every
    assert space.encode(space.decode("8-16-64")) == "8-16-64"
    for wrong in ("8-16", "8-16-65", "8-16-64-", "", "0.1.2"):
        with pytest.raises(ConfigError, match=r"such as 8-16-64"):
            space.decode(wrong)


def test_a_table_of_scores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    space, rng = NasBench201(), np.random.default_rng(0)
    texts = sorted({space.encode(space.sample(rng)) for _ in range(8000)})
    scores = {name: rng.random(len(texts)) for name in ("valid_12", "valid_200", "seconds")}
    monkeypatch.chdir(tmp_path)
    pd.DataFrame({"arch": texts, **scores}).to_csv("scores.csv", index=False)
    command = re.search(r"^```\n(nas run .*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    assert command
    arguments = shlex.split(command.group(1).replace("\\\n", " "))[1:]
    code, _, err = nas(*arguments, "--trials=40")
    assert code == 0, err
    with Store(f"sqlite:///{tmp_path}/nas.db", create=True) as store:
        states = {trial.state for trial in store.trials(store.search("looked-up").id)}
    assert states >= {"completed", "stopped", "infeasible"}


def test_what_costs_count(capsys: pytest.CaptureFixture[str]) -> None:
    exec(COSTS, {})
    assert capsys.readouterr().out == "802426 113951370\n"


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
    exec(EPISODE, names)
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
    exec(FOLDER, names)
    assert len(names["four"]) == 4
    assert (len(names["listed"]), {len(episode) for episode in names["listed"]}) == (100, {1})
    assert re.fullmatch(r"accuracy [01]\.\d{3} ± 0\.\d{3}\n", capsys.readouterr().out)


def test_drawings_shrink_as_those_of_omniglot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    ink = np.zeros((105, 105), dtype=bool)
    ink[:15, :30] = True  # 4 × 8 areas of 3.75 × 3.75
    Image.fromarray(np.where(ink, 0, 255).astype(np.uint8)).save("drawing.png")
    names: dict[str, Any] = {"np": np}
    exec(INK, names)
    expected = torch.zeros(1, 1, 28, 28)
    expected[:, :, :4, :8] = 1
    assert torch.equal(names["x"], expected)
