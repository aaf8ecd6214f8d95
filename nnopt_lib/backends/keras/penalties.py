"""Penalties, thresholds and gates on Keras variables; kernels are (*spatial, in, out), so nodes come last."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from keras import layers

from nnopt_lib.backends.keras import keras, tf
from nnopt_lib.backends.keras.masks import prunable, variables_of
from nnopt_lib.pruning.penalties import BETA, GAMMA, ZETA, Penalty, check_penalized
from nnopt_lib.training.recipe import Training


def _penalized(kind: str, model: keras.Model) -> list[tuple[Any, int]]:
    """What a penalty acts on, each (variable, its axis of nodes): the last, but the first of an embedding."""
    variables, names = variables_of(model), prunable(model)
    if kind == "slimming":
        trainable = {id(variable) for variable in model.trainable_variables}
        names = [
            name
            for name, (variable, layer) in variables.items()
            if isinstance(layer, layers.BatchNormalization)
            and name.endswith("/scale")
            and id(variable) in trainable
        ]
    return [
        (variable, 0 if isinstance(layer, layers.Embedding) else len(variable.shape) - 1)
        for variable, layer in (variables[name] for name in check_penalized(kind, names))
    ]


def _lengths(variable: Any, axis: int) -> tuple[Any, float]:
    """The length of every node's incoming weights, and the root of their number."""
    rest = [i for i in range(len(variable.shape)) if i != axis]
    squares = tf.reduce_sum(tf.square(variable.value), rest, keepdims=True)
    safe = tf.where(squares > 0, squares, 1.0)  # the root's gradient at 0 is infinite
    size = math.prod(variable.shape) / variable.shape[axis]
    return tf.where(squares > 0, tf.sqrt(safe), 0.0), math.sqrt(size)


def _group_lasso(variable: Any, axis: int) -> Any:
    lengths, root = _lengths(variable, axis)
    return root * tf.reduce_sum(lengths)


_TOTALS: dict[str, Callable[[Any, int], Any]] = {
    "l1": lambda variable, axis: tf.reduce_sum(tf.abs(variable.value)),
    "l2": lambda variable, axis: tf.reduce_sum(tf.square(variable.value)),
    "group_lasso": _group_lasso,
    "slimming": lambda variable, axis: tf.reduce_sum(tf.abs(variable.value)),
}


def total(kind: str, model: keras.Model) -> Any:
    """The penalty of a whole model: a scalar that a GradientTape follows."""
    return sum(_TOTALS[kind](*kernel) for kernel in _penalized(kind, model))


def shrink(kind: str, model: keras.Model, amount: float) -> None:
    """One proximal step on a model's kernels, in place."""
    for variable, axis in _penalized(kind, model):
        if kind == "proximal_l1":
            shorter = variable.value - amount * tf.sign(variable.value)
            variable.assign(tf.where(tf.abs(variable.value) > amount, shorter, 0.0))
        else:
            lengths, root = _lengths(variable, axis)
            safe = tf.where(lengths > 0, lengths, 1.0)
            factor = tf.where(lengths > amount * root, 1 - amount * root / safe, 0.0)
            variable.assign(variable.value * factor)


