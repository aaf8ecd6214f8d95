"""Reading a Keras functional or sequential model into a description."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

import numpy as np
from keras import layers

from nnopt_lib.backends.keras import keras
from nnopt_lib.backends.keras.build import build, get_weights
from nnopt_lib.backends.keras.fit import predict
from nnopt_lib.checks import refuse
from nnopt_lib.structure.graph import Graph
from nnopt_lib.structure.operations import ACTIVATIONS, Shape, ShapeError
from nnopt_lib.structure.spec import INPUT, NetSpec, output_shape, split_name

_UNDERSTOOD = (
    "Understood are Dense, Conv, DepthwiseConv, BatchNormalization, Activation and ReLU, pooling, Flatten, "
    "ZeroPadding, Add, Multiply, Concatenate, Dropout, and Reshape to (1, 1, channels)."
)
_CONVOLUTIONS = (layers.Conv1D, layers.Conv2D, layers.DepthwiseConv1D, layers.DepthwiseConv2D)
_DEPTHWISE = (layers.DepthwiseConv1D, layers.DepthwiseConv2D)
_SKIPPED = (layers.Dropout, layers.SpatialDropout1D, layers.SpatialDropout2D, layers.Identity)
_JOINS = {layers.Add: "add", layers.Multiply: "multiply", layers.Concatenate: "concat"}
_POOLS = {
    **dict.fromkeys((layers.MaxPooling1D, layers.MaxPooling2D), "max_pool"),
    **dict.fromkeys((layers.AveragePooling1D, layers.AveragePooling2D), "avg_pool"),
}
_GLOBAL = {
    **dict.fromkeys((layers.GlobalAveragePooling1D, layers.GlobalAveragePooling2D), "avg"),
    **dict.fromkeys((layers.GlobalMaxPooling1D, layers.GlobalMaxPooling2D), "max"),
}


def read(model: keras.Model, example_input: Any) -> tuple[NetSpec, dict[str, str], dict[str, np.ndarray]]:
    """The description, the model's own names of layers with parameters, and orders of inputs."""
    try:
        graph = keras.Model(model.inputs, model.outputs)
    except (AttributeError, ValueError, TypeError):
        remedy = "Write it with the functional interface, or as a built Sequential."
        refuse("a Keras model to describe must be functional or sequential", type(model).__name__, remedy)
    if len(model.inputs) != 1 or len(model.outputs) != 1:
        refuse(
            "a model to describe must have one input and one output",
            f"{len(model.inputs)} and {len(model.outputs)}",
        )
    reader = _Reader(model)
    keras.models.clone_model(graph, call_function=reader.call)
    spec = NetSpec(reader.shapes[INPUT], tuple(reader.graph.nodes))
    _check_outputs(model, spec, reader)
    return spec, reader.paths, reader.orders


def _check_outputs(model: keras.Model, spec: NetSpec, reader: _Reader) -> None:
    """A wrong description never leaves this module."""
    keras_weights, weights = get_weights(model), {}
    for name, shape in spec.parameter_shapes(trainable=False).items():
        layer, part = split_name(name)
        value = keras_weights[f"{reader.paths[layer]}/{part}"].reshape(shape)
        weights[name] = (
            value[:, reader.orders[layer]] if part == "kernel" and layer in reader.orders else value
        )
    x = np.random.default_rng(0).standard_normal((2, *spec.input_shape), np.float32)
    expected, outputs = predict(model, x, 2, None), predict(build(spec, weights), x, 2, None)
    # 1e-4 of the largest: two programs of the same sums differ in rounding, a wrong reading by far more.
    tolerance = 1e-4 * max(1.0, np.abs(expected).max())
    if outputs.shape != expected.shape or np.abs(outputs - expected).max() > tolerance:
        refuse(f"the description of {model.name!r} must give its outputs", "one that does not")


