"""Folders in the working directory that have the name of an installed package."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

import controllers
from nas.plugins import Plugin
from nas.shadows import shadow

INSTALLED = Path(controllers.__path__[0])
MINE = """
from nas.controller import Controller

class Mine(Controller):
    '''Of one's own.'''

    def __init__(self, space, seed): ...
    def propose(self, number, pending, rng): ...
    def observe(self, number, outcome): ...
"""
COMMANDS = {"module": [sys.executable, "-m", "nas"], "script": [f"{sysconfig.get_path('scripts')}/nas"]}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A working directory with `controllers/mine.py` in it, and a plug-in in a file of another name."""
    (tmp_path / "controllers").mkdir()
    (tmp_path / "controllers" / "mine.py").write_text(MINE)
    (tmp_path / "own_controllers").mkdir()
    (tmp_path / "own_controllers" / "mine.py").write_text(MINE)
    (tmp_path / "mine.py").write_text(MINE)
    return tmp_path


def describe(command: str, controller: str, folder: Path) -> tuple[int, str]:
    """Return how `nas controllers NAME` ends, and its message on one line."""
    # As installed: where the tests find nas by PYTHONPATH, the working directory comes before it.
    done = subprocess.run(
        [*COMMANDS[command], "controllers", controller],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        capture_output=True,
        text=True,
    )
    assert "Traceback" not in done.stderr
    return done.returncode, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_a_folder_of_the_name_is_hidden_and_the_message_says_so(command: str, folder: Path) -> None:
    for name in ("evolution", "mine:Mine", "own_controllers.mine:Mine"):
        assert describe(command, name, folder) == (0, "")
    code, message = describe(command, "controllers.mine:Mine", folder)
    assert code == 2
    assert message.count("\n") == 1
    assert message.endswith(f"Rename {folder / 'controllers'}.\n")


@pytest.mark.slow
def test_a_package_of_the_name_that_comes_first_hides_ours(folder: Path) -> None:
    (folder / "controllers" / "__init__.py").touch()
    (folder / "controllers" / "evolution.py").write_text(MINE.replace("Mine", "Evolution"))
    assert describe("module", "controllers.mine:Mine", folder) == (0, "")
    code, message = describe("module", "evolution", folder)
    assert code == 2
    assert message.count("\n") == 1
    assert message.endswith(f"Rename {folder / 'controllers'}.\n")
    assert describe("script", "evolution", folder) == (0, "")
    code, message = describe("script", "controllers.mine:Mine", folder)
    assert code == 2
    assert message.endswith(f"Rename {folder / 'controllers'}.\n")


def test_what_hides_a_module_is_told(folder: Path) -> None:
    assert shadow("controllers.mine", folder) == (INSTALLED, folder / "controllers")
    assert shadow("controllers.evolution", folder) is None  # there is none to hide
    assert shadow("controllers.evolution", INSTALLED.parent) is None
    assert shadow("mine", folder) is None  # it is not found at all
    for made in ("", "__main__", "no.such.module"):
        assert shadow(made, folder) is None


def test_a_module_is_loaded_where_nothing_is_known_of_its_folder() -> None:
    assert Plugin("controller", "any", "controllers.random:Random", "another").load().__name__ == "Random"
