"""Nodes added one after the other: to an empty network, or into one that is there."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from nnopt_lib.structure.operations import Shape
from nnopt_lib.structure.spec import INPUT, NetSpec, Node


class Graph:
    """Nodes added one after the other; names count each op: dense_1, dense_2, ..."""

    def __init__(self) -> None:
        self.nodes: list[Node] = []
        self.counts: dict[str, int] = {}

    def add(self, op: str, *inputs: str, **options: Any) -> str:
        """Add a node and give its name."""
        self.counts[op] = self.counts.get(op, 0) + 1
        self.nodes.append(Node(f"{op}_{self.counts[op]}", op, inputs, options))
        return self.nodes[-1].name


class Inserted:
    """New nodes behind `after`, with names that count on."""

    def __init__(self, spec: NetSpec, after: str) -> None:
        self.spec, self.after, self.nodes = spec, after, list[Node]()
        self.shape: Shape = spec.shapes[after]
        self.names: set[str] = set()

    def add(self, op: str, *inputs: str, **options: Any) -> str:
        """Add a node and give its name."""
        taken = {node.name for node in (*self.spec.nodes, *self.nodes)}
        number = 1
        while f"{op}_{number}" in taken:
            number += 1
        self.nodes.append(Node(f"{op}_{number}", op, inputs, options))
        self.names.add(self.nodes[-1].name)
        return self.nodes[-1].name

    def layer(self, source: str, kernel: int, width: int = 0, stride: Any = 1) -> str:
        """Add a dense layer, or a convolution that keeps positions, as wide as what it stands behind."""
        width, rank = width or self.shape[0], len(self.shape) - 1
        if not rank:
            return self.add("dense", source, units=width)
        options = {"kernel": kernel, "padding": kernel // 2, "stride": stride}
        return self.add(f"conv{rank}d", source, filters=width, **options)

    def placed(self, last: str) -> NetSpec:
        """The network in which the readers of `after` read `last`."""
        nodes = [] if self.after != INPUT else list(self.nodes)
        for node in self.spec.nodes:
            inputs = tuple(last if name == self.after else name for name in node.inputs)
            nodes.append(replace(node, inputs=inputs))
            nodes += self.nodes if node.name == self.after else []
        return NetSpec(self.spec.input_shape, tuple(nodes))
