"""Pooling, resizing, padding: functions that leave channels where they are, or shuffle them."""

from __future__ import annotations

import numpy as np

from nnopt_lib.backends.torch.rules.reader import (
    Reader,
    Result,
    bound,
    is_zero,
    rule_for,
)
from nnopt_lib.backends.torch.tracing import Call
from nnopt_lib.structure.labels import NONE, Value, along, spread, varying

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


@rule_for(*_POOLS)
def _pool(r: Reader, call: Call) -> Result:
    name = r.name_of(call)
    x = r.of(call.args[0] if call.args else call.kwargs["input"])
    digits = [int(one) for one in name if one.isdigit()]
    axis = len(x.shape) - 1 - digits[0] if digits else 1
    labels = r.along(x, axis)
    if any(r.of(one).labeled for one in call.args[1:]):
        return None
    same = "max" in name or "adaptive" in name or name in ("interpolate", "upsample")
    if name.startswith("avg_pool"):  # zeros that pad the border are no more than what they say
        given = bound(call, "input kernel_size stride padding ceil_mode count_include_pad")
        same = not np.any(given.get("padding", 0)) or not given.get("count_include_pad", True)
    exact = is_zero(x) or (np.ndim(x.held) == 0 and same)
    held = x.held if exact else np.nan
    if call.shape:
        return Value(spread(labels, axis, call.shape), held)
    return [Value(spread(labels, axis, shape), held) for shape in _part_shapes(call, len(x.shape))]


def _part_shapes(call: Call, rank: int) -> list[tuple[int, ...]]:
    raise NotImplementedError  # several outputs: the channels stay whole


@rule_for("pad")
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


@rule_for("channel_shuffle", "native_channel_shuffle")
def _channel_shuffle(r: Reader, call: Call) -> Result:
    x, groups = r.of(call.args[0]), call.args[1]
    labels = along(x.labels, 1)
    if labels is None:
        return None
    rows = labels.reshape(groups, -1)  # each group loses the same, so that they stay equal
    r.reading.labels.join(rows, np.broadcast_to(rows[:1], rows.shape))
    return Value(spread(rows.T.ravel(), 1, call.shape), x.held if np.ndim(x.held) == 0 else np.nan)


@rule_for("pixel_shuffle", "pixel_unshuffle")
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


@rule_for("unfold")
def _unfold(r: Reader, call: Call) -> Result:
    x = r.of(call.args[0])
    labels = along(x.labels, 1)
    if isinstance(call.target, str) or labels is None or len(call.shape) != 3:  # Tensor.unfold is another one
        return None
    return Value(
        spread(np.repeat(labels, call.shape[1] // len(labels)), 1, call.shape), 0.0 if is_zero(x) else np.nan
    )
