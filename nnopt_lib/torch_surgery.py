"""Smaller PyTorch modules: a copy of a module whose layers have the sizes of a smaller description."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from nnopt_lib.checks import refuse
from nnopt_lib.spec import NetSpec, Node
from nnopt_lib.torch_backend import Network

_NAMES = {
    "kernel": "weight",
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
    # Copied without the arrays that are replaced: the memo says that they are there already.
    replaced = [t for path in by_path for t in _own(model.get_submodule(path)).values()]
    small = copy.deepcopy(model, {id(tensor): tensor for tensor in replaced})
    for path, node in by_path.items():
        _resize(small.get_submodule(path), node, after, weights)
    if isinstance(small, Network):
        small.spec = after
    elif example_input is not None:
        _try(small, model, example_input)
    return small


def _own(module: nn.Module) -> dict[str, torch.Tensor]:
    found = {**dict(module.named_parameters(recurse=False)), **dict(module.named_buffers(recurse=False))}
    return {name: tensor for name, tensor in found.items() if tensor.is_floating_point()}


def _resize(module: Any, node: Node, after: NetSpec, weights: Mapping[str, np.ndarray]) -> None:
    """Give one layer new tensors and say its new sizes."""
    for part in ("kernel", "bias", "scale", "shift", "mean", "variance"):
        if f"{node.name}/{part}" in weights:
            _replace(module, _NAMES.get(part, part), weights[f"{node.name}/{part}"])
    read, made = after.shapes[node.inputs[0]][0], after.shapes[node.name][0]
    if node.op == "batch_norm":
        module.num_features = made
    elif isinstance(module, nn.Linear):
        module.in_features, module.out_features = read, made
    else:  # a convolution; one of 1x1 on a pooled value may stand in the description as a dense layer
        module.in_channels, module.out_channels = read, made
        module.groups = node.options.get("groups", 1)


def _replace(module: Any, name: str, value: np.ndarray) -> None:
    """A new parameter or buffer in the place of an old one, or a bias where there was none."""
    old = getattr(module, name)
    like = module.weight if old is None else old
    value = value.reshape(*value.shape, *(1,) * (like.dim() - value.ndim)) if name == "weight" else value
    new = torch.tensor(value, dtype=like.dtype, device=like.device)
    if name in module._buffers:
        module._buffers[name] = new
    else:
        module._parameters[name] = nn.Parameter(new, requires_grad=like.requires_grad)


def _try(small: nn.Module, model: nn.Module, example_input: Any) -> None:
    first = next(model.parameters())
    x = torch.as_tensor(example_input).to(first.device)
    modes = {module: module.training for module in small.modules()}
    try:
        with torch.no_grad():
            small.eval()(x)
    except (RuntimeError, ValueError, TypeError) as error:
        rule = f"the code of {type(model).__name__} must run with smaller layers"
        refuse(rule, " ".join(str(error).split())[:120], "Write no sizes into forward: flatten(1) for view.")
    finally:
        for module, mode in modes.items():
            module.training = mode
