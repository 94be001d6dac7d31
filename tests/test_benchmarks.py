"""What the benchmarks share: turns, and arguments that are refused before anything is measured."""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

import pytest
from facts import refusal

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
SHARED = (
    "arguments",
    "correlations",
    "curves",
    "few_shot_costs",
    "few_shot_page",
    "few_shot_proxies",
    "one_network",
    "peers",
    "proposals",
    "resumable",
    "shared_weights_page",
    "shell",
    "silent",
    "turns",
    "upright",
    "welch",
)
METHOD = """
import sys
sys.path.insert(0, {benchmarks!r})
from turns import serve
steps = []
if sys.argv[1] == "broken":
    sys.exit(7)
serve(lambda: steps.append(0) or [len(steps), 0.5], lambda: {{"method": sys.argv[1], "steps": len(steps)}})
"""


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.syspath_prepend(BENCHMARKS)
    path = tmp_path / "method.py"
    path.write_text(METHOD.format(benchmarks=str(BENCHMARKS)))
    return [str(path)]


def test_one_round_is_a_step_after_one_to_warm_up(script: list[str]) -> None:
    from turns import take_turns

    taken, ends = take_turns(script, ("a", "b"), 1)
    assert taken == {"a": [[2.0, 0.5]], "b": [[2.0, 0.5]]}
    assert ends == {name: {"method": name, "steps": 2} for name in ("a", "b")}


def test_a_method_that_dies_ends_the_others(script: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    from turns import take_turns

    with refusal(SystemExit, "'broken'", 7):
        take_turns(script, ("a", "broken"), 3)
    assert capfd.readouterr().err == ""  # the other is killed, and complains of no broken pipe


def test_too_little_is_refused_first(script: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    from arguments import at_least, data, require

    assert at_least(1)("1") == 1
    with pytest.raises(argparse.ArgumentTypeError):
        at_least(1)("0")
    parser = argparse.ArgumentParser()
    require(parser, "torch")
    monkeypatch.delenv("NAS_DATA", raising=False)
    for refuse in (lambda: require(parser, "no_such_package"), lambda: data(parser, "omniglot")):
        with pytest.raises(SystemExit) as ended:
            refuse()
        assert ended.value.code == 2


def test_the_readme_knows_every_script_and_its_options() -> None:
    readme = (BENCHMARKS / "README.md").read_text()
    scripts = {path.name for path in BENCHMARKS.glob("*.py") if path.stem not in SHARED}
    rows = dict(re.findall(r"^\| `(\w+\.py)[^|]*\|(.*)$", readme, re.MULTILINE))
    assert set(rows) == scripts
    for name, row in rows.items():
        text = (BENCHMARKS / name).read_text()
        for option in re.findall(r"--[a-z]+", row.rpartition("| `")[2]):
            assert f'"{option}"' in text, (name, option)
    assert not sys.modules.keys() & {path.stem for path in BENCHMARKS.glob("*.py")} - set(SHARED)
