"""Normalizations, and other functions that take numbers along an axis together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import nn

from nnopt_lib.backends.torch.rules.elementwise import binary
from nnopt_lib.backends.torch.rules.reader import (
    Reader,
    Result,
    bound,
    is_zero,
    rule_for,
)
from nnopt_lib.backends.torch.tracing import Call
from nnopt_lib.structure.labels import Value, along, compact, spread, unlabeled, varying


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


@rule_for("batch_norm", "instance_norm")
def _batch_norm(r: Reader, call: Call) -> Result:
    given = bound(call, "input running_mean running_var weight bias")
    x = r.of(given["input"])
    labels = r.along(x, 1)
    if not _statistics(r, given, labels, centered=True):
        return None
    if given.get("weight") is None and not is_zero(x):
        return None
    within: Any = call.within
    if isinstance(within, nn.modules.batchnorm._NormBase) and not (
        within.affine or within.track_running_stats
    ):
        r.details.features[r.paths.get(id(within), "")] = labels
    return Value(spread(labels, 1, call.shape))


@rule_for("group_norm")
def _group_norm(r: Reader, call: Call) -> Result:
    given = bound(call, "input num_groups weight bias")
    x, groups = r.of(given["input"]), given["num_groups"]
    labels, path = along(x.labels, 1), r.paths.get(id(call.within), "")
    r.refuse(f"normalized together with other channels by {path!r}")
    if labels is None or groups == 1 or not isinstance(call.within, nn.GroupNorm):
        return None
    if given.get("weight") is None and not is_zero(x):
        return None
    if not r.of(given["input"]).labeled:
        return unlabeled(call.shape)
    rows = r.reading.labels.join_along(labels.reshape(groups, -1), 1)
    labels = rows.ravel()
    r.details.norms[path] = rows[:, 0]
    r.reason = ""
    return Value(spread(labels, 1, call.shape)) if _statistics(r, given, labels, centered=False) else None


@rule_for("layer_norm", "rms_norm", "normalize", "local_response_norm")
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
    return Value(labels, np.nan if shifted or not is_zero(x) else 0.0)


@rule_for("softmax", "log_softmax", "softmin", "cumsum", "logcumsumexp")
def _softmax(r: Reader, call: Call) -> Result:
    x, dim = r.of(call.args[0]), bound(call, "input dim").get("dim")
    if not x.labeled:
        return unlabeled(call.shape)
    labels = _by_slices(r, x, [dim % len(x.shape)]) if isinstance(dim, int) else None
    if labels is None:
        r.refuse(f"read together with other channels by {r.name_of(call)!r}")
        return None
    return Value(labels, 0.0 if is_zero(x) and r.name_of(call) == "cumsum" else np.nan)


_REDUCTIONS = "sum mean amax amin max min var std norm prod logsumexp any all argmax argmin std_mean var_mean"


@rule_for(_REDUCTIONS)
def _reduction(r: Reader, call: Call) -> Result:
    name = r.name_of(call)
    if name in ("max", "min") and len([one for one in call.args if isinstance(one, Call)]) == 2:
        return binary(r, call)
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
        if name == "sum" and len(changing) == 1 and is_zero(x):
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
        is_zero(x) and name != "logsumexp" or name in ("mean", "amax", "amin", "max", "min")
    )
    value = Value(compact(labels), x.held if kept else np.nan)
    return value if call.shape == value.shape else [value, unlabeled(value.shape)]


def _by_slices(r: Reader, x: Value, axes: Sequence[int]) -> np.ndarray | None:
    """Labels of an array whose numbers are taken together along some axes: they leave by slices elsewhere."""
    changing = set(varying(x.labels))
    if x.labeled and not changing - set(axes):
        return None
    labels = x.labels
    for axis in changing & set(axes):
        labels = r.reading.labels.join_along(labels, axis)
    return labels
