"""What a PyTorch module does with its input: one run of it, written down operation by operation.

The run is a real one, so that everything has its shape and nothing is traced twice. Layers of torch.nn are
written down whole, under their paths; what happens between them, by function.
"""

# Not torch.fx: it passes proxies, which have no shape, through `forward`, so that an honest module that asks
# for x.dim() or x.shape before it flattens is not read. A real run answers; only data must not be asked.

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from types import MethodDescriptorType, MethodWrapperType, WrapperDescriptorType
from typing import Any
from weakref import ref

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from nnopt_lib.checks import refuse

OUTSIDE = object()  # the target of a tensor that no operation made: a parameter, a buffer, a constant
# What may be asked of a tensor: none of it depends on the numbers in it.
_ASKED = {
    *("size", "dim", "numel", "nelement", "ndimension", "stride", "is_contiguous", "__len__", "__get__"),
    *("is_floating_point", "is_complex", "element_size", "get_device", "type", "__hash__"),
}


class BatchSize(int):
    """The number of examples, as a tensor told it: a model that reshapes to it keeps examples apart."""


@dataclass(eq=False, slots=True)
class Call:
    """One operation of a run.

    target: the class of a layer, a function, or the name of a tensor's method. args, kwargs: as they were
    given, with the calls that made them in the place of tensors. shape: of what it gave, with the batch; ()
    for more than one tensor. path, module: of a layer.
    """

    name: str
    target: Any
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)
    shape: tuple[int, ...] = ()
    path: str = ""
    module: nn.Module | None = None


def record(model: nn.Module, example: torch.Tensor) -> tuple[list[Call], Any, Any]:
    """Run `model` on `example`: the calls that its output needs, in order; the output's own; the output."""
    recorder = _Recorder(model)
    begin = Call("input", None)
    recorder.keep(begin, example)
    with _watched(model, recorder), torch.no_grad(), recorder:
        try:
            output = model(example)
        except TypeError:
            _refuse_inputs(model)
            raise
    end = recorder.calls_for(output)
    needed = {begin, *_calls(end)}
    for call in reversed(recorder.calls):
        if call in needed:
            needed.update(_calls([*call.args, *call.kwargs.values()]))
    return [call for call in recorder.calls if call in needed], end, output


def _calls(value: Any) -> list[Call]:
    if isinstance(value, list):
        return [call for one in value for call in ((one,) if isinstance(one, Call) else _calls(one))]
    return [value] if isinstance(value, Call) else []


def _refuse_inputs(model: nn.Module) -> None:
    needed = [p for p in inspect.signature(model.forward).parameters.values() if p.default is p.empty]
    if len(needed) > 1 and needed[1].kind is needed[1].POSITIONAL_OR_KEYWORD:
        refuse("a model to describe must read one input", f"a second one, {needed[1].name!r}")


@contextlib.contextmanager
def _watched(model: nn.Module, recorder: _Recorder) -> Iterator[None]:
    """Every layer of torch.nn hands its calls to the recorder meanwhile; only this model is touched."""
    layers = [
        (path, module, module.__dict__.get("forward"))
        for path, module in model.named_modules()
        if path
        and type(module).__module__.startswith(("torch.nn", "torch.ao.nn"))
        and not isinstance(module, nn.Sequential)
    ]
    try:
        for path, module, _ in layers:
            module.__dict__["forward"] = partial(recorder.layer, path, module, module.forward)
        yield
    finally:
        for _, module, patched in layers:
            module.__dict__.pop("forward", None)
            if patched is not None:  # somebody else had replaced `forward` before
                module.__dict__["forward"] = patched


class _Recorder(TorchFunctionMode):
    """Sees every function of tensors that runs, and every layer by `layer`."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.calls: list[Call] = []
        self.made: dict[int, tuple[Call, ref[torch.Tensor]]] = {}  # by identity, which may come again
        self.names: dict[str, int] = {}

    def keep(self, call: Call, value: Any) -> None:
        """Write down a call, and that it made `value`."""
        self.calls.append(call)
        if isinstance(value, torch.Tensor):
            call.shape = tuple(value.shape)
            self.made[id(value)] = (call, ref(value))
            return
        for tensor in _tensors(value):
            self.made[id(tensor)] = (call, ref(tensor))

    def calls_for(self, value: Any) -> Any:
        """`value` with calls in the place of tensors."""
        if isinstance(value, torch.Tensor):
            entry = self.made.get(id(value))
            # An identity is given again once its tensor is gone: the reference says whether it is the same.
            return entry[0] if entry and entry[1]() is value else self._outside(value)
        if isinstance(value, (list, tuple)):
            return [self.calls_for(one) for one in value]
        return value

    def _outside(self, tensor: torch.Tensor) -> Call:
        owned = [*self.model.named_parameters(), *self.model.named_buffers()]
        name = next((name for name, candidate in owned if candidate is tensor), "")
        call = Call(name, OUTSIDE)
        self.keep(call, tensor)
        return call

    def layer(self, path: str, module: nn.Module, forward: Any, *args: Any, **kwargs: Any) -> Any:
        """In the place of a layer's `forward`."""
        with torch._C.DisableTorchFunction():  # what happens inside is its own
            given = tuple([self.calls_for(value) for value in args])
            keywords = {name: self.calls_for(value) for name, value in kwargs.items()} if kwargs else kwargs
            value = forward(*args, **kwargs)
            self.keep(Call(path, type(module), given, keywords, (), path, module), value)
        return value

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run a function of tensors and write it down."""
        kwargs = kwargs or {}
        name = getattr(func, "__name__", str(func))
        value = func(*args, **kwargs)
        if name in _ASKED and not isinstance(value, torch.Tensor):
            if isinstance(value, torch.Size) and value:
                return torch.Size([BatchSize(value[0]), *value[1:]])
            return BatchSize(value) if name == "size" and args[1:] == (0,) else value
        given = tuple([self.calls_for(argument) for argument in args])
        keywords = {key: self.calls_for(argument) for key, argument in kwargs.items()}
        if isinstance(value, (torch.Tensor, tuple, list)):
            if name == "__get__":  # x.T
                name = func.__self__.__name__
            earlier = self.names.get(name, 0)
            self.names[name] = earlier + 1
            call = Call(f"{name.strip('_')}_{earlier}" if earlier else name.strip("_"), func, given, keywords)
            if isinstance(func, (MethodDescriptorType, WrapperDescriptorType, MethodWrapperType)):
                call.target = name
            self.keep(call, value)
        elif any(isinstance(one, Call) for one in given):
            rule = f"{type(self.model).__name__} must compute the same whatever its data are, to be described"
            reason = f"numbers that leave their tensor by {name!r}"
            reason = "a branch on numbers of a tensor" if name == "__bool__" else reason
            refuse(rule, reason, "Keep branches on data out of it.")
        return value


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, (list, tuple)):
        for one in value:
            yield from _tensors(one)
