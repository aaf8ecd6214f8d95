"""Nodes repeated, dropped or merged throughout a network: the walk that `widen`, `shrink` and removal share.

Each channel of each value is kept so many times as its node asks for, copies standing beside their original,
so that additions, gates, concatenations and flattening go on fitting. Chapter 04 teaches what it is for.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from nnopt_lib.checks import refuse
from nnopt_lib.structure.coupling import FIXED, Coupling, couple
from nnopt_lib.structure.spec import INPUT, KERNELS, NetSpec, Node, check_node


@dataclass(frozen=True)
class Replicated:
    """What becomes of every value's channels: `index` names the old channel behind each new one.

    `merged` says, for each old channel, which old channel answers for it now: itself, if it is not merged.
    Both are arrays by the value's name; `sizes` counts the old channels.
    """

    spec: NetSpec
    index: dict[str, np.ndarray]
    merged: dict[str, np.ndarray]

    def nodes(self) -> list[Node]:
        """The nodes with the new numbers of units, filters and groups."""
        nodes = []
        for node in self.spec.nodes:
            if node.op in KERNELS:
                size = {"units" if node.op == "dense" else "filters": len(self.index[node.name])}
                if node.options.get("groups", 1) > 1 and _depthwise(self.spec, node):
                    size["groups"] = len(self.index[node.inputs[0]])
                node = replace(node, options={**node.options, **size})
            nodes.append(node)
        return nodes

    def resized(self) -> NetSpec:
        """The description of these nodes."""
        return NetSpec(self.spec.input_shape, tuple(self.nodes()))

    def carried(
        self, weights: Mapping[str, np.ndarray], *, divide: bool, random: np.random.Generator | None = None
    ) -> dict[str, np.ndarray]:
        """New arrays: rows repeated or dropped, columns of merged channels added up.

        With `divide` a repeated channel's column is shared among its copies, so that their sum stays:
        equally, or, with `random`, every entry of it in shares of its own.
        """
        node_of = {node.name: node for node in self.spec.nodes}
        new = {}
        for name, value in weights.items():
            owner, part = name.split("/")
            node = node_of[owner]
            if part == "kernel" and node.options.get("groups", 1) == 1:
                source = node.inputs[0]
                index, merged = self.index[source], self.merged[source]
                if (merged != np.arange(len(merged))).any():
                    summed = np.zeros_like(value)
                    np.add.at(summed.swapaxes(0, 1), merged, value.swapaxes(0, 1))
                    value = summed
                value = value.take(index, 1)
                if divide:
                    value = value * _shares(value, index, random)
            new[name] = value.take(self.index[owner], 0)
        return new


def _shares(columns: np.ndarray, index: np.ndarray, random: np.random.Generator | None) -> np.ndarray:
    """What each copy of a channel takes of a kernel (out, in, *spatial): fractions that add up to 1."""
    size = (len(columns), len(index), *(1,) * (columns.ndim - 2))
    parts = np.ones(size) if random is None else random.exponential(size=size)
    whole = np.zeros((len(columns), index.max() + 1, *size[2:]))
    np.add.at(whole.swapaxes(0, 1), index, parts.swapaxes(0, 1))
    return (parts / whole[:, index]).astype(columns.dtype)


def replicate(
    coupling: Coupling,
    copies: np.ndarray,
    merged: np.ndarray | None = None,
    values: Mapping[str, np.ndarray] | None = None,
) -> Replicated:
    """Every node kept ``copies[number]`` times; ``merged[number]`` is the node that answers for it.

    `values` gives the channels that a value keeps, whatever its nodes ask for, to all that read it.
    Refused by name: a grouped convolution whose groups would be torn apart, and an addition or a gate whose
    inputs would no longer stand in the same order.
    """
    spec = coupling.spec
    if merged is None:
        merged = np.arange(len(copies))
    index: dict[str, np.ndarray] = {INPUT: np.arange(spec.input_shape[0])}
    answers: dict[str, np.ndarray] = {INPUT: np.arange(spec.input_shape[0])}
    for node in spec.nodes:
        sources = [(index[name], answers[name]) for name in node.inputs]
        if node.op in KERNELS:
            index[node.name], answers[node.name] = _made(coupling, node, copies, merged, sources[0])
        elif node.op == "flatten":
            size = math.prod(spec.shapes[node.inputs[0]][1:])
            index[node.name], answers[node.name] = (_blocks(each, size) for each in sources[0])
        elif node.op == "concat":
            starts = np.cumsum([0, *(len(own) for _, own in sources)])
            index[node.name] = np.concatenate([i + n for (i, _), n in zip(sources, starts[:-1], strict=True)])
            answers[node.name] = np.concatenate(
                [a + n for (_, a), n in zip(sources, starts[:-1], strict=True)]
            )
        else:
            _check_order(node, [own for own, _ in sources])
            index[node.name], answers[node.name] = sources[2 if node.op == "attention" else 0]
        if values and node.name in values:
            index[node.name] = values[node.name]
    return Replicated(spec, index, answers)


def _blocks(channels: np.ndarray, size: int) -> np.ndarray:
    """Each channel as the `size` consecutive ones that it becomes."""
    return (channels[:, None] * size + np.arange(size)).ravel()


def _depthwise(spec: NetSpec, node: Node) -> bool:
    return bool(node.options["groups"] == spec.shapes[node.inputs[0]][0])


def _made(
    coupling: Coupling,
    node: Node,
    copies: np.ndarray,
    merged: np.ndarray,
    read: tuple[np.ndarray, np.ndarray],
) -> tuple[np.ndarray, np.ndarray]:
    """The new channels of a layer, and who answers for its old ones."""
    numbers, places = coupling.nodes[node.name], np.arange(len(coupling.nodes[node.name]))
    removable = numbers != FIXED
    count = np.where(removable, copies[numbers] if len(copies) else 1, 1)
    groups = node.options.get("groups", 1)
    if groups > 1:
        if _depthwise(coupling.spec, node):
            each = len(places) // groups  # channels that it makes of one that it reads
            return _blocks(read[0], each), _blocks(read[1], each)
        if (count != 1).any():
            refuse(
                f"the groups of {node.name!r} cannot be resized node by node",
                f"{groups} groups of several channels",
            )
    first = {number: place for place, number in reversed(list(enumerate(numbers.tolist())))}
    answer = [
        place if number == FIXED or merged[number] == number else first[int(merged[number])]
        for place, number in enumerate(numbers.tolist())
    ]
    return np.repeat(places, count), np.asarray(answer, int)


def _check_order(node: Node, indices: list[np.ndarray]) -> None:
    """Inputs that are joined channel by channel must have been repeated alike."""
    alike = all(np.array_equal(own, indices[0]) for own in indices[1:])
    if not alike and node.op != "attention":  # of attention all channels stay as they are
        refuse(f"what {node.name!r} joins would no longer stand in the same order", "a flattened input")


def resizable(spec: NetSpec, node: str) -> tuple[Coupling, np.ndarray]:
    """The coupling, and the numbers of the layer's nodes, all different and free to change."""
    found = check_node(spec, node)
    if found.op not in KERNELS:
        refuse(f"only dense layers and convolutions have a width; {node!r}", found.op)
    coupling = couple(spec)
    numbers = coupling.nodes[node]
    if (numbers == FIXED).any():
        refuse(
            f"the width of {node!r} cannot change",
            None,
            "It is an output of the network, joined to its inputs or outputs, or read by attention or a "
            "position encoding.",
        )
    if len(set(numbers.tolist())) < len(numbers):
        refuse(f"the width of {node!r} cannot change by single nodes: several of its channels are one node")
    return coupling, numbers


