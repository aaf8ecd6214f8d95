"""Verbs that make up for removed nodes with data: statistics of normalizations, refitted layers.

They run on a PyTorch twin of the description, so they serve both frameworks alike. Chapters 14 and 15 teach
them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from nnopt_lib.checks import check_int, refuse
from nnopt_lib.frameworks import backend_of, data_on_twin
from nnopt_lib.models.describe import Described, read
from nnopt_lib.pruning.examples import check_examples
from nnopt_lib.pruning.masks import Masks
from nnopt_lib.pruning.node_masks import weight_masks
from nnopt_lib.structure.coupling import couple
from nnopt_lib.structure.weights import check_match


def recalibrate_batchnorm(model: Any, x: np.ndarray, *, batch_size: int = 256, device: str = "auto") -> None:
    """Estimate the running statistics of all batch normalizations anew, in place, from examples `x`.

    Removing nodes changes what later layers see, and the means and variances that normalization remembers
    are those of before; weights stay. Each becomes the average over batches of `x`, of about `batch_size`
    examples each, unbiased as in PyTorch's `update_bn`, in both frameworks. Use training data.
    Errors: no batch normalization; a model that `describe` cannot read.

    Example:
        >>> from nnopt_lib import build, load_data, mlp
        >>> model = build(mlp((8,), inputs=64, outputs=10, batch_norm=True))
        >>> recalibrate_batchnorm(model, load_data("digits").x_train)
        >>> bool(model.batch_norm_1.running_mean.abs().max() > 0)
        True
    """
    check_int("batch_size", batch_size, at_least=2)
    check_examples("recalibrate_batchnorm", x)
    spec, paths, orders = read(model, x[:1])
    described = Described(spec, paths, orders, couple(spec))
    if not any(node.op == "batch_norm" for node in spec.nodes):
        refuse("a model to recalibrate needs a batch normalization", "none")
    if len(x) < 2:
        refuse("recalibrate_batchnorm needs at least two examples, for a variance", len(x))
    weights = described.weights(model)
    statistics = data_on_twin("repair").recalibrated(spec, weights, x, batch_size, device)
    described.set_weights(model, weights | statistics)


def reconstruct(
    model: Any, masks: Masks, before: Mapping[str, np.ndarray], x: np.ndarray, *, device: str = "auto"
) -> dict[str, tuple[float, float]]:
    """Refit the layers that read removed nodes, by least squares, to what they gave before; in place.

    Parameters:
        model: pruned by `masks`, which stay; its layers that read removed nodes get the kernels and biases
            that bring their outputs on `x` nearest to those before pruning.
        before: `get_weights` of the model, taken before it was pruned.
        x: some hundred examples, better some thousand, of training data without labels; their activations
            are held in memory.

    Returns for each refitted layer, under the model's own name, the mean squared error of its outputs before
    and after, relative to their variance; the second is never the larger. Refitting whole kernels to the
    outputs of before is He, Zhang & Sun's (2017) step; ThiNet (Luo et al. 2017) refits one scale per channel.
    Errors: masks or weights that do not fit; a model that `describe` cannot read.

    Example:
        >>> from nnopt_lib import build, get_weights, load_data, mlp, prune
        >>> model = build(mlp((8,), inputs=64, outputs=10))
        >>> before = get_weights(model)
        >>> masks = prune(model, sparsity=0.5, granularity="node")
        >>> error, less = reconstruct(model, masks, before, load_data("digits").x_train)["dense_2"]
        >>> less < error
        True
    """
    check_examples("reconstruct", x)
    described = Described.of(model, x[:1])
    after = backend_of(model).get_weights(model)
    check_match(before, {name: value.shape for name, value in after.items()}, "weights")
    kept, weights = described.kept(masks), described.translated(after)
    # Masked again: the twin must see the pruned network, even if a user trained it on without `hold`.
    for name, mask in weight_masks(described.coupling, kept).items():
        weights[name] = weights[name] * mask
    dense = described.translated(before)
    new, errors = data_on_twin("repair").refit(described.coupling, kept, dense, weights, x, device)
    described.set_weights(model, new)
    return {described.paths[name]: error for name, error in errors.items()}
