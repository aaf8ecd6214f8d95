"""The edit that gives a layer more units or filters; chapter 04 teaches it."""

from __future__ import annotations

import numpy as np

from nnopt_lib.checks import check_choice, check_int, refuse
from nnopt_lib.structure.edits.resize import Resized, resizable, resize
from nnopt_lib.structure.spec import NetSpec, split_name
from nnopt_lib.structure.weights import Weights, check_weights, initial_weights


def widen(
    spec: NetSpec,
    node: str,
    width: int,
    *,
    weights: Weights | None = None,
    preserve: bool = True,
    shares: str = "drawn",
    seed: int = 0,
) -> tuple[NetSpec, dict[str, np.ndarray] | None]:
    """Give a layer more units or filters; layers that are coupled with it (additions, gates) follow.

    Parameters:
        spec: the network. node: a dense layer or a convolution. width: more than it has.
        weights: of `spec`. With `preserve` the new nodes are copies of nodes drawn by `seed`, and what reads
            them shares its weights among the copies; without it they are drawn like first weights.
        shares: ``"drawn"`` (by `seed`), for each weight anew, or ``"equal"``, as Chen, Goodfellow & Shlens
            (2016) do before they add noise. Copies with equal shares get equal gradients, and without noise
            stay copies for ever; drawn shares let them part, and keep the function.

    Returns the new description and its weights, new arrays, or None without `weights`. Errors: no such layer,
    a width that is not larger, nodes that must stay as they are (`couple` says which).

    Example:
        >>> from nnopt_lib import mlp
        >>> wider, _ = widen(mlp((8,), inputs=4, outputs=2), "dense_1", 12)
        >>> wider.parameter_shapes()["dense_1/kernel"], wider.parameter_shapes()["dense_2/kernel"]
        ((12, 4), (2, 12))
    """
    check_choice("shares", shares, ("drawn", "equal"))
    coupling, numbers = resizable(spec, node)
    have = len(numbers)
    if check_int("width", width, at_least=1) <= have:
        refuse(f"widen needs more than the {have} nodes that {node!r} has", width)
    random = np.random.default_rng(check_int("seed", seed, at_least=0))
    drawn = random.choice(numbers, width - have)
    # Each node once, and once more for each time that it was drawn.
    copies = 1 + np.bincount(drawn, minlength=coupling.size)
    resized = resize(coupling, copies)
    wider = resized.spec()
    if weights is None:
        return wider, None
    # The generator that drew the copies draws the shares: one seed decides all of an edit.
    draws = random if shares == "drawn" else None
    carried = resized.weights(check_weights(spec, weights), divide=preserve, random=draws)
    if not preserve:
        _redraw_copies(resized, carried, initial_weights(wider, seed))
    return wider, carried


def _redraw_copies(resized: Resized, carried: dict[str, np.ndarray], fresh: Weights) -> None:
    """Write `fresh` over the rows and columns of all copies, in place."""
    for name, value in carried.items():
        layer, part = split_name(name)
        node, rows = resized.before.node(layer), _copies(resized.index[layer])
        value[rows] = fresh[name][rows]
        if part == "kernel" and node.groups == 1:  # a depthwise kernel has no columns of its inputs
            columns = _copies(resized.index[node.inputs[0]])
            value[:, columns] = fresh[name][:, columns]


def _copies(index: np.ndarray) -> np.ndarray:
    """Where an entry was there before: boolean, of the same shape."""
    again = np.ones(len(index), bool)
    again[np.unique(index, return_index=True)[1]] = False
    return again
