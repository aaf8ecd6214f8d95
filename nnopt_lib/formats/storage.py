"""Pruned weights as they are stored: dense, CSR, BSR, n:m and constant fan-in, and the bytes of each.

A kernel (out, in, *spatial) is stored as a matrix (out, in * spatial), one row for each output.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse

from nnopt_lib.checks import check_choice, check_fraction, check_int, refuse

FORMATS = ("dense", "csr", "bsr", "n:m", "constant_fan_in")


@dataclass(frozen=True)
class Stored:
    """Weights in one format; `store` makes it.

    format: one of `FORMATS`. shape: of the kernel, (out, in, *spatial). runs: (n, m), used by n:m alone.
    arrays: what is stored, by name. `values` are float32, in rows: (out, in * spatial) where dense,
    (kept,) in CSR, (blocks, *block) in BSR, (out, kept in a row) in the others. `columns` are int32, of
    the kept weights, in BSR of the blocks; `row_starts` int32, (rows + 1,), say where in `values` each row
    (of blocks) begins. Runs of n:m are m inputs at one entry of the kernel, as in masks; `positions` inside
    them are packed into bytes by as few bits as m needs, 2 for 2:4.
    """

    format: str
    shape: tuple[int, ...]
    arrays: Mapping[str, np.ndarray]
    runs: tuple[int, int] = (2, 4)

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays together: values, indices and pointers."""
        return sum(array.nbytes for array in self.arrays.values())

    def matrix(self) -> Any:
        """The weights as SciPy multiplies them, (out, in * spatial): an array, or a sparse array."""
        values, shape = self.arrays["values"], matrix_shape(self.shape)
        if self.format == "dense":
            return values
        if self.format == "bsr":
            parts = (values, self.arrays["columns"], self.arrays["row_starts"])
            return scipy.sparse.bsr_array(parts, shape=shape, blocksize=values.shape[1:])
        if self.format == "csr":
            starts = self.arrays["row_starts"]
        else:  # as many weights in every row: where each begins need not be stored
            starts = np.arange(shape[0] + 1, dtype=np.int32) * values.shape[1]
        return scipy.sparse.csr_array((values.ravel(), self.columns().ravel(), starts), shape=shape)

    def columns(self) -> np.ndarray:
        """The input of each stored weight, int32, in the shape of `values`; not for dense and BSR."""
        if self.format in ("dense", "bsr"):
            refuse("columns of single weights are stored by csr, n:m and constant_fan_in", self.format)
        if self.format != "n:m":
            return self.arrays["columns"]
        (n, m), kept = self.runs, self.arrays["values"].shape
        bits = np.unpackbits(self.arrays["positions"], count=math.prod(kept) * _bits(m))
        positions = bits.reshape(*kept, _bits(m)) @ (1 << np.arange(_bits(m), dtype=np.int32)[::-1])
        if positions.max() >= m:  # of a file; `store` makes none
            refuse(f"positions of weights stored as {n}:{m} must be below {m}", positions.max())
        entries, inputs = np.divmod(positions + np.arange(kept[1]) // n * m, self.shape[1])
        return (inputs * math.prod(self.shape[2:]) + entries).astype(np.int32)

    def dense(self) -> np.ndarray:
        """The weights again, float32, in the kernel's shape.

        Example:
            >>> store(np.eye(4), "csr").dense().diagonal()
            array([1., 1., 1., 1.], dtype=float32)
        """
        matrix = self.matrix()
        return (matrix.copy() if self.format == "dense" else matrix.toarray()).reshape(self.shape)

    def multiply(self, x: np.ndarray) -> np.ndarray:
        """``x @ W.T`` from what is stored, for x (rows, in * spatial): (rows, out).

        Only kept weights are multiplied; SciPy does it. `nnopt.formats.convert` is for models.

        Example:
            >>> store(np.array([[0, 2, 0], [3, 0, 0]]), "constant_fan_in").multiply(np.array([[1, 10, 100]]))
            array([[20.,  3.]], dtype=float32)
        """
        inputs = matrix_shape(self.shape)[1]
        if np.ndim(x) != 2 or np.shape(x)[1] != inputs:
            refuse(f"x must be of the shape (rows, {inputs})", np.shape(x))
        return np.ascontiguousarray((self.matrix() @ np.asarray(x, np.float32).T).T)


def store(
    weights: np.ndarray,
    format: str,
    *,
    block: tuple[int, int] = (16, 16),
    n: int = 2,
    m: int = 4,
    layer: str | None = None,
) -> Stored:
    """Weights, zero where they are pruned, in one of `FORMATS`.

    Parameters:
        weights: (out, in, *spatial), kept as float32.
        format: ``"dense"``; ``"csr"``: kept weights row by row, with their columns; ``"bsr"``: blocks in
            which any weight is kept, whole; ``"n:m"``: n of every m inputs in a row, zeros filling up;
            ``"constant_fan_in"``: as many of each row, with their columns.
        block: rows and columns of a block. n, m: of n:m.
        layer: a name for the refusals.

    Refused: a matrix that blocks do not tile, inputs that m does not divide, more than n weights in a run,
    rows with different numbers of weights. Chapter 16 uses it. Sources: Buluç et al. 2009 (CSR and BSR),
    Mishra et al. 2021 (2:4), Lasby et al. 2024 (constant fan-in).

    Example:
        >>> weights = np.array([[0, 2, 0, 0], [3, 0, 0, 4]], np.float32)
        >>> stored = store(weights, "csr")
        >>> {name: array.tolist() for name, array in stored.arrays.items()}
        {'values': [2.0, 3.0, 4.0], 'columns': [1, 0, 3], 'row_starts': [0, 1, 3]}
        >>> stored.nbytes, store(weights, "n:m").nbytes, weights.nbytes
        (36, 17, 32)
    """
    check_choice("format", format, FORMATS)
    array = np.asarray(weights)
    where = "" if layer is None else f" in layer {layer!r}"
    if array.ndim < 2 or not array.size:
        refuse("weights to store must be a kernel (out, in, *spatial)", f"the shape {array.shape}{where}")
    kernel = array.astype(np.float32)
    matrix = kernel.reshape(matrix_shape(kernel.shape))
    check_fits(array.shape, format, block=block, n=n, m=m, layer=layer)
    ways: dict[str, Callable[[], dict[str, np.ndarray]]] = {
        "dense": lambda: {"values": matrix},
        "csr": lambda: _csr(matrix),
        "bsr": lambda: _bsr(matrix, block),
        "n:m": lambda: _runs(kernel, n, m, where),
        "constant_fan_in": lambda: _constant_fan_in(matrix, where),
    }
    return Stored(format, array.shape, ways[format](), (n, m))


def matrix_shape(shape: tuple[int, ...]) -> tuple[int, int]:
    """Rows and columns of the matrix that a kernel (out, in, *spatial) is stored as.

    Example:
        >>> matrix_shape((8, 3, 5, 5))
        (8, 75)
    """
    return shape[0], math.prod(shape[1:])


def check_fits(
    shape: tuple[int, ...],
    format: str,
    *,
    block: tuple[int, int] = (16, 16),
    n: int = 2,
    m: int = 4,
    layer: str | None = None,
) -> None:
    """Refuse a kernel whose shape the format cannot hold, whatever its weights are."""
    where = "" if layer is None else f" in layer {layer!r}"
    rows, columns = matrix_shape(shape)
    if format == "bsr":
        if np.shape(block) != (2,):
            refuse("block must be two whole numbers, its rows and columns", repr(block))
        height, width = (check_int(f"block[{axis}]", size, at_least=1) for axis, size in enumerate(block))
        if rows % height or columns % width:
            refuse(
                f"blocks of {height} x {width} must tile the matrix of a kernel",
                f"{rows} x {columns}{where}",
                "Choose another block, or csr.",
            )
    if format == "n:m":
        check_int("n", n, at_least=1, at_most=check_int("m", m, at_least=2, at_most=256))
        if shape[1] % m:
            refuse(
                f"m = {m} must divide the inputs of a kernel",
                f"{shape[1]} inputs{where}",
                "Choose another m, or csr.",
            )


def bytes_of(
    shape: tuple[int, ...],
    format: str,
    *,
    sparsity: float,
    block: tuple[int, int] = (16, 16),
    n: int = 2,
    m: int = 4,
    value_bytes: float = 4,
    index_bytes: float = 4,
) -> float:
    """Bytes that `store` would need, counted from the shape before anything is stored.

    Parameters:
        shape: (out, in, *spatial). sparsity: the fraction of weights, in BSR of whole blocks, that is 0.
        value_bytes, index_bytes: of one weight; of one column or row start.

    With sparsity s, k = (1 - s) * in * spatial weights are kept in a row: dense takes out * in * spatial
    values, constant fan-in out * k values and columns, CSR out + 1 row starts beside these, BSR one column
    for a block. n:m takes the same for every sparsity that it can hold, from 1 - n/m; less is refused.

    Example:
        >>> [bytes_of((768, 3072), way, sparsity=0.75) / 2**20 for way in ("dense", "constant_fan_in", "n:m")]
        [9.0, 4.5, 4.78125]
    """
    check_choice("format", format, FORMATS)
    check_fits(shape, format, block=block, n=n, m=m)
    kept = 1 - check_fraction("sparsity", sparsity)
    (rows, columns), pair = matrix_shape(shape), value_bytes + index_bytes
    if format == "dense":
        return rows * columns * value_bytes
    if format == "n:m":
        if kept > n / m + 1e-9:
            refuse(
                f"weights stored as {n}:{m} must have a sparsity of at least {1 - n / m:g}", f"{sparsity:g}"
            )
        values = rows * columns // m * n
        return values * value_bytes + math.ceil(values * _bits(m) / 8)
    if format == "bsr":
        area = math.prod(block)
        pointers = (rows // block[0] + 1) * index_bytes
        return kept * rows * columns / area * (area * value_bytes + index_bytes) + pointers
    return kept * rows * columns * pair + (format == "csr") * (rows + 1) * index_bytes


def break_even_sparsity(
    shape: tuple[int, ...],
    format: str,
    *,
    block: tuple[int, int] = (16, 16),
    value_bytes: float = 4,
    index_bytes: float = 4,
) -> float:
    """The sparsity from which on a format takes no more bytes than dense storage; infinite if none does.

    For CSR, BSR and constant fan-in, whose bytes fall in proportion to sparsity. It says nothing of time:
    kernels that read indices are slower per weight. Refused for n:m, whose bytes are the same at every
    sparsity. Chapter 16 uses it.

    Example:
        >>> [round(break_even_sparsity((768, 3072), way), 4) for way in ("constant_fan_in", "csr", "bsr")]
        [0.5, 0.5002, 0.0039]
    """
    check_choice("format", format, ("csr", "bsr", "constant_fan_in"))
    sizes: dict[str, Any] = {"block": block, "value_bytes": value_bytes, "index_bytes": index_bytes}
    dense, full = (bytes_of(shape, way, sparsity=0, **sizes) for way in ("dense", format))
    rows = shape[0] // block[0] if format == "bsr" else shape[0]
    pointers = 0 if format == "constant_fan_in" else (rows + 1) * index_bytes
    # full + s (pointers - full) = dense: a line from all weights kept to pointers alone.
    return (full - dense) / (full - pointers) if pointers <= dense else math.inf


def _csr(matrix: np.ndarray) -> dict[str, np.ndarray]:
    rows, columns = np.nonzero(matrix)
    counts = np.bincount(rows, minlength=len(matrix))
    return {
        "values": matrix[rows, columns],
        "columns": columns.astype(np.int32),
        "row_starts": np.concatenate([[0], np.cumsum(counts)]).astype(np.int32),
    }


def _bsr(matrix: np.ndarray, block: tuple[int, int]) -> dict[str, np.ndarray]:
    (height, width), (rows, columns) = block, matrix.shape
    tiles = matrix.reshape(rows // height, height, columns // width, width).swapaxes(1, 2)
    kept = _csr((tiles != 0).any((2, 3)))
    return {**kept, "values": tiles[(tiles != 0).any((2, 3))]}


def _runs(kernel: np.ndarray, n: int, m: int, where: str) -> dict[str, np.ndarray]:
    # As masks have them: runs of inputs at one entry of the kernel, so that inputs come last.
    runs = np.moveaxis(kernel, 1, -1).reshape(len(kernel), -1, m)
    most = int((runs != 0).sum(2).max())
    if most > n:
        refuse(
            f"weights stored as {n}:{m} must be at most {n} of every {m} inputs in a row",
            f"{most}{where}",
            f"Prune them with granularity='{n}:{m}' first.",
        )
    # The kept come first, zeros fill up to n; then all of a run by position.
    positions = np.sort(np.argsort(runs == 0, axis=2, kind="stable")[:, :, :n], axis=2)
    bits = positions[..., None] >> np.arange(_bits(m))[::-1] & 1
    values = np.take_along_axis(runs, positions, 2).reshape(len(kernel), -1)
    return {"values": values, "positions": np.packbits(bits.astype(np.uint8))}


def _constant_fan_in(matrix: np.ndarray, where: str) -> dict[str, np.ndarray]:
    counts = (matrix != 0).sum(1)
    if counts.min() != counts.max():
        refuse(
            "weights stored with constant fan-in must be as many in every row",
            f"{counts.min()} to {counts.max()}{where}",
            "Prune each row by the same number, or store them as csr.",
        )
    columns = np.nonzero(matrix)[1].reshape(len(matrix), -1)
    return {"values": np.take_along_axis(matrix, columns, 1), "columns": columns.astype(np.int32)}


def _bits(m: int) -> int:
    """How many bits tell m positions apart."""
    return (m - 1).bit_length()
