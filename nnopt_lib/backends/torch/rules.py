"""What PyTorch's functions do with channels: one rule for each kind of function, by name.

A rule gets the reader and the call, and gives the labels of the result; None says that the channels which the
call reads cannot leave.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from nnopt_lib.backends.torch.tracing import OUTSIDE, BatchSize, Call, calls_in
from nnopt_lib.structure.contraction import contract
from nnopt_lib.structure.labels import NONE, Value, along, compact, distinct, spread, unlabeled, varying
from nnopt_lib.structure.reading import Reading, layer_of

Result = Value | list[Value] | None
Rule = Callable[["Reader", Call], Result]
RULES: dict[str, Rule] = {}
_TAUGHT: dict[Any, Any] = {}


def taught(module: nn.Module) -> bool:
    """Whether a rule was taught for this kind of module: it is then written down whole."""
    return type(module) in _TAUGHT


def _for(*names: str) -> Callable[[Rule], Rule]:
    def add(rule: Rule) -> Rule:
        RULES.update(dict.fromkeys(names, rule))
        return rule

    return add


_FIXED_SIZE = "added to, or multiplied with, numbers that keep their size"
_FIXED_VALUES = "added to, or multiplied with, values whose channels all stay"


class Reader:
    """What is known of a run so far.

    values: labels by call. used: identities of the parameters and buffers that were read. reason: what a rule
    says of channels that cannot leave.
    """

    def __init__(self, model: nn.Module, names: dict[int, str], details: Any) -> None:
        self.reading, self.details, self.names = Reading(), details, names
        self.paths = {id(module): path for path, module in model.named_modules()}
        self.values: dict[Call, Any] = {}
        self.used: set[int] = set()
        self.moved: dict[Call, Value] = {}
        self.reason = ""

    def name_of(self, call: Call) -> str:
        """The name that rules know a call by: that of the function, without underscores."""
        target = call.target
        if isinstance(target, str):
            return target.strip("_")
        if target in _TAUGHT:
            return _TAUGHT[target]
        module = getattr(target, "__module__", None) or ""
        name = getattr(target, "__name__", str(target))
        # A function of somebody else's may bear the name of one of torch's.
        known = module.split(".")[0] in ("torch", "_operator", "") or isinstance(target, type(torch.add))
        return (
            name.strip("_") if known and not type(target).__module__.startswith("torch._ops") else str(target)
        )

    def of(self, argument: Any) -> Value:
        """The labels of an argument; a number has none."""
        if isinstance(argument, Call):
            value = self.values[argument]
            return value if isinstance(value, Value) else unlabeled(argument.shape)
        return unlabeled(())

    def parameter(self, argument: Any) -> str | None:
        """The canonical name of a parameter or buffer that is used as it is; None for what is computed."""
        if isinstance(argument, Call) and argument.target is OUTSIDE and argument.tensor is not None:
            return self.names.get(id(argument.tensor))
        return None

    def entries(self, argument: Any) -> Value:
        """As `of`; but a parameter that is moved or changed before it is used gets labels of its own.

        They stand along its last axis with more than one entry, that of features. Where they are then added to
        channels of a layer they leave with them; alone they are no node.
        """
        value, name = self.of(argument), self.parameter(argument)
        if name is None or not isinstance(argument.tensor, nn.Parameter):
            return value
        axes = [axis for axis, size in enumerate(argument.shape) if size > 1]
        if not axes:
            return value
        if argument not in self.moved:
            labels = self.reading.labels.new(argument.shape[axes[-1]])
            self.reading.axis(name, axes[-1], labels, "bias")
            self.moved[argument] = Value(spread(labels, axes[-1], argument.shape))
        return self.moved[argument]

    def where(self, call: Call) -> str:
        """The kind of place that a call stands at: alike for modules of one class."""
        name = call.name.rstrip("0123456789").rstrip("_")
        return f"{name!r} in {type(call.within).__name__}"

    def refuse(self, reason: str) -> None:
        """Say why the channels cannot leave."""
        self.reason = reason


def bound(call: Call, names: str) -> dict[str, Any]:
    """Arguments by name, as the function's own signature has them."""
    return dict(zip(names.split(), call.args, strict=False)) | dict(call.kwargs)


def _zero(value: Value) -> bool:
    return bool(np.all(np.asarray(value.held) == 0))


# ------------------------------------------------------------------ layers with kernels


def _layer(r: Reader, call: Call, weight: Any) -> str | None:
    """The canonical name of a kernel; without one the layer is named as whole."""
    name = r.parameter(weight)
    if name is None:
        path = r.paths.get(id(call.within), "")
        r.refuse(f"read by {path!r}, which computes its kernel from other tensors")
        r.reading.unread[path] = "it computes its kernel from other tensors"
    return name


