"""What is published holds what its documentation needs: the sdist, and the wheel."""

from __future__ import annotations

import re
import tarfile
import zipfile
from pathlib import Path

import pytest

hatchling = pytest.importorskip("hatchling.build")

ROOT = Path(__file__).parent.parent


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)  # hatchling builds the project of the working directory


@pytest.mark.usefixtures("here")
def test_the_sdist_has_what_its_readme_runs_and_links(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / hatchling.build_sdist(str(tmp_path))) as sdist:
        names = {name.partition("/")[2] for name in sdist.getnames()}
    makefile = (ROOT / "Makefile").read_text()
    assert {"Makefile", "constraints.txt", "pyproject.toml"} <= names
    assert set(re.findall(r"(examples/\w+\.\w+)", makefile)) <= names
    linked = re.findall(r"\]\((?!http)([^)#]+)", (ROOT / "README.md").read_text())
    assert {link for link in linked if not any(name.startswith(link) for name in names)} == set()


@pytest.mark.usefixtures("here")
def test_the_wheel_has_the_examples(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / hatchling.build_wheel(str(tmp_path))) as wheel:
        names = set(wheel.namelist())
    examples = [path for path in (ROOT / "examples").iterdir() if path.is_file()]
    assert {f"nas/examples/{path.name}" for path in examples} <= names
    assert not any(name.startswith(("tests/", "examples/", "benchmarks/")) for name in names)
