"""Pruning layer by layer: which weights leave a layer so that its outputs on calibration data change least.

`squares.py` says what a change costs. Three methods choose: greedily with exact updates (obc), in the order
of the columns with updates of those behind (sparsegpt), by scores alone (wanda). Chapter 12 teaches them.
"""

from __future__ import annotations

import math

import numpy as np
from scipy import linalg

from nnopt_lib.checks import check_fraction, check_int, refuse
from nnopt_lib.pruning.squares import (
    Layer,
    Pattern,
    checked,
    cholesky,
    layer_error,
    least_squares,
    refitted,
    spread,
)
from nnopt_lib.pruning.topk import Selection, best_of_runs

__all__ = ["greedy", "layer_error", "least_squares", "obc", "sparsegpt", "spread", "wanda"]

_DELAYED = 32  # removals of one row between two updates of its inverse, each one product of matrices


# ---------------------------------------------------------------- obc


def obc(
    W: np.ndarray,
    H: np.ndarray,
    *,
    count: int | None = None,
    dampening: float = 0.01,
    n_m: Pattern | None = None,
    keep: np.ndarray | None = None,
    name: str = "the layer",
) -> tuple[np.ndarray, np.ndarray]:
    """Remove weights one by one, each time the one of a row that costs least, and update the row's others.

    Parameters:
        W: weights, (out, d).
        H: X^T X / rows of what the layer reads, (d, d).
        count: how many weights of the layer are removed in the end, those of `keep` among them. Rows lose in
            their own order as many as the costs recorded there say. Left out with `n_m`.
        dampening: what is added to H's diagonal, relative to its mean.
        n_m: (n, m) keeps n of every m consecutive columns in each row. Of a convolution's columns the inputs
            have to come last, then.
        keep: boolean, (out, d), False where weights were removed before. They stay removed.
        name: the layer's name in errors.

    Returns the mask (True = keep) and the new weights, by least squares on what is kept, which the single
    steps come to. Weights of inputs that are always 0 go first. At equal cost the later weight goes first.
    Time grows with out * d^3 / 3; beside H there are three arrays of its size. Errors: data that do not span
    the inputs with dampening 0; a count out of range; inputs that m does not divide.

    Example:
        >>> H = np.array([[1.0, 0.5], [0.5, 1.0]])
        >>> mask, new = obc(np.array([[2.0, 1.0]]), H, count=1, dampening=0)
        >>> mask, new
        (array([[ True, False]]), array([[2.5, 0. ]]))

    Source: Frantar, Singh & Alistarh (2022), algorithms 1 and 2. An inverse is updated here after 32
    removals, not after each.
    """
    layer = checked(W, H, keep, count, dampening, n_m, name)
    inverse = linalg.cho_solve((cholesky(layer), True), np.eye(len(layer.H)))
    costs, orders = np.full(layer.W.shape, math.inf), []
    for row, free in enumerate(layer.open):
        columns = np.flatnonzero(free)
        runs, room = np.zeros(len(columns), int), np.array([len(columns)])
        if n_m:
            runs, room = columns // n_m[1], n_m[1] - n_m[0] - layer.gone[row].reshape(-1, n_m[1]).sum(1)
        order, cost = greedy(*_start(layer, inverse, row), runs, room)
        costs[row, : len(order)] = cost
        orders.append(columns[order])
    mask = ~layer.gone
    lost = [len(order) for order in orders] if n_m else _shares(costs, layer.left)
    for row, (order, number) in enumerate(zip(orders, lost, strict=True)):
        mask[row, order[:number]] = False
    return mask, refitted(layer.W, layer.H, inverse, mask)


def _start(layer: Layer, inverse: np.ndarray, row: int) -> tuple[np.ndarray, np.ndarray]:
    """The weights of a row that can still leave, and their part of the inverse, after what is gone."""
    kept, free = ~layer.gone[row], layer.open[row]
    W = refitted(layer.W[row : row + 1], layer.H, inverse, kept[None])[0]
    if layer.H[np.ix_(kept, ~kept)].any():
        inverse = linalg.inv(layer.H[np.ix_(kept, kept)])
        return W[free], inverse[np.ix_(free[kept], free[kept])]
    return W[free], inverse[np.ix_(free, free)]


