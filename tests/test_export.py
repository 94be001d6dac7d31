"""Models as files, against independent references."""

from __future__ import annotations

import base64
import json
import struct
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, final

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.testing import assert_close

import nas
from nas.config import maker
from nas.errors import ConfigError, NasError, NotFound, PluginError, Unreadable
from nas.export import Description, Model, Scored, graph, save, tensors
from nas.learners.base import Learner, adam
from nas.space import Architecture, Decision, SearchSpace, TaskShape
from nas.tasks.base import Episode, TaskSource
from nas.testing.learners import Constant

HERE = f"{__name__}:"
IMAGE, VECTOR = TaskShape((1, 8, 8), 5), TaskShape((2,), 1)

CONV = {"name": "chain", "layers": 2, "channels": [4, 6]}
CONV_TEXT = "3x3/2:4,3x3/1:6@1"


def described(shape: TaskShape = IMAGE, **changes: Any) -> Description:
    scored = Scored(score=0.75, ci95=0.02, episodes=100)
    given = {
        "space": CONV,
        "architecture": CONV_TEXT,
        "key": CONV_TEXT,
        "input": shape.input,
        "outputs": shape.outputs,
        "learner": {"name": "prototypical"},
        "normalization": "transductive",
        "precision": "float32",
        "tasks": {"name": "glyphs"},
        "task": "glyphs 5-way 1-shot",
        "seed": 3,
        "train_episodes": 200,
        "parameters": 10,
        "macs": 20,
        "validation": scored,
        "test": scored,
        "split": "glyphs/test",
        "classes": "0" * 16,
        "versions": {"nas": nas.__version__},
    }
    return Description.model_validate(given | changes)


def trained(description: Description) -> tuple[Model, Learner]:
    """Return a learner with random weights, batch norm's too, and the model of it."""
    rng = torch.Generator().manual_seed(1)
    space: SearchSpace = maker("space", description.space)()
    backbone = space.build(space.decode(description.architecture), description.shape)
    learner: Learner = maker("learner", description.learner)(backbone, description.shape)
    with torch.no_grad():
        for tensor in learner.state_dict().values():
            if tensor.is_floating_point():
                tensor.copy_(0.3 + 0.5 * torch.rand(tensor.shape, generator=rng))
    return Model(description, learner.state_dict()), learner.eval()


def glyphs() -> TaskSource:
    tasks: TaskSource = maker("tasks", {"name": "glyphs", "queries": 3})()
    return tasks


def episode(count: int = 3) -> Episode:
    return glyphs().sample("test", count, np.random.default_rng(0))


@final
class Plain(SearchSpace):
    """One backbone without a choice, whatever the test puts here."""

    name: ClassVar[str] = "plain"

    def __init__(self, *, kind: Literal["conv", "constant", "opaque"] = "conv") -> None:
        self.decisions = (Decision("only", ("one",)),)
        self._kind = kind

    def build(self, architecture: Architecture, shape: TaskShape) -> nn.Module:
        return {"conv": OneLayer, "constant": lambda: Constant(4), "opaque": Opaque}[self._kind]()  # type: ignore[no-any-return,operator]

    def canonical(self, architecture: Architecture) -> str:
        return self._kind


class OneLayer(nn.Module):
    """Convolution, batch norm, mean over the map."""

    out_features = 3

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x)).relu().mean((2, 3))  # type: ignore[no-any-return]


class Opaque(nn.Module):
    """What no graph can express."""

    out_features = 3

    def forward(self, x: Tensor) -> Tensor:
        return torch.from_numpy(np.sort(x.detach().numpy().reshape(len(x), -1))[:, :3])


@final
class Forgetful(Learner):
    """Keeps a copy of its backbone."""

    name = "forgetful"

    def __init__(self, backbone: nn.Module, shape: TaskShape, *, lr: Annotated[float, "rate"] = 0.1) -> None:
        super().__init__(backbone, shape)
        self.head = nn.Linear(2, 2)

    def forward(self, episode: Episode) -> Tensor:
        raise NotImplementedError

    def optimizer(self) -> torch.optim.Optimizer:
        return adam(self, 0.1)


