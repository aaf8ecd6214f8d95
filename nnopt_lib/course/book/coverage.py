"""How often the intervals that the course prints hold what they estimate, as a table for the book."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from nnopt_lib.measure.statistics import interval, median_interval

DRAWS = 10_000  # samples of each size: the share is then known to 0.003 in normal ones
MEAN_SIZES = (3, 4, 5, 10, 20)  # seeds, splits or draws behind the means of the course
MEDIAN_SIZES = (30, 40, 50, 100)  # repeats behind its medians


class Shape(NamedTuple):
    """A kind of sample: its name, how values of a given shape are drawn, and its true mean."""

    name: str
    draw: Callable[[np.random.Generator, tuple[int, int]], np.ndarray]
    mean: float


SHAPES = (
    Shape("normal", lambda random, size: random.normal(size=size), 0.0),
    Shape("skewed (exponential)", lambda random, size: random.exponential(size=size), 1.0),
    Shape("very skewed (log-normal)", lambda random, size: random.lognormal(size=size), float(np.exp(0.5))),
)


def mean_coverage(shape: Shape, size: int) -> float:
    """The share of `DRAWS` samples of `size` values whose 95 % interval holds the true mean.

    Example:
        >>> mean_coverage(SHAPES[0], 10) > 0.94
        True
    """
    samples = shape.draw(np.random.default_rng(size), (DRAWS, size))
    bounds = np.array([interval(sample)[1:] for sample in samples])
    return float(((bounds[:, 0] <= shape.mean) & (shape.mean <= bounds[:, 1])).mean())


def median_coverage(size: int) -> float:
    """How often the 95 % interval of a median holds it, exactly, for samples of any continuous distribution.

    The interval ends at order statistics, and how many values lie below the true median is binomial.

    Example:
        >>> round(median_coverage(30), 4)
        0.9572
    """
    from scipy.stats import binom

    _, low, high = median_interval(np.arange(1.0, size + 1))  # values that are their own ranks
    return float(binom.cdf(high - 1, size, 0.5) - binom.cdf(low - 1, size, 0.5))


def coverage_table() -> str:
    """The Markdown table of the page *How we know*: coverage by kind of interval, sample and size."""
    sizes = [*MEAN_SIZES, *MEDIAN_SIZES]
    lines = [["", *(f"n = {size}" for size in sizes)], ["---"] * (len(sizes) + 1)]
    for shape in SHAPES:
        shares = [f"{mean_coverage(shape, size):.2f}" for size in MEAN_SIZES]
        lines.append([f"mean, {shape.name}", *shares, *[""] * len(MEDIAN_SIZES)])
    medians = [f"{median_coverage(size):.2f}" for size in MEDIAN_SIZES]
    lines.append(["median, any distribution", *[""] * len(MEAN_SIZES), *medians])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
