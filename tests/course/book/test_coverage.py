"""The intervals of the course cover what they say, at the sizes that they are used for."""

import numpy as np
import pytest

from nnopt_lib.course.book.coverage import (
    DRAWS,
    MEAN_SIZES,
    MEDIAN_SIZES,
    SHAPES,
    coverage_table,
    mean_coverage,
    median_coverage,
)
from nnopt_lib.measure import median_interval


@pytest.mark.parametrize("size", MEAN_SIZES)
def test_the_interval_of_a_mean_of_normal_values_covers_95_percent(size):
    assert 0.93 <= mean_coverage(SHAPES[0], size) <= 0.97


@pytest.mark.parametrize("size", MEAN_SIZES)
def test_skewed_samples_are_covered_less_and_the_page_says_so(size):
    """Student's interval assumes a normal sample: what it loses elsewhere is known, and not hidden."""
    skewed, very = (mean_coverage(shape, size) for shape in SHAPES[1:])
    assert 0.80 <= very < skewed < 0.93
    column = 1 + MEAN_SIZES.index(size)
    shown = [line.split("|")[1 + column].strip() for line in coverage_table().splitlines()[2:5]]
    assert shown[1:] == [f"{skewed:.2f}", f"{very:.2f}"]


@pytest.mark.parametrize("size", MEDIAN_SIZES)
def test_the_interval_of_a_median_covers_95_percent(size):
    assert 0.93 <= median_coverage(size) <= 0.97


def test_the_exact_coverage_of_medians_is_what_skewed_samples_show():
    samples = np.random.default_rng(0).exponential(size=(2000, 30))
    held = sum(low <= np.log(2) <= high for _, low, high in map(median_interval, samples))
    # The share of 2,000 samples has a standard error of 0.0045.
    assert held / 2000 == pytest.approx(median_coverage(30), abs=0.015)


def test_enough_samples_are_drawn_to_tell_93_from_95_percent():
    assert (0.95 * 0.05 / DRAWS) ** 0.5 < 0.003
