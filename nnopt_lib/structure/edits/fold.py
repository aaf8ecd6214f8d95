"""The edit that folds batch normalization into the layers before it, for inference; chapter 18 uses it."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np

from nnopt_lib.structure.spec import NetSpec, Node
from nnopt_lib.structure.weights import Weights, check_weights


def fold_batchnorm(spec: NetSpec, weights: Weights) -> tuple[NetSpec, dict[str, np.ndarray]]:
    """Fold batch normalization into the dense layer or convolution directly before it, where that is its own.

    Parameters:
        spec: the network. weights: of `spec`, running statistics included.

    Returns the new description and its weights, new arrays. The outputs in evaluation mode stay what they
    were, up to rounding; in training mode nothing is normalized by the batch any more. Layers that took one
    in have a bias. A batch normalization stays where it reads anything else, as in front of a convolution, or
    where another node reads the same layer; the new description tells. Errors: weights that do not fit.
    Source: Jacob et al. 2018, section 3.2.

    Example:
        >>> from nnopt_lib import mlp
        >>> from nnopt_lib.structure.weights import initial_weights
        >>> spec = mlp((8,), inputs=4, outputs=2, batch_norm=True)
        >>> [node.op for node in fold_batchnorm(spec, initial_weights(spec, 0))[0].nodes]
        ['dense', 'activation', 'dense']
    """
    carried = check_weights(spec, weights)
    reads = Counter(source for node in spec.nodes for source in node.inputs)
    nodes: dict[str, Node] = {}
    layer_of: dict[str, str] = {}  # by folded normalization
    for node in spec.nodes:
        moved = replace(node, inputs=tuple(layer_of.get(source, source) for source in node.inputs))
        layer = nodes.get(moved.inputs[0])
        if layer and layer.has_kernel and node.op == "batch_norm" and reads[node.inputs[0]] == 1:
            _fold(carried, layer.name, node)
            nodes[layer.name] = replace(layer, options={**layer.options, "bias": True})
            layer_of[node.name] = layer.name
        else:
            nodes[node.name] = moved
    folded = NetSpec(spec.input_shape, tuple(nodes.values()))
    return folded, {name: carried[name] for name in folded.parameter_shapes(trainable=False)}


def _fold(carried: dict[str, np.ndarray], layer: str, norm: Node) -> None:
    """Scale the layer's rows and shift its bias as the normalization does with its running statistics."""
    scale, shift, mean, variance = (
        carried.pop(f"{norm.name}/{part}").astype(np.float64)
        for part in ("scale", "shift", "mean", "variance")
    )
    factor = scale / np.sqrt(variance + norm.options["eps"])
    kernel = carried[f"{layer}/kernel"]
    rows = factor.reshape(-1, *(1,) * (kernel.ndim - 1))
    carried[f"{layer}/kernel"] = (kernel * rows).astype(np.float32)
    bias = carried.get(f"{layer}/bias", np.zeros(len(kernel)))
    carried[f"{layer}/bias"] = ((bias - mean) * factor + shift).astype(np.float32)
