"""The one way to add nodes: to an empty network, beside those of another, or while a model is read."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from nnopt_lib.structure.operations import Shape
from nnopt_lib.structure.spec import INPUT, NetSpec, Node


class Graph:
    """Nodes added one after the other, each under a name that no other has. `nodes` are those added.

    `taken` are names that exist already, or that must not be used.
    """

    def __init__(self, taken: Iterable[str] = ()) -> None:
        self.nodes: list[Node] = []
        self._taken = {INPUT, *taken}
        self._counts: dict[str, int] = {}  # by op, so that a deep network is not searched for each name

    def add(self, op: str, *inputs: str, name: str | None = None, **options: Any) -> str:
        """Add a node and give its name: `name`, made fit and unique, or its op and a number, as dense_2."""
        name = self._numbered(op) if name is None else self._fitted(name, op)
        self._taken.add(name)
        self.nodes.append(Node(name, op, inputs, options))
        return name

    def _numbered(self, op: str) -> str:
        self._counts[op] = self._counts.get(op, 0) + 1
        while f"{op}_{self._counts[op]}" in self._taken:
            self._counts[op] += 1
        return f"{op}_{self._counts[op]}"

    def _fitted(self, name: str, op: str) -> str:
        # Models name layers by paths, as layer1.0.conv; a node's name becomes an attribute and a file's key.
        name = re.sub("[^A-Za-z0-9]", "_", name)
        name = name if name[:1].isalpha() else f"{op}_{name}"
        while name in self._taken:
            name += "_op"
        return name

    def add_layer(self, source: str, shape: Shape, kernel: int, stride: Any = 1) -> str:
        """Add a dense layer, or a convolution that keeps positions, with as many channels as `shape`."""
        rank = len(shape) - 1
        if not rank:
            return self.add("dense", source, units=shape[0])
        options = {"kernel": kernel, "padding": kernel // 2, "stride": stride}
        return self.add(f"conv{rank}d", source, filters=shape[0], **options)


def insert(
    spec: NetSpec, position: int, new: Sequence[Node], inputs: Mapping[str, tuple[str, ...]]
) -> NetSpec:
    """The network with `new` nodes before the one at `position`; nodes named in `inputs` read these."""
    nodes = [replace(node, inputs=inputs.get(node.name, node.inputs)) for node in spec.nodes]
    return NetSpec(spec.input_shape, (*nodes[:position], *new, *nodes[position:]))
