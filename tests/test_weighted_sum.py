from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nas.learners.folded import run
from search_spaces.mixed.pointwise import Convolved
from search_spaces.mixed.rectified import rectified
from search_spaces.mixed.weighted_sum import Plain, weighted_sum

EPS = (1e-5, 1e-3)


class Sum(nn.Module):
    """Two plain maps and two convolved ones, all made of one; or the ReLUs of the two, side by side."""

    def __init__(self, channels: int, *, rectify: bool) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Conv2d(channels, channels, 1, bias=False) for _ in EPS)
        self.weights = nn.Conv2d(1, 4, 1, bias=False)
        self.rectify = rectify

    def forward(self, x: Tensor) -> Tensor:
        kernels = [layer.weight for layer in self.layers]
        if self.rectify:
            return torch.cat(rectified(self.convolved(x, kernels)), 1)
        return weighted_sum(self.terms(x, kernels))

    def terms(self, x: Tensor, kernels: Sequence[Tensor]) -> list[Convolved | Plain]:
        a, b, c, d = SCALES
        convolved = zip(self.convolved(x, kernels), (c, d), strict=True)
        return [Plain(x, a), Plain(x.cos(), b), *(term._replace(weight=weight) for term, weight in convolved)]

    def convolved(self, x: Tensor, kernels: Sequence[Tensor]) -> list[Convolved]:
        sources = (x.sin(), x.exp())
        return [Convolved(*term) for term in zip(sources, kernels, EPS, strict=True)]

    def expected(self, x: Tensor, kernels: Sequence[Tensor]) -> Tensor:
        if self.rectify:
            return torch.cat([written_out([term]).relu() for term in self.convolved(x, kernels)], 1)
        return written_out(self.terms(x, kernels))


SCALES = [torch.tensor(w, dtype=torch.float64, requires_grad=True) for w in (0.7, -0.4, 0.9, 0.3)]


def written_out(terms: Sequence[Convolved | Plain]) -> Tensor:
    total: Tensor | float = 0.0
    for term in terms:
        if isinstance(term, Plain):
            total = total + term.weight * term.x
        else:
            y = F.conv2d(term.x, term.kernel)
            weight = 1.0 if term.weight is None else term.weight
            total = total + weight * F.batch_norm(y, None, None, training=True, eps=term.eps)
    return total


@pytest.mark.parametrize("rectify", [False, True])
@pytest.mark.parametrize("channels", [3, 4, 16])
def test_equals_its_definition_to_the_second_derivative(channels: int, rectify: bool) -> None:
    torch.manual_seed(0)
    network = Sum(channels, rectify=rectify).double()
    x = torch.randn(4, channels, 5, 4, dtype=torch.float64, requires_grad=True)
    kernels = [layer.weight for layer in network.layers]
    inputs = [x, *kernels, *([] if rectify else SCALES)]
    found, expected = network(x), network.expected(x, kernels)
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


@pytest.mark.parametrize("rectify", [False, True])
def test_tasks_have_statistics_and_kernels_of_their_own(rectify: bool) -> None:
    torch.manual_seed(0)
    network = Sum(4, rectify=rectify).double()
    tasks = torch.randn(3, 2, 4, 5, 4, dtype=torch.float64)
    torch.testing.assert_close(run(network, tasks), torch.stack([network(x) for x in tasks]))
    names = [name for name, _ in network.named_parameters() if name.startswith("layers")]
    own = {name: torch.randn(3, 4, 4, 1, 1, dtype=torch.float64, requires_grad=True) for name in names}
    found = run(network, tasks, own)
    each = [network.expected(tasks[t], [own[name][t] for name in names]) for t in range(3)]
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


def test_an_unused_result_has_no_part_in_the_gradients() -> None:
    torch.manual_seed(0)
    network = Sum(4, rectify=True).double()
    x = torch.randn(4, 4, 3, 3, dtype=torch.float64, requires_grad=True)
    terms = network.convolved(x, [layer.weight for layer in network.layers])
    found, _ = rectified(terms)
    expected = written_out(terms[:1]).relu()
    along = torch.randn_like(expected)
    wanted = torch.autograd.grad(expected, x, along, retain_graph=True)
    torch.testing.assert_close(torch.autograd.grad(found, x, along), wanted)


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
        out = written_out(terms) if exact else weighted_sum(terms)
        return [out.detach(), *torch.autograd.grad(out, inputs, along.to(dtype))]

    for found, expected in zip(results(torch.float32), results(torch.float64), strict=True):
        error = (found - expected).abs().max() / expected.abs().max()
        assert error < 5e-7 * ratio
