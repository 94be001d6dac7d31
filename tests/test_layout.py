"""Tables on a terminal: no line is wider than it, and what is cut can be asked for."""

from __future__ import annotations

import itertools
import os
import pty
import subprocess
import sys
import termios
from pathlib import Path

import pytest
from command_line import SCRIPTED, nas
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from nas.cli import evaluate
from nas.cli.layout import LEAST, LONG, fit, pad, total, wrap
from nas.cli.output import Format, emit
from nas.progress.ellipsis import shorten, shorten_apart

CELL = "|nor_conv_3x3~0|+|none~0|nor_conv_1x1~1|+|skip_connect~0|none~1|nor_conv_3x3~{}|"
ROWS = [
    {
        "rank": place,
        "task": "文字 5-way 1-shot",
        "learner": "maml",
        "score": 0.5 + place / 100,
        "test_ci95_episodes": place / 50,
        "seconds": 3.0 * place,
        "architecture": CELL.format(place),
    }
    for place in range(3)
]


@pytest.fixture
def width(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """A terminal of so many columns."""
    columns: int = request.param
    monkeypatch.setattr("nas.cli.output.room", lambda: columns)
    return columns


@pytest.mark.parametrize("width", [48, 80, 90], indirect=True)
def test_a_line_is_no_wider_than_the_terminal(width: int, capsys: pytest.CaptureFixture[str]) -> None:
    emit(ROWS, Format.TABLE, drop=["seconds"], wide=False)
    printed = capsys.readouterr()
    caption, *lines = printed.out.splitlines()
    assert caption.startswith("task 文字 5-way 1-shot · learner maml")
    assert max(map(cell_len, lines)) <= width
    assert ("seconds" in lines[-4].split()) == (width > 48)
    assert all("…" in line for line in lines[-3:])
    assert "architecture" in printed.err


@pytest.mark.parametrize("width", [80], indirect=True)
def test_wide_and_what_no_terminal_reads_are_whole(width: int, capsys: pytest.CaptureFixture[str]) -> None:
    emit(ROWS, Format.TABLE, wide=True)
    assert [line.split()[-1] for line in capsys.readouterr().out.splitlines()[1:]] == [
        row["architecture"] for row in ROWS
    ]
    for form in set(Format) - {Format.TABLE}:
        emit(ROWS, form, wide=False)
        printed = capsys.readouterr()
        assert CELL.format(2) in printed.out.replace("\\|", "|")
        assert printed.err == ""


def test_a_pipe_gets_everything(capsys: pytest.CaptureFixture[str]) -> None:
    emit(ROWS, Format.TABLE, wide=False)
    head, *lines = capsys.readouterr().out.splitlines()
    assert head.split() == list(ROWS[0])
    assert all(line.endswith(row["architecture"]) for line, row in zip(lines, ROWS, strict=True))


@pytest.mark.parametrize("width", [64, 80], indirect=True)
@pytest.mark.parametrize("plugin", [("learners", "maml"), ("tasks", "image_folder"), ("controllers", "enas")])
def test_what_a_setting_means_is_never_left_out(width: int, plugin: tuple[str, str]) -> None:
    code, out, _ = nas(*plugin)
    table = out[out.rindex("\n\n") :].strip().splitlines()
    assert code == 0
    assert table[0].split()[-1] == "meaning"
    assert max(map(cell_len, table)) <= width
    if width == 80:
        assert table[0].split() == ["setting", "type", "default", "meaning"]


@pytest.mark.parametrize("width", [80], indirect=True)
def test_a_difference_keeps_an_interval(width: int, capsys: pytest.CaptureFixture[str]) -> None:
    numbers = [
        column
        for column in evaluate.COLUMNS
        if column.startswith(("test_score", "ci95", "difference_ci95")) or column == "difference"
    ]
    rows = [
        dict.fromkeys(evaluate.COLUMNS)
        | dict.fromkeys(numbers, 0.1 + place / 100)
        | {"search": f"demo-{place}", "trial": place, "space": f"nasbench20{place}", "seeds": place}
        | {"name": f"conv{place}", "baseline": f"resnet{place}", "architecture": CELL.format(place)}
        for place in range(3)
    ]
    emit(rows, Format.TABLE, evaluate.COLUMNS, drop=evaluate.DROP, wide=False)
    printed = capsys.readouterr()
    left_out = printed.err.partition(": ")[2].partition(".")[0].split(", ")
    assert "architecture" in left_out
    assert not {"test_score", "ci95_episodes", "difference", "difference_ci95_episodes"} & {*left_out}


@pytest.mark.parametrize("width", [80], indirect=True)
def test_a_narrow_table_keeps_what_a_baseline_is_for(width: int, capsys: pytest.CaptureFixture[str]) -> None:
    texts = {"space", "task", "learner", "normalization", "search", "name", "baseline"}
    rows = [
        {name: f"{name}{i}" if name in texts else 0.1 + i for name in evaluate.COLUMNS}
        | {"architecture": CELL.format(i), "trial": i, "search": "small", "baseline": f"conv4{i}"}
        for i in range(2)
    ]
    emit(rows, Format.TABLE, evaluate.COLUMNS, drop=evaluate.DROP, wide=False)
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 80
    # Titles break at their underscores, into lines above each other.
    assert {"trial", "test_", "baseline", "difference"} <= set(out.split())


@pytest.mark.parametrize("width", [80], indirect=True)
def test_titles_without_rows_are_not_printed(width: int, capsys: pytest.CaptureFixture[str]) -> None:
    emit([], Format.TABLE, list(ROWS[0]), wide=False)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("width", [80], indirect=True)
def test_a_single_row_is_printed_whole_a_line_each(width: int, capsys: pytest.CaptureFixture[str]) -> None:
    emit([ROWS[0] | {"validation_score": 0.51234}], Format.TABLE, wide=False)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == [*ROWS[0], "validation_score"]
    assert lines[-2].endswith(CELL.format(0))


@pytest.mark.parametrize("width", [80], indirect=True)
def test_a_single_row_of_few_columns_is_a_table(width: int, capsys: pytest.CaptureFixture[str]) -> None:
    few = ("rank", "score", "seconds", "architecture")
    emit([{name: ROWS[0][name] for name in few}], Format.TABLE, wide=False)
    head, row = capsys.readouterr().out.splitlines()
    assert head.split() == list(few)
    assert cell_len(row) <= width


def test_columns_line_up_by_cells_of_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    names = ["ascii", "日本語", "naïve", "🙂 smile", "한글"]
    emit([{"class": name, "images": number} for number, name in enumerate(names)], Format.TABLE)
    assert len({cell_len(line[:-1]) for line in capsys.readouterr().out.splitlines()[1:]}) == 1


texts = st.text(st.sampled_from("ab_ |日本🙂é"), max_size=60)


@given(text=texts, width=st.integers(1, 40))
def test_a_shortened_text_keeps_its_ends(text: str, width: int) -> None:
    short = shorten(text, width)
    assert cell_len(short) <= width
    if cell_len(text) <= width:
        assert short == text
    else:
        start, _, end = short.partition("…")
        assert text.startswith(start)
        assert text.endswith(end)


@given(
    head=st.text("ab", min_size=20, max_size=40),
    middle=st.lists(st.text("cd", min_size=1, max_size=9), min_size=2, max_size=2, unique=True),
    tail=st.text("ef", min_size=20, max_size=40),
    width=st.integers(9, 30),
)
def test_what_differs_in_the_middle_is_shown(head: str, middle: list[str], tail: str, width: int) -> None:
    policies = [f"{head}{own}.{tail}" for own in middle]
    assert len(set(shorten_apart(policies, width))) == 2
    assert all(cell_len(text) <= width for text in shorten_apart([*policies, "other"], width))
    assert shorten_apart([policies[0], "other"], width) == [shorten(policies[0], width), "other"]
    assert shorten_apart([policies[0]] * 2, width) == [shorten(policies[0], width)] * 2


@given(text=texts, width=st.integers(2, 40))
def test_a_wrapped_text_keeps_its_words(text: str, width: int) -> None:
    lines = wrap(text, width)
    assert all(cell_len(line) <= width for line in lines)
    assert "".join(lines).replace(" ", "") == "".join(text.split())


@given(
    cells=st.integers(2, 4).flatmap(
        lambda n: st.lists(st.tuples(*[texts] * n).map(list), min_size=2, max_size=4)
    ),
    width=st.integers(LEAST + 62, 120),
)
def test_a_table_fits_wherever_its_first_column_does(cells: list[list[str]], width: int) -> None:
    columns = ["name", "architecture", "error", "note"][: len(cells[0])]
    assert total(fit(columns, cells, width, ["note"]).widths()) <= width
    assert cell_len(pad("日", 5)) == cell_len(pad("日", 5, right=True)) == 5


def test_a_very_long_choice_takes_few_lines() -> None:
    policy = "+".join(["rotate:0.5:3"] * 40)
    table = fit(["rank", "chosen"], [["1", policy], ["2", "lr=0.1"]], 60, [])
    assert (table.hidden, len(table.cells)) == (["chosen"], LONG + 1)
    short = fit(["rank", "chosen"], [["1", policy[:100]], ["2", "lr=0.1"]], 60, [])
    assert (short.hidden, "".join(row[1] for row in short.cells)) == ([], policy[:100] + "lr=0.1")


def test_every_verb_fits_a_terminal(db: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nas("run", *SCRIPTED, "--trials=3", "--name=a")
    nas("run", *SCRIPTED, "--trials=3", "--name=b", "--seed=1")
    monkeypatch.setattr("nas.cli.output.room", lambda: 60)
    for verb in ("ls", "show a", "leaderboard", "tasks", "tasks glyphs", "compare a b"):
        code, out, _ = nas(*verb.split())
        assert (code, bool(out)) == (0, True), verb
        assert max(map(cell_len, out.splitlines())) <= 60, verb
        assert max(map(cell_len, nas(*verb.split(), "--wide")[1].splitlines())) > 60, verb


@pytest.mark.parametrize("columns", ["80", "100"])
@pytest.mark.parametrize("verb", ["evaluate", "compare", "benchmark"])
def test_help_breaks_its_paragraphs_for_the_terminal(
    columns: str, verb: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No line ends before the next word would have had room."""
    monkeypatch.setenv("COLUMNS", columns)
    text = nas(verb, "--help")[1]
    prose = text.partition("╭")[0].partition("Usage")[2].split("\n", 1)[1]
    stripped = "\n".join(line.strip() for line in prose.splitlines()).strip()
    for paragraph in stripped.split("\n\n"):
        lines = paragraph.splitlines()
        for line, following in itertools.pairwise(lines):
            assert len(line) + 1 + len(following.split()[0]) > int(columns) - 3, (line, following)


def test_the_width_is_that_of_the_terminal(tmp_path: Path) -> None:
    """In a pseudoterminal of 44 columns."""
    master, slave = pty.openpty()
    termios.tcsetwinsize(slave, (24, 44))
    environment = {key: value for key, value in os.environ.items() if key not in ("COLUMNS", "LINES")}
    code = "from nas.cli.output import room; print(room())"
    subprocess.run([sys.executable, "-c", code], stdout=slave, env=environment, check=True)
    os.close(slave)
    assert os.read(master, 100).split() == [b"44"]
    os.close(master)
    assert subprocess.run(
        [sys.executable, "-c", code], capture_output=True, env=environment | {"COLUMNS": "44"}, check=True
    ).stdout.split() == [b"None"]
