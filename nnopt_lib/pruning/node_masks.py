"""Masks on nodes, decided by importance, and what they mean for the weights."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from nnopt_lib.checks import check_choice, nearest, refuse
from nnopt_lib.models.describe import Described
from nnopt_lib.pruning.importance import NODE_SCORES, keep_nodes
from nnopt_lib.pruning.masks import Masks, read_parts, write_parts
from nnopt_lib.structure.coupling import FIXED, Coupling
from nnopt_lib.structure.spec import split_name
from nnopt_lib.structure.weights import renamed

LAYERS_ONLY = (
    "masks on nodes must say what they mean for weights to be held or applied",
    "one array for each layer",
    "Take those of prune, or of NodeMasks.load.",
)


class NodeMasks(Masks):
    """One boolean array (channels,) per layer, **True = keep**; coupled nodes count as one.

    Example:
        >>> from nnopt_lib import build, mlp, prune
        >>> prune(build(mlp((8,), inputs=4, outputs=2)), sparsity=0.5, granularity="node")
        NodeMasks(sparsity 0.5: 4 of 8 nodes removed, 1 array)
    """

    _unit = "nodes"
    _kept: np.ndarray | None = None  # (nodes,); without it all channels are counted
    _weights: Masks | None = None

    @property
    def weights(self) -> Masks:
        """The same as masks on the model's weights: kernel rows, biases, normalization scales and shifts."""
        if self._weights is None:
            refuse(*LAYERS_ONLY)
        return self._weights

    @property
    def size(self) -> int:
        """The number of prunable nodes."""
        return super().size if self._kept is None else len(self._kept)

    @property
    def removed(self) -> int:
        """The number of removed nodes."""
        return super().removed if self._kept is None else int((~self._kept).sum())

    def save(self, path: str | Path) -> None:
        """Write to a safetensors file, with what they mean for weights; whole or not at all."""
        if self._kept is None:
            return super().save(path)
        write_parts(path, {"layers": self, "weights": self.weights, "nodes": {"kept": self._kept}})

    @classmethod
    def load(cls, path: str | Path) -> NodeMasks:
        """Read what `save` wrote, to be held again; a file of other masks is refused in one sentence."""
        rule = f"{path} must be a whole file that NodeMasks.save wrote"
        parts = read_parts(path, rule)
        if set(parts) != {"layers", "weights", "nodes"} or set(parts["nodes"]) != {"kept"}:
            refuse(rule, "other masks", "Load those on weights by Masks.load.")
        return cls.of_nodes(parts["layers"], parts["nodes"]["kept"], Masks(parts["weights"]))

    @classmethod
    def of_nodes(cls, layers: dict[str, np.ndarray], kept: np.ndarray, weights: Masks) -> NodeMasks:
        """From masks per layer, what they say of each node, and what that means for the weights."""
        masks = cls(layers)
        masks._kept, masks._weights = kept, weights
        return masks


def node_masks(
    model: Any,
    *,
    sparsity: float,
    score: str | Mapping[str, np.ndarray],
    scope: str,
    round_to: int,
    rounding: str,
    previous: Masks | None,
    example_input: Any,
    seed: int,
) -> NodeMasks:
    """What `prune` with ``granularity="node"`` decides; the model stays as it is."""
    described = Described.of(model, example_input)
    coupling = described.coupling
    if isinstance(score, Mapping):
        scores = _given(described, score)
    else:
        rule = NODE_SCORES[check_choice("score", score, NODE_SCORES)]
        scores = rule(coupling, described.weights(model), seed=seed)
    # Masks of before may come from a file: then they know layers only, and nodes are read off them again.
    before = None if previous is None else described.kept(_under_names_of(described, previous))
    options: dict[str, Any] = {"scope": scope, "round_to": round_to, "rounding": rounding, "previous": before}
    kept = keep_nodes(coupling, scores, sparsity=sparsity, **options)
    return _masks_of(described, model, kept)


def _under_names_of(described: Described, masks: Masks) -> Mapping[str, np.ndarray]:
    """Masks by layer under the names that the model has for its layers now."""
    coupling = described.coupling
    shapes = {f"{path}/rows": (len(coupling.nodes[name]),) for name, path in described.paths.items()}
    found = renamed({f"{layer}/rows": mask for layer, mask in masks.items()}, shapes)
    return {name.removesuffix("/rows"): mask for name, mask in found.items()} if found else masks


def _masks_of(described: Described, model: Any, kept: np.ndarray) -> NodeMasks:
    """`NodeMasks` under the model's own names."""
    coupling = described.coupling
    layers = {described.paths[name]: coupling.channels(name, kept) for name in coupling.layers}
    masks, weights = weight_masks(coupling, kept), {}
    model_weights = described.model_weights(model, masks)
    for name, mask in masks.items():
        model_name = described.model_name(name)
        # A 1x1 convolution on a pooled value stands in the description as a dense layer.
        weights[model_name] = mask.reshape(model_weights[model_name].shape)
    return NodeMasks.of_nodes(layers, kept, Masks(weights))


def _given(described: Described, score: Mapping[str, np.ndarray]) -> np.ndarray:
    """One number per node from arrays (channels,) by layer: the mean over a node's channels that have one."""
    coupling, name_of = described.coupling, {path: name for name, path in described.paths.items()}
    total, count = np.zeros(coupling.size), np.zeros(coupling.size)
    for layer, values in score.items():
        name = name_of.get(layer)
        if name not in coupling.layers:
            known = [described.paths[node] for node in coupling.layers]
            refuse(f"scores name a layer {layer!r} that has no removable nodes", None, nearest(layer, known))
        numbers, values = coupling.nodes[name], np.asarray(values, float)
        if values.shape != numbers.shape:
            refuse(f"scores of layer {layer!r} must have the shape {numbers.shape}", values.shape)
        removable = numbers != FIXED
        # bincount: several channels of a layer may be one node, and numbers[...] += would count one of them.
        total += np.bincount(numbers[removable], values[removable], coupling.size)
        count += np.bincount(numbers[removable], None, coupling.size)
    if not count.all():
        missing = [
            described.paths[layer]
            for layer in coupling.layers
            if not count[coupling.nodes[layer][coupling.nodes[layer] != FIXED]].all()
        ]
        refuse("scores must cover every layer with removable nodes", f"none for {', '.join(missing)}")
    return total / count


def weight_masks(coupling: Coupling, kept: np.ndarray) -> dict[str, np.ndarray]:
    """What masking the removed nodes means for weights: ``{"conv_1/kernel": bool array of its shape, ...}``.

    Kernel rows, biases, normalization scales and shifts, for every parameter that a removable node owns.
    """
    masks, rows = {}, {}
    for name, shape in coupling.spec.parameter_shapes().items():
        layer, _ = split_name(name)
        if layer not in rows:
            rows[layer] = coupling.channels(layer, kept) if (coupling.nodes[layer] >= 0).any() else None
        row = rows[layer]
        if row is not None:
            masks[name] = row if len(shape) == 1 else row.repeat(math.prod(shape[1:])).reshape(shape)
    return masks
