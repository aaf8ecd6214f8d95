"""Saliency scores: one number per weight; the larger, the rather the weight is kept.

Scores are mappings from canonical names to arrays in canonical layout. Those of an elementwise rule are
computed while they are read, so that no copy of a model's weights is ever made. Chapter 09 teaches them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import numpy as np

from nnopt_lib.checks import check_int


class Elementwise(Mapping[str, np.ndarray]):
    """``{name: function(weights[name])}``, computed on access; `function` works on each number alone."""

    def __init__(self, weights: Mapping[str, np.ndarray], function: Callable[..., np.ndarray]) -> None:
        self.weights, self.function = weights, function

    def __getitem__(self, name: str) -> np.ndarray:
        return self.function(self.weights[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self.weights)

    def __len__(self) -> int:
        return len(self.weights)


def source_of(
    scores: Mapping[str, np.ndarray], name: str
) -> tuple[np.ndarray, Callable[..., np.ndarray] | None]:
    """The array that a layer's scores stand on, and the elementwise function still to apply to it, if any."""
    if isinstance(scores, Elementwise):
        return np.asarray(scores.weights[name]), scores.function
    return np.asarray(scores[name]), None


def magnitude(weights: Mapping[str, np.ndarray], *, seed: int = 0) -> Mapping[str, np.ndarray]:
    """The absolute value of every weight (Janowsky 1989; Han et al. 2015); `seed` plays no part.

    Example:
        >>> magnitude({"dense_1/kernel": np.array([[-2.0, 1.0]])})["dense_1/kernel"]
        array([[2., 1.]])
    """
    return Elementwise(weights, _absolute)


def _absolute(values: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
    """|values|; of integers as unsigned ones, since abs(-128) is -128 in eight bits."""
    result = np.abs(values, out=out)
    return result.view(f"u{result.itemsize}") if result.dtype.kind == "i" else result


def random(weights: Mapping[str, np.ndarray], *, seed: int = 0) -> Mapping[str, np.ndarray]:
    """Independent uniform draws in [0, 1), float32: the control that every other score has to beat.

    A layer's draws depend on `seed` and on its number among the layers, and not on any weight.

    Example:
        >>> random({"dense_1/kernel": np.ones((2, 3))}, seed=1)["dense_1/kernel"].shape
        (2, 3)
    """
    check_int("seed", seed, at_least=0)
    return {
        name: np.random.default_rng([seed, number]).random(np.shape(value), np.float32)
        for number, (name, value) in enumerate(weights.items())
    }


SCORES: dict[str, Callable[..., Mapping[str, np.ndarray]]] = {"magnitude": magnitude, "random": random}
