"""Which modules go to a cluster with a search."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from nas import own_code, plugins
from nas.shadows import shadow

PLUGIN = """
import own_helper
import numpy
from nas.testing.evaluators import Scripted

class Own(Scripted):
    '''Of one's own.'''
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to import from: a plug-in in a package, one in a file, and what they import."""
    (tmp_path / "own_package" / "inner").mkdir(parents=True)
    for file in ("own_package/__init__.py", "own_package/inner/__init__.py", "own_helper.py", "own_other.py"):
        (tmp_path / file).write_text("")
    (tmp_path / "own_package" / "inner" / "plugin.py").write_text(PLUGIN)
    (tmp_path / "own_file.py").write_text(PLUGIN)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(plugins, "_by_path", set())
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if name.startswith("own_"):
            del sys.modules[name]


def test_plugins_travel_with_what_they_import_from_beside_them(folder: Path, tmp_path: Path) -> None:
    plugins.load("evaluator", "own_package.inner.plugin:Own")
    plugins.load("evaluator", "own_file:Own")
    expected = [folder / name for name in ("own_file.py", "own_helper.py", "own_package")]
    assert own_code.files() == expected
    (tmp_path / "copies").mkdir()
    assert own_code.copy(tmp_path / "copies")
    copies = {path.name for path in (tmp_path / "copies").rglob("*.py")}
    assert copies == {"own_file.py", "own_helper.py", "__init__.py", "plugin.py"}


def test_what_every_node_has_stays(folder: Path) -> None:
    plugins.load("space", "nas.testing.toys:Toy")
    plugins.load("controller", "evolution")
    plugins.load("controller", "controllers.random:Random")
    assert own_code.files() == []


def test_an_equal_copy_hides_nothing(folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    (copy / "own_file.py").write_text(PLUGIN)
    assert shadow("own_file", copy) is None
    (copy / "own_file.py").write_text(PLUGIN + "# another\n")
    hidden = shadow("own_file", copy)
    assert hidden is not None
    assert hidden.hidden == copy / "own_file.py"
