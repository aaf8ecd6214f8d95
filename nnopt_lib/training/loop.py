"""The one training loop: its steps, the order of batches, rows of the history, when to stop.

One Keras or PyTorch model and a stack of many go through it alike, as a `Learner`; one model is a stack of
one. So equal seeds visit equal batches and give equal weights up to rounding. No framework is imported here.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from nnopt_lib.adapters import Learner
from nnopt_lib.checks import refuse
from nnopt_lib.measure.statistics import accuracy_and_loss
from nnopt_lib.training.recipe import History, Training

if TYPE_CHECKING:
    from nnopt_lib.data import Data


def train(learner: Learner, sets: Sequence[Data], training: Training, seeds: Sequence[int]) -> list[History]:
    """Train the models of `learner` by `training`, one for each of `seeds`, and return their histories.

    `sets` is the data that all of them share, or one set for each, of equal sizes.

    A model keeps the weights of its best row where the recipe has patience, else those of the last step. In a
    stack, models that are done go on training until all are, but nothing of it is noted or kept.
    """
    started = time.perf_counter()
    histories = [History(seed) for seed in seeds]
    stoppings = [EarlyStopping(training.patience) for _ in seeds]
    sums: Any = 0.0  # of losses and of correct answers since the last row, (2, models)
    seen = 0
    examples = len(sets[0].x_train)
    for step in plan(examples, training):
        if step.part.start == 0:
            orders = [batch_order(examples, training, seed, step.epoch) for seed in seeds]
            order = learner.indices(np.stack(orders))  # (models, examples)
        batch = order[:, step.part]
        # Added up wherever the learner computes: reading a number at each step would wait for the device.
        sums += learner.step(batch, step.rate)
        seen += batch.shape[1]
        if not step.report:
            continue
        rows = _rows(step, (sums / seen).tolist(), learner, sets)
        sums, seen = 0.0, 0
        for index, (row, history, stopping) in enumerate(zip(rows, histories, stoppings, strict=True)):
            if stopping.done:
                continue
            history.rows.append(row)
            if stopping.better(row.get("validation_loss", 0.0)) and training.patience is not None:
                learner.keep(index)
        if all(stopping.done for stopping in stoppings):
            break
    learner.restore()
    for history, stopping in zip(histories, stoppings, strict=True):
        history.kept_row, history.duration_seconds = stopping.best_row, time.perf_counter() - started
    return histories


def _rows(
    step: Step, means: Sequence[Sequence[float]], learner: Learner, sets: Sequence[Data]
) -> list[dict[str, float]]:
    """One row for each model: `means` are losses and accuracies in training, validation is done now."""
    rows: list[dict[str, float]] = [
        {"epoch": step.epoch, "step": step.number, "train_loss": loss, "train_accuracy": accuracy}
        for loss, accuracy in zip(*means, strict=True)
    ]
    if len(sets[0].x_validation):
        outputs = learner.predict([data.x_validation for data in sets])
        labels = [data.y_validation for data in sets] * (len(rows) // len(sets))
        for row, logits, y in zip(rows, outputs, labels, strict=True):
            accuracy, loss = accuracy_and_loss(logits, y)
            row |= {"validation_loss": loss, "validation_accuracy": accuracy}
    return rows


class EarlyStopping:
    """Decides, from validation losses alone, which row's weights to keep and when to stop."""

    def __init__(self, patience: int | None) -> None:
        self.patience, self.best_loss, self.best_row, self.last_row = patience, np.inf, 0, 0

    def better(self, loss: float) -> bool:
        """Record the loss of the next row; True if its weights are now the ones to keep."""
        self.last_row += 1
        # Without patience the last row is kept, whatever its loss. A NaN is never better.
        if self.patience is None or loss < self.best_loss:
            self.best_loss, self.best_row = loss, self.last_row
            return True
        return False

    @property
    def done(self) -> bool:
        """Whether `patience` rows have passed without a better loss."""
        return self.patience is not None and self.last_row - self.best_row >= self.patience


class Step(NamedTuple):
    """One optimizer step: epoch and number (from 1), its part of the epoch's order, whether a row follows it,
    and its learning rate.
    """

    epoch: int
    number: int
    part: slice
    report: bool
    rate: float


def plan(examples: int, training: Training) -> Iterator[Step]:
    """All optimizer steps of a recipe; one whose part starts at 0 begins an epoch, with its own order."""
    per_epoch = -(-examples // training.batch_size)  # rounded up: the last batch may be smaller
    last = training.total_steps(examples)
    for number in range(1, last + 1):
        epoch, batch = divmod(number - 1, per_epoch)
        part = slice(batch * training.batch_size, (batch + 1) * training.batch_size)
        report = number % (training.report_every or per_epoch) == 0 or number == last
        yield Step(epoch + 1, number, part, report, training.rate(number, last))


def batch_order(examples: int, training: Training, seed: int, epoch: int) -> np.ndarray:
    """The order in which `epoch` (from 1) visits the training set: int64 indices, shape (examples,)."""
    if not training.shuffle:
        return np.arange(examples)
    # Seeded by the epoch too, so that a run that goes on from epoch k visits what an unbroken one would.
    return np.random.default_rng([seed, epoch - 1]).permutation(examples)


def check_data(data: Any, training: Training) -> None:
    """Refuse data that cannot train: no examples, unequal lengths, or patience without validation data."""
    for part in ("train", "validation"):
        x, y = getattr(data, f"x_{part}"), getattr(data, f"y_{part}")
        if len(x) != len(y):
            refuse(f"x_{part} and y_{part} must have equal lengths", f"{len(x)} and {len(y)}")
    if len(data.x_train) == 0:
        refuse("training needs at least one example", "none")
    if training.patience is not None and len(data.x_validation) == 0:
        refuse(
            "early stopping needs validation data", "none", "Pass patience=None, or keep a validation set."
        )
