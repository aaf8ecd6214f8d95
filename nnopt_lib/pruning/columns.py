"""A convolution is a dense layer on columns: what each of its outputs reads, cut out of its input."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

PORTION = 1 << 24  # numbers: 64 MB in float32; columns repeat an input as often as a kernel has entries


def columns(
    x: np.ndarray,
    kernel: Sequence[int],
    *,
    stride: Sequence[int] | None = None,
    padding: Sequence[tuple[int, int]] | None = None,
    dilation: Sequence[int] | None = None,
    groups: int = 1,
) -> np.ndarray:
    """What each output of a convolution reads: (examples * positions, groups, inputs / groups * entries).

    Parameters:
        x: the input, (examples, inputs, *spatial); of any rank, none too (a dense layer).
        kernel: the kernel's size in each spatial dimension.
        stride: steps between outputs; 1 by default.
        padding: zeros (before, after) in each dimension; none by default.
        dilation: steps between the kernel's entries; 1 by default.
        groups: into how many parts inputs and outputs are divided.

    Returns a new array of the type of x. For a canonical kernel (outputs, inputs / groups, *size),
    ``kernel.reshape(groups, outputs / groups, -1)[g] @ columns[:, g].T`` are the outputs of group g without
    bias; rows follow examples, then positions.

    Example:
        >>> columns(np.array([[[1, 2, 3]]]), (2,), padding=[(1, 0)])[:, 0]
        array([[0, 1],
               [1, 2],
               [2, 3]])

    Source: the "im2col" of Chellapilla, Puri and Simard (2006). Chapter 12 uses it.
    """
    rank = x.ndim - 2
    stride, dilation = stride or (1,) * rank, dilation or (1,) * rank
    if padding is not None and np.any(padding):
        x = np.pad(x, [(0, 0), (0, 0), *padding])
    space = tuple(range(2, x.ndim))
    spans = tuple((size - 1) * step + 1 for size, step in zip(kernel, dilation, strict=True))
    windows = np.lib.stride_tricks.sliding_window_view(x, spans, space) if rank else x
    windows = windows[tuple(slice(None, None, step) for step in (1, 1, *stride, *dilation))]
    # (examples, inputs, *positions, *kernel) -> (examples, *positions, inputs, *kernel), copied once
    rows = windows.transpose((0, *space, 1, *range(x.ndim, x.ndim + rank))).copy()
    count = len(x) * int(np.prod(windows.shape[2 : 2 + rank]))
    return rows.reshape(count, groups, x.shape[1] // groups * int(np.prod(tuple(kernel))))


def portions(x: np.ndarray, repeats: float) -> Iterator[np.ndarray]:
    """Views of some examples each, as many as have columns of `PORTION` numbers; one at the least."""
    step = max(int(PORTION / (max(x[:1].size, 1) * repeats)), 1)
    for begin in range(0, len(x), step):
        yield x[begin : begin + step]
