"""What is not written to a file, and what is not read from one."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from facts import Facts, refusal
from small_models import CONV, described, trained

import nas
from nas.errors import ConfigError, NotFound, PluginError, Unreadable
from nas.export import check, save


def test_nothing_is_overwritten_unasked(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    path.write_text("precious")
    model, _ = trained(described())
    with refusal(ConfigError, "--force"):
        save(model, path)
    assert path.read_text() == "precious"
    save(model, path, force=True)
    assert nas.load(path).description == model.description


def test_no_folder_is_made_unasked(tmp_path: Path) -> None:
    with refusal(ConfigError, "nowhere"):
        check(tmp_path / "nowhere" / "m.pt")
    assert list(tmp_path.iterdir()) == []


def test_a_failed_write_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(content: Any, path: Path) -> None:
        path.write_bytes(b"half")
        raise OSError("disk full")

    path = tmp_path / "model.pt"
    path.write_text("precious")
    monkeypatch.setattr(torch, "save", fail)
    with refusal(OSError, "disk full"):
        save(trained(described())[0], path, force=True)
    assert [file.read_text() for file in tmp_path.iterdir()] == ["precious"]


@pytest.mark.parametrize("name", ["model.pth", "model", "model.PT"])
def test_the_suffix_names_the_format(tmp_path: Path, name: str) -> None:
    with refusal(ConfigError, ".pt", ".json", ".onnx"):
        save(trained(described())[0], tmp_path / name)
    with refusal(ConfigError, ".pt", ".json"):
        nas.load(tmp_path / name)


def test_onnx_is_not_read_back(tmp_path: Path) -> None:
    with refusal(ConfigError, "onnxruntime"):
        nas.load(tmp_path / "model.onnx")


def test_no_file(tmp_path: Path) -> None:
    with refusal(NotFound, "nas export"):
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
        with refusal(Unreadable, f"model{suffix}"):
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
    ("changes", "facts"),
    [
        ({"version": 2}, (2, 1)),
        ({"format": "other"}, ()),
        ({"weights": None}, ("weights",)),
        ({"weights": {}}, ("weights",)),
        ({"description": None}, ("description",)),
        ({"description": {}}, ("description.space",)),
    ],
)
def test_damaged_content(tmp_path: Path, suffix: str, changes: dict[str, Any], facts: Facts) -> None:
    path, whole = content(tmp_path, suffix)
    rewrite(path, whole | changes)
    with refusal(Unreadable, path, *facts):
        nas.load(path)


@pytest.mark.parametrize("packed", [1, {"dtype": "int3"}, {"data": "?"}, {"shape": [7]}])
def test_damaged_tensors(tmp_path: Path, packed: Any) -> None:
    path, whole = content(tmp_path, ".json")
    name, right = next(iter(whole["weights"].items()))
    whole["weights"][name] = right | packed if isinstance(packed, dict) else packed
    rewrite(path, whole)
    with refusal(Unreadable, "damaged"):
        nas.load(path)


@pytest.mark.parametrize(
    ("changes", "facts"),
    [
        ({"space": {"name": "gone"}}, ("'gone'",)),
        ({"space": {"name": "gone:Space"}}, ("'gone'",)),
        ({"space": CONV | {"depth": 3}}, ("'depth'",)),
        ({"learner": {"name": "gone"}}, ("'gone'",)),
        ({"architecture": "3x3/2:5"}, ("space.layers",)),
        ({"input": [7]}, ("(7,)",)),
    ],
)
def test_plugins_that_are_not_there(tmp_path: Path, changes: dict[str, Any], facts: Facts) -> None:
    path, whole = content(tmp_path, ".json")
    rewrite(path, whole | {"description": whole["description"] | changes})
    with refusal(PluginError, path, *facts):
        nas.load(path)


def test_weights_of_another_network(tmp_path: Path) -> None:
    path, whole = content(tmp_path, ".pt")
    rewrite(path, whole | {"description": whole["description"] | {"architecture": "3x3/2:6,3x3/1:6@1"}})
    with refusal(Unreadable, path, "backbone.layers.0.0.weight", nas.__version__):
        nas.load(path)
