"""Statistics over seeds and over examples: intervals, tests, fronts, accuracy and loss."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from nnopt_lib.checks import refuse


def interval(values: Iterable[float], *, confidence: float = 0.95) -> tuple[float, float, float]:
    """Mean of the values with Student's t interval: (mean, low, high).

    The values must be independent of each other: one per seed, split or draw of the data. Runs that share a
    data set are averaged first (`by_cluster`). Values that are all equal give an interval of width 0. At
    least three values, as everywhere in the course. Source: Student (1908).

    Example:
        >>> interval([0.9, 0.9, 0.9])
        (0.9, 0.9, 0.9)
    """
    sample = _sample(values, at_least=3)
    mean, half_width = _mean_and_half_width(sample, confidence)
    return mean, mean - half_width, mean + half_width


def _mean_and_half_width(sample: np.ndarray, confidence: float) -> tuple[float, float]:
    from scipy.special import stdtrit  # the quantile of Student's t, ten times sooner than scipy.stats has it

    if np.ptp(sample) == 0:  # else rounding in the mean would give it a width of 1e-17
        return float(sample[0]), 0.0
    spread = sample.std(ddof=1) / math.sqrt(len(sample))
    return float(sample.mean()), float(stdtrit(len(sample) - 1, (1 + confidence) / 2) * spread)


def median_interval(values: Iterable[float], *, confidence: float = 0.95) -> tuple[float, float, float]:
    """Median of the values with its interval between two order statistics: (median, low, high).

    It covers whatever the distribution is, since each value lies below the true median with a chance of one
    half; in exchange it is a little too wide. Six values are the fewest that can give 95 %. For times and
    ratios of times, of which a few are far too long. Source: Thompson (1936).

    Example:
        >>> median_interval([1.0, 2.0, 3.0, 4.0, 5.0, 90.0])
        (3.5, 1.0, 90.0)
    """
    from scipy.stats import quantile_test

    sample = _sample(values, at_least=6)
    bounds = quantile_test(sample, q=0.0, p=0.5).confidence_interval(confidence)
    if not (math.isfinite(bounds.low) and math.isfinite(bounds.high)):
        refuse(f"{len(sample)} values must be enough for a confidence of {confidence:g}", "too few of them")
    return float(np.median(sample)), float(bounds.low), float(bounds.high)


def paired_difference(
    a: Sequence[float], b: Sequence[float], *, confidence: float = 0.95
) -> tuple[float, float, float]:
    """Mean of a - b over pairs (equal seeds in equal order), with Student's t interval."""
    return interval(differences(a, b), confidence=confidence)


def differences(a: Sequence[float], b: Sequence[float]) -> list[float]:
    """a - b, pair by pair: what `interval` and `claim` take as a sample.

    Example:
        >>> differences([3, 4, 5], [1, 1, 1])
        [2.0, 3.0, 4.0]
    """
    if len(a) != len(b):
        refuse("paired values must have equal lengths", f"{len(a)} and {len(b)}")
    return [float(one) - float(other) for one, other in zip(a, b, strict=True)]


def by_cluster(values: Sequence[float], clusters: Sequence[Any]) -> list[float]:
    """The mean of each cluster, in the order of their first values: one number per data set, say.

    Runs that share a data set are no independent repetitions of an experiment about data sets; an interval is
    taken over the means of the clusters.

    Example:
        >>> by_cluster([1, 3, 10], ["first draw", "first draw", "second draw"])
        [2.0, 10.0]
    """
    if len(values) != len(clusters):
        refuse("values and clusters must have equal lengths", f"{len(values)} and {len(clusters)}")
    groups: dict[Any, list[float]] = {}
    for value, cluster in zip(values, clusters, strict=True):
        groups.setdefault(cluster, []).append(float(value))
    return [float(np.mean(group)) for group in groups.values()]


def p_value(sample: Iterable[float], *, margin: float, absolute: bool = False) -> float:
    """The smallest alpha at which Student's interval of 1 - alpha decides on which side of `margin` it lies.

    Of the mean of `sample`, or with `absolute` of its size: whether it lies within or beyond ``+-margin``.
    The first is the two-sided t-test; the second is the larger of two one-sided tests (Schuirmann 1987),
    doubled, so that both are compared with the same alpha.

    Example:
        >>> round(p_value([1.0, 2.0, 3.0], margin=0.0), 3)
        0.074
    """
    from scipy.special import stdtr

    values = _sample(sample, at_least=3)
    mean = abs(values.mean()) if absolute else values.mean()
    spread = values.std(ddof=1) / math.sqrt(len(values))
    if np.ptp(values) == 0:
        return 1.0 if mean == margin else 0.0
    return float(2 * stdtr(len(values) - 1, -abs(mean - margin) / spread))


def holm(p_values: Sequence[float]) -> list[float]:
    """The p-values of a family, adjusted so that one wrong decision among all of them stays a rare thing.

    The smallest is multiplied by their number, the next by one less, and so on, never falling (Holm 1979).

    Example:
        >>> holm([0.01, 0.04, 0.03])
        [0.03, 0.06, 0.06]
    """
    adjusted = [0.0] * len(p_values)
    highest = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = highest
    return adjusted


def _sample(values: Iterable[float], *, at_least: int) -> np.ndarray:
    words = {3: "three", 6: "six"}
    sample = np.asarray(list(values), float)
    if len(sample) < at_least or not np.isfinite(sample).all():
        refuse(f"an interval needs at least {words[at_least]} finite values", f"{sample.tolist()[:10]}")
    return sample


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
