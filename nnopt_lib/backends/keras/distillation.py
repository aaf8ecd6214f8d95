"""Distillation of Keras students: the loss, outputs of hidden layers, maps between them."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from nnopt_lib.backends.keras import keras, tf
from nnopt_lib.backends.keras.build import channels_last
from nnopt_lib.backends.keras.optimizers import make_optimizer
from nnopt_lib.checks import nearest, refuse
from nnopt_lib.training.recipe import Training

if TYPE_CHECKING:
    from nnopt_lib.training.distillation import Lesson


def loss(student_logits: Any, teacher_logits: Any, y: Any, temperature: float, alpha: float) -> Any:
    """(1 - alpha) CE + alpha T² KL(teacher || student), both at temperature T; a mean over examples."""
    labels = keras.losses.SparseCategoricalCrossentropy(from_logits=True)(y, student_logits)
    if alpha == 0:  # nothing is added, so that not a bit differs from plain training
        return labels
    teacher_logits = tf.stop_gradient(tf.convert_to_tensor(teacher_logits))
    student, teacher = (
        tf.nn.log_softmax(tf.cast(logits, tf.float32) / temperature)
        for logits in (student_logits, teacher_logits)
    )
    divergence = tf.reduce_mean(tf.reduce_sum(tf.exp(teacher) * (teacher - student), 1))
    return (1 - alpha) * labels + alpha * temperature**2 * divergence


@contextlib.contextmanager
def _watched(model: keras.Model, names: Sequence[str]) -> Iterator[dict[str, list[Any]]]:
    """Inside, outputs of the named layers are noted; afterwards the layers are as before.

    Keras has no hooks. What stands in an instance's own dictionary comes before the class's `call`.
    """
    layers = {layer.name: layer for layer in reversed(list(model._flatten_layers(include_self=False)))}
    noted: dict[str, list[Any]] = {name: [] for name in names}
    for name in noted:
        if name not in layers:
            refuse(f"the model has no layer {name!r}", None, nearest(name, layers))

    def noting(name: str, call: Any) -> Any:
        def noted_call(*args: Any, **kwargs: Any) -> Any:
            output = call(*args, **kwargs)
            noted[name].append(output)
            return output

        return noted_call

    before = {name: layers[name].__dict__.get("call") for name in noted}
    for name in noted:
        layers[name].__dict__["call"] = noting(name, layers[name].call)
    try:
        yield noted
    finally:
        for name, call in before.items():
            if call is None:
                del layers[name].__dict__["call"]
            else:
                layers[name].__dict__["call"] = call


def layer_outputs(
    model: keras.Model, names: Sequence[str], x: np.ndarray, batch_size: int
) -> dict[str, np.ndarray]:
    """Outputs of the named layers for `x`, canonical (examples, channels, *space), in inference mode."""
    if not names:
        return {}
    x, parts = channels_last(x), {name: list[np.ndarray]() for name in names}
    for first in range(0, len(x), batch_size):
        with _watched(model, names) as noted:
            model(x[first : first + batch_size], training=False)
        for name, outputs in noted.items():
            if len(outputs) != 1 or len(getattr(outputs[0], "shape", ())) < 2:
                received = f"{len(outputs)} calls" if len(outputs) != 1 else "another output"
                refuse(f"layer {name!r} must give one tensor, (examples, channels, ...), once", received)
            parts[name].append(np.asarray(outputs[0], np.float32))
    return {name: np.moveaxis(np.concatenate(arrays), -1, 1) for name, arrays in parts.items()}


class Objective:
    """A lesson as the loss of a student's training; `variables` are the maps, trained beside it."""

    def __init__(self, lesson: Lesson, maps: Sequence[np.ndarray], training: Training) -> None:
        self._recipe = lesson.recipe
        self._names = [name for name, _ in lesson.recipe.hidden]
        self._targets = [lesson.logits, *(np.moveaxis(array, 1, -1) for array in lesson.hidden)]
        self._kernels = [keras.Variable(kernel) for kernel in maps]
        self._biases = [keras.Variable(np.zeros(kernel.shape[1], np.float32)) for kernel in maps]
        self.variables = [*self._kernels, *self._biases]
        # Its own: a Keras optimizer is built for the variables of one model.
        self._optimizer = make_optimizer(dataclasses.replace(training, weight_decay=0.0))
        self._optimizer.build(self.variables)

    def targets(self, examples: np.ndarray) -> list[Any]:
        """The teacher's answers for these examples: logits, then hidden layers with channels last."""
        return [tf.constant(target[examples]) for target in self._targets]

    def __call__(self, model: keras.Model, x: Any, y: Any, targets: Sequence[Any]) -> tuple[Any, Any]:
        """Logits and the mean loss of a batch."""
        recipe = self._recipe
        with _watched(model, self._names) as noted:
            logits = model(x, training=True)
        total = loss(logits, targets[0], y, recipe.temperature, recipe.alpha)
        for name, kernel, bias, target in zip(
            self._names, self._kernels, self._biases, targets[1:], strict=True
        ):
            mapped = tf.tensordot(noted[name][0], kernel.value, 1) + bias.value
            total += recipe.hidden_weight * tf.reduce_mean(tf.square(mapped - target))
        return logits, total

    def step(self, gradients: Sequence[Any], rate: Any) -> None:
        """One optimizer step of the maps at this rate."""
        if self.variables:
            self._optimizer.learning_rate.assign(rate)
            self._optimizer.apply(gradients, self.variables)


def objective(
    model: keras.Model,
    lesson: Lesson,
    maps: Sequence[np.ndarray],
    training: Training,
    optimizer: keras.optimizers.Optimizer,
) -> Objective:
    """The lesson at work; the maps have an optimizer of the same recipe."""
    return Objective(lesson, maps, training)
