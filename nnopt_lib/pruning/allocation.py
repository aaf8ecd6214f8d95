"""How sparsity is shared among layers: ERK's counts; LAMP's scores, whose global ranking shares it out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from nnopt_lib.checks import refuse


def erk_counts(
    shapes: Mapping[str, tuple[int, ...]], sizes: Mapping[str, int], sparsity: float
) -> dict[str, int]:
    """How many weights each layer loses; the sum is exactly ``round(sparsity * n)``."""
    raw = {name: sum(shape) / max(sizes[name], 1) for name, shape in shapes.items()}
    total, dense = sum(sizes.values()), {name for name in sizes if not sizes[name]}
    kept = (1 - sparsity) * total
    while True:
        rest = [name for name in sizes if name not in dense]
        share = sum(raw[name] * sizes[name] for name in rest)
        factor = (kept - sum(sizes[name] for name in dense)) / share if share else 0.0
        over = {name for name in rest if factor * raw[name] > 1}
        if not over:
            break
        dense |= over
    exact = {name: sizes[name] * (1 - factor * raw[name]) if name in rest else 0.0 for name in sizes}
    return _rounded(exact, round(sparsity * total), sizes)


def _rounded(exact: Mapping[str, float], total: int, sizes: Mapping[str, int]) -> dict[str, int]:
    """Whole numbers near `exact` with the sum `total`: floors, then one more where most was cut off."""
    counts = {name: min(int(value), sizes[name]) for name, value in exact.items()}
    order = sorted(exact, key=lambda name: counts[name] - exact[name])  # stable: ties go to the earlier
    while (missing := total - sum(counts.values())) > 0:
        free = [name for name in order if counts[name] < sizes[name]]
        for name in free[:missing]:
            counts[name] += 1
    return counts


class LampScores(Mapping[str, np.ndarray]):
    """LAMP scores, computed layer by layer when they are read; removed weights count as zeros."""

    def __init__(self, scores: Mapping[str, np.ndarray], previous: Mapping[str, np.ndarray] | None) -> None:
        self.scores, self.previous = scores, previous

    def __getitem__(self, name: str) -> np.ndarray:
        flat = np.asarray(self.scores[name]).astype(np.float64).ravel()
        if self.previous is not None:
            flat[~self.previous[name].ravel()] = 0
        if np.isnan(flat).any():
            refuse("scores must not hold NaN", f"NaN in {name!r}")
        for rule, wrong in (
            ("scores of at least 0", flat[flat < 0]),
            ("finite scores", flat[np.isinf(flat)]),
        ):
            if wrong.size:
                refuse(f"allocation 'lamp' needs {rule}", f"{wrong[0]:g} in {name!r}")
        order = np.argsort(flat, kind="stable")
        rising = flat[order]
        squares = np.ldexp(rising, -np.frexp(rising[-1:])[1]) ** 2  # the largest near 1: none overflows
        not_smaller = np.cumsum(squares[::-1])[::-1][np.searchsorted(rising, rising, "left")]
        lamp = np.empty_like(flat)
        lamp[order] = np.divide(squares, not_smaller, out=np.zeros_like(squares), where=not_smaller > 0)
        return lamp.reshape(np.shape(self.scores[name]))

    def __iter__(self) -> Iterator[str]:
        return iter(self.scores)

    def __len__(self) -> int:
        return len(self.scores)
