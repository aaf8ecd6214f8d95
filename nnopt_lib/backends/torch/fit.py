"""Training and inference of PyTorch modules."""

from __future__ import annotations

import contextlib
import copy
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812  (PyTorch's own custom)
from torch import nn

from nnopt_lib.backends.torch.build import resolve_device
from nnopt_lib.checks import refuse
from nnopt_lib.measure.statistics import accuracy_and_loss
from nnopt_lib.training.loop import EarlyStopping, batch_order, plan
from nnopt_lib.training.recipe import History, Training

if TYPE_CHECKING:
    from nnopt_lib.data import Data


def seed(value: int) -> None:
    """Seed torch's generators on every device."""
    torch.manual_seed(value)


def make_optimizer(
    parameters: Iterable[torch.Tensor], training: Training, **options: Any
) -> torch.optim.Optimizer:
    """The optimizer of a recipe; `options` go to torch (the stack asks for ``fused=True``)."""
    options |= {"lr": training.learning_rate, "weight_decay": training.weight_decay}
    if training.optimizer == "sgd":
        return torch.optim.SGD(parameters, momentum=training.momentum, nesterov=training.nesterov, **options)
    kind = torch.optim.Adam if training.optimizer == "adam" else torch.optim.AdamW
    return kind(parameters, **options)


def fit(
    model: nn.Module,
    data: Data,
    training: Training,
    seed: int,
    device: str,
    begin: Callable[[torch.optim.Optimizer], Any],
) -> History:
    """Train `model` in place, on `device`, where it stays. ``begin(optimizer)`` may give a regularizer."""
    target = resolve_device(device)
    model.to(target)
    x, y = torch.as_tensor(data.x_train).to(target), torch.as_tensor(data.y_train).to(target)
    trainable = [p for p in model.parameters() if p.requires_grad]
    if not trainable:
        refuse("a model needs at least one trainable parameter", "none")
    optimizer = make_optimizer(trainable, training)
    regularizer = begin(optimizer)
    amp = training.mixed_precision and target.type == "cuda"
    scaler = torch.amp.GradScaler(target.type, enabled=amp)
    history, stopping, best = History(seed), EarlyStopping(training.patience), {}
    started = time.perf_counter()
    model.train()
    sums, seen = torch.zeros(2, device=target), 0  # loss and correct, examples since the last row
    for step in plan(len(x), training):
        if step.part.start == 0:
            order = torch.from_numpy(batch_order(len(x), training, seed, step.epoch)).to(target)
        batch = order[step.part]
        optimizer.zero_grad()
        if regularizer:
            regularizer.before()
        with torch.autocast(target.type, torch.float16) if amp else contextlib.nullcontext():
            logits = model(x[batch])
            loss = F.cross_entropy(logits, y[batch])
        _step(loss, optimizer, scaler, regularizer)
        correct = (logits.detach().argmax(1) == y[batch]).sum()
        sums += torch.stack([loss.detach().float() * len(batch), correct])
        seen += len(batch)
        if not step.report:
            continue
        train_loss, train_accuracy = (sums / seen).tolist()
        row: dict[str, float] = {"epoch": step.epoch, "step": step.number}
        row |= {"train_loss": train_loss, "train_accuracy": train_accuracy}
        if len(data.x_validation):
            logits = predict(model, data.x_validation, 4096, None)
            accuracy, validation_loss = accuracy_and_loss(logits, data.y_validation)
            row |= {"validation_loss": validation_loss, "validation_accuracy": accuracy}
        history.rows.append(row)
        sums, seen = torch.zeros_like(sums), 0
        if stopping.better(row.get("validation_loss", 0.0)) and training.patience is not None:
            best = copy.deepcopy(model.state_dict())
        if stopping.done:
            break
    if best:
        model.load_state_dict(best)
    history.kept_row, history.duration_seconds = stopping.best_row, time.perf_counter() - started
    return history


def _step(loss: torch.Tensor, optimizer: torch.optim.Optimizer, scaler: Any, regularizer: Any) -> None:
    """The way back, and the optimizer's step, with the regularizer's part in both."""
    scaler.scale(loss + regularizer.loss() if regularizer else loss).backward()
    if regularizer:
        scaler.unscale_(optimizer)
        regularizer.after_backward()
    scaler.step(optimizer)
    scaler.update()
    if regularizer:
        regularizer.after_step()


def _device_of(model: nn.Module, device: str | None) -> torch.device:
    if device is not None:
        return resolve_device(device)
    first = next(model.parameters(), None)
    return torch.device("cpu") if first is None else first.device


@contextlib.contextmanager
def _inference(model: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients; each submodule's own mode comes back afterwards."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def predict(model: nn.Module, x: np.ndarray, batch_size: int, device: str | None) -> np.ndarray:
    """Outputs for `x` as float32, in evaluation mode, `batch_size` examples at a time."""
    target = _device_of(model, device)
    model.to(target)
    with _inference(model):
        batches = torch.as_tensor(x).split(batch_size)
        return torch.cat([model(batch.to(target)).float().cpu() for batch in batches]).numpy()


def runner(model: nn.Module, x: np.ndarray, device: str | None) -> Callable[[], torch.Tensor]:
    """A function that runs `model` (left in evaluation mode) on all of `x` and waits for the device."""
    target = _device_of(model, device)
    model.to(target).eval()
    batch = torch.as_tensor(x).to(target)
    wait = {"cuda": torch.cuda.synchronize, "mps": torch.mps.synchronize}.get(target.type, lambda: None)

    def run() -> torch.Tensor:
        with torch.inference_mode():
            out = model(batch)
        wait()
        return out

    return run
