"""Functional models from descriptions, weights in canonical layout.

Keras keeps channels last and kernels (*spatial, in, out): inputs and kernels are transposed here, both ways,
so that everything outside sees the canonical layout.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Collection, Iterator
from typing import Any

import numpy as np
from keras import layers

from nnopt_lib.backends.keras import keras
from nnopt_lib.backends.keras.layers import Attention, Position
from nnopt_lib.checks import refuse
from nnopt_lib.structure.operations import spatial
from nnopt_lib.structure.spec import INPUT, NetSpec, Node


def channels_last(x: np.ndarray) -> np.ndarray:
    """(batch, channels, *spatial) as Keras reads it; (batch, features) stays as it is."""
    return np.moveaxis(x, 1, -1) if x.ndim > 2 and keras.config.image_data_format() == "channels_last" else x


def build(spec: NetSpec, weights: dict[str, np.ndarray]) -> keras.Model:
    """A functional model of `spec`, reading channels last, with these weights (canonical layout)."""
    if keras.config.image_data_format() != "channels_last":
        refuse("Keras must be set to channels_last to build a network here", "channels_first")
    channels, *space = spec.input_shape
    inputs = keras.Input((*space, channels), name=INPUT)
    values = {INPUT: inputs}
    for node in spec.nodes:
        sources = [values[name] for name in node.inputs]
        values[node.name] = _layer(node, sources)
    model = keras.Model(inputs, values[spec.output])
    model.spec = spec
    set_weights(model, weights)
    return model


def _layer(node: Node, sources: list[Any]) -> Any:
    """The node's output; every layer with parameters carries the node's name."""
    o, x = node.options, sources[0]
    rank = len(x.shape) - 2
    match node.op:
        case "dense":
            return layers.Dense(o["units"], use_bias=o["bias"], name=node.name)(x)
        case "conv1d" | "conv2d":
            kind = layers.Conv1D if rank == 1 else layers.Conv2D
            kernel, stride = spatial(o["kernel"], rank), spatial(o["stride"], rank)
            options = {"groups": o["groups"], "use_bias": o["bias"], "name": node.name}
            return kind(o["filters"], kernel, stride, **options)(_zero_padded(node, x, rank))
        case "batch_norm":
            return layers.BatchNormalization(momentum=1 - o["momentum"], epsilon=o["eps"], name=node.name)(x)
        case "activation":
            return layers.Activation(o["kind"], name=node.name)(x)
        case "max_pool" | "avg_pool":
            return _pool(node, x, rank)
        case "global_pool":
            kinds = {
                "avg": (layers.GlobalAveragePooling1D, layers.GlobalAveragePooling2D),
                "max": (layers.GlobalMaxPooling1D, layers.GlobalMaxPooling2D),
            }
            return kinds[o["kind"]][rank - 1](name=node.name)(x)
        case "flatten":
            # Channels go first again, so that the next kernel's inputs stand in canonical order.
            x = layers.Permute((rank + 1, *range(1, rank + 1)))(x) if rank else x
            return layers.Flatten(name=node.name)(x)
        case "add":
            return layers.Add(name=node.name)(sources)
        case "concat":
            return layers.Concatenate(name=node.name)(sources)
        case "attention":
            return Attention(o["heads"], name=node.name)(*sources)
        case "position":
            return Position(name=node.name)(x)
    # multiply: gates (batch, channels) become (batch, 1, ..., channels)
    most = max(len(source.shape) for source in sources)
    spread = [
        s if len(s.shape) == most else layers.Reshape((*(1,) * (most - 2), s.shape[-1]))(s) for s in sources
    ]
    return layers.Multiply(name=node.name)(spread)


def _zero_padded(node: Node, x: Any, rank: int) -> Any:
    """Explicit, symmetric zero padding: Keras's "same" pads unevenly under strides."""
    padding = spatial(node.options["padding"], rank)
    if not any(padding):
        return x
    if rank == 1:
        return layers.ZeroPadding1D(padding[0])(x)
    return layers.ZeroPadding2D(padding)(x)


def _pool(node: Node, x: Any, rank: int) -> Any:
    """Pooling as PyTorch pads it: minus infinity under a maximum, zeros that count under an average."""
    o = node.options
    size, padding = spatial(o["size"], rank), spatial(o["padding"], rank)
    stride = size if o["stride"] is None else spatial(o["stride"], rank)
    if node.op == "max_pool":
        if any(padding):  # zeros would win over negative values
            widths = [(0, 0), *((p, p) for p in padding), (0, 0)]
            x = keras.ops.pad(x, widths, constant_values=-np.inf)
        kind = layers.MaxPooling1D if rank == 1 else layers.MaxPooling2D
    else:
        x = _zero_padded(node, x, rank)
        kind = layers.AveragePooling1D if rank == 1 else layers.AveragePooling2D
    return kind(size if rank == 2 else size[0], stride if rank == 2 else stride[0], name=node.name)(x)


_DEPTHWISE = (
    *(layers.DepthwiseConv1D, layers.DepthwiseConv2D),
    *(layers.SeparableConv1D, layers.SeparableConv2D),
)
_PARTS = {"gamma": "scale", "beta": "shift", "moving_mean": "mean", "moving_variance": "variance"}


