from __future__ import annotations

import pytest
import torch
from torch import nn

from nas import precision
from nas.config import validate
from nas.precision import choose


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


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_autocast_computes_in_the_precision(dtype: torch.dtype) -> None:
    arithmetic = precision.Arithmetic(torch.device("cpu"), dtype, channels_last=True)
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
    from nas.executors import ray as on_ray

    monkeypatch.setattr(on_ray.ray, "cluster_resources", lambda: {"GPU": gpus} if gpus else {})
    config = validate(
        {"space": "mlp", "controller": "random", "tasks": "sinusoid", "learner": "maml", "workers": workers}
    )
    executor = on_ray.RayExecutor(config, config.make_tasks())
    assert executor._resources() == {"cpu": 1, "gpu": share}
    assert workers <= sum(int(1 / share) for _ in range(gpus)) if share else gpus == 0