# Files that are read back


@pytest.mark.parametrize("suffix", [".pt", ".json"])
@pytest.mark.parametrize("learner", ["prototypical", "maml"])
def test_a_file_gives_back_the_same_predictions(tmp_path: Path, suffix: str, learner: str) -> None:
    shape = TaskShape(glyphs().shape.input, 5)
    model, original = trained(described(shape, learner={"name": learner}))
    path = tmp_path / f"model{suffix}"
    save(model, path)
    before = torch.get_rng_state()
    loaded = nas.load(path)
    assert torch.equal(torch.get_rng_state(), before)
    assert loaded.description == model.description
    assert not loaded.learner.training
    with torch.no_grad():
        assert torch.equal(loaded.learner(episode()), original(episode()))
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_pt_is_plain_containers_and_tensors(tmp_path: Path) -> None:
    model, learner = trained(described())
    save(model, tmp_path / "model.pt")
    content = torch.load(tmp_path / "model.pt", weights_only=True)
    assert (content["format"], content["version"]) == ("nas-model", 1)
    assert content["description"] == model.description.model_dump(mode="json")
    assert content["weights"].keys() == learner.state_dict().keys()


def test_json_can_be_read_without_torch(tmp_path: Path) -> None:
    model, _ = trained(described())
    save(model, tmp_path / "model.json")
    content = json.loads((tmp_path / "model.json").read_text())
    assert content["description"]["architecture"] == CONV_TEXT
    for name, weight in model.weights.items():
        if weight.dtype == torch.float32:
            packed = content["weights"][name]
            values = struct.unpack(f"<{weight.numel()}f", base64.b64decode(packed["data"]))
            assert (packed["dtype"], packed["shape"]) == ("float32", list(weight.shape))
            assert list(values) == weight.flatten().tolist()


@given(st.sampled_from(sorted(tensors.DTYPES)), st.lists(st.integers(0, 3), max_size=3), st.integers(0, 99))
def test_tensors_survive_json(dtype: str, shape: list[int], seed: int) -> None:
    rng = torch.Generator().manual_seed(seed)
    tensor = torch.randint(0, 2, shape, generator=rng) * 1.5
    tensor = tensor.to(tensors.DTYPES[dtype]).transpose(0, -1) if shape else tensor.to(tensors.DTYPES[dtype])
    back = tensors.unpack(json.loads(json.dumps(tensors.pack(tensor))))
    assert back.dtype == tensor.dtype
    assert torch.equal(back, tensor)


def test_importing_nas_costs_no_torch() -> None:
    code = "import nas, sys; nas.load; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# The network


