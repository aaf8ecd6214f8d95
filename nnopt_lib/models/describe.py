"""Reading a model into its description: any module or functional model of operations that `NetSpec` has."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from nnopt_lib.checks import nearest, refuse
from nnopt_lib.frameworks import backend_of, description_backend_of, mask_backend_of
from nnopt_lib.structure.coupling import Coupling, couple
from nnopt_lib.structure.spec import NetSpec, split_name
from nnopt_lib.structure.weights import layers_renamed


def describe(model: Any, example_input: Any = None) -> NetSpec:
    """The `NetSpec` of a model: what it computes in inference mode, as a graph.

    Parameters:
        model: one that `build` made, a torch module (without branches on data), or a Keras functional or
            sequential model.
        example_input: for a torch module a batch that it reads, (batch, *input_shape); it is run on the first
            example, in evaluation mode.

    Dropout and identities are left out. What `NetSpec` has no operation for is refused by the name of the
    module or layer; a description that would not give the model's outputs is never returned. Removing nodes
    does not need a description: `prune` reads any model that runs. Chapter 15 uses it.

    Example:
        >>> import torch
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.ReLU(), torch.nn.Linear(3, 2))
        >>> [node.op for node in describe(model, torch.zeros(1, 4)).nodes]
        ['dense', 'activation', 'dense']
    """
    return read(model, example_input)[0]


def read(
    model: Any, example_input: Any = None
) -> tuple[NetSpec, Mapping[str, str], Mapping[str, np.ndarray]]:
    """The description, and what leads from it back to the model.

    Returns the `NetSpec`; the model's own name of every layer with parameters, by node; and, for dense
    layers that read their inputs in an order of their own (Keras flattens channels last), where each
    canonical input stands: ``spec_kernel = model_kernel[:, order]``.
    """
    spec = getattr(model, "spec", None)
    if isinstance(spec, NetSpec):  # `build` made it, or `remove_nodes` from such a one
        layers = {split_name(name)[0] for name in spec.parameter_shapes()}
        return spec, {layer: layer for layer in layers}, {}
    return description_backend_of(model).read(model, example_input)


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
        """Read `model`; refuses what `NetSpec` has no words for, and a network without a node to remove."""
        spec, paths, orders = read(model, example_input)
        coupling = couple(spec)
        if not coupling.size:
            refuse("a model to prune by nodes needs a layer whose outputs another layer reads", "none")
        return cls(spec, paths, orders, coupling)

    def weights(self, model: Any) -> dict[str, np.ndarray]:
        """The model's weights, not to be changed, under the names, shapes and orders of the description."""
        return self.translated(self.model_weights(model, self.spec.parameter_shapes(trainable=False)))

    def translated(self, weights: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Weights under the model's names, as `get_weights` gives them, as the description has them."""
        translated = {}
        for name, shape in self.spec.parameter_shapes(trainable=False).items():
            layer, part = split_name(name)
            # A 1x1 convolution on a pooled value stands in the description as a dense layer.
            value = weights[self.model_name(name)].reshape(shape)
            order = self.orders.get(layer) if part == "kernel" else None
            translated[name] = value if order is None else value[:, order]
        return translated

    def set_weights(self, model: Any, weights: Mapping[str, np.ndarray]) -> None:
        """Write weights under the names, shapes and orders of the description into the model."""
        model_weights = backend_of(model).get_weights(model)
        for name, value in weights.items():
            layer, part = split_name(name)
            old = model_weights[self.model_name(name)]
            order = self.orders.get(layer) if part == "kernel" else None
            # argsort of a permutation is its inverse: back into the order of the model.
            old[...] = (value if order is None else value[:, np.argsort(order)]).reshape(old.shape)
        backend_of(model).set_weights(model, model_weights)

    def model_name(self, name: str) -> str:
        """The model's name of a parameter of the description."""
        layer, part = split_name(name)
        return f"{self.paths[layer]}/{part}"

    def model_weights(self, model: Any, names: Iterable[str]) -> Mapping[str, np.ndarray]:
        """The model's weights that have these names in the description, under the model's names."""
        model_names = [self.model_name(name) for name in names]
        weights = mask_backend_of(model).weights(model, model_names)
        shared = [name for name in model_names if name not in weights]  # met first under another name
        if shared:
            rule = "a layer whose nodes can leave must own its weights"
            remedy = "Give each layer weights of its own, or prune single weights."
            refuse(rule, f"{', '.join(shared)} shared with another layer", remedy)
        return weights

    def kept(self, masks: Mapping[str, np.ndarray]) -> np.ndarray:
        """Which nodes stay, by masks under the model's own names of layers."""
        spec_name = {path: name for name, path in self.paths.items()}
        widths = {self.paths[name]: len(self.coupling.nodes[name]) for name in self.coupling.layers}
        masks = layers_renamed(masks, widths)
        for layer in masks:
            if layer not in spec_name:
                known = [self.paths[name] for name in self.coupling.layers]
                refuse(
                    f"the model has no layer {layer!r} whose nodes can be removed",
                    None,
                    nearest(layer, known),
                )
        return self.coupling.kept({spec_name[layer]: mask for layer, mask in masks.items()})
