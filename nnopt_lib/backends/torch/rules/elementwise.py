"""Functions that work element by element, of one value or several."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from nnopt_lib.backends.torch.rules.reader import (
    FIXED_SIZE,
    FIXED_VALUES,
    Reader,
    Result,
    bound,
    is_zero,
    rule_for,
    taught_rule,
)
from nnopt_lib.backends.torch.tracing import Call, calls_in
from nnopt_lib.structure.labels import Value, along, compact, distinct, unlabeled, varying

_UNARY = (
    "relu relu6 hardtanh leaky_relu elu selu celu gelu silu mish hardswish tanh tanhshrink softshrink "
    "hardshrink softsign sigmoid hardsigmoid logsigmoid log_sigmoid softplus threshold clamp clip clamp_min "
    "clamp_max neg abs exp log sqrt rsqrt square sin cos erf float half double bfloat16 to type type_as "
    "contiguous clone detach requires_grad dropout dropout1d dropout2d dropout3d alpha_dropout "
    "feature_alpha_dropout round floor sign log1p expm1 reciprocal cpu cuda nan_to_num positive rrelu "
    "atan sinh cosh asinh acosh atanh tan asin acos arctan trunc frac ceil erfc erfinv expit "
    "special_expit logit sgn isnan isinf isfinite logical_not tensor_data data"
)
_BINARY = (
    "add sub rsub mul div truediv true_divide pow maximum minimum radd rmul iadd imul isub itruediv "
    "rtruediv rdiv rpow atan2 hypot logaddexp fmod remainder floor_divide floordiv copysign xlogy gt ge "
    "lt le eq ne greater less greater_equal less_equal not_equal logical_and logical_or and or xor"
)


@rule_for(_UNARY)
def _unary(r: Reader, call: Call) -> Result:
    x = r.entries(call.args[0] if call.args else call.kwargs["input"])
    name = r.name_of(call)
    if name in ("to", "type", "type_as") or "dropout" in name:  # in evaluation mode nothing is dropped
        return x
    return Value(x.labels, _held(r, call, [x.held]) if x.labeled else 0.0)


def _held(r: Reader, call: Call, helds: Sequence[Any]) -> Any:
    """What the call makes of what its inputs hold."""
    if any(np.ndim(held) == 0 and np.isnan(held) for held in helds):
        return np.nan
    plain = [*call.args, *call.kwargs.items()]
    key = (call.target, *helds, *[None if isinstance(one, Call) else (type(one), one) for one in plain])
    try:
        if key in r.held:  # networks do the same thing to 0 many times
            return r.held[key]
    except TypeError:  # an array, a list
        return _computed(call, helds)
    r.held[key] = _computed(call, helds)
    return r.held[key]


def _computed(call: Call, helds: Sequence[Any]) -> Any:
    numbers = iter([torch.as_tensor(np.asarray(held, np.float32)) for held in helds])
    args = [next(numbers) if isinstance(one, Call) else one for one in call.args]
    kwargs = {key: next(numbers) if isinstance(one, Call) else one for key, one in call.kwargs.items()}
    name = call.target if isinstance(call.target, str) else None
    try:
        with torch.no_grad():
            value = getattr(args[0], name)(*args[1:], **kwargs) if name else call.target(*args, **kwargs)
    except Exception:
        return np.nan
    value = value.numpy()
    return float(value) if value.ndim == 0 else value


@rule_for("prelu")
def _prelu(r: Reader, call: Call) -> Result:
    x, weight = r.of(call.args[0]), call.args[1]
    if weight.shape not in ((), (1,)):
        labels, name = along(x.labels, 1), r.parameter(weight)
        if labels is None or name is None:
            return None
        r.reading.axis(name, 0, labels)
    return Value(x.labels, 0.0 if is_zero(x) else np.nan)


_PRODUCTS = ("mul", "rmul", "imul")
_QUOTIENTS = ("div", "truediv", "true_divide", "itruediv")
_SUMS = ("add", "radd", "iadd", "sub", "rsub", "isub")


@rule_for(_BINARY)
def binary(r: Reader, call: Call) -> Result:
    """Two values, or a value and a number."""
    tensors = [one for one in (*call.args, *call.kwargs.values()) if isinstance(one, Call)]
    name = r.name_of(call)
    if len(tensors) == 1:
        x = r.entries(tensors[0])
        return Value(x.labels, _held(r, call, [x.held]) if x.labeled else 0.0)
    if len(tensors) != 2:
        return None
    a, b = (r.of(one) for one in tensors)
    if not (a.labeled or b.labeled):
        return unlabeled(call.shape)
    for one, value in ((tensors[0], b), (tensors[1], a)):
        parameter = r.parameter(one)
        if parameter is not None and not r.of(one).labeled:
            scaled = name in _PRODUCTS or (name in _QUOTIENTS and one is tensors[1])
            if scaled or name in _SUMS:
                return _with_parameter(r, call, one, parameter, value, scaled)
    labels = _broadcast(r, a, b, call.shape)
    if labels is None:
        return None
    zeros = [one.labeled and is_zero(one) for one in (a, b)]
    if (name in _PRODUCTS and any(zeros)) or (name in _QUOTIENTS and zeros[0]):
        return Value(labels)
    return Value(labels, _held(r, call, [a.held, b.held]) if a.labeled and b.labeled else np.nan)


def _broadcast(r: Reader, a: Value, b: Value, shape: tuple[int, ...]) -> np.ndarray | None:
    """Joined labels of two arrays, element by element; None where one would have to shrink and cannot."""
    full = []
    for one in (a, b):
        pad = (1,) * (len(shape) - len(one.shape))
        full.append(one.labels.reshape(pad + one.shape))
    if a.labeled and b.labeled:
        for changing, still in (full, full[::-1]):
            for axis in varying(changing):
                if still.shape[axis] == 1 and shape[axis] > 1 and varying(still):
                    return None  # every number of the result would belong to two channels
        alone = not (varying(full[0]) and varying(full[1])) and min(full[0].size, full[1].size) == 1
        return None if alone else r.reading.labels.join(full[0], full[1])
    labels, fixed = full if a.labeled else full[::-1]
    stays = [axis for axis in varying(labels) if fixed.shape[axis] != 1]
    if stays and len(stays) == len(varying(labels)):
        r.refuse(FIXED_VALUES)
        return None
    for axis in stays:  # channels leave by whole slices of another axis
        labels = r.reading.labels.join_along(labels, axis)
    return np.broadcast_to(labels, shape)


def _with_parameter(r: Reader, call: Call, argument: Call, name: str, x: Value, product: bool) -> Result:
    """A parameter of its own that is added or multiplied: it loses the entries of channels that leave."""
    offset = len(call.shape) - len(argument.shape)
    if len(x.shape) < len(call.shape):
        return None
    cut = [axis for axis in varying(x.labels) if axis >= offset and argument.shape[axis - offset] > 1]
    is_buffer = not isinstance(argument.tensor, nn.Parameter)
    if len(cut) > 1 or (cut and not product and is_buffer):
        r.refuse(FIXED_SIZE)
        return None
    for axis in cut:
        labels = along(x.labels, axis)
        if labels is None:
            return None
        r.reading.axis(name, axis - offset, labels, "" if product else "bias")
    zero = is_zero(x) and (product or bool(cut))
    return Value(np.broadcast_to(x.labels, call.shape), 0.0 if zero else np.nan)


@rule_for("where", "masked_fill", "lerp", "addcmul", "addcdiv")
def _elementwise(r: Reader, call: Call) -> Result:
    values = [r.of(one) for one in calls_in([*call.args, *call.kwargs.values()])]
    labeled = [one for one in values if one.labeled]
    if not labeled:
        return unlabeled(call.shape)
    total = labeled[0]
    for one in values:
        if one is not labeled[0]:
            labels = _broadcast(r, total, one, np.broadcast_shapes(total.shape, one.shape))
            if labels is None:
                return None
            total = Value(labels)
    zero = all(is_zero(one) for one in labeled) and len(labeled) == len(values)
    if r.name_of(call) == "masked_fill":  # a mask that is 0 fills nothing in
        fill = call.args[2] if len(call.args) > 2 else call.kwargs.get("value")
        zero = is_zero(values[0]) and (fill == 0 or (len(labeled) == 2 and is_zero(values[1])))
    return Value(np.broadcast_to(total.labels, call.shape), 0.0 if zero else np.nan)


@rule_for("glu")
def _glu(r: Reader, call: Call) -> Result:
    x, dim = r.of(call.args[0]), bound(call, "input dim").get("dim", -1)
    labels = np.moveaxis(x.labels, dim, 0)
    half = len(labels) // 2
    joined = r.reading.labels.join(labels[:half], labels[half:])
    return Value(compact(np.moveaxis(joined, 0, dim)), 0.0 if is_zero(x) else np.nan)


@rule_for("zeros_like", "ones_like", "empty_like", "rand_like", "randn_like", "full_like")
def _like(r: Reader, call: Call) -> Result:
    held = {"zeros_like": 0.0, "ones_like": 1.0}.get(r.name_of(call), np.nan)
    return Value(r.of(call.args[0]).labels, held)


@rule_for(
    "zeros ones empty full arange linspace eye rand randn tensor as_tensor randint new_zeros new_ones "
    "new_empty new_full new_tensor randperm bernoulli tril triu"
)
def _constant(r: Reader, call: Call) -> Result:
    return unlabeled(call.shape)


@rule_for("taught_elementwise", "taught_joined")
def _taught(r: Reader, call: Call) -> Result:
    rule = taught_rule(call.target)
    at_zero = rule.at_zero if rule else np.nan
    values = [r.of(one) for one in calls_in([*call.args, *call.kwargs.values()])]
    labels = values[0].labels
    for other in values[1:]:
        joined = _broadcast(r, Value(labels), other, call.shape)
        if joined is None:
            return None
        labels = joined
    held = at_zero if all(is_zero(one) for one in values) else np.nan
    r.reading.note_size(r.where(call), np.unique(distinct(labels)))  # what is taught is always tried
    return Value(np.broadcast_to(labels, call.shape), held)


@rule_for("setitem")
def _setitem(r: Reader, call: Call) -> Result:
    r.refuse("written to in place, part by part")
    return None
