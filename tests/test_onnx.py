"""The network in ONNX, run by onnxruntime, against torch."""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from facts import Facts, refusal
from grids import rest_slow
from small_models import CONV_TEXT, IMAGE, VECTOR, described, trained
from torch.testing import assert_close

import nas
from nas.errors import ConfigError, NasError
from nas.export import graph, save
from nas.space import TaskShape

HERE = "small_models:"

pytestmark = pytest.mark.xdist_group("onnx")
"""One process imports the exporter, which takes seconds."""


def onnx_session(path: Path) -> Any:
    return pytest.importorskip("onnxruntime").InferenceSession(path)


@pytest.mark.parametrize(
    ("learner", "normalization"),
    rest_slow(
        product(["prototypical", "maml"], ["transductive", "support", "running"]),
        [("prototypical", "support"), ("maml", "transductive")],
    ),
)
def test_onnx_computes_what_torch_does(tmp_path: Path, normalization: str, learner: str) -> None:
    model, _ = trained(described(learner={"name": learner}, normalization=normalization))
    path = tmp_path / "model.onnx"
    save(model, path)
    session, network = onnx_session(path), nas.export.rebuild(model).network
    names = ["inputs", "support"] if normalization == "support" else ["inputs"]
    assert [value.name for value in session.get_inputs()] == names
    outputs = ["features", "outputs"] if learner == "maml" else ["features"]
    assert [value.name for value in session.get_outputs()] == outputs
    rng = torch.Generator().manual_seed(5)
    for sizes in ((1, 1), (4, 9), (75, 25)):
        batch = [torch.rand(size, *IMAGE.input, generator=rng) for size in sizes[: len(names)]]
        given = session.run(None, {name: x.numpy() for name, x in zip(names, batch, strict=True)})
        with torch.no_grad():
            for wanted, got in zip(network(*batch), given, strict=True):
                assert_close(torch.from_numpy(got), wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("space", "text", "shape"),
    [
        (
            {"name": "nasbench201"},
            "|nor_conv_3x3~0|+|skip_connect~0|nor_conv_1x1~1|+|avg_pool_3x3~0|nor_conv_1x1~1|nor_conv_3x3~2|",
            TaskShape((3, 16, 16), 5),
        ),
        ({"name": "mlp"}, "maml", VECTOR),
        ({"name": "mlp"}, "0-0-0-relu", VECTOR),
    ],
)
def test_every_space_has_a_graph(tmp_path: Path, space: dict[str, Any], text: str, shape: TaskShape) -> None:
    model, _ = trained(described(shape, space=space, architecture=text, learner={"name": "maml"}))
    save(model, tmp_path / "model.onnx")
    inputs = np.zeros((6, *shape.input), np.float32)
    features, outputs = onnx_session(tmp_path / "model.onnx").run(None, {"inputs": inputs})
    assert len(features) == 6
    assert outputs.shape == (6, shape.outputs)


def test_onnx_says_what_it_is(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    model, _ = trained(described())
    save(model, tmp_path / "model.onnx")
    meta = onnx_session(tmp_path / "model.onnx").get_modelmeta()
    assert meta.custom_metadata_map["architecture"] == CONV_TEXT
    assert json.loads(meta.custom_metadata_map["space"]) == model.description.space
    assert json.loads(meta.custom_metadata_map["test"])["score"] == 0.75
    assert "the inputs of one task" in meta.description
    assert str(Path(nas.__file__).parent).encode() not in (tmp_path / "model.onnx").read_bytes()
    assert capfd.readouterr() == ("", "")


def test_a_graph_that_computes_something_else_is_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, _ = trained(described())
    right = graph._run
    monkeypatch.setattr(graph, "_run", lambda *given: [2 * out for out in right(*given)])
    with refusal(NasError, "features", "1e-04", ".pt"):
        save(model, tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("kind", "facts"),
    [("opaque", ("ONNX", ".pt")), ("constant", ("len(x)",))],
)
def test_a_network_without_a_graph(tmp_path: Path, kind: str, facts: Facts) -> None:
    model, _ = trained(described(space={"name": f"{HERE}Plain", "kind": kind}, architecture="0"))
    with refusal(NasError, *facts):
        save(model, tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


def test_onnx_is_an_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graph, "find_spec", lambda name: None)
    with refusal(ConfigError, "pip install 'nas-service[onnx]'"):
        save(trained(described())[0], tmp_path / "model.onnx")
