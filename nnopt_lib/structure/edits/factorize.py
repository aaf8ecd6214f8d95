"""The edit that puts a product of small layers in the place of a large one; chapter 18 teaches it.

A dense layer becomes two by its singular value decomposition. A convolution becomes three by Tucker-2 (Kim et
al. 2016): 1-wide to fewer channels, the core of the old width between few channels, 1-wide to all of them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from nnopt_lib.checks import check_fraction, check_int, refuse
from nnopt_lib.structure.graph import Graph
from nnopt_lib.structure.operations import Shape
from nnopt_lib.structure.spec import NetSpec, Node
from nnopt_lib.structure.weights import Weights, check_weights

Rank = tuple[int, ...]  # (rank,) of a matrix, (of outputs, of inputs) of a convolution's kernel
_SWEEPS = 5  # the first does most; beyond five, errors of 20 random kernels fell by 0.008 at most


def factorize(
    spec: NetSpec,
    name: str,
    *,
    rank: int | tuple[int, int] | None = None,
    error: float | None = None,
    macs: int | None = None,
    weights: Weights | None = None,
) -> tuple[NetSpec, dict[str, np.ndarray] | None]:
    """Replace a dense layer by two smaller ones, or a convolution by three, whose product is nearly its own.

    Parameters:
        spec: the network. name: a dense layer, or a convolution without groups. The last of the new layers
            has its name and its bias; `name_first` (and `name_core`, with stride and padding) have none.
        rank: channels between the new layers: one number for a dense layer, (of outputs, of inputs) for a
            convolution. At full rank the outputs stay what they were.
        error: in place of a rank, the largest relative error of the kernel, sizes as roots of summed squares,
            in [0, 1); the rank of fewest MACs that keeps it. For a convolution errors are those of the
            higher-order SVD, which a few sweeps of orthogonal iteration then make smaller.
        macs: in place of a rank, the MACs of the new layers together, for one example; of the ranks that fit
            the one of least error, which for a dense layer is the largest.
        weights: of `spec`; needed for `error` and `macs`.

    Returns the new description and its weights, new arrays, or None without `weights`. Errors: no such layer,
    groups, a rank above the full one, not exactly one of rank, error and macs, MACs that not even rank 1 has,
    weights that are not finite. Sources: Eckart & Young 1936; De Lathauwer et al. 2000; Kim et al. 2016.

    Example:
        >>> from nnopt_lib import lenet_300_100
        >>> smaller, _ = factorize(lenet_300_100(), "dense_1", rank=20)
        >>> smaller.parameter_shapes()["dense_1_first/kernel"], smaller.parameter_shapes()["dense_1/kernel"]
        ((20, 784), (300, 20))
    """
    node = _factorizable(spec, name)
    given = [what for what, value in (("rank", rank), ("error", error), ("macs", macs)) if value is not None]
    if len(given) != 1:
        refuse("factorize takes one of rank, error and macs", " and ".join(given) or "none")
    carried = None if weights is None else check_weights(spec, weights)
    kernel = None if carried is None else carried.pop(f"{name}/kernel")
    if kernel is not None and not np.isfinite(kernel).all():
        refuse(f"a kernel to factorize must be finite; that of {name!r}", "NaN or infinity")
    if rank is not None:
        ranks = _checked_rank(name, rank, spec.parameter_shapes()[f"{name}/kernel"])
    elif kernel is None:
        refuse(f"a rank by {given[0]} is chosen from the kernel", "no weights", "Pass weights, or a rank.")
    else:
        ranks = _chosen_rank(spec, node, kernel, error, macs)
    layers = _layers(spec, node, ranks)
    position = spec.nodes.index(node)
    factorized = NetSpec(spec.input_shape, (*spec.nodes[:position], *layers, *spec.nodes[position + 1 :]))
    if carried is None or kernel is None:
        return factorized, None
    for layer, factor in zip(layers, factors(kernel, ranks), strict=True):
        carried[f"{layer.name}/kernel"] = factor.astype(np.float32)
    return factorized, {key: carried[key] for key in factorized.parameter_shapes(trainable=False)}


def full_rank(shape: Shape) -> Rank:
    """The largest ranks that a kernel (out, in, *spatial) can have: one of a matrix, else out and in.

    Example:
        >>> full_rank((300, 784)), full_rank((16, 6, 5, 5)), full_rank((32, 3, 3))
        ((300,), (16, 6), (9, 3))
    """
    outputs, inputs, *window = shape
    if not window:
        return (min(outputs, inputs),)
    positions = math.prod(window)
    return min(outputs, inputs * positions), min(inputs, outputs * positions)


def factors(kernel: np.ndarray, rank: Rank) -> tuple[np.ndarray, ...]:
    """Kernels of the layers, first to last, whose product is nearly `kernel` (out, in, *spatial); float64."""
    exact = kernel.astype(np.float64)
    if kernel.ndim == 2:
        left, sizes, right = np.linalg.svd(exact, full_matrices=False)
        # Half of each size to either side, so that both layers train at the same pace.
        roots = np.sqrt(sizes[: rank[0]])
        return roots[:, None] * right[: rank[0]], left[:, : rank[0]] * roots
    out_rank, in_rank = rank
    outputs, inputs = _directions(exact, 0)[:, :out_rank], _directions(exact, 1)[:, :in_rank]
    for _ in range(_SWEEPS):  # each side's best directions for what the other side keeps
        outputs = _directions(_along(exact, inputs, 1), 0)[:, :out_rank]
        inputs = _directions(_along(exact, outputs, 0), 1)[:, :in_rank]
    ones = (1,) * (kernel.ndim - 2)
    core = _along(_along(exact, outputs, 0), inputs, 1)
    return inputs.T.reshape(in_rank, -1, *ones), core, outputs.reshape(-1, out_rank, *ones)


def product(layers: Sequence[np.ndarray]) -> np.ndarray:
    """The kernel (out, in, *spatial) that the factors make together, as `factors` gives them."""
    first, *core, last = layers
    if not core:
        return last @ first
    outputs, inputs = last.reshape(len(last), -1), first.reshape(len(first), -1)
    return _along(_along(core[0], outputs.T, 0), inputs, 1)


def _directions(kernel: np.ndarray, axis: int) -> np.ndarray:
    """All left singular vectors of the kernel unfolded along an axis, largest first, as columns."""
    unfolded = np.moveaxis(kernel, axis, 0).reshape(kernel.shape[axis], -1)
    # Of the square: a wide matrix would have too few left vectors where the other rank is small.
    return np.linalg.eigh(unfolded @ unfolded.T)[1][:, ::-1]


def _along(kernel: np.ndarray, directions: np.ndarray, axis: int) -> np.ndarray:
    """The kernel in coordinates of `directions` (old, new) along an axis."""
    return np.moveaxis(np.tensordot(directions, kernel, axes=(0, axis)), 0, axis)


def _factorizable(spec: NetSpec, name: str) -> Node:
    node = spec.node(name)
    if not node.has_kernel:
        refuse(f"only dense layers and convolutions can be factorized; {name!r}", node.op)
    if node.groups > 1:
        refuse(f"a convolution to factorize must have no groups; {name!r}", f"{node.groups} groups")
    return node


def _checked_rank(name: str, rank: Any, shape: Shape) -> Rank:
    full = full_rank(shape)
    if len(full) == 1:
        return (check_int(f"rank of {name!r}", rank, at_least=1, at_most=full[0]),)
    if not isinstance(rank, (tuple, list)) or len(rank) != 2:
        rule = f"rank of the convolution {name!r} must be two whole numbers, of outputs and of inputs"
        refuse(rule, repr(rank))
    sides = zip(("outputs", "inputs"), rank, full, strict=True)
    return tuple(
        check_int(f"rank of the {side} of {name!r}", number, at_least=1, at_most=most)
        for side, number, most in sides
    )


def _chosen_rank(
    spec: NetSpec, node: Node, kernel: np.ndarray, error: float | None, macs: int | None
) -> Rank:
    """The rank by error or by MACs: looked up in tables of both over all ranks."""
    lost, costs = _lost(kernel), _costs(spec, node, kernel.shape)
    if error is not None:
        fits = lost <= check_fraction("error", error) ** 2 * np.sum(np.square(kernel, dtype=np.float64))
        best = np.lexsort((lost[fits], costs[fits]))[0]  # by MACs, then by what is lost
    else:
        fits = costs <= check_int("macs", macs, at_least=1)
        if not fits.any():
            refuse(f"macs for {node.name!r} must be at least the {costs.min()} that rank 1 needs", macs)
        best = np.lexsort((costs[fits], lost[fits]))[0]
    return tuple(int(index[best]) + 1 for index in np.nonzero(fits))


def _lost(kernel: np.ndarray) -> np.ndarray:
    """The sum of squares that each rank loses: [rank - 1], or [rank of outputs - 1, rank of inputs - 1]."""
    exact = kernel.astype(np.float64)
    if kernel.ndim == 2:
        squares = np.linalg.svd(exact, compute_uv=False) ** 2
        return np.append(np.cumsum(squares[::-1])[::-1][1:], 0.0)
    core = _along(_along(exact, _directions(exact, 0), 0), _directions(exact, 1), 1)
    squares = np.square(core).reshape(*core.shape[:2], -1).sum(-1)
    kept = squares.cumsum(0).cumsum(1)
    out_rank, in_rank = full_rank(kernel.shape)
    kept = kept[:out_rank, :in_rank]
    return np.maximum(kept[-1, -1] - kept, 0.0)


def _costs(spec: NetSpec, node: Node, shape: Shape) -> np.ndarray:
    """The MACs of the new layers for each rank, in the order of `_lost`."""
    outputs, inputs, *window = shape
    if not window:
        return (outputs + inputs) * np.arange(1, full_rank(shape)[0] + 1)
    before, after = (math.prod(spec.shapes[each][1:]) for each in (node.inputs[0], node.name))
    out_rank, in_rank = (np.arange(1, full + 1) for full in full_rank(shape))
    core = math.prod(window) * after * out_rank[:, None] * in_rank
    return inputs * before * in_rank + core + outputs * after * out_rank[:, None]


def _layers(spec: NetSpec, node: Node, rank: Rank) -> tuple[Node, ...]:
    """The nodes in the place of `node`; the last one keeps its name, so that its readers stay as they are."""
    new = Graph(spec.shapes)
    if node.op == "dense":
        first = new.add("dense", *node.inputs, name=f"{node.name}_first", units=rank[0], bias=False)
        return (*new.nodes, replace(node, inputs=(first,)))
    out_rank, in_rank = rank
    moves = {option: node.options[option] for option in ("kernel", "stride", "padding")}
    narrow: dict[str, Any] = {"filters": in_rank, "kernel": 1, "bias": False}
    first = new.add(node.op, *node.inputs, name=f"{node.name}_first", **narrow)
    core = new.add(node.op, first, name=f"{node.name}_core", filters=out_rank, bias=False, **moves)
    wide = {"filters": node.options["filters"], "kernel": 1, "bias": node.options["bias"]}
    return (*new.nodes, Node(node.name, node.op, (core,), wide))
