"""Removing nodes for real, on the description and its arrays: smaller shapes, sliced weights, equal outputs.

A masked node outputs exactly 0: kernel row, bias, normalization scale and shift together. Where an
activation makes a constant of that 0 (a sigmoid gives 0.5), the constant can be folded into the biases of the
layers that read it. Chapter 15 teaches it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from nnopt_lib.checks import refuse
from nnopt_lib.coupling import Coupling
from nnopt_lib.spec import INPUT, NetSpec, Node

_KERNELS = ("dense", "conv1d", "conv2d")


def weight_masks(coupling: Coupling, kept: np.ndarray) -> dict[str, np.ndarray]:
    """What masking the removed nodes means for weights: ``{"conv_1/kernel": bool array of its shape, ...}``.

    Kernel rows, biases, normalization scales and shifts, for every parameter that a removable node owns.
    """
    masks, rows = {}, {}
    for name, shape in coupling.spec.parameter_shapes().items():
        owner = name.split("/")[0]
        if owner not in rows:
            rows[owner] = coupling.channels(owner, kept) if (coupling.nodes[owner] >= 0).any() else None
        own = rows[owner]
        if own is not None:
            masks[name] = own if len(shape) == 1 else own.repeat(math.prod(shape[1:])).reshape(shape)
    return masks


def smaller_spec(coupling: Coupling, kept: np.ndarray) -> NetSpec:
    """The description without the removed nodes: the same graph, fewer units, filters and groups."""
    nodes = []
    for node in coupling.spec.nodes:
        if node.op in _KERNELS:
            left = int(coupling.channels(node.name, kept).sum())
            options = {**node.options, "units" if node.op == "dense" else "filters": left}
            if node.options.get("groups", 1) > 1:  # whole groups leave
                each = coupling.spec.shapes[node.name][0] // node.options["groups"]
                options["groups"] = left // each
            node = replace(node, options=options)
        nodes.append(node)
    return NetSpec(coupling.spec.input_shape, tuple(nodes))


def smaller_weights(
    coupling: Coupling, kept: np.ndarray, weights: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """New arrays with the rows and columns of the kept nodes, for `smaller_spec`."""
    node_of = {node.name: node for node in coupling.spec.nodes}
    places: dict[str, np.ndarray] = {}
    small = {}
    for name, value in weights.items():
        owner, part = name.split("/")
        node = node_of[owner]
        read = (node.inputs[0],) if part == "kernel" and node.options.get("groups", 1) == 1 else ()
        for axis, source in enumerate((owner, *read)):
            if source not in places:
                places[source] = np.flatnonzero(coupling.channels(source, kept))
            value = value.take(places[source], axis)
        small[name] = value
    return small


# ---------------------------------------------------------------- constants of removed nodes


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def constants(coupling: Coupling, kept: np.ndarray) -> dict[str, np.ndarray]:
    """What every value's channels hold once the nodes are masked: a number where removed, 0 where kept.

    All are 0 but those behind a sigmoid, which gives 0.5 at 0. Zero padding before an average pooling makes
    the border differ; what stands here is the interior.
    """
    found: dict[str, np.ndarray] = {INPUT: np.zeros(coupling.spec.input_shape[0])}
    for node in coupling.spec.nodes:
        own = [found[name] for name in node.inputs]
        if node.op in (*_KERNELS, "batch_norm", "attention"):
            value = np.zeros(coupling.spec.shapes[node.name][0])
        elif node.op == "activation":
            value = _sigmoid(own[0]) if node.options["kind"] == "sigmoid" else _activated(node, own[0])
        elif node.op == "add":
            value = np.sum(own, 0)
        elif node.op == "multiply":
            value = np.prod(own, 0)
        elif node.op == "concat":
            value = np.concatenate(own)
        elif node.op == "flatten":
            value = np.repeat(own[0], math.prod(coupling.spec.shapes[node.inputs[0]][1:]))
        else:
            value = own[0]
        found[node.name] = np.where(coupling.channels(node.name, kept), 0.0, value)
    return found


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
        if node.op in _KERNELS and node.options.get("groups", 1) == 1 and constant.any():
            if not fold:
                rule = f"removing nodes that layer {node.name!r} reads would change its outputs"
                remedy = "Pass fold=True to add it to the layer's bias (under zero padding, borders differ)."
                refuse(rule, "a sigmoid, which makes 0.5 of their 0, and fold=False", remedy)
            kernel = weights[f"{node.name}/kernel"].astype(np.float64)
            summed = kernel.reshape(*kernel.shape[:2], -1).sum(2) @ constant
            name = f"{node.name}/bias"
            own = coupling.channels(node.name, kept)
            bias = weights.get(name, np.zeros(len(own))) + summed
            small[name] = bias[own].astype(small[f"{node.name}/kernel"].dtype)
            smaller = replace(smaller, options={**smaller.options, "bias": True})
        nodes.append(smaller)
    return NetSpec(after.input_shape, tuple(nodes))
