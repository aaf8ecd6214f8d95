"""What Keras's operations do with channels, element by element: activations, sums, products."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from nnopt_lib.backends.keras.walk import RULES, Call, Known, Reader, Result, rule_for, zero
from nnopt_lib.structure.labels import (
    Value,
    unlabeled,
    varying,
)
from nnopt_lib.structure.reading import TAUGHT

# fmt: off
_ACTIVATIONS = {
    "linear", "relu", "relu6", "leaky_relu", "elu", "selu", "celu", "gelu", "silu", "swish", "mish",
    "tanh", "sigmoid", "hard_sigmoid", "hard_silu", "hard_swish", "hard_tanh", "hard_shrink",
    "soft_shrink", "tanh_shrink", "softplus", "softsign", "exponential", "log_sigmoid", "squareplus",
    "sparse_plus", "sparse_sigmoid", "threshold", "log", "exp", "square", "sin", "cos", "abs", "sqrt",
    "erf", "identity",
}
# fmt: on
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
    if function in TAUGHT and TAUGHT[function].kind == "elementwise":
        return Value(value.labels, TAUGHT[function].at_zero if zero(value) else np.nan)
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
        return np.broadcast_to(r.reading.labels.join(full[0], full[1]), shape)
    labels, other = full if a.labeled else full[::-1]
    if any(other.shape[axis] != 1 for axis in varying(labels)):
        r.refuse("added to, or multiplied with, numbers that keep their size")
        return None
    if not varying(labels) and labels.size < int(np.prod(shape)):
        return None
    return np.broadcast_to(labels, shape)


_SUMS = ("Add", "Subtract", "Average", "Maximum", "Minimum", "Logaddexp", "Fmax", "Fmin")
_COMPARISONS = (
    "Greater",
    "GreaterEqual",
    "Less",
    "LessEqual",
    "Equal",
    "NotEqual",
    "LogicalAnd",
    "LogicalOr",
)
_PRODUCTS = ("Multiply", "Divide", "TrueDivide", "DivideNoNan", "Power", "FloorDivide")


@rule_for(*_SUMS[:5], "Multiply", *(f"ops.{name}" for name in (*_SUMS, *_PRODUCTS, *_COMPARISONS)))
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
    values = [one.value for one in call.inputs]
    labels = values[0].labels
    for one in values[1:]:
        shape = np.broadcast_shapes(labels.shape, one.shape)
        joined = broadcast(r, Value(labels), one, shape)
        if joined is None:
            return None
        labels = joined
    chosen = call.args[1:]
    known = len(chosen) == 2 and all(isinstance(one, Known) and one.value.labeled for one in chosen)
    held = 0.0 if known and all(zero(one.value) for one in chosen) else np.nan
    return Value(np.broadcast_to(labels, call.shape), held)


@rule_for("taught.elementwise", "taught.joined")
def _taught(r: Reader, call: Call) -> Result:
    values = [one.value for one in call.inputs]
    labels = values[0].labels
    for one in values[1:]:
        joined = broadcast(r, Value(labels), one, call.shape)
        if joined is None:
            return None
        labels = joined
    known = all(one.labeled and zero(one) for one in values)
    return Value(np.broadcast_to(labels, call.shape), TAUGHT[type(call.op)].at_zero if known else np.nan)


@rule_for("ops.ZerosLike", "ops.OnesLike")
def _like(r: Reader, call: Call) -> Result:
    return Value(call.x.labels, float(type(call.op).__name__ == "OnesLike"))
