"""Labels: which channel each number in a network belongs to, followed through its operations.

A reader (one for each framework) runs a network once and, beside every array, keeps another of the same
shape that holds labels: the number of the channel that an element belongs to, `NONE` where it belongs to none
that can leave. Operations that only move data are applied to the labels themselves; the others have a rule.
What comes of it is which channels leave together, which stay, and why. Chapter 15 teaches it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from nnopt_lib.structure.coupling import components

NONE = -1


class Value(NamedTuple):
    """Labels of one array of a run, and what its elements hold while their channel is masked.

    labels: int64, of the array's shape; axes along which they do not change have stride 0, so that they cost
    nothing. held: a number for all elements or one each; 0 until an operation makes something else of 0
    (a sigmoid: 0.5), NaN where it depends on other channels.
    """

    labels: np.ndarray
    held: float | np.ndarray = 0.0

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the array."""
        return self.labels.shape

    @property
    def labeled(self) -> bool:
        """Whether any element belongs to a channel that could leave."""
        if self.labels is _nothing(self.labels.shape):
            return False
        return bool((distinct(self.labels) != NONE).any())


def unlabeled(shape: Sequence[int]) -> Value:
    """Nothing in this array can leave."""
    return Value(_nothing(tuple(shape)))


@lru_cache(maxsize=1024)
def _nothing(shape: tuple[int, ...]) -> np.ndarray:
    return np.broadcast_to(np.int64(NONE), shape)


_ONE, _ALL = slice(0, 1), slice(None)


def distinct(array: np.ndarray) -> np.ndarray:
    """Once along every axis along which it is known not to change."""
    return array[tuple([_ALL if stride else _ONE for stride in array.strides])]


def _narrowed(*arrays: np.ndarray) -> list[np.ndarray]:
    index = tuple(
        [_ALL if any(strides) else _ONE for strides in zip(*[a.strides for a in arrays], strict=True)]
    )
    return [array[index] for array in arrays]


def spread(labels: np.ndarray, axis: int, shape: Sequence[int]) -> np.ndarray:
    """Labels (n,) along one axis of an array of this shape, the same at all other places."""
    axis %= len(shape)
    if (
        labels.size and len(labels) == shape[axis] and labels.flags.c_contiguous
    ):  # as below, in a quarter of the time
        strides = [0] * len(shape)
        strides[axis] = labels.itemsize
        return np.ndarray(tuple(shape), labels.dtype, labels, 0, tuple(strides))
    narrow = labels.reshape([-1 if i == axis else 1 for i in range(len(shape))])
    return np.broadcast_to(narrow, tuple(shape))


def compact(labels: np.ndarray) -> np.ndarray:
    """The same labels, with stride 0 along axes along which they do not change."""
    narrow = distinct(labels)
    for axis in range(narrow.ndim):
        if narrow.shape[axis] > 1:
            first = narrow[(slice(None),) * axis + (slice(0, 1),)]
            if (narrow == first).all():
                narrow = first
    return np.broadcast_to(narrow, labels.shape)


def along(labels: np.ndarray, axis: int) -> np.ndarray | None:
    """The labels along one axis, (n,), if they are the same at all other places; else None."""
    size = labels.shape[axis]
    axis %= labels.ndim
    if labels.size and not any(labels.strides[:axis]) and not any(labels.strides[axis:][1:]):
        return labels[tuple([_ALL if i == axis else 0 for i in range(labels.ndim)])]
    rows = np.moveaxis(distinct(labels), axis, 0)
    rows = rows.reshape(len(rows), -1)
    if rows.shape[1] > 1 and not (rows == rows[:, :1]).all():
        return None
    return np.broadcast_to(rows[:, 0], (size,)) if rows.shape[1] else None


def varying(labels: np.ndarray) -> list[int]:
    """The axes along which labels change."""
    changing = [axis for axis, stride in enumerate(labels.strides) if stride and labels.shape[axis] > 1]
    if not changing or not labels.size:
        return []
    if len(changing) == 1:
        (axis,) = changing
        row = labels[tuple([_ALL if i == axis else 0 for i in range(labels.ndim)])]
        return changing if (row != row[0]).any() else []
    narrow = distinct(compact(labels))
    return [axis for axis, size in enumerate(narrow.shape) if size > 1]


@dataclass
class _Fixed:
    labels: np.ndarray
    reason: str


class Labels:
    """Channels of one network while it is read: they are made, joined and fixed."""

    def __init__(self) -> None:
        self.size = 0
        self._edges: list[tuple[np.ndarray, np.ndarray]] = []
        self._fixed: list[_Fixed] = []
        self._boxes: list[np.ndarray] = []

    def new(self, count: int) -> np.ndarray:
        """`count` channels that nothing is known of yet."""
        self.size += count
        return np.arange(self.size - count, self.size)

    def fix(self, labels: np.ndarray, reason: str) -> None:
        """These channels cannot leave, for this reason; of several the first stands."""
        labels = np.unique(distinct(labels))
        if labels.size and labels[-1] != NONE:
            self._fixed.append(_Fixed(labels[labels != NONE], reason))

    def join(self, a: np.ndarray, b: np.ndarray, reason: str = "joined with what cannot leave") -> np.ndarray:
        """Channels at the same places of two arrays leave together, or stay if one side cannot.

        The arrays are broadcast. Returns the labels of the result.
        """
        if a.shape != b.shape:
            a, b = np.broadcast_arrays(a, b)
        one, other = (part.ravel() for part in _narrowed(a, b))
        free = (one != NONE) & (other != NONE)
        if free.all():
            self._edges.append((one, other))
            return a
        if free.any():
            self._edges.append((one[free], other[free]))
        self.fix(one[other == NONE], reason)
        self.fix(other[one == NONE], reason)
        if a is b or not (one == NONE).any():
            return a
        return np.where(a == NONE, b, a)

    def join_along(self, labels: np.ndarray, axis: int) -> np.ndarray:
        """All channels along one axis leave together; returns labels that are the same along it."""
        rows = np.moveaxis(labels, axis, 0)
        self.join(rows, np.broadcast_to(rows[:1], rows.shape))
        first = rows[:1]
        if (distinct(first) == NONE).any():  # an array's first element may be the one that has no channel
            first = rows.max(axis=0, keepdims=True)
        return np.moveaxis(np.broadcast_to(first, rows.shape), 0, axis)

    def keep_box(self, labels: np.ndarray) -> None:
        """What is left of this array must be an array again: channels leave by whole slices of one axis."""
        if len(varying(labels)) > 1:
            self._boxes.append(distinct(compact(labels)))

    def components(self) -> tuple[np.ndarray, dict[int, str]]:
        """The number of each channel's component, and for components that cannot leave the reason."""
        number = self._connected()
        while self._boxes:
            # Before boxes are closed, joins may have made some of them regular, so the widest come last.
            boxes, self._boxes = self._boxes, []
            for labels in boxes:
                numbers = np.where(labels == NONE, NONE, number[labels])
                axes = varying(numbers)
                if len(axes) > 1:
                    axis = max(axes, key=lambda axis: numbers.shape[axis])
                    for other in axes:
                        if other != axis:
                            labels = self.join_along(labels, other)
                    number = self._connected()
        reasons: dict[int, str] = {}
        for one in self._fixed:
            for component in np.unique(number[one.labels]):
                reasons.setdefault(int(component), one.reason)
        return number, reasons

    def _connected(self) -> np.ndarray:
        return components(self.size, self._edges)