def _shares(costs: np.ndarray, count: int) -> np.ndarray:
    """How many weights each row loses if always the row loses next whose next weight costs least.

    After a dear weight a row's next ones may be cheap, and go at once: so a weight's turn comes with the
    largest cost up to it. At equal cost it is the later row's turn.
    """
    turns = np.maximum.accumulate(costs[::-1], 1)
    rows = np.argsort(turns, axis=None, kind="stable")[:count] // costs.shape[1]
    return np.bincount(rows, minlength=len(costs))[::-1]


def greedy(
    w: np.ndarray, inverse: np.ndarray, runs: np.ndarray, room: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The order in which OBS removes one row's weights, and by how much each raises the squared error.

    Each step removes the weight q of least w_q^2 / [H^-1]_qq and subtracts (w_q / [H^-1]_qq) [H^-1]_:q from
    the others. `runs` says of which run a weight is, `room` how many of each run leave.
    """
    order: list[int] = []
    costs: list[float] = []
    w, room, left, steps = w.copy(), room.copy(), np.arange(len(w)), int(room.sum())
    while len(order) < steps:
        # The inverse is inverse - V V^T, one column for each step since it was last computed.
        V = np.empty((len(left), min(_DELAYED, steps - len(order))))
        diagonal, here = inverse.diagonal().copy(), np.ones(len(left), bool)
        for step in range(V.shape[1]):
            scores = np.where(here & (room[runs[left]] > 0), w * w / diagonal, math.inf)
            q = len(scores) - 1 - int(np.argmin(scores[::-1]))
            root = math.sqrt(diagonal[q])
            v = V[:, step] = (inverse[:, q] - V[:, :step] @ V[q, :step]) / root
            order.append(left[q])
            costs.append(scores[q])
            w -= w[q] / root * v
            diagonal -= v * v
            here[q] = False
            # Rounding may not make a column of an ill-conditioned inverse explained by more than itself.
            np.maximum(diagonal, np.finfo(float).tiny, out=diagonal)
            room[runs[left[q]]] -= 1
        inverse = inverse[np.ix_(here, here)] - V[here] @ V[here].T
        w, left = w[here], left[here]
    return np.array(order, int), np.array(costs)


# ---------------------------------------------------------------- sparsegpt


def sparsegpt(
    W: np.ndarray,
    H: np.ndarray,
    *,
    count: int | None = None,
    dampening: float = 0.01,
    block: int = 128,
    n_m: Pattern | None = None,
    keep: np.ndarray | None = None,
    name: str = "the layer",
) -> tuple[np.ndarray, np.ndarray]:
    """Go through the columns once, in their order, and let those behind make up for what is removed.

    Parameters:
        W, H, count, dampening, n_m, keep, name: as in `obc`.
        block: for how many columns at a time the weights to remove are chosen. Each block loses its share of
            `count`, wherever in the block it costs least. With `n_m`, each run is chosen when its turn comes.

    Returns the mask (True = keep) and the new weights. All rows share one factor of the inverse, so time
    grows with d^3 + out * d^2. Weights of inputs that are always 0 go first. Errors: as in `obc`.

    Example:
        >>> H = np.array([[1.0, 0.5], [0.5, 1.0]])
        >>> mask, new = sparsegpt(np.array([[1.0, 2.0]]), H, count=1, dampening=0)
        >>> mask, new
        (array([[False,  True]]), array([[0. , 2.5]]))

    Source: Frantar & Alistarh (2023), algorithm 1; blocks of choice and of updates are one here, and a
    block's count is exact.
    """
    check_int("block", block, at_least=1)
    layer = checked(W, H, keep, count, dampening, n_m, name)
    U = _inverse_factor(layer)
    width = layer.W.shape[1]
    block = max(block // n_m[1], 1) * n_m[1] if n_m else block
    edges = [*range(0, width, block), width]
    # Columns lie one after the other in memory, since they are what is worked on.
    left, mask = np.ascontiguousarray(layer.W.T), ~layer.gone.T
    for (start, stop), number in zip(zip(edges, edges[1:], strict=False), _quotas(layer, edges), strict=True):
        if number:
            scores = (left[start:stop] / U.diagonal()[start:stop, None]) ** 2
            mask[start:stop] &= _all_but(scores.T, layer.open[:, start:stop], number).T
        lost = np.empty((stop - start, len(W)))
        for i in range(start, stop):
            if n_m and i % n_m[1] == 0:
                run = slice(i, i + n_m[1])
                scores = (left[run] / U.diagonal()[run, None]) ** 2
                mask[run] = best_of_runs(name, scores.T, *n_m, {name: ~layer.gone[:, run]}).T
            lost[i - start] = np.where(mask[i], 0.0, left[i]) / U[i, i]
            left[i:stop] -= np.outer(U[i, i:stop], lost[i - start])
        left[stop:] -= U[start:stop, stop:].T @ lost
    return np.ascontiguousarray(mask.T), np.ascontiguousarray(np.where(mask, left, 0.0).T)


def _inverse_factor(layer: Layer) -> np.ndarray:
    """The upper triangle U with H^-1 = U^T U; U[i, i:] is what the removal of column i does to those behind.

    From the factor of H with its order turned round, so that the inverse is never formed.
    """
    factor = cholesky(layer, backward=True)
    inverse, _ = linalg.lapack.dtrtri(factor, lower=1)
    return np.ascontiguousarray(inverse[::-1, ::-1])


def _quotas(layer: Layer, edges: list[int]) -> list[int]:
    """How many weights each block of columns loses: in all, exactly what is left to remove."""
    sizes = np.cumsum([0, *layer.open.sum(0)])[edges]
    return np.diff([round(layer.left * int(size) / max(int(sizes[-1]), 1)) for size in sizes]).tolist()


def _all_but(scores: np.ndarray, among: np.ndarray, number: int) -> np.ndarray:
    """True, but False at the `number` lowest scores of those `among` which is chosen (the later if equal)."""
    return Selection({"": scores}, [""], {"": among}).masks(number)[""] | ~among


# ---------------------------------------------------------------- wanda


def wanda(
    W: np.ndarray,
    H: np.ndarray,
    *,
    sparsity: float | None = None,
    n_m: Pattern | None = None,
    keep: np.ndarray | None = None,
    name: str = "the layer",
) -> tuple[np.ndarray, np.ndarray]:
    """Remove in each row what has the least |weight| times norm of its input; the others stay as they are.

    Parameters:
        W, H, n_m, keep, name: as in `obc`.
        sparsity: the fraction of each row to remove: exactly ``round(sparsity * d)``, half to even, those of
            `keep` among them. Left out with `n_m`.

    Returns the mask (True = keep) and the masked weights. At equal score the later weight goes. Errors: a row
    that lost more before; inputs that m does not divide.

    Example:
        >>> wanda(np.array([[1.0, 2.0]]), np.diag([9.0, 1.0]), sparsity=0.5)[0]
        array([[ True, False]])

    Source: Sun, Liu, Bair and Kolter (2024), equation 1.
    """
    layer = checked(W, H, keep, 0 if keep is None else int((~keep).sum()), 0.0, n_m, name)
    earlier = ~layer.gone if keep is None else keep
    scores = np.abs(layer.W) * np.sqrt(np.maximum(np.diagonal(H), 0.0))
    if n_m:
        mask = best_of_runs(name, scores, *n_m, {name: earlier})
        return mask, np.where(mask, layer.W, 0.0)
    number = round(check_fraction("sparsity", sparsity) * scores.shape[1])
    most = int((~earlier).sum(1).max(initial=0))
    if most > number:
        refuse(
            f"wanda removes the same number in each row, and the previous masks removed {most} weights of one"
            f" row of {name}",
            f"a target of {number}",
            "Pass a higher sparsity, or leave previous out.",
        )
    scores[~earlier] = -1.0
    lowest = scores.shape[1] - 1 - np.argsort(scores[:, ::-1], axis=1, kind="stable")[:, :number]
    mask = np.ones(scores.shape, bool)
    np.put_along_axis(mask, lowest, False, 1)
    return mask, np.where(mask, layer.W, 0.0)
