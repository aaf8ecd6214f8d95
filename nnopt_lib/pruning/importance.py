"""Importance: one number per node (neuron, filter, coupled group); the larger, the rather the node is kept.

By weights alone on plain arrays; by data on a PyTorch twin of the description, so for both frameworks alike.
Chapter 14 teaches it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from nnopt_lib.checks import check_choice, check_fraction, check_int, refuse
from nnopt_lib.frameworks import data_on_twin, mask_backend_of
from nnopt_lib.models.channels import read_channels
from nnopt_lib.models.describe import Described
from nnopt_lib.pruning.examples import check_examples
from nnopt_lib.structure.coupling import FIXED, Nodes
from nnopt_lib.structure.reading import Channels
from nnopt_lib.structure.weights import Weights

ROUNDINGS = ("nearest", "up", "down")
DATA_SCORES = {"apoz": "active", "taylor": "taylor", "oracle": "oracle"}  # as the adapter names them


def importance(
    model: Any,
    score: str,
    x: np.ndarray | None = None,
    y: np.ndarray | None = None,
    *,
    granularity: str = "node",
    device: str = "auto",
    seed: int = 0,
) -> dict[str, np.ndarray]:
    """How important each node of a model is, by layer: what ``prune(score=...)`` takes. The model stays.

    Parameters:
        model: any that runs; for scores by data one that `describe` reads.
        score: by weights alone ``"l1"``, ``"l2"``, ``"bn_scale"``, ``"geometric_median"``, ``"random"``. By
            data ``"apoz"``, how often a node is not 0 behind its relu (Hu et al. 2016, who count zeros);
            ``"taylor"``, the first-order change of the loss, mean of its size over examples (Molchanov et
            al. 2017, here with one gate for coupled nodes and behind normalizations); ``"oracle"``, the rise
            of the mean cross-entropy when the node alone is removed: one pass over `x` for every node.
        x: examples, (examples, *input_shape), channels first; for weights of a model that `build` did not
            make one suffices. y: labels, for taylor and oracle; training data, if the scores choose.
        granularity: ``"node"``, or ``"head"`` for attention heads. device: where the data flow. seed: of
            random scores.

    Returns ``{layer: (channels,)}`` under the model's own names; coupled channels have the same number, what
    cannot leave has NaN. The larger, the more important; the oracle's may be below 0. Errors: unknown score;
    no data where needed; a node without what the score looks at.

    Example:
        >>> from nnopt_lib import build, load_data, mlp
        >>> model, digits = build(mlp((8,), inputs=64, outputs=10)), load_data("digits")
        >>> by_layer = importance(model, "taylor", digits.x_train, digits.y_train)
        >>> by_layer["dense_1"].shape
        (8,)
    """
    check_choice("score", score, [*NODE_SCORES, *DATA_SCORES])
    if score in NODE_SCORES:
        channels = read_channels(model, x, granularity).channels
        by_channel = np.append(by_weights(model, channels, score, seed), np.nan)
        return {layer: by_channel[channels.nodes[layer]] for layer in channels.layers}
    if granularity != "node":
        refuse(
            f"score {score!r} looks at neurons and filters",
            f"granularity={granularity!r}",
            "Use 'l1' or 'l2'.",
        )
    described = Described.of(model, None if x is None else x[:1])
    coupling, weights = described.coupling, described.weights(model)
    check_examples(f"score {score!r}", x, y, labels=score != "apoz")
    by_node = getattr(data_on_twin("importance"), DATA_SCORES[score])(coupling, weights, x, y, device)
    by_channel = np.append(by_node, np.nan)  # `FIXED` is -1: what cannot leave reads the last entry
    return {described.paths[name]: by_channel[coupling.nodes[name]] for name in coupling.layers}


def by_weights(model: Any, channels: Channels, score: str, seed: int) -> np.ndarray:
    """Importance of each node by weights alone, (size,)."""
    names = [axis.tensor for part in ("kernel", "scale") for axis in channels.made(part)]
    weights = mask_backend_of(model).weights(model, names)
    return NODE_SCORES[score](channels, weights, seed=seed)


def _l1(rows: np.ndarray) -> np.ndarray:
    # Not of a copy in float64: a size is exact in any type, and the sum converts piece by piece.
    return np.add.reduce(np.abs(rows), axis=1, dtype=np.float64)


def _squares(rows: np.ndarray) -> np.ndarray:
    return np.square(rows.astype(np.float64)).sum(1)


def _distances(rows: np.ndarray) -> np.ndarray:
    """Sum of a row's Euclidean distances to all others of its layer."""
    rows = rows.astype(np.float64)
    squares = np.square(rows).sum(1)
    # |a - b|^2 = |a|^2 + |b|^2 - 2ab: one product, where differences would take rows^2 * entries numbers.
    between = squares[:, None] + squares[None, :] - 2 * rows @ rows.T
    return np.sqrt(np.maximum(between, 0)).sum(1)  # rounding makes a row's distance to itself negative


