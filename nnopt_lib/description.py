"""Reading a model into its description: any module or functional model of operations that `NetSpec` has."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from nnopt_lib.frameworks import description_backend_of
from nnopt_lib.spec import NetSpec


def describe(model: Any, example_input: Any = None) -> NetSpec:
    """The `NetSpec` of a model: what it computes in inference mode, as a graph.

    Parameters:
        model: one that `build` made, a torch module (without branches on data), or a Keras functional or
            sequential model.
        example_input: for a torch module a batch that it reads, (batch, *input_shape); it is run on the first
            example, in evaluation mode.

    Dropout and identities are left out. What `NetSpec` has no operation for is refused by the name of the
    module or layer; a description that would not give the model's outputs is never returned. Chapter 15
    uses it.

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
        layers = {name.split("/")[0] for name in spec.parameter_shapes()}
        return spec, {layer: layer for layer in layers}, {}
    return description_backend_of(model).read(model, example_input)