class Gates:
    """Hard-concrete gates on a model's kernels; see `nnopt_lib.penalties.gates`."""

    def __init__(self, model: keras.Model, strength: float, learning_rate: float, seed: int) -> None:
        self._variables = [variable for variable, _ in _penalized("l0", model)]
        self._strength, self._noise = strength, keras.random.SeedGenerator(seed)
        start = [keras.ops.convert_to_numpy(v).copy() for v in self._variables]
        self._theta = [keras.Variable(value, trainable=False) for value in start]
        # Open with a probability of nearly 0.9 at first, as the authors' code begins.
        self.log_alphas = [keras.Variable(tf.fill(v.shape, 2.0)) for v in self._variables]
        self._drawn = [keras.Variable(tf.zeros(v.shape), trainable=False) for v in self._variables]
        self._optimizer = keras.optimizers.Adam(learning_rate)
        self._optimizer.build(self.log_alphas)
        self._show()

    def draw(self) -> None:
        """Before the forward pass: weights become theta z."""
        each = zip(self._variables, self._theta, self.log_alphas, self._drawn, strict=True)
        for variable, theta, log_alpha, drawn in each:
            noise = keras.random.uniform(variable.shape, 1e-6, 1 - 1e-6, seed=self._noise)
            logits = tf.math.log(noise) - tf.math.log(1 - noise) + log_alpha.value
            drawn.assign(tf.sigmoid(logits / BETA))
            variable.assign(theta.value * tf.clip_by_value(drawn.value * (ZETA - GAMMA) + GAMMA, 0.0, 1.0))

    def pass_gradients(self, gradients: list[Any], variables: list[Any]) -> list[Any]:
        """The gradients, those of theta in place of the kernels'; the gates step, and theta comes back."""
        index_of = {id(variable): index for index, variable in enumerate(variables)}
        gradients, gate_gradients = list(gradients), []
        each = zip(self._variables, self._theta, self.log_alphas, self._drawn, strict=True)
        for variable, theta, log_alpha, drawn in each:
            index, s = index_of[id(variable)], drawn.value
            stretched = s * (ZETA - GAMMA) + GAMMA
            inside = tf.cast((stretched > 0) & (stretched < 1), s.dtype)
            is_open = tf.sigmoid(log_alpha.value - BETA * math.log(-GAMMA / ZETA))
            slope = (ZETA - GAMMA) * s * (1 - s) / BETA * inside
            price = self._strength * is_open * (1 - is_open)
            gate_gradients.append(gradients[index] * theta.value * slope + price)
            gradients[index] = gradients[index] * tf.clip_by_value(stretched, 0.0, 1.0)
            variable.assign(theta.value)
        self._optimizer.apply(gate_gradients, self.log_alphas)
        return gradients

    def close(self) -> None:
        """After the optimizer's step: the weights become theta z without noise."""
        for variable, theta in zip(self._variables, self._theta, strict=True):
            theta.assign(variable.value)
        self._show()

    def _show(self) -> None:
        for variable, theta, log_alpha in zip(self._variables, self._theta, self.log_alphas, strict=True):
            z = tf.clip_by_value(tf.sigmoid(log_alpha.value) * (ZETA - GAMMA) + GAMMA, 0.0, 1.0)
            variable.assign(theta.value * z)


def gates(model: keras.Model, strength: float, learning_rate: float, seed: int) -> Gates:
    """Gates on a model's kernels."""
    return Gates(model, strength, learning_rate, seed)


class Regularizer:
    """A `Penalty` at work in a training loop: called before, within and after every step."""

    def __init__(self, model: keras.Model, penalty: Penalty, training: Training, seed: int) -> None:
        self._model, self._penalty, self._training = model, penalty, training
        rate = training.learning_rate
        self._gates = Gates(model, penalty.strength, rate, seed) if penalty.kind == "l0" else None

    def before(self) -> None:
        """Before the forward pass."""
        if self._gates:
            self._gates.draw()

    def loss(self) -> Any:
        """What to add to the loss."""
        strength, mix = self._penalty.strength, self._penalty.mix
        if self._penalty.kind == "elastic_net":
            return strength * (mix * total("l1", self._model) + (1 - mix) * total("l2", self._model))
        return strength * total(self._penalty.kind, self._model) if self._penalty.kind in _TOTALS else 0.0

    def after_backward(self, gradients: list[Any], variables: list[Any]) -> list[Any]:
        """The gradients for the optimizer."""
        return self._gates.pass_gradients(gradients, variables) if self._gates else gradients

    def after_step(self, rate: Any) -> None:
        """After the optimizer's step at this rate, which a threshold must keep up with."""
        if self._gates:
            self._gates.close()
        elif self._penalty.kind.startswith("proximal"):
            amount = self._training.step_size(rate) * self._penalty.strength
            shrink(self._penalty.kind, self._model, amount)


def regularizer(model: keras.Model, penalty: Penalty, training: Training, seed: int) -> Regularizer:
    """The penalty at work on a model."""
    return Regularizer(model, penalty, training, seed)
