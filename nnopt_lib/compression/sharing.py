"""Weights that share few values: k-means in one dimension, and models whose weights are written so."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, overload

import numpy as np

from nnopt_lib.checks import check_choice, check_int, refuse
from nnopt_lib.frameworks import backend_of
from nnopt_lib.pruning.masks import Masks
from nnopt_lib.pruning.names import ranked_weights
from nnopt_lib.pruning.prune import fitted
from nnopt_lib.structure.weights import check_match

INITS = ("linear", "density", "random")
_ROUNDS = 10_000  # k-means ends by itself long before; rounding could make it go in a circle


@dataclass(frozen=True)
class Shared:
    """One array in which all kept weights have a value of a short list.

    Parameters:
        codebook: the values, float32 (2**bits,), ascending as `share` makes them.
        codes: which value each weight has, whole numbers in the array's shape; 0 where nothing is kept.
        mask: which weights are kept, True = keep; the others are 0, which is no value of the list.
        bits: of one code.

    Example:
        >>> shared = share(np.array([[0.1, 0.3, 0.0, 1.0]]), bits=1)
        >>> shared.codebook, shared.codes
        (array([0.2, 1. ], dtype=float32), array([[0, 0, 0, 1]], dtype=uint8))
    """

    codebook: np.ndarray
    codes: np.ndarray
    mask: np.ndarray
    bits: int

    def dense(self) -> np.ndarray:
        """The whole array, float32, a new one.

        Example:
            >>> share(np.array([0.1, 0.3, 0.0, 1.0]), bits=1).dense()
            array([0.2, 0.2, 0. , 1. ], dtype=float32)
        """
        return np.where(self.mask, self.codebook[self.codes], np.float32(0))

    @property
    def nbytes(self) -> int:
        """Bytes of codes and list, without positions: n log2(k) bits and k values (Han et al., section 3)."""
        return math.ceil(np.count_nonzero(self.mask) * self.bits / 8) + self.codebook.nbytes

    def members(self) -> tuple[np.ndarray, np.ndarray]:
        """The code of each weight, flat, 2**bits where nothing is kept; and one weight of each code.

        A code that no weight has is given the first weight, which nobody reads under it.
        """
        codes = np.where(self.mask, self.codes.astype(np.int64), len(self.codebook)).ravel()
        present, first = np.unique(codes, return_index=True)
        one_of_each = np.zeros(len(self.codebook) + 1, np.int64)
        one_of_each[present] = first
        return codes, one_of_each[:-1]

    def updated(self, array: np.ndarray) -> Shared | None:
        """The same codes with the values that the weights have now; None where equal codes differ in value.

        Example:
            >>> share(np.array([0.1, 0.3, 0.0, 1.0]), bits=1).updated(np.float32([2, 2, 0, 3])).codebook
            array([2., 3.], dtype=float32)
        """
        codes, one_of_each = self.members()
        codebook = np.asarray(array, np.float32).ravel()[one_of_each]
        empty = np.bincount(codes, minlength=len(codebook) + 1)[:-1] == 0
        codebook[empty] = self.codebook[empty]
        result = Shared(codebook, self.codes, self.mask, self.bits)
        return result if np.array_equal(result.dense(), array) else None


@overload
def share(
    weights: Mapping[str, np.ndarray],
    *,
    bits: int,
    masks: Mapping[str, np.ndarray] | None = None,
    init: str = "linear",
    seed: int = 0,
) -> dict[str, Shared]: ...


@overload
def share(
    weights: np.ndarray, *, bits: int, masks: np.ndarray | None = None, init: str = "linear", seed: int = 0
) -> Shared: ...


def share(
    weights: Mapping[str, np.ndarray] | np.ndarray,
    *,
    bits: int,
    masks: Mapping[str, np.ndarray] | np.ndarray | None = None,
    init: str = "linear",
    seed: int = 0,
) -> dict[str, Shared] | Shared:
    """Give the kept weights of each array 2**bits values, so that the squared error is least: k-means.

    Parameters:
        weights: one array, or arrays by name, each of which gets values of its own.
        bits: 1 to 16; 2**bits values an array.
        masks: what is kept, True = keep: an array, or arrays by name. Where there is none, what is not 0.
        init: where k-means begins. ``"linear"``: evenly from the least to the greatest weight;
            ``"density"``: at evenly spaced quantiles; ``"random"``: at weights drawn by `seed`.

    Each weight has the value nearest to it, each value is the mean of its weights; a value without weights
    moves to the weight that lies farthest from its own, as in scikit-learn. That is the least error that no
    small move improves, not the least of all. In float64; the list is float32. Errors: a weight that is not
    finite, masks of another shape, an option out of range.

    Source: Han, Mao & Dally 2016 (Deep Compression), section 3, who find that the linear beginning keeps
    large weights best. Chapter 18 uses it.

    Example:
        >>> share(np.array([[0.1, 0.3, 0.0, 1.0]]), bits=1).dense()
        array([[0.2, 0.2, 0. , 1. ]], dtype=float32)
    """
    check_int("bits", bits, at_least=1, at_most=16)
    check_choice("init", init, INITS)
    check_int("seed", seed, at_least=0)
    if isinstance(weights, Mapping):
        given: Mapping[str, np.ndarray] = masks if isinstance(masks, Mapping) else {}
        if masks is not None and not isinstance(masks, Mapping):
            refuse("masks of several arrays must be given by name", type(masks).__name__)
        check_match(given, {name: np.shape(weights[name]) for name in given if name in weights})
        return {
            name: _share(np.asarray(array), bits, given.get(name), init, seed, name)
            for name, array in weights.items()
        }
    if isinstance(masks, Mapping):
        refuse("the mask of one array must be an array", type(masks).__name__)
    if masks is not None:
        check_match({"mask": masks}, {"mask": np.shape(weights)})
    return _share(np.asarray(weights), bits, masks, init, seed, None)


def _share(
    array: np.ndarray, bits: int, mask: np.ndarray | None, init: str, seed: int, name: str | None
) -> Shared:
    whose = "weights to share" if name is None else f"weights to share of {name!r}"
    if array.dtype.kind not in "fiu":
        refuse(f"{whose} must be real numbers", f"type {array.dtype}")
    keep = array != 0 if mask is None else np.array(mask, bool)
    values = array[keep].astype(np.float64)
    if not np.isfinite(values).all():
        refuse(f"{whose} must be finite", f"{np.count_nonzero(~np.isfinite(values))} that are not")
    codes = np.zeros(array.shape, np.uint8 if bits <= 8 else np.uint16)
    codebook = np.zeros(2**bits)
    if values.size:
        codebook = k_means(values, _beginning(values, 2**bits, init, seed))
        codes[keep] = np.searchsorted(_borders(codebook), values)
    return Shared(codebook.astype(np.float32), codes, keep, bits)


def _beginning(values: np.ndarray, count: int, init: str, seed: int) -> np.ndarray:
    if init == "linear":
        return np.linspace(values.min(), values.max(), count)
    if init == "density":
        return np.quantile(values, (np.arange(count) + 0.5) / count)
    chosen = np.random.default_rng(seed).choice(values, count, replace=len(values) < count)
    return np.sort(chosen)


def _borders(centers: np.ndarray) -> np.ndarray:
    """What lies between neighbors, halfway; a weight on a border belongs to the lower center."""
    return centers[:-1] + (centers[1:] - centers[:-1]) / 2


def k_means(values: np.ndarray, centers: np.ndarray) -> np.ndarray:
    """Lloyd's algorithm on a line, from ascending `centers` on until nothing moves; ascending centers.

    In one dimension the weights of a center are a slice of the sorted weights, so that a round takes the
    sums of k slices from running sums: 400,000 weights and 256 centers take 0.1 s, which is what a general
    k-means (scikit-learn) needs for two of its rounds.

    Example:
        >>> k_means(np.array([1.0, 2.0, 10.0, 12.0]), np.array([0.0, 1.0]))
        array([ 1.5, 11. ])
    """
    ordered = np.sort(values)
    middle = ordered.mean()  # sums of distances from it lose fewer digits
    sums = np.concatenate([[0.0], np.cumsum(ordered - middle)])
    for _ in range(_ROUNDS):
        ends = np.concatenate([[0], np.searchsorted(ordered, _borders(centers), "right"), [len(ordered)]])
        counts = np.diff(ends)
        means = middle + np.diff(sums[ends]) / np.maximum(counts, 1)
        moved = np.sort(np.where(counts > 0, means, _farthest(ordered, centers, counts)))
        if np.array_equal(moved, centers):
            break
        centers = moved
    return centers


def _farthest(ordered: np.ndarray, centers: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Where centers without weights go: to the weights farthest from their centers; the others stay."""
    result, empty = centers.copy(), np.flatnonzero(counts == 0)
    if len(empty):
        distances = np.abs(ordered - np.repeat(centers, counts))
        farthest = np.argsort(distances, kind="stable")[::-1][: len(empty)]
        farthest = farthest[distances[farthest] > 0]  # fewer different weights than centers
        result[empty[: len(farthest)]] = ordered[farthest]
    return result


