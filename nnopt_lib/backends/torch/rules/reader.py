"""What rules for functions work with: the reader of a run, and arguments by name."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn

from nnopt_lib.backends.torch.build import tree
from nnopt_lib.backends.torch.tracing import OUTSIDE, Call
from nnopt_lib.structure.labels import NONE, Value, along, spread, unlabeled
from nnopt_lib.structure.reading import TAUGHT, Reading, Taught

Result = Value | list[Value] | None
Rule = Callable[["Reader", Call], Result]
RULES: dict[str, Rule] = {}


def taught(module: nn.Module) -> bool:
    """Whether a rule was taught for this kind of module: it is then written down whole."""
    return type(module) in TAUGHT


def taught_rule(target: Any) -> Taught | None:
    """The rule that was taught for a function or a class; a custom operator has three names."""
    if target in TAUGHT or not TAUGHT:
        return TAUGHT.get(target)
    packet = getattr(target, "overloadpacket", None)
    if packet in TAUGHT:
        return TAUGHT[packet]
    # `torch.library.custom_op` gives an object that calls its operator.
    return next(
        (rule for op, rule in TAUGHT.items() if getattr(op, "_opoverload", op) in (target, packet)), None
    )


def rule_for(*names: str) -> Callable[[Rule], Rule]:
    """A rule for functions of these names, several in one string."""

    def add(rule: Rule) -> Rule:
        RULES.update(dict.fromkeys(" ".join(names).split(), rule))
        return rule

    return add


FIXED_SIZE = "added to, or multiplied with, numbers that keep their size"
FIXED_VALUES = "added to, or multiplied with, values whose channels all stay"


class Reader:
    """What is known of a run so far.

    values: labels by call. used: identities of the parameters and buffers that were read. reason: what a rule
    says of channels that cannot leave. held: what calls make of what their inputs hold.
    """

    def __init__(self, model: nn.Module, names: dict[int, str], details: Any) -> None:
        self.reading, self.details, self.names = Reading(), details, names
        self.paths = {id(module): path for path, module in tree(model)}
        self.values: dict[Call, Any] = {}
        self.used: set[int] = set()
        self.moved: dict[Call, Value] = {}
        self.held: dict[Any, Any] = {}
        self.reason = ""

    def name_of(self, call: Call) -> str:
        """The name that rules know a call by: that of the function, without underscores."""
        target = call.target
        if isinstance(target, str):
            return target.strip("_")
        rule = taught_rule(target)
        if rule is not None:
            return f"taught_{rule.kind}"
        module = getattr(target, "__module__", None) or ""
        name = getattr(target, "__name__", str(target))
        # A function of somebody else's may bear the name of one of torch's.
        known = module.split(".")[0] in ("torch", "_operator", "") or isinstance(target, type(torch.add))
        return (
            name.strip("_") if known and not type(target).__module__.startswith("torch._ops") else str(target)
        )

    def of(self, argument: Any) -> Value:
        """The labels of an argument; a number has none."""
        if isinstance(argument, Call):
            value = self.values[argument]
            return value if isinstance(value, Value) else unlabeled(argument.shape)
        return unlabeled(())

    def parameter(self, argument: Any) -> str | None:
        """The canonical name of a parameter or buffer that is used as it is; None for what is computed."""
        if isinstance(argument, Call) and argument.target is OUTSIDE and argument.tensor is not None:
            return self.names.get(id(argument.tensor))
        return None

    def entries(self, argument: Any) -> Value:
        """As `of`; but a parameter that is moved or changed before it is used gets labels of its own.

        They stand along its last axis with more than one entry, that of features. Where they are then added
        to channels of a layer they leave with them; alone they are no node.
        """
        value, name = self.of(argument), self.parameter(argument)
        if name is None or not isinstance(argument.tensor, nn.Parameter):
            return value
        axes = [axis for axis, size in enumerate(argument.shape) if size > 1]
        if not axes:
            return value
        if argument not in self.moved:
            labels = self.reading.labels.new(argument.shape[axes[-1]])
            self.reading.axis(name, axes[-1], labels, "bias")
            self.moved[argument] = Value(spread(labels, axes[-1], argument.shape))
        return self.moved[argument]

    def along(self, value: Value, axis: int) -> np.ndarray:
        """The labels along an axis; where they stand along others as well, these channels stay."""
        labels = along(value.labels, axis)
        if labels is None:
            self.reading.labels.fix(value.labels, "read along another axis than that of their channels")
            return np.full(value.shape[axis], NONE)
        return labels

    def kernel(self, argument: Any) -> tuple[str, bool] | None:
        """The name of a matrix that is used as it is, or transposed; and whether it is."""
        transposed = isinstance(argument, Call) and argument.args and self.transposes(argument)
        name = self.parameter(argument.args[0] if transposed else argument)
        return None if name is None else (name, bool(transposed))

    def transposes(self, call: Call) -> bool:
        """Whether a call transposes a matrix that is a parameter."""
        matrix = self.parameter(call.args[0]) is not None and len(call.args[0].shape) == 2
        return matrix and self.name_of(call) in ("t", "T", "mT", "transpose", "permute", "swapaxes")

    def fix(self, argument: Any, reason: str) -> None:
        """None of the channels of an argument can leave."""
        value = self.values[argument]
        for one in value if isinstance(value, list) else [value]:
            self.reading.labels.fix(one.labels, reason)

    def where(self, call: Call) -> str:
        """The kind of place that a call stands at: alike for modules of one class."""
        name = re.sub(r"_\d+$", "", call.name)
        return f"{name!r} in {type(call.within).__name__}"

    def refuse(self, reason: str) -> None:
        """Say why the channels cannot leave."""
        self.reason = reason


def bound(call: Call, names: str) -> dict[str, Any]:
    """Arguments by name, as the function's own signature has them."""
    return dict(zip(names.split(), call.args, strict=False)) | dict(call.kwargs)


def is_zero(value: Value) -> bool:
    """Whether masked channels are exactly 0."""
    return bool(np.all(np.asarray(value.held) == 0))
