"""The curvature of a loss at its weights: diagonal, whole inverse, inverse by Woodbury; what to remove by it.

Plain float64 arrays on flat weights ``w`` (n,); nothing here knows a model. Near a minimum the loss rises by
1/2 d^T H d where weights move by d: optimal brain damage reads the diagonal of H, the surgeon its inverse.
Chapter 12 teaches them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from scipy import linalg

from nnopt_lib.checks import refuse
from nnopt_lib.pruning.layerwise import greedy
from nnopt_lib.pruning.squares import refitted

LARGEST = 5_000  # weights whose whole matrix is inverted: 200 MB, and as much again while it is
NETWORK = "network"  # as a block
_PART = 1 << 12  # columns at a time, so that what is made on the way stays small


def weighted_rows(outputs: np.ndarray, slopes: np.ndarray, loss: str) -> np.ndarray:
    """Rows R (O, n) of one example with R^T R = J^T B J, the Gauss-Newton matrix of its loss.

    Parameters:
        outputs: what the network gives, (O,); logits for ``"cross_entropy"``.
        slopes: their Jacobian J by the weights, (O, n).
        loss: ``"mse"``, the mean over outputs of squared errors: B = 2/O; or ``"cross_entropy"`` of a
            softmax: B = diag(p) - p p^T. Neither depends on labels.

    Source: Schraudolph 2002, generalizing the matrix that LeCun et al. (1989) and Hassibi & Stork (1993) use.

    Example:
        >>> weighted_rows(np.zeros(2), np.eye(2), "mse")
        array([[1., 0.],
               [0., 1.]])
    """
    slopes = np.asarray(slopes, np.float64)
    if loss == "mse":
        return slopes * np.sqrt(2 / len(outputs))
    logits = np.asarray(outputs, np.float64)
    p = np.exp(logits - logits.max())
    p /= p.sum()
    return np.sqrt(p)[:, None] * (slopes - p @ slopes)  # (s - s p^T)^T (s - s p^T) = diag(p) - p p^T


def diagonal(rows: Iterable[np.ndarray], size: int) -> np.ndarray:
    """Mean over examples of the diagonals of R^T R, (n,); an example's rows R are (any number, n).

    Example:
        >>> diagonal([np.array([[1.0, 2.0]]), np.array([[3.0, 0.0]])], 2)
        array([5., 2.])
    """
    total, examples = np.zeros(size), 0
    for one in rows:
        total += np.einsum("on,on->n", one, one)
        examples += 1
    return total / max(examples, 1)


def gauss_newton(rows: Iterable[np.ndarray], size: int) -> np.ndarray:
    """Mean over examples of R^T R, (n, n).

    Example:
        >>> gauss_newton([np.array([[1.0, 2.0]]), np.array([[3.0, 0.0]])], 2)
        array([[5., 1.],
               [1., 2.]])
    """
    total, waiting, examples = np.zeros((size, size)), [], 0
    for one in rows:
        waiting.append(one)
        examples += 1
        if sum(map(len, waiting)) >= 256:  # many at a time: one product of matrices instead of many
            stacked = np.concatenate(waiting)
            total += stacked.T @ stacked
            waiting = []
    if waiting:
        stacked = np.concatenate(waiting)
        total += stacked.T @ stacked
    return total / max(examples, 1)


def damage(w: np.ndarray, curvature: np.ndarray) -> np.ndarray:
    """What removing each weight alone costs by the diagonal of the curvature, w_q^2 h_q / 2, (n,).

    Source: LeCun, Denker & Solla 1989, equation 5. Nothing else moves, so costs of several add up.

    Example:
        >>> damage(np.array([2.0, 1.0]), np.array([0.5, 4.0]))
        array([1., 2.])
    """
    return 0.5 * w**2 * curvature


# ------------------------------------------------------------------ the whole inverse


def inverse(matrix: np.ndarray, dampening: float) -> np.ndarray:
    """The inverse of ``matrix + dampening * I``, symmetric; refused where it has none, with the remedy.

    Example:
        >>> inverse(np.diag([1.0, 3.0]), 1.0)
        array([[0.5 , 0.  ],
               [0.  , 0.25]])
    """
    damped = np.array(matrix, np.float64)
    damped.flat[:: len(damped) + 1] += dampening
    largest = float(np.abs(damped).sum(0).max(initial=0.0))
    factor, failed = linalg.lapack.dpotrf(damped, lower=1, clean=1)
    spanning = not failed and linalg.lapack.dpocon(factor, largest, uplo="L")[0] > 1e-14
    if not spanning:
        rule = "examples must span all weights for their curvature to have an inverse"
        received = f"examples that leave directions flat, and dampening={dampening:g}"
        refuse(rule, received, "Pass more examples, or a larger dampening.")
    lower, _ = linalg.lapack.dpotri(factor, lower=1)
    return np.tril(lower) + np.tril(lower, -1).T


def surgeon(
    w: np.ndarray, matrix: np.ndarray, dampening: float, group: np.ndarray, quota: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Optimal brain surgery: weights go one at a time, and all that are left make up for each.

    Parameters:
        w: the weights, (n,).
        matrix: their curvature, (n, n); `dampening` is added to its diagonal.
        group, quota: weight q belongs to group ``group[q]``, of which ``quota[group[q]]`` are to go.

    Each time the weight of lowest w_q^2 / (2 [H^-1]_qq) goes, of equal ones the last; the others move by
    -w_q [H^-1]_:q / [H^-1]_qq, and q is eliminated from the inverse. Returns the mask (True = keep), the new
    weights (by least squares on what is kept, which the single moves come to), the weights in order of
    removal, and what each removal costs. Errors: those of `inverse`. Source: Hassibi & Stork 1993,
    equations 5 and 6.

    Example:
        >>> w, one_group = np.array([2.0, 1.0]), np.zeros(2, int)
        >>> surgeon(w, np.array([[1.0, 0.5], [0.5, 1.0]]), 0.0, one_group, np.array([1]))
        (array([ True, False]), array([2.5, 0. ]), array([1]), array([0.375]))
    """
    inverted = inverse(matrix, dampening)
    order, costs = greedy(np.asarray(w, np.float64), inverted, group, quota)
    mask = np.ones(len(w), bool)
    mask[order] = False
    damped = matrix + dampening * np.eye(len(w))
    new = refitted(np.asarray(w, np.float64)[None], damped, inverted, mask[None])[0]
    return mask, new, order, costs / 2


