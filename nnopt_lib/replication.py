"""Nodes repeated, dropped or merged throughout a network: `widen`, and the walk that it shares with `shrink`.

Each channel of each value is kept so many times as its node asks for, copies standing beside their original,
so that additions, gates, concatenations and flattening go on fitting. Chapter 04 teaches what it is for.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from nnopt_lib.checks import check_choice, check_int, nearest, refuse
from nnopt_lib.coupling import FIXED, Coupling, couple
from nnopt_lib.masks import check_match
from nnopt_lib.spec import INPUT, NetSpec, Node, initial_weights

Weights = Mapping[str, np.ndarray]
KERNELS = ("dense", "conv1d", "conv2d")


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


# ---------------------------------------------------------------- width


def widen(
    spec: NetSpec,
    node: str,
    width: int,
    *,
    weights: Weights | None = None,
    preserve: bool = True,
    shares: str = "drawn",
    seed: int = 0,
) -> Any:
    """Give a layer more units or filters; layers that are coupled with it (additions, gates) follow.

    Parameters:
        spec: the network. node: a dense layer or a convolution. width: more than it has.
        weights: of `spec`. With `preserve` the new nodes are copies of nodes drawn by `seed`, and what reads
            them shares its weights among the copies; without it they are drawn like first weights.
        shares: ``"drawn"`` (by `seed`), for each weight anew, or ``"equal"``, as Chen, Goodfellow & Shlens
            (2016) do before they add noise. Copies with equal shares get equal gradients, and without noise
            stay copies for ever; drawn shares let them part, and keep the function.

    Returns the new description, with `weights` also new arrays. Errors: no such layer, a width that is not
    larger, nodes that must stay as they are (`couple` says which).

    Example:
        >>> from nnopt_lib import mlp
        >>> wider = widen(mlp((8,), inputs=4, outputs=2), "dense_1", 12)
        >>> wider.parameter_shapes()["dense_1/kernel"], wider.parameter_shapes()["dense_2/kernel"]
        ((12, 4), (2, 12))
    """
    check_choice("shares", shares, ("drawn", "equal"))
    coupling, numbers = resizable(spec, node)
    have = len(numbers)
    if check_int("width", width, at_least=1) <= have:
        refuse(f"widen needs more than the {have} nodes that {node!r} has", width)
    random = np.random.default_rng(check_int("seed", seed, at_least=0))
    drawn = random.choice(numbers, width - have)
    copies = 1 + np.bincount(drawn, minlength=coupling.size)
    made = replicate(coupling, copies)
    wider = made.resized()
    if weights is None:
        return wider
    own = random if shares == "drawn" else None
    carried = made.carried(check_weights(spec, weights), divide=preserve, random=own)
    if not preserve:
        _redraw_copies(made, carried, initial_weights(wider, seed))
    return wider, carried


def _redraw_copies(made: Replicated, carried: dict[str, np.ndarray], fresh: Weights) -> None:
    """Write `fresh` over the rows and columns of all copies, in place."""
    node_of = {node.name: node for node in made.spec.nodes}
    for name, value in carried.items():
        owner, part = name.split("/")
        rows = _copies(made.index[owner])
        value[rows] = fresh[name][rows]
        if part == "kernel" and node_of[owner].options.get("groups", 1) == 1:
            columns = _copies(made.index[node_of[owner].inputs[0]])
            value[:, columns] = fresh[name][:, columns]


def _copies(index: np.ndarray) -> np.ndarray:
    """Where an entry was there before: boolean, of the same shape."""
    again = np.ones(len(index), bool)
    again[np.unique(index, return_index=True)[1]] = False
    return again


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


# ---------------------------------------------------------------- checks


def check_node(spec: NetSpec, name: str, *, or_input: bool = False) -> Node:
    """The node of that name (the first one for ``"input"``); a name that is not there is refused."""
    for node in spec.nodes:
        if node.name == name or (or_input and name == INPUT):
            return node
    names = [node.name for node in spec.nodes] + [INPUT] * or_input
    refuse(f"the network has no node {name!r}", None, nearest(name, names))


def check_weights(spec: NetSpec, weights: Weights) -> dict[str, np.ndarray]:
    """Copies of the weights, if they are those of the network."""
    shapes = spec.parameter_shapes(trainable=False)
    check_match(weights, shapes, "weights")
    if set(weights) != set(shapes):
        refuse(
            "weights must be all that the network has",
            f"without {', '.join(sorted(set(shapes) - set(weights)))}",
        )
    return {name: np.array(weights[name]) for name in shapes}
