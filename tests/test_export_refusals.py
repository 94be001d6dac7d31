"""What is not written to a file, and what is not read from one."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from small_models import CONV, described, trained

import nas
from nas.errors import ConfigError, NotFound, PluginError, Unreadable
from nas.export import check, save


def test_nothing_is_overwritten_unasked(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    path.write_text("precious")
    model, _ = trained(described())
    with pytest.raises(ConfigError, match="--force"):
        save(model, path)
    assert path.read_text() == "precious"
    save(model, path, force=True)
    assert nas.load(path).description == model.description


def test_no_folder_is_made_unasked(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"there is no folder .*nowhere"):
        check(tmp_path / "nowhere" / "m.pt")
    assert list(tmp_path.iterdir()) == []


def test_a_failed_write_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(content: Any, path: Path) -> None:
        path.write_bytes(b"half")
        raise OSError("disk full")

    path = tmp_path / "model.pt"
    path.write_text("precious")
    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(OSError, match="disk full"):
        save(trained(described())[0], path, force=True)
    assert [file.read_text() for file in tmp_path.iterdir()] == ["precious"]


@pytest.mark.parametrize("name", ["model.pth", "model", "model.PT"])
def test_the_suffix_names_the_format(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match=r"allowed: \.pt, \.json, \.onnx"):
        save(trained(described())[0], tmp_path / name)
    with pytest.raises(ConfigError, match=r"\.pt or \.json"):
        nas.load(tmp_path / name)


def test_onnx_is_not_read_back(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="onnxruntime"):
        nas.load(tmp_path / "model.onnx")


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="nas export"):
        nas.load(tmp_path / "model.pt")


def content(tmp_path: Path, suffix: str) -> tuple[Path, Any]:
    path = tmp_path / f"model{suffix}"
    save(trained(described())[0], path)
    return path, torch.load(path) if suffix == ".pt" else json.loads(path.read_text())


def rewrite(path: Path, content: Any) -> None:
    if path.suffix == ".pt":
        torch.save(content, path)
    else:
        path.write_text(json.dumps(content))


@pytest.mark.parametrize("suffix", [".pt", ".json"])
def test_damaged_bytes(tmp_path: Path, suffix: str) -> None:
    path, _ = content(tmp_path, suffix)
    whole = path.read_bytes()
    for damaged in (b"", b"hello", whole[: len(whole) // 2], b"\x80\x02" + whole, b"[" * 100_000):
        path.write_bytes(damaged)
        with pytest.raises(Unreadable, match=f"model{suffix}: "):
            nas.load(path)


class Harmful:
    def __reduce__(self) -> tuple[Any, ...]:
        return (sys.exit, (3,))


def test_no_code_is_run(tmp_path: Path) -> None:
    torch.save(Harmful(), tmp_path / "model.pt")
    with pytest.raises(Unreadable):
        nas.load(tmp_path / "model.pt")


@pytest.mark.parametrize("suffix", [".pt", ".json"])
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"version": 2}, "version is 2, this nas reads version 1"),
        ({"format": "other"}, "no model that nas exported"),
        ({"weights": None}, "holds no weights"),
        ({"weights": {}}, "do not fit"),
        ({"description": None}, "description"),
        ({"description": {}}, "description.space is missing\n"),
    ],
)
def test_damaged_content(tmp_path: Path, suffix: str, changes: dict[str, Any], message: str) -> None:
    path, whole = content(tmp_path, suffix)
    rewrite(path, whole | changes)
    with pytest.raises(Unreadable, match=message):
        nas.load(path)


@pytest.mark.parametrize("packed", [1, {"dtype": "int3"}, {"data": "?"}, {"shape": [7]}])
def test_damaged_tensors(tmp_path: Path, packed: Any) -> None:
    path, whole = content(tmp_path, ".json")
    name, right = next(iter(whole["weights"].items()))
    whole["weights"][name] = right | packed if isinstance(packed, dict) else packed
    rewrite(path, whole)
    with pytest.raises(Unreadable, match="damaged"):
        nas.load(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"space": {"name": "gone"}}, "Unknown space 'gone'"),
        ({"space": {"name": "gone:Space"}}, "No module named 'gone'"),
        ({"space": CONV | {"depth": 3}}, "depth"),
        ({"learner": {"name": "gone"}}, "Unknown learner 'gone'"),
        ({"architecture": "3x3/2:5"}, "layers"),
        ({"input": [7]}, "needs images"),
    ],
)
def test_plugins_that_are_not_there(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    path, whole = content(tmp_path, ".json")
    rewrite(path, whole | {"description": whole["description"] | changes})
    with pytest.raises(PluginError, match=message) as raised:
        nas.load(path)
    assert str(path) in str(raised.value)


def test_weights_of_another_network(tmp_path: Path) -> None:
    path, whole = content(tmp_path, ".pt")
    rewrite(path, whole | {"description": whole["description"] | {"architecture": "3x3/2:6,3x3/1:6@1"}})
    with pytest.raises(Unreadable, match=r"do not fit .*(?s:.*)trained with nas"):
        nas.load(path)
