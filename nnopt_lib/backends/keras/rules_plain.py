"""What Keras's layers and operations without weights do with channels: element by element, moves, pools."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from nnopt_lib.backends.keras.walk import RULES, Call, Known, Reader, Result, rule_for, zero
from nnopt_lib.structure.labels import (
    NONE,
    Value,
    along,
    compact,
    distinct,
    spread,
    unlabeled,
    varying,
)

_ACTIVATIONS = {
    *(
        "linear relu relu6 leaky_relu elu selu celu gelu silu swish mish tanh sigmoid hard_sigmoid hard_silu "
        "hard_swish hard_tanh hard_shrink soft_shrink tanh_shrink softplus softsign exponential log_sigmoid "
        "squareplus sparse_plus sparse_sigmoid threshold log exp square sin cos abs sqrt erf identity"
    ).split()
}
_ACROSS = {"softmax", "log_softmax", "sparsemax"}


def activated(r: Reader, call: Call, value: Value) -> Value:
    """What a layer's own activation makes of its channels."""
    return _activation(r, call, getattr(call.op, "activation", None), value)


def _activation(r: Reader, call: Call, function: Any, value: Value) -> Value:
    name = getattr(function, "__name__", "")
    ours = str(getattr(function, "__module__", "")).split(".")[0] in ("keras", "tensorflow")
    if function is None or (ours and name == "linear") or not value.labeled:
        return value
    if type(function).__name__ in RULES and hasattr(function, "call"):  # a layer as activation
        inner = Call(function, (None,), {}, [Known(None, value)], [value.shape])
        return r.labels_of(inner)[0]
    if ours and name in _ACTIVATIONS:
        return Value(value.labels, r.held_by(function, value.held, len(value.shape)))
    if ours and name in _ACROSS and len(value.shape) - 1 not in varying(value.labels):
        return Value(value.labels, np.nan)
    reason = f"read by the activation {name or function!r} of {call.op.name!r}"
    r.reading.labels.fix(value.labels, reason + ("" if ours else ", for which there is no rule"))
    return unlabeled(value.shape)


@rule_for("Activation")
def _activation_layer(r: Reader, call: Call) -> Result:
    return activated(r, call, call.x)


@rule_for("Softmax", "ops.Softmax", "ops.LogSoftmax", "ops.Cumsum", "ops.Normalize")
def _softmax(r: Reader, call: Call) -> Result:
    axis = getattr(call.op, "axis", -1)
    axes = {one % len(call.x.shape) for one in (axis if isinstance(axis, (list, tuple)) else [axis])}
    if axes & set(varying(call.x.labels)) or not varying(call.x.labels):
        r.refuse(f"read together with other channels by {call.op.name!r}")
        return None
    if any(one.value.labeled for one in call.inputs[1:]):  # a mask
        return None
    return Value(call.x.labels, np.nan)


_SAME = [
    "Dropout",
    "SpatialDropout1D",
    "SpatialDropout2D",
    "SpatialDropout3D",
    "GaussianNoise",
    "GaussianDropout",
    "AlphaDropout",
    "Identity",
    "ActivityRegularization",
    "StochasticDepth",
    "ops.StopGradient",
    "ops.Cast",
    "ops.Copy",
    "ops.SaturateCast",
]


@rule_for(*_SAME)
def _same(r: Reader, call: Call) -> Result:
    return Value(call.x.labels, call.x.held)


_UNARY = [
    "Relu",
    "Relu6",
    "Sigmoid",
    "SparseSigmoid",
    "Softplus",
    "Softsign",
    "SoftShrink",
    "SparsePlus",
    "Silu",
    "Squareplus",
    "LogSigmoid",
    "LeakyRelu",
    "HardSigmoid",
    "HardSilu",
    "Elu",
    "Selu",
    "Gelu",
    "Celu",
    "TanhShrink",
    "HardTanh",
    "HardShrink",
    "Threshold",
    "Absolute",
    "Fabs",
    "Ceil",
    "Clip",
    "Cos",
    "Cosh",
    "Exp",
    "Exp2",
    "Expm1",
    "Floor",
    "Log",
    "Log10",
    "Log1p",
    "Log2",
    "Negative",
    "Reciprocal",
    "Round",
    "Sign",
    "Sin",
    "Sinh",
    "Sqrt",
    "Square",
    "Tan",
    "Tanh",
    "Trunc",
    "Erf",
    "Rsqrt",
    "Cbrt",
    "NanToNum",
    "Arctan",
]


