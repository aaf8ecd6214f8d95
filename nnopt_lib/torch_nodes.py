"""What data say of nodes, on a PyTorch twin of a description, so for models of both frameworks.

Importance by activations, by gradients and by trial; statistics of batch normalization; refitted layers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from nnopt_lib.checks import refuse
from nnopt_lib.coupling import FIXED, Coupling
from nnopt_lib.operations import spatial
from nnopt_lib.spec import INPUT, NetSpec, Node
from nnopt_lib.torch_backend import Network, build, get_weights, resolve_device

Weights = Mapping[str, np.ndarray]
_BATCH = 256
_KERNELS = ("dense", "conv1d", "conv2d")


def _twin(spec: NetSpec, weights: Weights, device: torch.device) -> Network:
    return build(spec, dict(weights)).to(device).eval().requires_grad_(False)


def _batches(device: torch.device, *arrays: np.ndarray) -> Iterator[tuple[torch.Tensor, ...]]:
    for begin in range(0, len(arrays[0]), _BATCH):
        yield tuple(torch.as_tensor(array[begin : begin + _BATCH]).to(device) for array in arrays)


# ---------------------------------------------------------------- importance


class _Gated:
    """A network in which every node's outputs are multiplied by the node's gate, 1 or what is tried."""

    def __init__(self, coupling: Coupling, weights: Weights, device: str) -> None:
        self.device, self.size = resolve_device(device), coupling.size
        self.twin = _twin(coupling.spec, weights, self.device)
        owners = {name.split("/")[0] for name in weights}
        self.numbers = {
            name: torch.as_tensor(coupling.nodes[name]).to(self.device)
            for name in owners
            if (coupling.nodes[name] != FIXED).any()
        }

    def __call__(self, x: torch.Tensor, gates: torch.Tensor) -> torch.Tensor:
        """Logits for gates (batch or 1, size): a closed node is 0 behind its layers and normalizations.

        A normalization sees its input without the gate, since it is its own scale and shift that become 0.
        """
        # `FIXED` is -1: channels that cannot leave read the last column.
        gates = torch.cat([gates, gates.new_ones(len(gates), 1)], 1)
        values = {INPUT: x}
        for node in self.twin.spec.nodes:
            inputs, module = [values[name] for name in node.inputs], getattr(self.twin, node.name)
            if node.name in self.numbers:
                own = gates[:, self.numbers[node.name]]
                own = own.view(*own.shape, *(1,) * (inputs[0].dim() - 2))
                if node.op == "batch_norm":
                    inputs = [inputs[0] / torch.where(own == 0, 1.0, own)]
                values[node.name] = own * module(*inputs)
            else:
                values[node.name] = module(*inputs)
        return values[self.twin.spec.output]


def taylor(coupling: Coupling, weights: Weights, x: np.ndarray, y: np.ndarray, device: str) -> np.ndarray:
    """Mean over examples of |d loss / d gate|: what closing a gate does, to first order."""
    network, total = _Gated(coupling, weights, device), np.zeros(coupling.size)
    for images, labels in _batches(network.device, x, y):
        gates = torch.ones(len(images), coupling.size, device=network.device, requires_grad=True)
        loss = F.cross_entropy(network(images, gates), labels, reduction="sum")
        (slopes,) = torch.autograd.grad(loss, gates)
        total += slopes.abs().sum(0).cpu().numpy()
    return total / len(x)


def oracle(coupling: Coupling, weights: Weights, x: np.ndarray, y: np.ndarray, device: str) -> np.ndarray:
    """By how much the mean cross-entropy rises when a node alone is removed: one pass over x for each."""
    network, found = _Gated(coupling, weights, device), np.zeros(coupling.size + 1)
    with torch.no_grad():
        for images, labels in _batches(network.device, x, y):
            for node in range(coupling.size + 1):  # the last one closes nothing
                gates = torch.ones(1, coupling.size, device=network.device)
                gates[:, node : node + 1] = 0
                found[node] += float(F.cross_entropy(network(images, gates), labels, reduction="sum"))
    return (found[:-1] - found[-1]) / len(x)


def active(coupling: Coupling, weights: Weights, x: np.ndarray, y: None, device: str) -> np.ndarray:
    """How often a node is not 0 behind its relu: 1 - APoZ (Hu et al. 2016), over examples and places."""
    spec, target = coupling.spec, resolve_device(device)
    twin, total, places = _twin(spec, weights, target), np.zeros(coupling.size), np.zeros(coupling.size)
    with torch.no_grad():
        for (images,) in _batches(target, x):
            values = {INPUT: images}
            for node in spec.nodes:
                value = getattr(twin, node.name)(*(values[name] for name in node.inputs))
                values[node.name] = value
                numbers = coupling.nodes[node.name]
                if node.options.get("kind") == "relu" and (numbers != FIXED).any():
                    shares = (value != 0).float().flatten(2 if value.dim() > 2 else 1)
                    shares = shares.mean(2) if value.dim() > 2 else shares
                    there = numbers != FIXED
                    total += np.bincount(numbers[there], shares.sum(0).cpu().numpy()[there], coupling.size)
                    places += len(images) * np.bincount(numbers[there], None, coupling.size)
    if not places.all():
        bare = next(name for name, group in coupling.groups.items() if not places[group].all())
        refuse("score 'apoz' needs a relu behind every node to prune", f"none after layer {bare!r}")
    return total / places


# ---------------------------------------------------------------- batch normalization


def recalibrated(
    spec: NetSpec, weights: Weights, x: np.ndarray, batch_size: int, device: str
) -> dict[str, np.ndarray]:
    """Running means and variances anew: the mean over batches of each batch's own, as in training."""
    target = resolve_device(device)
    twin = _twin(spec, weights, target)
    for module in twin.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.reset_running_stats()
            module.momentum = None  # a plain average over batches
    twin.train()
    with torch.no_grad():
        for part in np.array_split(x, -(-len(x) // batch_size)):  # even ones: a rest of one has no variance
            twin(torch.as_tensor(part).to(target))
    return {name: value for name, value in get_weights(twin).items() if name.endswith(("/mean", "/variance"))}


# ---------------------------------------------------------------- least squares


def refit(
    coupling: Coupling, kept: np.ndarray, dense: Weights, masked: Weights, x: np.ndarray, device: str
) -> tuple[dict[str, np.ndarray], dict[str, tuple[float, float]]]:
    """Kernels (and biases) of the layers that read removed nodes, refitted to the dense network's outputs.

    Layer by layer, in order, so that each sees what the ones before it have become. Returns all weights, and
    for each refitted layer its outputs' mean squared error before and after, relative to their variance.
    """
    spec, target = coupling.spec, resolve_device(device)
    twins = [_twin(spec, weights, target) for weights in (dense, masked)]
    values: list[dict[str, torch.Tensor]] = [{INPUT: torch.as_tensor(x).to(target)} for _ in twins]
    last_reader = {name: node.name for node in spec.nodes for name in node.inputs}
    errors = {}
    with torch.no_grad():
        for node in spec.nodes:
            modules = [getattr(twin, node.name) for twin in twins]
            wanted = modules[0](*(values[0][name] for name in node.inputs))
            there = coupling.channels(node.inputs[0], kept)
            if node.op in _KERNELS and node.options.get("groups", 1) == 1 and not there.all():
                rows = torch.as_tensor(coupling.channels(node.name, kept)).to(target)
                errors[node.name] = _refit_layer(
                    node, modules[1], values[1][node.inputs[0]], there, rows, wanted[:, rows]
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
    there: np.ndarray,
    rows: torch.Tensor,
    wanted: torch.Tensor,
) -> tuple[float, float]:
    """Refit one layer's `rows` in place to give `wanted` for `x`; the relative errors before and after."""
    layer: Any = module
    missing = wanted - layer(x)[:, rows]
    kernel, bias = _least_squares(node, x, missing, there)
    layer.weight[rows] += kernel.to(layer.weight)
    if layer.bias is not None:
        layer.bias[rows] += bias.to(layer.bias)
    spread = float(wanted.var()) or 1.0
    left = wanted - layer(x)[:, rows]
    return float(missing.square().mean()) / spread, float(left.square().mean()) / spread


def _least_squares(
    node: Node, x: torch.Tensor, wanted: torch.Tensor, there: np.ndarray
) -> tuple[torch.Tensor, torch.Tensor]:
    """The smallest change of kernel and bias that brings the layer's outputs nearest to `wanted` more.

    Through the normal equations in float64: (inputs x places)^2 numbers, however many examples there are.
    Directions in which the inputs hardly vary are left alone, so the error never rises.
    """
    square: Any = 0.0
    right: Any = 0.0
    for part, goal in zip(x.split(_BATCH), wanted.split(_BATCH), strict=True):
        columns = _columns(node, part).double()  # (places, inputs, *kernel flattened)
        columns[:, ~torch.as_tensor(there)] = 0
        columns = columns.flatten(1)
        if node.options["bias"]:
            columns = torch.cat([columns, columns.new_ones(len(columns), 1)], 1)
        goal = goal.flatten(2).transpose(1, 2).reshape(-1, goal.shape[1]) if goal.dim() > 2 else goal
        square, right = square + columns.T @ columns, right + columns.T @ goal.double()
    change = torch.linalg.pinv(square, rtol=1e-8, hermitian=True) @ right  # (inputs [+ 1], outputs)
    kernel = change[:-1] if node.options["bias"] else change
    size = spatial(node.options["kernel"], x.dim() - 2) if x.dim() > 2 else ()
    return kernel.T.reshape(wanted.shape[1], x.shape[1], *size), change[-1]


def _columns(node: Node, x: torch.Tensor) -> torch.Tensor:
    """What each output reads: (examples * places, inputs, kernel entries)."""
    rank = x.dim() - 2
    if rank == 0:
        return x.unsqueeze(2)
    options = {name: spatial(node.options[name], rank) for name in ("kernel", "stride", "padding")}
    if rank == 1:
        x, options = x.unsqueeze(2), {n: (int(n != "padding"), *v) for n, v in options.items()}
    kernel = options["kernel"]
    columns = F.unfold(x, kernel, stride=options["stride"], padding=options["padding"])
    return columns.transpose(1, 2).reshape(-1, x.shape[1], kernel[0] * kernel[1])
