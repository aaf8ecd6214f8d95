"""Layers of a model pruned one after the other, each by what it reads once those before it are pruned.

`layerwise` decides on arrays; here are a model's layers as such arrays, and back. Chapter 12 teaches it.
"""

from __future__ import annotations

import bisect
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from nnopt_lib.checks import refuse
from nnopt_lib.frameworks import activation_backend_of, backend_of, mask_backend_of
from nnopt_lib.pruning import layerwise
from nnopt_lib.pruning.masks import Masks
from nnopt_lib.pruning.squares import layer_error, spread
from nnopt_lib.structure.reading import layer_of

_ROWS = 1 << 13  # of what a layer reads, in double precision at a time
Errors = dict[str, tuple[float, float]]


def readable(model: Any, names: Sequence[str], x: Any) -> tuple[list[str], dict[str, str]]:
    """The kernels that can be pruned by what they read, in order of call; and why the other layers cannot."""
    reasons = activation_backend_of(model).readable(model, names, x)
    left = [name for name, reason in reasons.items() if reason is None]
    whole = {layer_of(name): reason for name, reason in reasons.items() if reason is not None}
    if not left:
        layer, reason = next(iter(whole.items()))
        rule = "methods by layer need a layer whose kernel multiplies what it reads"
        refuse(rule, f"{layer!r}: {reason}", "Pass method='woodfisher', which reads gradients.")
    return left, whole


def moments(model: Any, name: str, x: Any, batch_size: int) -> np.ndarray:
    """H = X^T X / rows for each group of a layer, (groups, d, d), of what it reads now; float64."""
    total, rows = np.zeros((0, 0, 0)), 0
    for batch in activation_backend_of(model).columns(model, name, x, batch_size):
        if not len(total):
            total = np.zeros((batch.shape[1], batch.shape[2], batch.shape[2]))
        rows += len(batch)
        for begin in range(0, len(batch), _ROWS):
            part = batch[begin : begin + _ROWS].astype(np.float64)
            for group in range(len(total)):
                total[group] += part[:, group].T @ part[:, group]
    return total / max(rows, 1)


def prune_by_layer(
    model: Any,
    x: Any,
    asked: Masks,
    previous: Masks | None,
    method: str,
    *,
    n_m: tuple[int, int] | None,
    shares: Mapping[str, float],
    options: Mapping[str, Any],
    batch_size: int,
) -> tuple[dict[str, np.ndarray], Errors]:
    """Prune the layers of `asked`, in its order, in place; gives their masks and errors.

    Parameters:
        asked: masks whose counts, layer by layer, are how much is to go.
        n_m: (n, m) of n:m, else None. shares: of each layer, for wanda. options: of the method itself.
    """
    masks: dict[str, np.ndarray] = {}
    errors: Errors = {}
    for name, counted in asked.items():
        kernel = np.asarray(mask_backend_of(model).weights(model, [name])[name], np.float64)
        H = moments(model, name, x, batch_size)
        keep = np.ones(kernel.shape, bool) if previous is None else previous[name]
        layer = _Columns(kernel.shape, len(H), last_inputs=n_m is not None)
        W, kept = layer.split(kernel), layer.split(keep)
        H = layer.reordered(H)
        counts = equal_parts(int((~counted).sum()), [int((~part).sum()) for part in kept], kept[0].size)
        parts = []
        for group, count in enumerate(counts):
            own = dict(options, keep=kept[group], n_m=n_m, name=layer_of(name))
            if method == "wanda":
                own |= {} if n_m else {"sparsity": shares[name]}
            else:
                own |= {} if n_m else {"count": count}
            parts.append(getattr(layerwise, method)(W[group], H[group], **own))
        mask, new = (layer.joined([part[i] for part in parts]) for i in (0, 1))
        masks[name], errors[layer_of(name)] = mask, _errors(W, layer.split(mask), layer.split(new), H)
        write(model, {name: new})
        mask_backend_of(model).apply(model, {name: mask})
    return masks, errors


def write(model: Any, arrays: Mapping[str, np.ndarray]) -> None:
    """Give the named weights these values; the others keep theirs."""
    backend = backend_of(model)
    backend.set_weights(model, {**backend.get_weights(model), **arrays})


def _errors(W: np.ndarray, mask: np.ndarray, new: np.ndarray, H: np.ndarray) -> tuple[float, float]:
    """Squared changes of the outputs by the mask alone and by the new weights, relative to the outputs'."""
    groups = range(len(H))
    size = sum(spread(W[g], H[g]) for g in groups)
    changes = [
        sum(layer_error(W[g], changed[g], H[g]) for g in groups) for changed in (np.where(mask, W, 0.0), new)
    ]
    return (changes[0] / size, changes[1] / size) if size else (0.0, 0.0)


class _Columns:
    """A kernel (out, in, *spatial) as the matrices of its groups, (groups, out / groups, d), and back.

    Of a convolution d counts inputs, then entries. For n:m the inputs have to come last, since it is they of
    which n in every m are kept: `last_inputs`.
    """

    def __init__(self, shape: tuple[int, ...], groups: int, *, last_inputs: bool) -> None:
        self.shape, self.groups = shape, groups
        width = int(np.prod(shape[1:]))
        order = np.arange(width).reshape(shape[1] if len(shape) > 1 else 1, -1)
        self.order = order.T.ravel() if last_inputs else order.ravel()

    def split(self, array: np.ndarray) -> np.ndarray:
        parts = array.reshape(self.groups, len(array) // self.groups, -1)
        # Indices alone would leave the axes in another order in memory.
        return np.ascontiguousarray(parts[:, :, self.order])

    def reordered(self, H: np.ndarray) -> np.ndarray:
        if np.array_equal(self.order, np.arange(len(self.order))):
            return H
        return H[:, self.order[:, None], self.order]

    def joined(self, parts: Sequence[np.ndarray]) -> np.ndarray:
        together = np.stack(parts)
        whole = np.empty_like(together)
        whole[:, :, self.order] = together
        return whole.reshape(self.shape)


def equal_parts(count: int, gone: Sequence[int], size: int) -> list[int]:
    """How many of `count` each group of `size` weights loses: alike, but none less than it lost before.

    Example:
        >>> equal_parts(7, [0, 0, 5], 6)
        [1, 1, 5]
    """
    before = np.array(gone)
    level = (
        bisect.bisect_right(range(size + 1), count, key=lambda each: int(np.maximum(before, each).sum())) - 1
    )
    parts = np.maximum(before, max(level, 0))
    parts[np.flatnonzero(before <= level)[: count - int(parts.sum())]] += 1
    return parts.tolist()
