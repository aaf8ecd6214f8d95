"""Smaller PyTorch modules: a copy of a module whose layers have the sizes of a smaller description."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from nnopt_lib.backends.torch.build import Network
from nnopt_lib.checks import refuse
from nnopt_lib.structure.spec import NetSpec, Node

_NAMES = {
    "kernel": "weight",
    "bias": "bias",
    "scale": "weight",
    "shift": "bias",
    "mean": "running_mean",
    "variance": "running_var",
}


def cut(
    model: nn.Module,
    paths: Mapping[str, str],
    after: NetSpec,
    weights: Mapping[str, np.ndarray],
    example_input: Any,
) -> nn.Module:
    """A copy of `model` with the sizes of `after` and these weights; its layers keep their names and types.

    Parameters are ordinary ones, of the type, device and `requires_grad` that they had. A module whose own
    code names a size cannot run with another one: it is refused after a trial on `example_input`.
    """
    by_path = {paths[node.name]: node for node in after.nodes if node.name in paths}
    modules = dict(model.named_modules())
    # Copied without the arrays that are replaced: the memo says that they are there already.
    memo = {id(tensor): tensor for path in by_path for tensor in _tensors_of(modules[path])}
    small = _copied(model, memo)
    for path, node in by_path.items():
        _resize(memo[id(modules[path])], node, after, weights)
    if isinstance(small, Network):
        small.spec = after
    elif example_input is not None:
        _try(small, model, example_input)
    return small


def _tensors_of(module: nn.Module) -> list[torch.Tensor]:
    tensors = [*module._parameters.values(), *module._buffers.values()]
    return [tensor for tensor in tensors if tensor is not None and tensor.is_floating_point()]


_PLAIN = {int, float, bool, str, type(None)}
_CONTAINERS = {dict, OrderedDict, set}
_COPYING = ("__reduce_ex__", "__reduce__", "__getstate__")


def _copied(module: nn.Module, memo: dict[int, Any]) -> Any:
    """What `copy.deepcopy` gives, for modules that leave their copying to it; most attributes are plain."""
    # Not deepcopy itself with this memo: for a ResNet-56 (199 modules) it takes nearly four times as long.
    kind: Any = type(module)
    if hasattr(kind, "__deepcopy__") or any(getattr(kind, n) is not getattr(nn.Module, n) for n in _COPYING):
        return copy.deepcopy(module, memo)
    if id(module) in memo:
        return memo[id(module)]
    new = memo[id(module)] = kind.__new__(kind)
    for name, value in module.__dict__.items():
        if name == "_compiled_call_impl":  # it would call the old one
            continue
        kept = type(value) in _PLAIN
        if kept or (type(value) is tuple and all(type(one) in _PLAIN for one in value)):
            copied = value
        elif not value and type(value) in _CONTAINERS:
            copied = type(value)()
        elif name == "_modules":
            copied = {path: None if m is None else _copied(m, memo) for path, m in value.items()}
        elif name in ("_parameters", "_buffers"):
            copied = {key: None if t is None else _copied_tensor(t, memo) for key, t in value.items()}
        else:
            copied = copy.deepcopy(value, memo)
        new.__dict__[name] = copied
    return new


def _copied_tensor(tensor: torch.Tensor, memo: dict[int, Any]) -> torch.Tensor:
    if id(tensor) in memo:
        return memo[id(tensor)]
    if type(tensor) is torch.Tensor and not tensor.requires_grad and tensor.dim() == 0:  # how many batches
        return memo.setdefault(id(tensor), tensor.clone())
    return copy.deepcopy(tensor, memo)


def _resize(module: Any, node: Node, after: NetSpec, weights: Mapping[str, np.ndarray]) -> None:
    """Give one layer new tensors and say its new sizes."""
    for part, attribute in _NAMES.items():
        value = weights.get(f"{node.name}/{part}")
        if value is not None:
            _replace(module, attribute, value)
    read, made = after.shapes[node.inputs[0]][0], after.shapes[node.name][0]
    if node.op == "batch_norm":
        module.num_features = made
    elif isinstance(module, nn.Linear):
        module.in_features, module.out_features = read, made
    else:  # a convolution; one of 1x1 on a pooled value may stand in the description as a dense layer
        module.in_channels, module.out_channels = read, made
        module.groups = node.groups


def _replace(module: Any, name: str, value: np.ndarray) -> None:
    """A new parameter or buffer in the place of an old one, or a bias where there was none."""
    old = module._buffers[name] if name in module._buffers else module._parameters[name]
    like = module.weight if old is None else old
    value = value.reshape(*value.shape, *(1,) * (like.dim() - value.ndim)) if name == "weight" else value
    if not (value.flags.c_contiguous and value.flags.writeable):
        value = np.array(value, order="C")
    new = torch.from_numpy(value).to(like.device, like.dtype)  # nothing else keeps the array
    if name in module._buffers:
        module._buffers[name] = new
    else:
        module._parameters[name] = nn.Parameter(new, requires_grad=like.requires_grad)


def _try(small: nn.Module, model: nn.Module, example_input: Any) -> None:
    first = next(model.parameters())
    x = torch.as_tensor(example_input)[:2].to(first.device, first.dtype)
    training = [module for module in small.modules() if module.training]
    try:
        if training:
            small.eval()
        with torch.no_grad():
            small(x)
    except (RuntimeError, ValueError, TypeError) as error:
        rule = f"the code of {type(model).__name__} must run with smaller layers"
        refuse(rule, " ".join(str(error).split())[:120], "Write no sizes into forward: flatten(1) for view.")
    finally:
        for module in training:
            module.training = True
