"""The network as an ONNX graph, kept only if onnxruntime computes what torch does."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.export import Dim

from nas.errors import ConfigError, NasError
from nas.export.embedding import Embedding
from nas.export.model import Model, rebuild

if TYPE_CHECKING:
    from onnx import ModelProto

PACKAGES = ("onnx", "onnxruntime", "onnxscript")

TOLERANCE = 1e-4
"""How far an output may be off, relative to the largest of its tensor or to 1, whichever is more."""

TRACED, CHECKED = (3, 4), ((1, 5), (2, 2), (25, 7))
"""Batch sizes (inputs, support): of the tracing, and of the comparisons with torch."""

NOTES = {
    "transductive": "Batch norm takes its statistics from the batch: give the inputs of one task together.",
    "support": "Batch norm takes its statistics from `support`, the inputs of the task's support set.",
    "running": "Batch norm takes its statistics from training: rows do not depend on each other.",
}


def require() -> None:
    """Check that the optional packages are there.

    Raises:
        ConfigError: one is not.
    """
    missing = [name for name in PACKAGES if find_spec(name) is None]
    if missing:
        raise ConfigError(f"ONNX needs {', '.join(missing)}: run `pip install 'nas-service[onnx]'`.")


def write(model: Model, path: Path) -> None:
    """Write the network as an ONNX model: `inputs` (and `support`) to `features` and, with a head, `outputs`.

    The first axes are dynamic. The description is in the metadata, a property a field, JSON unless a text.

    Raises:
        ConfigError: an optional package is not installed.
        NasError: the network cannot be expressed in ONNX, or computes something else there.
    """
    require()
    network = rebuild(model).network
    inputs = model.description.shape.input
    proto = _trace(network, inputs)
    proto.doc_string = NOTES[network.normalization]
    for field, value in model.description.model_dump(mode="json").items():
        text = value if isinstance(value, str) else json.dumps(value)
        proto.metadata_props.add(key=field, value=text)
    content = proto.SerializeToString()
    _verify(content, network, inputs)
    path.write_bytes(content)


def _trace(network: Embedding, inputs: tuple[int, ...]) -> ModelProto:
    names = ["inputs", "support"] if network.normalization == "support" else ["inputs"]
    outputs = ["features"] if network.head is None else ["features", "outputs"]
    example = tuple(torch.zeros(size, *inputs) for size in TRACED[: len(names)])
    dynamic = tuple({0: Dim(axis, min=1)} for axis in ("batch", "shots")[: len(names)])
    try:
        with _quietly(), torch.no_grad():
            program = torch.onnx.export(
                network,
                example,
                dynamo=True,
                input_names=names,
                output_names=outputs,
                dynamic_shapes=dynamic,
                verbose=False,
            )
    except torch.onnx.errors.OnnxExporterError as error:
        reason = str(error.__cause__ or error).strip().partition("\n")[0]
        raise NasError(
            f"torch cannot express this network in ONNX: {reason}. Export to .pt instead."
        ) from error
    assert program is not None  # None comes only with a file name
    proto = program.model_proto
    if not all(value.type.tensor_type.shape.dim[0].dim_param for value in proto.graph.input):
        raise NasError(
            "In ONNX this network would take batches of one size alone: something in it reads the size as a "
            "number, as len(x) does; let it use x.shape[0]. Export to .pt meanwhile."
        )
    for node in proto.graph.node:
        del node.metadata_props[:]  # stack traces, with the paths of this machine
    return proto


def _verify(content: bytes, network: Embedding, inputs: tuple[int, ...]) -> None:
    rng = torch.Generator().manual_seed(0)
    wanted = 2 if network.normalization == "support" else 1
    for sizes in CHECKED:
        batch = [torch.rand(size, *inputs, generator=rng) for size in sizes[:wanted]]
        with torch.no_grad():
            expected = network(*batch)
        try:
            given = _run(content, batch)
        except Exception as error:  # onnxruntime's have no class in common
            raise NasError(f"onnxruntime cannot run this network: {error}. Export to .pt instead.") from error
        for name, ours, theirs in zip(("features", "outputs"), expected, given, strict=False):
            _compare(name, ours, theirs)


def _run(content: bytes, batch: Sequence[Tensor]) -> list[Tensor]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    names = (value.name for value in session.get_inputs())
    feeds = {name: x.numpy() for name, x in zip(names, batch, strict=True)}
    return [torch.from_numpy(array) for array in session.run(None, feeds)]


def _compare(name: str, wanted: Tensor, got: Tensor) -> None:
    off = float((got - wanted).abs().max()) / max(1.0, float(wanted.abs().max()))
    if not off <= TOLERANCE:
        raise NasError(
            f"onnxruntime's {name} are off from torch's by {off:.1e} of the largest, more than "
            f"{TOLERANCE:.0e}; nothing was written. Export to .pt instead."
        )


@contextmanager
def _quietly() -> Iterator[None]:
    """Keep to itself what the exporter says about its own code and about packages that we do not need."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            warnings.simplefilter("ignore", DeprecationWarning)
            yield
    finally:
        logger.setLevel(level)
