"""Removing nodes for real: smaller ordinary models with the masked model's outputs.

A masked node outputs exactly 0: kernel row, bias, normalization scale and shift together. Where an
activation makes a constant of that 0 (a sigmoid gives 0.5), the constant can be folded into the biases of the
layers that read it. Chapters 14 and 15 teach it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from nnopt_lib.checks import refuse
from nnopt_lib.frameworks import removal_backend_of
from nnopt_lib.models.describe import Described
from nnopt_lib.pruning.masks import Masks
from nnopt_lib.structure.coupling import Coupling
from nnopt_lib.structure.edits.resize import resize
from nnopt_lib.structure.spec import INPUT, NetSpec, Node

_RECIPE = "_nnopt_recipe"


def remove_nodes(model: Any, masks: Masks, *, example_input: Any = None, fold: bool = False) -> Any:
    """A smaller ordinary model without the nodes that `masks` removed, with the masked model's outputs.

    Parameters:
        model: one that `build` made, or any that `describe` understands; it stays as it is.
        masks: of ``prune(..., granularity="node")``, or boolean arrays (channels,) by layer; a layer without
            one follows those that it is coupled with.
        example_input: a batch, needed for a model that `build` did not make.
        fold: add the constants that removed nodes leave behind a sigmoid to the next layer's bias. Exact but
            for the border of a convolution with zero padding.

    Returns a model of the same type, its layers under their own names, with plain, smaller weights (copies);
    outputs equal the masked model's to 1e-5 in float32. A compiled Keras model must be compiled again.
    Errors, before anything is made: layers or shapes of another model; masks that disagree within a coupled
    group, empty a layer, or touch the network's outputs; a model that is not understood.

    Example:
        >>> from nnopt_lib import build, mlp, prune
        >>> model = build(mlp((8,), inputs=4, outputs=2))
        >>> small = remove_nodes(model, prune(model, sparsity=0.5, granularity="node"))
        >>> tuple(small.dense_1.weight.shape)
        (4, 4)
    """
    described = Described.of(model, example_input)
    return _removed(model, described, described.kept(masks), example_input, fold)


def _removed(model: Any, described: Described, kept: np.ndarray, example_input: Any, fold: bool) -> Any:
    """`remove_nodes` of a model that was read, by the nodes that stay."""
    coupling, weights = described.coupling, described.weights(model)
    resized = resize(coupling, kept.astype(int), whole_groups=True)  # each node once, or not at all
    small = resized.weights(weights)
    after = fold_constants(coupling, kept, weights, resized.spec(), small, fold=fold)
    result = cut_model(model, described, kept, after, small, example_input)
    indices = {name: np.flatnonzero(coupling.channels(name, kept)).tolist() for name in coupling.layers}
    earlier = recipe_of(model)
    if earlier:  # of a model that is a smaller one already: say which of the first one's nodes are left
        known = earlier["kept"]
        indices = {
            name: [known[name][i] for i in left] if name in known else left for name, left in indices.items()
        }
        indices = {**known, **indices}
    before = earlier["before"] if earlier else described.spec.to_json()
    note_recipe(result, before, after, indices, described.paths, orders_after(described, kept))
    return result


def _inputs_kept(described: Described, layer: str, kept: np.ndarray) -> np.ndarray:
    return described.coupling.channels(described.spec.node(layer).inputs[0], kept)


def orders_after(described: Described, kept: np.ndarray) -> dict[str, np.ndarray]:
    """Where each kept canonical input stands among those that the smaller layer reads."""
    orders = {}
    for layer, order in described.orders.items():
        kept_order = order[_inputs_kept(described, layer, kept)]
        orders[layer] = np.argsort(np.argsort(kept_order))  # ranks: the gaps that removed ones left close
    return orders


def cut_model(
    model: Any,
    described: Described,
    kept: np.ndarray,
    after: NetSpec,
    small: Mapping[str, np.ndarray],
    example_input: Any,
) -> Any:
    """A copy of `model` with the sizes of `after`; `small` in canonical order, the copy in its own."""
    weights = dict(small)
    for layer, order in orders_after(described, kept).items():
        weights[f"{layer}/kernel"] = small[f"{layer}/kernel"][:, np.argsort(order)]
    return removal_backend_of(model).cut(model, described.paths, after, weights, example_input)


def note_recipe(
    model: Any,
    before: str,
    after: NetSpec,
    kept: Mapping[str, list[int]],
    paths: Mapping[str, str],
    orders: Mapping[str, np.ndarray],
) -> None:
    """Keep with a smaller model what `save_small` writes; as text, which every framework leaves alone."""
    recipe = {
        "before": before,
        "after": after.to_json(),
        "kept": dict(kept),
        "paths": dict(paths),
        "orders": {layer: order.tolist() for layer, order in orders.items()},
    }
    setattr(model, _RECIPE, json.dumps(recipe))


def recipe_of(model: Any) -> dict[str, Any] | None:
    """What a smaller model came from; None for one that `remove_nodes` did not make."""
    text = getattr(model, _RECIPE, None)
    return None if text is None else json.loads(text)


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def constants(coupling: Coupling, kept: np.ndarray) -> dict[str, np.ndarray]:
    """What every value's channels hold once the nodes are masked: a number where removed, 0 where kept.

    All are 0 but those behind a sigmoid, which gives 0.5 at 0. Zero padding before an average pooling makes
    the border differ; what stands here is the interior.
    """
    held: dict[str, np.ndarray] = {INPUT: np.zeros(coupling.spec.input_shape[0])}
    for node in coupling.spec.nodes:
        inputs = [held[name] for name in node.inputs]
        if node.has_kernel or node.op in ("batch_norm", "attention"):
            value = np.zeros(coupling.spec.shapes[node.name][0])
        elif node.op == "activation":
            value = _sigmoid(inputs[0]) if node.options["kind"] == "sigmoid" else _activated(node, inputs[0])
        elif node.op == "add":
            value = np.sum(inputs, 0)
        elif node.op == "multiply":
            value = np.prod(inputs, 0)
        elif node.op == "concat":
            value = np.concatenate(inputs)
        elif node.op == "flatten":
            value = np.repeat(inputs[0], math.prod(coupling.spec.shapes[node.inputs[0]][1:]))
        else:
            value = inputs[0]
        held[node.name] = np.where(coupling.channels(node.name, kept), 0.0, value)
    return held


def _activated(node: Node, x: np.ndarray) -> np.ndarray:
    """Activations that are 0 at 0, on the constants that a sigmoid before them made."""
    if not x.any():
        return x
    kind = node.options["kind"]
    if kind == "gelu":
        from scipy.special import erf

        return x * (1 + erf(x / math.sqrt(2))) / 2
    return {"relu": lambda: np.maximum(x, 0), "tanh": lambda: np.tanh(x), "silu": lambda: x * _sigmoid(x)}[
        kind
    ]()


def fold_constants(
    coupling: Coupling,
    kept: np.ndarray,
    weights: Mapping[str, np.ndarray],
    after: NetSpec,
    small: dict[str, np.ndarray],
    *,
    fold: bool,
) -> NetSpec:
    """Add what removed nodes gave to the biases of the layers that read them; changes `small` in place.

    Exact for dense layers and for convolutions without padding. Under zero padding a convolution sees the
    constant inside and zeros at the border, so there the outputs of the border change. Returns the
    description, with a bias where one had to be added. With ``fold=False`` anything to fold is refused.
    """
    if all(node.options.get("kind") != "sigmoid" for node in coupling.spec.nodes):
        return after
    given, nodes = constants(coupling, kept), []
    for node, smaller in zip(coupling.spec.nodes, after.nodes, strict=True):
        constant = given[node.inputs[0]]
        if node.has_kernel and node.groups == 1 and constant.any():
            if not fold:
                rule = f"removing nodes that layer {node.name!r} reads would change its outputs"
                remedy = "Pass fold=True to add it to the layer's bias (under zero padding, borders differ)."
                refuse(rule, "a sigmoid, which makes 0.5 of their 0, and fold=False", remedy)
            # In float64: a sum over hundreds of inputs would cost the fifth digit that is promised.
            kernel = weights[f"{node.name}/kernel"].astype(np.float64)
            summed = kernel.reshape(*kernel.shape[:2], -1).sum(2) @ constant
            name = f"{node.name}/bias"
            rows = coupling.channels(node.name, kept)
            bias = weights.get(name, np.zeros(len(rows))) + summed
            small[name] = bias[rows].astype(small[f"{node.name}/kernel"].dtype)
            smaller = replace(smaller, options={**smaller.options, "bias": True})
        nodes.append(smaller)
    return NetSpec(after.input_shape, tuple(nodes))
