"""Reading any PyTorch module that runs: which channels can leave, from one run, function by function.

Not layer by layer: a layer of torch.nn, a subclass of one and a call of torch.nn.functional run the same
functions, so rules for functions read them all.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import nn

from nnopt_lib.backends.torch.build import Network, _unwrapped, canonical_tensors, tree
from nnopt_lib.backends.torch.rules import RULES, Reader, is_zero, taught
from nnopt_lib.backends.torch.tracing import OUTSIDE, PART, Call, calls_in, record
from nnopt_lib.checks import NnoptError, refuse
from nnopt_lib.structure.labels import NONE, Value, unlabeled
from nnopt_lib.structure.reading import Reading


@dataclass
class Details:
    """What is needed to cut a module that was read, and to run it beside the smaller one.

    args, kwargs: the example. owners: by canonical name the modules and attributes that hold the tensor.
    norms: labels of groups, by path of a GroupNorm; attentions: of heads, by path of a MultiheadAttention.
    sizes: of axes with channels in the code of a module, by its path: the labels at each index.
    """

    args: list[Any]
    kwargs: dict[str, Any]
    owners: dict[str, list[tuple[str, str]]]
    norms: dict[str, np.ndarray] = field(default_factory=dict)
    attentions: dict[str, np.ndarray] = field(default_factory=dict)
    sizes: list[tuple[str, np.ndarray]] = field(default_factory=list)
    trains_more: bool = False  # whether a part of the module runs in training only

    def twice(self) -> tuple[list[Any], dict[str, Any]]:
        """The example and one beside it: a batch normalization in training needs more than one number."""
        return _twice(self.args), _twice(self.kwargs)


def _twice(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        other = value + 0.1 * torch.randn_like(value) if value.is_floating_point() else value
        return torch.cat([value, other]) if value.dim() else value
    if isinstance(value, (tuple, list)):
        return type(value)(_twice(one) for one in value)
    return {key: _twice(one) for key, one in value.items()} if isinstance(value, dict) else value


def read(model: nn.Module, example_input: Any) -> Reading:
    """The channels of `model`; its weights, buffers, modes and hooks stay."""
    kind = type(model).__name__
    if any("_orig_mod" in module._modules for _, module in tree(model)):
        remedy = "Read the module that was compiled; compile what remove_nodes gives."
        refuse("a model to read must not be compiled", kind, remedy)
    model = _unwrapped(model)
    if any(parameter.is_meta for parameter in model.parameters()):
        refuse(
            f"{kind} must have weights to be read", "parameters on the meta device", "Call to_empty first."
        )
    names, owners = _names(model)
    args, kwargs = example_of(model, example_input)
    details = Details(args, kwargs, owners)
    with unchanged(model):
        model.eval()
        try:
            try:
                calls, end, _ = record(model, args, kwargs, taught, every=True)
            except NnoptError:
                raise
            except Exception:  # some models cannot read a single example
                details.args, details.kwargs = example_of(model, example_input, count=None)
                calls, end, _ = record(model, details.args, details.kwargs, taught, every=True)
        except NnoptError:
            raise
        except Exception as error:
            rule = f"{kind} must run on the example_input"
            reason = " ".join(f"{type(error).__name__}: {error}".split())[:160]
            remedy = "Pass a batch that it reads: a tensor, a tuple of them, or a dict of keyword arguments."
            refuse(rule, reason, remedy)
        reader = Reader(model, names, details)
        _follow(reader, calls, end)
        if _unreached(model, reader):
            details.trains_more = _follow_training(reader, model, details)
    for layer in _unreached(model, reader):
        reader.reading.unread.setdefault(layer, "it did not run on the example")
    for name, ((path, _), *_) in owners.items():
        kernel = name.endswith("/kernel") and path not in reader.reading.made
        if kernel and not any(tensor == name for tensor, _ in reader.reading.made_along.values()):
            reader.reading.unread.setdefault(path, "its kernel is read by no operation that makes channels")
    reader.reading.details = details
    return reader.reading


def _names(model: nn.Module) -> tuple[dict[int, str], dict[str, list[tuple[str, str]]]]:
    """Canonical names by the identity of tensors; which modules hold each, under which attribute."""
    names = {id(tensor): name for name, tensor in canonical_tensors(model)}
    owners: dict[str, list[tuple[str, str]]] = {}
    for path, module in tree(model, shared=True):
        if not (module._parameters or module._buffers):
            continue
        for attribute, tensor in [*module._parameters.items(), *module._buffers.items()]:
            if tensor is not None:
                name = names.setdefault(id(tensor), f"{path}/{attribute}".lstrip("/"))
                owners.setdefault(name, []).append((path, attribute))
    return names, owners


def example_of(
    model: nn.Module, example_input: Any, count: int | None = 1
) -> tuple[list[Any], dict[str, Any]]:
    """The first of a batch, as arguments: of one tensor, a tuple or list, or by keyword of a dict."""
    if example_input is None and isinstance(model, Network):
        example_input = torch.zeros(1, *model.spec.input_shape)
    if example_input is None:
        remedy = "Pass a batch that the model reads, as example_input=x."
        refuse(f"reading {type(model).__name__} needs an example_input", "none", remedy)
    first = next(model.parameters(), torch.empty(0))
    counts = any(isinstance(module, (nn.Embedding, nn.EmbeddingBag)) for _, module in tree(model))
    several = isinstance(example_input, (tuple, list, Mapping))
    if isinstance(example_input, (tuple, list)):
        several = any(isinstance(one, (torch.Tensor, np.ndarray, tuple, list, dict)) for one in example_input)
        several = several and not all(isinstance(one, (int, float, list)) for one in example_input)

    def one_of(value: Any, single: bool) -> Any:
        if isinstance(value, (torch.Tensor, np.ndarray)) or single:
            try:
                tensor = torch.as_tensor(value)
            except Exception:
                rule = "example_input must be a tensor or array, a tuple of them, or a dict by keyword"
                refuse(rule, type(value).__name__)
            tensor = (tensor[:count] if tensor.dim() else tensor).to(first.device)
            if tensor.is_floating_point() or (single and not counts and tensor.dtype != torch.bool):
                tensor = tensor.to(first.dtype)
            return tensor.clone()
        if isinstance(value, (tuple, list)):
            return type(value)(one_of(one, False) for one in value)
        if isinstance(value, dict):
            return {key: one_of(one, False) for key, one in value.items()}
        return value

    if not several:
        return [one_of(example_input, True)], {}
    if isinstance(example_input, Mapping):
        given = {key: one_of(value, False) for key, value in example_input.items()}
        parameters = inspect.signature(model.forward).parameters
        by_keyword = any(one.kind is one.VAR_KEYWORD for one in parameters.values())
        if by_keyword or all(isinstance(key, str) and key in parameters for key in given):
            return [], given
        return [given], {}
    return [one_of(value, False) for value in example_input], {}


@contextlib.contextmanager
def unchanged(*models: nn.Module) -> Iterator[None]:
    """Modes, parameters, buffers and the random generators are put back as they were."""
    modules = [module for model in models for _, module in tree(model)]
    attributes = [(module, dict(vars(module)), dict(module._buffers)) for module in modules]
    owned = [[*module._parameters.values(), *module._buffers.values()] for module in modules]
    tensors = list({id(one): one for of_module in owned for one in of_module if one is not None}.values())
    with torch.no_grad():
        before = _Before(tensors)
    devices = {tensor.device for tensor in tensors if tensor.is_cuda}
    try:
        with torch.random.fork_rng(devices=list(devices)):
            yield
    finally:
        for module, own, buffers in attributes:
            vars(module).update(own)  # `training`, and what a forward keeps for later
            module._buffers.update(buffers)
        with torch.no_grad():
            before.put_back()


class _Before:
    """Copies of tensors: many small ones together, since each call costs more than what it copies."""

    def __init__(self, tensors: Sequence[torch.Tensor]) -> None:
        self.together: dict[Any, list[torch.Tensor]] = {}
        alone = []
        for tensor in tensors:
            plain = type(tensor) in (torch.Tensor, nn.Parameter) and tensor.dtype in _NUMBERS
            if plain and tensor.numel() <= _SMALL and tensor.layout is torch.strided:
                self.together.setdefault((tensor.dtype, tensor.device), []).append(tensor)
            else:
                alone.append(tensor)
        self.joined = [_joined(several) for several in self.together.values()]
        self.alone = [(tensor, tensor.detach().clone()) for tensor in alone]

    def put_back(self) -> None:
        """Write them to tensors that hold something else now."""
        pairs = self.alone
        for several, before in zip(self.together.values(), self.joined, strict=True):
            if not torch.equal(_joined(several), before):
                sizes = [tensor.numel() for tensor in several]
                parts = zip(several, before.split(sizes), strict=True)
                pairs = pairs + [(tensor, part.view(tensor.shape)) for tensor, part in parts]
        for tensor, value in pairs:
            if not torch.equal(tensor, value):  # a forward may write to what it reads
                tensor.copy_(value)


_SMALL = 4096  # numbers: from then on joining them takes longer than calling once for each
_NUMBERS = {torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.bool}


def _joined(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    return torch.cat([tensor.detach().flatten() for tensor in tensors])


def _unreached(model: nn.Module, reader: Reader) -> list[str]:
    """Layers with parameters of their own that no call has read; by their own names those of no layer."""
    unreached = []
    for path, module in tree(model):
        own = {name: tensor for name, tensor in module._parameters.items() if tensor is not None}
        if own and not any(id(tensor) in reader.used for tensor in own.values()):
            unreached += [path] if path else list(own)
    return unreached


def _follow(reader: Reader, calls: Sequence[Call], end: Any) -> None:
    for call in calls:
        reader.values[call] = _value(reader, call)
    for call in calls_in(end):
        reader.fix(call, "its channels are outputs of the model")
        name = reader.parameter(call)
        for axis, size in enumerate(call.shape if name else ()):
            reader.reading.axis(str(name), axis, np.full(size, NONE))


def _follow_training(reader: Reader, model: nn.Module, details: Details) -> bool:
    """Read what runs in training only; False where it does not run on two examples."""
    for module in model.modules():
        module.training = True
    before = len(reader.used)
    try:
        calls, end, _ = record(model, *details.twice(), taught, every=True)
    except Exception:
        return False
    _follow(reader, calls, end)
    return len(reader.used) > before


def _value(reader: Reader, call: Call) -> Value | list[Value]:
    """Labels of what a call gave, by its rule; without one its inputs stay whole."""
    if call.target is PART:
        given, number = call.args
        parts = reader.values[given]
        part = parts[number] if isinstance(parts, list) else unlabeled(call.shape)
        return part if part.shape == call.shape else unlabeled(call.shape)
    if call.target is OUTSIDE:
        if call.tensor is not None:
            reader.used.add(id(call.tensor))
        return unlabeled(call.shape)
    if call.target is None:  # an input
        return unlabeled(call.shape)
    name = reader.name_of(call)
    if name in RULES:
        try:
            value = RULES[name](reader, call)
        except NnoptError:
            raise
        except Exception:  # a form of the call that its rule does not foresee: it is not understood
            value = None
        if isinstance(value, list) or (value is not None and value.shape == call.shape):
            if isinstance(value, Value) and call.overwrites and not is_zero(value):
                for other in call.overwrites:  # they hold something else now than their own rule said
                    reader.fix(other, "written to in place, through another name")
            return value
    reason = reader.reason or f"read by {name!r}, for which there is no rule"
    reader.reason = ""
    inputs = calls_in([*call.args, *call.kwargs.values()])
    labeled = [one for one in inputs if _labeled(reader.values[one])]
    for one in inputs:
        tensor = reader.parameter(one)
        if tensor is not None and (tensor.endswith("/kernel") or len(one.shape) > 1):
            reader.reading.unread.setdefault(tensor.rpartition("/")[0] or tensor, reason)
    if labeled:
        where = f" in {type(call.within).__name__}" if call.within is not None else ""
        for one in (*labeled, *call.overwrites):
            reader.fix(one, reason + where)
    return unlabeled(call.shape)


def _labeled(value: Value | list[Value]) -> bool:
    return any(one.labeled for one in (value if isinstance(value, list) else [value]))
