"""What Keras's operations do with channels that they pool, pad, or move to other places."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from nnopt_lib.backends.keras.walk import Call, Reader, Result, rule_for, zero
from nnopt_lib.structure.labels import NONE, Value, along, compact, distinct, spread, unlabeled, varying

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

# fmt: off
_MOVES = (
    "Transpose", "Concatenate", "Stack", "Split", "ExpandDims", "Squeeze", "Swapaxes", "Moveaxis",
    "Ravel", "Repeat", "Tile", "Flip", "Roll", "BroadcastTo", "GetItem", "Unstack", "Vstack", "Hstack",
    "Dstack", "Slice", "Take", "Reshape", "Fliplr", "Flipud", "Rot90", "ArraySplit",
)
# fmt: on
_NUMBERED = ("Split", "ArraySplit", "GetItem", "Slice", "Take", "Tile", "Repeat")


@rule_for(
    *(
        "taught.moved",
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


@rule_for("ops.DepthToSpace", "ops.SpaceToDepth")
def _block(r: Reader, call: Call) -> Result:
    axis, many = len(call.x.shape) - 1, call.op.block_size**2
    labels = along(call.x.labels, axis)
    if labels is None or getattr(call.op, "data_format", None) == "channels_first":
        return None
    if type(call.op).__name__ == "SpaceToDepth":
        labels = np.tile(labels, many)
    else:  # all that become one channel leave together
        labels = r.reading.labels.join_along(labels.reshape(many, -1), 0)[0]
    return Value(spread(labels, axis, call.shape), call.x.held if np.ndim(call.x.held) == 0 else np.nan)


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
