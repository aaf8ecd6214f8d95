"""Where the kept weights stand, in few bits: gaps between them, as symbols to code."""

from __future__ import annotations

import math

import numpy as np

from nnopt_lib.checks import check_int, refuse


def gaps(mask: np.ndarray, bits: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """How many removed weights stand before each kept one, since the one before; and which entries are kept.

    Parameters:
        mask: which weights are kept, True = keep, of any shape; read row by row.
        bits: the size of one gap, 1 to 31; without it gaps are as large as they are. With it a gap that is
            too large is filled up: every 2**bits-th removed weight of a run is an entry of its own, whose
            weight is 0.

    Returns two flat arrays of one length: gaps, int64, below 2**bits; and whether the entry is a kept weight
    (True) or a filler. What is removed behind the last kept weight has no entry. `mask_from_gaps` reads both.

    Source: Han, Mao & Dally 2016, section 2, Figure 2, with 8 bits for convolutions and 5 for dense layers;
    there entries hold the difference of positions, which is one more than the gap. Chapter 18 uses it.

    Example:
        >>> gaps(np.array([1, 0, 0, 1, 0, 0, 0, 0, 0, 1], bool), bits=2)
        (array([0, 2, 3, 1]), array([ True,  True, False,  True]))
    """
    array = np.asarray(mask)
    if array.dtype != np.bool_:
        refuse("a mask must be a boolean array, True = keep", f"type {array.dtype}")
    distances = np.diff(np.flatnonzero(array), prepend=-1) - 1
    if bits is None:
        return distances, np.ones(len(distances), bool)
    span = 1 << check_int("bits", bits, at_least=1, at_most=31)
    last = np.cumsum(distances // span + 1) - 1  # where each kept weight stands behind its fillers
    kept = np.zeros(last[-1] + 1 if len(last) else 0, bool)
    kept[last] = True
    entries = np.full(len(kept), span - 1)
    entries[last] = distances % span
    return entries, kept


def mask_from_gaps(entries: np.ndarray, shape: tuple[int, ...], kept: np.ndarray | None = None) -> np.ndarray:
    """The mask of which these are the gaps; without `kept` all entries are kept weights.

    Errors: gaps that lead out of the shape, or are no whole numbers from 0 on.

    Example:
        >>> mask_from_gaps(np.array([0, 2, 3, 1]), (2, 5), np.array([True, True, False, True]))
        array([[ True, False, False,  True, False],
               [False, False, False, False,  True]])
    """
    size, gap = math.prod(shape), np.asarray(entries)
    rule = f"gaps must be whole numbers, at least 0, that end within {size} weights"
    if gap.size and gap.dtype.kind not in "iu":
        refuse(rule, f"type {gap.dtype}")
    # Each is compared by itself first, so that their sum cannot run over.
    if gap.size and (gap.min() < 0 or gap.max() >= size or int(gap.sum(dtype=np.int64)) + len(gap) > size):
        refuse(rule, f"{len(gap)} gaps from {gap.min()} to {gap.max()}")
    places = np.cumsum(gap.astype(np.int64) + 1) - 1
    mask = np.zeros(size, bool)
    mask[places if kept is None else places[kept]] = True
    return mask.reshape(shape)