def smaller_spec(coupling: Coupling, kept: np.ndarray) -> NetSpec:
    """The description without the removed nodes: the same graph, fewer units, filters and groups."""
    nodes = []
    for node in coupling.spec.nodes:
        if node.op in KERNELS:
            left = int(coupling.channels(node.name, kept).sum())
            options = {**node.options, "units" if node.op == "dense" else "filters": left}
            if node.options.get("groups", 1) > 1:  # whole groups leave
                each = coupling.spec.shapes[node.name][0] // node.options["groups"]
                options["groups"] = left // each
            node = replace(node, options=options)
        nodes.append(node)
    return NetSpec(coupling.spec.input_shape, tuple(nodes))


def smaller_weights(
    coupling: Coupling, kept: np.ndarray, weights: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """New arrays with the rows and columns of the kept nodes, for `smaller_spec`."""
    node_of = {node.name: node for node in coupling.spec.nodes}
    places: dict[str, np.ndarray] = {}
    small = {}
    for name, value in weights.items():
        owner, part = name.split("/")
        node = node_of[owner]
        read = (node.inputs[0],) if part == "kernel" and node.options.get("groups", 1) == 1 else ()
        for axis, source in enumerate((owner, *read)):
            if source not in places:
                places[source] = np.flatnonzero(coupling.channels(source, kept))
            value = value.take(places[source], axis)
        small[name] = value
    return small
