"""One layer's squared error: what a change of its weights costs, and the best values of those that stay.

A layer W (out, d) that reads rows x of calibration data is changed to W' at the cost of
mean |W x - W' x|^2 = (W - W') H (W - W')^T, with H = X^T X / rows: all that the data say is in H. Arrays are
float64. A convolution is such a layer on its columns. Chapter 12 teaches it.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from scipy import linalg

from nnopt_lib.checks import check_int, check_number, refuse

Pattern = tuple[int, int]  # n of every m consecutive columns are kept

# A pivot of the Cholesky factor is what the columns before leave unexplained of a column, as a share of its
# own square. float32 data that depend linearly leave 1e-14, the sums of H in float64 less.
_SINGULAR = 1e-12


def layer_error(W: np.ndarray, new: np.ndarray, H: np.ndarray) -> float:
    """Mean squared change of a layer's outputs when its weights W become `new`; over outputs and rows.

    Example:
        >>> layer_error(np.array([[1.0, 2.0]]), np.array([[1.0, 0.0]]), np.eye(2))
        4.0
    """
    change = np.asarray(W, np.float64) - new
    # Rounding can bring a sum of squares a little below 0.
    return max(float(np.vdot(change @ H, change)), 0.0) / len(change)


def spread(W: np.ndarray, H: np.ndarray) -> float:
    """Mean square of a layer's outputs without bias: what `layer_error` is divided by to be relative.

    Example:
        >>> spread(np.array([[1.0, 2.0]]), np.eye(2))
        5.0
    """
    return layer_error(W, np.zeros_like(W), H)


# ---------------------------------------------------------------- what all methods begin with


@dataclasses.dataclass
class Layer:
    """What a method is given, checked. With n:m the runs say what leaves, not `left`."""

    W: np.ndarray  # a copy
    H: np.ndarray  # with dampening; inputs that are always 0 stand apart, with 1 on the diagonal
    gone: np.ndarray  # (out, d): removed earlier, or as weights of inputs that are always 0
    open: np.ndarray  # (out, d): what can still leave
    left: int  # how many of these have to
    dead: int  # how many inputs are always 0
    name: str  # in errors


def checked(
    W: np.ndarray,
    H: np.ndarray,
    keep: np.ndarray | None,
    count: int | None,
    dampening: float,
    n_m: Pattern | None,
    name: str,
) -> Layer:
    """The arguments of a method, as it works with them; what it cannot work with is refused."""
    check_number("dampening", dampening, at_least=0)
    W, H = np.array(W, np.float64), np.array(H, np.float64)
    for what, array in (("weights", W), ("calibration data", H)):
        if not np.isfinite(array).all():
            refuse(f"{what} of {name} must be finite", "NaN or infinity")
    keep = np.ones(W.shape, bool) if keep is None else keep
    diagonal = H.diagonal().copy()
    dead = diagonal <= 0
    H[dead] = H[:, dead] = 0
    H[np.diag_indices_from(H)] = np.where(dead, 1.0, diagonal + dampening * diagonal.mean())
    if n_m:
        gone, left = _gone_of_runs(keep, dead, n_m, name), 0
    else:
        gone, left = _gone(keep, dead, check_int("count", count, at_least=0, at_most=W.size), name)
    return Layer(W, H, gone, ~gone & ~dead, left, int(dead.sum()), name)


def _gone(keep: np.ndarray, dead: np.ndarray, count: int, name: str) -> tuple[np.ndarray, int]:
    """What leaves at no cost (the later, if that is more than `count`), and how much is still to leave."""
    gone = ~keep
    left = count - int(gone.sum())
    if left < 0:
        refuse(
            f"sparsity must not fall, and the previous masks removed {count - left} weights of {name}",
            f"a target of {count}",
            "Pass a higher sparsity, or leave previous out.",
        )
    free = np.flatnonzero(keep & dead)
    free = free[max(len(free) - left, 0) :]
    gone.flat[free] = True  # whatever the order in memory
    return gone, left - len(free)


def _gone_of_runs(keep: np.ndarray, dead: np.ndarray, n_m: Pattern, name: str) -> np.ndarray:
    """The same in every run of m columns, of which m - n leave."""
    n, m = n_m
    if keep.shape[1] % m:
        rule = f"granularity '{n}:{m}' needs inputs in multiples of {m}"
        refuse(rule, f"{name} of shape {keep.shape}", "Leave this layer out by names=.")
    gone = ~keep
    room = m - n - gone.reshape(len(gone), -1, m).sum(2)
    if (room < 0).any():
        refuse(f"of every {m} inputs {n} must be left to keep", f"fewer in the previous mask of {name!r}")
    for late in reversed(range(m)):
        free = keep[:, late::m] & dead[late::m] & (room > 0)
        gone[:, late::m] |= free
        room -= free
    return gone


def cholesky(layer: Layer, *, backward: bool = False) -> np.ndarray:
    """The lower Cholesky factor of H, or of H in backward order; data that leave it singular are refused."""
    H, dead = layer.H[::-1, ::-1] if backward else layer.H, layer.dead
    try:
        factor = linalg.cholesky(H, lower=True)
        pivots = factor.diagonal() ** 2 / H.diagonal()
    except linalg.LinAlgError:
        pivots = np.zeros(1)
    if pivots.min() < _SINGULAR:
        scale = 1 / np.sqrt(H.diagonal())
        *_, rank, _ = linalg.lapack.dpstrf(H * scale * scale[:, None], tol=_SINGULAR)
        refuse(
            f"calibration data must span the inputs of {layer.name} where dampening adds nothing to them",
            f"rank {rank - dead} of {len(H) - dead} inputs" + " that are not always 0" * bool(dead),
            "Pass dampening=0.01, or more calibration data.",
        )
    return factor


# ---------------------------------------------------------------- the best values of what is kept


def least_squares(
    W: np.ndarray, H: np.ndarray, mask: np.ndarray, *, dampening: float = 0.01, name: str = "the layer"
) -> np.ndarray:
    """The weights that change a layer's outputs least among those that are 0 where `mask` removes.

    It is what removing one weight after the other by OBS comes to, in any order. With dampening the change
    of the weights is held small too; the layer's error never is above that of the mask alone.

    Parameters:
        W: weights, (out, d).
        H: X^T X / rows of what the layer reads, (d, d).
        mask: boolean, (out, d), True = keep.
        dampening: what is added to H's diagonal, relative to its mean.
        name: the layer's name in errors.

    Returns a new float64 array. Errors: data that do not span the inputs with dampening 0.

    Example:
        >>> H = np.array([[1.0, 0.5], [0.5, 1.0]])
        >>> least_squares(np.array([[2.0, 1.0]]), H, np.array([[True, False]]), dampening=0)
        array([[2.5, 0. ]])

    Source: the closed form of Hassibi and Stork (1993) for several weights at once.
    """
    layer = checked(W, H, None, 0, dampening, None, name)
    inverse = linalg.cho_solve((cholesky(layer), True), np.eye(len(layer.H)))
    return refitted(layer.W, layer.H, inverse, mask)


def refitted(W: np.ndarray, H: np.ndarray, inverse: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """`least_squares` for a matrix H that was checked, with its inverse."""
    new = np.where(mask, W, 0.0)
    for row, kept in enumerate(mask):
        gone = ~kept
        lost = W[row, gone]
        if not lost.any() or not kept.any():
            continue
        # Two forms of one solution; the smaller system is solved.
        if 2 * len(lost) > len(kept):
            change = linalg.solve(H[np.ix_(kept, kept)], H[np.ix_(kept, gone)] @ lost, assume_a="pos")
        else:
            change = -inverse[np.ix_(kept, gone)] @ linalg.solve(
                inverse[np.ix_(gone, gone)], lost, assume_a="pos"
            )
        new[row, kept] += change
    return new
