"""What Keras's layers with weights do with channels: kernels, embeddings, normalizations."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from nnopt_lib.backends.keras.rules.elementwise import activated
from nnopt_lib.backends.keras.walk import Call, Reader, Result, rule_for, zero
from nnopt_lib.structure.labels import NONE, Value, along, spread, unlabeled, varying

_RANKS = (1, 2, 3)


def held_along(value: Value, axis: int) -> Any:
    """What masked channels hold, along one axis."""
    if np.ndim(value.held) == 0:
        return value.held
    held = np.moveaxis(np.broadcast_to(value.held, value.shape), axis, 0)
    return held.reshape(value.shape[axis], -1)[:, 0]


def kernel_of(r: Reader, call: Call, attribute: str = "_kernel") -> str | None:
    """The canonical name of a layer's kernel; None where it is computed from other weights."""
    layer = call.op
    name = r.name(layer, attribute) or r.name(layer, "kernel")
    if name is None or getattr(layer, "lora_enabled", False) or getattr(layer, "quantization_mode", None):
        r.refuse(f"read by {layer.name!r}, which computes its kernel from other weights")
        return None
    return name


def kernel(
    r: Reader,
    layer: Any,
    name: str,
    read: np.ndarray,
    held: Any,
    axes: tuple[int, int],
    made: int,
    padded: bool,
) -> np.ndarray:
    """A kernel with its (made, read) axes; returns the labels of the channels that it makes."""
    labels = r.reading.new_layer(name.rpartition("/")[0], made, (name, axes[0]))
    r.reading.axis(name, axes[0], labels, "kernel")
    r.reading.axis(name, axes[1], read)
    r.reading.read(name, read, held, padded=padded, foldable=axes == (0, 1))
    bias(r, layer, labels)
    return labels


def bias(r: Reader, layer: Any, made: np.ndarray) -> None:
    """The bias goes with the channels that its layer makes."""
    name = r.name(layer, "bias")
    if name is not None:
        r.reading.axis(name, 0, made, "bias")


@rule_for("Dense")
def _dense(r: Reader, call: Call) -> Result:
    read, name = along(call.x.labels, -1), kernel_of(r, call)
    if read is None or name is None:
        return None
    made = kernel(r, call.op, name, read, held_along(call.x, -1), (0, 1), call.op.units, False)
    return activated(r, call, Value(spread(made, -1, call.shape)))


def channel_axis(layer: Any) -> int:
    """The axis of the channels, by the layer's data format."""
    return 1 if getattr(layer, "data_format", "channels_last") == "channels_first" else -1


def _padded(call: Call) -> bool:
    outside = call.op.padding != "valid" or call.inputs[0].border is not None
    return outside and math.prod(call.op.kernel_size) > 1


@rule_for(*(f"Conv{rank}D" for rank in _RANKS))
def _conv(r: Reader, call: Call) -> Result:
    layer, x, axis = call.op, call.x, channel_axis(call.op)
    read, name = along(x.labels, axis), kernel_of(r, call)
    if read is None or name is None:
        return None
    if call.inputs[0].border not in (None, 0.0):
        return None
    if layer.groups == 1:
        held = held_along(x, axis)
        made = kernel(r, layer, name, read, held, (0, 1), layer.filters, _padded(call))
    else:
        made = _grouped(r, name, read, layer.filters, layer.groups)
        r.reading.groups_of[name] = made.reshape(layer.groups, -1)[:, 0]
        r.details.labels[id(layer)] = made.reshape(layer.groups, -1)[:, 0]
        bias(r, layer, made)
    return activated(r, call, Value(spread(made, axis, call.shape)))


def _grouped(r: Reader, name: str, read: np.ndarray, filters: int, groups: int) -> np.ndarray:
    """All channels that one group reads and makes leave together."""
    made = r.reading.new_layer(name.rpartition("/")[0], filters)
    each = np.concatenate([part.reshape(groups, -1) for part in (read, made)], 1)
    reason = "in a group with channels that cannot leave"
    r.reading.labels.join(each, np.broadcast_to(each[:, -1:], each.shape), reason)
    r.reading.axis(name, 0, made, "kernel")
    return made


@rule_for(*(f"DepthwiseConv{rank}D" for rank in _RANKS))
def _depthwise(r: Reader, call: Call) -> Result:
    layer, axis = call.op, channel_axis(call.op)
    read, name = along(call.x.labels, axis), kernel_of(r, call)
    if read is None or name is None:
        return None
    made = _grouped(r, name, read, len(read) * layer.depth_multiplier, len(read))
    bias(r, layer, made)
    return activated(r, call, Value(spread(made, axis, call.shape)))


@rule_for(*(f"SeparableConv{rank}D" for rank in _RANKS))
def _separable(r: Reader, call: Call) -> Result:
    layer, axis = call.op, channel_axis(call.op)
    read, depthwise = along(call.x.labels, axis), r.name(layer, "depthwise_kernel")
    pointwise = r.name(layer, "pointwise_kernel")
    if read is None or depthwise is None or pointwise is None:
        return None
    between = np.repeat(read, layer.depth_multiplier)
    r.reading.axis(depthwise, 0, between, "kernel")
    held = 0.0 if zero(call.x) else np.nan
    made = kernel(r, layer, pointwise, between, held, (0, 1), layer.filters, False)
    return activated(r, call, Value(spread(made, axis, call.shape)))