def _kernel(
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


def _held_along(value: Value, axis: int) -> Any:
    held = value.held
    return (
        held
        if np.ndim(held) == 0
        else np.moveaxis(np.broadcast_to(held, value.shape), axis, 0).reshape(value.shape[axis], -1)[:, 0]
    )


@_for("linear")
def _linear(r: Reader, call: Call) -> Result:
    given = bound(call, "input weight bias")
    x, weight = r.of(given["input"]), given["weight"]
    name, read = _layer(r, call, weight), along(x.labels, -1)
    if name is None or read is None:
        return None
    made = _kernel(r, name, given.get("bias"), read, _held_along(x, -1), (0, 1), weight.shape, False)
    return Value(spread(made, -1, call.shape))


@_for("addmm")
def _addmm(r: Reader, call: Call) -> Result:
    bias, x, weight = call.args[:3]
    name, read = _layer(r, call, weight), along(r.of(x).labels, -1)
    if name is None or read is None or r.parameter(bias) is None or call.kwargs:
        return None
    made = _kernel(r, name, bias, read, _held_along(r.of(x), -1), (1, 0), weight.shape, False)
    return Value(spread(made, -1, call.shape))


@_for("conv1d", "conv2d", "conv3d")
def _conv(r: Reader, call: Call) -> Result:
    given = bound(call, "input weight bias stride padding dilation groups")
    return _convolved(r, call, given, (0, 1))


@_for("conv_transpose1d", "conv_transpose2d", "conv_transpose3d")
def _conv_transpose(r: Reader, call: Call) -> Result:
    given = bound(call, "input weight bias stride padding output_padding groups dilation")
    return _convolved(r, call, given, (1, 0))


def _convolved(r: Reader, call: Call, given: dict[str, Any], axes: tuple[int, int]) -> Result:
    x, weight, groups = r.of(given["input"]), given["weight"], given.get("groups", 1)
    channel = 2 - len(weight.shape) - 1  # counted from the end, since there may be no batch
    name, read = _layer(r, call, weight), along(x.labels, channel)
    if name is None or read is None:
        return None
    size = weight.shape[2:]
    padding = given.get("padding", 0)
    padded = math.prod(size) > 1 and (
        axes == (1, 0) or (padding != "valid" and bool(np.any(np.asarray(padding == "same" or padding))))
    )
    if groups == 1:
        made = _kernel(r, name, given.get("bias"), read, _held_along(x, channel), axes, weight.shape, padded)
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


@_for("embedding", "embedding_bag")
def _embedding(r: Reader, call: Call) -> Result:
    given = bound(call, "input weight")
    name = _layer(r, call, given["weight"])
    if name is None or r.of(given["input"]).labeled:
        return None
    made = r.reading.new_layer(layer_of(name), given["weight"].shape[1], (name, 1))
    r.reading.axis(name, 1, made, "kernel")
    return Value(spread(made, -1, call.shape))


@_for("lstm", "gru", "rnn_tanh", "rnn_relu")
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
        or not _zero(x)
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


# ------------------------------------------------------------------ normalizations


def _statistics(r: Reader, given: dict[str, Any], labels: np.ndarray, *, centered: bool) -> bool:
    """Scale, shift and running statistics of a normalization along channels; False where one is computed.

    Without a scale it is the mean that makes a masked channel's output 0, beside the shift.
    """
    weight = given.get("weight")
    for key, part in (("weight", "scale"), ("bias", "shift"), ("running_mean", ""), ("running_var", "")):
        if isinstance(given.get(key), Call):
            name = r.parameter(given[key])
            if name is None:
                return False
            if key == "running_mean" and weight is None and centered:
                part = "mean"
            r.reading.axis(name, 0, labels, part)
    return True


@_for("batch_norm", "instance_norm")
def _batch_norm(r: Reader, call: Call) -> Result:
    given = bound(call, "input running_mean running_var weight bias")
    x = r.of(given["input"])
    labels = along(x.labels, 1)
    if labels is None or not _statistics(r, given, labels, centered=True):
        return None
    if given.get("weight") is None and not _zero(x):
        return None
    return Value(spread(labels, 1, call.shape))


@_for("group_norm")
def _group_norm(r: Reader, call: Call) -> Result:
    given = bound(call, "input num_groups weight bias")
    x, groups = r.of(given["input"]), given["num_groups"]
    labels, path = along(x.labels, 1), r.paths.get(id(call.within), "")
    r.refuse(f"normalized together with other channels by {path!r}")
    if labels is None or groups == 1 or not isinstance(call.within, nn.GroupNorm):
        return None
    if given.get("weight") is None and not _zero(x):
        return None
    if not r.of(given["input"]).labeled:
        return unlabeled(call.shape)
    rows = r.reading.labels.join_along(labels.reshape(groups, -1), 1)
    labels = rows.ravel()
    r.details.norms[path] = rows[:, 0]
    r.reason = ""
    return Value(spread(labels, 1, call.shape)) if _statistics(r, given, labels, centered=False) else None


@_for("layer_norm", "rms_norm", "normalize", "local_response_norm")
def _layer_norm(r: Reader, call: Call) -> Result:
    name = r.name_of(call)
    x = r.of(call.args[0] if call.args else call.kwargs["input"])
    if name == "normalize":
        dim = bound(call, "input p dim").get("dim", 1)
        axes = [dim % len(x.shape)]
    elif name == "local_response_norm":
        axes = [1]
    else:
        given = bound(call, "input normalized_shape weight bias eps")
        axes = list(range(len(x.shape) - len(given["normalized_shape"]), len(x.shape)))
    path = r.paths.get(id(call.within), "")
    r.refuse(f"normalized together with other channels by {path!r} ({name})")
    labels = _by_slices(r, x, axes)
    if labels is None:
        return None
    r.reason = ""
    shifted = name == "layer_norm" and given.get("bias") is not None
    return Value(labels, np.nan if shifted or not _zero(x) else 0.0)


def _by_slices(r: Reader, x: Value, axes: Sequence[int]) -> np.ndarray | None:
    """Labels of an array whose numbers are taken together along some axes: they leave by slices of another."""
    changing = set(varying(x.labels))
    if x.labeled and not changing - set(axes):
        return None
    labels = x.labels
    for axis in changing & set(axes):
        labels = r.reading.labels.join_along(labels, axis)
    return labels


# ------------------------------------------------------------------ element by element

_UNARY = (
    "relu relu6 hardtanh leaky_relu elu selu celu gelu silu mish hardswish tanh tanhshrink softshrink "
    "hardshrink softsign sigmoid hardsigmoid logsigmoid softplus threshold clamp clip clamp_min clamp_max neg "
    "abs exp log sqrt rsqrt square sin cos erf float half double bfloat16 to type type_as contiguous clone "
    "detach requires_grad dropout dropout1d dropout2d dropout3d alpha_dropout feature_alpha_dropout round floor "
    "sign log1p expm1 reciprocal cpu cuda nan_to_num positive rrelu atan sinh cosh asinh acosh atanh tan asin acos "
    "arctan trunc frac ceil erfc erfinv expit special_expit logit sgn isnan isinf isfinite logical_not tensor_data data"
).split()
_BINARY = (
    "add sub rsub mul div truediv true_divide pow maximum minimum radd rmul iadd imul isub itruediv rtruediv rdiv rpow "
    "atan2 hypot logaddexp fmod remainder floor_divide floordiv copysign xlogy gt ge lt le eq ne greater less "
    "greater_equal less_equal not_equal logical_and logical_or and or xor"
).split()


@_for(*_UNARY)
def _unary(r: Reader, call: Call) -> Result:
    x = r.entries(call.args[0] if call.args else call.kwargs["input"])
    if r.name_of(call) in ("to", "type", "type_as"):
        return x
    return Value(x.labels, _held(call, [x.held]) if x.labeled else 0.0)


def _held(call: Call, helds: Sequence[Any]) -> Any:
    """What the call makes of what its inputs hold."""
    if any(np.ndim(held) == 0 and np.isnan(held) for held in helds):
        return np.nan
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


@_for("prelu")
def _prelu(r: Reader, call: Call) -> Result:
    x, weight = r.of(call.args[0]), call.args[1]
    if weight.shape not in ((), (1,)):
        labels, name = along(x.labels, 1), r.parameter(weight)
        if labels is None or name is None:
            return None
        r.reading.axis(name, 0, labels)
    return Value(x.labels, 0.0 if _zero(x) else np.nan)


_PRODUCTS = ("mul", "rmul", "imul")
_QUOTIENTS = ("div", "truediv", "true_divide", "itruediv")
_SUMS = ("add", "radd", "iadd", "sub", "rsub", "isub")


@_for(*_BINARY)
def _binary(r: Reader, call: Call) -> Result:
    tensors = [one for one in (*call.args, *call.kwargs.values()) if isinstance(one, Call)]
    name = r.name_of(call)
    if len(tensors) == 1:
        x = r.entries(tensors[0])
        return Value(x.labels, _held(call, [x.held]) if x.labeled else 0.0)
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
    zeros = [one.labeled and _zero(one) for one in (a, b)]
    if (name in _PRODUCTS and any(zeros)) or (name in _QUOTIENTS and zeros[0]):
        return Value(labels)
    return Value(labels, _held(call, [a.held, b.held]) if a.labeled and b.labeled else np.nan)


def _broadcast(r: Reader, a: Value, b: Value, shape: tuple[int, ...]) -> np.ndarray | None:
    """Joined labels of two arrays, element by element; None where one would have to shrink and cannot."""
    full = []
    for one in (a, b):
        pad = (1,) * (len(shape) - len(one.shape))
        full.append(one.labels.reshape(pad + one.shape))
    if a.labeled and b.labeled:
        for one, other in (full, full[::-1]):
            for axis in varying(one):
                if other.shape[axis] == 1 and shape[axis] > 1 and varying(other):
                    return None  # every number of the result would belong to two channels
        if not varying(full[0]) or not varying(full[1]):  # a single channel on one side
            return None if full[0].size == 1 or full[1].size == 1 else r.reading.labels.join(*full)
        return r.reading.labels.join(*full)
    labels, other = full if a.labeled else full[::-1]
    stays = [axis for axis in varying(labels) if other.shape[axis] != 1]
    if stays and len(stays) == len(varying(labels)):
        r.refuse(_FIXED_VALUES)
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
        r.refuse(_FIXED_SIZE)
        return None
    for axis in cut:
        labels = along(x.labels, axis)
        if labels is None:
            return None
        r.reading.axis(name, axis - offset, labels, "" if product else "bias")
    zero = _zero(x) and (product or bool(cut))
    return Value(np.broadcast_to(x.labels, call.shape), 0.0 if zero else np.nan)


@_for("where", "masked_fill", "lerp", "addcmul", "addcdiv")
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
    zero = all(_zero(one) for one in labeled) and len(labeled) == len(values)
    if r.name_of(call) == "masked_fill":  # a mask that is 0 fills nothing in
        zero = len(labeled) == 2 and all(_zero(one) for one in labeled)
    return Value(np.broadcast_to(total.labels, call.shape), 0.0 if zero else np.nan)


@_for("glu")
def _glu(r: Reader, call: Call) -> Result:
    x, dim = r.of(call.args[0]), bound(call, "input dim").get("dim", -1)
    labels = np.moveaxis(x.labels, dim, 0)
    half = len(labels) // 2
    joined = r.reading.labels.join(labels[:half], labels[half:])
    return Value(compact(np.moveaxis(joined, 0, dim)), 0.0 if _zero(x) else np.nan)


@_for("softmax", "log_softmax", "softmin", "cumsum", "logcumsumexp")
def _softmax(r: Reader, call: Call) -> Result:
    x, dim = r.of(call.args[0]), bound(call, "input dim").get("dim")
    if not x.labeled:
        return unlabeled(call.shape)
    labels = _by_slices(r, x, [dim % len(x.shape)]) if isinstance(dim, int) else None
    if labels is None:
        r.refuse(f"read together with other channels by {r.name_of(call)!r}")
        return None
    return Value(labels, 0.0 if _zero(x) and r.name_of(call) == "cumsum" else np.nan)


@_for("zeros_like", "ones_like", "empty_like", "rand_like", "randn_like", "full_like")
def _like(r: Reader, call: Call) -> Result:
    held = {"zeros_like": 0.0, "ones_like": 1.0}.get(r.name_of(call), np.nan)
    return Value(r.of(call.args[0]).labels, held)


@_for(
    *(
        "zeros ones empty full arange linspace eye rand randn tensor as_tensor randint new_zeros new_ones new_empty "
        "new_full new_tensor randperm bernoulli tril triu"
    ).split()
)
def _constant(r: Reader, call: Call) -> Result:
    return unlabeled(call.shape)


# ------------------------------------------------------------------ reductions

_REDUCTIONS = (
    "sum mean amax amin max min var std norm prod logsumexp any all argmax argmin std_mean var_mean".split()
)


@_for(*_REDUCTIONS)
def _reduction(r: Reader, call: Call) -> Result:
    name = r.name_of(call)
    if name in ("max", "min") and len([one for one in call.args if isinstance(one, Call)]) == 2:
        return _binary(r, call)
    given = bound(call, "input p dim keepdim" if name == "norm" else "input dim keepdim")
    x = r.of(given.get("input", call.args[0] if call.args else None))
    dims = given.get("dim", given.get("axis"))
    if name in ("std", "var") and isinstance(dims, bool):
        dims = None
    dims = list(range(len(x.shape))) if dims is None else [dims] if isinstance(dims, int) else list(dims)
    dims = sorted({dim % len(x.shape) for dim in dims})
    if not x.labeled:
        return unlabeled(call.shape)
    labels, changing = x.labels, set(varying(x.labels))
    if changing and changing <= set(dims) or not changing:
        r.refuse(f"read together with other channels by {name!r}")
        if name == "sum" and len(changing) == 1 and _zero(x):
            r.reason = ""
            return unlabeled(call.shape)
        return None
    for dim in changing & set(dims):
        labels = r.reading.labels.join_along(labels, dim)
    if name in ("argmax", "argmin", "any", "all"):
        return None
    index = tuple(slice(0, 1) if axis in dims else slice(None) for axis in range(len(x.shape)))
    labels = labels[index]
    if not given.get("keepdim", given.get("keepdims", False)):
        labels = labels.reshape([size for axis, size in enumerate(labels.shape) if axis not in dims])
    kept = np.ndim(x.held) == 0 and (
        _zero(x) and name != "logsumexp" or name in ("mean", "amax", "amin", "max", "min")
    )
    value = Value(compact(labels), x.held if kept else np.nan)
    return value if call.shape == value.shape else [value, unlabeled(value.shape)]


# ------------------------------------------------------------------ pooling and resizing

_POOLS = [
    *(
        f"{kind}_pool{rank}d"
        for kind in ("max", "avg", "lp", "adaptive_avg", "adaptive_max", "fractional_max")
        for rank in (1, 2, 3)
    ),
    *(
        f"{kind}_pool{rank}d_with_indices"
        for kind in ("max", "adaptive_max", "fractional_max")
        for rank in (1, 2, 3)
    ),
    *("interpolate", "upsample", "upsample_nearest", "upsample_bilinear", "grid_sample", "max_unpool2d"),
]


@_for(*_POOLS)
def _pool(r: Reader, call: Call) -> Result:
    name = r.name_of(call)
    x = r.of(call.args[0] if call.args else call.kwargs["input"])
    digits = [int(one) for one in name if one.isdigit()]
    axis = len(x.shape) - 1 - digits[0] if digits else 1
    labels = along(x.labels, axis)
    if labels is None or any(r.of(one).labeled for one in call.args[1:]):
        return None
    same = "max" in name or "adaptive" in name or name in ("interpolate", "upsample")
    if name.startswith("avg_pool"):  # zeros that pad the border are no more than what they say
        given = bound(call, "input kernel_size stride padding ceil_mode count_include_pad")
        same = not np.any(given.get("padding", 0)) or not given.get("count_include_pad", True)
    exact = _zero(x) or (np.ndim(x.held) == 0 and same)
    held = x.held if exact else np.nan
    if call.shape:
        return Value(spread(labels, axis, call.shape), held)
    return [Value(spread(labels, axis, shape), held) for shape in _part_shapes(call, len(x.shape))]


def _part_shapes(call: Call, rank: int) -> list[tuple[int, ...]]:
    raise NotImplementedError  # several outputs: the channels stay whole


@_for("pad")
def _pad(r: Reader, call: Call) -> Result:
    given = bound(call, "input pad mode value")
    x, pad, value = r.of(given["input"]), list(given["pad"]), given.get("value") or 0
    labels, rank = x.labels, len(x.shape)
    for i in range(len(pad) // 2):
        axis, (before, after) = rank - 1 - i, pad[2 * i : 2 * i + 2]
        if axis in varying(labels):
            if before < 0 or after < 0 or given.get("mode", "constant") != "constant":
                return None
            widths = [(before, after) if one == axis else (0, 0) for one in range(rank)]
            labels = np.pad(labels, widths, constant_values=NONE)
        else:
            labels = np.broadcast_to(
                labels.take([0], axis),
                tuple(call.shape[axis] if one == axis else n for one, n in enumerate(labels.shape)),
            )
    same = given.get("mode", "constant") != "constant" or (np.ndim(x.held) == 0 and x.held == value)
    return Value(labels, x.held if same and np.ndim(x.held) == 0 else np.nan)


@_for("channel_shuffle", "native_channel_shuffle")
def _channel_shuffle(r: Reader, call: Call) -> Result:
    x, groups = r.of(call.args[0]), call.args[1]
    labels = along(x.labels, 1)
    if labels is None:
        return None
    rows = labels.reshape(groups, -1)  # each group loses the same, so that they stay equal
    r.reading.labels.join(rows, np.broadcast_to(rows[:1], rows.shape))
    return Value(spread(rows.T.ravel(), 1, call.shape), x.held if np.ndim(x.held) == 0 else np.nan)


@_for("pixel_shuffle", "pixel_unshuffle")
def _pixel_shuffle(r: Reader, call: Call) -> Result:
    x = r.of(call.args[0])
    axis, many = len(x.shape) - 3, call.shape[-3] / x.shape[-3]
    labels = along(x.labels, axis)
    if labels is None:
        return None
    if many < 1:  # all that become one channel leave together
        rows = labels.reshape(call.shape[axis], -1)
        labels = r.reading.labels.join_along(rows, 1)[:, 0]
    else:
        labels = np.repeat(labels, int(many))
    return Value(spread(labels, axis, call.shape), x.held if np.ndim(x.held) == 0 else np.nan)


@_for("unfold")
def _unfold(r: Reader, call: Call) -> Result:
    x = r.of(call.args[0])
    labels = along(x.labels, 1)
    if isinstance(call.target, str) or labels is None or len(call.shape) != 3:  # Tensor.unfold is another one
        return None
    return Value(
        spread(np.repeat(labels, call.shape[1] // len(labels)), 1, call.shape), 0.0 if _zero(x) else np.nan
    )


# ------------------------------------------------------------------ moving data

_MOVES = (
    "flatten reshape view squeeze unsqueeze permute transpose swapaxes swapdims movedim moveaxis T mT t cat concat "
    "concatenate stack hstack vstack expand expand_as broadcast_to repeat tile repeat_interleave "
    "unflatten narrow select flip index_select view_as "
    "reshape_as ravel chunk split tensor_split unbind split_with_sizes getitem adjoint H rot90 unsafe_chunk unsafe_split"
).split()
# Their numbers may say how many channels there are.
_SIZED = (
    "reshape view expand broadcast_to repeat unflatten narrow select chunk split tensor_split split_with_sizes "
    "getitem index_select repeat_interleave"
).split()
_PICKS = (
    "chunk split tensor_split split_with_sizes unsafe_chunk unsafe_split unbind getitem select narrow index_select"
).split()
_PIECES = ("chunk", "split", "tensor_split", "split_with_sizes", "unsafe_chunk", "unsafe_split")


@_for(*_MOVES)
def _move(r: Reader, call: Call) -> Result:
    given = calls_in([*call.args, *call.kwargs.values()])
    values = [r.entries(one) for one in given]
    if not any(one.labeled for one in values):
        shapes = (
            _applied(r, call, [np.zeros(one.shape, np.int8) for one in values]) if not call.shape else None
        )
        return unlabeled(call.shape) if shapes is None else [unlabeled(one.shape) for one in shapes]
    name = r.name_of(call)
    moved = _applied(r, call, [one.labels for one in values])
    if moved is None:
        return None
    many = not isinstance(moved, np.ndarray)
    parts = [compact(one) for one in (moved if many else [moved])]
    helds = _moved_held(r, call, values, len(parts))
    x = values[0]
    if name in _PICKS and not _picked(r, call, name, x.labels, parts):
        return None
    if name in _SIZED and _names_sizes(call, name):
        for one in [x.labels, *parts]:
            r.reading.note_size(r.where(call), np.unique(distinct(one)))
        _note_sizes(r, call, [x.labels, *parts])
    for one in parts:
        r.reading.labels.keep_box(one)
    results = [Value(one, held) for one, held in zip(parts, helds, strict=True)]
    return results if many else results[0]


def _applied(r: Reader, call: Call, arrays: Sequence[np.ndarray]) -> Any:
    """The call, applied to arrays in the place of its tensors; arrays of what it gives."""
    left = iter(arrays)

    def replace(value: Any, top: bool = True) -> Any:
        if isinstance(value, Call):
            array = next(left)
            if not top and value.tensor is not None:  # an index
                return value.tensor
            # A copy of what differs: PyTorch warns of memory that it must not write to.
            return torch.from_numpy(np.array(distinct(array))).expand(array.shape)
        if isinstance(value, (list, tuple)):
            inside = [replace(one, top) for one in value]
            return tuple(inside) if isinstance(value, tuple) else inside
        if isinstance(value, slice):
            return (
                slice(*(replace(one, False) for one in (value.start, value.stop)))
                if calls_in(value)
                else value
            )
        return value

    name = call.target if isinstance(call.target, str) else ""
    name = "reshape" if name == "view" else name  # labels may lie in memory in another way than the numbers
    indexed = name == "__getitem__" or r.name_of(call) == "index_select"
    args = [replace(one, i == 0 or not indexed) for i, one in enumerate(call.args)]
    kwargs = {key: replace(one, not indexed) for key, one in call.kwargs.items()}
    if indexed and any(one.tensor is None for one in calls_in(call.args[1:])):
        return None
    if name in ("T", "mT", "H"):
        moved = getattr(args[0], name)
    else:
        moved = getattr(args[0], name)(*args[1:], **kwargs) if name else call.target(*args, **kwargs)
    return [one.numpy() for one in moved] if isinstance(moved, (tuple, list)) else moved.numpy()


def _moved_held(r: Reader, call: Call, values: Sequence[Value], count: int) -> list[Any]:
    labeled = [one for one in values if one.labeled]
    first = labeled[0].held
    if all(
        np.ndim(one.held) == 0 and (one.held == first or (np.isnan(one.held) and np.isnan(first)))
        for one in labeled
    ):
        return [first] * count
    arrays = [np.array(np.broadcast_to(np.asarray(one.held, np.float32), one.shape)) for one in values]
    moved = _applied(r, call, arrays)
    return list(moved) if isinstance(moved, list) else [moved]


def _names_sizes(call: Call, name: str) -> bool:
    numbers = list(_numbers([call.args[1:], call.kwargs]))
    return (
        name in ("chunk", "tensor_split")
        or any(one > 1 and not isinstance(one, BatchSize) for one in numbers)
        or (name == "getitem" and bool(numbers))
    )


def _numbers(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        for one in value:
            yield from _numbers(one)
    elif isinstance(value, dict):
        yield from _numbers(list(value.values()))
    elif isinstance(value, slice):
        yield from _numbers([value.start, value.stop])
    elif isinstance(value, int) and not isinstance(value, bool):
        yield value


def _note_sizes(r: Reader, call: Call, arrays: Sequence[np.ndarray]) -> None:
    """Sizes of axes with channels, which the module's own attributes may hold."""
    path = r.paths.get(id(call.within), "")
    for labels in arrays:
        for axis in varying(labels):
            rows = np.moveaxis(distinct(labels), axis, 0)
            r.details.sizes.append((path, rows.reshape(len(rows), -1)))


def _picked(r: Reader, call: Call, name: str, labels: np.ndarray, parts: Sequence[np.ndarray]) -> bool:
    """Whether parts picked by their position can do with fewer channels.

    Equal pieces of an axis lose the same channels each, so that they stay equal. Along an axis that is cut
    otherwise nothing leaves: where channels stand along another one as well, they leave by whole slices.
    """
    for axis in varying(labels):
        size = labels.shape[axis]
        if name == "unbind":
            cut, pieces = axis == _dimension(call, 1, 0) % labels.ndim, 0
        elif name == "getitem":
            places = _places(call, labels.ndim)
            one = places[axis] if axis < len(places) else slice(None)
            cut, pieces = one != slice(None), 0
            if isinstance(one, slice) and one.step in (None, 1) and not calls_in(one):
                first, stop, _ = one.indices(size)
                length = stop - first
                cut, pieces = length != size, length if length and first % length == 0 else 0
        else:
            dim = _dimension(call, 1 if name in ("select", "narrow", "index_select") else 2, 0)
            cut = axis == dim % labels.ndim and (
                name == "index_select" or len(parts[0].shape) != labels.ndim or parts[0].shape[axis] != size
            )
            equal = name in _PIECES and len({part.shape for part in parts}) == 1 or name == "narrow"
            pieces = parts[0].shape[axis] if cut and equal and len(parts[0].shape) == labels.ndim else 0
        if not cut:
            continue
        if pieces and size % pieces == 0 and name != "index_select":
            _join_rows(r, labels, axis, pieces)
        elif len(varying(labels)) > 1:
            r.reading.labels.join_along(labels, axis)
        else:
            r.refuse(f"picked by position by {name!r}")
            return False
    return True


def _dimension(call: Call, position: int, default: int) -> int:
    given = call.kwargs.get("dim", call.args[position] if len(call.args) > position else default)
    return given if isinstance(given, int) else default


def _places(call: Call, rank: int) -> list[Any]:
    """The index of each axis, from the first on."""
    index = call.args[1] if isinstance(call.args[1], tuple) else (call.args[1],)
    places = [one for one in index if one is not None]
    at = next((i for i, one in enumerate(places) if one is Ellipsis), None)
    if at is not None:
        places = [*places[:at], *[slice(None)] * (rank - len(places) + 1), *places[at + 1 :]]
    return places


def _join_rows(r: Reader, labels: np.ndarray, axis: int, size: int) -> None:
    rows = np.moveaxis(labels, axis, 0)
    rows = rows.reshape(-1, size, *rows.shape[1:])
    r.reading.labels.join(rows, np.broadcast_to(rows[:1], rows.shape))


# ------------------------------------------------------------------ products and attention


@_for("matmul", "bmm", "mm", "rmatmul", "baddbmm")
def _matmul(r: Reader, call: Call) -> Result:
    a, b = (call.args[0], call.args[1]) if r.name_of(call) != "rmatmul" else (call.args[1], call.args[0])
    if len(call.args) != 2:
        return None
    if r.parameter(b) is not None and len(b.shape) == 2 and r.of(a).labels.ndim > 1:
        read = along(r.of(a).labels, -1)
        if read is None:
            return None
        made = _kernel(r, str(r.parameter(b)), None, read, _held_along(r.of(a), -1), (1, 0), b.shape, False)
        return Value(spread(made, -1, call.shape))
    x, y = r.of(a), r.of(b)
    if len(x.shape) < 2 or len(y.shape) < 2:
        return None
    batch = np.broadcast_shapes(x.shape[:-2], y.shape[:-2])
    letters = "abcdefgh"[: len(batch)]
    operands = [
        Value(
            np.broadcast_to(one.labels, batch + one.shape[-2:]),
            one.held if np.ndim(one.held) == 0 else np.nan,
        )
        for one in (x, y)
    ]
    sizes = dict(zip(letters, batch, strict=True)) | {"i": x.shape[-2], "k": x.shape[-1], "j": y.shape[-1]}
    return contract(r.reading, operands, (letters + "ik", letters + "kj"), letters + "ij", sizes)


@_for("einsum")
def _einsum(r: Reader, call: Call) -> Result:
    equation, *rest = call.args
    tensors = calls_in(rest)
    if len(tensors) != 2 or not isinstance(equation, str):
        return None
    equation = equation.replace(" ", "")
    inputs, _, out = equation.partition("->")
    letters = inputs.split(",")
    if "..." in equation:
        spare = [one for one in "ZYXWVUTS" if one not in equation]
        ranks = [
            len(t.shape) - len(names.replace("...", "")) for t, names in zip(tensors, letters, strict=True)
        ]
        if ranks[0] != ranks[1] and "..." in letters[0] and "..." in letters[1]:
            return None
        letters = [
            names.replace("...", "".join(spare[:rank])) for names, rank in zip(letters, ranks, strict=True)
        ]
        out = out.replace("...", "".join(spare[: max(ranks)]))
    if "->" not in equation or any(len(set(names)) != len(names) for names in letters):
        return None
    values = [r.of(one) for one in tensors]
    sizes = {
        one: size
        for t, names in zip(tensors, letters, strict=True)
        for one, size in zip(names, t.shape, strict=True)
    }
    weight = r.parameter(tensors[1])
    if weight is not None and not values[1].labeled and values[0].labeled:
        return None
    return contract(r.reading, values, letters, out, sizes)


@_for("scaled_dot_product_attention")
def _attention(r: Reader, call: Call) -> Result:
    given = bound(call, "query key value attn_mask dropout_p is_causal scale enable_gqa")
    query, key, value = (r.of(given[name]) for name in ("query", "key", "value"))
    if given.get("enable_gqa") and len(query.shape) > 2:
        times = query.shape[-3] // key.shape[-3]
        key, value = (Value(np.repeat(one.labels, times, axis=-3), one.held) for one in (key, value))
    letters = "abcdefgh"[: len(query.shape) - 2]
    if isinstance(given.get("attn_mask"), Call) and r.of(given["attn_mask"]).labeled:
        return None
    sizes = dict(zip(letters, query.shape, strict=False))
    sizes |= {"i": query.shape[-2], "k": query.shape[-1], "j": key.shape[-2], "v": value.shape[-1]}
    scores = contract(r.reading, (query, key), (letters + "ik", letters + "jk"), letters + "ij", sizes)
    if scores is None:
        for one in (query, key):
            r.reading.labels.fix(one.labels, "summed over by attention")
        scores = unlabeled([sizes[letter] for letter in letters + "ij"])
    weights = Value(scores.labels, np.nan)
    return contract(r.reading, (weights, value), (letters + "ij", letters + "jv"), letters + "iv", sizes)


@_for("multi_head_attention_forward")
def _multi_head(r: Reader, call: Call) -> Result:
    given = bound(
        call,
        "query key value embed_dim num_heads in_proj_weight in_proj_bias bias_k bias_v add_zero_attn dropout_p "
        "out_proj_weight out_proj_bias",
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


@_for("setitem")
def _setitem(r: Reader, call: Call) -> Result:
    r.refuse("written to in place, part by part")
    return None
