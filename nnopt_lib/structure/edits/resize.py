"""The one walk that resizes channels: each node of a network kept 0, 1 or n times.

`widen`, `shrink` and the removal of nodes share it. Each channel of each value is kept so many times as its
node asks for, copies standing beside their original, so that additions, gates, concatenations and flattening
go on fitting. Chapter 04 teaches what it is for.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from nnopt_lib.checks import refuse
from nnopt_lib.structure.coupling import FIXED, Coupling, couple
from nnopt_lib.structure.spec import INPUT, NetSpec, Node, split_name


@dataclass(frozen=True)
class Resized:
    """A network of other widths: `before` it was resized, and what became of every value's channels.

    `index` names the old channel behind each new one. `merged` says, for each old channel, which old channel
    answers for it now: itself, if it is not merged. Both hold an array for each value, by its name.
    """

    before: NetSpec
    index: dict[str, np.ndarray]
    merged: dict[str, np.ndarray]

    def nodes(self) -> list[Node]:
        """The nodes with the new numbers of units, filters and groups."""
        return [self._resized(node) if node.has_kernel else node for node in self.before.nodes]

    def _resized(self, node: Node) -> Node:
        width = len(self.index[node.name])
        size = {"units" if node.op == "dense" else "filters": width}
        if node.groups > 1:  # they keep the number of channels that each of them makes
            size["groups"] = width * node.groups // self.before.shapes[node.name][0]
        return replace(node, options={**node.options, **size})

    def spec(self) -> NetSpec:
        """The description of these nodes."""
        return NetSpec(self.before.input_shape, tuple(self.nodes()))

    def weights(
        self,
        weights: Mapping[str, np.ndarray],
        *,
        divide: bool = False,
        random: np.random.Generator | None = None,
    ) -> dict[str, np.ndarray]:
        """New arrays for `spec`: rows repeated or dropped, columns of merged channels added up.

        With `divide` a repeated channel's column is shared among its copies, so that their sum stays:
        equally, or, with `random`, every entry of it in other shares.
        """
        resized = {}
        for name, value in weights.items():
            layer, part = split_name(name)
            node, rows = self.before.node(layer), self.index[layer]
            if part != "kernel" or node.groups > 1:  # a group reads its own channels, which go with it
                resized[name] = value.take(rows, 0)
                continue
            columns, merged = self.index[node.inputs[0]], self.merged[node.inputs[0]]
            if divide or (merged != np.arange(len(merged))).any():
                # Rows last: copies of a row must get the shares that their original got.
                value = _with_columns(value, columns, merged, divide, random).take(rows, 0)
            else:  # rows first, since that leaves less to move where channels leave
                value = value.take(rows, 0).take(columns, 1)
            resized[name] = value
        return resized


def _with_columns(
    kernel: np.ndarray,
    columns: np.ndarray,
    merged: np.ndarray,
    divide: bool,
    random: np.random.Generator | None,
) -> np.ndarray:
    """A kernel (out, in, *spatial) that reads `columns` of its inputs, merged ones added up first."""
    if (merged != np.arange(len(merged))).any():
        summed = np.zeros_like(kernel)
        # add.at, since several channels may have the same one that answers for them; (in, out, *spatial).
        np.add.at(summed.swapaxes(0, 1), merged, kernel.swapaxes(0, 1))
        kernel = summed
    kernel = kernel.take(columns, 1)
    return kernel * _shares(kernel, columns, random) if divide else kernel


def _shares(kernel: np.ndarray, columns: np.ndarray, random: np.random.Generator | None) -> np.ndarray:
    """What each copy of a channel takes of a kernel (out, in, *spatial): fractions that add up to 1."""
    size = (len(kernel), len(columns), *(1,) * (kernel.ndim - 2))
    # Exponential parts over their sum: every way to share is equally likely (a flat Dirichlet).
    parts = np.ones(size) if random is None else random.exponential(size=size)
    whole = np.zeros((len(kernel), columns.max() + 1, *size[2:]))
    np.add.at(whole.swapaxes(0, 1), columns, parts.swapaxes(0, 1))
    return (parts / whole[:, columns]).astype(kernel.dtype)


def resize(
    coupling: Coupling,
    copies: np.ndarray,
    merged: np.ndarray | None = None,
    values: Mapping[str, np.ndarray] | None = None,
    *,
    whole_groups: bool = False,
) -> Resized:
    """Every node kept ``copies[number]`` times; ``merged[number]`` is the node that answers for it.

    `values` gives the channels that a value keeps, whatever its nodes ask for, to all that read it. With
    `whole_groups` groups of a convolution may leave, as in the removal of nodes: all channels of one are one
    node. Refused by name: otherwise, a grouped convolution of several channels a group that would change,
    and an addition or a gate whose inputs would no longer stand in the same order.
    """
    spec = coupling.spec
    channels = np.arange(spec.input_shape[0])
    index: dict[str, np.ndarray] = {INPUT: channels}
    answers: dict[str, np.ndarray] = {INPUT: channels}
    for node in spec.nodes:
        sources = [(index[name], answers[name]) for name in node.inputs]
        if node.has_kernel:
            count = _count(coupling, node, copies)
            if node.groups > 1 and not whole_groups and not _depthwise(spec, node):
                _check_groups_stay(node, count)
            index[node.name], answers[node.name] = _of_layer(coupling, node, count, merged, sources[0])
        elif node.op == "flatten":
            size = math.prod(spec.shapes[node.inputs[0]][1:])
            index[node.name], answers[node.name] = (_blocks(channels, size) for channels in sources[0])
        elif node.op == "concat":
            # Old channels are counted on from input to input, and `answers` has one entry for each of them.
            starts = np.cumsum([0, *(len(answer) for _, answer in sources)])[:-1]
            pairs = list(zip(sources, starts, strict=True))
            index[node.name] = np.concatenate([kept + start for (kept, _), start in pairs])
            answers[node.name] = np.concatenate([answer + start for (_, answer), start in pairs])
        else:
            _check_order(node, [kept for kept, _ in sources])
            # Attention gives the channels of its value, the third of its inputs.
            index[node.name], answers[node.name] = sources[2 if node.op == "attention" else 0]
        if values and node.name in values:
            index[node.name] = values[node.name]
    return Resized(spec, index, answers)


def _blocks(channels: np.ndarray, size: int) -> np.ndarray:
    """Each channel as the `size` consecutive ones that it becomes."""
    return (channels[:, None] * size + np.arange(size)).ravel()


def _depthwise(spec: NetSpec, node: Node) -> bool:
    return node.groups == spec.shapes[node.inputs[0]][0]


def _count(coupling: Coupling, node: Node, copies: np.ndarray) -> np.ndarray:
    """How many times each channel of a layer is kept; (channels,)."""
    numbers = coupling.nodes[node.name]
    # `copies` is empty where nothing can leave: then there is not even an entry for FIXED, -1, to hit.
    return np.where(numbers != FIXED, copies[numbers] if len(copies) else 1, 1)


def _check_groups_stay(node: Node, count: np.ndarray) -> None:
    # Channels are repeated one by one (a a b b), and a group needs consecutive ones (a b a b).
    if (count != 1).any():
        refuse(
            f"the groups of {node.name!r} cannot be resized node by node",
            f"{node.groups} groups of several channels",
        )


def _of_layer(
    coupling: Coupling,
    node: Node,
    count: np.ndarray,
    merged: np.ndarray | None,
    read: tuple[np.ndarray, np.ndarray],
) -> tuple[np.ndarray, np.ndarray]:
    """The new channels of a layer, and who answers for its old ones; `read` is the same of its input."""
    channels = np.arange(len(count))
    if node.groups > 1 and _depthwise(coupling.spec, node):
        multiplier = len(channels) // node.groups  # channels that it makes of one that it reads
        return _blocks(read[0], multiplier), _blocks(read[1], multiplier)
    answers = channels if merged is None else _answering(coupling.nodes[node.name], merged)
    return np.repeat(channels, count), answers


def _answering(numbers: np.ndarray, merged: np.ndarray) -> np.ndarray:
    """For each channel of a layer the one that answers for it: the first of the node that its node became."""
    first = {number: channel for channel, number in reversed(list(enumerate(numbers.tolist())))}
    answers = [
        channel if number == FIXED or merged[number] == number else first[int(merged[number])]
        for channel, number in enumerate(numbers.tolist())
    ]
    return np.asarray(answers, int)


def _check_order(node: Node, indices: list[np.ndarray]) -> None:
    """Inputs that are joined channel by channel must have been repeated alike."""
    alike = all(np.array_equal(kept, indices[0]) for kept in indices[1:])
    if not alike and node.op != "attention":  # of attention all channels stay as they are
        refuse(f"what {node.name!r} joins would no longer stand in the same order", "a flattened input")


def resizable(spec: NetSpec, node: str) -> tuple[Coupling, np.ndarray]:
    """The coupling, and the numbers of the layer's nodes, all different and free to change."""
    layer = spec.node(node)
    if not layer.has_kernel:
        refuse(f"only dense layers and convolutions have a width; {node!r}", layer.op)
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
