"""Quantization of Keras models: straight-through training, int8 kernels, rounded inputs of layers."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from keras import layers

from nnopt_lib.backends.keras import keras, tf
from nnopt_lib.backends.keras.build import to_canonical
from nnopt_lib.backends.keras.masks import variables_of
from nnopt_lib.checks import refuse
from nnopt_lib.compression.quantization import (
    SMALLEST_STEP,
    SPARE_BITS,
    Quantization,
    Quantized,
    check_finite,
    matrix_shape,
)

# ---------------------------------------------------------------- training


def rounded(matrix: Any, recipe: Quantization) -> Any:
    """The nearest values of the grids of `recipe`, as `quantize` finds them, to a matrix (out, inputs)."""
    shape = tuple(matrix.shape)
    rows, inputs = (1, shape[0] * shape[1]) if recipe.per == "tensor" else shape
    size = min(recipe.group, inputs) if recipe.per == "group" else inputs
    padding = -inputs % size  # by zeros, which every grid holds anyway
    groups = tf.reshape(tf.pad(tf.reshape(matrix, (rows, inputs)), ((0, 0), (0, padding))), (rows, -1, size))
    low = tf.minimum(tf.reduce_min(groups, 2, keepdims=True), 0.0)
    high = tf.maximum(tf.reduce_max(groups, 2, keepdims=True), 0.0)
    lowest, highest = recipe.codes
    if recipe.scheme == "symmetric":
        steps = tf.maximum(-low, high) / highest
    else:
        steps = high / (highest - lowest) - low / (highest - lowest)
    bits = tf.bitcast(tf.maximum(steps, SMALLEST_STEP), tf.int32)
    longer = tf.bitwise.bitwise_and(bits + SPARE_BITS, tf.constant(~SPARE_BITS))
    scale = tf.where(steps == 0, 1.0, tf.bitcast(longer, tf.float32))
    zero_point = tf.zeros_like(scale)
    if recipe.scheme == "affine":
        zero_point = tf.clip_by_value(lowest - tf.round(low / scale), lowest, highest)
    codes = tf.clip_by_value(tf.round(groups / scale) + zero_point, lowest, highest) - zero_point
    values = tf.where(codes == 0, 0.0, codes * scale)  # +0: graphs leave out what adds a zero
    return tf.reshape(tf.reshape(values, (rows, -1))[:, :inputs], shape)


class StraightThrough:
    """Quantization in a training loop: gradients at the quantized weights step the float ones.

    Between steps the model holds the quantized weights.
    """

    def __init__(self, model: keras.Model, names: Sequence[str], recipe: Quantization) -> None:
        variables = variables_of(model)
        self._variables = [variables[name][0] for name in names]
        self._orders = [_orders(*variables[name], name) for name in names]
        self._recipe = recipe
        self.floats = [keras.Variable(keras.ops.copy(v.value), trainable=False) for v in self._variables]
        self._round()

    def before(self) -> None:
        """Nothing: the forward pass finds the quantized weights."""
        return  # AutoGraph needs a statement

    def loss(self) -> float:
        """Nothing."""
        return 0.0

    def after_backward(self, gradients: list[Any], variables: list[Any]) -> list[Any]:
        """The float weights come back, for the optimizer's step; gradients are as they are."""
        for variable, value in zip(self._variables, self.floats, strict=True):
            variable.assign(value.value)
        return gradients

    def after_step(self, rate: Any) -> None:
        """The float weights are set aside again, and quantized."""
        for variable, value in zip(self._variables, self.floats, strict=True):
            value.assign(variable.value)
        self._round()

    def _round(self) -> None:
        for variable, value, orders in zip(self._variables, self.floats, self._orders, strict=True):
            there, shape, back = orders
            matrix = tf.reshape(tf.gather(tf.reshape(value.value, (-1,)), there), shape)
            flat = tf.gather(tf.reshape(rounded(matrix, self._recipe), (-1,)), back)
            variable.assign(tf.reshape(flat, variable.shape))


def _orders(variable: Any, layer: Any, name: str) -> tuple[Any, tuple[int, int], Any]:
    """Where each number of the matrix (out, inputs) stands in Keras's layout, its shape; and the way back."""
    shape = tuple(variable.shape)
    places = to_canonical(layer, name, np.arange(np.prod(shape), dtype=np.int32).reshape(shape))
    there = np.ascontiguousarray(places).ravel()
    return tf.constant(there), matrix_shape(places.shape), tf.constant(np.argsort(there).astype(np.int32))


def straight_through(model: keras.Model, names: Sequence[str], recipe: Quantization) -> StraightThrough:
    """Quantization-aware training of the named kernels."""
    return StraightThrough(model, names, recipe)


# ---------------------------------------------------------------- inference


def dynamic(model: keras.Model, names: Sequence[str] | None) -> keras.Model:
    """A copy whose dense layers run Keras's int8 kernels: all, or those whose kernels are named.

    Convolutions have none in Keras, and an embedding's are of its numbers only.
    """
    variables = variables_of(model)
    kinds = (layers.Dense, layers.EinsumDense)
    known = [name for name, (_, layer) in variables.items() if type(layer) in kinds and "/kernel" in name]
    foreign = [name for name in names or known if name not in known]
    if foreign or not known:
        rule = "int8 kernels are for weights of Dense and EinsumDense"
        refuse(rule, ", ".join(foreign) or "a model without any", f"It has {', '.join(known) or 'none'}.")
    for name in names or known:
        check_finite(keras.ops.convert_to_numpy(variables[name][0]), name)
    small = copy.deepcopy(model)
    chosen = {id(variables_of(small)[name][1]) for name in names or known}
    small.quantize("int8", filters=lambda layer: id(layer) in chosen)
    return small


def round_inputs(model: keras.Model, grids: Mapping[str, Quantized]) -> None:
    """From now on the layers of these kernels read rounded numbers.

    Keras has no hooks: what stands in the instance's own dictionary comes before the class's `call`. It is
    neither copied nor saved with the model.
    """
    variables = variables_of(model)
    for name, grid in grids.items():
        layer = variables[name][1]
        layer.__dict__["call"] = _rounding(layer.call, grid)


def _rounding(call: Callable[..., Any], grid: Quantized) -> Callable[..., Any]:
    scale, zero_point = float(grid.scale[0, 0]), float(grid.zero_point[0, 0])
    lowest, highest = grid.recipe.codes

    def rounding(inputs: Any, *args: Any, **kwargs: Any) -> Any:
        codes = keras.ops.clip(keras.ops.round(inputs / scale) + zero_point, lowest, highest)
        return call((codes - zero_point) * scale, *args, **kwargs)

    return rounding
