"""Smaller PyTorch modules: a copy of a module whose tensors lack the entries of removed nodes."""

from __future__ import annotations

import contextlib
import copy
import io
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from nnopt_lib.backends.torch.attention import FewerHeads
from nnopt_lib.backends.torch.build import _unwrapped, tree
from nnopt_lib.backends.torch.reading import Details, unchanged
from nnopt_lib.backends.torch.rewriting import counted, rewritten
from nnopt_lib.backends.torch.tracing import tensors_in
from nnopt_lib.checks import refuse
from nnopt_lib.structure.coupling import FIXED
from nnopt_lib.structure.reading import Channels

# 1e-4 of the largest: float32 sums in another order differ in rounding, a wrong cut by far more.
_TOLERANCE = 1e-4


def cut(
    model: nn.Module,
    channels: Channels,
    kept: np.ndarray,
    details: Details,
    added: Mapping[str, np.ndarray] | None = None,
) -> nn.Module:
    """A copy of `model` without the nodes that are not `kept`; its layers keep their names and types.

    Parameters are ordinary ones, of the type, device and `requires_grad` that they had. added: what to add to
    the bias beside a kernel, by the kernel's name, already without removed outputs.
    """
    model = _unwrapped(model)
    indices: dict[str, dict[int, torch.Tensor]] = {}
    for axis in channels.axes:
        stays = np.where(axis.nodes == FIXED, True, kept[axis.nodes])
        if not stays.all():
            indices.setdefault(axis.tensor, {})[axis.axis] = torch.from_numpy(np.flatnonzero(stays))
    modules = dict(tree(model, shared=True))
    memo: dict[int, Any] = {}
    with torch.no_grad():
        for name, by_axis in indices.items():
            path, attribute = details.owners[name][0]
            old = getattr(modules[path], attribute)
            new = old.detach()
            for dim, index in by_axis.items():
                new = new.index_select(dim, index.to(new.device))
            # The copy finds it in the place of the old one; tied tensors stay tied.
            is_parameter = isinstance(old, nn.Parameter)
            memo[id(old)] = nn.Parameter(new, old.requires_grad) if is_parameter else new
    try:
        small = _copied(model, memo)
    except Exception as error:
        refuse(f"{type(model).__name__} must be copied by copy.deepcopy to be cut", _in_words(error))
    copies = dict(tree(small, shared=True))
    _set_sizes(copies, indices, channels, kept, details)
    for name, amount in (added or {}).items():
        path, _ = details.owners[name][0]
        _add_to_bias(copies[path], amount)
    _rewrite(copies, channels, kept, details)
    for path, labels in details.attentions.items():
        heads = channels.nodes.get(path)
        if heads is not None and not np.where(heads == FIXED, True, kept[heads]).all():
            parent, _, child = path.rpartition(".")
            count = int(np.where(heads == FIXED, True, kept[heads]).sum())
            attention: Any = copies[path]
            setattr(copies[parent], child, FewerHeads(attention, count, len(labels)))
    return small


def _rewrite(copies: Mapping[str, nn.Module], channels: Channels, kept: np.ndarray, details: Details) -> None:
    """Give the code of some modules the sizes that are left."""
    stays = np.append(np.where(channels.number[:-1] == FIXED, True, kept[channels.number[:-1]]), True)
    for path, calls in details.calls.items():
        if path and details.kinds[path] in details.rewrite:
            module = rewritten(
                copies[path],
                calls,
                details.given.get(path, frozenset()),
                lambda labels, axis: counted(labels, axis, stays),
            )
            if module is not None:
                parent, _, child = path.rpartition(".")
                copies[parent]._modules[child] = module


def another_way(details: Details, where: str, *, on: bool = True) -> bool:
    """Whether modules at such a place can be cut otherwise, now that their attributes did not do."""
    kind = where.rpartition(" in ")[2]
    (details.rewrite.add if on else details.rewrite.discard)(kind)
    return True


def _add_to_bias(layer: Any, amount: np.ndarray) -> None:
    like = layer.weight
    value = torch.as_tensor(amount).to(like.device, torch.float64)
    if layer.bias is not None:
        value = value + layer.bias.detach()
    layer.bias = nn.Parameter(value.to(like.dtype), requires_grad=like.requires_grad)


def _set_sizes(
    copies: Mapping[str, nn.Module],
    indices: Mapping[str, Any],
    channels: Channels,
    kept: np.ndarray,
    details: Details,
) -> None:
    """The numbers of channels that modules name in their attributes."""
    for name in indices:
        groups = channels.groups_of.get(name)
        for path, _ in details.owners[name]:
            _set_layer_sizes(copies[path], groups, kept)
    for path, labels in details.norms.items():
        nodes = channels.number[labels]
        norm: Any = copies[path]
        norm.num_groups = _left(nodes, kept)
        norm.num_channels = norm.num_channels // len(labels) * norm.num_groups
    for path, labels in details.features.items():
        copies[path].num_features = _left(channels.number[labels], kept)  # type: ignore[assignment]
    for path, labels in details.sizes:
        nodes = channels.number[labels]
        size, left = len(labels), int(np.where(nodes == FIXED, True, kept[nodes]).any(1).sum())
        module = copies[path]
        kind = details.kinds.get(path, "")
        if left == size or type(module).__module__.startswith("torch.nn") or kind in details.rewrite:
            continue
        named = [key for key, value in vars(module).items() if type(value) is int and value in (size, left)]
        # A number of heads is rarely the only attribute of its value; names tell it, and the size of a head.
        of_heads = [key for key in named if "head" in key]
        counts = [key for key in of_heads if "dim" not in key and "size" not in key]
        for key in counts or of_heads or named:
            setattr(module, key, left)


