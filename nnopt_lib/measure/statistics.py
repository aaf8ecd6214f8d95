"""Statistics over seeds and over examples: intervals, paired differences, fronts, accuracy and loss."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from nnopt_lib.checks import refuse


def interval(
    values: Iterable[float], *, statistic: Callable[..., Any] = np.mean, confidence: float = 0.95
) -> tuple[float, float, float]:
    """`statistic` of the values with its bootstrap interval: (estimate, low, high).

    Bias-corrected and accelerated (Efron 1987), by SciPy, 9,999 resamples, always the same ones. Values
    that are all equal give an interval of width 0. At least three values, as everywhere in the course.

    Example:
        >>> interval([0.9, 0.9, 0.9])
        (0.9, 0.9, 0.9)
    """
    sample = np.asarray(list(values), float)
    if len(sample) < 3 or not np.isfinite(sample).all():
        refuse("an interval needs at least three finite values", f"{sample.tolist()[:10]}")
    estimate = float(statistic(sample))
    if np.ptp(sample) == 0:  # BCa divides by the spread
        return estimate, estimate, estimate
    from scipy.stats import bootstrap

    def resample(method: str) -> tuple[float, float]:
        result = bootstrap(
            (sample,), statistic, confidence_level=confidence, method=method, rng=np.random.default_rng(0)
        ).confidence_interval
        return float(result.low), float(result.high)

    with warnings.catch_warnings():
        # BCa's acceleration is 0/0 where dropping any one value leaves the statistic as it is (medians).
        warnings.simplefilter("ignore")
        low, high = resample("BCa")
    if not (math.isfinite(low) and math.isfinite(high)):
        low, high = resample("percentile")
    return estimate, low, high


def paired_difference(
    a: Sequence[float], b: Sequence[float], *, confidence: float = 0.95
) -> tuple[float, float, float]:
    """Mean of a - b over pairs (equal seeds in equal order), with its bootstrap interval."""
    if len(a) != len(b):
        refuse("paired values must have equal lengths", f"{len(a)} and {len(b)}")
    return interval(np.asarray(a, float) - np.asarray(b, float), confidence=confidence)


def pareto_front(rows: Iterable[Mapping[str, Any]], *, cost: str, value: str) -> list[Mapping[str, Any]]:
    """Rows that no other row beats: none has a cost as low and a value as high, one of them better.

    Returned in order of rising cost; of equal rows all stay.

    Example:
        >>> rows = [{"macs": 1, "accuracy": 0.5}, {"macs": 2, "accuracy": 0.4}]
        >>> pareto_front(rows, cost="macs", value="accuracy")
        [{'macs': 1, 'accuracy': 0.5}]
    """
    front: list[Mapping[str, Any]] = []
    # By rising cost, and of equal cost the best first: then only the last of the front has to be beaten.
    for row in sorted(rows, key=lambda r: (r[cost], -r[value])):
        if (
            not front
            or row[value] > front[-1][value]
            or (row[value] == front[-1][value] and row[cost] == front[-1][cost])
        ):
            front.append(row)
    return front


def accuracy_and_loss(logits: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """Accuracy (a fraction) and mean cross-entropy (nats) of logits (examples, classes) for labels y."""
    # In float64, and with the largest logit taken off: float32 overflows from exp(89) on.
    logits = logits.astype(np.float64)
    top = logits.max(1, keepdims=True)
    log_sum = top[:, 0] + np.log(np.exp(logits - top).sum(1))
    loss = log_sum - logits[np.arange(len(y)), y]
    return float((logits.argmax(1) == y).mean()), float(loss.mean())