@rule_for("ReLU", "LeakyReLU", "ELU", *(f"ops.{name}" for name in _UNARY))
def _unary(r: Reader, call: Call) -> Result:
    if len(call.inputs) > 1:
        return None
    rank = len(call.x.shape)

    def function(x: Any) -> Any:
        args, kwargs = call.filled([x])
        return call.op.call(*([x] if args == (None,) else args), **kwargs)

    return Value(call.x.labels, r.held_by(function, call.x.held, rank))


@rule_for("Rescaling")
def _rescaling(r: Reader, call: Call) -> Result:
    if np.ndim(call.op.scale) or np.ndim(call.op.offset):
        return None
    return _unary(r, call)


@rule_for("Masking")
def _masking(r: Reader, call: Call) -> Result:
    # A step is masked if all its features are: those that are 0 do not change that.
    return Value(call.x.labels) if call.op.mask_value == 0 and zero(call.x) else None


# ------------------------------------------------------------------ several inputs


def broadcast(r: Reader, a: Value, b: Value, shape: Sequence[int]) -> np.ndarray | None:
    """Joined labels of two arrays, element by element; None where one would have to shrink and cannot."""
    shape = tuple(shape)
    full = [one.labels.reshape((1,) * (len(shape) - len(one.shape)) + one.shape) for one in (a, b)]
    if a.labeled and b.labeled:
        for one, other in (full, full[::-1]):
            for axis in varying(one):
                if other.shape[axis] == 1 and shape[axis] > 1 and varying(other):
                    return None  # every number of the result would belong to two channels
        if not all(map(varying, full)) and 1 in (full[0].size, full[1].size):
            return None
        return np.broadcast_to(r.reading.labels.join(*full), shape)
    labels, other = full if a.labeled else full[::-1]
    if any(other.shape[axis] != 1 for axis in varying(labels)):
        r.refuse("added to, or multiplied with, numbers that keep their size")
        return None
    if not varying(labels) and labels.size < int(np.prod(shape)):
        return None
    return np.broadcast_to(labels, shape)


_SUMS = ("Add", "Subtract", "Average", "Maximum", "Minimum", "Logaddexp", "Fmax", "Fmin")
_PRODUCTS = ("Multiply", "Divide", "TrueDivide", "DivideNoNan", "Power", "FloorDivide")


@rule_for(*_SUMS[:5], "Multiply", *(f"ops.{name}" for name in (*_SUMS, *_PRODUCTS)))
def _several(r: Reader, call: Call) -> Result:
    name, rank = type(call.op).__name__, len(call.shape)
    values = [one.value for one in call.inputs]
    layer = isinstance(call.args[0], (list, tuple))
    if not layer and len(values) == 1:
        return _with_number(r, call, rank)
    if layer:  # a merging layer puts missing axes behind the batch
        values = [_raised(one, rank) for one in values]
    total = values[0]
    for one in values[1:]:
        shape = np.broadcast_shapes(total.shape, one.shape)
        labels = broadcast(r, total, one, shape) if total.labeled or one.labeled else None
        if labels is None and (total.labeled or one.labeled):
            return None
        total = unlabeled(shape) if labels is None else Value(labels)
    return Value(total.labels, _held_of(r, call, values, name))


def _raised(value: Value, rank: int) -> Value:
    while len(value.shape) < rank:
        held = value.held if np.ndim(value.held) == 0 else np.expand_dims(value.held, 1)
        value = Value(np.expand_dims(value.labels, 1), held)
    return value


def _held_of(r: Reader, call: Call, values: Sequence[Value], name: str) -> Any:
    """What several tensors that hold something, where masked, give together."""
    gone = [one.labeled and zero(one) for one in values]
    if (any(gone) if name == "Multiply" else all(gone) and name in _SUMS[:5]) or (
        name in _PRODUCTS and gone[0]
    ):
        return 0.0
    if any(not one.labeled or np.isnan(one.held).any() for one in values):
        return np.nan
    rank = max(len(one.shape) for one in values)
    arrays = [np.asarray(one.held, np.float32) for one in values]
    held = r.moved(call, [one.reshape((1,) * rank) if one.ndim == 0 else one for one in arrays])[0]
    return float(held.ravel()[0]) if held.size == 1 else held


def _with_number(r: Reader, call: Call, rank: int) -> Result:
    """One tensor of the run and one that is none: a number, or an array that keeps its size."""
    others = [np.asarray(one) for one in (*call.args, *call.kwargs.values()) if not isinstance(one, Known)]
    sizes = [(1,) * (rank - np.ndim(one)) + np.shape(one) for one in others]
    if len(call.x.shape) < rank or any(size[axis] > 1 for size in sizes for axis in varying(call.x.labels)):
        r.refuse("added to, or multiplied with, numbers that keep their size")
        return None
    labels = np.broadcast_to(call.x.labels, call.shape)
    if any(np.size(one) > 1 for one in others):
        product = type(call.op).__name__ in _PRODUCTS[:1]
        return Value(labels, 0.0 if zero(call.x) and product else np.nan)

    def function(x: Any) -> Any:
        args, kwargs = call.filled([x])
        return call.op.call(*args, **kwargs)

    return Value(labels, r.held_by(function, call.x.held, rank))


