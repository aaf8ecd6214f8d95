"""The edit that makes a network smaller: a layer, a part of its width or an edge leaves.

It undoes what the other edits do, and with weights it can insist that the outputs stay what they were.
Chapters 03 and 05 use it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from nnopt_lib.checks import check_int, refuse
from nnopt_lib.structure.coupling import FIXED, Coupling, couple
from nnopt_lib.structure.edits.deepen import identity, never_negative
from nnopt_lib.structure.edits.resize import Resized, resizable, resize
from nnopt_lib.structure.operations import Shape
from nnopt_lib.structure.spec import INPUT, NetSpec, Node, check_value, split_name
from nnopt_lib.structure.weights import Weights, check_weights


def shrink(
    spec: NetSpec,
    node: str | None = None,
    *,
    width: int | None = None,
    edge: tuple[str, str] | None = None,
    weights: Weights | None = None,
    preserve: bool = True,
) -> tuple[NetSpec, dict[str, np.ndarray] | None]:
    """Take a node, some of a layer's width, or an edge out of a network; what nobody reads any more leaves.

    Parameters:
        spec: the network. node: a node with one input and an output of the same shape, which leaves; with
            `width` a layer, which gets narrower. edge: (source, target) instead, an input of a node that
            adds, concatenates or multiplies.
        weights: of `spec`. With `preserve` only what changes no output may go: layers that are the identity,
            nodes that equal each other or that nothing reads, edges that add 0; `deepen`, `widen` and
            `connect` make such. Without it the nodes with the largest rows stay (sum of sizes), and the
            others, the layer or the edge simply leave; `prune` and `remove_nodes` choose better.

    Returns the new description and its weights, new arrays, or None without `weights`. Errors: nothing like
    that in the network, shapes that would no longer fit, and, with `preserve`, what cannot leave without a
    change.

    Example:
        >>> from nnopt_lib import mlp
        >>> narrower, _ = shrink(mlp((8,), inputs=4, outputs=2), "dense_1", width=5)
        >>> narrower.shapes["dense_1"]
        (5,)
    """
    carried = None if weights is None else check_weights(spec, weights)
    if (node is None) == (edge is None):
        refuse("shrink takes a node or an edge", "both" if node else "neither")
    if edge is not None:
        return _without_edge(spec, edge, carried, preserve)
    assert node is not None
    if width is not None:
        return _narrower(spec, node, width, carried, preserve)
    return _without_node(spec, node, carried, preserve)


def _narrower(
    spec: NetSpec, node: str, width: int, weights: dict[str, np.ndarray] | None, preserve: bool
) -> tuple[NetSpec, dict[str, np.ndarray] | None]:
    coupling, numbers = resizable(spec, node)
    leave = len(numbers) - check_int("width", width, at_least=1)
    if leave <= 0:
        refuse(f"shrink needs a width below the {len(numbers)} nodes that {node!r} has", width)
    merged = None
    if weights is None:
        gone = numbers[width:]
    elif preserve:
        merged, free = _redundant(coupling, numbers, weights)
        if len(free) < leave:
            remedy = "Pass preserve=False, or choose with prune and remove_nodes."
            rule = (
                f"{len(free)} of the {len(numbers)} nodes of {node!r} can leave without changing the function"
            )
            refuse(rule, f"width {width}, so {leave} of them", remedy)
        gone = free[:leave]
        kept = np.setdiff1d(np.arange(coupling.size), gone)
        merged[kept] = kept
    else:  # stable: of equal nodes the first ones stay, as everywhere
        gone = numbers[np.argsort(-_sizes(coupling, weights)[numbers], kind="stable")[width:]]
    copies = np.ones(coupling.size, int)
    copies[gone] = 0
    resized = resize(coupling, copies, merged)
    return resized.spec(), None if weights is None else resized.weights(weights)


def _sizes(coupling: Coupling, weights: Weights) -> np.ndarray:
    """The sum of sizes of each node's kernel rows, over all the layers that make it; (nodes,)."""
    sizes = np.zeros(coupling.size)
    for name, rows in _rows(coupling, weights):
        if name.endswith("/kernel"):
            row_sizes = np.abs(weights[name]).reshape(len(rows), -1).sum(1)
            # add.at, since channels of a group are one node, and would overwrite each other with +=.
            np.add.at(sizes, rows[rows != FIXED], row_sizes[rows != FIXED])
    return sizes


