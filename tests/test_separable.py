from itertools import product

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from search_spaces.separable import OPERATIONS, operation


def batch_norm(x: Tensor, norm: nn.BatchNorm2d) -> Tensor:
    mean, var = x.mean((0, 2, 3), keepdim=True), x.var((0, 2, 3), unbiased=False, keepdim=True)
    return (x - mean) / (var + 1e-5).sqrt() * norm.weight.view(1, -1, 1, 1) + norm.bias.view(1, -1, 1, 1)


def separable(x: Tensor, layers: list[nn.Module], stride: int, dilation: int) -> Tensor:
    """ReLU, a convolution whose kernel is the outer product of both weights, batch norm."""
    _, depthwise, pointwise, norm = layers
    kernel = pointwise.weight * depthwise.weight.transpose(0, 1)
    reach = dilation * (kernel.shape[2] // 2)
    return batch_norm(F.conv2d(x.clamp(min=0), kernel, None, stride, reach, dilation), norm)


@pytest.mark.parametrize("size", [(6, 8), (5, 7), (1, 2)])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("name", OPERATIONS[1:])
def test_operations(name: str, stride: int, size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    module = operation(name, 3, stride).double()
    for weight in module.parameters():
        weight.data.normal_()
    x = torch.randn(4, 3, *size, dtype=torch.float64)
    y = module(x)
    assert y.shape == (4, 3, -(-size[0] // stride), -(-size[1] // stride))
    kernel, layers = int(name[-1]) if name[-1].isdigit() else 0, list(module.children())
    if "pool" in name:
        for i, j in product(range(y.shape[2]), range(y.shape[3])):
            rows, columns = (slice(max(0, stride * k - 1), stride * k + 2) for k in (i, j))
            window = x[:, :, rows, columns]
            expected = window.amax((2, 3)) if name.startswith("max") else window.mean((2, 3))
            torch.testing.assert_close(y[:, :, i, j], expected)
    elif name == "skip_connect":
        if stride == 1:
            assert y is x
            return
        padded = F.pad(x.clamp(min=0), (0, 1, 0, 1))
        even = torch.einsum(
            "oi,bihw->bohw", module.even.weight[:, :, 0, 0], padded[:, :, : size[0] : 2, : size[1] : 2]
        )
        odd = torch.einsum("oi,bihw->bohw", module.odd.weight[:, :, 0, 0], padded[:, :, 1::2, 1::2])
        torch.testing.assert_close(y, batch_norm(torch.cat([even, odd], 1), module.norm))
    elif name.startswith("sep"):
        torch.testing.assert_close(y, separable(separable(x, layers[:4], stride, 1), layers[4:], 1, 1))
    else:
        assert layers[1].kernel_size == (kernel, kernel)
        torch.testing.assert_close(y, separable(x, layers, stride, 2))
