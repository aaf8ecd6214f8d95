import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nnopt_lib.pruning import columns as module
from nnopt_lib.pruning.columns import columns, portions


@st.composite
def convolutions(draw, ranks=(1, 2, 3)):
    """An input, a kernel and the options of a convolution that has at least one output."""
    rank = draw(st.sampled_from(ranks))
    sizes = {
        name: draw(st.tuples(*[st.integers(1, most)] * rank))
        for name, most in (("kernel", 3), ("stride", 3), ("dilation", 3), ("room", 4))
    }
    padding = draw(st.tuples(*[st.tuples(st.integers(0, 2), st.integers(0, 2))] * rank))
    groups, inputs, outputs = (draw(st.integers(1, 3)) for _ in range(3))
    spans = [(k - 1) * d + 1 for k, d in zip(sizes["kernel"], sizes["dilation"], strict=True)]
    space = [
        max(span - sum(zeros), 0) + more
        for span, zeros, more in zip(spans, padding, sizes.pop("room"), strict=True)
    ]
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    x = random.normal(size=(draw(st.integers(1, 3)), groups * inputs, *space))
    kernel = random.normal(size=(groups * outputs, inputs, *sizes.pop("kernel")))
    return x, kernel, {**sizes, "padding": padding, "groups": groups}


def product(x, kernel, **options):
    """The outputs by columns, (examples, *positions, outputs) as rows."""
    rows = columns(x, kernel.shape[2:], **options)
    parts = kernel.reshape(options["groups"], -1, rows.shape[2])
    return np.concatenate([rows[:, g] @ part.T for g, part in enumerate(parts)], 1)


def directly(x, kernel, *, stride, padding, dilation, groups):
    """The convolution by its definition, in plain loops."""
    x = np.pad(x, [(0, 0), (0, 0), *padding])
    size, inputs, outputs = kernel.shape[2:], kernel.shape[1], len(kernel) // groups
    space = [
        (n - (k - 1) * d - 1) // s + 1 for n, k, d, s in zip(x.shape[2:], size, dilation, stride, strict=True)
    ]
    rows = []
    for example in x:
        for position in np.ndindex(*space):
            out = np.zeros(len(kernel))
            for entry in np.ndindex(*size):
                at = [p * s + e * d for p, s, e, d in zip(position, stride, entry, dilation, strict=True)]
                for o in range(len(kernel)):
                    group = o // outputs
                    read = example[(slice(group * inputs, (group + 1) * inputs), *at)]
                    out[o] += kernel[(o, slice(None), *entry)] @ read
            rows.append(out)
    return np.array(rows).reshape(-1, len(kernel))


@settings(max_examples=200, deadline=None)
@given(convolutions())
def test_columns_times_kernel_is_the_convolution(case):
    x, kernel, options = case
    np.testing.assert_allclose(product(x, kernel, **options), directly(x, kernel, **options), atol=1e-12)


@pytest.mark.torch
@settings(max_examples=200, deadline=None)
@given(convolutions(ranks=(2,)))
def test_columns_are_those_of_torchs_unfold(case):
    import torch

    x, kernel, options = case
    options["padding"] = tuple((before, before) for before, _ in options["padding"])
    spans = [(k - 1) * d + 1 for k, d in zip(kernel.shape[2:], options["dilation"], strict=True)]
    grown = [
        max(span - n - 2 * before, 0)
        for span, n, (before, _) in zip(spans, x.shape[2:], options["padding"], strict=True)
    ]
    x = np.pad(x, [(0, 0), (0, 0), *((0, more) for more in grown)])
    expected = torch.nn.functional.unfold(
        torch.as_tensor(x),
        kernel.shape[2:],
        stride=options["stride"],
        dilation=options["dilation"],
        padding=tuple(before for before, _ in options["padding"]),
    )
    rows = columns(x, kernel.shape[2:], **options)
    np.testing.assert_array_equal(rows.reshape(len(x), -1, rows[0].size), expected.transpose(1, 2).numpy())


def test_a_dense_layer_has_its_inputs_as_columns():
    x = np.arange(12, dtype=np.float32).reshape(3, 4)
    rows = columns(x, ())
    assert rows.shape == (3, 1, 4) and rows.dtype == np.float32
    np.testing.assert_array_equal(rows[:, 0], x)
    np.testing.assert_array_equal(columns(x, (), groups=2), x.reshape(3, 2, 2))


def test_rows_follow_examples_then_positions_and_nothing_is_shared():
    x = np.arange(8).reshape(2, 1, 4)
    rows = columns(x, (2,), stride=(2,))
    np.testing.assert_array_equal(rows[:, 0], [[0, 1], [2, 3], [4, 5], [6, 7]])
    rows[:] = 0
    np.testing.assert_array_equal(x.ravel(), range(8))


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 9), st.integers(1, 5), st.floats(0.2, 9), st.integers(1, 60))
def test_portions_are_all_examples_in_order_and_none_too_large(examples, size, repeats, limit):
    x = np.arange(examples * size).reshape(examples, size)
    kept, module.PORTION = module.PORTION, limit
    try:
        parts = list(portions(x, repeats))
    finally:
        module.PORTION = kept
    np.testing.assert_array_equal(np.concatenate([x[:0], *parts]), x)
    for part in parts:
        assert len(part) == 1 or part.size * repeats <= limit
    most = max(int(limit / (size * repeats)), 1)
    assert len(parts) == math.ceil(examples / most)
