"""Training and inference of PyTorch modules."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812  (PyTorch's own custom)
from torch import nn

from nnopt_lib.backends.torch.build import resolve_device
from nnopt_lib.checks import refuse
from nnopt_lib.training.recipe import Training

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


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """The learning rate of the next step."""
    for group in optimizer.param_groups:
        group["lr"] = rate


def optimizer_for(model: nn.Module, x: np.ndarray, training: Training, device: str) -> torch.optim.Optimizer:
    """The optimizer of what can be trained in `model`, which moves to `device` and stays there."""
    model.to(resolve_device(device))  # first: an optimizer holds on to the tensors that it was given
    trainable = [p for p in model.parameters() if p.requires_grad]
    if not trainable:
        refuse("a model needs at least one trainable parameter", "none")
    return make_optimizer(trainable, training)


class OneModel:
    """One module in training: the `Learner` of a stack of one."""

    def __init__(
        self,
        model: nn.Module,
        data: Data,
        training: Training,
        optimizer: torch.optim.Optimizer,
        regularizers: Sequence[Any],
        device: str,
        objective: Any = None,
    ) -> None:
        self._model, self._optimizer, self._regularizers = model, optimizer, regularizers
        self._objective = objective
        self._device = resolve_device(device)
        self._x, self._y = (torch.as_tensor(v).to(self._device) for v in (data.x_train, data.y_train))
        self._half = training.mixed_precision and self._device.type == "cuda"
        self._scaler = torch.amp.GradScaler(self._device.type, enabled=self._half)
        self._kept: dict[str, Any] = {}
        model.train()

    def indices(self, orders: np.ndarray) -> torch.Tensor:
        """The order of the examples, (1, examples), on the device."""
        return torch.from_numpy(orders).to(self._device)

    def step(self, batch: torch.Tensor, rate: float) -> torch.Tensor:
        """One step at this rate on the examples `batch`, (1, size); loss and number correct, (2, 1)."""
        set_rate(self._optimizer, rate)
        examples = batch[0]
        self._optimizer.zero_grad()
        for regularizer in self._regularizers:
            regularizer.before()
        with torch.autocast(self._device.type, torch.float16) if self._half else contextlib.nullcontext():
            logits, loss = self._logits_and_loss(examples)
        total = sum((regularizer.loss() for regularizer in self._regularizers), start=loss)
        self._scaler.scale(total).backward()
        if self._regularizers:  # gates read gradients of the loss, not of the scaled loss
            self._scaler.unscale_(self._optimizer)
        for regularizer in self._regularizers:
            regularizer.after_backward()
        self._scaler.step(self._optimizer)
        self._scaler.update()
        for regularizer in self._regularizers:
            regularizer.after_step(rate)
        # Both stay on the device. float(): losses of a model in half precision would overflow as a sum.
        correct = (logits.detach().argmax(1) == self._y[examples]).sum()
        return torch.stack([loss.detach().float() * len(examples), correct])[:, None]

    def _logits_and_loss(self, examples: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x, y = self._x[examples], self._y[examples]
        if self._objective is not None:
            return self._objective(self._model, x, y, self._objective.targets(examples))
        logits = self._model(x)
        return logits, F.cross_entropy(logits, y)

    def predict(self, sets: Sequence[np.ndarray]) -> np.ndarray:
        """Outputs for the one array of inputs in `sets`, (1, examples, *outputs)."""
        return predict(self._model, sets[0], 4096, None)[None]

    def keep(self, index: int) -> None:
        """Set the weights aside; `index` is 0."""
        # deepcopy: the tensors of a state_dict are those of the model, and go on changing with it.
        self._kept = copy.deepcopy(self._model.state_dict())

    def restore(self) -> None:
        """Go back to what was kept last, if anything was."""
        if self._kept:
            self._model.load_state_dict(self._kept)


learner = OneModel  # as `TrainingBackend` calls it


def _device_of(model: nn.Module, device: str | None) -> torch.device:
    if device is not None:
        return resolve_device(device)
    first = next(model.parameters(), None)
    return torch.device("cpu") if first is None else first.device


@contextlib.contextmanager
def inference(model: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients; each submodule's own mode comes back afterwards."""
    # Each module's, not the model's: users freeze single normalizations by module.eval().
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
    with inference(model):
        batches = torch.as_tensor(x).split(batch_size)
        return torch.cat([model(batch.to(target)).float().cpu() for batch in batches]).numpy()


def runner(model: nn.Module, x: np.ndarray, device: str | None) -> Callable[[], torch.Tensor]:
    """A function that runs `model` (left in evaluation mode) on all of `x` and waits for the device."""
    target = _device_of(model, device)
    model.to(target).eval()
    batch = torch.as_tensor(x).to(target)
    # A GPU's calls return before their work is done, and would be timed as nearly nothing.
    wait = {"cuda": torch.cuda.synchronize, "mps": torch.mps.synchronize}.get(target.type, lambda: None)

    def run() -> torch.Tensor:
        with torch.inference_mode():
            out = model(batch)
        wait()
        return out

    return run
