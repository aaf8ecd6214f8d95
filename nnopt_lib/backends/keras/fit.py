"""Training and inference of Keras models."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from nnopt_lib.backends.keras import keras, tf
from nnopt_lib.backends.keras.build import channels_last
from nnopt_lib.backends.keras.optimizers import make_optimizer
from nnopt_lib.checks import check_choice, refuse
from nnopt_lib.frameworks import DEVICES
from nnopt_lib.training.recipe import Training

if TYPE_CHECKING:
    from nnopt_lib.data import Data


def seed(value: int) -> None:
    """Seed Keras and TensorFlow (Python's and NumPy's generators too, by Keras's own doing)."""
    keras.utils.set_random_seed(value)


def _device(device: str | None) -> Any:
    """A TensorFlow device scope; ``"auto"`` and None leave the choice to TensorFlow."""
    name = check_choice("device", device or "auto", DEVICES)
    if name in ("cuda", "mps") and not tf.config.list_physical_devices("GPU"):
        refuse(f"device {name!r} was not found by TensorFlow", None, "Pass device='auto' or 'cpu'.")
    return tf.device({"auto": None, "cpu": "CPU:0"}.get(name, "GPU:0"))


def _make_step(
    model: keras.Model,
    training: Training,
    optimizer: keras.optimizers.Optimizer,
    regularizers: Sequence[Any],
    objective: Any,
) -> Callable[[Any, Any, Any], tuple[Any, Any]]:
    """One optimizer step on a batch, compiled by tf.function; gives the mean loss and the number correct."""
    beside = [] if objective is None else objective.variables
    loss_of = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    # Keras decouples weight decay in every optimizer; PyTorch's SGD and Adam add it to the gradient.
    decay = training.weight_decay if training.optimizer != "adamw" else 0.0

    # The last batch of an epoch is smaller; without this option it would be compiled for each size anew.
    @tf.function(reduce_retracing=True)
    def step(x: Any, y: Any, targets: Any) -> tuple[Any, Any]:
        for regularizer in regularizers:
            regularizer.before()
        with tf.GradientTape() as tape:
            if objective is None:
                logits = model(x, training=True)
                loss = loss_of(y, logits)
            else:
                logits, loss = objective(model, x, y, targets)
            total = loss + sum(model.losses) if model.losses else loss  # of a user's kernel_regularizer
            total = sum((regularizer.loss() for regularizer in regularizers), start=total)
        gradients = tape.gradient(total, [v.value for v in (*model.trainable_variables, *beside)])
        if beside:
            objective.step(gradients[-len(beside) :], optimizer.learning_rate)
            gradients = gradients[: -len(beside)]
        for regularizer in regularizers:
            gradients = regularizer.after_backward(gradients, model.trainable_variables)
        if decay:  # last, as in PyTorch, whose optimizer adds it
            pairs = zip(gradients, model.trainable_variables, strict=True)
            gradients = [None if g is None else g + decay * v for g, v in pairs]
        optimizer.apply(gradients, model.trainable_variables)
        for regularizer in regularizers:
            regularizer.after_step(optimizer.learning_rate)
        return loss, tf.math.count_nonzero(tf.argmax(logits, 1) == y)

    return step


def optimizer_for(
    model: keras.Model, x: np.ndarray, training: Training, device: str
) -> keras.optimizers.Optimizer:
    """The optimizer of what can be trained in `model`, built; a model without weights yet is built by `x`."""
    if not model.built:
        model(channels_last(x))
    if not model.trainable_variables:
        refuse("a model needs at least one trainable parameter", "none")
    with _device(device):
        optimizer = make_optimizer(training)
        # Built now, so that `hold` finds the momenta that it has to mask.
        optimizer.build(model.trainable_variables)
    return optimizer


class OneModel:
    """One model in training: the `Learner` of a stack of one."""

    def __init__(
        self,
        model: keras.Model,
        data: Data,
        training: Training,
        optimizer: keras.optimizers.Optimizer,
        regularizers: Sequence[Any],
        device: str,
        objective: Any = None,
    ) -> None:
        self._model, self._device, self._objective = model, device, objective
        self._x, self._y = channels_last(data.x_train), data.y_train
        self._optimizer = optimizer
        self._step = _make_step(model, training, optimizer, regularizers, objective)
        self._kept: list[np.ndarray] = []

    def indices(self, orders: np.ndarray) -> np.ndarray:
        """The order of the examples, (1, examples), as it is: batches are cut out by NumPy."""
        return orders

    def step(self, batch: np.ndarray, rate: float) -> np.ndarray:
        """One step at this rate on the examples `batch`, (1, size); loss and number correct, (2, 1)."""
        examples = batch[0]
        self._optimizer.learning_rate = rate  # a variable, which the compiled step reads
        with _device(self._device):
            x, y = tf.constant(self._x[examples]), tf.constant(self._y[examples])
            targets = [] if self._objective is None else self._objective.targets(examples)
            loss, correct = self._step(x, y, targets)
        return np.array([[float(loss) * len(examples)], [int(correct)]])

    def predict(self, sets: Sequence[np.ndarray]) -> np.ndarray:
        """Outputs for the one array of inputs in `sets`, (1, examples, *outputs)."""
        return predict(self._model, sets[0], 4096, self._device)[None]

    def keep(self, index: int) -> None:
        """Set the weights aside; `index` is 0."""
        self._kept = self._model.get_weights()

    def restore(self) -> None:
        """Go back to what was kept last, if anything was."""
        if self._kept:
            self._model.set_weights(self._kept)


learner = OneModel  # as `TrainingBackend` calls it


def predict(model: keras.Model, x: np.ndarray, batch_size: int, device: str | None) -> np.ndarray:
    """Outputs for `x` as float32, in inference mode; spatial outputs come back channels first."""
    x = channels_last(np.asarray(x))
    with _device(device):
        parts = [
            np.asarray(model(x[first : first + batch_size], training=False), np.float32)
            for first in range(0, len(x), batch_size)
        ]
    out = np.concatenate(parts)
    return np.moveaxis(out, -1, 1) if out.ndim > 2 else out


def runner(model: keras.Model, x: np.ndarray, device: str | None) -> Callable[[], Any]:
    """A function that runs `model` on all of `x`, compiled by tf.function, and waits for the result."""
    with _device(device):
        batch = tf.constant(channels_last(np.asarray(x)))
    forward = tf.function(lambda inputs: model(inputs, training=False))

    def run() -> Any:
        with _device(device):
            # One output, or several in whatever order or dictionary the model gives them.
            return tf.nest.map_structure(lambda output: output.numpy(), forward(batch))

    return run
