"""What data say of nodes, on a PyTorch twin of a description, so for models of both frameworks."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812

from nnopt_lib.backends.torch.build import Network, build, resolve_device
from nnopt_lib.checks import refuse
from nnopt_lib.structure.coupling import FIXED, Coupling
from nnopt_lib.structure.spec import INPUT, NetSpec, split_name
from nnopt_lib.structure.weights import Weights

BATCH = 256


def twin_of(spec: NetSpec, weights: Weights, device: torch.device) -> Network:
    """The network with these weights, for inference."""
    return build(spec, dict(weights)).to(device).eval().requires_grad_(False)


def batches_of(device: torch.device, *arrays: np.ndarray) -> Iterator[tuple[torch.Tensor, ...]]:
    """Parts of all arrays, on the device."""
    for begin in range(0, len(arrays[0]), BATCH):
        yield tuple(torch.as_tensor(array[begin : begin + BATCH]).to(device) for array in arrays)


class _Gated:
    """A network in which every node's outputs are multiplied by the node's gate, 1 or what is tried."""

    def __init__(self, coupling: Coupling, weights: Weights, device: str) -> None:
        self.device, self.size = resolve_device(device), coupling.size
        self.twin = twin_of(coupling.spec, weights, self.device)
        layers = {split_name(name)[0] for name in weights}
        self.numbers = {
            name: torch.as_tensor(coupling.nodes[name]).to(self.device)
            for name in layers
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
                gate = gates[:, self.numbers[node.name]]
                gate = gate.view(*gate.shape, *(1,) * (inputs[0].dim() - 2))
                if node.op == "batch_norm":
                    inputs = [inputs[0] / torch.where(gate == 0, 1.0, gate)]
                values[node.name] = gate * module(*inputs)
            else:
                values[node.name] = module(*inputs)
        return values[self.twin.spec.output]


def taylor(coupling: Coupling, weights: Weights, x: np.ndarray, y: np.ndarray, device: str) -> np.ndarray:
    """Mean over examples of |d loss / d gate|: what closing a gate does, to first order.

    The size is taken before the mean: slopes of either sign would cancel, and near a minimum they do.
    """
    network, total = _Gated(coupling, weights, device), np.zeros(coupling.size)
    for images, labels in batches_of(network.device, x, y):
        gates = torch.ones(len(images), coupling.size, device=network.device, requires_grad=True)
        loss = F.cross_entropy(network(images, gates), labels, reduction="sum")
        (slopes,) = torch.autograd.grad(loss, gates)
        total += slopes.abs().sum(0).cpu().numpy()
    return total / len(x)


def oracle(coupling: Coupling, weights: Weights, x: np.ndarray, y: np.ndarray, device: str) -> np.ndarray:
    """By how much the mean cross-entropy rises when a node alone is removed: one pass over x for each."""
    network, losses = _Gated(coupling, weights, device), np.zeros(coupling.size + 1)
    with torch.no_grad():
        for images, labels in batches_of(network.device, x, y):
            for node in range(coupling.size + 1):  # the last one closes nothing
                gates = torch.ones(1, coupling.size, device=network.device)
                gates[:, node : node + 1] = 0
                losses[node] += float(F.cross_entropy(network(images, gates), labels, reduction="sum"))
    return (losses[:-1] - losses[-1]) / len(x)


def active(coupling: Coupling, weights: Weights, x: np.ndarray, y: None, device: str) -> np.ndarray:
    """How often a node is not 0 behind its relu: 1 - APoZ (Hu et al. 2016), over examples and positions."""
    spec, target = coupling.spec, resolve_device(device)
    twin, total, count = twin_of(spec, weights, target), np.zeros(coupling.size), np.zeros(coupling.size)
    with torch.no_grad():
        for (images,) in batches_of(target, x):
            values = {INPUT: images}
            for node in spec.nodes:
                value = getattr(twin, node.name)(*(values[name] for name in node.inputs))
                values[node.name] = value
                numbers = coupling.nodes[node.name]
                if node.options.get("kind") == "relu" and (numbers != FIXED).any():
                    shares = (value != 0).float().flatten(2 if value.dim() > 2 else 1)
                    shares = shares.mean(2) if value.dim() > 2 else shares
                    removable = numbers != FIXED
                    sums = shares.sum(0).cpu().numpy()[removable]
                    total += np.bincount(numbers[removable], sums, coupling.size)
                    count += len(images) * np.bincount(numbers[removable], None, coupling.size)
    if not count.all():
        bare = next(name for name, group in coupling.groups.items() if not count[group].all())
        refuse("score 'apoz' needs a relu behind every node to prune", f"none after layer {bare!r}")
    return total / count
