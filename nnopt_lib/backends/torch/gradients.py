"""What gradients say of a PyTorch module's weights, of any module that runs; it stays as it was."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel

from nnopt_lib.backends.torch.build import Network, _unwrapped, as_array, canonical_tensors
from nnopt_lib.backends.torch.inputs import like_model, run
from nnopt_lib.backends.torch.reading import unchanged
from nnopt_lib.checks import refuse
from nnopt_lib.pruning.examples import (
    Loss,
    batches_of,
    check_finite,
    check_labels,
    class_axis,
    part_of,
    refuse_to_run,
)
from nnopt_lib.pruning.paths import first_usable, is_removed

_NORMS = nn.modules.batchnorm._BatchNorm


def _selected(model: nn.Module, names: Sequence[str]) -> dict[str, torch.Tensor]:
    tensors = dict(canonical_tensors(model))
    return {name: tensors[name] for name in names}


@contextlib.contextmanager
def _asked(model: nn.Module, tensors: Sequence[torch.Tensor], batch_statistics: bool) -> Iterator[None]:
    """Evaluation mode (normalizations perhaps by each batch), with gradients to `tensors` and no others."""
    flags = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    with unchanged(model):
        model.eval()
        if batch_statistics:
            for module in model.modules():
                if isinstance(module, _NORMS):
                    module.train()
        try:
            for parameter, _ in flags:
                parameter.requires_grad_(False)
            for tensor in tensors:
                tensor.requires_grad_(True)
            yield
        finally:
            for tensor in tensors:
                tensor.requires_grad_(False)
            for parameter, flag in flags:
                parameter.requires_grad_(flag)


def _outputs(model: nn.Module, x: Any, like: torch.Tensor) -> torch.Tensor:
    outputs = run(model, x, like)
    if not isinstance(outputs, torch.Tensor):
        remedy = "Pass a function of outputs and labels as loss, or wrap the model."
        refuse("a model must give one tensor of outputs here", type(outputs).__name__, remedy)
    return outputs


def _loss(
    model: nn.Module, x: Any, y: Any, loss: Loss, like: torch.Tensor, temperature: float = 1.0
) -> torch.Tensor:
    """The mean loss of a batch, a scalar."""
    labels = None if y is None else torch.as_tensor(y).to(like.device)
    if callable(loss):
        return loss(run(model, x, like), labels)
    outputs = _outputs(model, x, like)
    assert labels is not None  # `check_loss` was asked before
    if loss == "mse":
        return F.mse_loss(outputs, labels.to(outputs.dtype).reshape(outputs.shape))
    axis = class_axis(outputs.shape, labels.shape)
    return F.cross_entropy(outputs.movedim(axis, 1) / temperature, labels.long())


def _check(model: nn.Module, x: Any, y: Any, loss: Loss, like: torch.Tensor) -> None:
    """Refuse labels that do not fit, by one example, before anything is computed."""
    if not callable(loss):
        with unchanged(model), torch.no_grad():
            model.eval()
            check_labels(loss, _outputs(model, part_of(x, slice(1)), like).shape, y)


def _first(tensors: Mapping[str, torch.Tensor]) -> torch.Tensor:
    return next(iter(tensors.values()))


def _gradients(
    loss: torch.Tensor, tensors: Mapping[str, torch.Tensor], **options: Any
) -> dict[str, torch.Tensor]:
    found = torch.autograd.grad(loss, list(tensors.values()), allow_unused=True, **options)
    return {
        name: torch.zeros_like(tensor) if gradient is None else gradient
        for (name, tensor), gradient in zip(tensors.items(), found, strict=True)
    }


def mean(
    model: nn.Module,
    names: Sequence[str],
    x: Any,
    y: Any,
    *,
    loss: Loss,
    batch_size: int,
    batch_statistics: bool = False,
    temperature: float = 1.0,
) -> tuple[float, dict[str, np.ndarray]]:
    """The mean loss over all examples, and its gradient by each named weight, float64."""
    tensors = _selected(model, names)
    _check(model, x, y, loss, _first(tensors))
    total, sums = 0.0, {name: np.zeros(tensor.shape) for name, tensor in tensors.items()}
    examples = 0
    with _asked(model, list(tensors.values()), batch_statistics):
        for inputs, labels, count in batches_of(x, y, batch_size):
            value = _loss(model, inputs, labels, loss, _first(tensors), temperature)
            found = {name: as_array(one) for name, one in _gradients(value, tensors).items()}
            check_finite(float(value.detach()), found)
            total, examples = total + count * float(value.detach()), examples + count
            for name, gradient in found.items():
                sums[name] += count * gradient.astype(np.float64)
    return total / examples, {name: one / examples for name, one in sums.items()}


def each(
    model: nn.Module, names: Sequence[str], x: Any, y: Any, *, loss: Loss
) -> Iterator[dict[str, np.ndarray]]:
    """The gradient of each example's loss by each named weight, one example at a time, evaluation mode."""
    tensors = _selected(model, names)
    _check(model, x, y, loss, _first(tensors))
    with _asked(model, list(tensors.values()), False):
        for inputs, labels, _ in batches_of(x, y, 1):
            value = _loss(model, inputs, labels, loss, _first(tensors))
            found = {name: as_array(one) for name, one in _gradients(value, tensors).items()}
            check_finite(float(value.detach()), found)
            yield found


