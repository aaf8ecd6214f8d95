"""Calibration: from which range should a grid of few bits take its values? Chapter 18 teaches it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

from nnopt_lib.checks import check_choice, check_number, refuse
from nnopt_lib.compression.quantization import Quantization, check_finite, quantize

METHODS = ("min-max", "percentile", "error")
SHARES = np.linspace(1, 0.02, 50)  # of the whole range, which are tried for the smallest error
MOVES = 3  # of single ends


def calibrate(
    values: np.ndarray | Iterable[np.ndarray],
    *,
    method: str = "min-max",
    bits: int = 8,
    scheme: str = "symmetric",
    percentile: float = 99.9,
) -> tuple[float, float]:
    """The range (low, high) that a grid should hold, for ``quantize(..., clip=...)``.

    Parameters:
        values: an array, or batches of numbers one after another.
        method: ``"min-max"``: all values are inside. ``"percentile"``: `percentile` percent of them; of
            magnitudes if symmetric, else of each side, so that twice the rest lies outside. ``"error"``:
            the range of least squared error among shares of the whole range in steps of 2 %, of each end
            by itself if affine; never worse than min-max, which is among them.
        bits, scheme: of the grid, as in `Quantization`.
        percentile: above 0, at most 100.

    The range holds 0; a symmetric one is (-end, end). All but min-max hold the values in memory at once.
    Errors: no values; NaN or inf. Source: Wu et al. 2020, section 4 (percentiles and least errors).

    Example:
        >>> values = np.append(np.linspace(-1, 1, 1000), 50.0)
        >>> calibrate(values)
        (-50.0, 50.0)
        >>> calibrate(values, method="percentile", percentile=99.8)[1] < 1.001
        True
    """
    check_choice("method", method, METHODS)
    Quantization(bits, scheme)
    if check_number("percentile", percentile, above=0) > 100:
        refuse("percentile must be at most 100", f"{percentile:g}")
    parts = (check_finite(part).ravel() for part in _batches(values))
    if method == "min-max":
        return _ends(parts, scheme)
    numbers = np.concatenate(list(parts) or [np.zeros(0, np.float32)])
    if not numbers.size:
        return _ends([], scheme)
    if method == "error":
        return _least_error(numbers, bits, scheme)
    if scheme == "symmetric":
        end = float(np.percentile(np.abs(numbers), percentile))
        return -end, end
    low, high = np.percentile(numbers, [100 - percentile, percentile])
    return min(float(low), 0.0), max(float(high), 0.0)


def _batches(values: np.ndarray | Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    yield from [values] if isinstance(values, np.ndarray) else values


def _ends(parts: Iterable[np.ndarray], scheme: str) -> tuple[float, float]:
    """The smallest and the largest value, 0 among them."""
    ends = [(float(part.min()), float(part.max())) for part in parts]
    if not ends:
        refuse("calibration needs at least one value", "none")
    low, high = min(0.0, *(low for low, _ in ends)), max(0.0, *(high for _, high in ends))
    return (low, high) if scheme == "affine" else (-max(-low, high), max(-low, high))


def _least_error(numbers: np.ndarray, bits: int, scheme: str) -> tuple[float, float]:
    """The best range, beginning with the whole one: both ends together, then each by itself."""

    def error(ends: tuple[float, float]) -> float:
        rounded = quantize(numbers, bits=bits, scheme=scheme, clip=ends).dequantize()
        return float(np.square(rounded.astype(np.float64) - numbers).sum())

    def moved(ends: tuple[float, float]) -> tuple[float, float]:
        """With the better one of both ends moved."""
        lower = [(float(share * whole[0]), ends[1]) for share in SHARES]
        upper = [(ends[0], float(share * whole[1])) for share in SHARES]
        return min([ends, *lower, *upper], key=error)

    whole = _ends([numbers], scheme)
    together = min([(float(share * whole[0]), float(share * whole[1])) for share in SHARES], key=error)
    if scheme == "symmetric":
        return together
    # From two places: far values on both sides need both ends moved, on one side this one alone.
    found = []
    for ends in (whole, together):
        for _ in range(MOVES):
            ends = moved(ends)
        found.append(ends)
    return min(found, key=error)
