"""What data mend, on a PyTorch twin of a description: statistics of normalizations, refitted layers."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from nnopt_lib.backends.torch.build import get_weights, resolve_device
from nnopt_lib.backends.torch.importance import BATCH, twin_of
from nnopt_lib.structure.coupling import Coupling
from nnopt_lib.structure.operations import spatial
from nnopt_lib.structure.spec import INPUT, NetSpec, Node
from nnopt_lib.structure.weights import Weights


def recalibrated(
    spec: NetSpec, weights: Weights, x: np.ndarray, batch_size: int, device: str
) -> dict[str, np.ndarray]:
    """Running means and variances anew: the mean over batches of each batch's own, as in training."""
    target = resolve_device(device)
    twin = twin_of(spec, weights, target)
    for module in twin.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.reset_running_stats()
            module.momentum = None  # a plain average over batches
    twin.train()
    with torch.no_grad():
        for part in np.array_split(x, -(-len(x) // batch_size)):  # even ones: a rest of one has no variance
            twin(torch.as_tensor(part).to(target))
    return {name: value for name, value in get_weights(twin).items() if name.endswith(("/mean", "/variance"))}


def refit(
    coupling: Coupling, kept: np.ndarray, dense: Weights, masked: Weights, x: np.ndarray, device: str
) -> tuple[dict[str, np.ndarray], dict[str, tuple[float, float]]]:
    """Kernels (and biases) of the layers that read removed nodes, refitted to the dense network's outputs.

    Layer by layer, in order, so that each sees what the ones before it have become. Returns all weights, and
    for each refitted layer its outputs' mean squared error before and after, relative to their variance.
    """
    spec, target = coupling.spec, resolve_device(device)
    twins = [twin_of(spec, weights, target) for weights in (dense, masked)]
    values: list[dict[str, torch.Tensor]] = [{INPUT: torch.as_tensor(x).to(target)} for _ in twins]
    last_reader = {name: node.name for node in spec.nodes for name in node.inputs}
    errors = {}
    with torch.no_grad():
        for node in spec.nodes:
            modules = [getattr(twin, node.name) for twin in twins]
            wanted = modules[0](*(values[0][name] for name in node.inputs))
            inputs_kept = coupling.channels(node.inputs[0], kept)
            if node.has_kernel and node.groups == 1 and not inputs_kept.all():
                rows = torch.as_tensor(coupling.channels(node.name, kept)).to(target)
                errors[node.name] = _refit_layer(
                    node, modules[1], values[1][node.inputs[0]], inputs_kept, rows, wanted[:, rows]
                )
            values[1][node.name] = modules[1](*(values[1][name] for name in node.inputs))
            values[0][node.name] = wanted
            for name in {name for name in node.inputs if last_reader[name] == node.name}:
                del values[0][name], values[1][name]  # activations are large
    fitted = get_weights(twins[1])
    return {name: fitted[name] for name in masked}, errors


def _refit_layer(
    node: Node,
    module: nn.Module,
    x: torch.Tensor,
    inputs_kept: np.ndarray,
    rows: torch.Tensor,
    wanted: torch.Tensor,
) -> tuple[float, float]:
    """Refit one layer's `rows` in place to give `wanted` for `x`; the relative errors before and after."""
    layer: Any = module
    missing = wanted - layer(x)[:, rows]
    kernel, bias = _least_squares(node, x, missing, inputs_kept)
    layer.weight[rows] += kernel.to(layer.weight)
    if layer.bias is not None:
        layer.bias[rows] += bias.to(layer.bias)
    spread = float(wanted.var()) or 1.0
    left = wanted - layer(x)[:, rows]
    return float(missing.square().mean()) / spread, float(left.square().mean()) / spread


def _least_squares(
    node: Node, x: torch.Tensor, wanted: torch.Tensor, inputs_kept: np.ndarray
) -> tuple[torch.Tensor, torch.Tensor]:
    """The smallest change of kernel and bias that brings the layer's outputs nearest to `wanted` more.

    Through the normal equations in float64: (inputs x kernel entries)^2 numbers, however many examples.
    Directions in which the inputs hardly vary are left alone, so the error never rises.
    """
    square: Any = 0.0
    right: Any = 0.0
    for part, goal in zip(x.split(BATCH), wanted.split(BATCH), strict=True):
        columns = _columns(node, part).double()  # (positions, inputs, kernel entries)
        columns[:, ~torch.as_tensor(inputs_kept)] = 0
        columns = columns.flatten(1)
        if node.options["bias"]:
            columns = torch.cat([columns, columns.new_ones(len(columns), 1)], 1)
        goal = goal.flatten(2).transpose(1, 2).reshape(-1, goal.shape[1]) if goal.dim() > 2 else goal
        square, right = square + columns.T @ columns, right + columns.T @ goal.double()
    # rtol 1e-8: float64 keeps 16 digits, and squaring the inputs halves them.
    change = torch.linalg.pinv(square, rtol=1e-8, hermitian=True) @ right  # (inputs [+ 1], outputs)
    kernel = change[:-1] if node.options["bias"] else change
    size = spatial(node.options["kernel"], x.dim() - 2) if x.dim() > 2 else ()
    return kernel.T.reshape(wanted.shape[1], x.shape[1], *size), change[-1]


def _columns(node: Node, x: torch.Tensor) -> torch.Tensor:
    """What each output reads: (examples * positions, inputs, kernel entries)."""
    rank = x.dim() - 2
    if rank == 0:
        return x.unsqueeze(2)
    options = {name: spatial(node.options[name], rank) for name in ("kernel", "stride", "padding")}
    if rank == 1:
        x, options = x.unsqueeze(2), {n: (int(n != "padding"), *v) for n, v in options.items()}
    kernel = options["kernel"]
    columns = F.unfold(x, kernel, stride=options["stride"], padding=options["padding"])
    return columns.transpose(1, 2).reshape(-1, x.shape[1], kernel[0] * kernel[1])
