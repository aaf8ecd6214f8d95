"""Keras optimizers that step as PyTorch's do, so that a recipe means the same in both frameworks."""

from __future__ import annotations

from typing import Any

from nnopt_lib.backends.keras import keras, tf
from nnopt_lib.training.recipe import Training


def make_optimizer(training: Training) -> keras.optimizers.Optimizer:
    """The optimizer of a recipe. Coupled weight decay is added to the gradient by `fit`, as PyTorch does."""
    rate = training.learning_rate
    if training.optimizer == "sgd":
        return SGD(rate, momentum=training.momentum, nesterov=training.nesterov)
    if training.optimizer == "adam":
        return Adam(rate, epsilon=1e-8)
    return AdamW(rate, weight_decay=training.weight_decay, epsilon=1e-8)


class SGD(keras.optimizers.SGD):
    """Keras's SGD with PyTorch's momentum, a sum of gradients: w -= rate · v, v = momentum · v + gradient.

    Keras puts the rate inside, v = momentum · v - rate · gradient, so that steps of an earlier, higher rate
    go on counting as such. The two are equal as long as the rate is constant.
    """

    def update_step(self: Any, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """One step of one variable."""
        rate = tf.cast(learning_rate, variable.dtype)
        step = gradient
        if self.momentum != 0:
            velocity = self.momentums[self._get_variable_index(variable)]
            velocity.assign(self.momentum * velocity + gradient)
            step = gradient + self.momentum * velocity if self.nesterov else velocity
        variable.assign_sub(rate * step)


class _AsPyTorch:
    """Adam's step with epsilon beside the *corrected* root, as in the paper's algorithm 1 and in PyTorch.

    Keras puts it beside the uncorrected one (the paper's "epsilon hat"): thirty times as large in the first
    step, which moves weights of tiny gradients, such as those of pixels that are nearly always 0, elsewhere.
    """

    def update_step(self: Any, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """One step of one variable."""
        step = tf.cast(self.iterations + 1, variable.dtype)
        index = self._get_variable_index(variable)
        first, second = self._momentums[index], self._velocities[index]
        first.assign_add((gradient - first) * (1 - self.beta_1))
        second.assign_add((tf.square(gradient) - second) * (1 - self.beta_2))
        root = tf.sqrt(second) / tf.sqrt(1 - self.beta_2**step) + self.epsilon
        rate = tf.cast(learning_rate, variable.dtype) / (1 - self.beta_1**step)
        variable.assign_sub(rate * first / root)


class Adam(_AsPyTorch, keras.optimizers.Adam):
    """Keras's Adam with PyTorch's epsilon."""


class AdamW(_AsPyTorch, keras.optimizers.AdamW):
    """Keras's AdamW with PyTorch's epsilon."""
