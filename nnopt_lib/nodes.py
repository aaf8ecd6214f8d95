"""Masks on nodes: a model's layers by their own names, coupled, scored, and as masks on its weights."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from nnopt_lib.checks import check_choice, nearest, refuse
from nnopt_lib.coupling import FIXED, Coupling, couple
from nnopt_lib.description import read
from nnopt_lib.frameworks import backend_of, mask_backend_of
from nnopt_lib.masks import Masks
from nnopt_lib.node_scores import NODE_SCORES, keep_nodes
from nnopt_lib.removal import weight_masks
from nnopt_lib.spec import NetSpec


class NodeMasks(Masks):
    """One boolean array (channels,) per layer, **True = keep**; coupled nodes count as one.

    Example:
        >>> from nnopt_lib import build, mlp, prune
        >>> prune(build(mlp((8,), inputs=4, outputs=2)), sparsity=0.5, granularity="node")
        NodeMasks(sparsity 0.5: 4 of 8 nodes removed, 1 array)
    """

    _unit = "nodes"

    @property
    def weights(self) -> Masks:
        """The same as masks on the model's weights: kernel rows, biases, normalization scales and shifts."""
        return self._weights

    _kept: np.ndarray  # (nodes,)
    _weights: Masks

    @property
    def size(self) -> int:
        """The number of prunable nodes."""
        return len(self._kept)

    @property
    def removed(self) -> int:
        """The number of removed nodes."""
        return int((~self._kept).sum())

    @classmethod
    def of_nodes(cls, layers: dict[str, np.ndarray], kept: np.ndarray, weights: Masks) -> NodeMasks:
        """From masks per layer, what they say of each node, and what that means for the weights."""
        masks = cls(layers)
        masks._kept, masks._weights = kept, weights
        return masks


@dataclass(frozen=True)
class Described:
    """A model's description, with what leads from it to the model.

    paths: the model's own name of every layer with parameters. orders: for dense layers that read their
    inputs in an order of their own, where each canonical input stands. nodes of `coupling` by spec names.
    """

    spec: NetSpec
    paths: Mapping[str, str]
    orders: Mapping[str, np.ndarray]
    coupling: Coupling

    @classmethod
    def of(cls, model: Any, example_input: Any = None) -> Described:
        """Read `model`; refuses what is not understood, and a network without a node to remove."""
        spec, paths, orders = read(model, example_input)
        coupling = couple(spec)
        if not coupling.size:
            refuse("a model to prune by nodes needs a layer whose outputs another layer reads", "none")
        return cls(spec, paths, orders, coupling)

    def weights(self, model: Any) -> dict[str, np.ndarray]:
        """The model's weights, not to be changed, under the names, shapes and orders of the description."""
        return self.translated(self._own(model, self.spec.parameter_shapes(trainable=False)))

    def translated(self, own: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Weights under the model's own names, as a `snapshot` has them, as the description has them."""
        found = {}
        for name, shape in self.spec.parameter_shapes(trainable=False).items():
            layer, part = name.split("/")
            value = own[self._name(name)].reshape(shape)
            order = self.orders.get(layer) if part == "kernel" else None
            found[name] = value if order is None else value[:, order]
        return found

    def set_weights(self, model: Any, weights: Mapping[str, np.ndarray]) -> None:
        """Write weights under the names, shapes and orders of the description into the model."""
        own = backend_of(model).get_weights(model)
        for name, value in weights.items():
            layer, part = name.split("/")
            old = own[self._name(name)]
            order = self.orders.get(layer) if part == "kernel" else None
            old[...] = (value if order is None else value[:, np.argsort(order)]).reshape(old.shape)
        backend_of(model).set_weights(model, own)

    def _name(self, name: str) -> str:
        """The model's own name of a parameter."""
        layer, part = name.split("/")
        return f"{self.paths[layer]}/{part}"

    def _own(self, model: Any, names: Iterable[str]) -> Mapping[str, np.ndarray]:
        return mask_backend_of(model).weights(model, [self._name(name) for name in names])

    def kept(self, masks: Mapping[str, np.ndarray]) -> np.ndarray:
        """Which nodes stay, by masks under the model's own names of layers."""
        spec_name = {path: name for name, path in self.paths.items()}
        for layer in masks:
            if layer not in spec_name:
                known = [self.paths[name] for name in self.coupling.layers]
                refuse(
                    f"the model has no layer {layer!r} whose nodes can be removed",
                    None,
                    nearest(layer, known),
                )
        return self.coupling.kept({spec_name[layer]: mask for layer, mask in masks.items()})

    def masks(self, model: Any, kept: np.ndarray) -> NodeMasks:
        """`NodeMasks` under the model's own names."""
        layers = {self.paths[name]: self.coupling.channels(name, kept) for name in self.coupling.layers}
        masks, weights = weight_masks(self.coupling, kept), {}
        own = self._own(model, masks)
        for name, mask in masks.items():
            own_name = self._name(name)
            weights[own_name] = mask.reshape(own[own_name].shape)  # a 1x1 convolution may stand as dense
        return NodeMasks.of_nodes(layers, kept, Masks(weights))


def node_masks(
    model: Any,
    *,
    sparsity: float,
    score: str | Mapping[str, np.ndarray],
    scope: str,
    round_to: int,
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
    before = None if previous is None else described.kept(previous)
    options: dict[str, Any] = {"scope": scope, "round_to": round_to, "previous": before}
    kept = keep_nodes(coupling, scores, sparsity=sparsity, **options)
    return described.masks(model, kept)


def _given(described: Described, score: Mapping[str, np.ndarray]) -> np.ndarray:
    """One number per node from arrays (channels,) by layer: the mean over a node's channels that have one."""
    coupling, name_of = described.coupling, {path: name for name, path in described.paths.items()}
    total, count = np.zeros(coupling.size), np.zeros(coupling.size)
    for layer, values in score.items():
        name = name_of.get(layer)
        if name not in coupling.layers:
            known = [described.paths[own] for own in coupling.layers]
            refuse(f"scores name a layer {layer!r} that has no removable nodes", None, nearest(layer, known))
        numbers, values = coupling.nodes[name], np.asarray(values, float)
        if values.shape != numbers.shape:
            refuse(f"scores of layer {layer!r} must have the shape {numbers.shape}", values.shape)
        there = numbers != FIXED
        total += np.bincount(numbers[there], values[there], coupling.size)
        count += np.bincount(numbers[there], None, coupling.size)
    if not count.all():
        missing = [
            described.paths[own]
            for own in coupling.layers
            if not count[coupling.nodes[own][coupling.nodes[own] != FIXED]].all()
        ]
        refuse("scores must cover every layer with removable nodes", f"none for {', '.join(missing)}")
    return total / count
