from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from search_spaces.operations import AveragePool


@pytest.mark.parametrize("kernel", [1, 3, 5])
@pytest.mark.parametrize("size", [(1, 1), (2, 3), (7, 7), (8, 5), (28, 28)])
def test_average_pool_equals_torchs(kernel: int, size: tuple[int, int]) -> None:
    x = torch.randn(2, 3, *size, dtype=torch.float64, requires_grad=True)
    y = x.detach().clone().requires_grad_()
    ours = AveragePool(kernel)(x)
    torchs = F.avg_pool2d(y, kernel, 1, kernel // 2, count_include_pad=False)
    torch.testing.assert_close(ours, torchs)
    weight = torch.randn_like(ours)
    (ours * weight).sum().backward()
    (torchs * weight).sum().backward()
    torch.testing.assert_close(x.grad, y.grad)


def test_average_pool_keeps_bfloat16() -> None:
    x = torch.rand(2, 4, 6, 6, dtype=torch.bfloat16)
    pooled = AveragePool(3)(x)
    assert pooled.dtype == torch.bfloat16
    expected = F.avg_pool2d(x.double(), 3, 1, 1, count_include_pad=False)
    torch.testing.assert_close(pooled.double(), expected, atol=0, rtol=0.02)
