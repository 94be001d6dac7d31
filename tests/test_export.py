"""Models as files that are read back, against independent references."""

from __future__ import annotations

import base64
import json
import struct
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small_models import CONV_TEXT, described, episode, glyphs, trained

import nas
from nas.export import save, tensors
from nas.learners.augmentation import chance


@pytest.mark.parametrize("suffix", [".pt", ".json"])
@pytest.mark.parametrize("learner", ["prototypical", "maml", "pretrain"])
def test_a_file_gives_back_the_same_predictions(tmp_path: Path, suffix: str, learner: str) -> None:
    model, original = trained(described(glyphs().shape, learner={"name": learner}))
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


POLICY = "rotate:0.5:3+thin:0.2:7/shear_x:1.0:9"


@pytest.mark.parametrize("suffix", [".pt", ".json"])
def test_a_schedule_comes_with_the_file(tmp_path: Path, suffix: str) -> None:
    """What a policy was in each phase of the training, and that a search chose it; the last one augments."""
    policies = ["thin:0.2:7", POLICY]
    phases = [
        {"episodes": 100, "learner": {"augmentation": {"name": "autoaugment", "policy": policy}}}
        for policy in policies
    ]
    learner = {"name": "prototypical", "augmentation": phases[-1]["learner"]["augmentation"]}
    model, _ = trained(described(learner=learner, phases=phases, chosen={"learner": {"lr": 0.01}}))
    save(model, tmp_path / f"model{suffix}")
    told = nas.load(tmp_path / f"model{suffix}").description
    assert [phase.learner["augmentation"]["policy"] for phase in told.phases or ()] == policies
    assert told.learner["augmentation"]["policy"] == POLICY
    assert told.chosen == {"learner": {"lr": 0.01}}


@pytest.mark.parametrize("suffix", [".pt", ".json"])
def test_a_chosen_policy_and_a_learned_weighting_come_with_the_file(tmp_path: Path, suffix: str) -> None:
    """The policy augments as it did, and the function weighs as it did."""
    chosen = {"name": "autoaugment", "policy": POLICY}
    learner = {"name": "maml", "augmentation": chosen, "weighting": {"name": "meta_weight_net"}}
    model, original = trained(described(glyphs().shape, learner=learner))
    save(model, tmp_path / f"model{suffix}")
    loaded = nas.load(tmp_path / f"model{suffix}")
    assert loaded.description.learner["augmentation"]["policy"] == POLICY
    own, task = loaded.learner, episode()
    augmented = [one.augmented(task, chance(3)) for one in (own, original)]
    assert torch.equal(augmented[0].query_x, augmented[1].query_x)
    assert not torch.equal(augmented[0].query_x, task.query_x)
    functions = [dict(one.weighting.state_dict()) for one in (own, original)]
    assert len(functions[0]) > 3
    torch.testing.assert_close(*functions, rtol=0, atol=0, equal_nan=True)
