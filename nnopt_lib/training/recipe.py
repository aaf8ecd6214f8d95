"""How to train, as data: `Training` (the recipe) and `History` (what happened).

Both backends and the stacked trainer read the same recipe. No framework is imported here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from nnopt_lib.checks import check_choice, check_int, check_number, refuse

OPTIMIZERS = ("sgd", "adam", "adamw")
LEARNING_RATE_SCHEDULES = ("cosine", "constant")


@dataclass(frozen=True)
class Training:
    """A recipe: epochs, batches, optimizer. Checked on creation; all of it enters a run's hash.

    Parameters:
        epochs: passes over the training set, at least 1.
        steps: exactly so many optimizer steps instead, ending within an epoch if need be.
        batch_size: examples per optimizer step; the last batch of an epoch may be smaller.
        optimizer: ``"sgd"``, ``"adam"`` or ``"adamw"``, with PyTorch's definitions in both frameworks.
        learning_rate: above 0; with which training begins.
        momentum, nesterov: for ``"sgd"`` only.
        weight_decay: added to the gradient (sgd, adam) or decoupled (adamw), at least 0.
        report_every: optimizer steps between rows of the `History`; None gives one row per epoch.
        patience: stop after so many rows without a better validation loss and go back to the weights of the
            best; None trains to the end and never looks at validation data to decide.
        shuffle: draw a new order of the training set for every epoch; False keeps the data's order.
        learning_rate_schedule: ``"cosine"`` lets the rate fall along half a cosine, from `learning_rate` to
            nearly 0 at the last step (Loshchilov & Hutter 2017, without restarts), so that the last epoch is
            the best and methods are compared at their best; ``"constant"`` keeps it.
        mixed_precision: float16 autocast on CUDA (PyTorch); other devices ignore it. In Keras set a
            dtype policy before the model is made.

    Example:
        >>> Training(epochs=10, learning_rate=0.01, momentum=0.9).batch_size
        32
    """

    epochs: int = 10
    batch_size: int = 32
    optimizer: str = "sgd"
    learning_rate: float = 0.01
    momentum: float = 0.0
    nesterov: bool = False
    weight_decay: float = 0.0
    patience: int | None = None
    shuffle: bool = True
    mixed_precision: bool = False
    steps: int | None = None
    report_every: int | None = None
    learning_rate_schedule: str = "cosine"

    def __post_init__(self) -> None:
        check_int("epochs", self.epochs, at_least=1)
        check_int("batch_size", self.batch_size, at_least=1)
        check_choice("optimizer", self.optimizer, OPTIMIZERS)
        check_choice("learning_rate_schedule", self.learning_rate_schedule, LEARNING_RATE_SCHEDULES)
        check_number("learning_rate", self.learning_rate, above=0)
        check_number("weight_decay", self.weight_decay, at_least=0)
        if not 0 <= check_number("momentum", self.momentum, at_least=0) < 1:
            refuse("momentum must be at least 0 and below 1", self.momentum)
        if self.optimizer != "sgd" and (self.momentum or self.nesterov):
            refuse("momentum and nesterov belong to sgd", self.optimizer, "Leave them out.")
        if self.nesterov and not self.momentum:
            refuse("nesterov needs a momentum above 0", self.momentum)
        for name in ("patience", "steps", "report_every"):
            if getattr(self, name) is not None:
                check_int(name, getattr(self, name), at_least=1)

    def total_steps(self, examples: int) -> int:
        """How many optimizer steps the recipe takes on so many training examples.

        Example:
            >>> Training(epochs=2, batch_size=32).total_steps(100)
            8
        """
        return self.steps or self.epochs * -(-examples // self.batch_size)  # the last batch may be smaller

    def rate(self, step: int, total: int) -> float:
        """The learning rate of optimizer step number `step` (from 1) of `total`.

        Example:
            >>> [round(Training(learning_rate=0.1).rate(step, 4), 3) for step in (1, 2, 3, 4)]
            [0.1, 0.085, 0.05, 0.015]
        """
        if self.learning_rate_schedule == "constant":
            return self.learning_rate
        return self.learning_rate * (1 + math.cos(math.pi * (step - 1) / total)) / 2

    def step_size(self, rate: float) -> float:
        """How far a constant gradient moves a weight per step in the end: momentum adds up past ones."""
        return rate / (1 - self.momentum)


@dataclass
class History:
    """What happened in training: its rows, which row's weights were kept, the seconds it took.

    Rows have `epoch` and `step` (both from 1), `train_loss` and `train_accuracy` (means over the batches
    since the row before, as they were trained) and, where there is validation data, `validation_loss` and
    `validation_accuracy`.
    """

    seed: int
    rows: list[dict[str, float]] = field(default_factory=list)
    kept_row: int = 0  # from 1
    duration_seconds: float = 0.0

    @property
    def kept(self) -> dict[str, float]:
        """The row whose weights the model has now; empty before training."""
        return self.rows[self.kept_row - 1] if self.rows else {}

    def __repr__(self) -> str:
        numbers = ", ".join(f"{n} {v:.2f}" for n, v in self.kept.items() if n not in ("epoch", "step"))
        kept = f"kept step {self.kept['step']}: {numbers}" if self.kept else "no row yet"
        return f"History(seed {self.seed}, {len(self.rows)} rows, {kept})"

    def __getitem__(self, name: str) -> list[float]:
        """One column over all rows, as ``history["validation_loss"]``."""
        return [row[name] for row in self.rows]
