"""Layers with kernels: linear, convolution, embedding, recurrent; and attention of torch.nn."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import nn

from nnopt_lib.backends.torch.rules.reader import (
    Reader,
    Result,
    bound,
    is_zero,
    rule_for,
)
from nnopt_lib.backends.torch.tracing import Call, calls_in
from nnopt_lib.structure.labels import Value, along, spread, unlabeled
from nnopt_lib.structure.reading import layer_of


def _layer(r: Reader, call: Call, weight: Any) -> str | None:
    """The canonical name of a kernel; without one the layer is named as whole."""
    name = r.parameter(weight)
    if name is None:
        path = r.paths.get(id(call.within), "")
        r.refuse(f"read by {path!r}, which computes its kernel from other tensors")
        r.reading.unread[path] = "it computes its kernel from other tensors"
    return name


def kernel(
    r: Reader,
    name: str,
    bias: Any,
    read: np.ndarray,
    held: Any,
    axes: tuple[int, int],
    sizes: Sequence[int],
    padded: bool,
) -> np.ndarray:
    """A kernel with its (made, read) axes; returns the labels of the channels that it makes."""
    made = r.reading.new_layer(layer_of(name), sizes[axes[0]], (name, axes[0]))
    r.reading.axis(name, axes[0], made, "kernel")
    r.reading.axis(name, axes[1], read)
    r.reading.read(name, read, held, padded=padded, foldable=axes == (0, 1))
    _bias(r, bias, made)
    return made


def _bias(r: Reader, bias: Any, made: np.ndarray) -> None:
    if isinstance(bias, Call):
        name = r.parameter(bias)
        if name is None:
            r.reading.labels.fix(made, "their bias is computed from other tensors")
        else:
            r.reading.axis(name, 0, made, "bias")


def held_along(value: Value, axis: int) -> Any:
    """What masked channels hold, along their axis: a number or one each; NaN where it is not the same."""
    if np.ndim(value.held) == 0:
        return value.held
    rows = np.moveaxis(np.broadcast_to(value.held, value.shape), axis, 0).reshape(value.shape[axis], -1)
    return np.where((rows == rows[:, :1]).all(1), rows[:, 0], np.nan)


@rule_for("linear")
def _linear(r: Reader, call: Call) -> Result:
    given = bound(call, "input weight bias")
    x, weight = r.of(given["input"]), given["weight"]
    name, read = _layer(r, call, weight), r.along(x, -1)
    if name is None:
        return None
    made = kernel(r, name, given.get("bias"), read, held_along(x, -1), (0, 1), weight.shape, False)
    return Value(spread(made, -1, call.shape))


@rule_for("addmm")
def _addmm(r: Reader, call: Call) -> Result:
    bias, x, weight = call.args[:3]
    name, read = _layer(r, call, weight), r.along(r.of(x), -1)
    if name is None or r.parameter(bias) is None or call.kwargs:
        return None
    made = kernel(r, name, bias, read, held_along(r.of(x), -1), (1, 0), weight.shape, False)
    return Value(spread(made, -1, call.shape))


@rule_for("conv1d", "conv2d", "conv3d")
def _conv(r: Reader, call: Call) -> Result:
    given = bound(call, "input weight bias stride padding dilation groups")
    return _convolved(r, call, given, (0, 1))


@rule_for("conv_transpose1d", "conv_transpose2d", "conv_transpose3d")
def _conv_transpose(r: Reader, call: Call) -> Result:
    given = bound(call, "input weight bias stride padding output_padding groups dilation")
    return _convolved(r, call, given, (1, 0))


def _convolved(r: Reader, call: Call, given: dict[str, Any], axes: tuple[int, int]) -> Result:
    x, weight, groups = r.of(given["input"]), given["weight"], given.get("groups", 1)
    channel = 2 - len(weight.shape) - 1  # counted from the end, since there may be no batch
    name, read = _layer(r, call, weight), r.along(x, channel)
    if name is None:
        return None
    size = weight.shape[2:]
    padding = given.get("padding", 0)
    padded = math.prod(size) > 1 and (
        axes == (1, 0) or (padding != "valid" and bool(np.any(np.asarray(padding == "same" or padding))))
    )
    if groups == 1:
        made = kernel(r, name, given.get("bias"), read, held_along(x, channel), axes, weight.shape, padded)
        return Value(spread(made, channel, call.shape))
    made = r.reading.new_layer(layer_of(name), call.shape[channel], (name, 0))
    each = np.concatenate([part.reshape(groups, -1) for part in (read, made)], 1)
    reason = "in a group with channels that cannot leave"
    r.reading.labels.join(each, np.broadcast_to(each[:, -1:], each.shape), reason)
    # Transposed: (in, out / groups, ...), so that a group's rows are those that it reads.
    rows = made if axes == (0, 1) else np.repeat(made.reshape(groups, -1)[:, 0], weight.shape[0] // groups)
    r.reading.axis(name, 0, rows, "kernel")
    r.reading.groups_of[name] = made.reshape(groups, -1)[:, 0]
    _bias(r, given.get("bias"), made)
    return Value(spread(made, channel, call.shape))


@rule_for("embedding", "embedding_bag")
def _embedding(r: Reader, call: Call) -> Result:
    given = bound(call, "input weight")
    name = _layer(r, call, given["weight"])
    if name is None or r.of(given["input"]).labeled:
        return None
    made = r.reading.new_layer(layer_of(name), given["weight"].shape[1], (name, 1))
    r.reading.axis(name, 1, made, "kernel")
    return Value(spread(made, -1, call.shape))


@rule_for("lstm", "gru", "rnn_tanh", "rnn_relu")
def _recurrent(r: Reader, call: Call) -> Result:
    path = r.paths.get(id(call.within), "")
    r.refuse(f"read by the recurrent layer {path!r}")
    r.reading.unread[path] = "a recurrent layer keeps its hidden units"
    x = r.of(call.args[0])
    read = along(x.labels, -1)
    weights = call.args[2]
    if (
        read is None
        or not isinstance(weights, list)
        or not is_zero(x)
        or any(r.of(one).labeled for one in calls_in(call.args[1]))
    ):
        return None
    for weight in weights:
        name = r.parameter(weight)
        if name is None:
            return None
        if "weight_ih_l0" in name:
            r.reading.axis(name, 1, read)
    r.reason = ""
    return [unlabeled(())] * 8


@rule_for("multi_head_attention_forward")
def _multi_head(r: Reader, call: Call) -> Result:
    given = bound(
        call,
        "query key value embed_dim num_heads in_proj_weight in_proj_bias bias_k bias_v add_zero_attn "
        "dropout_p out_proj_weight out_proj_bias",
    )
    path = r.paths.get(id(call.within), "")
    for name in ("query", "key", "value"):
        r.reading.labels.fix(r.of(given[name]).labels, f"read by the attention {path!r}")
    heads, rows = given["num_heads"], given["embed_dim"]
    separate = bool(given.get("use_separate_proj_weight"))
    keys = ("q_proj_weight", "k_proj_weight", "v_proj_weight") if separate else ("in_proj_weight",)
    names = {
        key: r.parameter(given.get(key))
        for key in (*keys, "in_proj_bias", "out_proj_weight", "out_proj_bias")
    }
    shape = given["query"].shape
    out = r.reading.new_layer(f"{path}.out_proj".lstrip("."), rows)
    output = [Value(spread(out, -1, shape)), unlabeled(())]
    if names["out_proj_weight"] is not None:
        r.reading.axis(str(names["out_proj_weight"]), 0, out, "kernel")
        _bias(r, given.get("out_proj_bias"), out)
    weights_known = all(names[key] for key in (*keys, "out_proj_weight"))
    plain = given.get("bias_k") is None and given.get("bias_v") is None and not given.get("add_zero_attn")
    if not (weights_known and plain and heads > 1 and type(call.within) is nn.MultiheadAttention):
        r.reading.unread[path] = (
            "an attention whose heads stay: other than nn.MultiheadAttention with several heads and no bias_k"
        )
        return output
    each = r.reading.new_layer(path, heads)
    labels = np.repeat(each, rows // heads)
    for key in keys:
        r.reading.axis(str(names[key]), 0, labels if separate else np.tile(labels, 3), "kernel")
    if names["in_proj_bias"]:
        r.reading.axis(str(names["in_proj_bias"]), 0, np.tile(labels, 3), "bias")
    r.reading.axis(str(names["out_proj_weight"]), 1, labels)
    r.reading.heads.append(each)
    r.details.attentions[path] = each
    return output
