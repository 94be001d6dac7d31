"""What the documentation shows is what is there."""

from __future__ import annotations

import json
import re
import runpy
import shlex
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from nas.cli.main import app
from nas.plugins import GROUPS, installed
from nas.tasks.glyphs import Glyphs

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
NAMED = ("README.md", "CONTRIBUTING.md", "benchmarks/README.md")
PAGES = (*(ROOT / name for name in NAMED), *(ROOT / "docs").rglob("*.md"))
"""All that is written for readers."""
BLOCKS = re.findall(r"^```\w*\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def commands(block: str) -> list[list[str]]:
    """Return the arguments of the `nas` commands that a block shows."""
    lines = block.replace("\\\n", " ").splitlines()
    return [shlex.split(line, comments=True)[1:] for line in lines if line.startswith("nas ")]


@pytest.mark.parametrize("example", ["widths.py", "climber.py"])
def test_the_readme_prints_the_examples(example: str) -> None:
    assert f"```python\n{(ROOT / 'examples' / example).read_text()}```" in README


def test_the_examples_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for example in ("widths.py", "climber.py"):
        shutil.copy(ROOT / "examples" / example, tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    command = re.search(r"^nas run (--space widths:Widths .*)$", README, re.MULTILINE)
    assert command
    budget = ["--set=budget.train_episodes=2", "--set=budget.validation_episodes=2", "--executor=inline"]
    result = CliRunner().invoke(app, ["run", *command.group(1).split(), *budget, "--trials=6", "--workers=1"])
    assert result.exit_code == 0, result.output
    assert "6/6 trials" in result.stderr


@pytest.mark.slow
def test_the_walk_to_a_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    monkeypatch.chdir(tmp_path)
    [walk] = [block for block in BLOCKS if "nas export small/" in block]
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
    for verb, *arguments in commands(walk):
        if verb == "export":  # another trial wins where none was trained
            [best] = [row["trial"] for row in ranked if row["search"] == "small"]
            arguments[0] = f"small/{best}"
        result = CliRunner().invoke(app, [verb, *arguments, *cheap.pop(verb)])
        assert result.exit_code == 0, result.output
        if verb == "leaderboard":
            ranked = json.loads(result.stdout)
            assert {row["space"] for row in ranked} == {"few_shot", "chain"}
    assert not cheap
    [loading] = [block for block in BLOCKS if "nas.load" in block]
    episode = next(Glyphs().episodes("test", 1))
    names: dict[str, Any] = {"episode": episode, "x": episode.query_x[0]}
    exec(loading, names)
    assert names["predictions"].shape == (1, 25, 5)
    assert names["features"].shape == (25, names["model"].network.backbone.out_features)
    assert names["outputs"] == []  # a prototypical network has no head


def test_every_option_shown_exists() -> None:
    known = get_command(app).commands  # type: ignore[attr-defined]
    for block in BLOCKS:
        for verb, *arguments in commands(block):
            command = known[verb]
            if hasattr(command, "commands"):
                command = command.commands[arguments[0]]
            options = {name for parameter in command.params for name in parameter.opts}
            given = {argument.partition("=")[0] for argument in arguments if argument.startswith("-")}
            assert given <= options, (verb, given - options)


def test_every_verb_is_documented() -> None:
    for verb in get_command(app).commands:  # type: ignore[attr-defined]
        assert re.search(rf"`nas {verb}\b|^nas {verb}\b", README, re.MULTILINE), verb


def test_every_plugin_is_documented() -> None:
    for kind in GROUPS:
        for name in installed(kind):
            assert f"`{name}`" in README, name


def test_links_lead_somewhere() -> None:
    for page in PAGES:
        for target, anchor in re.findall(r"\]\((?!https?:)([^)#]*)#?([^)]*)\)", prose(page)):
            found = (page.parent / target).resolve() if target else page
            assert found.exists(), f"{page.name}: {target}"
            if anchor:
                assert anchor in anchors(found), f"{page.name}: {target}#{anchor}"


def prose(page: Path) -> str:
    """Return a page without its blocks of code."""
    return re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)


def anchors(page: Path) -> set[str]:
    """Return the names of a page's headings as GitHub makes them; one that is there already gets a number."""
    seen: Counter[str] = Counter()
    names = set()
    for heading in re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE):
        text = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading)
        slug = re.sub(r"[^\w\- ]", "", text.strip().lower()).replace(" ", "-")
        names.add(f"{slug}-{seen[slug]}" if seen[slug] else slug)
        seen[slug] += 1
    return names


def test_the_reference_is_that_of_the_code() -> None:
    """`make docs` would change nothing."""
    pages = runpy.run_path(str(ROOT / "docs" / "generate.py"))["pages"]()
    assert pages == {page.name: page.read_text() for page in (ROOT / "docs" / "reference").glob("*.md")}


def test_the_changelog_knows_this_version() -> None:
    assert "## [Unreleased]" in (ROOT / "CHANGELOG.md").read_text()
