"""Messages: their commands ask the same database, and on a terminal stand on lines of their own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import typer
from command_line import SCRIPTED, built, nas
from facts import refusal
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from nas.cli import messages
from nas.cli.main import app
from nas.cli.messages import DEFAULT_DB, laid_out, terminal
from nas.errors import ConfigError
from nas.storage.engine import parse

URL = "sqlite:///other.db"


@pytest.fixture(autouse=True)
def asked(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A command line that asks another database than the default."""
    monkeypatch.delenv("NAS_DB", raising=False)
    group = built(app)
    assert isinstance(group, typer.core.TyperGroup)
    messages.begin(group)
    messages.ask(URL)
    yield
    messages.begin(group)


@pytest.mark.parametrize(
    ("command", "asks"),
    [
        ("nas ls", True),
        ("nas show s/0", True),
        ("nas db upgrade", True),
        ("nas evaluate s/0 --set 'space.readout=flatten'", True),
        ("nas spaces chain", False),
        ("nas data fetch omniglot", False),
        ("nas run --help", False),
        ("nas ls --db sqlite:///third.db", False),
        ("nas ls --db=sqlite:///third.db", False),
        ("nas nonsense", False),
        ("nas", False),
    ],
)
@pytest.mark.parametrize("mark", ["See `{}`.", "For example:\n  {}\nor another"])
def test_a_command_that_asks_a_database_asks_the_same(command: str, asks: bool, mark: str) -> None:
    whole = f"{command} --db {URL}" if asks else command
    assert laid_out(mark.format(command), None) == mark.format(whole)


@pytest.mark.parametrize("url", ["postgresql://me:secret@host/db", "postgresql://me@host/db?password=secret"])
def test_a_password_is_not_printed(url: str) -> None:
    messages.ask(url)
    assert laid_out("`nas ls`", None) == f"`nas ls --db '{url.replace('secret', '***')}'`"
    with refusal(ConfigError) as refused:
        parse(url.replace("postgresql", "mysql"))
    assert "secret" not in str(refused.value)


def test_a_search_goes_on_where_it_ran(monkeypatch: pytest.MonkeyPatch) -> None:
    messages.ask(DEFAULT_DB)
    messages.run_at("head:6379")
    assert laid_out("`nas resume s`", None) == "`nas resume s --ray-address head:6379`"
    for same in ("`nas show s`", "`nas resume s --ray-address=other:1`"):
        assert laid_out(same, None) == same
    monkeypatch.setenv("RAY_ADDRESS", "head:6379")
    assert laid_out("`nas resume s`", None) == "`nas resume s`"


@pytest.mark.parametrize("url", [DEFAULT_DB, "no URL"])
def test_the_default_needs_no_option_and_what_is_no_database_gets_none(url: str) -> None:
    messages.ask(url)
    assert laid_out("`nas ls`", None) == "`nas ls`"


def test_the_database_of_the_environment_needs_no_option(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NAS_DB", URL)
    assert laid_out("`nas ls`", None) == "`nas ls`"


def test_a_command_stands_on_a_line_of_its_own_in_a_terminal() -> None:
    text = "error: 's' has no completed trial; see `nas show s`, or go on with `nas resume s`."
    assert laid_out(text, 30).split("\n") == [
        "error: 's' has no completed",
        "trial; see:",
        f"  nas show s --db {URL}",
        "or go on with:",
        f"  nas resume s --db {URL}",
    ]
    messages.ask(DEFAULT_DB)
    assert laid_out("Failed:\n  seed 0: go on with `nas ls` or so", 20).split("\n") == [
        "Failed:",
        "  seed 0: go on with",
        "  `nas ls` or so",
    ]
    assert laid_out("  nas run --space few_shot --tasks glyphs", 20) == (
        "  nas run --space few_shot --tasks glyphs"
    )


WORDS = st.lists(st.text("ab,.日", min_size=1, max_size=12), min_size=1, max_size=12).map(" ".join)


@given(first=WORDS, second=WORDS, width=st.integers(12, 40))
def test_prose_breaks_between_words_and_loses_none(first: str, second: str, width: int) -> None:
    lines = laid_out(f"{first} `nas show s` {second}", width).split("\n")
    place = lines.index(f"  nas show s --db {URL}")
    before, after = lines[:place], lines[place + 1 :]
    assert " ".join(before).removesuffix(":") == first
    assert " ".join(after).split() == second.lstrip(" .,;:").split()
    assert all(cell_len(line) <= width or " " not in line for line in (*before, *after))


def test_nothing_is_broken_where_no_terminal_reads(capsys: pytest.CaptureFixture[str]) -> None:
    assert terminal() is None


@pytest.mark.usefixtures("db")
def test_a_library_s_advice_asks_the_database_that_was_given() -> None:
    run = ("run", *SCRIPTED, "--trials=1", "--name=s", f"--db={URL}")
    assert nas(*run)[0] == 0
    code, _, err = nas(*run)
    assert (code, f"`nas resume s --db {URL}`" in err) == (2, True)
    code, _, err = nas("show", "t", f"--db={URL}")
    assert (code, f"`nas ls --db {URL}`" in err) == (3, True)
    assert nas(*run[:-1])[0] == 0
    code, _, err = nas(*run[:-1])
    assert (code, "--db" in err) == (2, False)