def _left(nodes: np.ndarray, kept: np.ndarray) -> int:
    return int(np.where(nodes == FIXED, True, kept[nodes]).sum())


def _set_layer_sizes(module: Any, groups: np.ndarray | None, kept: np.ndarray) -> None:
    """What torch's own layers say of their sizes, as their new tensors have them."""
    weight: Any = module._parameters.get("weight")
    if isinstance(module, nn.Linear):
        module.out_features, module.in_features = weight.shape
    elif isinstance(module, nn.modules.conv._ConvNd):
        if groups is not None:
            module.groups = _left(groups, kept)
        first, second = weight.shape[:2]
        if module.transposed:
            module.in_channels, module.out_channels = first, second * module.groups
        else:
            module.in_channels, module.out_channels = second * module.groups, first
    elif isinstance(module, nn.modules.batchnorm._NormBase):
        tensors = (weight, module._buffers.get("running_mean"))
        module.num_features = next(len(tensor) for tensor in tensors if tensor is not None)
    elif isinstance(module, (nn.Embedding, nn.EmbeddingBag)):
        module.embedding_dim = weight.shape[1]
    elif isinstance(module, nn.PReLU):
        module.num_parameters = len(weight)
    elif isinstance(module, nn.RNNBase):
        module._flat_weights = [getattr(module, name) for name in module._flat_weights_names]
        module.input_size = module._flat_weights[0].shape[1]  # type: ignore[union-attr]


def difference(
    model: nn.Module, small: nn.Module, channels: Channels, kept: np.ndarray, details: Details
) -> str | None:
    """What is wrong with a smaller model beside the masked one; None if it gives the same outputs."""
    model = _unwrapped(model)
    with unchanged(model, small), torch.no_grad():
        _mask(model, channels, kept, details)  # its own numbers are put back at the end
        for args, kwargs in (details.twice(), (details.args, details.kwargs)):
            expected = _outputs(model, args, kwargs)
            if not isinstance(expected, str):  # it may read a single example only
                break
        if isinstance(expected, str):
            return expected
        watch = _Watch(model)
        with watch:
            given = _outputs(small, args, kwargs)
        if watch.met:
            return "its code holds layers of the model itself (in a lambda, a nested function or a hook)"
        if isinstance(given, str):
            return given
        if [one.shape for one in expected] != [one.shape for one in given]:
            return "its outputs have another shape"
        for right, output in zip(expected, given, strict=True):
            finite = right[torch.isfinite(right)].abs()
            # Beside the largest: 1e-8, for outputs that are all 0.
            atol = _TOLERANCE * float(finite.max() if finite.numel() else 0) + 1e-8
            if not torch.allclose(output, right, rtol=0, atol=atol, equal_nan=True):
                return "its outputs are others than those of the masked model"
        return _trouble_in_training(small, details) if details.trains_more else None


def _outputs(network: nn.Module, args: list[Any], kwargs: dict[str, Any]) -> list[torch.Tensor] | str:
    """All tensors of what a network gives in evaluation mode; or, in words, what it raised."""
    network.eval()
    torch.manual_seed(0)
    args, kwargs = copy.deepcopy((args, kwargs))
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # a traced module prints where it failed
            output = network(*args, **kwargs)
    except Exception as error:
        return _in_words(error)
    return [tensor.detach().double() for tensor in tensors_in(output)]


def _trouble_in_training(small: nn.Module, details: Details) -> str | None:
    try:
        small.train()
        args, kwargs = details.twice()
        small(*args, **kwargs)
    except Exception as error:
        return f"in training mode {_in_words(error)}"
    return None


def _in_words(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:120]


class _Watch(TorchFunctionMode):
    """Notices functions that get tensors of a model that should not run."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        owned = (*model.parameters(), *model.buffers())
        self.foreign, self.met = {id(tensor) for tensor in owned}, False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if not self.met:
            self.met = any(id(tensor) in self.foreign for tensor in tensors_in([args, kwargs or {}]))
        return func(*args, **(kwargs or {}))


def _mask(model: nn.Module, channels: Channels, kept: np.ndarray, details: Details) -> None:
    """Set to 0 what masks of these nodes remove, in the model's own tensors."""
    modules = dict(tree(model, shared=True))
    for axis in channels.axes:
        stays = np.where(axis.nodes == FIXED, True, kept[axis.nodes])
        if axis.part and not stays.all():
            path, attribute = details.owners[axis.tensor][0]
            tensor = getattr(modules[path], attribute)
            shape = [-1 if i == axis.axis else 1 for i in range(tensor.dim())]
            tensor.mul_(torch.from_numpy(stays).to(tensor.device).reshape(shape))


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
        elif type(value) in _CONTAINERS and not value:
            copied = type(value)()
        elif name == "_modules":
            copied = {path: None if m is None else _copied(m, memo) for path, m in value.items()}
        elif name in ("_parameters", "_buffers"):
            copied = {key: None if t is None else _copied_tensor(t, memo) for key, t in value.items()}
        else:
            try:
                copied = copy.deepcopy(value, memo)
            except TypeError:  # a lock, an open file: both models share it
                copied = value
        new.__dict__[name] = copied
    return new


def _copied_tensor(tensor: torch.Tensor, memo: dict[int, Any]) -> torch.Tensor:
    if id(tensor) in memo:
        return memo[id(tensor)]
    if type(tensor) is torch.Tensor and not tensor.requires_grad and tensor.dim() == 0:  # how many batches
        return memo.setdefault(id(tensor), tensor.clone())
    return copy.deepcopy(tensor, memo)