@rule_for("CustomScaleLayer")
def _scaled_sum(r: Reader, call: Call) -> Result:
    a, b = (one.value for one in call.inputs)
    labels = broadcast(r, a, b, call.shape)
    return None if labels is None else Value(labels, 0.0 if zero(a) and zero(b) else np.nan)


@rule_for("ops.Where")
def _where(r: Reader, call: Call) -> Result:
    total = call.x
    for one in (one.value for one in call.inputs[1:]):
        labels = broadcast(r, total, one, np.broadcast_shapes(total.shape, one.shape))
        if labels is None:
            return None
        total = Value(labels)
    return Value(np.broadcast_to(total.labels, call.shape), np.nan)


@rule_for("ops.ZerosLike", "ops.OnesLike")
def _like(r: Reader, call: Call) -> Result:
    return Value(call.x.labels, float(type(call.op).__name__ == "OnesLike"))


# ------------------------------------------------------------------ reductions and pools

_REDUCTIONS = ("Mean", "Sum", "Max", "Min", "Amax", "Amin", "Var", "Std", "Prod", "Logsumexp")


@rule_for(*(f"ops.{name}" for name in _REDUCTIONS))
def _reduction(r: Reader, call: Call) -> Result:
    axis, rank = call.op.axis, len(call.x.shape)
    axes = list(range(rank)) if axis is None else [axis] if isinstance(axis, int) else list(axis)
    return reduced(r, call, [one % rank for one in axes], bool(call.op.keepdims), type(call.op).__name__)


def reduced(r: Reader, call: Call, axes: Sequence[int], keepdims: bool, name: str) -> Result:
    """Channels of a mean, sum or maximum over some axes; over channels alone there are none left."""
    x = call.x
    changing = set(varying(x.labels))
    if changing <= set(axes):
        if name == "Sum" and len(changing) == 1 and zero(x):
            return unlabeled(call.shape)
        r.refuse(f"read together with other channels by {call.op.name!r}")
        return None
    labels = x.labels
    for axis in changing & set(axes):
        labels = r.reading.labels.join_along(labels, axis)
    labels = labels[tuple(slice(0, 1) if axis in axes else slice(None) for axis in range(labels.ndim))]
    if not keepdims:
        labels = labels.reshape([size for axis, size in enumerate(labels.shape) if axis not in axes])
    same = name in ("Mean", "Max", "Min", "Amax", "Amin")
    kept = np.ndim(x.held) == 0 and ((zero(x) and name != "Logsumexp") or same)
    return Value(compact(labels), x.held if kept else np.nan)


@rule_for(*(f"Global{kind}Pooling{rank}D" for kind in ("Average", "Max") for rank in (1, 2, 3)))
def _global_pool(r: Reader, call: Call) -> Result:
    first = call.op.data_format == "channels_first"
    axes = range(2, len(call.x.shape)) if first else range(1, len(call.x.shape) - 1)
    return reduced(r, call, list(axes), call.op.keepdims, "Mean")


_POOLED = [f"{kind}Pooling{rank}D" for kind in ("Max", "Average") for rank in (1, 2, 3)]
_POOLED += [f"Adaptive{kind}" for kind in _POOLED] + [f"UpSampling{rank}D" for rank in (1, 2, 3)]
_POOLED += ["ops.MaxPool", "ops.AveragePool", "ops.AdaptiveMaxPool", "ops.AdaptiveAveragePool"]
_POOLED += ["Resizing", "CenterCrop", "ops.Resize"]


@rule_for(*_POOLED)
def _pool(r: Reader, call: Call) -> Result:
    first = getattr(call.op, "data_format", "channels_last") == "channels_first"
    axis = 1 if first else len(call.x.shape) - 1
    labels, held, border = along(call.x.labels, axis), call.x.held, call.inputs[0].border
    if labels is None:
        return None
    if np.ndim(held) or (border is not None and not border <= held):
        held = 0.0 if zero(call.x) and border in (None, 0.0) else np.nan
    return Value(spread(labels, axis, call.shape), held)


