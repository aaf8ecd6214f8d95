"""Shared values of Keras weights in training: one gradient for all weights that share a value."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nnopt_lib.backends.keras import keras, tf
from nnopt_lib.backends.keras.build import from_canonical
from nnopt_lib.backends.keras.masks import variables_of
from nnopt_lib.compression.sharing import Shared


class _Kernel:
    """One variable, and who shares a value with whom in it, in Keras's layout."""

    def __init__(self, variable: Any, layer: keras.layers.Layer, name: str, shared: Shared) -> None:
        shape = tuple(variable.shape)
        codes = from_canonical(layer, name, shared.codes, shape)
        mask = from_canonical(layer, name, shared.mask, shape)
        flat, one_of_each = Shared(shared.codebook, codes, mask, shared.bits).members()
        self.variable, self._values = variable, len(one_of_each)
        self._codes, self._one_of_each = tf.constant(flat), tf.constant(one_of_each)

    def _spread(self, values: Any) -> Any:
        """What each weight gets of one number for each code; 0 where the weight is removed."""
        with_zero = tf.concat([values, tf.zeros(1, values.dtype)], 0)
        return tf.reshape(tf.gather(with_zero, self._codes), self.variable.shape)

    def summed(self, gradient: Any) -> Any:
        flat = tf.reshape(tf.convert_to_tensor(gradient), [-1])
        return self._spread(tf.math.unsorted_segment_sum(flat, self._codes, self._values + 1)[:-1])

    def align(self) -> None:
        """Give all weights of a code the value of one of them."""
        flat = tf.reshape(self.variable.value, [-1])
        self.variable.assign(self._spread(tf.gather(flat, self._one_of_each)))


class Regularizer:
    """Sharing at work in a training loop: the gradient of a value is the sum of its weights' gradients."""

    def __init__(self, model: keras.Model, shared: Mapping[str, Shared]) -> None:
        variables = variables_of(model)
        self._kernels = [_Kernel(*variables[name], name, one) for name, one in shared.items()]

    def before(self) -> None:
        """Before the forward pass: nothing."""

    def loss(self) -> float:
        """What to add to the loss: nothing."""
        return 0.0

    def after_backward(self, gradients: list[Any], variables: list[Any]) -> list[Any]:
        """The gradients, each of a shared value the sum over all weights of its code."""
        kernel_of = {id(kernel.variable): kernel for kernel in self._kernels}
        pairs = [(g, kernel_of.get(id(variable))) for g, variable in zip(gradients, variables, strict=True)]
        return [g if kernel is None or g is None else kernel.summed(g) for g, kernel in pairs]

    def after_step(self, rate: Any) -> None:
        """Equal to the last bit, whatever order the optimizer computed in."""
        for kernel in self._kernels:
            kernel.align()


def regularizer(model: keras.Model, shared: Mapping[str, Shared]) -> Regularizer:
    """Sharing at work on a model."""
    return Regularizer(model, shared)
