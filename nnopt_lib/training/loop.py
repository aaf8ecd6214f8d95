"""What every training loop goes by: its steps, the order of batches, when to stop.

Both backends and the stacked trainer visit the same batches, so that equal seeds give equal weights up to
rounding. No framework is imported here.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from nnopt_lib.checks import refuse
from nnopt_lib.training.recipe import Training


class EarlyStopping:
    """Decides, from validation losses alone, which row's weights to keep and when to stop."""

    def __init__(self, patience: int | None) -> None:
        self.patience, self.best_loss, self.best_row, self.last_row = patience, np.inf, 0, 0

    def better(self, loss: float) -> bool:
        """Record the loss of the next row; True if its weights are now the ones to keep."""
        self.last_row += 1
        if self.patience is None or loss < self.best_loss:
            self.best_loss, self.best_row = loss, self.last_row
            return True
        return False

    @property
    def done(self) -> bool:
        """Whether `patience` rows have passed without a better loss."""
        return self.patience is not None and self.last_row - self.best_row >= self.patience


class Step(NamedTuple):
    """One optimizer step: epoch and number (from 1), its part of the epoch's order, whether a row follows."""

    epoch: int
    number: int
    part: slice
    report: bool


def plan(examples: int, training: Training) -> Iterator[Step]:
    """All optimizer steps of a recipe; one whose part starts at 0 begins an epoch, with its own order."""
    per_epoch = -(-examples // training.batch_size)
    last = training.steps or training.epochs * per_epoch
    for number in range(1, last + 1):
        epoch, place = divmod(number - 1, per_epoch)
        part = slice(place * training.batch_size, (place + 1) * training.batch_size)
        report = number % (training.report_every or per_epoch) == 0 or number == last
        yield Step(epoch + 1, number, part, report)


def batch_order(examples: int, training: Training, seed: int, epoch: int) -> np.ndarray:
    """The order in which `epoch` (from 1) visits the training set: int64 indices, shape (examples,)."""
    if not training.shuffle:
        return np.arange(examples)
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
