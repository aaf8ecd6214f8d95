"""The operations of a network: the options that each takes, and the output shape that each gives.

Shapes leave out the batch and put channels first. `nnopt_lib.structure.spec` reads these tables; a new
operation is an entry in both, plus a builder in each backend.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

Shape = tuple[int, ...]
ACTIVATIONS = ("relu", "gelu", "silu", "tanh", "sigmoid")

REQUIRED = object()
_CONV = {"filters": REQUIRED, "kernel": REQUIRED, "stride": 1, "padding": 0, "groups": 1, "bias": True}
_POOL = {"size": 2, "stride": None, "padding": 0}

# Every operation: its options with their defaults. SHAPE_RULES, at the end, gives their output shapes.
OPERATIONS: dict[str, dict[str, Any]] = {
    "dense": {"units": REQUIRED, "bias": True},
    "conv1d": _CONV,
    "conv2d": _CONV,
    "batch_norm": {"eps": 1e-5, "momentum": 0.1},  # momentum: the share of the new batch, as in PyTorch
    "activation": {"kind": "relu"},
    "max_pool": _POOL,
    "avg_pool": _POOL,
    "global_pool": {"kind": "avg"},
    "flatten": {},
    "add": {},
    "concat": {},  # along channels (or features)
    "multiply": {},  # (channels,) times (channels, *spatial) gates each channel: squeeze-and-excitation
    "attention": {"heads": REQUIRED},  # of a query, a key and a value; a head takes consecutive channels
    "position": {},  # adds `sinusoids`: attention alone cannot tell where a value stands
}
_MANY = ("two inputs or more", lambda n: n >= 2)
INPUT_RULES: dict[str, tuple[str, Callable[[int], bool]]] = {  # every other operation reads exactly one
    "add": _MANY,
    "concat": _MANY,
    "multiply": _MANY,
    "attention": ("exactly three inputs: query, key and value", lambda n: n == 3),
}


class ShapeError(Exception):
    """Why shapes do not fit; `NetSpec.shapes` adds the node's name and what it received."""


def spatial(value: int | Sequence[int], rank: int) -> tuple[int, ...]:
    """An option of a convolution or pooling (`kernel`, `stride`, ...) as one whole number per dimension."""
    values: tuple[Any, ...] = tuple(value) if isinstance(value, (tuple, list)) else (value,) * rank
    if len(values) != rank or (
        {*map(type, values)} != {int} and any(isinstance(v, bool) or not isinstance(v, int) for v in values)
    ):
        raise ShapeError(f"needs one whole number, or {rank} of them, for each size, stride and padding")
    return values


