"""Penalties, thresholds and gates on PyTorch tensors, for one model or for a stack of them.

Everything is written once, for stacked kernels (networks, out, in, *spatial); one model is a stack of one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import nn

from nnopt_lib.backends.torch.build import canonical_tensors
from nnopt_lib.backends.torch.masks import prunable
from nnopt_lib.checks import refuse
from nnopt_lib.pruning.penalties import BETA, GAMMA, ZETA, Penalty, check_penalized
from nnopt_lib.training.recipe import Training


def _l1(kernels: Sequence[torch.Tensor]) -> torch.Tensor:
    return torch.stack([kernel.abs().flatten(1).sum(1) for kernel in kernels]).sum(0)


def _l2(kernels: Sequence[torch.Tensor]) -> torch.Tensor:
    return torch.stack([kernel.square().flatten(1).sum(1) for kernel in kernels]).sum(0)


def _group_lasso(kernels: Sequence[torch.Tensor]) -> torch.Tensor:
    lengths = [math.sqrt(k[0, 0].numel()) * k.flatten(2).norm(dim=2).sum(1) for k in kernels]
    return torch.stack(lengths).sum(0)


_TOTALS: dict[str, Callable[[Sequence[torch.Tensor]], torch.Tensor]] = {
    "l1": _l1,
    "l2": _l2,
    "group_lasso": _group_lasso,
    "slimming": _l1,
}


def _shrunk(kind: str, kernel: torch.Tensor, amounts: torch.Tensor) -> torch.Tensor:
    """The proximal step on a stacked kernel; one amount per network."""
    amounts = amounts.view(-1, *[1] * (kernel.dim() - 1))
    if kind == "proximal_l1":
        return torch.where(kernel.abs() > amounts, kernel - amounts * kernel.sign(), 0)
    norms = kernel.flatten(2).norm(dim=2).view(*kernel.shape[:2], *[1] * (kernel.dim() - 2))
    amounts = amounts * math.sqrt(kernel[0, 0].numel())
    return torch.where(norms > amounts, kernel * (1 - amounts / norms), 0)


def _penalized(kind: str, model: nn.Module) -> list[torch.Tensor]:
    """What a penalty acts on: kernels, or for slimming the scales of batch normalizations."""
    tensors = dict(canonical_tensors(model))
    names = prunable(model)
    if kind == "slimming":
        norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
        scales = {id(norm.weight) for norm in norms if norm.affine and norm.weight.requires_grad}
        names = [name for name, tensor in tensors.items() if id(tensor) in scales]
    return [tensors[name] for name in check_penalized(kind, names)]


def total(kind: str, model: nn.Module) -> torch.Tensor:
    """The penalty of a whole model: a scalar with a gradient."""
    return _TOTALS[kind]([kernel[None] for kernel in _penalized(kind, model)])[0]


def shrink(kind: str, model: nn.Module, amount: float) -> None:
    """One proximal step on a model's kernels, in place."""
    with torch.no_grad():
        for kernel in _penalized(kind, model):
            kernel.copy_(_shrunk(kind, kernel[None], kernel.new_tensor([amount]))[0])