class _Reader:
    """Called with every layer of the graph in order; writes down a node for each.

    Keras puts channels last: shapes here are those of the description, channels first.
    """

    def __init__(self, model: keras.Model) -> None:
        # The layers of the model itself: those that clone_model calls us with are copies of them.
        self.layer_of = {layer.name: layer for layer in model._flatten_layers()}
        self.graph = Graph()
        self.paths: dict[str, str] = {}
        self.orders: dict[str, np.ndarray] = {}
        self.shapes: dict[str, Shape] = {}
        self.node_of: dict[int, str] = {}  # by identity of the symbolic tensor
        self.tensors: list[Any] = []  # kept, so that identities stay unique
        self.padded: dict[int, Shape] = {}  # zero padding still to be part of a convolution
        self.permuted: set[int] = set()  # channels first already
        self.order_of: dict[int, np.ndarray] = {}  # features that stand channels last
        self.seen: set[str] = set()

    def call(self, layer: Any, *args: Any, **kwargs: Any) -> Any:
        """Call the layer as its model does, and describe it."""
        out = layer(*args, **kwargs)
        sources = list(args[0]) if isinstance(args[0], (list, tuple)) else [args[0]]
        self.tensors += [*sources, out]
        if not self.shapes:
            self._input(sources[0])
        what = f"layer {layer.name!r} ({type(layer).__name__})"
        if any(id(source) not in self.node_of for source in sources):
            self._refuse(f"{what}, which does not read a value of the graph")
        if layer.name in self.seen:
            refuse(f"{what} must be used once", "a second use", "Give each use a layer of its own.")
        self.seen.add(layer.name)
        self._describe(layer, sources, out, what)
        return out

    def _input(self, tensor: Any) -> None:
        *space, channels = tensor.shape[1:]
        if None in (*space, channels):
            refuse("a model to describe must have a fixed input shape", f"{tuple(tensor.shape)}")
        self.node_of[id(tensor)], self.shapes[INPUT] = INPUT, (channels, *space)

    def _refuse(self, what: str) -> NoReturn:
        refuse("a description must have an operation for everything that a model does", what, _UNDERSTOOD)

    def _add(
        self, out: Any, name: str, op: str, sources: Sequence[Any], options: Mapping[str, Any], what: str
    ) -> str:
        name = self.graph.add(op, *(self.node_of[id(s)] for s in sources), name=name, **options)
        try:
            self.shapes[name] = output_shape(self.graph.nodes[-1], self.shapes)
        except ShapeError as error:
            self._refuse(f"{what}, whose {op} {error}")
        self.node_of[id(out)] = name
        return name

    def _alias(self, out: Any, source: Any) -> None:
        """`out` is the same value; what is noted of `source` goes on."""
        self.node_of[id(out)] = self.node_of[id(source)]
        if id(source) in self.padded:
            self.padded[id(out)] = self.padded[id(source)]
        if id(source) in self.order_of:
            self.order_of[id(out)] = self.order_of[id(source)]

    def _describe(self, layer: Any, sources: list[Any], out: Any, what: str) -> None:
        source = sources[0]
        flat = len(self.shapes[self.node_of[id(source)]]) == 1
        self._check_noted(layer, sources, what)
        if isinstance(layer, _SKIPPED):
            self._alias(out, source)
        elif isinstance(layer, layers.Dense):
            self._dense(layer, source, out, what)
        elif isinstance(layer, _CONVOLUTIONS):
            self._convolution(layer, source, out, what, flat)
        elif isinstance(layer, layers.BatchNormalization):
            axis = layer.axis if isinstance(layer.axis, int) else layer.axis[0]
            if axis % len(source.shape) != len(source.shape) - 1 or not (layer.center and layer.scale):
                self._refuse(f"{what} over another axis than the last, or without center and scale")
            options = {"eps": layer.epsilon, "momentum": 1 - layer.momentum}
            self._with_parameters(layer, out, "batch_norm", source, options, what)
        elif isinstance(layer, (layers.Activation, layers.ReLU)):
            self._activation(layer, source, out, what)
        elif type(layer) in _POOLS:
            self._pool(layer, source, out, what)
        elif type(layer) in _GLOBAL:
            self._add(out, layer.name, "global_pool", [source], {"kind": _GLOBAL[type(layer)]}, what)
        elif isinstance(layer, (layers.ZeroPadding1D, layers.ZeroPadding2D)):
            self._padding(layer, source, out, what)
        elif type(layer) in _JOINS:
            if isinstance(layer, layers.Concatenate) and layer.axis not in (-1, len(source.shape) - 1):
                self._refuse(f"{what} along another axis than the last")
            self._add(out, layer.name, _JOINS[type(layer)], sources, {}, what)
        else:
            self._reshape(layer, source, out, what, flat)

    def _check_noted(self, layer: Any, sources: list[Any], what: str) -> None:
        """Padding belongs to a convolution or an average; an order of features, to a dense layer."""
        skips = (*_SKIPPED, layers.Activation, layers.ReLU)
        average = (layers.AveragePooling1D, layers.AveragePooling2D)
        padding = (layers.ZeroPadding1D, layers.ZeroPadding2D)
        if any(id(s) in self.padded for s in sources) and not isinstance(layer, (*_CONVOLUTIONS, *average)):
            self._refuse(f"{what} on zero padding" + " twice" * isinstance(layer, padding))
        if any(id(s) in self.order_of for s in sources) and not isinstance(layer, (layers.Dense, *skips)):
            self._refuse(f"{what} on flattened features that stand channels last")
        if any(id(s) in self.permuted for s in sources) and not isinstance(layer, layers.Flatten):
            self._refuse(f"{what} on permuted axes")

    # -------------------------------------------------------------- layers with parameters

    def _with_parameters(
        self, layer: Any, out: Any, op: str, source: Any, options: Mapping[str, Any], what: str
    ) -> str:
        """A node for the layer, then one for its own activation."""
        name = self._add(out, layer.name, op, [source], options, what)
        self.paths[name] = self.layer_of[layer.name].weights[0].path.rpartition("/")[0]
        kind = getattr(getattr(layer, "activation", None), "__name__", "linear")
        if kind != "linear":
            self._add(
                out, f"{layer.name}_activation", "activation", [out], {"kind": self._kind(kind, what)}, what
            )
        return name

    def _kind(self, kind: str, what: str) -> str:
        if kind not in ACTIVATIONS:
            ends = "; a description ends in logits" if kind == "softmax" else ""
            self._refuse(f"{what} with activation {kind!r}{ends}")
        return kind

    def _dense(self, layer: Any, source: Any, out: Any, what: str) -> None:
        if len(source.shape) != 2:
            self._refuse(f"{what} on values of shape {tuple(source.shape[1:])}")
        order = self.order_of.get(id(source))
        options = {"units": layer.units, "bias": layer.use_bias}
        name = self._with_parameters(layer, out, "dense", source, options, what)
        if order is not None:
            self.orders[name] = order

    def _convolution(self, layer: Any, source: Any, out: Any, what: str, flat: bool) -> None:
        if any(d != 1 for d in layer.dilation_rate) or layer.data_format != "channels_last":
            self._refuse(f"{what} with dilation, or channels first")
        channels = self.shapes[self.node_of[id(source)]][0]
        depthwise = isinstance(layer, _DEPTHWISE)
        filters = channels * layer.depth_multiplier if depthwise else layer.filters
        if flat:
            if math.prod(layer.kernel_size) != 1 or depthwise or layer.groups != 1:
                self._refuse(f"{what}, other than 1x1, on a pooled value")
            options: dict[str, Any] = {"units": filters, "bias": layer.use_bias}
            self._with_parameters(layer, out, "dense", source, options, what)
            return
        padding = self._windows(layer.padding, layer.kernel_size, layer.strides, source, what)
        options = {"filters": filters, "kernel": tuple(layer.kernel_size), "stride": tuple(layer.strides)}
        options |= {
            "padding": padding,
            "groups": channels if depthwise else layer.groups,
            "bias": layer.use_bias,
        }
        self._with_parameters(layer, out, f"conv{len(padding)}d", source, options, what)

    def _windows(self, padding: str, size: Shape, stride: Shape, source: Any, what: str) -> Shape:
        """Symmetric padding per dimension: that of a ZeroPadding before, or what "same" comes to."""
        noted, symmetric = self.padded.get(id(source), (0,) * len(size)), []
        if padding not in ("valid", "same") or (padding == "same" and any(noted)):
            self._refuse(f"{what} with padding {padding!r}")
        for n, k, s, p in zip(source.shape[1:-1], size, stride, noted, strict=True):
            total = max((math.ceil(n / s) - 1) * s + k - n, 0) if padding == "same" else 2 * p
            if total % 2:
                self._refuse(f"{what} with padding 'same' that is uneven here ({total} in sum)")
            symmetric.append(total // 2)
        return tuple(symmetric)

    # -------------------------------------------------------------- layers without parameters

    def _activation(self, layer: Any, source: Any, out: Any, what: str) -> None:
        if isinstance(layer, layers.ReLU):
            if layer.max_value is not None or layer.negative_slope or layer.threshold:
                self._refuse(f"{what} with a maximum, slope or threshold")
            kind = "relu"
        else:
            kind = layer.activation.__name__
        if kind == "linear":
            self._alias(out, source)
            return
        order = self.order_of.get(id(source))
        self._add(out, layer.name, "activation", [source], {"kind": self._kind(kind, what)}, what)
        if order is not None:
            self.order_of[id(out)] = order

    def _pool(self, layer: Any, source: Any, out: Any, what: str) -> None:
        op = _POOLS[type(layer)]
        padding = self._windows(layer.padding, layer.pool_size, layer.strides, source, what)
        if op == "avg_pool" and layer.padding == "same" and any(padding):
            self._refuse(f"{what} with padding 'same', which does not count")
        options = {"size": tuple(layer.pool_size), "stride": tuple(layer.strides), "padding": padding}
        self._add(out, layer.name, op, [source], options, what)

    def _padding(self, layer: Any, source: Any, out: Any, what: str) -> None:
        widths = np.atleast_2d(layer.padding).reshape(-1, 2)
        if (widths[:, 0] != widths[:, 1]).any():
            self._refuse(f"{what} with uneven padding")
        self._alias(out, source)
        self.padded[id(out)] = tuple(int(width) for width in widths[:, 0])

    def _reshape(self, layer: Any, source: Any, out: Any, what: str, flat: bool) -> None:
        shape = self.shapes[self.node_of[id(source)]]
        if flat and isinstance(layer, (layers.Reshape, layers.Flatten)):
            if math.prod(out.shape[1:-1]) != 1:
                self._refuse(f"{what} to {tuple(out.shape[1:])}")
            self._alias(out, source)
        elif isinstance(layer, layers.Permute) and tuple(layer.dims) == (len(shape), *range(1, len(shape))):
            self._alias(out, source)
            self.permuted.add(id(out))
        elif isinstance(layer, layers.Flatten):
            channels, *space = shape
            self._add(out, layer.name, "flatten", [source], {}, what)
            order = np.moveaxis(np.arange(math.prod(shape)).reshape(*space, channels), -1, 0).ravel()
            if id(source) not in self.permuted and (order != np.arange(len(order))).any():
                self.order_of[id(out)] = order
        else:
            self._refuse(what)
