"""The kernels of the learners beyond the second derivative: α through an inner loop needs the third."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import gradgradcheck

from nas.learners.batch_norm import normalize
from nas.learners.convolution import convolve


def randn(*shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randn(*shape, dtype=torch.float64, generator=generator)


def gradients(operation: Any, *inputs: Tensor) -> tuple[Tensor, ...]:
    """Return the gradients of a number that is not linear in the result, with a graph."""
    return torch.autograd.grad(operation(*inputs).pow(3).sum(), inputs, create_graph=True)


@pytest.mark.parametrize("tasks", [1, 2])
@pytest.mark.parametrize("shared", [True, False])
def test_batch_norm(tasks: int, shared: bool) -> None:
    inputs = randn(2 * tasks, 2, 2, 1), *(1 + 0.3 * randn(1 if shared else tasks, 2) for _ in range(2))
    leaves = [x.requires_grad_() for x in inputs]
    assert gradgradcheck(lambda *xs: gradients(lambda x, w, b: normalize(x, w, b, 1e-3, tasks), *xs), leaves)


@pytest.mark.parametrize("tasks", [1, 2])
@pytest.mark.parametrize(("stride", "groups"), [(1, 1), (2, 2)])
def test_convolution(tasks: int, stride: int, groups: int) -> None:
    x, weight = randn(tasks, 2, 3, 2), randn(tasks, 2, 2 // groups, 2, 2)
    leaves = [x.requires_grad_(), weight.requires_grad_()]
    assert gradgradcheck(
        lambda *xs: gradients(lambda x, w: convolve(x, w, stride=stride, padding=1, groups=groups), *xs),
        leaves,
    )
