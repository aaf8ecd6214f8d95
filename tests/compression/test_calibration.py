"""Ranges of grids: by the ends, by percentiles, by the least error."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nnopt_lib.checks import NnoptError
from nnopt_lib.compression.calibration import calibrate
from nnopt_lib.compression.quantization import quantize


def squared_error(values, ends, **grid):
    return np.square(quantize(values, clip=ends, **grid).dequantize().astype(np.float64) - values).sum()


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(2, 8), st.sampled_from(["symmetric", "affine"]))
def test_the_least_error_is_no_larger_than_that_of_the_whole_range(seed, bits, scheme):
    generator = np.random.default_rng(seed)
    values = (generator.standard_t(3, 300) + generator.uniform(-3, 3)).astype(np.float32)
    grid = {"bits": bits, "scheme": scheme}
    whole = calibrate(values, **grid)
    best = calibrate(values, method="error", **grid)
    assert squared_error(values, best, **grid) <= squared_error(values, whole, **grid)
    assert whole[0] <= best[0] <= 0 <= best[1] <= whole[1]
    if scheme == "affine":  # the ends by themselves are at least as good as both together
        shares = np.linspace(1, 0.02, 50)
        together = min(squared_error(values, (s * whole[0], s * whole[1]), **grid) for s in shares)
        assert squared_error(values, best, **grid) <= together


def test_the_least_error_leaves_out_one_far_value():
    values = np.append(np.random.default_rng(0).standard_normal(2000), 30.0)
    low, high = calibrate(values, method="error", bits=4)
    assert low == -high and 1.5 < high < 10


@pytest.mark.parametrize("far", [3.0, 30.0, -30.0])
def test_ends_by_themselves_come_near_the_best_of_all_pairs(far):
    values = np.append(np.random.default_rng(0).standard_normal(500), far)
    whole = calibrate(values, scheme="affine")
    shares = np.linspace(1, 0.02, 50)
    grid = {"bits": 4, "scheme": "affine"}
    pairs = [(low * whole[0], high * whole[1]) for low in shares for high in shares]
    least = min(squared_error(values, pair, **grid) for pair in pairs)
    assert squared_error(values, calibrate(values, method="error", **grid), **grid) <= 1.03 * least


@pytest.mark.parametrize("percentile", [50.0, 99.0, 100.0])
def test_percentiles_are_numpys(percentile):
    values = np.random.default_rng(1).standard_normal(501).astype(np.float32)
    options = {"method": "percentile", "percentile": percentile}
    end = np.percentile(np.abs(values), percentile)
    assert calibrate(values, **options) == (-end, end)
    low, high = calibrate(values, scheme="affine", **options)
    assert low == min(0, np.percentile(values, 100 - percentile))
    assert high == max(0, np.percentile(values, percentile))
    assert calibrate(values, **options)[1] >= np.sort(np.abs(values))[int(percentile / 100 * 500)] - 1e-6


@pytest.mark.parametrize("method", ["min-max", "percentile", "error"])
@pytest.mark.parametrize("scheme", ["symmetric", "affine"])
def test_batches_are_read_as_one_array(method, scheme):
    values = np.random.default_rng(2).standard_normal((60, 4)).astype(np.float32)
    batches = (values[first : first + 7] for first in range(0, 60, 7))
    options = {"method": method, "scheme": scheme, "bits": 4}
    assert calibrate(batches, **options) == calibrate(values, **options)


def test_a_range_holds_zero_and_a_symmetric_one_both_sides():
    values = np.array([2.0, 3.0])
    assert calibrate(values) == (-3, 3)
    assert calibrate(values, scheme="affine") == (0, 3)
    assert calibrate(-values, scheme="affine") == (-3, 0)
    for method in ("percentile", "error"):
        assert calibrate(-values, method=method, scheme="affine")[1] == 0
    assert calibrate(np.zeros(3), method="error") == (0, 0)


@pytest.mark.parametrize("method", ["min-max", "percentile", "error"])
def test_what_cannot_be_calibrated_is_refused(method):
    with pytest.raises(NnoptError) as error:
        calibrate(iter([]), method=method)
    assert str(error.value) == "calibration needs at least one value; received none."
    with pytest.raises(NnoptError) as error:
        calibrate(np.array([1.0, np.nan]), method=method)
    assert str(error.value) == (
        "an array must hold finite numbers to be quantized; received NaN, inf or numbers beyond 8.5e+37 "
        "at 1 of 2 places. Find out where they come from: training may have diverged."
    )


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (
            {"method": "percentil"},
            "method must be one of min-max, percentile, error; received 'percentil'. "
            "Did you mean 'percentile'?",
        ),
        ({"percentile": 101}, "percentile must be at most 100; received 101."),
        ({"percentile": 0}, "percentile must be a finite number, above 0; received 0."),
        ({"bits": 1}, "bits must be a whole number, from 2 to 8; received 1."),
        ({"scheme": "both"}, "scheme must be one of symmetric, affine; received 'both'."),
    ],
)
def test_options_out_of_range_are_refused(options, sentence):
    with pytest.raises(NnoptError) as error:
        calibrate(np.ones(3), **options)
    assert str(error.value) == sentence