def jacobians(
    model: nn.Module, names: Sequence[str], x: Any
) -> Iterator[tuple[np.ndarray, dict[str, np.ndarray]]]:
    """For one example at a time its outputs, flat, and their slopes by each named weight, evaluation mode."""
    tensors = _selected(model, names)
    with _asked(model, list(tensors.values()), False):
        for inputs, _, _ in batches_of(x, None, 1):
            outputs = _outputs(model, inputs, _first(tensors)).flatten()
            rows = [_gradients(one, tensors, retain_graph=True) for one in outputs]
            slopes = {name: np.stack([as_array(row[name]) for row in rows]) for name in tensors}
            values = as_array(outputs).copy()
            check_finite(float(values.sum()), slopes)
            yield values, slopes


def hessian_product(
    model: nn.Module,
    names: Sequence[str],
    x: Any,
    y: Any,
    vector: Mapping[str, np.ndarray],
    *,
    loss: Loss,
    batch_size: int,
    batch_statistics: bool = False,
    temperature: float = 1.0,
) -> dict[str, np.ndarray]:
    """The Hessian of the mean loss, by the named weights, times `vector`; float64."""
    tensors = _selected(model, names)
    _check(model, x, y, loss, _first(tensors))
    directions = {name: like_model(vector[name], tensors[name]) for name in names}
    sums = {name: np.zeros(tensor.shape) for name, tensor in tensors.items()}
    examples = 0
    # Fused attention has no second derivative.
    with _asked(model, list(tensors.values()), batch_statistics), sdpa_kernel(SDPBackend.MATH):
        for inputs, labels, count in batches_of(x, y, batch_size):
            value = _loss(model, inputs, labels, loss, _first(tensors), temperature)
            slopes = _gradients(value, tensors, create_graph=True)
            along = sum((slopes[name] * directions[name]).sum() for name in names)
            found = {name: as_array(one) for name, one in _second(along, tensors).items()}
            check_finite(float(value.detach()), found)
            examples += count
            for name, product in found.items():
                sums[name] += count * product.astype(np.float64)
    return {name: one / examples for name, one in sums.items()}