def share_weights(
    model: Any,
    *,
    bits: int | Mapping[str, int],
    masks: Masks | None = None,
    names: Sequence[str] | None = None,
    init: str = "linear",
    seed: int = 0,
) -> dict[str, Shared]:
    """Give the weights of `model` shared values, in place, and return who shares which.

    Parameters:
        bits: as in `share`, for all kernels, or by canonical name for some of them.
        masks: as `apply_masks` takes them; by default what is not 0 is kept.
        names: canonical names of the weights to share; by default those of `prunable`.
        init, seed: as in `share`.

    ``fit(..., sharing=result)`` trains the values on; `shared_now` reads them afterwards. Errors, before
    anything is changed: those of `share`, names that the model does not have, masks of another model.

    Example:
        >>> from nnopt_lib import build, mlp
        >>> model = build(mlp((3,), inputs=4, outputs=2))
        >>> list(share_weights(model, bits=2))
        ['dense_1/kernel', 'dense_2/kernel']
        >>> len(np.unique(model.dense_1.weight.detach()))
        4
    """
    if isinstance(bits, Mapping):
        if names is not None and set(names) != set(bits):
            refuse("names and bits must name the same weights", f"{sorted(names)} and {sorted(bits)}")
        names = list(bits)
    weights = ranked_weights(model, names)
    kept: Mapping[str, np.ndarray] = {} if masks is None else fitted(model, masks.weights)
    result: dict[str, Shared] = {}
    for name in weights:
        mask = {name: kept[name]} if name in kept else None
        count = bits[name] if isinstance(bits, Mapping) else bits
        result |= share({name: weights[name]}, bits=count, masks=mask, init=init, seed=seed)
    adapter = backend_of(model)
    written = {name: one.dense() for name, one in result.items()}
    adapter.set_weights(model, {**adapter.get_weights(model), **written})
    return result


