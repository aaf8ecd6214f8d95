"""What a PyTorch module does with its input: one run of it, written down operation by operation.

The run is a real one, so that everything has its shape and nothing is traced twice. Layers of torch.nn are
written down whole, under their paths; what happens between them, by function.
"""

# Not torch.fx: it passes proxies, which have no shape, through `forward`, so that an honest module that asks
# for x.dim() or x.shape before it flattens is not read. A real run answers; only data must not be asked.

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from functools import partial
from types import MethodDescriptorType, MethodWrapperType, WrapperDescriptorType
from typing import Any
from weakref import ref

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from nnopt_lib.backends.torch.build import tree
from nnopt_lib.checks import refuse

OUTSIDE = object()  # the target of a tensor that no operation made: a parameter, a buffer, a constant
PART = (
    object()
)  # the target of one of several tensors that a call gave: its arguments are the call and a number
_INDICES = (torch.int64, torch.int32, torch.bool)
# Most arguments: they hold no tensor, and are told by a look at their type.
_PLAIN = {int, float, bool, str, type(None), torch.dtype, torch.device}
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
    for more than one tensor. path, module: of a layer. within: the module whose code ran. tensor: of what no
    operation made, and of whole numbers, which may index others. overwrites: calls whose values lie in the
    memory that this one writes to.
    """

    name: str
    target: Any
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)
    shape: tuple[int, ...] = ()
    path: str = ""
    module: nn.Module | None = None
    within: nn.Module | None = None
    tensor: torch.Tensor | None = None
    overwrites: tuple[Call, ...] = ()


def is_layer(module: nn.Module) -> bool:
    """Whether this is a layer of torch.nn, to be written down whole."""
    return type(module).__module__.startswith(("torch.nn", "torch.ao.nn")) and not isinstance(
        module, nn.Sequential
    )


def record(
    model: nn.Module,
    args: Sequence[Any],
    kwargs: Mapping[str, Any] | None = None,
    whole: Callable[[nn.Module], bool] = is_layer,
    *,
    every: bool = False,
) -> tuple[list[Call], Any, Any]:
    """Run `model`: the calls that its output needs, or every one; the output's own; the output.

    whole: which modules are written down as one call each; what the others do is, function by function.
    """
    recorder = _Recorder(model)
    begin = []
    for tensor in tensors_in([list(args), dict(kwargs or {})]):
        begin.append(Call("input", None))
        recorder.keep(begin[-1], tensor)
    with _watched(model, recorder, whole), torch.no_grad(), recorder:
        try:
            output = model(*args, **(kwargs or {}))
        except TypeError:
            if len(args) == 1:
                _refuse_inputs(model)
            raise
    end = recorder.calls_for(output)
    if every:
        return recorder.calls, end, output
    needed = {*begin, *calls_in(end)}
    for call in reversed(recorder.calls):
        if call in needed:
            needed.update(calls_in([*call.args, *call.kwargs.values()]))
    return [call for call in recorder.calls if call in needed], end, output


def calls_in(value: Any) -> list[Call]:
    """The calls in the place of tensors, in order."""
    if isinstance(value, Call):
        return [value]
    if type(value) in _PLAIN:
        return []
    inside: Any = value.values() if isinstance(value, dict) else value
    if isinstance(value, (list, tuple, dict)):
        return [call for one in inside for call in calls_in(one)]
    return (
        [call for part in (value.start, value.stop) for call in calls_in(part)]
        if isinstance(value, slice)
        else []
    )


def _refuse_inputs(model: nn.Module) -> None:
    needed = [p for p in inspect.signature(model.forward).parameters.values() if p.default is p.empty]
    if len(needed) > 1 and needed[1].kind is needed[1].POSITIONAL_OR_KEYWORD:
        refuse("a model to describe must read one input", f"a second one, {needed[1].name!r}")


@contextlib.contextmanager
def _watched(model: nn.Module, recorder: _Recorder, whole: Callable[[nn.Module], bool]) -> Iterator[None]:
    """Every module hands its calls to the recorder meanwhile; only this model is touched."""
    modules = [(path, module, module.__dict__.get("forward")) for path, module in tree(model) if path]
    try:
        for path, module, _ in modules:
            watch = recorder.layer if whole(module) else recorder.inside
            module.__dict__["forward"] = partial(watch, path, module, module.forward)
        yield
    finally:
        for _, module, patched in modules:
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
        self.memory: dict[int, list[tuple[Call, ref[torch.Tensor]]]] = {}  # the same by where it lies
        self.names: dict[str, int] = {}
        self.owned: dict[int, str] = {}
        for path, module in tree(model):
            for name, tensor in (*module._parameters.items(), *module._buffers.items()):
                if tensor is not None:
                    self.owned.setdefault(id(tensor), f"{path}.{name}" if path else name)
        self.running: list[nn.Module] = [model]

    def keep(self, call: Call, value: Any) -> None:
        """Write down a call, and that it made `value`."""
        self.calls.append(call)
        call.within = self.running[-1]
        if isinstance(value, torch.Tensor):
            call.shape = tuple(value.shape)
            if value.dtype in _INDICES:
                call.tensor = value
            self._remember(call, value)
            return
        for number, tensor in enumerate(tensors_in(value)):
            part = Call(f"{call.name}[{number}]", PART, (call, number), {}, tuple(tensor.shape))
            self.calls.append(part)
            self._remember(part, tensor)

    def _remember(self, call: Call, tensor: torch.Tensor) -> None:
        entry = self.made[id(tensor)] = (call, ref(tensor))
        at = self.memory.setdefault(_place(tensor), [])
        # Memory is given again, too; of a tensor that was written to in place the last call stands.
        at[:] = [one for one in at if (other := one[1]()) is not None and other is not tensor]
        at.append(entry)

    def calls_for(self, value: Any) -> Any:
        """`value` with calls in the place of tensors."""
        if type(value) in _PLAIN:
            return value
        if isinstance(value, torch.Tensor):
            entry = self.made.get(id(value))
            # An identity is given again once its tensor is gone: the reference says whether it is the same.
            return entry[0] if entry and entry[1]() is value else self._outside(value)
        if isinstance(value, (list, tuple)):
            inside = [self.calls_for(one) for one in value]
            return tuple(inside) if isinstance(value, tuple) else inside
        if isinstance(value, dict):
            return {key: self.calls_for(one) for key, one in value.items()}
        if isinstance(value, slice):
            return slice(*(self.calls_for(one) for one in (value.start, value.stop, value.step)))
        parts = parts_of(value)
        if parts and any(True for _ in tensors_in(parts)):
            return [self.calls_for(one) for one in parts]
        return value

    def _outside(self, tensor: torch.Tensor) -> Call:
        call = Call(self.owned.get(id(tensor), ""), OUTSIDE, tensor=tensor)
        self.keep(call, tensor)
        return call

    def _sharing(self, value: Any) -> tuple[Call, ...]:
        """The calls whose values, where they still live, share memory with this one."""
        if not isinstance(value, torch.Tensor):
            return ()
        if not (place := _place(value)):
            return ()
        living = [(call, tensor()) for call, tensor in self.memory.get(place, ())]
        return tuple(call for call, tensor in living if tensor is not None and tensor is not value)

    def inside(self, path: str, module: nn.Module, forward: Any, *args: Any, **kwargs: Any) -> Any:
        """In the place of the `forward` of a module whose operations are written down."""
        self.running.append(module)
        try:
            return forward(*args, **kwargs)
        finally:
            self.running.pop()

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
        if isinstance(value, (torch.Tensor, tuple, list)) or name == "__setitem__":
            if name == "__get__":  # x.T
                name = func.__self__.__name__
            earlier = self.names.get(name, 0)
            self.names[name] = earlier + 1
            call = Call(f"{name.strip('_')}_{earlier}" if earlier else name.strip("_"), func, given, keywords)
            if isinstance(func, (MethodDescriptorType, WrapperDescriptorType, MethodWrapperType)):
                call.target = name
            if (name.endswith("_") and name[-2:] != "__") or name.startswith("__i") or "out" in kwargs:
                call.overwrites = self._sharing(value)
            self.keep(call, value)
        elif any(isinstance(one, Call) for one in given):
            rule = f"{type(self.model).__name__} must compute the same whatever its data are, to be described"
            reason = f"numbers that leave their tensor by {name!r}"
            reason = "a branch on numbers of a tensor" if name == "__bool__" else reason
            refuse(rule, reason, "Keep branches on data out of it.")
        return value


def _place(tensor: torch.Tensor) -> int:
    """Where its numbers lie in memory; 0 for what has no one place (a sparse tensor)."""
    try:
        return tensor.untyped_storage().data_ptr()
    except (NotImplementedError, RuntimeError):
        return 0


def parts_of(value: Any) -> list[Any] | None:
    """What a container or an object of somebody's own holds, in order; None for anything else."""
    if isinstance(value, (list, tuple, set, frozenset)):
        return list(value)
    if isinstance(value, dict):
        return list(value.values())
    if isinstance(value, (type, nn.Module, torch.dtype, torch.device)) or callable(value):
        return None
    if is_dataclass(value):
        return [getattr(value, one.name) for one in fields(value)]
    return list(vars(value).values()) if hasattr(value, "__dict__") else None


def tensors_in(value: Any) -> Iterator[torch.Tensor]:
    """All tensors of lists, tuples, dicts, dataclasses and other objects, in order."""
    if isinstance(value, torch.Tensor):
        yield value
        return
    if type(value) in _PLAIN:
        return
    for one in parts_of(value) or ():
        yield from tensors_in(one)