class Gates:
    """Hard-concrete gates on kernels; see `penalties.gates`. `stacked`: one network per first index."""

    def __init__(
        self,
        kernels: Sequence[torch.Tensor],
        strengths: Sequence[float],
        learning_rate: float,
        seeds: Sequence[int],
        stacked: bool,
    ) -> None:
        self._kernels, self._stacked = list(kernels), stacked
        device = self._kernels[0].device
        self._strengths = torch.tensor(strengths, device=device)
        self._generators = [torch.Generator(device).manual_seed(seed) for seed in seeds]
        self._theta = [kernel.detach().clone() for kernel in self._kernels]
        # Open with a probability of nearly 0.9 at first, as the authors' code begins.
        self.log_alphas = [torch.full_like(theta, 2.0) for theta in self._theta]
        self._drawn: list[tuple[torch.Tensor, torch.Tensor]] = []
        self._optimizer = torch.optim.Adam(self.log_alphas, lr=learning_rate)
        self.close()

    def _noise(self, kernel: torch.Tensor) -> torch.Tensor:
        shape = kernel.shape[1:] if self._stacked else kernel.shape
        draws = [torch.rand(shape, generator=g, device=kernel.device) for g in self._generators]
        return (torch.stack(draws) if self._stacked else draws[0]).clamp(1e-6, 1 - 1e-6)

    @torch.no_grad()
    def draw(self) -> None:
        """Before the forward pass: weights become theta z."""
        self._drawn = []
        for kernel, theta, log_alpha in zip(self._kernels, self._theta, self.log_alphas, strict=True):
            s = torch.sigmoid((self._noise(kernel).logit() + log_alpha) / BETA)
            stretched = s * (ZETA - GAMMA) + GAMMA
            kernel.copy_(theta * stretched.clamp(0, 1))
            self._drawn.append((s, stretched))

    @torch.no_grad()
    def pass_gradients(self) -> None:
        """After the backward pass: gradients of theta and of the gates; the weights are theta again."""
        if not self._drawn:
            refuse("draw must be called before the forward pass", "pass_gradients without it")
        parts = zip(self._kernels, self._theta, self.log_alphas, self._drawn, strict=True)
        for kernel, theta, log_alpha, (s, stretched) in parts:
            gradient = kernel.grad if kernel.grad is not None else torch.zeros_like(kernel)
            slope = (ZETA - GAMMA) * s * (1 - s) / BETA * ((stretched > 0) & (stretched < 1))
            is_open = torch.sigmoid(log_alpha - BETA * math.log(-GAMMA / ZETA))
            shape = (-1, *[1] * (kernel.dim() - 1)) if self._stacked else (1,) * kernel.dim()
            price = self._strengths.view(shape) * is_open * (1 - is_open)
            log_alpha.grad = gradient * theta * slope + price
            kernel.grad = gradient * stretched.clamp(0, 1)
            kernel.copy_(theta)
        self._drawn = []

    @torch.no_grad()
    def close(self) -> None:
        """After the optimizer's step: the gates step, and the weights become theta z without noise."""
        if self.log_alphas[0].grad is not None:
            self._optimizer.step()
            self._theta = [kernel.detach().clone() for kernel in self._kernels]
        for kernel, theta, log_alpha in zip(self._kernels, self._theta, self.log_alphas, strict=True):
            kernel.copy_(theta * (torch.sigmoid(log_alpha) * (ZETA - GAMMA) + GAMMA).clamp(0, 1))


def gates(model: nn.Module, strength: float, learning_rate: float, seed: int) -> Gates:
    """Gates on one model's kernels."""
    return Gates(_penalized("l0", model), [strength], learning_rate, [seed], stacked=False)


class Regularizer:
    """A `Penalty` at work in a training loop: called before, within and after every step."""

    def __init__(
        self,
        kernels: Sequence[torch.Tensor],
        penalties: Sequence[Penalty],
        training: Training,
        seeds: Sequence[int],
        stacked: bool,
    ) -> None:
        self.kind, self.mix = penalties[0].kind, penalties[0].mix
        self._kernels, self._stacked = list(kernels), stacked
        self._strengths = self._kernels[0].new_tensor([penalty.strength for penalty in penalties])
        self._training = training
        self._gates = None
        if self.kind == "l0":
            strengths = [penalty.strength for penalty in penalties]
            self._gates = Gates(kernels, strengths, training.learning_rate, seeds, stacked)

    def _views(self) -> list[torch.Tensor]:
        return self._kernels if self._stacked else [kernel[None] for kernel in self._kernels]

    def before(self) -> None:
        """Before the forward pass."""
        if self._gates:
            self._gates.draw()

    def loss(self) -> torch.Tensor | float:
        """What to add to the loss; summed over the stack, whose networks share no parameter."""
        if self.kind == "elastic_net":
            mixed = self.mix * _l1(self._views()) + (1 - self.mix) * _l2(self._views())
            return (self._strengths * mixed).sum()
        return (self._strengths * _TOTALS[self.kind](self._views())).sum() if self.kind in _TOTALS else 0.0

    def after_backward(self) -> None:
        """Between the backward pass and the optimizer's step."""
        if self._gates:
            self._gates.pass_gradients()

    @torch.no_grad()
    def after_step(self, rate: float) -> None:
        """After the optimizer's step at this rate, which a threshold must keep up with."""
        if self._gates:
            self._gates.close()
        elif self.kind.startswith("proximal"):
            amounts = self._strengths * self._training.step_size(rate)
            for kernel in self._views():
                kernel.copy_(_shrunk(self.kind, kernel, amounts))


def regularizer(model: nn.Module, penalty: Penalty, training: Training, seed: int) -> Regularizer:
    """The penalty at work on one model."""
    return Regularizer(_penalized(penalty.kind, model), [penalty], training, [seed], stacked=False)
