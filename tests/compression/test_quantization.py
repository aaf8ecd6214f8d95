"""Quantized arrays: errors of at most half a step, exact zeros, grids that are found again."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nnopt_lib.checks import NnoptError
from nnopt_lib.compression.quantization import LARGEST, Quantization, Quantized, quantize

SHAPES = st.lists(st.integers(1, 7), min_size=1, max_size=4).map(tuple)
RECIPES = {
    "bits": st.integers(2, 8),
    "scheme": st.sampled_from(["symmetric", "affine"]),
    "per": st.sampled_from(["tensor", "row", "group"]),
    "group": st.integers(1, 9),
}
ROUNDING = 1 + 1e-4  # of float32, in steps


@st.composite
def kernels(draw):
    """Kernels of any scale, some rows on one side of 0, some weights pruned."""
    shape, seed = draw(SHAPES), draw(st.integers(0, 2**32 - 1))
    generator = np.random.default_rng(seed)
    kernel = generator.standard_normal(shape) * 10.0 ** draw(st.integers(-30, 30))
    kernel += draw(st.sampled_from([0, 0, 5])) * np.abs(kernel).max()
    return (kernel * (generator.random(shape) > draw(st.sampled_from([0.0, 0.5, 1.0])))).astype(np.float32)


@settings(max_examples=300)
@given(kernels(), st.fixed_dictionaries(RECIPES))
def test_a_number_moves_by_at_most_half_a_step_and_zero_not_at_all(kernel, recipe):
    quantized = quantize(kernel, **recipe)
    restored, step = quantized.dequantize(), quantized.step
    assert restored.dtype == np.float32 and restored.shape == step.shape == quantized.shape == kernel.shape
    distance = np.abs(restored.astype(np.float64) - kernel)
    assert (distance <= step.astype(np.float64) / 2 * ROUNDING).all()
    assert not restored[kernel == 0].any() and not np.signbit(restored[restored == 0]).any()
    lowest, highest = quantized.recipe.codes
    assert quantized.codes.dtype == np.int8 and quantized.bits == recipe["bits"]
    assert lowest <= quantized.codes.min() and quantized.codes.max() <= highest
    assert ((lowest <= quantized.zero_point) & (quantized.zero_point <= highest)).all()
    exact = quantize(restored, **recipe)
    whole = restored.astype(np.float64) / step  # without rounding
    np.testing.assert_array_equal(whole, np.rint(whole))
    if recipe["scheme"] == "symmetric":
        assert np.array_equal(exact.codes, quantized.codes) and np.array_equal(exact.scale, quantized.scale)


@settings(max_examples=100)
@given(kernels(), st.integers(2, 8), st.sampled_from(["symmetric", "affine"]), st.integers(1, 9))
def test_steps_by_row_and_by_group_are_never_longer(kernel, bits, scheme, group):
    steps = [
        quantize(kernel, bits=bits, scheme=scheme, per=per, group=group).step
        for per in ("tensor", "row", "group")
        if kernel.any(tuple(range(1, kernel.ndim))).all()  # the step of a row of zeros is 1
    ]
    for longer, shorter in zip(steps, steps[1:2], strict=False):
        assert (shorter <= longer).all()
    for row in range(len(kernel)) if steps else ():
        used = steps[2].reshape(len(kernel), -1)[row][kernel.reshape(len(kernel), -1)[row] != 0]
        assert (used <= steps[1].reshape(len(kernel), -1)[row, 0]).all()


def test_the_largest_error_by_row_is_no_larger_than_by_tensor():
    kernel = np.random.default_rng(0).standard_normal((30, 40)) * np.geomspace(0.01, 10, 30)[:, None]
    errors = {
        per: np.abs(quantize(kernel, bits=4, per=per).dequantize() - kernel).max(1)
        for per in ("tensor", "row")
    }
    assert errors["row"].max() <= errors["tensor"].max()
    assert errors["row"][0] < errors["tensor"][0] / 10  # a row a thousand times smaller


def test_the_last_group_of_a_row_holds_the_remainder():
    kernel = np.array([[1, 2, 4, 8, 16.0], [5, 5, 5, 5, 0]])
    quantized = quantize(kernel, bits=2, per="group", group=2)
    assert quantized.scale.tolist() == [[2, 8, 16], [5, 5, 1]]
    assert quantized.step.tolist() == [[2, 2, 8, 8, 16], [5, 5, 5, 5, 1]]
    assert quantized.codes.tolist() == [[0, 1, 0, 1, 1], [1, 1, 1, 1, 0]]
    assert quantized.nbytes == 3 + 6 * 4  # 10 codes of 2 bits, 6 scales


def test_groups_of_a_convolution_run_through_inputs_and_positions():
    kernel = np.arange(1, 13, dtype=np.float32).reshape(2, 3, 2)
    quantized = quantize(kernel, bits=8, per="group", group=4)
    flat = quantize(kernel.reshape(2, 6), bits=8, per="group", group=4)
    assert np.array_equal(quantized.codes, flat.codes.reshape(2, 3, 2))
    np.testing.assert_allclose(quantized.scale * 127, [[4, 6], [10, 12]], rtol=1e-4)


def test_an_affine_grid_by_hand():
    quantized = quantize(np.array([[-1.0, 0.0, 2.0]]), bits=2, scheme="affine")
    assert (quantized.scale.tolist(), quantized.zero_point.tolist()) == ([[1.0]], [[-1]])
    assert quantized.codes.tolist() == [[-2, -1, 1]]
    assert quantized.nbytes == 1 + 4 + 1  # codes, scale, zero point


def test_what_lies_outside_a_given_range_becomes_its_end():
    kernel = np.array([[-9.0, -1.0, 0.4, 9.0]])
    assert quantize(kernel, bits=2, clip=(-1.0, 1.0)).dequantize().tolist() == [[-1, -1, 0, 1]]
    affine = quantize(kernel, bits=2, scheme="affine", clip=(0.0, 3.0))
    assert affine.dequantize().tolist() == [[0, 0, 0, 3]]
    by_row = quantize(np.array([[0.1], [5.0]]), bits=2, per="row", clip=(-1.0, 1.0))
    assert by_row.scale.tolist() == [[1], [1]]


@pytest.mark.parametrize("scheme", ["symmetric", "affine"])
def test_numbers_near_the_ends_of_float32(scheme):
    for size in (1e-45, 1e-38, LARGEST):
        values = np.array([[-size, size / 3, size]], np.float32)
        quantized = quantize(values, bits=8, scheme=scheme)
        assert (np.abs(quantized.dequantize() - values) <= quantized.step / 2 * ROUNDING).all()


def test_zeros_alone_are_quantized_to_themselves():
    for scheme in ("symmetric", "affine"):
        quantized = quantize(np.zeros((2, 3)), scheme=scheme, per="row")
        assert not quantized.dequantize().any() and (quantized.scale == 1).all()


@pytest.mark.torch
@settings(max_examples=100)
@given(kernels(), st.fixed_dictionaries(RECIPES))
def test_codes_are_those_of_pytorch_on_the_same_grid(kernel, recipe):
    import torch

    recipe["per"] = "tensor" if recipe["per"] == "group" else recipe["per"]
    quantized = quantize(kernel, **recipe)
    lowest, highest = quantized.recipe.codes
    tensor = torch.from_numpy(kernel)
    if recipe["per"] == "tensor":
        scale, zero_point = float(quantized.scale[0, 0]), int(quantized.zero_point[0, 0])
        expected = torch.fake_quantize_per_tensor_affine(tensor, scale, zero_point, lowest, highest)
    else:
        scale, zero_point = (torch.from_numpy(a[:, 0]) for a in (quantized.scale, quantized.zero_point))
        expected = torch.fake_quantize_per_channel_affine(tensor, scale, zero_point, 0, lowest, highest)
    # PyTorch multiplies by 1 / scale: a number in the middle between two values may go to the other one.
    position = kernel.astype(np.float64) / quantized.step
    clear = np.abs(position - np.floor(position) - 0.5) > 1e-4
    np.testing.assert_allclose(quantized.dequantize()[clear], expected.numpy()[clear], rtol=1e-6)


@pytest.mark.torch
@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor:UserWarning")
def test_codes_are_those_of_pytorchs_quantized_tensors():
    import torch

    kernel = np.random.default_rng(3).standard_normal((20, 30)).astype(np.float32)
    quantized = quantize(kernel, scheme="affine")
    scale, zero_point = float(quantized.scale[0, 0]), int(quantized.zero_point[0, 0])
    theirs = torch.quantize_per_tensor(torch.from_numpy(kernel), scale, zero_point, torch.qint8)
    assert np.array_equal(theirs.int_repr().numpy(), quantized.codes)
    assert np.array_equal(theirs.dequantize().numpy(), quantized.dequantize())


@pytest.mark.parametrize(
    ("array", "options", "sentence"),
    [
        (
            np.array([[1.0, np.nan, -np.inf]]),
            {"layer": "dense_1/kernel"},
            "layer 'dense_1/kernel' must hold finite numbers to be quantized; received NaN, inf or numbers "
            "beyond 8.5e+37 at 2 of 3 places. Find out where they come from: training may have diverged.",
        ),
        (
            np.array([1e300]),
            {},
            "an array must hold finite numbers to be quantized; received NaN, inf or numbers beyond 8.5e+37 "
            "at 1 of 1 places. Find out where they come from: training may have diverged.",
        ),
        (np.zeros((0, 3)), {}, "an array must hold a number to be quantized; received shape (0, 3)."),
        (np.array(["a"]), {}, "an array must hold real numbers to be quantized; received type <U1."),
        (np.ones(2), {"bits": 9}, "bits must be a whole number, from 2 to 8; received 9."),
        (np.ones(2), {"bits": 1}, "bits must be a whole number, from 2 to 8; received 1."),
        (np.ones(2), {"group": 0}, "group must be a whole number, at least 1; received 0."),
        (
            np.ones(2),
            {"scheme": "symetric"},
            "scheme must be one of symmetric, affine; received 'symetric'. Did you mean 'symmetric'?",
        ),
        (np.ones(2), {"per": "column"}, "per must be one of tensor, row, group; received 'column'."),
        (
            np.ones(2),
            {"clip": (1.0, -1.0)},
            "a range must be a tuple of two numbers, the lower one first; received (1, -1).",
        ),
        (
            np.ones(2),
            {"clip": 3},
            "a range must be a tuple of two numbers, the lower one first; received 3.",
        ),
        (
            np.ones(2),
            {"clip": (0.0, np.inf)},
            "an end of a range must be a finite number; received inf.",
        ),
    ],
)
def test_what_cannot_be_quantized_is_refused(array, options, sentence):
    with pytest.raises(NnoptError) as error:
        quantize(array, **options)
    assert str(error.value) == sentence


def test_bits_of_integers_and_half_precision_are_read():
    assert quantize(np.array([[-127, 5, 127]])).codes.tolist() == [[-127, 5, 127]]
    assert quantize(np.array([[0.5, 1.0]], np.float16), bits=2).dequantize().tolist() == [[0, 1]]


def test_a_quantized_array_can_be_put_together_by_hand():
    recipe = Quantization(4, per="row")
    codes, scale = np.array([[1, -7]], np.int8), np.array([[0.5]], np.float32)
    assert Quantized(codes, scale, np.zeros((1, 1), np.int32), recipe).dequantize().tolist() == [[0.5, -3.5]]