def _rows(coupling: Coupling, weights: Weights) -> Iterator[tuple[str, np.ndarray]]:
    """The name of every array with rows that nodes own, and the numbers of these nodes, row by row."""
    for name in weights:
        numbers = coupling.nodes[split_name(name)[0]]
        if (numbers != FIXED).any():
            yield name, numbers


def _redundant(coupling: Coupling, numbers: np.ndarray, weights: Weights) -> tuple[np.ndarray, np.ndarray]:
    """Who answers for each node, and which of `numbers` can leave: equal to an earlier one, or not read."""
    # Bytes, so that equal nodes meet in a dict; near ones must not, or the function would change.
    rows_of: dict[int, list[bytes]] = {int(number): [] for number in numbers}
    for name, owners in _rows(coupling, weights):
        for row, number in enumerate(owners.tolist()):
            if number in rows_of:
                rows_of[number].append(name.encode() + weights[name][row].tobytes())
    read = np.zeros(coupling.size, bool)
    for node in coupling.spec.nodes:
        if node.has_kernel and node.groups == 1:
            kernel, source = weights[f"{node.name}/kernel"], coupling.nodes[node.inputs[0]]
            used = kernel.swapaxes(0, 1).reshape(len(source), -1).any(1) & (source != FIXED)
            read[source[used]] = True
    merged, first = np.arange(coupling.size), dict[bytes, int]()
    for number in numbers.tolist():
        merged[number] = first.setdefault(b"|".join(rows_of[number]), number)
    # Who answers for another must stay, even if nothing reads it itself.
    answering = set(merged[[number for number in numbers if merged[number] != number]].tolist())
    free = [n for n in numbers.tolist() if merged[n] != n or (not read[n] and n not in answering)]
    return merged, np.asarray(free, int)


def _without_node(
    spec: NetSpec, name: str, weights: dict[str, np.ndarray] | None, preserve: bool
) -> tuple[NetSpec, dict[str, np.ndarray] | None]:
    node = spec.node(name)
    if len(node.inputs) > 1:
        refuse(
            f"{name!r} reads several nodes",
            None,
            f"Name one of its edges: edge=({node.inputs[0]!r}, {name!r}).",
        )
    source = node.inputs[0]
    if spec.shapes[name] != spec.shapes[source]:
        rule = f"a node leaves only if its output has the shape of its input; {name!r}"
        refuse(rule, f"{spec.shapes[source]} to {spec.shapes[name]}")
    if name == spec.output and source == INPUT:
        refuse("a network needs at least one node", "the last one leaving")
    if weights is not None and preserve and not _is_identity(spec, node, weights):
        remedy = "Pass preserve=False to let it go anyway."
        refuse(f"{name!r} cannot leave without changing the function", "one that is not the identity", remedy)
    return _rewired(spec.input_shape, spec.nodes, {name: source}, weights)


def _is_identity(spec: NetSpec, node: Node, weights: Weights) -> bool:
    arrays = {part: weights[f"{node.name}/{part}"] for part in _PARTS if f"{node.name}/{part}" in weights}
    if node.has_kernel:
        kernel = arrays["kernel"]
        square = node.groups == 1 and all(size % 2 for size in kernel.shape[2:])
        return square and np.array_equal(kernel, identity(kernel)) and not np.any(arrays.get("bias", 0))
    if node.op == "batch_norm":
        slope = arrays["scale"] / np.sqrt(arrays["variance"] + node.options["eps"])
        offset = arrays["shift"] - slope * arrays["mean"]
        # Not exactly: sqrt(1 + eps), which `deepen` puts into the scale, is rounded to float32.
        return bool(np.allclose(slope, 1, atol=1e-6) and np.allclose(offset, 0, atol=1e-6))
    return node.op == "activation" and node.options["kind"] == "relu" and never_negative(spec, node.inputs[0])