# ------------------------------------------------------------------ the inverse by Woodbury


def blocks_of(sizes: Sequence[int], block_size: int | str | None) -> list[slice]:
    """Where the blocks of the curvature stand among flat weights, of layers of these sizes.

    block_size: None for a block of each layer, ``"network"`` for one of all, or how many weights of a layer
    are in one at most.

    Example:
        >>> blocks_of([3, 2], 2)
        [slice(0, 2, None), slice(2, 3, None), slice(3, 5, None)]
    """
    if block_size == NETWORK:
        return [slice(0, sum(sizes))]
    blocks, begin = [], 0
    for size in sizes:
        step = block_size if isinstance(block_size, int) else size
        blocks += [slice(one, min(one + step, begin + size)) for one in range(begin, begin + size, step or 1)]
        begin += size
    return blocks


class Woodbury:
    """The inverse of F = dampening * I + G^T G / N, held as G and a factor of an N x N matrix.

    Parameters:
        gradients: G, one row for each of N examples, (N, n); kept, not copied and not changed.
        dampening: above 0, in the units of the curvature.

    F^-1 = (I - G^T (N dampening I + G G^T)^-1 G) / dampening, so neither F nor its inverse is ever made.
    Source: Singh & Alistarh 2020, equation 6, who add one gradient after the other to the dense inverse; all
    at once is the same matrix.

    Example:
        >>> Woodbury(np.array([[1.0, 1.0]]), 0.5).diagonal()
        array([1.2, 1.2])
    """

    def __init__(self, gradients: np.ndarray, dampening: float) -> None:
        self.gradients, self.dampening = gradients, dampening
        small = gradients @ gradients.T
        small.flat[:: len(small) + 1] += len(gradients) * dampening
        self.factor = linalg.cholesky(small, lower=True, overwrite_a=True)

    def __matmul__(self, vectors: np.ndarray) -> np.ndarray:
        """F^-1 times vectors, (n,) or (n, k)."""
        inside = linalg.cho_solve((self.factor, True), self.gradients @ vectors)
        return (vectors - self.gradients.T @ inside) / self.dampening

    def diagonal(self) -> np.ndarray:
        """The diagonal of F^-1, (n,)."""
        size = self.gradients.shape[1]
        squares = np.empty(size)
        for begin in range(0, size, _PART):
            part = slice(begin, begin + _PART)
            solved = linalg.solve_triangular(self.factor, self.gradients[:, part], lower=True)
            squares[part] = np.einsum("ij,ij->j", solved, solved)
        return (1 - squares) / self.dampening


