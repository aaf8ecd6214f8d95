"""A network is data: `NetSpec` describes it as a small graph that both frameworks can build.

Shapes leave out the batch and put channels first: ``(features,)`` or ``(channels, *spatial)``. Arrays of
parameters are in the *canonical layout*: kernels are (out, in, *spatial), names read ``dense_1/kernel``.
This module needs NumPy only; chapters 01 and 02 teach with it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from nnopt_lib.checks import check_choice, check_int, nearest, refuse
from nnopt_lib.structure.operations import (
    INPUT_RULES,
    OPERATIONS,
    REQUIRED,
    SHAPE_RULES,
    Shape,
    ShapeError,
    spatial,
)

INPUT = "input"
_WITH_KERNEL = ("dense", "conv1d", "conv2d")
# A name becomes a module's attribute, a Keras layer's name and, before a slash, a key of weights.
_NAME = re.compile("[A-Za-z][A-Za-z0-9_]*")


@dataclass(frozen=True)
class Node:
    """One operation of a network: a unique `name`, an `op` of `OPERATIONS`, the names it reads, its options.

    Example:
        >>> Node("dense_1", "dense", ("input",), {"units": 32}).options["bias"]
        True
    """

    name: str
    op: str
    inputs: tuple[str, ...]  # one name may be given as it is
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not _NAME.fullmatch(self.name) or self.name == INPUT:
            refuse(
                "a node's name must be letters, digits and _, begin with a letter and not be 'input'",
                repr(self.name),
            )
        if self.op not in OPERATIONS:
            check_choice(f"node {self.name!r}: op", self.op, OPERATIONS)
        known = OPERATIONS[self.op]
        for option in self.options:
            if option not in known:
                refuse(
                    f"node {self.name!r}: {self.op} has no option {option!r}", None, nearest(option, known)
                )
        for option, default in known.items():
            if default is REQUIRED and option not in self.options:
                refuse(f"node {self.name!r}: {self.op} needs the option {option!r}")
        inputs = (self.inputs,) if isinstance(self.inputs, str) else tuple(self.inputs)
        rule, fits = INPUT_RULES.get(self.op, ("exactly one input", lambda n: n == 1))
        if not fits(len(inputs)):
            refuse(f"node {self.name!r}: {self.op} reads {rule}", inputs)
        # A frozen dataclass sets its fields so: normalized once here, never changed again.
        object.__setattr__(self, "inputs", inputs)
        options = {key: _plain(self.options.get(key, default)) for key, default in known.items()}
        object.__setattr__(self, "options", options)

    @property
    def has_kernel(self) -> bool:
        """Whether it multiplies by a kernel: a dense layer or a convolution, which make new channels."""
        return self.op in _WITH_KERNEL

    @property
    def groups(self) -> int:
        """How many groups a convolution has; 1 for everything else, whose outputs may read all inputs."""
        return int(self.options.get("groups", 1))


def _plain(value: Any) -> Any:
    """Lists become tuples, so that a node read back from JSON equals the one written."""
    return tuple(value) if isinstance(value, list) else value


@dataclass(frozen=True)
class NetSpec:
    """A network as data: the shape it reads and its nodes, in an order in which each reads earlier ones.

    The last node is the output; it gives logits, so that the loss applies the softmax. Every other node
    must be read by some node. Shapes are inferred (and refused, naming the node) on creation.

    Example:
        >>> hidden = Node("dense_1", "dense", "input", {"units": 32})
        >>> spec = NetSpec((64,), (hidden, Node("dense_2", "dense", "dense_1", {"units": 10})))
        >>> spec.shapes["dense_2"], spec.parameter_shapes()["dense_1/kernel"]
        ((10,), (32, 64))
    """

    input_shape: Shape
    nodes: tuple[Node, ...]

    def __post_init__(self) -> None:
        shape = (self.input_shape,) if isinstance(self.input_shape, int) else tuple(self.input_shape)
        if not 1 <= len(shape) <= 3:
            refuse("input_shape must be (features,), (channels, length) or (channels, height, width)", shape)
        object.__setattr__(self, "input_shape", tuple(check_int("input_shape", n, at_least=1) for n in shape))
        object.__setattr__(self, "nodes", tuple(self.nodes))
        if not self.nodes:
            refuse("a network needs at least one node", "none")
        seen, read = {INPUT}, set()
        for node in self.nodes:
            for source in node.inputs:
                if source not in seen:
                    remedy = nearest(source, seen) + " A node reads only nodes that stand before it."
                    refuse(
                        f"node {node.name!r} reads {source!r}, which does not stand before it", None, remedy
                    )
                read.add(source)
            if node.name in seen:
                refuse("node names must be unique", f"{node.name!r} twice")
            seen.add(node.name)
        unread = seen - read - {self.output}
        if unread:
            refuse("every node but the last must be read by another", f"unread: {', '.join(sorted(unread))}")
        _ = self.shapes  # infer at once: a network whose shapes do not fit is never made

    @property
    def output(self) -> str:
        """The name of the last node."""
        return self.nodes[-1].name

    @cached_property
    def shapes(self) -> dict[str, Shape]:
        """The output shape of every node, and of ``"input"``, without the batch."""
        shapes: dict[str, Shape] = {INPUT: self.input_shape}
        for node in self.nodes:
            try:
                shapes[node.name] = output_shape(node, shapes)
            except ShapeError as error:
                received = ", ".join(str(shapes[name]) for name in node.inputs)
                refuse(f"node {node.name!r} ({node.op}): {error}", f"input shape {received}")
        return shapes

    @cached_property
    def _node_of(self) -> dict[str, Node]:
        return {node.name: node for node in self.nodes}

    def node(self, name: str) -> Node:
        """The node of that name; a name that no node has is refused.

        Example:
            >>> NetSpec((4,), (Node("logits", "dense", "input", {"units": 2}),)).node("logits").op
            'dense'
        """
        if name not in self._node_of:
            refuse(f"the network has no node {name!r}", None, nearest(name, self._node_of))
        return self._node_of[name]

    def parameter_shapes(self, *, trainable: bool = True) -> dict[str, Shape]:
        """Shapes of all parameters by canonical name, in node order; kernels are (out, in, *spatial).

        With ``trainable=False`` the running statistics of batch normalization follow their scale and shift.
        """
        shapes: dict[str, Shape] = {}
        # `initial_weights` draws in this order, and gives a bias the bound of the kernel just before it.
        for node in self.nodes:
            source, out = self.shapes[node.inputs[0]], self.shapes[node.name]
            if node.op == "dense":
                shapes[f"{node.name}/kernel"] = (out[0], source[0])
            elif node.op in ("conv1d", "conv2d"):
                kernel = spatial(node.options["kernel"], len(source) - 1)
                shapes[f"{node.name}/kernel"] = (out[0], source[0] // node.groups, *kernel)
            elif node.op == "batch_norm":
                statistics = () if trainable else ("mean", "variance")
                shapes |= {f"{node.name}/{part}": source[:1] for part in ("scale", "shift", *statistics)}
            if node.options.get("bias"):
                shapes[f"{node.name}/bias"] = out[:1]
        return shapes

    def to_json(self) -> str:
        """The description as JSON text; `from_json` gives an equal `NetSpec` back."""
        # Settings of runs hold this text, and rows are stored under their hash: it must stay as it is.
        nodes = [[n.name, n.op, list(n.inputs), dict(n.options)] for n in self.nodes]
        return json.dumps({"format": 1, "input_shape": list(self.input_shape), "nodes": nodes})

    @classmethod
    def from_json(cls, text: str) -> NetSpec:
        """Read what `to_json` wrote. Refuses anything else in one sentence; never evaluates it."""
        rule = "a network's JSON must be what NetSpec.to_json wrote"
        try:
            content = json.loads(text)
            if content["format"] != 1:
                refuse(rule, f"format {content['format']!r}")
            nodes = [Node(name, op, tuple(inputs), options) for name, op, inputs, options in content["nodes"]]
            return cls(tuple(content["input_shape"]), tuple(nodes))
        except (KeyError, TypeError, json.JSONDecodeError, AttributeError) as error:
            refuse(rule, f"{type(error).__name__}: {error}")
        except ValueError as error:  # too few or too many fields of a node; NnoptError says it already
            if type(error) is ValueError:
                refuse(rule, str(error))
            raise


def output_shape(node: Node, shapes: Mapping[str, Shape]) -> Shape:
    """The shape that a node gives for those of its inputs; `ShapeError` where they do not fit."""
    return SHAPE_RULES[node.op](node.options, [shapes[name] for name in node.inputs])


def check_value(spec: NetSpec, name: str) -> None:
    """Refuse a name that is neither a node's nor ``"input"``: nothing could be read under it."""
    if name not in spec.shapes:
        refuse(f"the network has no node {name!r}", None, nearest(name, [*spec.shapes][1:] + [INPUT]))


def split_name(name: str) -> tuple[str, str]:
    """The layer and the part of a canonical name: ``"dense_1/kernel"`` is ``("dense_1", "kernel")``."""
    # At the last slash: in nested Keras models layers have names with slashes.
    layer, _, part = name.rpartition("/")
    return layer, part
