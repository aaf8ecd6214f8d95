"""Reading a PyTorch module into a description, from one run of it in evaluation mode."""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from nnopt_lib.backends.torch.build import canonical_tensors, plain_function
from nnopt_lib.backends.torch.tracing import OUTSIDE, BatchSize, Call, record
from nnopt_lib.checks import NnoptError, refuse
from nnopt_lib.structure.graph import Graph
from nnopt_lib.structure.operations import ShapeError
from nnopt_lib.structure.spec import INPUT, NetSpec, output_shape

_UNDERSTOOD = (
    "Understood are dense layers, convolutions, batch normalization, relu, gelu, silu, tanh, sigmoid, "
    "pooling, flattening, additions, products, concatenations, dropout and identities."
)
_ACTIVATIONS: dict[Any, str] = {
    **{nn.ReLU: "relu", nn.GELU: "gelu", nn.SiLU: "silu", nn.Tanh: "tanh", nn.Sigmoid: "sigmoid"},
    **{F.relu: "relu", F.gelu: "gelu", F.silu: "silu", F.tanh: "tanh", F.sigmoid: "sigmoid"},
    **{torch.relu: "relu", torch.relu_: "relu", torch.tanh: "tanh", torch.sigmoid: "sigmoid"},
    **{name + end: name for name in ("relu", "tanh", "sigmoid") for end in ("", "_")},
}
_SKIPPED = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Identity, F.dropout, F.dropout2d, "contiguous")
_JOINS: dict[Any, str] = {
    **dict.fromkeys((operator.add, operator.iadd, torch.add, "add", "add_"), "add"),
    **dict.fromkeys((operator.mul, operator.imul, torch.mul, "mul", "mul_"), "multiply"),
}
_CONCATENATIONS = (torch.cat, torch.concat)
_RESHAPES = (
    *(nn.Flatten, nn.Unflatten, torch.flatten, torch.reshape, torch.squeeze),
    *("flatten", "view", "reshape", "squeeze", "unsqueeze"),
)
_SIZED = (torch.reshape, "view", "reshape")
_POOLS: dict[Any, str] = {
    **dict.fromkeys((nn.MaxPool1d, nn.MaxPool2d, F.max_pool1d, F.max_pool2d), "max_pool"),
    **dict.fromkeys((nn.AvgPool1d, nn.AvgPool2d, F.avg_pool1d, F.avg_pool2d), "avg_pool"),
}
_POOL_ARGUMENTS = {
    "max_pool": ("kernel_size", "stride", "padding", "dilation", "ceil_mode", "return_indices"),
    "avg_pool": ("kernel_size", "stride", "padding", "ceil_mode", "count_include_pad", "divisor_override"),
}
_USUAL = {
    "dilation": (1, (1,), (1, 1)),
    "ceil_mode": (False,),
    "return_indices": (False,),
    "count_include_pad": (True,),
    "divisor_override": (None,),
}
_GLOBAL: dict[Any, str] = {
    **dict.fromkeys((nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d), "avg"),
    **dict.fromkeys((F.adaptive_avg_pool1d, F.adaptive_avg_pool2d, torch.mean, "mean"), "avg"),
    **dict.fromkeys((nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d), "max"),
    **dict.fromkeys((F.adaptive_max_pool1d, F.adaptive_max_pool2d, torch.amax, "amax"), "max"),
}

# Names that a module of `build` could not give to a layer: it has attributes of these names.
_TAKEN = {*dir(nn.Module), "spec", "training"}


