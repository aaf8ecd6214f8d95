"""SynFlow's network: absolute weights, nothing added, scaled so that deep ones fit into double precision."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from nnopt_lib.checks import refuse

# Inputs and outputs are multiplied by ten to these powers, tried in turn: without added constants the score
# grows by the same factor everywhere, and a rank is all that it gives.
POWERS = (0, -100, -200, -300, 100, 200)


def is_removed(name: str) -> bool:
    """Whether a weight only adds: biases, a normalization's shift and its running mean. They become 0."""
    part = name.rpartition("/")[2]
    return part in ("shift", "mean") or part.endswith("bias") or part == "beta"


def first_usable(attempt: Callable[[float], tuple[float, dict[str, np.ndarray]]]) -> dict[str, np.ndarray]:
    """The scores of the first scale that neither overflow nor underflow has spoiled.

    attempt: gives the sum of outputs and the scores if inputs and outputs are multiplied by its argument. All
    0 at every scale is an answer, too: no path is left.
    """
    nothing = None
    for power in POWERS:
        total, scores = attempt(10.0**power)
        if np.isfinite(total) and all(np.isfinite(one).all() for one in scores.values()):
            if any(one.any() for one in scores.values()):
                return scores
            nothing = scores if nothing is None else nothing
    if nothing is not None:
        return nothing
    refuse("SynFlow's scores must fit into double precision", "a network whose paths sum to too much")
