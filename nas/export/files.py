"""Models as files, by suffix: `.pt` and `.json` are read back, `.onnx` is for other runtimes.

`.npz` is no model, but the features that it gives all images of its tasks.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor

from nas.errors import ConfigError, Infeasible, NotFound, PluginError, Unreadable
from nas.export import features, graph, tensors
from nas.export.description import Description
from nas.export.model import Loaded, Model, rebuild
from nas.files import replacing
from nas.findings import explain

FORMAT = "nas-model"
VERSION = 1
"""Of what `.pt` and `.json` files hold; a reader refuses any other."""


def save(model: Model, path: str | Path, *, force: bool = False) -> None:
    """Write a model in the format that the suffix of `path` names; the file is whole or not there.

    Args:
        model: what to write.
        path: ends in `.pt`, `.json`, `.onnx` or `.npz`.
        force: whether to replace a file that is there.

    Raises:
        ConfigError: another suffix, a file is there already, its folder is not, or the packages for ONNX are
            not installed.
        NasError: ONNX cannot express the network, or onnxruntime computes something else.
        OSError: the file cannot be written.
    """
    path = Path(path)
    check(path, force=force)
    with replacing(path) as temporary:
        WRITERS[path.suffix](model, temporary)


def check(path: Path, *, force: bool = False) -> None:
    """Refuse a path that `save` cannot write to.

    Raises:
        ConfigError: its suffix is of no format, a file is there already, its folder is not, or the packages
            for ONNX are not installed.
    """
    if path.suffix not in WRITERS:
        raise ConfigError(f"'{path}': the suffix names the format; allowed: {', '.join(WRITERS)}.")
    check_free(path, force=force)
    if path.suffix == ".onnx":
        graph.require()


def check_free(path: Path, *, force: bool = False) -> None:
    """Refuse a path at which no file can be written.

    Raises:
        ConfigError: a file is there already, or its folder is not.
    """
    if path.is_dir() or (path.exists() and not force):
        raise ConfigError(f"{path} is already there: give another name, or replace a file with --force.")
    if not path.parent.is_dir():
        raise ConfigError(f"{path}: there is no folder {path.parent}. Make it, or give another name.")


def load(path: str | Path) -> Loaded:
    """Load what `nas export` wrote to a `.pt` or `.json` file; no database is needed.

    `.learner` takes an `Episode` and returns the predictions of its queries, `.network` a batch of inputs and
    returns their features, `.description` says what it is and what it scored. The learner is built from the
    installed plugins.

    Raises:
        NotFound: no such file.
        ConfigError: its suffix is of no format that can be read back.
        PluginError: the plugins that it was built from are not installed, or have changed.
        Unreadable: the file is damaged, of another version, or its weights do not fit.
    """
    path = Path(path)
    parse = READERS.get(path.suffix)
    if parse is None:
        hint = " ONNX files are for onnxruntime; export to .pt as well." if path.suffix == ".onnx" else ""
        raise ConfigError(f"'{path}': a model is read from {' or '.join(READERS)}.{hint}")
    if not path.is_file():
        raise NotFound(f"There is no file {path}; `nas export TARGET -o {path}` writes one.")
    try:
        return rebuild(_model(parse(path)))
    except Unreadable as error:
        raise Unreadable(f"{path}: {error}") from None
    except (ConfigError, Infeasible) as error:
        raise PluginError(f"{path} cannot be rebuilt by the plugins installed here: {error}") from None


def _content(model: Model, weights: dict[str, Any]) -> dict[str, Any]:
    description = model.description.model_dump(mode="json")
    return {"format": FORMAT, "version": VERSION, "description": description, "weights": weights}


def _model(content: Any) -> Model:
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise Unreadable("this is no model that nas exported.")
    if content.get("version") != VERSION:
        raise Unreadable(
            f"the format's version is {content.get('version')}, this nas reads version {VERSION}: install "
            "the nas that wrote the file, or export again with this one."
        )
    weights = content.get("weights")
    if not isinstance(weights, dict) or not all(isinstance(weight, Tensor) for weight in weights.values()):
        raise Unreadable("the file is damaged: it holds no weights.")
    try:
        return Model(Description.model_validate(content.get("description")), weights)
    except ValidationError as error:
        raise Unreadable(
            f"the file is damaged: {explain(error, Description, 'description', settable=False)}"
        ) from None


def _write_torch(model: Model, path: Path) -> None:
    torch.save(_content(model, dict(model.weights)), path)


def _read_torch(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever the unpickler meets in foreign bytes
        raise Unreadable(f"the file is damaged, or no model ({type(error).__name__}).") from error


def _write_json(model: Model, path: Path) -> None:
    weights = {name: tensors.pack(weight) for name, weight in model.weights.items()}
    path.write_text(json.dumps(_content(model, weights)), encoding="utf-8")


def _read_json(path: Path) -> Any:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(content, dict) and isinstance(content.get("weights"), dict):
            content["weights"] = {name: tensors.unpack(packed) for name, packed in content["weights"].items()}
    except (ValueError, KeyError, RecursionError) as error:
        raise Unreadable(f"the file is damaged, or no model ({type(error).__name__}).") from error
    return content


WRITERS: dict[str, Callable[[Model, Path], None]] = {
    ".pt": _write_torch,
    ".json": _write_json,
    ".onnx": graph.write,
    ".npz": features.write,
}
READERS: dict[str, Callable[[Path], Any]] = {".pt": _read_torch, ".json": _read_json}
