"""Whole numbers as few bits: entropy, Huffman codes and asymmetric numeral systems, positions as gaps."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from nnopt_lib.checks import check_choice, check_int, refuse
from nnopt_lib.compression.streams import coded, decoded, packed, refuse_bytes, unpacked

CODERS = ("ans", "huffman", "fixed")
_DENSE = 16  # in the first byte: counts of 0, 1, 2, ..., not of listed symbols
_LARGEST = 2**31 - 1  # symbol, count, number of symbols


def entropy(symbols: np.ndarray) -> float:
    """The entropy of symbols drawn as often as they occur, in bits a symbol; 0 of none.

    No code that gives each symbol bits by itself, knowing how often each occurs, needs less on average
    (Shannon 1948).

    Example:
        >>> entropy(np.array([0, 0, 1, 2]))
        1.5
    """
    counts = np.unique(np.asarray(symbols), return_counts=True)[1]
    shares = counts / max(counts.sum(), 1)
    return float(-(shares * np.log2(shares)).sum()) + 0.0  # not -0.0


def bits_per_symbol(symbols: np.ndarray, coder: str = "ans") -> float:
    """What `coder` needs for a symbol on average, without the table of counts; 0 of none.

    Parameters: as in `encode`.

    Example:
        >>> bits_per_symbol(np.array([0, 0, 1, 2]), "huffman")
        1.5
    """
    check_choice("coder", coder, CODERS)
    _, indices, counts = _counted(symbols)
    return coded(indices, counts, coder)[1] / max(len(indices), 1)


def encode(symbols: np.ndarray, coder: str = "ans") -> bytes:
    """Whole numbers from 0 to 2**31 - 1 as bytes from which `decode` gives them back.

    Parameters:
        symbols: a flat array; small numbers of few kinds take least.
        coder: ``"ans"``, asymmetric numeral systems (Duda 2013), whose size is the entropy and at most some
            bytes; ``"huffman"`` (Huffman 1952), whole bits for each symbol and thus up to one more;
            ``"fixed"``, the bits of the largest symbol for all.

    How often each symbol occurs stands in front, in the shorter of two ways. The coders are constriction's
    (Bamler 2022). Errors: other numbers; an unknown coder.

    Example:
        >>> data = encode(np.array([3, 0, 0, 1, 0, 0]))
        >>> len(data), decode(data)
        (10, array([3, 0, 0, 1, 0, 0]))
    """
    check_choice("coder", coder, CODERS)
    values, indices, counts = _counted(symbols)
    if coder == "fixed":
        width = int(values[-1]).bit_length() if len(values) else 0
        head = bytes([CODERS.index(coder), width]) + written([len(indices)])
        return head + packed(values[indices], width)
    listed = [len(values), *_interleaved(np.diff(values, prepend=-1) - 1, counts - 1)]
    every = np.zeros(int(values[-1]) + 1 if _is_short(values) else 0, np.int64)
    if len(every):
        every[values] = counts
    tables = [written(listed)] + ([written([len(every), *every])] if len(every) else [])
    dense = len(tables) > 1 and len(tables[1]) <= len(tables[0])
    first = bytes([CODERS.index(coder) | _DENSE * dense])
    return first + tables[dense] + coded(indices, counts, coder)[0]


def decode(data: bytes, size: int | None = None) -> np.ndarray:
    """The symbols that `encode` was given, int64.

    Parameters:
        size: how many there must be; without it as many as the bytes say, at most 2**31 - 1. Nothing of that
            size is made before it was compared.

    Errors: bytes that `encode` did not write, cut off or too many; another number of symbols. One in which
    single bits differ gives other symbols: a file needs a checksum of its own.

    Example:
        >>> decode(encode(np.array([5, 5, 7]), "huffman"), size=3)
        array([5, 5, 7])
    """
    kind, rest = data[0] if data else -1, data[1:]
    coder = kind & ~_DENSE
    if coder not in range(len(CODERS)) or (kind & _DENSE and CODERS[coder] == "fixed"):
        refuse_bytes(f"first byte {kind}" if data else "none")
    if CODERS[coder] == "fixed":
        width = rest[0] if rest else 32
        (count,), rest = read_numbers(rest[1:], 1)
        _check_size(count, size)
        if width > 31 or len(rest) != (count * width + 7) // 8:
            refuse_bytes(f"{len(rest)} for {count} symbols of {width} bits")
        return unpacked(rest, count, width)
    values, counts, rest = _table(rest, bool(kind & _DENSE))
    total = sum(counts)
    _check_size(total, size)
    if not total:
        return np.zeros(0, np.int64)
    return np.asarray(values, np.int64)[decoded(rest, np.asarray(counts, np.int64), total, CODERS[coder])]


def _counted(symbols: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The symbols that occur, ascending; which of them stands where; how often each occurs."""
    array = np.asarray(symbols)
    whole = array.dtype.kind in "iub" or array.size == 0
    if not whole or array.ndim != 1:
        refuse("symbols must be a flat array of whole numbers", f"{array.dtype} of shape {array.shape}")
    if array.size and (array.min() < 0 or array.max() > _LARGEST):
        refuse(f"symbols must be from 0 to {_LARGEST}", f"{array.min()} to {array.max()}")
    values, indices, counts = np.unique(array.astype(np.int64), return_inverse=True, return_counts=True)
    return values, indices, counts


