"""Smaller Keras models: a clone of a functional model whose layers have a smaller description's sizes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from keras import layers

from nnopt_lib.backends.keras import keras
from nnopt_lib.backends.keras.build import canonical_variables, from_canonical
from nnopt_lib.structure.spec import NetSpec


def cut(
    model: keras.Model,
    paths: Mapping[str, str],
    after: NetSpec,
    weights: Mapping[str, np.ndarray],
    example_input: Any,
) -> keras.Model:
    """A clone of `model` with the sizes of `after` and these weights; its layers keep their names.

    What `compile` set is not cloned: compile the result before `fit`.
    """
    layer_of = {
        layer.weights[0].path.rpartition("/")[0]: layer.name for layer in model.layers if layer.weights
    }
    name_of = {layer_of[path]: name for name, path in paths.items()}  # of a layer: its node's
    node_of = {layer: after.node(name) for layer, name in name_of.items()}

    def resized(layer: Any) -> Any:
        config = layer.get_config()
        node = node_of.get(layer.name)
        if isinstance(layer, layers.Reshape) and math.prod(layer.target_shape[:-1]) == 1:
            config["target_shape"] = (*layer.target_shape[:-1], -1)  # a gate, whatever its channels
        elif node is not None and node.op == "dense" and isinstance(layer, layers.Dense):
            config["units"] = node.options["units"]
        elif node is not None and isinstance(layer, layers.DepthwiseConv1D | layers.DepthwiseConv2D):
            pass  # its size is that of its input
        elif node is not None and node.op != "batch_norm":
            config["filters"] = after.shapes[node.name][0]
            config["groups"] = node.groups
        if node is not None and node.options.get("bias"):
            config["use_bias"] = True
        return type(layer).from_config(config)

    small = keras.models.clone_model(model, clone_function=resized)
    for name, variable, layer in canonical_variables(small):
        part = name.rpartition("/")[2]
        value, shape = weights[f"{name_of[layer.name]}/{part}"], tuple(variable.shape)
        if value.ndim < len(shape) and part == "kernel":  # a 1x1 convolution that stands as a dense layer
            value = value.reshape(*value.shape, *(1,) * (len(shape) - value.ndim))
        variable.assign(from_canonical(layer, name, value, shape))
    if hasattr(model, "spec"):
        small.spec = after
    return small
