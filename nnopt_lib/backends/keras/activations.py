"""What layers of Keras models read, as columns that their kernels multiply, in canonical order."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from keras import layers

from nnopt_lib.backends.keras import keras, tf
from nnopt_lib.backends.keras.build import _einsum_axes
from nnopt_lib.backends.keras.inputs import as_inputs, run
from nnopt_lib.backends.keras.masks import variables_of
from nnopt_lib.backends.keras.walk import kind_of
from nnopt_lib.pruning.columns import columns as cut
from nnopt_lib.pruning.columns import portions
from nnopt_lib.pruning.examples import batches_of, part_of

_CONVOLUTIONS = ("Conv1D", "Conv2D", "Conv3D", "DepthwiseConv1D", "DepthwiseConv2D")
_NEVER = "its layer is never called; the weight is used by other code, or not at all"


class _LastCallSeen(BaseException):
    """Ends a forward pass. Not an `Exception`: Keras and models catch those."""


def readable(model: keras.Model, names: Sequence[str], x: Any) -> dict[str, str | None]:
    """None, or why the layer cannot be pruned by itself, for each kernel, in the order of first calls."""
    variables = variables_of(model)
    reasons: dict[str, str | None] = {}
    names_of: dict[int, list[str]] = {}
    for name in names:
        names_of.setdefault(id(variables[name][1]), []).append(name)

    def note(layer: Any, value: Any) -> None:
        for name in names_of[id(layer)]:
            reasons.setdefault(name, _unread(layer, name))

    with contextlib.ExitStack() as stack:
        for layer in {id(variables[name][1]): variables[name][1] for name in names}.values():
            stack.enter_context(_watched(layer, note))
        _run(model, part_of(x, slice(0, 2)))
    return reasons | {name: _NEVER for name in names if name not in reasons}


def columns(model: keras.Model, name: str, x: Any, batch_size: int) -> Iterator[np.ndarray]:
    """What the layer reads, (rows, groups, inputs / groups * entries), for a batch and call at a time.

    The forward pass ends with the layer's last call; how many there are, the first batch tells.
    """
    layer, calls = variables_of(model)[name][1], 0
    repeats = 1.0
    if kind_of(layer) in _CONVOLUTIONS:
        repeats = math.prod(layer.kernel_size) / math.prod(layer.strides)
    for inputs, _, _ in batches_of(x, None, batch_size):
        read: list[np.ndarray] = []

        def note(layer: Any, value: Any) -> None:
            read.append(np.asarray(keras.ops.convert_to_numpy(value), np.float32))  # noqa: B023
            if len(read) == calls:  # noqa: B023
                raise _LastCallSeen

        with _watched(layer, note), contextlib.suppress(_LastCallSeen):
            _run(model, inputs)
        calls = calls or len(read)
        while read:
            for portion in portions(read.pop(0), repeats):
                yield _cut(layer, portion)


# ---------------------------------------------------------------- running


@contextlib.contextmanager
def _watched(layer: Any, note: Callable[[Any, Any], None]) -> Iterator[None]:
    """Inside, every call of the layer is noted first, with its input; afterwards the layer is as before.

    Keras has no hooks. What stands in the instance's own dictionary comes before the class's `call`, and
    Keras's attribute tracking, which would keep it, is passed by.
    """
    call = layer.call

    def noted(*args: Any, **kwargs: Any) -> Any:
        note(layer, args[0] if args else kwargs.get("inputs"))
        return call(*args, **kwargs)

    before = layer.__dict__.get("call")
    layer.__dict__["call"] = noted
    try:
        yield
    finally:
        if before is None:
            del layer.__dict__["call"]
        else:
            layer.__dict__["call"] = before


def _run(model: keras.Model, x: Any) -> None:
    """One forward pass in inference mode, of Python code only: a traced function would not call the layer."""
    eager = tf.config.functions_run_eagerly()
    try:
        tf.config.run_functions_eagerly(True)
        run(model, as_inputs(model, x), training=False)
    finally:
        tf.config.run_functions_eagerly(eager)


# ---------------------------------------------------------------- layers


def _unread(layer: Any, name: str) -> str | None:
    """Why the columns of a layer cannot be read."""
    kind, shown = kind_of(layer), type(layer).__name__
    if isinstance(layer, layers.Embedding):
        return "an embedding reads indices"
    if "Transpose" in shown or "Transpose" in (kind or ""):
        return "a transposed convolution adds what overlaps"
    if "Separable" in shown or "Separable" in (kind or ""):
        return "a separable convolution has two kernels, the second of which reads what the first gives"
    if kind not in (*_CONVOLUTIONS, "Dense", "EinsumDense") or not name.endswith("/kernel"):
        return f"{shown} computes something else than one kernel times its input"
    if getattr(layer, "lora_enabled", False) or getattr(layer, "quantization_mode", None):
        return "its kernel is made of others (lora or quantization)"
    if kind == "EinsumDense" and _einsum_order(layer, len(layer.kernel.shape)) is None:
        return f"equation {layer.equation!r} is not that of a dense layer"
    return None


def _einsum_order(layer: Any, rank: int) -> tuple[int, ...] | None:
    """Which axes of an input of this rank are multiplied away, in the kernel's order, counted from behind.

    None for an equation in which the kernel has an axis for each example or position, or an input's axis is
    summed that the kernel does not have.
    """
    terms, output = layer.equation.replace(" ", "").split("->")
    source, kernel = terms.split(",")
    inputs = [kernel[i] for i in _einsum_axes(layer)[1]]
    shared = set(kernel) & set(source) & set(output)
    summed = set(source) - set(kernel) - set(output) - {"."}
    if shared - {"."} or summed or len(set(kernel)) < len(kernel) or "." in kernel:
        return None
    before, dots, behind = source.partition("...")
    if not dots:
        return tuple(source.index(axis) - len(source) for axis in inputs)
    positions = {axis: i for i, axis in enumerate(before)}
    positions |= {axis: i - len(behind) for i, axis in enumerate(behind)}
    return tuple(positions[axis] for axis in inputs)


def _cut(layer: Any, x: np.ndarray) -> np.ndarray:
    """The columns of one call."""
    if isinstance(layer, layers.EinsumDense):
        axes = _einsum_order(layer, x.ndim) or ()
        x = np.moveaxis(x, axes, range(-len(axes), 0))
        return x.reshape(-1, 1, math.prod(x.shape[-len(axes) :]))
    if isinstance(layer, layers.Dense):
        return x.reshape(-1, 1, x.shape[-1])
    x = np.moveaxis(x, -1, 1) if layer.data_format == "channels_last" else x
    depthwise = hasattr(layer, "depth_multiplier")
    padding = [
        _padding(layer.padding, *sizes)
        for sizes in zip(x.shape[2:], layer.kernel_size, layer.strides, layer.dilation_rate, strict=True)
    ]
    return cut(
        x,
        layer.kernel_size,
        stride=layer.strides,
        padding=padding,
        dilation=layer.dilation_rate,
        groups=x.shape[1] if depthwise else layer.groups,
    )


def _padding(kind: str, length: int, kernel: int, stride: int, dilation: int) -> tuple[int, int]:
    """Zeros before and after in one dimension, as TensorFlow pads: of an uneven sum the more behind."""
    reach = (kernel - 1) * dilation
    if kind == "causal":
        return reach, 0
    if kind == "valid":
        return 0, 0
    total = max((math.ceil(length / stride) - 1) * stride + reach + 1 - length, 0)
    return total // 2, total - total // 2
