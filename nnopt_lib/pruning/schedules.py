"""Schedules: the cumulative target sparsity of every pruning step, as a list that ends in the final one.

A step is whatever the user makes of it: a level of train, prune and rewind, or every hundredth optimizer
step. Chapter 09 compares them.
"""

from __future__ import annotations

from collections.abc import Callable

from nnopt_lib.checks import check_fraction, check_int, refuse


def one_shot(final: float) -> list[float]:
    """All at once: ``[final]``."""
    return [check_fraction("final", final)]


def linear(final: float, steps: int, initial: float = 0.0) -> list[float]:
    """Equal parts of all weights in every step.

    Example:
        >>> linear(0.8, 4)
        [0.2, 0.4, 0.6000000000000001, 0.8]
    """
    return _schedule(final, steps, initial, lambda done: initial + (final - initial) * done)


def exponential(final: float, steps: int, initial: float = 0.0) -> list[float]:
    """Equal parts of the weights that are left in every step, as lottery tickets are drawn.

    A fifth of the rest per level, k levels: ``exponential(1 - 0.8**k, k)``.

    Example:
        >>> [round(sparsity, 3) for sparsity in exponential(1 - 0.8**3, 3)]
        [0.2, 0.36, 0.488]
    """

    def sparsity(done: float) -> float:
        return 1 - (1 - initial) * ((1 - final) / (1 - initial)) ** done

    return _schedule(final, steps, initial, sparsity)


def cubic(final: float, steps: int, initial: float = 0.0) -> list[float]:
    """Fast at first, slow at the end: s_f + (s_i - s_f)(1 - t/n)^3 for t = 1..n (Zhu & Gupta 2018, eq. 1).

    Example:
        >>> cubic(0.8, 2)
        [0.7000000000000001, 0.8]
    """
    return _schedule(final, steps, initial, lambda done: final + (initial - final) * (1 - done) ** 3)


def _schedule(final: float, steps: int, initial: float, sparsity: Callable[[float], float]) -> list[float]:
    """``sparsity(done)`` for done = 1/steps ... 1, the last one exactly `final`."""
    check_fraction("final", final)
    check_fraction("initial", initial)
    check_int("steps", steps, at_least=1)
    if initial > final:
        refuse(f"initial must be at most final, here {final:g}", f"{initial:g}")
    # Rounding must not lead outside: masks would be asked to grow.
    return [*(min(max(sparsity(step / steps), initial), final) for step in range(1, steps)), float(final)]