def test_the_network_predicts_as_the_learner(tmp_path: Path) -> None:
    """Prototypes by a loop over the classes (Snell et al. 2017, eq. 1-2), from the network's features."""
    shape = TaskShape(glyphs().shape.input, 5)
    model, _ = trained(described(shape))
    save(model, tmp_path / "model.pt")
    loaded = nas.load(tmp_path / "model.pt")
    for task in episode():
        x = torch.cat([task.support_x[0], task.query_x[0]])
        with torch.no_grad():
            (features,) = loaded.network(x)
            wanted = loaded.learner(task)[0]
        support, queries = features[: len(task.support_x[0])], features[len(task.support_x[0]) :]
        for way in range(5):
            prototype = support[task.support_y[0] == way].mean(0)
            assert_close(-((queries - prototype) ** 2).sum(1), wanted[:, way], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("normalization", ["transductive", "support", "running"])
def test_each_normalization_by_hand(normalization: str) -> None:
    description = described(
        space={"name": f"{HERE}Plain"},
        architecture="0",
        learner={"name": "maml"},
        normalization=normalization,
    )
    model, _ = trained(description)
    network = nas.export.rebuild(model).network
    conv, norm = network.backbone.conv, network.backbone.norm
    assert isinstance(conv, nn.Conv2d)
    assert isinstance(norm, nn.BatchNorm2d)
    if normalization == "running":
        norm.track_running_stats, norm.running_mean, norm.running_var = True, torch.rand(3), torch.rand(3) + 1
    x, support = torch.rand(6, *IMAGE.input), torch.rand(4, *IMAGE.input)
    with torch.no_grad():
        features, outputs = network(x, support) if normalization == "support" else network(x)
        maps, of_support = conv(x).numpy(), conv(support).numpy()
    if normalization == "running":
        mean, variance = norm.running_mean.numpy(), norm.running_var.numpy()
    else:
        seen = maps if normalization == "transductive" else of_support
        mean, variance = seen.mean((0, 2, 3)), seen.var((0, 2, 3))
    w, b = norm.weight.detach().numpy(), norm.bias.detach().numpy()
    column = (slice(None), None, None)
    normal = (maps - mean[column]) / np.sqrt(variance + norm.eps)[column] * w[column] + b[column]
    wanted = np.maximum(normal, 0).mean((2, 3))
    assert_close(features.numpy(), wanted, rtol=1e-5, atol=1e-5)
    head = network.head
    assert isinstance(head, nn.Linear)
    assert_close(outputs, torch.from_numpy(wanted) @ head.weight.T.detach() + head.bias.detach())


@pytest.mark.parametrize("normalization", ["transductive", "support", "running"])
def test_gradients_pass_through_the_statistics(normalization: str) -> None:
    """Against finite differences: those who load a network may well train on."""
    network = nas.export.rebuild(trained(described(normalization=normalization))[0]).network.double()
    sizes = (4, 3) if normalization == "support" else (4,)
    rng = torch.Generator().manual_seed(0)
    batch = [torch.rand(size, *IMAGE.input, generator=rng, dtype=torch.float64) for size in sizes]
    assert torch.autograd.gradcheck(network, [x.requires_grad_() for x in batch])


@pytest.mark.parametrize("normalization", ["transductive", "support"])
def test_the_support_is_given_where_it_counts(normalization: str) -> None:
    network = nas.export.rebuild(trained(described(normalization=normalization))[0]).network
    x = torch.rand(2, *IMAGE.input)
    with pytest.raises(TypeError, match=normalization):
        network(*((x,) if normalization == "support" else (x, x)))


def test_a_learner_that_lost_its_backbone() -> None:
    model = Model(
        described(learner={"name": f"{HERE}Forgetful"}), nn.ModuleDict({"head": nn.Linear(2, 2)}).state_dict()
    )
    with pytest.raises(PluginError, match="'forgetful' does not hold the backbone"):
        nas.export.rebuild(model)


# ONNX


def onnx_session(path: Path) -> Any:
    return pytest.importorskip("onnxruntime").InferenceSession(path)


@pytest.mark.parametrize("normalization", ["transductive", "support", "running"])
@pytest.mark.parametrize("learner", ["prototypical", "maml"])
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
    with pytest.raises(NasError, match=r"features are off from torch's by \d"):
        save(model, tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("kind", "message"),
    [("opaque", r"cannot express this network in ONNX: .*Export to \.pt"), ("constant", r"as len\(x\) does")],
)
def test_a_network_without_a_graph(tmp_path: Path, kind: str, message: str) -> None:
    model, _ = trained(described(space={"name": f"{HERE}Plain", "kind": kind}, architecture="0"))
    with pytest.raises(NasError, match=message):
        save(model, tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


def test_onnx_is_an_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graph, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="pip install 'nas-service\\[onnx\\]'"):
        save(trained(described())[0], tmp_path / "model.onnx")


# What is refused


def test_nothing_is_overwritten_unasked(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    path.write_text("precious")
    model, _ = trained(described())
    with pytest.raises(ConfigError, match="--force"):
        save(model, path)
    assert path.read_text() == "precious"
    save(model, path, force=True)
    assert nas.load(path).description == model.description


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
        ({"format": "other"}, "no model that `nas export` wrote"),
        ({"weights": None}, "holds no weights"),
        ({"weights": {}}, "do not fit"),
        ({"description": None}, "description"),
        ({"description": {}}, "description.space: Field required"),
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