def read(model: nn.Module, example_input: Any) -> tuple[NetSpec, dict[str, str], dict[str, np.ndarray]]:
    """The description, the module's path of every layer with parameters, and no orders of inputs."""
    kind = type(model).__name__
    if example_input is None:
        remedy = "Pass a batch that the model reads, as example_input=x."
        refuse(f"describing {kind} needs an example_input", "none", remedy)
    for _ in canonical_tensors(model):  # refuses layers that have no sizes yet
        pass
    first = next(model.parameters(), torch.empty(0))
    example = torch.as_tensor(example_input)[:1].to(first.device)
    modules = list(model.modules())
    if any("_orig_mod" in module._modules for module in modules):
        remedy = "Describe the module that was compiled; compile what remove_nodes gives."
        refuse("a model to describe must not be compiled", kind, remedy)
    if not any(isinstance(module, nn.Embedding) for module in modules):
        example = example.to(first.dtype)
    training = [module for module in modules if module.training]
    try:
        if training:
            model.eval()
        try:
            spec, layers = _read(model, example)
        except Exception as error:  # a squeeze() may have taken the one example away, too
            try:  # with two, a batch of 1 is never taken for a size of 1
                spec, layers = _read(model, torch.cat([example, example]))
            except NnoptError:
                raise
            except Exception:  # the model reads one example only
                raise error from None
    finally:
        for module in training:
            module.training = True
    return spec, {name: call.path for name, call in layers.items()}, {}


def _read(model: nn.Module, example: torch.Tensor) -> tuple[NetSpec, dict[str, Call]]:
    """The description and its layers with parameters; it was seen to give the model's output."""
    calls, end, expected = record(model, [example.clone()])
    reader = _Reader(calls, end)
    spec = NetSpec(tuple(example.shape[1:]), tuple(reader.graph.nodes))
    outputs = _run(spec, reader.layers, example)
    # 1e-4 of the largest: float32 sums in another order differ in rounding, a wrong reading by far more.
    tolerance = 1e-4 * max(1.0, expected.abs().max())
    if outputs.shape != expected.shape or (outputs - expected).abs().max() > tolerance:
        refuse(f"the description of {type(model).__name__} must give its outputs", "one that does not")
    return spec, reader.layers


@torch.inference_mode()
def _run(spec: NetSpec, layers: Mapping[str, Call], x: torch.Tensor) -> torch.Tensor:
    """What the description computes, with the layers' own tensors."""
    values = {INPUT: x}
    for node in spec.nodes:
        inputs, o = [values[name] for name in node.inputs], node.options
        if node.name not in layers:
            values[node.name] = plain_function(node, inputs[0].dim() - 2)(*inputs)
            continue
        layer: Any = layers[node.name].module
        weight, bias = layer._parameters["weight"], layer._parameters["bias"] if o.get("bias", True) else None
        if node.op == "dense":
            value = F.linear(inputs[0], weight.flatten(1), bias)
        elif node.op == "batch_norm":
            statistics = layer._buffers["running_mean"], layer._buffers["running_var"]
            value = torch.batch_norm(inputs[0], weight, bias, *statistics, False, 0.0, o["eps"], True)
        else:
            convolve: Any = F.conv1d if node.op == "conv1d" else F.conv2d
            value = convolve(inputs[0], weight, bias, o["stride"], o["padding"], 1, o["groups"])
        values[node.name] = value
    return values[spec.output]


