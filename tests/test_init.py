"""`nas init`: a file that says every setting, and runs."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest
from command_line import nas

from nas import plugins
from nas.cli.document import document, toml
from nas.cli.init import examples
from nas.settings.search import validate

BASE: dict[str, Any] = {
    "space": "nas.testing.toys:Toy",
    "controller": "random",
    "tasks": "sinusoid",
    "learner": "maml",
}
REQUIRED = {
    "fixed": {"architectures": ["0"]},
    "image_folder": {"path": '/ü "quoted" \\ path'},
    "supervised": {"path": "/there"},
    "tabular": {"table": "/there.csv", "metric": "score"},
}


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (kind, name)
        for kind in ("space", "controller", "tasks", "learner")
        for name in plugins.installed(kind)
    ],
)
def test_the_file_of_every_plugin_reads_back_as_the_same_search(kind: str, name: str) -> None:
    config = validate({**BASE, kind: {"name": name, **REQUIRED.get(name, {})}, "executor": "inline"})
    text = document(config)
    assert validate(tomllib.loads(text)) == config
    assert "null" not in text
    for setting in plugins.settings(plugins.load(kind, name)):
        assert f"{setting} =" in text or f"{setting}." in text, setting


def test_so_does_that_of_a_search_without_tasks_and_of_one_with_everything_set() -> None:
    looked_up = {"name": "tabular", **REQUIRED["tabular"]}
    for values in (
        {"space": "nasbench201", "controller": "random", "evaluator": looked_up, "max_seconds": 1e-05},
        {**BASE, "scheduler": {"eta": 3}, "constraints": {"max_macs": 5}, "executor": "inline", "name": "x"},
        {**BASE, "evaluator": {"name": "nas.testing.evaluators:Scripted", "faults": {"3": "kill"}}},
    ):
        config = validate(values)
        assert validate(tomllib.loads(document(config))) == config


def test_a_value_is_one_in_toml() -> None:
    values = ['a\n"\\\x7f\u2028😀', 1, -0.5, 1e-7, True, [1, [2.5]], {"a b": {"c": []}}, {}]
    for value in values:
        assert tomllib.loads(f"value = {toml(value)}")["value"] == value


def test_what_it_writes_runs_as_it_is(db: Path) -> None:
    chosen = ["--space=nas.testing.toys:Toy", "--tasks=sinusoid", "--learner=maml"]
    cheap = [
        "--set=evaluator.name=nas.testing.evaluators:Scripted",
        "--set=executor=inline",
        "--set=trials=2",
    ]
    code, out, err = nas("init", "mine.toml", *chosen, *cheap)
    assert (code, out) == (0, "")
    assert "nas run mine.toml" in err
    assert nas("run", "mine.toml")[0] == 0
    before = Path("mine.toml").read_text()
    assert nas("init", "mine.toml", *chosen)[0] == 2
    assert Path("mine.toml").read_text() == before


def test_a_file_does_not_fix_what_depends_on_the_machine(db: Path) -> None:
    assert nas("init")[0] == 0
    values = tomllib.loads(Path("search.toml").read_text())
    assert not values.keys() & {"executor", "workers", "name"}
    assert values["tasks"]["name"] == "glyphs"


@pytest.mark.usefixtures("db")
def test_an_example_is_written_as_it_is() -> None:
    known = examples()
    assert set(known) == {path.stem for path in (Path(__file__).parent.parent / "examples").glob("*.*")}
    for name, source in known.items():
        code, _, err = nas("init", "--example", name)
        assert code == 0
        assert Path(source.name).read_text() == source.read_text()
        assert ("nas run" in err, "nas benchmark" in err) == (
            name == "demo",
            name in ("joint", "nasbench201", "omniglot"),
        )
    assert nas("init", "--example", "none")[0] == 2
    assert nas("init", "--tasks", "image_folder", "--set", "tasks.wayz=1")[0] == 2
    assert nas("init", "--tasks", "image_folder")[0] == 2  # it has to know the folder
    assert not Path("search.toml").exists()
