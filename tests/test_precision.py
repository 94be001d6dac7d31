from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

import pytest
import torch
from facts import refusal
from torch import nn
from typer.testing import CliRunner

from nas import precision
from nas.cli.main import app
from nas.driver.creation import create
from nas.errors import ConfigError
from nas.learners.maml import Maml
from nas.learners.prototypical import Prototypical
from nas.precision import choose
from nas.settings.search import validate
from nas.storage.store import Store
from nas.tasks.glyphs import Glyphs
from nas.tasks.sinusoid import Sinusoid
from nas.testing.toys import Toy
from nas.training.loop import rehearse


@pytest.mark.parametrize("able", [False, True])
def test_auto_takes_bfloat16_for_images_where_the_hardware_has_it(
    able: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision, "_has_bfloat16", lambda device: able)
    images = choose("auto", images=True, sensitive=False)
    assert images.dtype == (torch.bfloat16 if able else torch.float32)
    assert images.channels_last
    sensitive = choose("auto", images=True, sensitive=True)
    assert (sensitive.dtype, sensitive.channels_last) == (torch.float32, True)
    vectors = choose("auto", images=False, sensitive=False)
    assert (vectors.dtype, vectors.channels_last) == (torch.float32, False)


def test_a_precision_that_is_named_is_taken() -> None:
    assert choose("bfloat16", images=True, sensitive=True).dtype == torch.bfloat16
    assert choose("float32", images=True, sensitive=False).dtype == torch.float32


def test_float32_is_not_tf32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    choose("bfloat16", images=True, sensitive=False)
    assert torch.backends.cudnn.allow_tf32
    choose("auto", images=True, sensitive=True)
    assert not torch.backends.cudnn.allow_tf32


def test_a_learner_that_bfloat16_misleads_does_not_begin_with_it() -> None:
    tasks = Sinusoid()
    with refusal(ConfigError, "precision: 'maml'", "resources.precision"):
        rehearse(Toy(), tasks, Maml, "bfloat16")
    assert rehearse(Toy(), tasks, Maml).precision == "float32"
    assert rehearse(Toy(), Glyphs(), Prototypical, "bfloat16").precision == "bfloat16"


@pytest.mark.parametrize("able", [False, True])
def test_what_auto_came_to_is_kept_with_the_search_and_shown(
    store: Store, db: Path, able: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision, "_has_bfloat16", lambda device: able)
    given = {"space": "chain", "controller": "random", "tasks": "glyphs", "learner": "prototypical"}
    config = validate({**given, "name": "s"})
    create(store, config, config.make_tasks())
    shown = CliRunner().invoke(app, ["show", "s", "-f", "json"])
    assert json.loads(shown.stdout)["precision"] == ("bfloat16" if able else "float32")


@pytest.mark.parametrize("named", ["float32", "bfloat16"])
def test_autocast_computes_in_the_precision(named: Literal["float32", "bfloat16"]) -> None:
    arithmetic = precision.Arithmetic(torch.device("cpu"), named, channels_last=True)
    dtype = {"float32": torch.float32, "bfloat16": torch.bfloat16}[named]
    conv = arithmetic.prepare(nn.Conv2d(2, 4, 3))
    assert conv.weight.is_contiguous(memory_format=torch.channels_last)
    with arithmetic.autocast():
        assert conv(torch.rand(2, 2, 8, 8)).dtype == dtype
    assert conv(torch.rand(2, 2, 8, 8)).dtype == torch.float32


@pytest.mark.parametrize(
    ("gpus", "workers", "share"), [(0, 4, 0), (1, 1, 1), (1, 4, 0.25), (2, 3, 0.5), (8, 4, 1), (2, 7, 0.25)]
)
def test_gpus_are_shared_so_that_every_worker_fits(
    gpus: int, workers: int, share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    from nas.driver.trials import executor
    from nas.executors import ray as on_ray

    monkeypatch.setattr(on_ray.ray, "cluster_resources", lambda: {"GPU": gpus} if gpus else {})
    config = validate(
        {"space": "mlp", "controller": "random", "tasks": "sinusoid", "learner": "maml", "workers": workers}
    )
    on = executor(config, config.make_tasks())
    assert on._options() == {"num_cpus": 1, "num_gpus": share}
    assert workers <= sum(int(1 / share) for _ in range(gpus)) if share else gpus == 0