def _windows(shape: Shape, kernel: Any, stride: Any, padding: Any) -> Shape:
    """The spatial output shape of sliding windows: floor((n + 2 padding - kernel) / stride) + 1."""
    rank, out = len(shape) - 1, []
    for n, k, s, p in zip(
        shape[1:], spatial(kernel, rank), spatial(stride, rank), spatial(padding, rank), strict=True
    ):
        if min(k, s) < 1 or p < 0:
            raise ShapeError("sizes and strides must be at least 1 and paddings at least 0")
        if k > n + 2 * p:
            raise ShapeError(f"the kernel ({k}) is larger than its padded input ({n + 2 * p})")
        out.append((n + 2 * p - k) // s + 1)
    return tuple(out)


def _shape_dense(options: Mapping[str, Any], inputs: list[Shape]) -> Shape:
    if len(inputs[0]) != 1:
        raise ShapeError("needs (features,); put a flatten or global_pool node before it")
    return (_positive("units", options["units"]),)


def _positive(what: str, value: Any) -> int:
    # In Python True is a whole number, too.
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ShapeError(f"{what} must be a whole number of at least 1, not {value!r}")
    return value


def _shape_conv(rank: int) -> Callable[[Mapping[str, Any], list[Shape]], Shape]:
    def rule(options: Mapping[str, Any], inputs: list[Shape]) -> Shape:
        if len(inputs[0]) != rank + 1:
            raise ShapeError(f"needs (channels, {'length' if rank == 1 else 'height, width'})")
        filters = _positive("filters", options["filters"])
        groups = _positive("groups", options["groups"])
        if inputs[0][0] % groups or filters % groups:
            raise ShapeError(f"groups ({groups}) must divide input channels and filters ({filters})")
        return (filters, *_windows(inputs[0], options["kernel"], options["stride"], options["padding"]))

    return rule


def _shape_pool(options: Mapping[str, Any], inputs: list[Shape]) -> Shape:
    if len(inputs[0]) < 2:
        raise ShapeError("needs spatial dimensions")
    rank = len(inputs[0]) - 1
    size, padding = spatial(options["size"], rank), spatial(options["padding"], rank)
    # PyTorch refuses more.
    if any(2 * p > k for p, k in zip(padding, size, strict=True)):
        raise ShapeError("padding must be at most half of the size")
    stride = size if options["stride"] is None else options["stride"]
    return (inputs[0][0], *_windows(inputs[0], size, stride, padding))


def _shape_global_pool(options: Mapping[str, Any], inputs: list[Shape]) -> Shape:
    if len(inputs[0]) < 2:
        raise ShapeError("needs spatial dimensions")
    if options["kind"] not in ("avg", "max"):
        raise ShapeError(f"kind must be avg or max, not {options['kind']!r}")
    return inputs[0][:1]


def _shape_activation(options: Mapping[str, Any], inputs: list[Shape]) -> Shape:
    if options["kind"] not in ACTIVATIONS:
        raise ShapeError(f"kind must be one of {', '.join(ACTIVATIONS)}, not {options['kind']!r}")
    return inputs[0]


def _shape_batch_norm(options: Mapping[str, Any], inputs: list[Shape]) -> Shape:
    if not options["eps"] > 0 or not 0 <= options["momentum"] <= 1:
        raise ShapeError("needs eps above 0 and momentum from 0 to 1")
    return inputs[0]


def _shape_add(options: Mapping[str, Any], inputs: list[Shape]) -> Shape:
    if len(set(inputs)) != 1:
        raise ShapeError("needs inputs of equal shape")
    return inputs[0]


def _shape_concat(options: Mapping[str, Any], inputs: list[Shape]) -> Shape:
    if len({shape[1:] for shape in inputs}) != 1:
        raise ShapeError("needs inputs that differ in channels only")
    return (sum(shape[0] for shape in inputs), *inputs[0][1:])


def _shape_multiply(options: Mapping[str, Any], inputs: list[Shape]) -> Shape:
    full = max(inputs, key=len)
    if any(shape not in (full, full[:1]) for shape in inputs):
        raise ShapeError("needs inputs of equal shape, or gates of shape (channels,)")
    return full


def _shape_attention(options: Mapping[str, Any], inputs: list[Shape]) -> Shape:
    query, key, value = inputs
    heads = _positive("heads", options["heads"])
    if min(map(len, inputs)) < 2:
        raise ShapeError("needs spatial dimensions: the positions that attend to each other")
    if query[0] != key[0] or key[1:] != value[1:]:
        raise ShapeError("needs a query and a key of equal channels, a key and a value of equal positions")
    if query[0] % heads or value[0] % heads:
        raise ShapeError(f"heads ({heads}) must divide the channels of query, key and value")
    return (value[0], *query[1:])


def _shape_position(options: Mapping[str, Any], inputs: list[Shape]) -> Shape:
    if len(inputs[0]) < 2:
        raise ShapeError("needs spatial dimensions")
    return inputs[0]


def sinusoids(shape: Shape) -> np.ndarray:
    """What the operation `position` adds: float32 of `shape`, (channels, *spatial).

    Channels 2i and 2i + 1 hold the sine and the cosine of position / 10000^(2i/channels) (Vaswani et al.
    2017, section 3.5). With two spatial dimensions the first half of the channels tells the row, the
    second half the column.
    """
    channels, *space = shape
    shares = np.array_split(np.arange(channels), len(space))  # the channels that tell each dimension
    table = np.zeros(shape, np.float32)
    for axis, (share, length) in enumerate(zip(shares, space, strict=True)):
        index = np.arange(len(share))
        angle = np.arange(length) / 10000.0 ** (2 * (index // 2) / max(len(share), 1))[:, None]
        wave = np.where(index[:, None] % 2, np.cos(angle), np.sin(angle))  # (channels of the share, length)
        table[share] += wave.reshape(len(share), *(length if i == axis else 1 for i in range(len(space))))
    return table


SHAPE_RULES: dict[str, Callable[[Mapping[str, Any], list[Shape]], Shape]] = {
    "dense": _shape_dense,
    "conv1d": _shape_conv(1),
    "conv2d": _shape_conv(2),
    "batch_norm": _shape_batch_norm,
    "activation": _shape_activation,
    "max_pool": _shape_pool,
    "avg_pool": _shape_pool,
    "global_pool": _shape_global_pool,
    "flatten": lambda options, inputs: (math.prod(inputs[0]),),
    "add": _shape_add,
    "concat": _shape_concat,
    "multiply": _shape_multiply,
    "attention": _shape_attention,
    "position": _shape_position,
}
