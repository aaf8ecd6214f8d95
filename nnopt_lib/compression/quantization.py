"""Quantization of arrays: each weight becomes a whole number of few bits, times a step that many share.

A kernel (out, in, *spatial) is seen as a matrix (out, inputs), ``inputs = in * prod(spatial)``; one step
serves the whole tensor, each row, or each group of inputs in a row. All arithmetic is float32, and a step has
16 significant bits, so that a whole number of up to 8 bits times a step is exact: weights that lie on a
symmetric grid are quantized to themselves, and NumPy, PyTorch and Keras find the same grid. Chapter 18
teaches it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from nnopt_lib.checks import check_choice, check_int, check_number, refuse

SCHEMES = ("symmetric", "affine")
PER = ("tensor", "row", "group")
BITS = range(2, 9)
SMALLEST_STEP = 2.0**-126  # below it float32 loses digits
LARGEST = 2.0**126  # of numbers that are quantized: no end of a grid is beyond float32
SPARE_BITS = 255  # the last 8 of float32's 24 significant bits, which steps leave at 0


@dataclass(frozen=True)
class Quantization:
    """How weights are quantized, for `fit` and `quantize_weights`. Checked on creation.

    Parameters:
        bits: of each weight, 2 to 8.
        scheme: ``"symmetric"``: whole numbers from -(2**(bits-1) - 1) to 2**(bits-1) - 1 times a step.
            ``"affine"``: all 2**bits numbers, less a zero point, times a step: no number is wasted where
            values lie to one side of 0. Both hold 0 exactly, so that pruned weights stay pruned.
        per: what shares a step: the whole ``"tensor"``, each ``"row"`` (output), or each ``"group"`` of
            inputs in a row.
        group: inputs in a group; the last one of a row may be smaller.

    Example:
        >>> Quantization(4, per="group", group=32)
        Quantization(bits=4, scheme='symmetric', per='group', group=32)
    """

    bits: int = 8
    scheme: str = "symmetric"
    per: str = "row"
    group: int = 64

    def __post_init__(self) -> None:
        check_int("bits", self.bits, at_least=BITS[0], at_most=BITS[-1])
        check_choice("scheme", self.scheme, SCHEMES)
        check_choice("per", self.per, PER)
        check_int("group", self.group, at_least=1)

    @property
    def codes(self) -> tuple[int, int]:
        """The lowest and the highest code."""
        half = 2 ** (self.bits - 1)
        return (1 - half if self.scheme == "symmetric" else -half), half - 1

    def grid_shape(self, shape: tuple[int, ...]) -> tuple[int, int]:
        """How many steps a kernel of this shape has: (rows, groups of each)."""
        rows, inputs = matrix_shape(shape)
        if self.per == "tensor":
            return 1, 1
        return rows, 1 if self.per == "row" else -(-inputs // self.group)

    def spread(self, steps: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        """One number for each step, (rows, groups), as an array that fits the matrix (out, inputs)."""
        if self.per != "group":
            return steps
        return np.repeat(steps, self.group, axis=1)[:, : matrix_shape(shape)[1]]


@dataclass(frozen=True, eq=False)
class Quantized:
    """A kernel as whole numbers: ``(codes - zero_point) * scale``. What `quantize` gives.

    `codes` are int8, in the kernel's shape; `scale` is float32 and `zero_point` int32, one for each step,
    (rows, groups): (1, 1) for the whole tensor, (out, 1) by row.

    Example:
        >>> kernel = np.array([[0.6, -1.0, 0.3], [20.0, 12.0, 0.0]], np.float32)
        >>> quantized = quantize(kernel, bits=3, per="row")
        >>> quantized.codes
        array([[ 2, -3,  1],
               [ 3,  2,  0]], dtype=int8)
        >>> quantized.nbytes  # 6 codes of 3 bits and two scales
        11
        >>> bool((abs(quantized.dequantize() - kernel) <= quantized.step / 2).all())
        True
    """

    codes: np.ndarray
    scale: np.ndarray
    zero_point: np.ndarray
    recipe: Quantization = field(default_factory=Quantization)

    @property
    def bits(self) -> int:
        """Of each code."""
        return self.recipe.bits

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the kernel."""
        return self.codes.shape

    @property
    def nbytes(self) -> int:
        """Bytes to store: codes without gaps, 4 for each scale, 1 for each zero point of an affine grid."""
        zero_points = self.zero_point.size if self.recipe.scheme == "affine" else 0
        return -(-self.codes.size * self.bits // 8) + 4 * self.scale.size + zero_points

    @property
    def step(self) -> np.ndarray:
        """The distance between neighbouring values at each weight, in the kernel's shape."""
        steps = self.recipe.spread(self.scale, self.shape)
        return np.broadcast_to(steps, matrix_shape(self.shape)).reshape(self.shape)

    def dequantize(self) -> np.ndarray:
        """The float32 kernel that the codes stand for."""
        codes = self.codes.reshape(matrix_shape(self.shape)).astype(np.float32)
        codes -= self.recipe.spread(self.zero_point.astype(np.float32), self.shape)
        return (codes * self.recipe.spread(self.scale, self.shape)).reshape(self.shape)


def quantize(
    array: np.ndarray,
    *,
    bits: int = 8,
    scheme: str = "symmetric",
    per: str = "tensor",
    group: int = 64,
    clip: tuple[float, float] | None = None,
    layer: str | None = None,
) -> Quantized:
    """The nearest values of a grid of few bits to each number of `array` (rounding half to even).

    Parameters:
        array: numbers of any real type, a kernel (out, in, *spatial) or another shape.
        bits, scheme, per, group: as in `Quantization`.
        clip: the range (low, high) of every grid, as `calibrate` gives it; what lies outside becomes its end.
            By default the smallest and largest number of each. A range is widened to hold 0, and a symmetric
            one to both sides alike.
        layer: named in errors.

    Inside the range each number moves by at most half a step. Errors: NaN or inf; an empty array; a range
    that is none. Source: Jacob et al. 2018 (affine grids that hold 0), Krishnamoorthi 2018 (steps by row).

    Example:
        >>> quantize(np.array([0.0, 0.1, 1.0]), bits=2, scheme="affine").dequantize().round(4).tolist()
        [0.0, 0.0, 1.0]
    """
    recipe = Quantization(bits, scheme, per, group)
    matrix = _checked(array, layer)
    if clip is None:
        low, high = _ranges(matrix, recipe)
    else:
        ends = check_range(clip)
        low, high = (np.full(recipe.grid_shape(np.shape(array)), end, np.float32) for end in ends)
    scale, zero_point = grid(low, high, recipe)
    lowest, highest = recipe.codes
    shape = np.shape(array)
    codes = np.rint(matrix / recipe.spread(scale, shape)) + recipe.spread(zero_point, shape)
    codes = np.clip(codes, lowest, highest).astype(np.int8)
    return Quantized(codes.reshape(shape), scale, zero_point.astype(np.int32), recipe)


def grid(low: np.ndarray, high: np.ndarray, recipe: Quantization) -> tuple[np.ndarray, np.ndarray]:
    """Steps and zero points, float32, of the grids that hold these ranges; where a range is 0 a step is 1."""
    low, high = np.minimum(low, 0), np.maximum(high, 0)
    lowest, highest = recipe.codes
    if recipe.scheme == "symmetric":
        scale = np.maximum(-low, high) / np.float32(highest)
    else:  # divided first: the difference may be larger than float32 holds
        steps = np.float32(highest - lowest)
        scale = high / steps - low / steps
    empty = scale == 0
    scale = np.maximum(scale, np.float32(SMALLEST_STEP))
    scale = ((scale.view(np.int32) + SPARE_BITS) & ~SPARE_BITS).view(np.float32)  # rounded up
    scale = np.where(empty, np.float32(1), scale)
    if recipe.scheme == "symmetric":
        return scale, np.zeros_like(scale)
    return scale, np.clip(lowest - np.rint(low / scale), lowest, highest)


def _ranges(matrix: np.ndarray, recipe: Quantization) -> tuple[np.ndarray, np.ndarray]:
    """The smallest and largest number of each group, (rows, groups)."""
    if recipe.per == "tensor":
        return matrix.min(keepdims=True), matrix.max(keepdims=True)
    starts = range(0, matrix.shape[1], recipe.group if recipe.per == "group" else matrix.shape[1])
    return np.minimum.reduceat(matrix, starts, axis=1), np.maximum.reduceat(matrix, starts, axis=1)


def matrix_shape(shape: tuple[int, ...]) -> tuple[int, int]:
    """(out, inputs) of a kernel; of a vector (n, 1)."""
    rows = shape[0] if shape else 1
    return rows, int(np.prod(shape, dtype=np.int64)) // max(rows, 1)


def check_finite(array: np.ndarray, layer: str | None = None) -> np.ndarray:
    """The array as float32; refused, with the layer, where it is empty or has NaN, inf, or huge numbers."""
    where = "an array" if layer is None else f"layer {layer!r}"
    values = np.asarray(array)
    if values.dtype.kind not in "fiub" and values.dtype.name != "bfloat16":  # whose kind is V
        refuse(f"{where} must hold real numbers to be quantized", f"type {values.dtype}")
    if values.size == 0:
        refuse(f"{where} must hold a number to be quantized", f"shape {values.shape}")
    with np.errstate(over="ignore"):
        numbers = values.astype(np.float32)
    wrong = numbers.size - int(np.count_nonzero(np.abs(numbers) <= LARGEST))
    if wrong:
        remedy = "Find out where they come from: training may have diverged."
        received = f"NaN, inf or numbers beyond {LARGEST:.2g} at {wrong} of {numbers.size} places"
        refuse(f"{where} must hold finite numbers to be quantized", received, remedy)
    return numbers


def _checked(array: np.ndarray, layer: str | None) -> np.ndarray:
    return check_finite(array, layer).reshape(matrix_shape(np.shape(array)))


def check_range(clip: Any) -> tuple[float, float]:
    """A range as two numbers, low first; anything else is refused."""
    if not isinstance(clip, tuple) or len(clip) != 2:
        refuse("a range must be a tuple of two numbers, the lower one first", repr(clip))
    low, high = (check_number("an end of a range", end) for end in clip)
    if low > high:
        refuse("a range must be a tuple of two numbers, the lower one first", f"({low:g}, {high:g})")
    return low, high