def shared_now(model: Any, shared: Mapping[str, Shared]) -> dict[str, Shared]:
    """The codes of `shared` with the values that the model's weights have now, after training.

    Errors: weights that the model does not have, or that have equal codes and are not equal.

    Example:
        >>> from nnopt_lib import build, mlp
        >>> model = build(mlp((3,), inputs=4, outputs=2))
        >>> shared = share_weights(model, bits=2)
        >>> model.dense_1.weight.data.mul_(2).shape
        torch.Size([3, 4])
        >>> now = shared_now(model, shared)["dense_1/kernel"].codebook
        >>> bool((now == 2 * shared["dense_1/kernel"].codebook).all())
        True
    """
    weights = ranked_weights(model, list(shared))
    check_match({name: one.codes for name, one in shared.items()}, {n: weights[n].shape for n in weights})
    result = {}
    for name, one in shared.items():
        now = one.updated(weights[name])
        if now is None:
            rule = f"weights of {name!r} with equal codes must be equal"
            refuse(rule, "some that differ", "Call share_weights on this model first, or anew.")
        result[name] = now
    return result


def check_sharing(model: Any, shared: Mapping[str, Shared], masks: Masks | None) -> dict[str, Shared]:
    """`shared_now`, for `fit`: refused also where `masks` would remove a weight that shares a value."""
    if not isinstance(shared, Mapping) or not all(isinstance(one, Shared) for one in shared.values()):
        refuse("sharing must be what share_weights gave, by name", type(shared).__name__)
    now = shared_now(model, shared)
    kept: Mapping[str, np.ndarray] = {} if masks is None else fitted(model, masks.weights)
    for name in now:
        removed = np.count_nonzero(now[name].mask & ~kept[name]) if name in kept else 0
        if removed:
            rule = f"sharing must leave out what masks remove from {name!r}"
            refuse(rule, f"{removed} weights that have a value", "Pass the masks to share_weights.")
    return now
