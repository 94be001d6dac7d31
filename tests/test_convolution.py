"""Convolution with a weight per task: against a loop over tasks of torch's own, up to second derivatives."""

from itertools import product

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import grad, gradcheck, gradgradcheck
from torch.testing import assert_close

from nas.learners.convolution import convolve

# torch says so of its own loop; ours pads by itself.
pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")

CASES = {
    "plain": ((2, 3), (5, 5), (3, 3), {}),
    "odd": ((2, 3), (7, 4), (3, 2), {"stride": 2, "padding": (2, 1)}),
    "stride_leaves_rest": ((2, 2), (6, 8), (3, 3), {"stride": (2, 3)}),
    "dilation": ((2, 2), (7, 6), (3, 2), {"dilation": (2, 3), "padding": 2}),
    "groups": ((4, 6), (5, 5), (3, 3), {"groups": 2, "padding": 1}),
    "depthwise": ((3, 3), (5, 4), (3, 3), {"groups": 3, "padding": 1, "stride": 2}),
    "depthwise_multiplied": ((2, 4), (4, 4), (2, 2), {"groups": 2}),
    "pointwise": ((3, 2), (3, 5), (1, 1), {}),
    "whole": ((2, 3), (3, 4), (3, 4), {}),
    "same": ((2, 3), (5, 4), (3, 3), {"padding": "same"}),
    "same_even": ((2, 2), (5, 4), (2, 4), {"padding": "same", "dilation": (3, 1)}),
    "valid": ((2, 2), (5, 4), (2, 3), {"padding": "valid", "stride": 2}),
    "one_channel": ((1, 3), (5, 6), (3, 2), {"padding": 1, "stride": (2, 1)}),
    "one_channel_same": ((1, 2), (5, 6), (3, 4), {"padding": "same", "dilation": (1, 2)}),
    "one_channel_dilated": ((1, 2), (7, 6), (2, 3), {"dilation": 2, "padding": (0, 2)}),
}
cases = pytest.mark.parametrize("case", CASES.values(), ids=CASES)
biases = pytest.mark.parametrize("biased", [False, True], ids=["no_bias", "bias"])


def draw(case, biased, tasks=3, batch=2, seed=0):
    (channels, out), image, window, how = case
    generator = torch.Generator().manual_seed(seed)
    shapes = [(tasks * batch, channels, *image), (tasks, out, channels // how.get("groups", 1), *window)]
    shapes += [(tasks, out)] if biased else []
    return [torch.randn(s, dtype=torch.float64, generator=generator).requires_grad_() for s in shapes]


def looped(x, weight, bias=None, **how):
    """Each task's images through torch's convolution with its weight."""
    images = x.unflatten(0, (len(weight), -1))
    biases = [None] * len(weight) if bias is None else bias
    return torch.cat([F.conv2d(*task, **how) for task in zip(images, weight, biases, strict=True)])


def derivatives(function, inputs, how, wanted):
    """The output, a function's first derivatives, and those of a random combination of these."""
    generator = torch.Generator().manual_seed(1)
    out = function(*inputs, **how)
    target = torch.randn(out.shape, dtype=out.dtype, generator=generator)
    first = grad(((out - target) ** 3).sum(), wanted, create_graph=True)
    along = [torch.randn(g.shape, dtype=g.dtype, generator=generator) for g in first]
    second = grad(sum((g * d).sum() for g, d in zip(first, along, strict=True)), wanted)
    return [out, *first, *second]


@cases
@biases
def test_it_is_a_loop_over_tasks_up_to_second_derivatives(case, biased):
    inputs, how = draw(case, biased), case[-1]
    found, expected = (derivatives(f, inputs, how, inputs) for f in (convolve, looped))
    assert_close(found, expected, rtol=1e-10, atol=1e-10)


@cases
@biases
def test_images_that_need_no_gradient(case, biased):
    """As the first layer sees them: one-channel images go another way."""
    (images, *rest), how = draw(case, biased), case[-1]
    inputs = [images.detach(), *rest]
    found, expected = (derivatives(f, inputs, how, rest) for f in (convolve, looped))
    assert_close(found, expected, rtol=1e-10, atol=1e-10)


@cases
def test_derivatives_are_those_of_finite_differences(case):
    inputs, how = draw(case, biased=True, tasks=2), case[-1]
    function = lambda *inputs: convolve(*inputs, **how)  # noqa: E731
    assert gradcheck(function, inputs, fast_mode=True)
    assert gradgradcheck(function, inputs, fast_mode=True)
    images, *rest = inputs
    function = lambda *rest: convolve(images.detach(), *rest, **how)  # noqa: E731
    assert gradcheck(function, rest, fast_mode=True)
    assert gradgradcheck(function, rest, fast_mode=True)


def test_every_entry_of_the_derivatives():
    """The slow check, of the whole Jacobian, where it is affordable."""
    case = ((2, 2), (3, 4), (2, 2), {"stride": (1, 2), "padding": (1, 0), "groups": 2})
    inputs = draw(case, biased=True, tasks=2, batch=1)
    assert gradcheck(lambda *inputs: convolve(*inputs, **case[-1]), inputs)
    assert gradgradcheck(lambda *inputs: convolve(*inputs, **case[-1]), inputs)


@pytest.mark.parametrize("wanted", [w for w in product([True, False], repeat=3) if any(w)])
def test_some_inputs_may_be_constants(wanted):
    """Whichever of images, weight and bias need no gradient, the others have theirs."""
    case = CASES["groups"]
    inputs = [t.requires_grad_(w) for t, w in zip(draw(case, biased=True), wanted, strict=True)]
    asked = [t for t in inputs if t.requires_grad]
    found, expected = (derivatives(f, inputs, case[-1], asked) for f in (convolve, looped))
    assert_close(found, expected, rtol=1e-10, atol=1e-10)


pairs = st.tuples(st.integers(1, 3), st.integers(1, 3))


@given(
    tasks=st.integers(1, 3),
    batch=st.integers(1, 2),
    groups=st.integers(1, 2),
    fan_in=st.integers(1, 2),
    fan_out=st.integers(1, 2),
    size=st.tuples(st.integers(7, 9), st.integers(7, 9)),
    window=pairs,
    stride=st.one_of(st.integers(1, 3), pairs),
    padding=st.one_of(st.integers(0, 2), st.tuples(st.integers(0, 2), st.integers(0, 2))),
    dilation=st.one_of(st.integers(1, 2), pairs),
    images_too=st.booleans(),
)
@settings(max_examples=50, deadline=None)
def test_any_geometry(
    tasks, batch, groups, fan_in, fan_out, size, window, stride, padding, dilation, images_too
):
    how = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    case = ((groups * fan_in, groups * fan_out), size, window, how)
    images, *rest = draw(case, biased=True, tasks=tasks, batch=batch)
    inputs = [images.requires_grad_(images_too), *rest]
    asked = inputs if images_too else rest
    found, expected = (derivatives(f, inputs, how, asked) for f in (convolve, looped))
    assert_close(found, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("channels", [1, 2])
def test_the_memory_format_does_not_matter(channels):
    case = ((channels, 3), (5, 6), (3, 2), {"padding": 1})
    images, weight = draw(case, biased=False)
    last = images.detach().to(memory_format=torch.channels_last).requires_grad_()
    found, expected = (derivatives(convolve, [x, weight], case[-1], [x, weight]) for x in (last, images))
    assert_close(found, expected, rtol=1e-12, atol=1e-12)
    assert found[0].is_contiguous(memory_format=torch.channels_last)