def make_up(
    w: np.ndarray, gradients: np.ndarray, removed: np.ndarray, dampening: float
) -> tuple[np.ndarray, float]:
    """How the kept weights move, (n,), 0 at `removed`, when those go together; and what it costs.

    The best move F_KK^-1 F_KQ w_Q is, by Woodbury on the kept columns alone, G_K^T S^-1 r with r = G_Q w_Q
    and S = N dampening I + G_K G_K^T: it keeps each example's loss, to first order, as it was. Its cost,
    1/2 d^T F d, is dampening / 2 (w_Q^T w_Q + r^T S^-1 r).

    Example:
        >>> w, gradients = np.array([1.0, 0.0]), np.array([[1.0, 1.0]])
        >>> make_up(w, gradients, np.array([True, False]), 1.0)
        (array([0. , 0.5]), 0.75)
    """
    missing = np.where(removed, w, 0.0)
    residual = gradients @ missing
    kept = gradients[:, ~removed]
    small = kept @ kept.T
    small.flat[:: len(small) + 1] += len(gradients) * dampening
    inside = linalg.solve(small, residual, assume_a="pos")
    move = np.zeros(len(w))
    move[~removed] = kept.T @ inside
    return move, 0.5 * dampening * float(missing @ missing + residual @ inside)


def fisher_costs(
    w: np.ndarray, gradients: np.ndarray, blocks: Sequence[slice], dampening: float
) -> np.ndarray:
    """What removing each weight alone costs when the others make up for it, w_q^2 / (2 [F^-1]_qq), (n,).

    F is the empirical Fisher matrix of `gradients` (N, n), cut to `blocks`. Source: Singh & Alistarh 2020.
    """
    costs = np.empty(len(w))
    for block in blocks:
        costs[block] = 0.5 * w[block] ** 2 / Woodbury(gradients[:, block], dampening).diagonal()
    return costs


def fisher_update(
    w: np.ndarray, gradients: np.ndarray, blocks: Sequence[slice], dampening: float, removed: np.ndarray
) -> tuple[np.ndarray, float]:
    """The weights after `removed` have gone together and the others have made up for them; and the cost.

    The authors add the moves that each removed weight alone would ask for, and mask; this is the best move
    for the whole set, see `make_up`. Chapter 12 compares the two.
    """
    new, cost = np.where(removed, 0.0, w), 0.0
    for block in blocks:
        if removed[block].any():
            move, more = make_up(w[block], gradients[:, block], removed[block], dampening)
            new[block] += move
            cost += more
    return new, cost


def single_updates(
    w: np.ndarray, gradients: np.ndarray, blocks: Sequence[slice], dampening: float, removed: np.ndarray
) -> np.ndarray:
    """The authors' update: the sum of what each removed weight alone asks for, then the mask.

    Kept for comparison: where removed weights are correlated, each is made up for more than once.
    """
    new = np.where(removed, 0.0, w)
    for block in blocks:
        inverse = Woodbury(gradients[:, block], dampening)
        scaled = np.where(removed[block], w[block] / inverse.diagonal(), 0.0)
        new[block] -= np.where(removed[block], 0.0, inverse @ scaled)
    return new
