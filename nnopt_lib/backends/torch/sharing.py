"""Shared values of PyTorch weights in training: one gradient for all weights that share a value."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from nnopt_lib.backends.torch.build import canonical_tensors
from nnopt_lib.compression.sharing import Shared


class _Kernel:
    """One parameter, and who shares a value with whom in it."""

    def __init__(self, parameter: torch.Tensor, shared: Shared) -> None:
        codes, one_of_each = shared.members()
        self._parameter, self._values = parameter, len(one_of_each)
        self._codes = torch.from_numpy(codes).to(parameter.device)
        self._one_of_each = torch.from_numpy(one_of_each).to(parameter.device)

    def _spread(self, values: torch.Tensor) -> torch.Tensor:
        """What each weight gets of one number for each code; 0 where the weight is removed."""
        return torch.cat([values, values.new_zeros(1)])[self._codes].view(self._parameter.shape)

    def sum_gradients(self) -> None:
        gradient = self._parameter.grad
        if gradient is not None:
            sums = gradient.new_zeros(self._values + 1).index_add_(0, self._codes, gradient.reshape(-1))
            gradient.copy_(self._spread(sums[:-1]))

    def align(self) -> None:
        """Give all weights of a code the value of one of them."""
        self._parameter.copy_(self._spread(self._parameter.reshape(-1)[self._one_of_each]))


class Regularizer:
    """Sharing at work in a training loop: the gradient of a value is the sum of its weights' gradients."""

    def __init__(self, model: nn.Module, shared: Mapping[str, Shared]) -> None:
        tensors = dict(canonical_tensors(model))
        self._kernels = [_Kernel(tensors[name], one) for name, one in shared.items()]

    def before(self) -> None:
        """Before the forward pass: nothing."""

    def loss(self) -> float:
        """What to add to the loss: nothing."""
        return 0.0

    @torch.no_grad()
    def after_backward(self) -> None:
        """Each gradient becomes the sum over all weights of its code."""
        for kernel in self._kernels:
            kernel.sum_gradients()

    @torch.no_grad()
    def after_step(self, rate: float) -> None:
        """Equal to the last bit, whatever order the optimizer computed in."""
        for kernel in self._kernels:
            kernel.align()


def regularizer(model: nn.Module, shared: Mapping[str, Shared]) -> Regularizer:
    """Sharing at work on a model."""
    return Regularizer(model, shared)
