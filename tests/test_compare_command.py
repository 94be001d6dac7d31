"""The command that runs a search again: pasted into a shell, it gives the same configuration."""

from __future__ import annotations

import shlex
from typing import Annotated, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import Field
from typer.testing import CliRunner

from nas.cli.main import app
from nas.errors import NotFound
from nas.evaluator import Context
from nas.settings.paths import assign
from nas.settings.run_command import MANY, like
from nas.settings.search import validate
from nas.storage.schema import Search
from nas.testing.evaluators import Scripted

BASE: dict[str, Any] = {
    "space": "nas.testing.toys:Toy",
    "controller": {"name": "evolution", "population": 4, "sample": 2},
    "tasks": "sinusoid",
    "learner": "maml",
}


class Odd(Scripted):
    """An evaluator with settings of every kind, defaults that are no null among them."""

    def __init__(
        self,
        context: Context,
        *,
        required: str,
        text: str | None = "usual",
        number: Annotated[float | None, Field(description="no null by default")] = 0.5,
        table: dict[str, str | int | None] | None = None,
        several: tuple[bool | int | str | None, ...] = (1, "two"),
    ) -> None:
        super().__init__(context)


ODD = f"{__name__}:Odd"


def again(config: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Return the configuration that the printed command gives."""
    program, verb, *arguments = shlex.split(like(Search(config=config, trials=config["trials"]), "random"))
    assert (program, verb) == ("nas", "run")
    seen: list[dict[str, Any]] = []

    def caught(values: dict[str, Any]) -> None:
        seen.append(validate(values).model_dump(mode="json"))
        raise NotFound("seen enough")

    with monkeypatch.context() as patch:
        patch.setattr("nas.settings.search.validate", caught)
        result = CliRunner().invoke(app, ["run", *arguments])
    assert isinstance(result.exception, NotFound), result.output
    return seen[0]


def expected(config: dict[str, Any]) -> dict[str, Any]:
    return {**config, "controller": {"name": "random"}, "name": None}


words = st.one_of(
    st.text(),
    st.sampled_from(
        ["null", "true", "1", "1e5", "NaN", "[1]", "2020-01-01", "'a'", '"', "$HOME `ls`", "a\n=b"]
    ),
)
scalars = st.one_of(st.none(), st.integers(-(2**40), 2**40), words)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    required=words,
    text=st.one_of(st.none(), words),
    number=st.one_of(st.none(), st.floats(allow_nan=False, allow_infinity=False)),
    table=st.one_of(st.none(), st.dictionaries(words, scalars, max_size=3)),
    several=st.lists(st.one_of(st.booleans(), scalars), max_size=3),
    max_seconds=st.one_of(st.none(), st.floats(1e-9, 1e9)),
    seed=st.integers(0, 2**63 - 1),
)
def test_any_settings_come_back(
    monkeypatch: pytest.MonkeyPatch, max_seconds: float | None, seed: int, **of_evaluator: Any
) -> None:
    evaluator = {"name": ODD, **of_evaluator}
    config = validate({**BASE, "evaluator": evaluator, "max_seconds": max_seconds, "seed": seed})
    stored = config.model_dump(mode="json")
    assert again(stored, monkeypatch) == expected(stored)


@pytest.mark.parametrize(
    "changes",
    [
        {"tasks": {"name": "sinusoid", "shots": 3}, "constraints": {"max_parameters": 99}, "seed": 7},
        {"scheduler": {}},
        {"scheduler": {"minimum": 20}, "executor": "inline"},
        {"executor": "ray", "workers": 3, "resources": {"gpus": 0.5, "precision": "bfloat16"}},
        {"deduplicate": False, "retries": 0, "max_failed": 0.25, "budget": {"train_episodes": 20}},
        {
            "tasks": None,
            "learner": None,
            "executor": "ray",
            "workers": 4,
            "evaluator": {"name": "tabular", "table": "a b's.csv", "metric": "1"},
        },
    ],
    ids=str,
)
def test_sections_come_back(changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    stored = validate({**BASE, **changes}).model_dump(mode="json")
    assert again(stored, monkeypatch) == expected(stored)


def test_a_setting_that_was_not_there_yet_takes_its_default(monkeypatch: pytest.MonkeyPatch) -> None:
    stored = validate(BASE).model_dump(mode="json")
    older = {key: value for key, value in stored.items() if key not in ("resources", "retries")}
    assert again(older, monkeypatch) == expected(stored)


def test_a_search_that_grew_has_a_baseline_as_long() -> None:
    stored = validate({**BASE, "trials": 5}).model_dump(mode="json")
    assert " --set=trials=7 " in f"{like(Search(config=stored, trials=7), 'random')} "


def test_a_baseline_may_be_as_long_as_another_search_took() -> None:
    stored = validate({**BASE, "trials": 5}).model_dump(mode="json")
    words = f"{like(Search(config=stored, trials=5), 'random', 80.2)} "
    assert " --set=max_seconds=81 " in words
    assert f" --set=trials={MANY} " in words


def test_plain_words_stay_plain() -> None:
    stored = validate({**BASE, "evaluator": {"name": ODD, "required": "plain"}}).model_dump(mode="json")
    assert " --set=evaluator.required=plain " in like(
        Search(config=stored, trials=stored["trials"]), "random"
    )


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("null", None),
        ('{"a": [null, 1]}', {"a": [None, 1]}),
        ("{a = 1}", {"a": 1}),
        ("word", "word"),
        ('"null"', "null"),
        ("1e-3", 1e-3),
        ("[1, 2", "[1, 2"),
        ("", ""),
    ],
)
def test_settings_are_toml_or_json_or_words(text: str, value: Any) -> None:
    values: dict[str, Any] = {}
    assign(values, f"a.b={text}")
    assert values == {"a": {"b": value}}
