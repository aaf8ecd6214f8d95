"""The edit that folds batch normalization into the layers before it, for inference; chapter 18 uses it."""

from __future__ import annotations

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
    while (pair := _foldable(spec)) is not None:
        layer, norm = pair
        _fold(carried, layer, norm)
        spec = _without(spec, layer, norm)
    return spec, {name: carried[name] for name in spec.parameter_shapes(trainable=False)}


def _foldable(spec: NetSpec) -> tuple[Node, Node] | None:
    """The first layer with a kernel that only a batch normalization reads, and this."""
    for norm in spec.nodes:
        if norm.op == "batch_norm" and norm.inputs[0] in (node.name for node in spec.nodes):
            layer = spec.node(norm.inputs[0])
            readers = [node for node in spec.nodes if layer.name in node.inputs]
            if layer.has_kernel and readers == [norm]:
                return layer, norm
    return None


def _fold(carried: dict[str, np.ndarray], layer: Node, norm: Node) -> None:
    """Scale the layer's rows and shift its bias as the normalization does with its running statistics."""
    scale, shift, mean, variance = (
        carried.pop(f"{norm.name}/{part}").astype(np.float64)
        for part in ("scale", "shift", "mean", "variance")
    )
    factor = scale / np.sqrt(variance + norm.options["eps"])
    kernel, bias = f"{layer.name}/kernel", f"{layer.name}/bias"
    rows = factor.reshape(-1, *(1,) * (carried[kernel].ndim - 1))
    carried[kernel] = (carried[kernel] * rows).astype(np.float32)
    carried[bias] = ((carried.get(bias, 0.0) - mean) * factor + shift).astype(np.float32)


def _without(spec: NetSpec, layer: Node, norm: Node) -> NetSpec:
    """The network without the normalization, whose readers read the layer, which has a bias."""
    nodes = []
    for node in spec.nodes:
        if node.name == layer.name:
            node = replace(node, options={**node.options, "bias": True})
        inputs = tuple(layer.name if name == norm.name else name for name in node.inputs)
        nodes.append(replace(node, inputs=inputs))
    return NetSpec(spec.input_shape, tuple(node for node in nodes if node.name != norm.name))