def _is_short(values: np.ndarray) -> bool:
    """Whether counts of all numbers up to the largest may take less than those of listed symbols."""
    return bool(len(values)) and int(values[-1]) < 2 * len(values) + 16


def _interleaved(first: np.ndarray, second: np.ndarray) -> list[int]:
    return [int(one) for one in np.stack([first, second], axis=1).ravel()]


# ---------------------------------------------------------------- whole numbers of any size: 7 bits a byte


def written(numbers: Iterable[Any]) -> bytes:
    """Whole numbers from 0 on, 7 bits a byte, the lowest first."""
    out = bytearray()
    for number in map(int, numbers):
        while number >= 128:
            out.append(number & 127 | 128)
            number >>= 7
        out.append(number)
    return bytes(out)


def read_numbers(data: bytes, count: int) -> tuple[list[int], bytes]:
    """`count` numbers that `written` wrote, none above 2**31 - 1, and the bytes behind them."""
    numbers: list[int] = []
    number, shift = 0, 0
    if count > len(data):
        refuse_bytes(f"{len(data)} for a table of {count} numbers")
    for position, byte in enumerate(data):
        if len(numbers) == count:
            return numbers, data[position:]
        number |= (byte & 127) << shift
        shift += 7
        if number > _LARGEST or shift > 35:
            refuse_bytes("a number above 2**31 - 1")
        if byte < 128:
            numbers.append(number)
            number, shift = 0, 0
    if len(numbers) < count:
        refuse_bytes("a table that is cut off")
    return numbers, b""


def _table(data: bytes, dense: bool) -> tuple[list[int], list[int], bytes]:
    """Symbols, how often each occurs, and the bytes behind the table."""
    (length,), rest = read_numbers(data, 1)
    if dense:
        counts, rest = read_numbers(rest, length)
        values = [value for value, count in enumerate(counts) if count]
        counts = [count for count in counts if count]
    else:
        pairs, rest = read_numbers(rest, 2 * length)
        values = [int(value) - 1 for value in np.cumsum([gap + 1 for gap in pairs[::2]])]
        counts = [count + 1 for count in pairs[1::2]]
    if values and values[-1] > _LARGEST:
        refuse_bytes("a symbol above 2**31 - 1")
    return values, counts, rest


def _check_size(count: int, size: int | None) -> None:
    if size is not None and count != check_int("size", size, at_least=0):
        refuse(f"coded symbols must be {size}", f"bytes that say {count}")
    if count > _LARGEST:
        refuse_bytes(f"bytes that say {count} symbols")