def _per_node(
    channels: Channels, weights: Weights, part: str, rule: Callable[[np.ndarray], np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Sum over a node's channels of ``rule(rows)``, and how many channels were summed; both (size,)."""
    total, count = np.zeros(channels.size), np.zeros(channels.size)
    for axis in channels.made(part):
        rows = np.moveaxis(weights[axis.tensor], axis.axis, 0)
        # Rules sum in float64: a float32 sum over thousands of weights loses digits that tell nodes apart.
        scores = rule(rows.reshape(len(rows), -1))
        removable = axis.nodes != FIXED
        total += np.bincount(axis.nodes[removable], scores[removable], channels.size)
        count += np.bincount(axis.nodes[removable], None, channels.size)
    return total, count


def l1(channels: Channels, weights: Weights, *, seed: int = 0) -> np.ndarray:
    """Sum of |w| over a node's kernel rows (Li et al. 2017)."""
    return _per_node(channels, weights, "kernel", _l1)[0]


def l2(channels: Channels, weights: Weights, *, seed: int = 0) -> np.ndarray:
    """Root of the sum of w^2 over a node's kernel rows."""
    return np.sqrt(_per_node(channels, weights, "kernel", _squares)[0])


def batch_norm_scale(channels: Channels, weights: Weights, *, seed: int = 0) -> np.ndarray:
    """Mean of |scale| over the batch normalizations of a node: network slimming (Liu et al. 2017)."""
    total, count = _per_node(channels, weights, "scale", _l1)
    if not count.all():
        bare = next(name for name, group in channels.groups.items() if not count[group].all())
        rule = "score 'bn_scale' needs a batch normalization on every node to prune"
        refuse(rule, f"none after layer {bare!r}", "Use score='l1', or build the network with them.")
    return total / count


def geometric_median(channels: Channels, weights: Weights, *, seed: int = 0) -> np.ndarray:
    """Sum of distances to the other filters of the layer, mean over a node's channels (FPGM, He et al. 2019).

    The filter nearest to the geometric median of its layer is best replaced by the others, so it goes first.
    """
    total, count = _per_node(channels, weights, "kernel", _distances)
    return total / count


def random(channels: Channels, weights: Weights, *, seed: int = 0) -> np.ndarray:
    """Uniform numbers: the control."""
    return np.random.default_rng(check_int("seed", seed, at_least=0)).random(channels.size)


NODE_SCORES: dict[str, Callable[..., np.ndarray]] = {
    "l1": l1,
    "l2": l2,
    "bn_scale": batch_norm_scale,
    "geometric_median": geometric_median,
    "random": random,
}


def keep_nodes(
    coupling: Nodes,
    scores: np.ndarray,
    *,
    sparsity: float,
    scope: str = "global",
    round_to: int = 1,
    rounding: str = "nearest",
    previous: np.ndarray | None = None,
    among: np.ndarray | None = None,
) -> np.ndarray:
    """Which nodes stay, a boolean array (size,), if those of lowest importance go.

    Removes exactly ``round(sparsity * n)`` of the n nodes of each scope (global, or each coupled group of
    layers), as far as every layer keeps at least one: its best node is never removed. What `previous`
    removed goes first and counts. At equal importance the earlier node stays. NaN is refused. With `round_to`
    each group then keeps a multiple of it instead, the nearest or by `rounding` the next one ``"up"`` or
    ``"down"`` (at least one multiple, at most all there are). With `among`, numbers of nodes, all others stay
    and only these are counted.
    """
    sparsity = check_fraction("sparsity", sparsity)
    check_int("round_to", round_to, at_least=1)
    check_choice("rounding", rounding, ROUNDINGS)
    # What is added before the whole multiples are counted; the nearest one with half upward, in whole
    # numbers, since round() would go to the even one.
    added = {"down": 0, "nearest": round_to // 2, "up": round_to - 1}
    if np.isnan(scores).any():
        refuse("importance must not be NaN", f"NaN for {int(np.isnan(scores).sum())} of {len(scores)} nodes")
    gone = np.zeros(len(scores), bool) if previous is None else ~previous
    kept = np.ones(len(scores), bool)
    best = _best_of_layers(coupling, scores, gone)
    groups = [np.arange(len(scores))] if scope == "global" else list(coupling.groups.values())
    scopes = groups if among is None else [np.intersect1d(nodes, among) for nodes in groups]
    for nodes in filter(len, scopes):
        count = round(sparsity * len(nodes))
        if count < gone[nodes].sum():
            rule = f"sparsity must not fall, and the previous masks removed {int(gone[nodes].sum())} nodes"
            refuse(rule, f"a target of {count}", "Pass a higher sparsity, or leave previous out.")
        kept[_ranked(nodes, scores, gone, best)[: min(count, int((~best[nodes]).sum()))]] = False
    if round_to > 1:
        for group in coupling.groups.values():
            nodes = group if among is None else np.intersect1d(group, among)
            if not len(nodes):
                continue
            stay = len(group) - len(nodes)  # what is not among them counts for the multiple
            left, most = int(kept[group].sum()), int((~gone[group]).sum())
            left = min(most, max(round_to, round_to * ((left + added[rounding]) // round_to))) - stay
            kept[nodes] = False
            last = max(left, int(best[nodes].sum()))
            kept[_ranked(nodes, scores, gone, best)[len(nodes) - last :]] = True
    return kept


def _ranked(nodes: np.ndarray, scores: np.ndarray, gone: np.ndarray, best: np.ndarray) -> np.ndarray:
    """`nodes` from the first to leave to the last: those removed before, then by importance, then late."""
    return nodes[np.lexsort((-nodes, scores[nodes], ~gone[nodes], best[nodes]))]


def _best_of_layers(coupling: Nodes, scores: np.ndarray, gone: np.ndarray) -> np.ndarray:
    """The node of highest importance of every layer (the earlier of equals), among those not yet gone."""
    best = np.zeros(coupling.size, bool)
    for layer in coupling.layers:
        numbers = coupling.nodes[layer]
        if (numbers == FIXED).any():
            continue  # what cannot leave keeps the layer alive
        numbers = np.unique(numbers[~gone[numbers]])
        best[numbers[np.argmax(scores[numbers])]] = True
    return best
