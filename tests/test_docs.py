"""What the documentation shows is what is there."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from nas.cli.main import app
from nas.plugins import GROUPS, installed

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


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


def test_every_verb_is_documented() -> None:
    for verb in get_command(app).commands:  # type: ignore[attr-defined]
        assert re.search(rf"`nas {verb}\b|^nas {verb}\b", README, re.MULTILINE), verb


def test_every_plugin_is_documented() -> None:
    for kind in GROUPS:
        for name in installed(kind):
            assert f"`{name}`" in README, name


def test_links_lead_somewhere() -> None:
    for page in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")):
        for target in re.findall(r"\]\((?!http)([^)#]+)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_the_changelog_knows_this_version() -> None:
    assert "## [Unreleased]" in (ROOT / "CHANGELOG.md").read_text()
