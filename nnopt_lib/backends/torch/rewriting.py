"""Code that derives a number of channels from what stays: its calls are given the smaller numbers.

``x.view(b, t, heads, width // heads)`` cannot do with fewer heads, whatever `heads` says: the size of a head
comes from a width that stays. Such a module becomes what `torch.fx` traces of it, an ordinary module with
code of its own, in which the sizes of views and splits are those of the smaller model.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from torch import fx, nn

from nnopt_lib.structure.labels import varying

SIZED = ("view", "reshape", "split", "expand", "unflatten")


@dataclass(frozen=True)
class SizedCall:
    """A call of a module's code that may name sizes: labels of what it read and of all that it gave."""

    name: str
    outputs: tuple[np.ndarray, ...]


class _Tracer(fx.Tracer):
    proxy_buffer_attributes = True  # what is done with buffers is written down, too

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return True


def rewritten(
    module: nn.Module,
    calls: Sequence[SizedCall],
    given: frozenset[str],
    left: Callable[[np.ndarray, int], int],
) -> nn.Module | None:
    """A module with the sizes that are left; None where none differs, or where it cannot be traced.

    given: names of the arguments that it gets. left: how many of the entries of labels along one axis stay.
    One that does otherwise in training is not traced.
    """
    shapes = [[tuple(left(one, axis) for axis in range(one.ndim)) for one in call.outputs] for call in calls]
    if shapes == [[one.shape for one in call.outputs] for call in calls]:
        return None
    graphs = [_traced(module, given, training) for training in (True, False)]
    if graphs[0] is None or graphs[1] is None or str(graphs[0]) != str(graphs[1]):
        return None
    nodes = [node for node in graphs[1].nodes if _name(node) in SIZED]
    if [_name(node) for node in nodes] != [call.name for call in calls]:
        return None  # a loop or a branch: which call is which is not certain
    for node, call, new in zip(nodes, calls, shapes, strict=True):
        old = [one.shape for one in call.outputs]
        if new != old:
            _give(node, call.name, old, new)
    small = fx.GraphModule(module, graphs[1], type(module).__name__)
    return small.train(module.training)


def _traced(module: nn.Module, given: frozenset[str], training: bool) -> fx.Graph | None:
    was = module.training
    module.training = training  # of this module alone: its parts are called, not looked into
    try:
        # What is left out in the call is what it is by default: `if mask is None` must be decided.
        defaults = {
            name: one.default
            for name, one in inspect.signature(module.forward).parameters.items()
            if one.default is not one.empty and name not in given
        }
        graph = _Tracer().trace(module, concrete_args=defaults or None)
        arguments = [node for node in graph.nodes if node.op == "placeholder"]
        for node, name in zip(arguments, inspect.signature(module.forward).parameters, strict=True):
            node.target = name  # tracing numbers those that it was told of
        return graph
    except Exception:  # anything that symbolic tracing cannot do
        return None
    finally:
        module.training = was


def _name(node: fx.Node) -> str:
    if node.op == "call_method":
        return str(node.target)
    return getattr(node.target, "__name__", "") if node.op == "call_function" else ""


def _give(node: fx.Node, name: str, old: list[Any], new: list[Any]) -> None:
    """Put the new sizes into the arguments of a call, at the places where they differ."""
    first, *rest = cast(Any, node.args)
    if name == "split":
        dim = node.kwargs.get("dim", rest[1] if len(rest) > 1 else 0)
        sizes: Any = [shape[dim] for shape in new]
        node.args = (first, sizes if isinstance(rest[0], (list, tuple)) else sizes[0], *rest[1:])
        return
    begin = 0
    if name == "unflatten":
        dim, rest = rest[0], rest[1:]
        begin = dim % len(old[0])
    listed = len(rest) == 1 and isinstance(rest[0], (list, tuple))
    sizes = list(rest[0]) if listed else list(rest)
    for i, size in enumerate(sizes):
        if old[0][begin + i] != new[0][begin + i] and not (isinstance(size, int) and size == -1):
            sizes[i] = new[0][begin + i]
    given = (tuple(sizes),) if listed else tuple(sizes)
    node.args = (first, dim, *given) if name == "unflatten" else (first, *given)


def counted(labels: np.ndarray, axis: int, stays: np.ndarray) -> int:
    """How many entries along an axis stay, where `stays` says it of every label, the last one of `NONE`."""
    if axis not in varying(labels):
        return labels.shape[axis]
    rows = np.moveaxis(stays[labels], axis, 0)
    return int(rows.reshape(len(rows), -1).any(1).sum())
