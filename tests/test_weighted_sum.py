from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nas.learners.folded import run
from search_spaces.weighted_sum import Convolved, Plain, weighted_sum

EPS = (1e-5, 1e-3)


class Sum(nn.Module):
    """Two plain maps and two convolved ones, all made of one."""

    def __init__(self, channels: int, *, rectify: bool) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Conv2d(channels, channels, 1, bias=False) for _ in EPS)
        self.weights = nn.Conv2d(1, 4, 1, bias=False)
        self.rectify = rectify

    def forward(self, x: Tensor) -> Tensor:
        terms = self.terms(x, [layer.weight for layer in self.layers])
        return weighted_sum(terms, rectify=self.rectify)

    def terms(self, x: Tensor, kernels: Sequence[Tensor]) -> list[Convolved | Plain]:
        a, b, c, d = SCALES
        sources = (x.sin(), x.exp())
        convolved = zip(sources, kernels, EPS, (c, d), strict=True)
        return [Plain(x, a), Plain(x.cos(), b), *(Convolved(*term) for term in convolved)]


SCALES = [torch.tensor(w, dtype=torch.float64, requires_grad=True) for w in (0.7, -0.4, 0.9, 0.3)]


def written_out(terms: Sequence[Convolved | Plain], *, rectify: bool) -> Tensor:
    total: Tensor | float = 0.0
    for term in terms:
        if isinstance(term, Plain):
            total = total + term.weight * term.x
        else:
            y = F.conv2d(term.x, term.kernel)
            total = total + term.weight * F.batch_norm(y, None, None, training=True, eps=term.eps)
    return total.relu() if rectify else total


@pytest.mark.parametrize("rectify", [False, True])
@pytest.mark.parametrize("channels", [3, 4, 16])
def test_equals_its_definition_to_the_second_derivative(channels: int, rectify: bool) -> None:
    torch.manual_seed(0)
    network = Sum(channels, rectify=rectify).double()
    x = torch.randn(4, channels, 5, 4, dtype=torch.float64, requires_grad=True)
    kernels = [layer.weight for layer in network.layers]
    inputs = [x, *kernels, *SCALES]
    found, expected = network(x), written_out(network.terms(x, kernels), rectify=rectify)
    torch.testing.assert_close(found, expected)
    along = torch.randn_like(found)
    torch.testing.assert_close(
        torch.autograd.grad(found, inputs, along, retain_graph=True),
        torch.autograd.grad(expected, inputs, along, retain_graph=True),
    )
    twice = [
        torch.autograd.grad(
            sum(g.square().sum() for g in torch.autograd.grad(out, inputs, along, create_graph=True)), inputs
        )
        for out in (found, expected)
    ]
    torch.testing.assert_close(*twice)


def test_tasks_have_statistics_and_kernels_of_their_own() -> None:
    torch.manual_seed(0)
    network = Sum(4, rectify=True).double()
    tasks = torch.randn(3, 2, 4, 5, 4, dtype=torch.float64)
    torch.testing.assert_close(run(network, tasks), torch.stack([network(x) for x in tasks]))
    names = [name for name, _ in network.named_parameters() if name.startswith("layers")]
    own = {name: torch.randn(3, 4, 4, 1, 1, dtype=torch.float64, requires_grad=True) for name in names}
    found = run(network, tasks, own)
    each = [
        written_out(network.terms(tasks[t], [own[name][t] for name in names]), rectify=True) for t in range(3)
    ]
    torch.testing.assert_close(found, torch.stack(each))
    along = torch.randn_like(found)
    torch.testing.assert_close(
        torch.autograd.grad(found, list(own.values()), along),
        torch.autograd.grad(torch.stack(each), list(own.values()), along),
    )


def inputs_of(kind: str, ratio: float) -> list[Tensor]:
    """A map and a kernel whose product has variances small against the numbers they come from."""
    torch.manual_seed(0)
    x, kernel = torch.randn(8, 8, 6, 6), torch.randn(8, 8, 1, 1)
    if kind != "large mean":
        kernel = kernel - kernel.mean(1, keepdim=True)
    x = x + ratio * (torch.randn(8, 1, 6, 6) if kind == "channels nearly equal" else 1)
    return [x, kernel]


@pytest.mark.parametrize("ratio", [3.0, 10.0, 100.0, 1000.0])
@pytest.mark.parametrize("kind", ["large mean", "mean that the kernel removes", "channels nearly equal"])
def test_small_variances_keep_their_digits(kind: str, ratio: float) -> None:
    """Errors grow as the ratio of mean to deviation, as torch's do, and not as its square."""
    torch.manual_seed(1)
    along = torch.randn(8, 8, 6, 6)

    def results(dtype: torch.dtype) -> list[Tensor]:
        inputs = [x.to(dtype).requires_grad_() for x in inputs_of(kind, ratio)]
        terms = [Convolved(*inputs, 1e-5, torch.tensor(0.7, dtype=dtype))]
        exact = dtype == torch.float64
        out = written_out(terms, rectify=False) if exact else weighted_sum(terms)
        return [out.detach(), *torch.autograd.grad(out, inputs, along.to(dtype))]

    for found, expected in zip(results(torch.float32), results(torch.float64), strict=True):
        error = (found - expected).abs().max() / expected.abs().max()
        assert error < 5e-7 * ratio