_PARTS = ("kernel", "bias", "scale", "shift", "mean", "variance")


def _without_edge(
    spec: NetSpec, edge: tuple[str, str], weights: dict[str, np.ndarray] | None, preserve: bool
) -> tuple[NetSpec, dict[str, np.ndarray] | None]:
    source, target = edge
    node = spec.node(target)
    check_value(spec, source)
    if source not in node.inputs:
        refuse(f"{target!r} does not read {source!r}", None, f"It reads {', '.join(node.inputs)}.")
    if node.op not in ("add", "concat", "multiply"):
        remedy = "Take the node out instead."
        refuse(
            f"an edge leaves only a node that adds, concatenates or multiplies; {target!r}", node.op, remedy
        )
    position = node.inputs.index(source)  # a node may be read twice; the first of the two leaves
    nodes, changed = list(spec.nodes), weights
    if node.op == "concat":  # the only join whose readers lose columns
        resized = _without_part(spec, node, position)
        nodes, changed = resized.nodes(), None if weights is None else resized.weights(weights)
        nothing = weights is None or _not_read(resized, weights)
    else:
        nothing = weights is None or (node.op == "add" and _zero(spec, source, weights))
    if preserve and not nothing:
        rule = f"the edge from {source!r} to {target!r} cannot leave without changing the function"
        refuse(rule, "one that adds something", "Pass preserve=False to let it go anyway.")
    left = tuple(name for i, name in enumerate(node.inputs) if i != position)
    if node.op == "multiply" and all(spec.shapes[name] != spec.shapes[target] for name in left):
        refuse(f"without {source!r} nothing of the shape of {target!r} is left", spec.shapes[left[0]])
    if len(left) == 1:
        return _rewired(spec.input_shape, nodes, {target: left[0]}, changed)
    nodes = [replace(n, inputs=left) if n.name == target else n for n in nodes]
    return _rewired(spec.input_shape, nodes, {}, changed)


def _without_part(spec: NetSpec, concat: Node, position: int) -> Resized:
    """The network whose readers of a concatenation no longer see the channels of one of its inputs."""
    widths = [spec.shapes[name][0] for name in concat.inputs]
    part = np.repeat(np.arange(len(widths)), widths)  # (channels,): which input each comes from
    coupling = couple(spec)
    kept = {concat.name: np.flatnonzero(part != position)}
    return resize(coupling, np.ones(coupling.size, int), values=kept)


def _not_read(resized: Resized, weights: Weights) -> bool:
    """Whether every kernel's columns are 0 for the channels that have left."""
    for node in resized.before.nodes:
        if node.has_kernel and node.groups == 1:
            source = node.inputs[0]
            gone = np.setdiff1d(np.arange(len(resized.merged[source])), resized.index[source])
            if weights[f"{node.name}/kernel"][:, gone].any():
                return False
    return True


def _zero(spec: NetSpec, name: str, weights: Weights) -> bool:
    """Whether a layer gives 0 whatever it reads."""
    parts = [weights[key] for part in ("kernel", "bias") if (key := f"{name}/{part}") in weights]
    return bool(parts) and not any(part.any() for part in parts)


def _rewired(
    input_shape: Shape, nodes: Sequence[Node], instead: Mapping[str, str], weights: Weights | None
) -> tuple[NetSpec, dict[str, np.ndarray] | None]:
    """The network in which readers of a node in `instead` read what stands there; unread nodes leave."""
    nodes = [replace(n, inputs=tuple(instead.get(name, name) for name in n.inputs)) for n in nodes]
    read = {instead.get(nodes[-1].name, nodes[-1].name)}
    # From the end: a node stays if one that stays reads it.
    for node in reversed(nodes):
        read |= set(node.inputs) if node.name in read else set()
    spec = NetSpec(input_shape, tuple(n for n in nodes if n.name in read))
    if weights is None:
        return spec, None
    return spec, {name: value for name, value in weights.items() if split_name(name)[0] in read}
