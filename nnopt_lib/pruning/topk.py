"""The k lowest of very many scores, in linear time, without sorting or copying them all; and n of every m.

A random sample tells between which two values the k-th lowest surely lies. One pass over all scores counts
those below, and collects the few in between; a partition of those few gives the exact threshold. A second
pass writes the masks. The sample decides nothing: if it misled, the next one reaches further.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from nnopt_lib.checks import refuse
from nnopt_lib.pruning.scores import source_of

CHUNK = 1 << 16  # numbers at a time: with their comparisons they stay in a core's cache
SAMPLE = 1 << 16


class Selection:
    """The scores of `names` that `previous` (True = keep) has not removed, in mapping and flat order."""

    def __init__(
        self,
        scores: Mapping[str, np.ndarray],
        names: Sequence[str],
        previous: Mapping[str, np.ndarray] | None,
    ) -> None:
        self.scores, self.names, self.previous = scores, names, previous
        self.shapes, types = {}, []
        for name in names:
            source, _ = source_of(scores, name)  # let go at once: it may have been converted for this reading
            self.shapes[name] = source.shape
            types.append(_computable(source.dtype))
        self.source_dtype = np.result_type(*types)
        _, function = source_of(scores, names[0])
        room = np.empty(0, self.source_dtype)
        self.dtype = (room if function is None else function(room)).dtype  # that of the scores

    def masks(self, remove: int) -> dict[str, np.ndarray]:
        """Boolean arrays that are False for the `remove` lowest scores (the later at equal score)."""
        threshold, keep_equal = self._threshold(remove)
        return dict(self._write(threshold, keep_equal))

    # -------------------------------------------------------------- reading

    def _values(self, part: np.ndarray, function: Callable[..., Any] | None, room: np.ndarray) -> np.ndarray:
        """The scores of a flat part, computed into `room` where they are not there already."""
        if part.dtype != self.source_dtype:
            part = part.astype(self.source_dtype)
        return part if function is None else function(part, out=room[: part.size])

    def _chunks(self, name: str) -> Iterator[tuple[slice, np.ndarray, np.ndarray | None]]:
        """(where, scores of the weights not yet removed, which they are or None for all), in flat order."""
        source, function = source_of(self.scores, name)
        flat = np.ascontiguousarray(source).reshape(-1)
        alive = None if self.previous is None else self.previous[name].reshape(-1)
        room = np.empty(min(CHUNK, flat.size), self.source_dtype)
        for start in range(0, flat.size, CHUNK):
            where = slice(start, min(start + CHUNK, flat.size))
            values = self._values(flat[where], function, room)
            left = None if alive is None else alive[where]
            yield where, values if left is None else values[left], left

    # -------------------------------------------------------------- the threshold

    def _sample(self) -> np.ndarray:
        """About SAMPLE of the scores, drawn with replacement, every one equally likely; sorted."""
        sizes = {name: int(np.prod(shape)) for name, shape in self.shapes.items()}
        total, drawn = sum(sizes.values()), []
        for number, name in enumerate(self.names):
            if not sizes[name]:
                continue
            source, function = source_of(self.scores, name)
            random = np.random.default_rng([0, number])
            indices = random.integers(sizes[name], size=-(-sizes[name] * SAMPLE // total))
            # Not source.reshape(-1)[indices]: of a transposed view (Keras) that would copy the whole array.
            values = source[np.unravel_index(indices, source.shape)] if source.ndim else source.reshape(1)
            values = values.astype(self.source_dtype)
            values = values if function is None else function(values)
            if self.previous is not None:
                values = values[self.previous[name].reshape(-1)[indices]]
            drawn.append(values)
        return np.sort(np.concatenate(drawn))

    def _threshold(self, remove: int) -> tuple[Any, int]:
        """The highest removed score, and how many of the scores equal to it are kept."""
        if remove == 0:
            for name in self.names:
                for _, values, _ in self._chunks(name):
                    _refuse_nan(values, name)
            return None, 0
        alive = sum(
            int(np.prod(self.shapes[name]))
            if self.previous is None
            else np.count_nonzero(self.previous[name])
            for name in self.names
        )
        sample = self._sample() if alive > SAMPLE else np.empty(0, self.dtype)
        # Four standard deviations fail once in some ten thousand times; then more, then the whole range.
        for deviations in (4, 40, None):
            low = high = None  # None: no bound on this side
            if deviations and sample.size:
                share = remove / alive
                spread = deviations * np.sqrt(sample.size * share * (1 - share)) + deviations
                first, last = (int(sample.size * share + side * spread) for side in (-1, 1))
                low = sample[first] if first >= 0 else None
                high = sample[last] if last < sample.size else None
            threshold = self._between(remove, low, high)
            if threshold:
                return threshold
        raise AssertionError("the whole range holds every rank")  # pragma: no cover

    def _between(self, remove: int, low: Any, high: Any) -> tuple[Any, int] | None:
        """The threshold if it lies in [low, high]; None if the bounds were wrong."""
        below, at_low, inside, at_high = self._count(low, high)
        rank = remove - below  # the threshold is the rank-th lowest from `low` on
        if rank <= 0:
            return None
        if rank <= at_low:
            return low, at_low - rank
        rank -= at_low
        if rank <= inside.size:
            inside.partition(rank - 1)  # in linear time; a sort would order the others for nothing
            value = inside[rank - 1]
            return value, int(np.count_nonzero(inside <= value)) - rank
        rank -= inside.size
        return (high, at_high - rank) if rank <= at_high else None

    def _count(self, low: Any, high: Any) -> tuple[int, int, np.ndarray, int]:
        """How many scores are below `low`, equal to it, equal to `high`; and those strictly in between.

        Equal ones are only counted, so that however many weights are equal, little is collected. If the two
        bounds are one value, all that equal it count as `at_low`.
        """
        below = at_low = at_high = 0
        inside = [np.empty(0, self.dtype)]
        for name in self.names:
            for _, values, _ in self._chunks(name):
                under = np.less(values, low) if low is not None else np.zeros(values.shape, bool)
                over = np.greater(values, high) if high is not None else np.zeros(values.shape, bool)
                below += int(np.count_nonzero(under))
                middle = values[under == over]  # neither; NaN is neither, too
                if not middle.size:
                    continue
                _refuse_nan(middle, name)
                if low is None and high is None:
                    inside.append(middle.copy())
                    continue
                is_low = middle == low if low is not None else np.zeros(middle.shape, bool)
                is_high = middle == high if high is not None and high != low else np.zeros(middle.shape, bool)
                at_low += int(np.count_nonzero(is_low))
                at_high += int(np.count_nonzero(is_high))
                inside.append(middle[is_low == is_high])
        return below, at_low, np.concatenate(inside), at_high

    # -------------------------------------------------------------- the masks

    def _write(self, threshold: Any, keep_equal: int) -> Iterator[tuple[str, np.ndarray]]:
        """Masks that keep all scores above `threshold` and the first `keep_equal` of those equal to it."""
        sizes = [int(np.prod(shape)) for shape in self.shapes.values()]
        # One large block: its pages come far faster than those of many small arrays.
        block = (np.empty if self.previous is None else np.zeros)(sum(sizes), bool)
        parts = np.split(block, np.cumsum(sizes)[:-1])
        for name, flat in zip(self.names, parts, strict=True):
            for where, values, left in self._chunks(name):
                out = flat[where] if left is None else np.empty(values.shape, bool)
                if threshold is None:
                    out[...] = True
                else:
                    np.greater(values, threshold, out=out)
                if keep_equal:
                    equal = np.flatnonzero(values == threshold)[:keep_equal]
                    out[equal] = True
                    keep_equal -= equal.size
                if left is not None:
                    flat[where][left] = out
            yield name, flat.reshape(self.shapes[name])


def _refuse_nan(values: np.ndarray, name: str) -> None:
    if (values != values).any():
        refuse("scores must not hold NaN", f"NaN in {name!r}")


def _computable(dtype: np.dtype) -> np.dtype:
    """The type to compare in: types of two bytes or one widen to float32, which is exact and faster."""
    return np.dtype(np.float32) if dtype.itemsize <= 2 else dtype


# ---------------------------------------------------------------- n:m


def best_of_runs(
    name: str, scores: np.ndarray, n: int, m: int, previous: Mapping[str, np.ndarray] | None
) -> np.ndarray:
    """The mask of one layer: of each run of m inputs the n of highest score, the earlier at equal score."""
    scores = np.asarray(scores)
    inputs = scores.shape[1] if scores.ndim > 1 else 0
    if not inputs or inputs % m:
        rule = f"granularity '{n}:{m}' needs inputs in multiples of {m}"
        refuse(rule, f"{name} of shape {scores.shape}", "Leave this layer out by names=.")
    split = (scores.shape[0], inputs // m, m, *scores.shape[2:])
    runs = np.moveaxis(scores.reshape(split), 2, 0)  # (m, out, inputs / m, *spatial)
    _refuse_nan(runs, name)
    alive = None if previous is None else np.moveaxis(previous[name].reshape(split), 2, 0)
    if alive is not None and (alive.sum(0) < n).any():
        refuse(f"of every {m} inputs {n} must be left to keep", f"fewer in the previous mask of {name!r}")
    better = np.zeros(runs.shape, np.min_scalar_type(m))  # how many of the run come before each
    for late in range(m):
        for early in range(late):
            early_wins = runs[early] >= runs[late]
            if alive is not None:
                early_wins = alive[early] & (early_wins | ~alive[late])
            better[late] += early_wins
            better[early] += ~early_wins
    kept = better < n
    return np.ascontiguousarray(np.moveaxis(kept if alive is None else kept & alive, 0, 2)).reshape(
        scores.shape
    )