class _Reader:
    """Writes down a node for every call of a run."""

    def __init__(self, calls: Sequence[Call], end: Any) -> None:
        self.graph = Graph(_TAKEN)
        self.layers: dict[str, Call] = {}  # by the description's name, those with parameters
        self.node_of: dict[Call, str] = {calls[0]: INPUT}  # the description's name of a call's value
        self.shapes: dict[str, tuple[int, ...]] = {INPUT: calls[0].shape[1:]}  # (channels,) after pooling
        self.seen: set[str] = set()
        self.single = calls[0].shape[0] == 1  # then only what surely keeps examples apart is understood
        if not isinstance(end, Call):
            kind = "tuple" if isinstance(end, (list, tuple)) else type(end).__name__
            refuse("a model to describe must return one tensor, its last", kind)
        for call in calls[1:]:
            self._describe(call)
        nodes = self.graph.nodes
        if not nodes or self.node_of[end] != nodes[-1].name:
            refuse("a model to describe must return one tensor, its last", "another")

    def _describe(self, n: Call) -> None:
        if n.target is OUTSIDE:
            what = f"{n.name!r}, a parameter or buffer used by itself"
            self._refuse(n, what if n.name else "a tensor that it did not make of its input")
        elif n.module is not None:
            what = f"{n.path!r} ({type(n.module).__name__})"
            if not self._layer(n, n.module, what):
                self._plain(n, n.target, vars(n.module), what)
        else:
            name = n.target if isinstance(n.target, str) else getattr(n.target, "__name__", n.name)
            self._plain(n, n.target, n.kwargs, f"{name!r}")

    def _refuse(self, n: Call, what: str) -> NoReturn:
        refuse("a description must have an operation for everything that a model does", what, _UNDERSTOOD)

    def _source(self, n: Call) -> Call:
        source = n.args[0] if n.args else n.kwargs.get("input")
        if not isinstance(source, Call) or source not in self.node_of:
            self._refuse(n, f"{n.name!r}, which does not read a value of the graph")
        return source

    def _add(self, n: Call, name: str, op: str, inputs: Sequence[Call], options: dict[str, Any]) -> None:
        """Write a node down, under `name` or one that is made of it."""
        name = self.graph.add(op, *(self.node_of[source] for source in inputs), name=name, **options)
        try:
            shape = output_shape(self.graph.nodes[-1], self.shapes)
        except ShapeError as error:
            self._refuse(n, f"{n.name!r}, whose {op} {error}")
        self.node_of[n], self.shapes[name] = name, shape
        if shape != n.shape[1:] and math.prod(shape) != math.prod(n.shape[1:]):
            self._refuse(n, f"{n.name!r}, which gives {n.shape[1:]} for {shape}")

    # -------------------------------------------------------------- layers with parameters

    def _layer(self, n: Call, module: nn.Module, what: str) -> bool:
        """Describe a module with parameters; False for the others."""
        path, flat = n.path, len(self.shapes[self.node_of[self._source(n)]]) == 1
        options: dict[str, Any] = {"bias": module._parameters.get("bias") is not None}
        if isinstance(module, nn.Linear):
            op, options["units"] = "dense", module.out_features
            if len(self._source(n).shape) != 2:
                self._refuse(n, f"{what} on values of shape {self._source(n).shape[1:]}")
        elif isinstance(module, (nn.Conv1d, nn.Conv2d)):
            options |= self._windows(n, module, what)
            op = f"conv{len(module.kernel_size)}d"
            if flat:  # 1x1 on a pooled value, which the description keeps as (channels,)
                if math.prod(module.kernel_size) != 1 or module.groups != 1 or any(options["padding"]):
                    self._refuse(n, f"{what}, other than 1x1, on a pooled value")
                op, options = "dense", {"units": module.out_channels, "bias": options["bias"]}
        elif isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
            if not module.affine or module._buffers["running_mean"] is None or module.momentum is None:
                self._refuse(n, f"{what} without scale and shift, running statistics or momentum")
            op, options = "batch_norm", {"eps": module.eps, "momentum": module.momentum}
        else:
            return False
        if module._parameters.get("weight") is None:  # parametrized, or of the older weight_norm or prune
            rule = f"layer {path!r} must own its weights to be described"
            refuse(rule, "weights that are computed from others", "Remove the parametrization first.")
        if path in self.seen:
            refuse(f"layer {path!r} must be used once", "a second use", "Give each use a layer of its own.")
        self.seen.add(path)
        self._add(n, path, op, [self._source(n)], options)
        self.layers[self.node_of[n]] = n
        return True

    def _windows(self, n: Call, module: nn.Conv1d | nn.Conv2d, what: str) -> dict[str, Any]:
        padding, size = module.padding, module.kernel_size
        if padding == "same" and any(k % 2 == 0 for k in size):
            self._refuse(n, f"{what} with uneven padding")
        if isinstance(padding, str):
            padding = tuple(k // 2 if padding == "same" else 0 for k in size)
        if module.padding_mode != "zeros" or {*module.dilation} != {1}:
            self._refuse(n, f"{what} with dilation, or padding other than zeros")
        options = {"filters": module.out_channels, "kernel": tuple(size), "stride": tuple(module.stride)}
        return options | {"padding": tuple(padding), "groups": module.groups}

    # -------------------------------------------------------------- operations without parameters

    def _plain(self, n: Call, target: Any, settings: Mapping[str, Any], what: str) -> None:
        """Describe an operation by its class, function or method name; `settings` as it was given them."""
        try:
            known = target in _ACTIVATIONS
        except TypeError:  # not hashable
            known = False
        if target in _SKIPPED:
            self.node_of[n] = self.node_of[self._source(n)]
        elif known:
            if settings.get("approximate", "none") != "none":
                self._refuse(n, f"{what} with approximate={settings['approximate']!r}")
            self._add(n, n.name, "activation", [self._source(n)], {"kind": _ACTIVATIONS[target]})
        elif target in _JOINS:
            sources = [*n.args, *(n.kwargs[name] for name in ("input", "other") if name in n.kwargs)]
            if len(sources) != 2 or not all(source in self.node_of for source in sources):
                self._refuse(n, f"{what} with a number or a parameter")
            self._add(n, n.name, _JOINS[target], sources, {})
        elif target in _CONCATENATIONS:
            self._concatenation(n, what)
        elif target in _POOLS:
            self._pool(n, _POOLS[target], settings, what)
        elif target in _GLOBAL:
            self._global_pool(n, _GLOBAL[target], what)
        elif target in _RESHAPES:
            self._reshape(n, what)
        else:
            self._refuse(n, what)

    def _concatenation(self, n: Call, what: str) -> None:
        arguments: dict[str, Any] = dict(zip(("tensors", "dim"), n.args, strict=False)) | dict(n.kwargs)
        sources, dim = arguments["tensors"], arguments.get("dim", arguments.get("axis", 0))
        if dim % len(n.shape) != 1 or not all(source in self.node_of for source in sources):
            self._refuse(n, f"{what} along another dimension than channels")
        self._add(n, n.name, "concat", list(sources), {})

    def _pool(self, n: Call, op: str, settings: Mapping[str, Any], what: str) -> None:
        given = dict(settings) | dict(zip(_POOL_ARGUMENTS[op], n.args[1:], strict=False))
        odd = [name for name, usual in _USUAL.items() if given.get(name, usual[0]) not in usual]
        if odd:
            self._refuse(n, f"{what} with {odd[0]}={given[odd[0]]!r}")
        options = {
            "size": given["kernel_size"],
            "stride": given.get("stride"),
            "padding": given.get("padding", 0),
        }
        self._add(n, n.name, op, [self._source(n)], options)

    def _global_pool(self, n: Call, kind: str, what: str) -> None:
        """Adaptive pooling to 1, or a mean over all of space: told by the shapes before and after."""
        source = self._source(n)
        before, after = source.shape, n.shape
        dims = n.args[1] if len(n.args) > 1 else n.kwargs.get("dim", n.kwargs.get("axis", ()))
        dims = dims if isinstance(dims, (list, tuple)) else (dims,)
        mixed = self.single and any(isinstance(dim, int) and dim % len(before) == 0 for dim in dims)
        if len(before) < 3 or math.prod(after) != math.prod(before[:2]) or after[:2] != before[:2] or mixed:
            self._refuse(n, f"{what} that gives {after[1:]} for {before[1:]}")
        self._add(n, n.name, "global_pool", [source], {"kind": kind})

    def _reshape(self, n: Call, what: str) -> None:
        """Flattening each example, or adding and dropping sizes of 1 behind the channels."""
        source = self._source(n)
        before, after = source.shape, n.shape
        sizes = n.args[1:] and n.args[1]
        first = sizes[0] if isinstance(sizes, (list, tuple)) and sizes else sizes
        batch_stays = n.target not in _SIZED or first == -1 or isinstance(first, BatchSize)
        if self.single and (not batch_stays or before[1] == 1):
            self._refuse(n, f"{what} that may mix examples")
        if len(self.shapes[self.node_of[source]]) == 1 and after[:2] == before[:2]:
            self.node_of[n] = self.node_of[source]
        elif after == (before[0], math.prod(before[1:])):
            self._add(n, n.name, "flatten", [source], {})
        else:
            self._refuse(n, f"{what} that gives {after[1:]} for {before[1:]}")