@rule_for("ZeroPadding1D", "ZeroPadding2D", "ZeroPadding3D", "ops.Pad")
def _pad(r: Reader, call: Call) -> Any:
    op, x = call.op, call.x
    mode = getattr(op, "mode", "constant")
    constant = call.kwargs.get("constant_values", call.args[1] if len(call.args) > 1 else 0.0)
    constant = float(constant or 0.0)
    if any(call.shape[axis] != x.shape[axis] for axis in varying(x.labels)):
        if mode != "constant" or not hasattr(op, "pad_width"):
            return None
        widths = [(w, w) if isinstance(w, int) else tuple(w) for w in op.pad_width]
        return Value(
            np.pad(x.labels, widths, constant_values=NONE), 0.0 if zero(x) and not constant else np.nan
        )
    narrow = tuple(slice(None) if a == b else slice(0, 1) for a, b in zip(x.shape, call.shape, strict=True))
    value = Value(np.broadcast_to(x.labels[narrow], call.shape), x.held if np.ndim(x.held) == 0 else np.nan)
    if mode != "constant" or x.held == constant:
        return value
    return [value, constant]  # the border, for those that can read it


# ------------------------------------------------------------------ moving data

_MOVES = [
    "Transpose",
    "Concatenate",
    "Stack",
    "Split",
    "ExpandDims",
    "Squeeze",
    "Swapaxes",
    "Moveaxis",
    "Ravel",
    "Repeat",
    "Tile",
    "Flip",
    "Roll",
    "BroadcastTo",
    "GetItem",
    "Unstack",
    "DepthToSpace",
    "SpaceToDepth",
    "Vstack",
    "Hstack",
    "Dstack",
    "Slice",
    "Take",
    "Reshape",
    "Fliplr",
    "Flipud",
    "Rot90",
    "ArraySplit",
]
_NUMBERED = (
    "Split",
    "ArraySplit",
    "GetItem",
    "Slice",
    "Take",
    "Tile",
    "Repeat",
    "DepthToSpace",
    "SpaceToDepth",
)


@rule_for(
    *(
        "Reshape",
        "Permute",
        "Flatten",
        "RepeatVector",
        "Cropping1D",
        "Cropping2D",
        "Cropping3D",
        "Concatenate",
    ),
    *(f"ops.{name}" for name in _MOVES),
)
def _move(r: Reader, call: Call) -> Result:
    values, name = [one.value for one in call.inputs], type(call.op).__name__
    # One more, since what operations fill in is 0.
    moved = r.moved(call, [np.ascontiguousarray(one.labels) + 1 for one in values])
    parts = [compact(one - 1) for one in moved]
    helds = _moved_held(r, call, values, len(parts))
    if len(parts) > 1 and len({part.shape for part in parts}) == 1 and parts[0].ndim == call.x.labels.ndim:
        _join_pieces(r, call.x.labels, parts[0].shape)
    if name in _NUMBERED and _cuts_channels(call.x.labels, parts):
        if name == "GetItem":
            r.details.sources[id(call.op)] = call.x.labels
        r.reading.note_size(f"{name!r} of {call.op.name!r}", np.unique(distinct(call.x.labels)))
    for one in [*(value.labels for value in values), *parts]:
        r.reading.labels.keep_box(one)
    if name in ("Reshape", "BroadcastTo"):
        earlier = r.details.labels.setdefault(id(call.op), parts[0])
        if earlier is not parts[0]:
            if earlier.shape != parts[0].shape:
                return None
            r.reading.labels.join(earlier, parts[0])
    return [Value(one, held) for one, held in zip(parts, helds, strict=True)]


def _cuts_channels(labels: np.ndarray, parts: Sequence[np.ndarray]) -> bool:
    if any(part.ndim != labels.ndim for part in parts):
        return True
    return any(part.shape[axis] != labels.shape[axis] for part in parts for axis in varying(labels))


def _join_pieces(r: Reader, labels: np.ndarray, piece: tuple[int, ...]) -> None:
    """Equal pieces of an axis lose the same channels each, so that they stay equal."""
    for axis in varying(labels):
        if piece[axis] != labels.shape[axis] and labels.shape[axis] % piece[axis] == 0:
            rows = np.moveaxis(labels, axis, 0)
            rows = rows.reshape(-1, piece[axis], *rows.shape[1:])
            r.reading.labels.join(rows, np.broadcast_to(rows[:1], rows.shape))


def _moved_held(r: Reader, call: Call, values: Sequence[Value], count: int) -> list[Any]:
    helds = [one.held for one in values if one.labeled]
    if all(np.ndim(one) == 0 for one in helds) and len({str(float(one)) for one in helds}) == 1:
        return [helds[0]] * count
    arrays = [np.array(np.broadcast_to(np.asarray(one.held, np.float32), one.shape)) for one in values]
    return list(r.moved(call, arrays))