def _second(along: Any, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The gradient of a slope; 0 where the slope depends on no weight, as in a linear loss."""
    if not along.requires_grad:
        return {name: torch.zeros_like(tensor) for name, tensor in tensors.items()}
    return _gradients(along, tensors)


def path_scores(model: nn.Module, names: Sequence[str], x: Any) -> dict[str, np.ndarray]:
    """|w| dR/d|w| for R, the sum of outputs of the module with absolute weights on ones; float64."""
    module = _unwrapped(model)
    canonical = {id(tensor): name for name, tensor in canonical_tensors(module)}
    own = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    values = {
        path: _absolute(canonical[id(tensor)], tensor) if id(tensor) in canonical else tensor.clone()
        for path, tensor in own.items()
    }
    by_name = {canonical[id(tensor)]: path for path, tensor in own.items() if id(tensor) in canonical}
    leaves = {name: values[by_name[name]].requires_grad_(True) for name in names}
    example = _ones(module, x, _first(leaves))

    def attempt(scale: float) -> tuple[float, dict[str, np.ndarray]]:
        args, kwargs = (_scaled(part, scale) for part in example)
        try:
            outputs = functional_call(module, values, args, kwargs)
        except Exception as error:
            refuse_to_run(type(module).__name__, error)
        if not isinstance(outputs, torch.Tensor):
            refuse("a model must give one tensor of outputs here", type(outputs).__name__)
        total = outputs.sum() * scale
        slopes = _gradients(total, leaves)
        return float(total.detach()), {
            name: as_array(leaf.detach() * slopes[name]) for name, leaf in leaves.items()
        }

    with unchanged(module), sdpa_kernel(SDPBackend.MATH):
        module.eval()
        return first_usable(attempt)


def _scaled(part: Any, scale: float) -> Any:
    """The numbers of a tuple or dict of tensors times `scale`; whole ones (tokens) as they are."""
    if isinstance(part, dict):
        return {name: one * scale if one.is_floating_point() else one for name, one in part.items()}
    return tuple(one * scale if one.is_floating_point() else one for one in part)


def _absolute(name: str, tensor: torch.Tensor) -> torch.Tensor:
    value = tensor.detach().to(torch.float64)
    return torch.zeros_like(value) if is_removed(name) else value.abs()


def _ones(model: nn.Module, x: Any, like: torch.Tensor) -> tuple[list[torch.Tensor], dict[str, torch.Tensor]]:
    """One example of ones in the form of the inputs; whole numbers (tokens) stay as they are."""
    if x is None:
        if not isinstance(model, Network):
            rule = "SynFlow needs the shape of the inputs of a model that build did not make"
            refuse(rule, "no examples", "Pass a batch as x; its numbers play no part.")
        x = np.ones((1, *model.spec.input_shape), np.float32)

    def one(value: Any) -> torch.Tensor:
        tensor = like_model(value, like)[:1]
        return torch.ones_like(tensor, dtype=torch.float64) if tensor.is_floating_point() else tensor

    if isinstance(x, Mapping):
        return [], {name: one(array) for name, array in x.items()}
    return [one(array) for array in (x if isinstance(x, tuple) else (x,))], {}


class Movement:
    """Sums of -w dL/dw over optimizer steps, a penalty of strength 0 to the training loop."""

    def __init__(self, model: nn.Module, names: Sequence[str]) -> None:
        self._tensors = _selected(model, names)
        self._sums = {name: torch.zeros_like(tensor) for name, tensor in self._tensors.items()}

    def before(self) -> None:
        """Nothing happens before the forward pass."""

    def loss(self) -> float:
        """Nothing is added to the loss."""
        return 0.0

    def after_backward(self) -> None:
        """Add this step's part, from the gradients that stand on the parameters."""
        with torch.no_grad():
            for name, tensor in self._tensors.items():
                if tensor.grad is not None:
                    self._sums[name].addcmul_(tensor, tensor.grad, value=-1)

    def after_step(self, rate: float) -> None:
        """Nothing happens after the step."""

    def scores(self) -> dict[str, np.ndarray]:
        """Copies of the sums, canonical."""
        return {name: as_array(one).copy() for name, one in self._sums.items()}
