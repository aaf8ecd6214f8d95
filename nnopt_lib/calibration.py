"""Verbs that show a network data: importance of its nodes, statistics of its normalizations, refitted layers.

All run on a PyTorch twin of the description, so they serve both frameworks alike. Chapters 14 and 15 teach
them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from nnopt_lib.checks import check_choice, check_int, refuse
from nnopt_lib.coupling import couple
from nnopt_lib.description import read
from nnopt_lib.frameworks import backend_of
from nnopt_lib.masks import Masks, check_match
from nnopt_lib.node_scores import NODE_SCORES
from nnopt_lib.nodes import Described
from nnopt_lib.removal import weight_masks

DATA_SCORES = {"apoz": "active", "taylor": "taylor", "oracle": "oracle"}  # as `torch_nodes` names them


def importance(
    model: Any,
    score: str,
    x: np.ndarray | None = None,
    y: np.ndarray | None = None,
    *,
    device: str = "auto",
    seed: int = 0,
) -> dict[str, np.ndarray]:
    """How important each node of a model is, by layer: what ``prune(score=...)`` takes. The model stays.

    Parameters:
        score: by weights alone ``"l1"``, ``"l2"``, ``"bn_scale"``, ``"geometric_median"``, ``"random"``. By
            data ``"apoz"``, how often a node is not 0 behind its relu (Hu et al. 2016, who count zeros);
            ``"taylor"``, the first-order change of the loss, mean of its size over examples (Molchanov et
            al. 2017, here with one gate for coupled nodes and behind normalizations); ``"oracle"``, the rise
            of the mean cross-entropy when the node alone is removed: one pass over `x` for every node.
        x: examples, (examples, *input_shape), channels first; for weights of a model that `build` did not
            make one suffices. y: labels, for taylor and oracle; training data, if the scores choose.
        device: where the data flow. seed: of random scores.

    Returns ``{layer: (channels,)}`` under the model's own names; coupled channels have the same number, what
    cannot leave has NaN. The larger, the more important; the oracle's may be below 0. Errors: unknown score;
    no data where needed; a node without what the score looks at.

    Example:
        >>> from nnopt_lib import build, load_data, mlp
        >>> model, digits = build(mlp((8,), inputs=64, outputs=10)), load_data("digits")
        >>> found = importance(model, "taylor", digits.x_train, digits.y_train)
        >>> found["dense_1"].shape
        (8,)
    """
    check_choice("score", score, [*NODE_SCORES, *DATA_SCORES])
    described = Described.of(model, None if x is None else x[:1])
    coupling, weights = described.coupling, described.weights(model)
    if score in NODE_SCORES:
        found = NODE_SCORES[score](coupling, weights, seed=seed)
    else:
        from nnopt_lib import torch_nodes

        _check_examples(f"score {score!r}", x, y, labels=score != "apoz")
        found = getattr(torch_nodes, DATA_SCORES[score])(coupling, weights, x, y, device)
    by_channel = np.append(found, np.nan)  # `FIXED` is -1
    return {described.paths[name]: by_channel[coupling.nodes[name]] for name in coupling.layers}


def _check_examples(what: str, x: Any, y: Any = None, *, labels: bool = False) -> None:
    if x is None or len(x) == 0:
        refuse(f"{what} needs examples x", "none")
    if labels and (y is None or len(y) != len(x)):
        refuse(f"{what} needs a label y for each of {len(x)} examples", "none" if y is None else len(y))


def recalibrate_batchnorm(model: Any, x: np.ndarray, *, batch_size: int = 256, device: str = "auto") -> None:
    """Estimate the running statistics of all batch normalizations anew, in place, from examples `x`.

    Removing nodes changes what later layers see, and the means and variances that normalization remembers
    are those of before; weights stay. Each becomes the average over batches of `x`, of about `batch_size`
    examples each, unbiased as in PyTorch's `update_bn`, in both frameworks. Use training data.
    Errors: no batch normalization; a model that `describe` does not understand.

    Example:
        >>> from nnopt_lib import build, load_data, mlp
        >>> model = build(mlp((8,), inputs=64, outputs=10, batch_norm=True))
        >>> recalibrate_batchnorm(model, load_data("digits").x_train)
        >>> bool(model.batch_norm_1.running_mean.abs().max() > 0)
        True
    """
    from nnopt_lib import torch_nodes

    check_int("batch_size", batch_size, at_least=2)
    _check_examples("recalibrate_batchnorm", x)
    spec, paths, orders = read(model, x[:1])
    described = Described(spec, paths, orders, couple(spec))
    if not any(node.op == "batch_norm" for node in spec.nodes):
        refuse("a model to recalibrate needs a batch normalization", "none")
    if len(x) < 2:
        refuse("recalibrate_batchnorm needs at least two examples, for a variance", len(x))
    weights = described.weights(model)
    found = torch_nodes.recalibrated(spec, weights, x, batch_size, device)
    described.set_weights(model, weights | found)


def reconstruct(
    model: Any, masks: Masks, before: Mapping[str, np.ndarray], x: np.ndarray, *, device: str = "auto"
) -> dict[str, tuple[float, float]]:
    """Refit the layers that read removed nodes, by least squares, to what they gave before; in place.

    Parameters:
        model: pruned by `masks`, which stay; its layers that read removed nodes get the kernels and biases
            that bring their outputs on `x` nearest to those before pruning.
        before: a `snapshot` of the model, taken before it was pruned.
        x: some hundred examples, better some thousand, of training data without labels; their activations
            are held in memory.

    Returns for each refitted layer, under the model's own name, the mean squared error of its outputs before
    and after, relative to their variance; the second is never the larger. The idea is ThiNet's (Luo et al.
    2017), who scale channels where this refits whole kernels. Errors: masks or weights that do not fit.

    Example:
        >>> from nnopt_lib import build, load_data, mlp, prune, snapshot
        >>> model = build(mlp((8,), inputs=64, outputs=10))
        >>> before = snapshot(model)
        >>> masks = prune(model, sparsity=0.5, granularity="node")
        >>> error, less = reconstruct(model, masks, before, load_data("digits").x_train)["dense_2"]
        >>> less < error
        True
    """
    from nnopt_lib import torch_nodes

    _check_examples("reconstruct", x)
    described = Described.of(model, x[:1])
    own = backend_of(model).get_weights(model)
    check_match(before, {name: value.shape for name, value in own.items()}, "weights")
    kept, weights = described.kept(masks), described.translated(own)
    for name, mask in weight_masks(described.coupling, kept).items():
        weights[name] = weights[name] * mask
    dense = described.translated(before)
    new, errors = torch_nodes.refit(described.coupling, kept, dense, weights, x, device)
    described.set_weights(model, new)
    return {described.paths[name]: error for name, error in errors.items()}
