"""Distillation of PyTorch students: the loss, outputs of hidden layers, maps between them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from nnopt_lib.backends.torch.build import _unwrapped
from nnopt_lib.backends.torch.fit import inference
from nnopt_lib.checks import nearest, refuse
from nnopt_lib.training.recipe import Training

if TYPE_CHECKING:
    from nnopt_lib.training.distillation import Lesson


def loss(
    student_logits: torch.Tensor, teacher_logits: Any, y: Any, temperature: float, alpha: float
) -> torch.Tensor:
    """(1 - alpha) CE + alpha T² KL(teacher || student), both at temperature T; a mean over examples."""
    y = torch.as_tensor(y, device=student_logits.device)
    labels = F.cross_entropy(student_logits, y)
    if alpha == 0:  # nothing is added, so that not a bit differs from plain training
        return labels
    half = student_logits.dtype.itemsize < 4  # in which small probabilities are lost
    student = F.log_softmax((student_logits.float() if half else student_logits) / temperature, 1)
    teacher = torch.as_tensor(teacher_logits).detach().to(student)
    teacher = F.log_softmax(teacher / temperature, 1)
    divergence = F.kl_div(student, teacher, reduction="batchmean", log_target=True)
    return (1 - alpha) * labels + alpha * temperature**2 * divergence


@contextlib.contextmanager
def _watched(model: nn.Module, names: Sequence[str]) -> Iterator[dict[str, list[torch.Tensor]]]:
    """Inside, outputs of the named modules are noted; the hooks are gone before anybody sees them."""
    modules = dict(model.named_modules())
    noted: dict[str, list[torch.Tensor]] = {name: [] for name in names}
    with contextlib.ExitStack() as stack:
        for name in noted:
            if name not in modules or not name:
                refuse(f"the model has no layer {name!r}", None, nearest(name, filter(None, modules)))

            def note(module: nn.Module, inputs: Any, output: Any, name: str = name) -> None:
                noted[name].append(output)

            stack.callback(modules[name].register_forward_hook(note).remove)
        yield noted


def layer_outputs(
    model: nn.Module, names: Sequence[str], x: np.ndarray, batch_size: int
) -> dict[str, np.ndarray]:
    """Outputs of the named modules for `x`, (examples, channels, *space), in evaluation mode."""
    if not names:
        return {}
    model = _unwrapped(model)
    device = next(model.parameters(), torch.empty(0)).device
    parts: dict[str, list[np.ndarray]] = {name: [] for name in names}
    for batch in torch.as_tensor(x).split(batch_size):
        with inference(model), _watched(model, names) as noted:
            model(batch.to(device))
        for name, outputs in noted.items():
            if len(outputs) != 1 or not isinstance(outputs[0], torch.Tensor) or outputs[0].dim() < 2:
                received = f"{len(outputs)} calls" if len(outputs) != 1 else "another output"
                refuse(f"layer {name!r} must give one tensor, (examples, channels, ...), once", received)
            parts[name].append(outputs[0].float().cpu().numpy())
    return {name: np.concatenate(arrays) for name, arrays in parts.items()}


class Objective:
    """A lesson as the loss of a student's training; `maps` are trained with it."""

    def __init__(
        self, model: nn.Module, lesson: Lesson, maps: Sequence[np.ndarray], optimizer: torch.optim.Optimizer
    ) -> None:
        device = next(model.parameters()).device
        self._recipe = lesson.recipe
        self._names = [name for name, _ in lesson.recipe.hidden]
        self._targets = [torch.as_tensor(array).to(device) for array in (lesson.logits, *lesson.hidden)]
        self._kernels = [nn.Parameter(torch.as_tensor(kernel).to(device)) for kernel in maps]
        self._biases = [nn.Parameter(kernel.new_zeros(kernel.shape[1])) for kernel in self._kernels]
        if maps:
            optimizer.add_param_group({"params": [*self._kernels, *self._biases], "weight_decay": 0.0})

    def targets(self, examples: torch.Tensor) -> list[torch.Tensor]:
        """The teacher's answers for these examples: logits, then hidden layers."""
        return [target[examples] for target in self._targets]

    def __call__(
        self, model: nn.Module, x: torch.Tensor, y: torch.Tensor, targets: Sequence[torch.Tensor]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits and the mean loss of a batch."""
        recipe = self._recipe
        if not self._names:
            logits = model(x)
            return logits, loss(logits, targets[0], y, recipe.temperature, recipe.alpha)
        with _watched(_unwrapped(model), self._names) as noted:
            logits = _unwrapped(model)(x)
        total = loss(logits, targets[0], y, recipe.temperature, recipe.alpha)
        for name, kernel, bias, target in zip(
            self._names, self._kernels, self._biases, targets[1:], strict=True
        ):
            mapped = noted[name][0].movedim(1, -1) @ kernel + bias
            total = total + recipe.hidden_weight * F.mse_loss(mapped, target.movedim(1, -1))
        return logits, total


def objective(
    model: nn.Module,
    lesson: Lesson,
    maps: Sequence[np.ndarray],
    training: Training,
    optimizer: torch.optim.Optimizer,
) -> Objective:
    """The lesson at work on `model`, whose optimizer trains the maps, too."""
    return Objective(model, lesson, maps, optimizer)
