"""Training and inference of Keras models."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from nnopt_lib.backends.keras import keras, tf
from nnopt_lib.backends.keras.build import channels_last
from nnopt_lib.backends.keras.optimizers import make_optimizer
from nnopt_lib.checks import check_choice, refuse
from nnopt_lib.measure.statistics import accuracy_and_loss
from nnopt_lib.training.loop import EarlyStopping, batch_order, plan
from nnopt_lib.training.recipe import History, Training

if TYPE_CHECKING:
    from nnopt_lib.data import Data


def seed(value: int) -> None:
    """Seed Keras and TensorFlow (Python's and NumPy's generators too, by Keras's own doing)."""
    keras.utils.set_random_seed(value)


def _device(device: str | None) -> Any:
    """A TensorFlow device scope; ``"auto"`` and None leave the choice to TensorFlow."""
    name = check_choice("device", device or "auto", ("auto", "cpu", "cuda", "mps"))
    if name in ("cuda", "mps") and not tf.config.list_physical_devices("GPU"):
        refuse(f"device {name!r} was not found by TensorFlow", None, "Pass device='auto' or 'cpu'.")
    return tf.device({"auto": None, "cpu": "CPU:0"}.get(name, "GPU:0"))


def _make_step(
    model: keras.Model, training: Training, optimizer: keras.optimizers.Optimizer, regularizer: Any
) -> Callable[[Any, Any], tuple[Any, Any]]:
    """One optimizer step on a batch, compiled by tf.function; gives the mean loss and the number correct."""
    loss_of = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    decay = training.weight_decay if training.optimizer != "adamw" else 0.0

    @tf.function(reduce_retracing=True)
    def step(x: Any, y: Any) -> tuple[Any, Any]:
        if regularizer:
            regularizer.before()
        with tf.GradientTape() as tape:
            logits = model(x, training=True)
            loss = loss_of(y, logits)
            total = loss + sum(model.losses) if model.losses else loss
            total += regularizer.loss() if regularizer else 0.0
        gradients = tape.gradient(total, [v.value for v in model.trainable_variables])
        if decay:
            pairs = zip(gradients, model.trainable_variables, strict=True)
            gradients = [None if g is None else g + decay * v for g, v in pairs]
        if regularizer:
            gradients = regularizer.after_backward(gradients, model.trainable_variables)
        optimizer.apply(gradients, model.trainable_variables)
        if regularizer:
            regularizer.after_step()
        return loss, tf.math.count_nonzero(tf.argmax(logits, 1) == y)

    return step


def fit(
    model: keras.Model,
    data: Data,
    training: Training,
    seed: int,
    device: str,
    begin: Callable[[keras.optimizers.Optimizer], Any],
) -> History:
    """Train `model` in place. ``begin(optimizer)`` may give a regularizer."""
    if not model.built:
        model(channels_last(data.x_train[:1]))
    if not model.trainable_variables:
        refuse("a model needs at least one trainable parameter", "none")
    x, y = channels_last(data.x_train), data.y_train
    history, stopping, best = History(seed), EarlyStopping(training.patience), None
    started = time.perf_counter()
    with _device(device):
        optimizer = make_optimizer(training)
        optimizer.build(model.trainable_variables)
        train_step = _make_step(model, training, optimizer, begin(optimizer))
        sums = np.zeros(3)  # loss, correct, examples since the last row
        for step in plan(len(x), training):
            if step.part.start == 0:
                order = batch_order(len(x), training, seed, step.epoch)
            batch = order[step.part]
            loss, correct = train_step(tf.constant(x[batch]), tf.constant(y[batch]))
            sums += [float(loss) * len(batch), int(correct), len(batch)]
            if not step.report:
                continue
            row: dict[str, float] = {"epoch": step.epoch, "step": step.number}
            row |= {"train_loss": float(sums[0] / sums[2]), "train_accuracy": float(sums[1] / sums[2])}
            if len(data.x_validation):
                logits = predict(model, data.x_validation, 4096, device)
                accuracy, validation_loss = accuracy_and_loss(logits, data.y_validation)
                row |= {"validation_loss": validation_loss, "validation_accuracy": accuracy}
            history.rows.append(row)
            sums[:] = 0
            if stopping.better(row.get("validation_loss", 0.0)) and training.patience is not None:
                best = model.get_weights()
            if stopping.done:
                break
    if best is not None:
        model.set_weights(best)
    history.kept_row, history.duration_seconds = stopping.best_row, time.perf_counter() - started
    return history


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
            return forward(batch).numpy()

    return run
