"""Which nodes (neurons, filters) leave together, read off the description.

A *node* is one output channel of a dense layer or a convolution, with every other channel that it cannot
leave without: an addition or a gate joins its inputs channel by channel, a depthwise or grouped convolution
joins what its groups read and write. Coupled channels are one node. Chapters 14 and 15 teach it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from nnopt_lib.checks import nearest, refuse
from nnopt_lib.structure.spec import INPUT, NetSpec, Node

FIXED = -1
# Their inputs keep all channels: heads are of equal size, and a position is added where a node would be 0.
_WHOLE = ("attention", "position")


@dataclass(frozen=True)
class Nodes:
    """The nodes of a network: which channels of which of its layers leave together.

    nodes: for every layer the number of the node that each of its channels (or features) belongs to, `FIXED`
    where none can leave. groups: the numbers of the nodes that layers make together, under the first of these
    layers. layers: all layers that make a removable node, with their group.
    """

    nodes: dict[str, np.ndarray]
    groups: dict[str, np.ndarray]
    layers: dict[str, str]

    @property
    def size(self) -> int:
        """The number of prunable nodes; coupled ones count as one."""
        return sum(len(numbers) for numbers in self.groups.values())

    def kept(self, masks: Mapping[str, np.ndarray]) -> np.ndarray:
        """Which nodes stay, a boolean array (size,), by masks (channels,) of some layers, True = keep.

        A layer without a mask follows those that it is coupled with. Refused: unknown layers, shapes that
        differ, channels that cannot leave, masks that disagree within a coupled group, a layer left empty.
        """
        # by: the layer whose mask spoke of a node first, so that a refusal can name both.
        kept, by = np.ones(self.size, bool), np.full(self.size, "", object)
        for layer, mask in masks.items():
            if layer not in self.nodes or layer == INPUT:
                refuse(f"the network has no layer {layer!r}", None, nearest(layer, self.layers))
            numbers, mask = self.nodes[layer], np.asarray(mask)
            if mask.dtype != np.bool_ or mask.shape != numbers.shape:
                rule = f"the mask of layer {layer!r} must be a boolean array of shape {numbers.shape}"
                refuse(rule, f"{mask.dtype} {mask.shape}")
            if not mask[numbers == FIXED].all():
                rule = f"nodes of layer {layer!r} cannot be removed"
                refuse(rule, "a mask that does", self.why_fixed(layer))
            mask, numbers = mask[numbers != FIXED], numbers[numbers != FIXED]
            seen = by[numbers] != ""
            differ = seen & (kept[numbers] != mask)
            if differ.any():
                other = by[numbers[differ.argmax()]]
                rule = f"layers {other!r} and {layer!r} are coupled and must keep the same nodes"
                refuse(rule, f"masks that differ in {int(differ.sum())} of {len(numbers)}")
            kept[numbers], by[numbers] = mask, layer
            if (kept[numbers] != mask).any():  # a grouped convolution makes several channels of one node
                rule = f"layer {layer!r} must keep or remove the channels of one group together"
                refuse(rule, f"a mask that splits {int((kept[numbers] != mask).sum())} of them")
        for layer in self.layers:
            if not self.channels(layer, kept).any():
                refuse(f"a layer must keep at least one node; layer {layer!r}", "a mask that removes all")
        return kept

    def why_fixed(self, layer: str) -> str:
        """The sentence that says why nodes of a layer stay."""
        return (
            "They are outputs of the network, joined to its inputs or outputs, or read by attention "
            "or a position encoding."
        )

    def channels(self, name: str, kept: np.ndarray) -> np.ndarray:
        """Which channels of a value stay if the nodes `kept` do; boolean, a new array."""
        numbers = self.nodes[name]
        return np.where(numbers == FIXED, True, kept[numbers])


@dataclass(frozen=True)
class Coupling(Nodes):
    """The nodes of a description. What `couple` returns.

    Here `nodes` has every value of the network, ``"input"`` included. `FIXED` are the network's inputs and
    outputs, what is joined to them, and what attention or a position encoding reads.
    """

    spec: NetSpec


def couple(spec: NetSpec) -> Coupling:
    """The nodes of `spec`, and which of its layers make them together. Time grows with channels, linearly.

    Example:
        >>> from nnopt_lib import mlp
        >>> coupling = couple(mlp((3, 2), inputs=4, outputs=2))
        >>> coupling.groups
        {'dense_1': array([0, 1, 2]), 'dense_2': array([3, 4])}
    """
    # Every output channel of a layer begins as a node of its own; edges join those that leave together.
    first: dict[str, np.ndarray] = {INPUT: np.arange(spec.input_shape[0])}
    edges: list[tuple[np.ndarray, np.ndarray]] = []
    total = spec.input_shape[0]
    for node in spec.nodes:
        if node.has_kernel:
            first[node.name] = np.arange(total, total + spec.shapes[node.name][0])
            total += len(first[node.name])
            if node.groups > 1:
                edges.append(_within_groups(first[node.inputs[0]], first[node.name], node))
        else:
            first[node.name] = _passed_on(spec, node, [first[name] for name in node.inputs], edges)
    labels = components(total, edges)
    fixed = np.zeros(total, bool)
    fixed[labels[first[INPUT]]] = True
    fixed[labels[first[spec.output]]] = True
    for node in spec.nodes:
        if node.op in _WHOLE:
            fixed[labels[np.concatenate([first[name] for name in node.inputs])]] = True
    makers = [node.name for node in spec.nodes if node.has_kernel]
    number = numbered(labels, fixed, [labels[first[name]] for name in makers])
    nodes = {name: number[labels[channels]] for name, channels in first.items()}
    return Coupling(nodes, *grouped(makers, nodes), spec)


def numbered(labels: np.ndarray, fixed: np.ndarray, made: Sequence[np.ndarray]) -> np.ndarray:
    """Numbers of nodes by component, in the order in which layers first make them; `FIXED` where none is.

    labels: the component of each channel. fixed: which components stay. made: components, layer by layer.
    """
    order = np.concatenate([*made, np.empty(0, int)]).astype(int)
    order = order[~fixed[order]]
    _, first_seen = np.unique(order, return_index=True)
    number = np.full(len(fixed), FIXED)
    number[order[np.sort(first_seen)]] = np.arange(len(first_seen))
    return number


def _within_groups(read: np.ndarray, made: np.ndarray, node: Node) -> tuple[np.ndarray, np.ndarray]:
    """Edges that join all channels that one group of a convolution reads and makes."""
    each = np.concatenate([part.reshape(node.groups, -1) for part in (read, made)], axis=1)
    return np.repeat(each[:, 0], each.shape[1] - 1), each[:, 1:].ravel()


def _passed_on(
    spec: NetSpec, node: Node, inputs: list[np.ndarray], edges: list[tuple[np.ndarray, np.ndarray]]
) -> np.ndarray:
    """The channels of an operation without a kernel; additions and products add their edges."""
    if node.op == "flatten":
        return np.repeat(inputs[0], math.prod(spec.shapes[node.inputs[0]][1:]))
    if node.op == "concat":
        return np.concatenate(inputs)
    if node.op == "attention":  # it mixes positions; channels are those of the value
        return inputs[2]
    edges += [(inputs[0], other) for other in inputs[1:]]
    return inputs[0]


def components(total: int, edges: list[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """The number of the connected component of each of `total` points."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    none = np.empty(0, int)
    a = np.concatenate([one for one, _ in edges] or [none])
    b = np.concatenate([other for _, other in edges] or [none])
    graph = coo_array((np.ones(len(a), np.int8), (a, b)), shape=(total, total))
    return connected_components(graph, directed=False)[1]


def grouped(makers: list[str], nodes: dict[str, np.ndarray]) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Layers that share a node are one group, and so on: concatenations can join several."""
    removable = {name: nodes[name][nodes[name] != FIXED] for name in makers}
    removable = {name: np.unique(numbers) for name, numbers in removable.items() if len(numbers)}
    most = 1 + max((int(numbers.max()) for numbers in removable.values()), default=-1)
    # Each layer is a point beside the nodes, joined with those it makes: components are the groups.
    links = [
        (np.full(len(numbers), most + layer), numbers) for layer, numbers in enumerate(removable.values())
    ]
    labels = components(most + len(removable), links)
    name_of: dict[int, str] = {}
    layers = {
        name: name_of.setdefault(int(labels[most + layer]), name) for layer, name in enumerate(removable)
    }
    groups = {name: np.flatnonzero(labels[:most] == label) for label, name in name_of.items()}
    return groups, layers
