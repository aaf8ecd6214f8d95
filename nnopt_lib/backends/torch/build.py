"""Modules from descriptions, weights in canonical layout.

PyTorch's own layouts are the canonical ones, so weights are renamed here, never transposed.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812  (PyTorch's own custom)
from torch import nn
from torch.nn.parameter import is_lazy

from nnopt_lib.checks import check_choice, refuse
from nnopt_lib.frameworks import DEVICES
from nnopt_lib.structure.operations import sinusoids, spatial
from nnopt_lib.structure.spec import INPUT, NetSpec, Node


def resolve_device(device: str = "auto") -> torch.device:
    """``"auto"`` is CUDA, else MPS, else the CPU; a device that is named but missing is refused."""
    check_choice("device", device, DEVICES)
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if device == "auto":
        return torch.device(next(name for name, usable in available.items() if usable))
    if not available[device]:
        refuse(f"device {device!r} was not found on this machine", None, "Pass device='auto' or 'cpu'.")
    return torch.device(device)


class _Function(nn.Module):
    """An operation without parameters, as a module, so that it shows in ``print(model)`` under its name."""

    def __init__(self, op: str, function: Callable[..., torch.Tensor]) -> None:
        super().__init__()
        self.op, self.function = op, function

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        return self.function(*inputs)

    def extra_repr(self) -> str:
        return self.op


class Network(nn.Module):
    """What `build` makes: a walk over the description; submodules carry the names of its nodes.

    An ordinary module: `deepcopy`, `state_dict`, `torch.compile`, `torch.export` work; `spec` is kept.
    """

    def __init__(self, spec: NetSpec) -> None:
        super().__init__()
        self.spec = spec
        for node in spec.nodes:
            if hasattr(self, node.name):
                refuse(f"node name {node.name!r} is taken by torch.nn.Module", None, "Rename the node.")
            self.add_module(node.name, _module(node, spec.shapes[node.inputs[0]]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits for `x` of shape (batch, *input_shape)."""
        values = {INPUT: x}
        for node in self.spec.nodes:
            values[node.name] = getattr(self, node.name)(*(values[name] for name in node.inputs))
        return values[self.spec.output]


def _module(node: Node, source: tuple[int, ...]) -> nn.Module:
    """The module of one node; `source` is the shape that it reads, without the batch."""
    o, rank = node.options, len(source) - 1
    match node.op:
        case "dense":
            return nn.Linear(source[0], o["units"], bias=o["bias"])
        case "conv1d" | "conv2d":
            windows: list[Any] = [spatial(o[name], rank) for name in ("kernel", "stride", "padding")]
            kind: Any = nn.Conv1d if rank == 1 else nn.Conv2d
            return kind(source[0], o["filters"], *windows, groups=o["groups"], bias=o["bias"])
        case "batch_norm":
            kind_of_norm = nn.BatchNorm2d if rank == 2 else nn.BatchNorm1d
            return kind_of_norm(source[0], eps=o["eps"], momentum=o["momentum"])
    return _Function(node.op, plain_function(node, rank))


_ACTIVATIONS: dict[str, Callable[..., torch.Tensor]] = {
    "relu": F.relu,
    "gelu": F.gelu,
    "silu": F.silu,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
}


def plain_function(node: Node, rank: int) -> Callable[..., torch.Tensor]:
    """An operation without parameters on (batch, channels, *spatial); `rank` counts spatial dimensions."""
    o = node.options
    match node.op:
        case "activation":
            return _ACTIVATIONS[o["kind"]]
        case "max_pool" | "avg_pool":
            size = spatial(o["size"], rank)
            stride = size if o["stride"] is None else spatial(o["stride"], rank)
            pool = functools.partial(_max_pool if node.op == "max_pool" else _average_pool, size=size)
            return functools.partial(pool, stride=stride, padding=spatial(o["padding"], rank))
        case "global_pool":
            return _global_average if o["kind"] == "avg" else _global_maximum
        case "flatten":
            return _flatten
        case "attention":
            return functools.partial(_attention, heads=o["heads"])
    return _OTHERS[node.op]


# Functions of the module and partial ones, never nested ones or lambdas: those could not be pickled, and
# whole models are, by torch.save and by every pool of processes.


def _max_pool(x: torch.Tensor, *, size: Any, stride: Any, padding: Any) -> torch.Tensor:
    return (F.max_pool1d if len(size) == 1 else F.max_pool2d)(x, size, stride, padding)


def _average_pool(x: torch.Tensor, *, size: Any, stride: Any, padding: Any) -> torch.Tensor:
    return (F.avg_pool1d if len(size) == 1 else F.avg_pool2d)(x, size, stride, padding)


def _global_average(x: torch.Tensor) -> torch.Tensor:
    return x.flatten(2).mean(-1)


def _global_maximum(x: torch.Tensor) -> torch.Tensor:
    return x.flatten(2).amax(-1)


def _flatten(x: torch.Tensor) -> torch.Tensor:
    return x.flatten(1)


def _concatenate(*inputs: torch.Tensor) -> torch.Tensor:
    return torch.cat(inputs, 1)


def _add(*inputs: torch.Tensor) -> torch.Tensor:
    return sum(inputs[1:], inputs[0])


_sinusoids = functools.cache(sinusoids)  # small, and asked for in every forward pass