def canonical_variables(model: keras.Model) -> Iterator[tuple[str, Any, keras.layers.Layer]]:
    """Every floating variable with its canonical name and its layer; a shared layer comes once.

    ``path`` is "layer/kernel" in a functional model and "outer/inner/kernel" in some nested ones. Where two
    layers have one path, the names of the layers around each come first; where that does not help either
    (layers of a class of one's own may be called the same), they are numbered as Keras numbers layers.
    """
    owners = _owners(model)
    variables = [
        (*v.path.rpartition("/")[::2], v, *owners.get(id(v), ((), None)))
        for v in model.weights
        if v.dtype.startswith(("float", "bfloat"))
    ]
    places = {(path, id(layer)) for path, _, _, _, layer in variables}
    paths, names = Counter(path for path, _ in places), set[str]()
    own_path: dict[tuple[str, int], str] = {}
    for path, part, variable, outer, layer in variables:
        place = path, id(layer)
        if place not in own_path:
            alone = paths[path] == 1
            own_path[place] = path if alone else _free("/".join((*outer, path)), {*paths, *own_path.values()})
        # Keras has names of its own for what is a kernel everywhere else.
        part = part if part not in ("embeddings", "depthwise_kernel") else "kernel"
        name = _free(f"{own_path[place]}/{_PARTS.get(part, part)}", names)
        names.add(name)
        yield name, variable, layer


def _owners(model: keras.Model) -> dict[int, tuple[tuple[str, ...], keras.layers.Layer]]:
    """By identity of each variable: the names of the layers around its layer, and this layer."""
    owners: dict[int, tuple[tuple[str, ...], keras.layers.Layer]] = {}
    waiting: list[tuple[tuple[str, ...], Any]] = [((), model)]
    seen: set[int] = set()
    while waiting:
        outer, layer = waiting.pop(0)
        if id(layer) not in seen:
            seen.add(id(layer))
            for variable in (*layer._trainable_variables, *layer._non_trainable_variables):
                owners[id(variable)] = outer, layer
            inside = () if layer is model else (*outer, layer.name)
            waiting += [(inside, child) for child in layer._layers]
    return owners


def _free(name: str, taken: Collection[str]) -> str:
    """The name, or with the first number that makes it one of its own."""
    numbered = (f"{name}_{number}" for number in itertools.count(1))
    return next(each for each in itertools.chain([name], numbered) if each not in taken)


def to_canonical(layer: Any, name: str, value: np.ndarray) -> np.ndarray:
    """A variable of `layer` in canonical layout; a transposed view where the layouts differ."""
    if not name.endswith("kernel") or isinstance(layer, layers.Embedding) or value.ndim < 2:
        return value
    if isinstance(layer, layers.EinsumDense):  # of attention: all outputs, then all inputs
        outputs, inputs = _einsum_axes(layer)
        return value.transpose(outputs + inputs).reshape(math.prod(value.shape[i] for i in outputs), -1)
    if isinstance(layer, _DEPTHWISE) and name.endswith("/kernel"):
        *space, inputs, multiplier = value.shape  # one group per input channel
        return value.reshape(*space, 1, inputs * multiplier).transpose(_to_front(len(space)))
    return value.transpose(_to_front(value.ndim - 2))


def from_canonical(layer: Any, name: str, value: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The inverse of `to_canonical`, with the `shape` that the variable has in Keras."""
    if not name.endswith("kernel") or isinstance(layer, layers.Embedding) or value.ndim < 2:
        return value
    if isinstance(layer, layers.EinsumDense):
        axes = sum(_einsum_axes(layer), ())
        return value.reshape([shape[axis] for axis in axes]).transpose(np.argsort(axes))
    return value.transpose((*range(2, value.ndim), 1, 0)).reshape(shape)


def _einsum_axes(layer: Any) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The kernel's axes that are outputs, and those that are inputs, by the layer's equation."""
    terms, output = layer.equation.split("->")
    source, kernel = terms.split(",")
    inputs = tuple(i for i, axis in enumerate(kernel) if axis in source and axis not in output)
    return tuple(i for i in range(len(kernel)) if i not in inputs), inputs


def _to_front(rank: int) -> tuple[int, ...]:
    """Axes that turn (*spatial, in, out) into (out, in, *spatial)."""
    return (rank + 1, rank, *range(rank))


def get_weights(model: keras.Model) -> dict[str, np.ndarray]:
    """Copies of all weights and running statistics, in canonical names and layout; half becomes float32."""
    weights = {}
    for name, variable, layer in canonical_variables(model):
        value = to_canonical(layer, name, keras.ops.convert_to_numpy(variable))
        weights[name] = np.array(value, np.float32 if value.itemsize < 4 else value.dtype, order="C")
    return weights


def set_weights(model: keras.Model, weights: dict[str, np.ndarray]) -> None:
    """Write weights into the model's own variables."""
    for name, variable, layer in canonical_variables(model):
        variable.assign(from_canonical(layer, name, weights[name], tuple(variable.shape)))
