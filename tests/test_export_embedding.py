"""The exported network by itself, against batch norm and prototypes by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from facts import refusal
from small_models import IMAGE, described, episode, glyphs, trained
from torch import nn
from torch.testing import assert_close

import nas
from nas.errors import PluginError
from nas.export import Model, save
from nas.space import TaskShape

HERE = "small_models:"


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
    with refusal(TypeError, normalization):
        network(*((x,) if normalization == "support" else (x, x)))


def test_a_learner_that_lost_its_backbone() -> None:
    model = Model(
        described(learner={"name": f"{HERE}Forgetful"}), nn.ModuleDict({"head": nn.Linear(2, 2)}).state_dict()
    )
    with refusal(PluginError, "'forgetful'"):
        nas.export.rebuild(model)
