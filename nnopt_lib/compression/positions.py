"""Where the kept weights stand, in few bits: gaps between them, as symbols to code."""

from __future__ import annotations

import math

import numpy as np

from nnopt_lib.checks import check_int, refuse
from nnopt_lib.compression.coding import decode, encode, read_numbers, written
from nnopt_lib.compression.streams import decode_bits, encode_bits


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


_WAYS = ("bits", "gaps", "density", "margins")


def encode_mask(mask: np.ndarray, coder: str = "ans") -> bytes:
    """A mask in few bytes, from which `decode_mask` gives it back.

    Parameters:
        mask: which weights are kept, True = keep, (out, in, *spatial) or another shape.
        coder: as in `encode`, of gaps.

    The shortest of: one bit a weight; coded gaps; and with ``"ans"`` one bit a weight, coded by the density
    of all, or by how many weights each row and each column keeps: training removes many weights of some
    inputs and few of others, which gaps do not see.

    Example:
        >>> mask = np.arange(1000).reshape(20, 50) % 50 == 0
        >>> len(encode_mask(mask)), np.array_equal(decode_mask(encode_mask(mask), (20, 50)), mask)
        (12, True)
    """
    flat = np.asarray(mask, bool).ravel()
    entries, _ = gaps(flat)
    ways = [np.packbits(flat).tobytes(), written([len(entries)]) + encode(entries, coder)]
    if coder == "ans" and flat.size:
        ways.append(encode(flat, coder))
        ways.append(_by_margins(_matrix(flat, np.shape(mask))))
    shortest = min(range(len(ways)), key=lambda way: len(ways[way]))
    return bytes([shortest]) + ways[shortest]


def decode_mask(data: bytes, shape: tuple[int, ...]) -> np.ndarray:
    """The mask of this shape that `encode_mask` was given.

    Nothing larger than the shape is made. Errors: bytes that `encode_mask` did not write for this shape.
    """
    rule, size = f"a coded mask must be bytes that encode_mask wrote for {shape}", math.prod(shape)
    if not data or data[0] >= len(_WAYS):
        refuse(rule, f"first byte {data[0]}" if data else "none")
    way, rest = _WAYS[data[0]], data[1:]
    if way == "bits":
        if len(rest) != (size + 7) // 8:
            refuse(rule, f"{len(rest)} bytes")
        return np.unpackbits(np.frombuffer(rest, np.uint8), count=size).astype(bool).reshape(shape)
    if way == "gaps":
        (count,), rest = read_numbers(rest, 1)
        if count > size:
            refuse(rule, f"{count} kept weights")
        return mask_from_gaps(decode(rest, count), shape)
    if not size:
        refuse(rule, f"{len(rest)} bytes")
    if way == "density":
        bits = decode(rest, size)
        if bits.max() > 1:
            refuse(rule, f"symbols up to {bits.max()}")
        return bits.astype(bool).reshape(shape)
    return _from_margins(rest, _matrix(np.zeros(size, bool), shape).shape, rule).reshape(shape)


def _matrix(flat: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    return flat.reshape(shape[0] if shape else 1, -1)


def _by_margins(matrix: np.ndarray) -> bytes:
    rows, columns = matrix.sum(1), matrix.sum(0)
    margins = [min(encode(counts), encode(counts, "fixed"), key=len) for counts in (rows, columns)]
    coded = encode_bits(matrix.ravel(), _chances(rows, columns))
    return written(map(len, margins)) + b"".join(margins) + coded


def _from_margins(data: bytes, shape: tuple[int, int], rule: str) -> np.ndarray:
    lengths, rest = read_numbers(data, 2)
    margins = []
    for length, count, most in zip(lengths, shape, shape[::-1], strict=True):
        counts, rest = decode(rest[:length], count), rest[length:]
        if counts.max() > most:
            refuse(rule, f"{counts.max()} kept weights of {most}")
        margins.append(counts)
    matrix = decode_bits(rest, _chances(*margins)).reshape(shape)
    if not all(np.array_equal(matrix.sum(1 - axis), margins[axis]) for axis in (0, 1)):
        refuse(rule, "rows and columns with other counts")
    return matrix


def _chances(rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """How likely each weight is kept, flat: in proportion to what its row and its column keep."""
    # One product and one division of whole numbers: the same on every machine.
    chances = np.outer(rows, columns).astype(np.float64) / max(int(rows.sum()), 1)
    return np.clip(chances, 2**-16, 1 - 2**-16).ravel()