@rule_for(*(f"Conv{rank}DTranspose" for rank in _RANKS))
def _transposed(r: Reader, call: Call) -> Result:
    layer, x, axis = call.op, call.x, channel_axis(call.op)
    read, name = along(x.labels, axis), kernel_of(r, call)
    if read is None or name is None:
        return None
    held = 0.0 if zero(x) else np.nan  # strides leave places that read fewer inputs
    made = kernel(r, layer, name, read, held, (1, 0), layer.filters, False)
    return activated(r, call, Value(spread(made, axis, call.shape)))


@rule_for("Embedding")
def _embedding(r: Reader, call: Call) -> Result:
    name = kernel_of(r, call, "_embeddings")
    if name is None or call.x.labeled:
        return None
    made = r.reading.new_layer(name.rpartition("/")[0], call.op.output_dim)
    r.reading.axis(name, 1, made, "kernel")
    return Value(spread(made, -1, call.shape))


@rule_for("LSTM", "GRU", "SimpleRNN", "Bidirectional")
def _recurrent(r: Reader, call: Call) -> Result:
    layer = call.op
    parts = [layer.forward_layer, layer.backward_layer] if hasattr(layer, "forward_layer") else [layer]
    names = [r.name(getattr(part, "cell", None), "kernel") for part in parts]
    for found in filter(None, names):
        path = found.rpartition("/")[0]
        r.reading.unread[path] = "a recurrent layer keeps its hidden units"
    r.refuse(f"read by the recurrent layer {layer.name!r}")
    read = along(call.x.labels, -1)
    plain = {"LSTMCell", "GRUCell", "SimpleRNNCell"}
    if any(type(getattr(part, "cell", None)).__name__ not in plain for part in parts):
        return None
    if read is None or None in names or not zero(call.x) or any(one.value.labeled for one in call.inputs[1:]):
        return None
    for one in names:
        r.reading.axis(str(one), 1, read)
    r.reason = ""
    return [unlabeled(shape) for shape in call.shapes]


@rule_for("BatchNormalization")
def _batch_norm(r: Reader, call: Call) -> Result:
    layer, x = call.op, call.x
    axis = layer.axis if isinstance(layer.axis, int) else layer.axis[0]
    labels = along(x.labels, axis)
    if labels is None or (not layer.scale and not zero(x)):
        return None
    parts = (("gamma", "scale"), ("beta", "shift"), ("moving_mean", ""), ("moving_variance", ""))
    for attribute, part in parts:
        name = r.name(layer, attribute)
        if name is not None:
            # Without a scale it is the mean that makes a masked channel's output 0, beside the shift.
            part = "mean" if attribute == "moving_mean" and not layer.scale else part
            r.reading.axis(name, 0, labels, part)
    return Value(spread(labels, axis, call.shape))


@rule_for("GroupNormalization")
def _group_norm(r: Reader, call: Call) -> Result:
    layer, x = call.op, call.x
    labels, groups = along(x.labels, layer.axis), layer.groups
    if not x.labeled:
        return unlabeled(call.shape)
    r.refuse(f"normalized together with other channels by {layer.name!r}")
    if labels is None or groups == 1 or (not layer.scale and not zero(x)):
        return None
    rows = r.reading.labels.join_along(labels.reshape(groups, -1), 1)
    r.details.labels[id(layer)] = rows[:, 0]
    labels = rows.ravel()
    for attribute, part in (("gamma", "scale"), ("beta", "shift")):
        name = r.name(layer, attribute)
        if name is not None:
            r.reading.axis(name, 0, labels, part)
    r.reason = ""
    return Value(spread(labels, layer.axis, call.shape))


@rule_for("LayerNormalization", "UnitNormalization", "RMSNormalization")
def _layer_norm(r: Reader, call: Call) -> Result:
    layer, x = call.op, call.x
    if not x.labeled:
        return unlabeled(call.shape)
    r.refuse(f"normalized together with other channels by {layer.name!r} ({type(layer).__name__})")
    given = layer.axis if isinstance(layer.axis, (list, tuple)) else [layer.axis]
    axes = {axis % len(x.shape) for axis in given}
    if set(varying(x.labels)) & axes or not varying(x.labels):
        return None
    r.reason = ""
    shifted = getattr(layer, "center", False)
    return Value(x.labels, np.nan if shifted or not zero(x) else 0.0)


@rule_for("PReLU")
def _prelu(r: Reader, call: Call) -> Result:
    x, name = call.x, r.name(call.op, "alpha")
    if not x.labeled:
        return unlabeled(call.shape)
    sizes = call.op.alpha.shape
    for axis in varying(x.labels):
        labels = along(x.labels, axis)
        if name is None or labels is None:
            return None
        if axis and sizes[axis - 1] > 1:
            r.reading.axis(name, axis - 1, labels)
    return Value(x.labels, 0.0 if zero(x) else np.nan)


@rule_for("LayerScale")
def _layer_scale(r: Reader, call: Call) -> Result:
    labels, name = along(call.x.labels, -1), r.name(call.op, "gamma")
    if labels is None or name is None:
        return None
    if not call.x.labeled:
        return unlabeled(call.shape)
    r.reading.axis(name, 0, labels, "")
    return Value(call.x.labels, 0.0 if zero(call.x) else np.nan)


@rule_for("Normalization")
def _normalization(r: Reader, call: Call) -> Result:
    return None if call.x.labeled and (call.x.labels != NONE).any() else unlabeled(call.shape)
