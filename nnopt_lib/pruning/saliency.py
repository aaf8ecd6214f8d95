"""Saliency by gradients: which weights the loss, or the flow through the network, depends on.

Every function takes any model that runs, of either framework, and gives one number per weight, larger = keep,
by canonical name: what ``prune(score=...)`` and `make_masks` take. Gradients are taken in batches; beside the
model there are a few arrays of the size of its weights. Chapter 11 teaches them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from nnopt_lib.checks import check_choice, check_int, check_number
from nnopt_lib.frameworks import gradient_backend_of, mask_backend_of
from nnopt_lib.pruning.examples import Loss, check_loss
from nnopt_lib.pruning.names import ranked_weights

Scores = dict[str, np.ndarray]


def saliency(
    model: Any,
    score: str,
    x: Any = None,
    y: np.ndarray | None = None,
    *,
    loss: Loss = "cross_entropy",
    names: Sequence[str] | None = None,
    batch_size: int = 256,
) -> Scores:
    """How much each weight matters by its gradients: what ``prune(score=...)`` takes. The model stays.

    Parameters:
        score: ``"snip"``, ``"grasp"``, ``"synflow"``, ``"taylor"`` or ``"fisher"``; the functions of these
            names in this module say what each is.
        x: examples, canonical (channels first): an array, or a tuple or dict of arrays for a model of several
            arguments. For synflow only its shape counts, and models that know theirs need none.
        y: a label for each; training data, if the scores choose.
        loss: ``"cross_entropy"`` of logits with integer labels, ``"mse"``, or a function of (outputs, labels)
            that gives the mean loss of a batch in the framework's own tensors.
        names: canonical names of the weights; by default those of `prunable`.
        batch_size: examples in memory at a time, for snip and grasp, and over which their batch
            normalizations take means.

    Returns arrays of the weights' shapes, float64. Errors: an unknown score, name or loss; no examples, or no
    labels, where needed; a loss or gradients that are not finite, with the layer.

    Example:
        >>> from nnopt_lib import build, load_data, mlp
        >>> model, digits = build(mlp((8,), inputs=64, outputs=10)), load_data("digits")
        >>> saliency(model, "snip", digits.x_train, digits.y_train)["dense_1/kernel"].shape
        (8, 64)
    """
    rule = SALIENCIES[check_choice("score", score, SALIENCIES)]
    if score == "synflow":
        return synflow(model, x, names=names)
    options = {"batch_size": batch_size} if score in ("snip", "grasp") else {}
    return rule(model, x, y, loss=loss, names=names, **options)


def snip(
    model: Any,
    x: Any,
    y: np.ndarray | None,
    *,
    loss: Loss = "cross_entropy",
    names: Sequence[str] | None = None,
    batch_size: int = 256,
) -> Scores:
    """|w dL/dw|: how fast the loss changes when a weight is scaled (Lee, Ajanthan & Torr 2019, eq. 4).

    L is the mean loss over all of `x`; the authors take one batch, before training. Batch normalizations use
    the statistics of each batch, since running ones mean nothing at initialization; dropout is off.

    Example:
        >>> from nnopt_lib import build, load_data, mlp
        >>> model, digits = build(mlp((), inputs=64, outputs=10)), load_data("digits")
        >>> float(snip(model, digits.x_train, digits.y_train)["dense_1/kernel"][:, 0].max())  # a dark pixel
        0.0
    """
    names = _checked("score 'snip'", model, x, y, loss, names)
    check_int("batch_size", batch_size, at_least=1)
    _, slopes = gradient_backend_of(model).mean(
        model, names, x, y, loss=loss, batch_size=batch_size, batch_statistics=True
    )
    weights = mask_backend_of(model).weights(model, names)
    return {name: np.abs(weights[name] * slope) for name, slope in slopes.items()}


def grasp(
    model: Any,
    x: Any,
    y: np.ndarray | None,
    *,
    loss: Loss = "cross_entropy",
    names: Sequence[str] | None = None,
    batch_size: int = 256,
    temperature: float = 200.0,
) -> Scores:
    """w (H g): what removing a weight takes from the squared gradient, to first order (Wang et al. 2020).

    H is the Hessian and g the gradient of the mean loss over all of `x`. The authors score -w (H g) and
    remove the largest; here larger = keep, and scores have both signs. As they do, logits are divided by
    `temperature` before cross-entropy; without it the masks of small networks may not train at all (chapter
    11). Other losses have none. Batch normalization as in `snip`.
    """
    names = _checked("score 'grasp'", model, x, y, loss, names)
    check_int("batch_size", batch_size, at_least=1)
    check_number("temperature", temperature, above=0)
    options: dict[str, Any] = {"loss": loss, "batch_size": batch_size, "batch_statistics": True}
    options["temperature"] = temperature
    backend = gradient_backend_of(model)
    _, slopes = backend.mean(model, names, x, y, **options)
    products = backend.hessian_product(model, names, x, y, slopes, **options)
    weights = mask_backend_of(model).weights(model, names)
    return {name: weights[name] * product for name, product in products.items()}


def synflow(model: Any, x: Any = None, *, names: Sequence[str] | None = None) -> Scores:
    """|w| dR/d|w|: the absolute products of all paths through a weight, summed (Tanaka et al. 2020).

    R is the sum of the outputs for an input of ones, when every weight is replaced by its absolute value and
    what only adds (biases, a normalization's shift and mean) by 0; batch normalizations use their running
    variance. No data take part. For networks of relu the scores of each layer, and of what enters and leaves
    each hidden unit, have equal sums. Computed in double precision, and scaled where a deep network would
    leave even that: then all scores have one unknown factor. It is meant to be recomputed while it prunes, as
    ``prune(score="synflow")`` does in 100 rounds.

    Example:
        >>> from nnopt_lib import build, mlp
        >>> scores = synflow(build(mlp((8, 8), inputs=4, outputs=2)))
        >>> bool(np.ptp([layer.sum() for layer in scores.values()]) < 1e-9)
        True
    """
    return gradient_backend_of(model).path_scores(model, list(ranked_weights(model, names)), x)


def taylor(
    model: Any,
    x: Any,
    y: np.ndarray | None,
    *,
    loss: Loss = "cross_entropy",
    names: Sequence[str] | None = None,
) -> Scores:
    """Mean over examples of |w dl/dw|: the size of the loss's first-order change when a weight becomes 0.

    After Molchanov et al. (2017), for weights; for nodes there is ``importance(model, "taylor", ...)``. Sizes
    are taken before the mean: slopes of either sign cancel, and near a minimum they do, so that `snip` says
    little there. Evaluation mode, one example at a time.
    """
    names = _checked("score 'taylor'", model, x, y, loss, names)
    weights = mask_backend_of(model).weights(model, names)
    return _mean_over_examples(model, names, x, y, loss, lambda name, slope: np.abs(weights[name] * slope))


def fisher(
    model: Any,
    x: Any,
    y: np.ndarray | None,
    *,
    loss: Loss = "cross_entropy",
    names: Sequence[str] | None = None,
) -> Scores:
    """w^2 F / 2, F the mean over examples of (dl/dw)^2: the diagonal of the empirical Fisher matrix.

    The rise of the loss by second order where curvature is replaced by squared slopes (Theis et al. 2018).
    Evaluation mode, one example at a time.
    """
    names = _checked("score 'fisher'", model, x, y, loss, names)
    weights = mask_backend_of(model).weights(model, names)
    means = _mean_over_examples(model, names, x, y, loss, lambda _, slope: np.square(slope, dtype=np.float64))
    return {name: np.square(weights[name], dtype=np.float64) * mean / 2 for name, mean in means.items()}


def _mean_over_examples(
    model: Any,
    names: Sequence[str],
    x: Any,
    y: Any,
    loss: Loss,
    function: Callable[[str, np.ndarray], np.ndarray],
) -> Scores:
    """The mean over examples of a function of each one's gradient."""
    sums: Scores = {}
    examples = 0
    for slopes in gradient_backend_of(model).each(model, names, x, y, loss=loss):
        examples += 1
        for name, slope in slopes.items():
            if name in sums:
                sums[name] += function(name, slope)
            else:
                sums[name] = function(name, slope).astype(np.float64)
    return {name: total / examples for name, total in sums.items()}


def _checked(what: str, model: Any, x: Any, y: Any, loss: Loss, names: Sequence[str] | None) -> list[str]:
    check_loss(what, x, y, loss)
    return list(ranked_weights(model, names))


SALIENCIES: dict[str, Callable[..., Scores]] = {
    "snip": snip,
    "grasp": grasp,
    "synflow": synflow,
    "taylor": taylor,
    "fisher": fisher,
}
