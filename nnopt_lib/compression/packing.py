"""One array as few bytes, and back, to the last bit: whole, sparse, shared or quantized."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from nnopt_lib.checks import refuse
from nnopt_lib.compression.coding import CODERS, decode, encode
from nnopt_lib.compression.positions import decode_mask, encode_mask
from nnopt_lib.compression.quantization import Quantization, Quantized

# What the parts of each kind are, in order; `size_report` calls them so.
PARTS = {
    "whole": ("values",),
    "sparse": ("indices", "values"),
    "shared": ("indices", "values", "codebooks"),
    "quantized": ("indices", "values", "codebooks", "codebooks"),
}
_LONGEST_LIST = 2**16


@dataclass(frozen=True)
class Packed:
    """An array in parts: `kind` of `PARTS`, and what it needs beside them: bits of a number, or a recipe."""

    kind: str
    options: list[Any]
    parts: list[bytes]

    @property
    def nbytes(self) -> int:
        """Bytes of all parts."""
        return sum(map(len, self.parts))


def pack(array: np.ndarray, coder: str, quantized: Quantized | None = None) -> Packed:
    """A float32 array in the smallest of the ways of `PARTS`, or as `quantized`; no bit of it is lost.

    But -0.0 becomes 0: weights times a mask are full of it. Numbers are stored in 16 bits where that changes
    none of them.
    """
    array = np.ascontiguousarray(array, np.float32) + np.float32(0)
    bits = array.view(np.uint32)
    mask = bits != 0
    indices = encode_mask(mask, coder)
    if quantized is not None:
        return _pack_quantized(quantized, mask, indices, coder)
    width, values = _numbers(array)
    ways = [Packed("whole", [width], [values])]
    width, values = _numbers(array[mask])
    ways.append(Packed("sparse", [width], [indices, values]))
    different, codes = np.unique(bits[mask], return_inverse=True)
    if len(different) <= min(_LONGEST_LIST, len(codes)):
        width, values = _numbers(different.view(np.float32))
        ways.append(Packed("shared", [width], [indices, _shortest(codes.ravel(), coder), values]))
    return min(ways, key=lambda way: way.nbytes)


def _pack_quantized(quantized: Quantized, mask: np.ndarray, indices: bytes, coder: str) -> Packed:
    recipe = quantized.recipe
    codes = quantized.codes[mask].astype(np.int64) - recipe.codes[0]
    zero_points = quantized.zero_point if recipe.scheme == "affine" else np.zeros(0)
    parts = [indices, _shortest(codes, coder), quantized.scale.astype("<f4").tobytes()]
    options = [recipe.bits, recipe.scheme, recipe.per, recipe.group]
    return Packed("quantized", options, [*parts, zero_points.astype(np.int8).tobytes()])


def _shortest(codes: np.ndarray, coder: str) -> bytes:
    """Few codes are shorter without a table of counts."""
    return min((encode(codes, one) for one in {coder: None, "fixed": None}), key=len)


def _numbers(array: np.ndarray) -> tuple[int, bytes]:
    with np.errstate(over="ignore"):
        half = array.astype("<f2")
    if np.array_equal(half.astype(np.float32).view(np.uint32), array.astype(np.float32).view(np.uint32)):
        return 16, half.tobytes()
    return 32, array.astype("<f4").tobytes()


def unpack(kind: str, options: Sequence[Any], parts: Sequence[bytes], shape: tuple[int, ...]) -> np.ndarray:
    """The float32 array of this shape that was packed so; a `ValueError` where its parts do not fit it.

    Nothing larger than the array is made.
    """
    if kind not in PARTS or len(parts) != len(PARTS[kind]):
        raise ValueError(kind)
    if kind == "whole":
        return _from_numbers(parts[0], options, math.prod(shape)).reshape(shape)
    mask = decode_mask(parts[0], shape)
    kept = int(np.count_nonzero(mask))
    if kind == "quantized":
        return _unpack_quantized(options, parts, mask, kept)
    result = np.zeros(shape, np.float32)
    if kind == "sparse":
        result[mask] = _from_numbers(parts[1], options, kept)
        return result
    codes = decode(parts[1], kept)
    codebook = _from_numbers(parts[2], options, len(parts[2]) // (4 if options == [32] else 2))
    if kept and codes.max() >= len(codebook):
        raise ValueError("codes")
    result[mask] = codebook[codes]
    return result


def _unpack_quantized(
    options: Sequence[Any], parts: Sequence[bytes], mask: np.ndarray, kept: int
) -> np.ndarray:
    recipe = Quantization(*options)
    steps = recipe.grid_shape(mask.shape)
    scale = np.frombuffer(parts[2], "<f4")
    affine = recipe.scheme == "affine"
    zero_points = np.frombuffer(parts[3], np.int8).astype(np.int32)
    if scale.size != math.prod(steps) or zero_points.size != scale.size * affine:
        raise ValueError("steps")
    zero_points = (zero_points if affine else np.zeros(scale.size, np.int32)).reshape(steps)
    lowest, highest = recipe.codes
    values = decode(parts[1], kept) + lowest
    if kept and values.max() > highest:
        raise ValueError("codes")
    # Where nothing is kept stands the code of 0.
    spread = recipe.spread(zero_points, mask.shape)
    codes = np.broadcast_to(spread, (mask.shape[0], mask.size // mask.shape[0])).reshape(mask.shape)
    codes = codes.astype(np.int8)
    codes[mask] = values
    with np.errstate(over="ignore", invalid="ignore"):  # a file may hold any scale
        return Quantized(codes, scale.astype(np.float32).reshape(steps), zero_points, recipe).dequantize()


def _from_numbers(data: bytes, options: Sequence[Any], count: int) -> np.ndarray:
    if list(options) not in ([16], [32]) or len(data) != count * options[0] // 8:
        raise ValueError("numbers")
    return np.frombuffer(data, f"<f{options[0] // 8}").astype(np.float32)


def check_quantized(name: str, array: np.ndarray, quantized: Any) -> None:
    """Refuse a quantization that does not give this array to the last bit."""
    if not isinstance(quantized, Quantized):
        refuse(f"quantized must hold what quantize gives, for {name!r}", type(quantized).__name__)
    if quantized.shape != array.shape or quantized.dequantize().tobytes() != array.tobytes():
        remedy = "Write quantized.dequantize() into the model, or quantize what it has now."
        refuse(f"weights of {name!r} must be those that its quantization gives", "others", remedy)


def coder_of(coder: str | None) -> str:
    """The coder by the name that `save_compressed` has for it, where None is whole numbers of equal bits."""
    if coder is not None and (coder not in CODERS or coder == "fixed"):
        refuse("coder must be 'ans', 'huffman' or None", repr(coder))
    return coder or "fixed"
