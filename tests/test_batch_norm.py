"""Batch norm with a task's own statistics: against torch's, task by task, up to second derivatives."""

import pytest
import torch
import torch.nn.functional as F
from torch.autograd import grad, gradcheck, gradgradcheck
from torch.testing import assert_close

from nas.bilevel import load_forward_mode
from nas.learners.batch_norm import normalize, statistics

EPS = 1e-3
shapes = pytest.mark.parametrize(
    "shape", [(3,), (2, 3, 2), (1, 1, 1)], ids=["vectors", "maps", "one_channel"]
)
sharings = pytest.mark.parametrize("shared", [False, True], ids=["own_weights", "shared_weights"])
references = pytest.mark.parametrize("reference", [None, 2, 4])


def draw(shape, shared, tasks=3, rows=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    sizes = [(tasks * rows, *shape), *[(1 if shared else tasks, shape[0])] * 2]
    return [torch.randn(s, dtype=torch.float64, generator=generator).requires_grad_() for s in sizes]


def looped(x, weight, bias, eps, tasks, reference=None):
    """Each task by torch's batch norm; with a reference by the formula of the paper."""
    out = []
    for task, rows in enumerate(x.unflatten(0, (tasks, -1))):
        w, b = (p[0] if len(p) == 1 else p[task] for p in (weight, bias))
        if reference is None:
            out.append(F.batch_norm(rows, None, None, w, b, training=True, eps=eps))
        else:
            seen, channel = rows[:reference], (-1, *[1] * (rows.dim() - 2))
            axes = [0, *range(2, rows.dim())]
            variance, mean = torch.var_mean(seen, axes, correction=0, keepdim=True)
            out.append((rows - mean) / (variance + eps).sqrt() * w.view(channel) + b.view(channel))
    return torch.cat(out)


def derivatives(function, inputs, tasks, reference, wanted=None):
    """The output, a function's first derivatives, and those of a random combination of these."""
    generator = torch.Generator().manual_seed(1)
    wanted = wanted or inputs
    out = function(*inputs, EPS, tasks, reference)
    target = torch.randn(out.shape, dtype=out.dtype, generator=generator)
    first = grad(((out - target) ** 3).sum(), wanted, create_graph=True)
    along = [torch.randn(g.shape, dtype=g.dtype, generator=generator) for g in first]
    second = grad(sum((g * d).sum() for g, d in zip(first, along, strict=True)), wanted)
    return [out, *first, *second]


@shapes
@sharings
@references
@pytest.mark.parametrize("tasks", [1, 3])
def test_it_is_a_loop_over_tasks_up_to_second_derivatives(shape, shared, reference, tasks):
    inputs = draw(shape, shared, tasks)
    found, expected = (derivatives(f, inputs, tasks, reference) for f in (normalize, looped))
    assert_close(found, expected, rtol=1e-9, atol=1e-9)


@shapes
@sharings
@references
def test_derivatives_are_those_of_finite_differences(shape, shared, reference):
    inputs = draw(shape, shared, tasks=2)
    function = lambda *inputs: normalize(*inputs, EPS, 2, reference)  # noqa: E731
    assert gradcheck(function, inputs)
    assert gradgradcheck(function, inputs, fast_mode=True)


@sharings
def test_every_entry_of_the_second_derivatives(shared):
    inputs = draw((2, 2), shared, tasks=2, rows=2)
    assert gradgradcheck(lambda *inputs: normalize(*inputs, EPS, 2), inputs)


@pytest.mark.parametrize("constant", [0, 1, 2])
def test_some_inputs_may_be_constants(constant):
    """Whichever of x, weight and bias needs no gradient, the others have theirs."""
    inputs = draw((2, 3), shared=False)
    inputs[constant] = inputs[constant].detach()
    asked = [t for t in inputs if t.requires_grad]
    found, expected = (derivatives(f, inputs, 3, None, asked) for f in (normalize, looped))
    assert_close(found, expected, rtol=1e-9, atol=1e-9)


@sharings
def test_forward_mode_goes_along_every_input(shared):
    load_forward_mode()
    inputs = draw((2, 3, 2), shared)
    assert gradcheck(
        lambda x, w, b: normalize(x, w, b, EPS, 3), inputs, check_forward_ad=True, check_backward_ad=False
    )
    x, *constants = (value.detach() for value in inputs)
    assert gradcheck(lambda x: normalize(x, *constants, EPS, 3), [x.requires_grad_()], check_forward_ad=True)


def test_the_memory_format_does_not_matter():
    x, *weights = draw((2, 3, 2), shared=False)
    last = x.detach().to(memory_format=torch.channels_last).requires_grad_()
    found, expected = (derivatives(normalize, [images, *weights], 3, None) for images in (last, x))
    assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_single_rows_become_the_bias():
    """One vector has no variance: torch refuses it, a task of one example is left with the bias."""
    x, weight, bias = draw((3,), shared=False, rows=1)
    assert_close(normalize(x, weight, bias, EPS, 3), bias)


@sharings
def test_statistics_are_means_over_tasks(shared):
    x, *_ = draw((2, 3, 2), shared)
    mean, variance = statistics(x, 3)
    tasks = x.unflatten(0, (3, -1))
    assert_close(mean, torch.stack([task.mean((0, 2, 3)) for task in tasks]).mean(0))
    assert_close(variance, torch.stack([task.var((0, 2, 3)) for task in tasks]).mean(0))
