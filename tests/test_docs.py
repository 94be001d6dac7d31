"""What the documentation shows is what is there."""

from __future__ import annotations

import itertools
import re
import runpy
import shlex
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from command_line import built

from nas.cli.main import app
from nas.plugins import GROUPS, installed

ROOT = Path(__file__).parent.parent
REFERENCE = ROOT / "docs" / "reference"
NAMED = ("README.md", "CONTRIBUTING.md", "benchmarks/README.md")
PAGES = (*(ROOT / name for name in NAMED), *sorted((ROOT / "docs").rglob("*.md")))
"""All that is written for readers."""
WRITTEN = [page for page in PAGES if page.parent != REFERENCE]
"""Those that a person wrote."""
README = (ROOT / "README.md").read_text()


def blocks(page: Path) -> list[str]:
    """Return the blocks of code of a page."""
    return re.findall(r"^```\w*\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)


def commands(page: Path) -> Iterator[list[str]]:
    """Yield the arguments of the `nas` commands that a page shows."""
    for block in blocks(page):
        for line in block.replace("\\\n", " ").splitlines():
            if line.startswith(("nas ", "docker compose run --rm nas ")):
                yield shlex.split(line.partition("nas ")[2], comments=True)


@pytest.mark.parametrize("page", WRITTEN, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_option_and_setting_shown_exists(page: Path) -> None:
    known = built(app).commands  # type: ignore[attr-defined]
    settings = (REFERENCE / "settings.md").read_text()
    for verb, *arguments in commands(page):
        command = known[verb]
        if hasattr(command, "commands"):
            command = command.commands[arguments[0]]
        options = {name for parameter in command.params for name in parameter.opts} | {"--help"}
        given = {argument.partition("=")[0] for argument in arguments if argument.startswith("-")}
        assert given <= options, (verb, given - options)
        for option, value in itertools.pairwise(arguments):
            if option == "--set":
                assert f"`{value.partition('=')[0]}`" in settings, value


def test_no_two_classes_share_a_name() -> None:
    sources = [
        path for package in ("nas", "controllers", "search_spaces") for path in (ROOT / package).rglob("*.py")
    ]
    public = re.compile(r"^class ([A-Za-z]\w*)", re.MULTILINE)
    counts = Counter(
        name
        for path in sources
        if path.relative_to(ROOT) != Path("nas/storage/schema.py")
        for name in public.findall(path.read_text())
    )
    assert {name for name, count in counts.items() if count > 1} == {"Darts"}


def test_every_example_is_printed() -> None:
    printed = "".join(page.read_text() for page in WRITTEN)
    for example in (ROOT / "examples").glob("*.py"):
        assert f"```python\n{example.read_text()}```" in printed, example.name


def test_every_verb_is_documented() -> None:
    for verb in built(app).commands:  # type: ignore[attr-defined]
        assert re.search(rf"`nas {verb}\b|^nas {verb}\b", README, re.MULTILINE), verb


def test_every_plugin_is_documented() -> None:
    plugins = "".join(page.read_text() for page in (ROOT / "docs" / "plugins").glob("*.md"))
    for kind in GROUPS:
        for name in installed(kind):
            assert f"`{name}`" in README, name
            if kind != "evaluator":
                assert re.search(rf"^## {name}$|^\| `{name}`", plugins, re.MULTILINE), name


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
    assert pages == {page.name: page.read_text() for page in REFERENCE.glob("*.md")}


def test_the_pictures_are_those_of_the_code() -> None:
    """`make docs` would change nothing."""
    pictures = runpy.run_path(str(ROOT / "docs" / "pictures.py"))["pictures"]()
    assert pictures == {file.name: file.read_text() for file in (ROOT / "docs" / "images").glob("*.svg")}


def test_the_changelog_knows_this_version() -> None:
    assert "## [Unreleased]" in (ROOT / "CHANGELOG.md").read_text()