def _add_position(x: torch.Tensor) -> torch.Tensor:
    return x + torch.from_numpy(_sinusoids(tuple(x.shape[1:]))).to(x)


def _attention(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *, heads: int) -> torch.Tensor:
    """softmax(query key / sqrt(size of a head)) value, over all positions; (batch, channels, *spatial)."""
    # (batch, heads * size, *spatial) -> (batch, heads, positions, size)
    split = [x.flatten(2).unflatten(1, (heads, -1)).transpose(2, 3) for x in (query, key, value)]
    out = F.scaled_dot_product_attention(*split)
    return out.transpose(2, 3).reshape(len(query), -1, *query.shape[2:])


def _multiply(*inputs: torch.Tensor) -> torch.Tensor:
    """The product of all inputs; gates of shape (batch, channels) are spread over space."""
    dims = max(x.dim() for x in inputs)
    result = inputs[0].reshape(inputs[0].shape + (1,) * (dims - inputs[0].dim()))
    for x in inputs[1:]:
        result = result * x.reshape(x.shape + (1,) * (dims - x.dim()))
    return result


_OTHERS: dict[str, Callable[..., torch.Tensor]] = {
    "concat": _concatenate,
    "add": _add,
    "multiply": _multiply,
    "position": _add_position,
}


def build(spec: NetSpec, weights: dict[str, np.ndarray]) -> Network:
    """A `Network` of `spec` on the CPU with these weights (canonical names and layout)."""
    with torch.device("meta"):  # nothing is drawn that would be thrown away
        model = Network(spec)
    model.to_empty(device="cpu")
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.num_batches_tracked is not None:
            module.num_batches_tracked.zero_()
    set_weights(model, weights)
    return model


_PARTS: list[tuple[tuple[type[nn.Module], ...], dict[str, str]]] = [
    ((nn.Linear, nn.modules.conv._ConvNd, nn.Embedding), {"weight": "kernel"}),
    (
        (nn.modules.batchnorm._BatchNorm, nn.LayerNorm, nn.GroupNorm),
        {"weight": "scale", "bias": "shift", "running_mean": "mean", "running_var": "variance"},
    ),
]


_WRAPPERS = (nn.DataParallel, nn.parallel.DistributedDataParallel, torch.optim.swa_utils.AveragedModel)


def _unwrapped(model: nn.Module) -> nn.Module:
    """The model inside wrappers of torch, whose names then are those of the model: its masks fit both."""
    while isinstance(model, _WRAPPERS) or "_orig_mod" in model._modules:  # the latter: torch.compile
        model = model._modules["module" if isinstance(model, _WRAPPERS) else "_orig_mod"]  # type: ignore[assignment]
    return model


def tree(model: nn.Module, *, shared: bool = False) -> list[tuple[str, nn.Module]]:
    """What ``named_modules`` gives, in its order, in a fifth of the time; shared: under all its paths."""
    found: list[tuple[str, nn.Module]] = []
    left, seen = [("", model)], set()
    while left:
        path, module = left.pop()
        if not shared:
            if module in seen:
                continue
            seen.add(module)
        found.append((path, module))
        if module._modules:
            prefix = f"{path}." if path else ""
            inside = [(prefix + name, one) for name, one in module._modules.items() if one is not None]
            left += reversed(inside)
    return found


_parts_by_kind: dict[Any, dict[str, str]] = {}  # looked up once for each class, not for each layer


def _parts_of(kind: Any) -> dict[str, str]:
    if kind not in _parts_by_kind:
        _parts_by_kind[kind] = next((names for kinds, names in _PARTS if issubclass(kind, kinds)), {})
    return _parts_by_kind[kind]


def canonical_tensors(model: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Every floating parameter and buffer under its canonical name; a shared parameter comes once."""
    seen: set[int] = set()
    for path, module in tree(_unwrapped(model)):
        if not (module._parameters or module._buffers):
            continue
        path = path.replace("_orig_mod.", "").removesuffix("_orig_mod")  # parts compiled by themselves
        parts = _parts_of(type(module))
        for name, tensor in [*module._parameters.items(), *module._buffers.items()]:
            if tensor is None:
                continue
            if is_lazy(tensor):
                rule = f"layer {path or type(module).__name__!r} must know its sizes to be read"
                refuse(rule, "a lazy layer that was never called", "Run the model once on a batch first.")
            if id(tensor) not in seen and tensor.is_floating_point():
                seen.add(id(tensor))
                yield f"{path}/{parts.get(name, name)}".lstrip("/"), tensor


def get_weights(model: nn.Module) -> dict[str, np.ndarray]:
    """Copies of all weights and running statistics by canonical name; half and bfloat16 become float32."""
    return {name: as_array(tensor).copy() for name, tensor in canonical_tensors(model)}


def as_array(tensor: torch.Tensor) -> np.ndarray:
    """The tensor's own numbers where NumPy can see them; a copy from other devices and of smaller types."""
    tensor = tensor.detach().cpu()
    return (tensor.float() if tensor.dtype.itemsize < 4 else tensor).numpy()


def set_weights(model: nn.Module, weights: dict[str, np.ndarray]) -> None:
    """Write weights into the model's own tensors (kept: device, type, identity)."""
    with torch.no_grad():
        for name, tensor in canonical_tensors(model):
            tensor.copy_(torch.as_tensor(weights[name]))
