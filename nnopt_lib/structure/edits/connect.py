"""The edit that connects a network otherwise; with weights, its function stays, as in `deepen`.

Chapter 05 uses it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from nnopt_lib.checks import check_choice, refuse
from nnopt_lib.structure.graph import Inserted
from nnopt_lib.structure.operations import Shape
from nnopt_lib.structure.spec import INPUT, KERNELS, NetSpec, Node, check_node
from nnopt_lib.structure.weights import Weights, check_weights, initial_weights


def connect(
    spec: NetSpec,
    source: str,
    target: str,
    *,
    how: str = "add",
    projection: bool | None = None,
    weights: Weights | None = None,
    preserve: bool = True,
    seed: int = 0,
) -> Any:
    """Let a node read an earlier one too, added to what it reads or beside it.

    Parameters:
        spec: the network. source: a node before `target`, or ``"input"``. target: a node with one input; for
            ``how="concat"`` a dense layer or a convolution without groups.
        how: ``"add"``, through a 1-wide convolution or a dense layer where `projection` says so, or where
            shapes differ; ``"concat"``, pooled where positions differ.
        weights: of `spec`. With `preserve` the new weights are 0, so that the edge adds nothing yet; a plain
            shortcut has none, so it needs ``projection=True``. Without it they are drawn by `seed`.

    Returns the new description, with `weights` also new arrays. Errors: no such node, a source that does not
    stand before, an edge that is there, shapes that cannot be made to fit.

    Example:
        >>> from nnopt_lib import mlp
        >>> spec = connect(mlp((8, 8), inputs=4, outputs=2), "activation_1", "dense_3")
        >>> spec.nodes[-2].op, spec.nodes[-2].inputs
        ('add', ('activation_2', 'activation_1'))
    """
    check_choice("how", how, ("add", "concat"))
    reader = _check_edge(spec, source, target)
    read = reader.inputs[0]
    new = Inserted(spec, read)
    if how == "concat":
        if reader.op not in KERNELS or reader.options.get("groups", 1) > 1:
            what = reader.op if reader.op not in KERNELS else "one with groups"
            refuse("a concatenation needs a dense layer or a convolution without groups to read it", what)
        if projection:
            refuse("projection belongs to how='add'", None, "Leave it out.")
        joined = new.add("concat", read, _pooled(new, source))
    else:
        joined = new.add("add", read, _projected(new, source, projection, weights is not None and preserve))
    nodes: list[Node] = []
    for node in spec.nodes:
        if node.name == target:
            nodes += new.nodes
            node = replace(node, inputs=(joined,))
        nodes.append(node)
    connected = NetSpec(spec.input_shape, tuple(nodes))
    if weights is None:
        return connected
    fresh, carried = initial_weights(connected, seed), check_weights(spec, weights)
    for name, shape in connected.parameter_shapes(trainable=False).items():
        value = np.zeros(shape, np.float32) if preserve else fresh[name]
        if name in carried and carried[name].shape != shape:  # the reader's new columns
            value[:, : carried[name].shape[1]] = carried[name]
        carried[name] = value if name not in carried or carried[name].shape != shape else carried[name]
    return connected, carried


def _check_edge(spec: NetSpec, source: str, target: str) -> Node:
    check_node(spec, source, or_input=True)
    reader = check_node(spec, target)
    order = [INPUT, *(node.name for node in spec.nodes)]
    if order.index(source) >= order.index(target):
        refuse(f"a node reads only nodes before it; {target!r} cannot read {source!r}, which comes later")
    if len(reader.inputs) != 1:
        remedy = "Name a node that reads it, or one before it."
        refuse(f"connect joins what a node with one input reads; {target!r}", f"{len(reader.inputs)}", remedy)
    if source == reader.inputs[0]:
        refuse(f"{target!r} already reads {source!r}")
    return reader


def _projected(new: Inserted, source: str, projection: bool | None, keeps: bool) -> str:
    """`source` in the shape of what it is added to."""
    have, want = new.spec.shapes[source], new.shape
    projection = have != want if projection is None else projection
    if not projection:
        if have != want:
            refuse("an addition needs equal shapes", f"{have} and {want}", "Pass projection=True.")
        if keeps:
            refuse("a shortcut without weights changes the function", None, "Pass projection=True.")
        return source
    if len(want) == 1:
        source = new.add("global_pool", source) if len(have) > 1 else source
        return new.layer(source, 1)
    _check_ranks(source, have, want)
    stride = tuple(_stride(have, want, n, m, 1) for n, m in zip(have[1:], want[1:], strict=True))
    return new.layer(source, 1, stride=stride)


def _pooled(new: Inserted, source: str) -> str:
    """`source` with the positions of what it is put beside."""
    have, want = new.spec.shapes[source], new.shape
    if len(want) == 1:
        return new.add("global_pool", source) if len(have) > 1 else source
    _check_ranks(source, have, want)
    if have[1:] == want[1:]:
        return source
    size = tuple(_stride(have, want, n, m, None) for n, m in zip(have[1:], want[1:], strict=True))
    return new.add("avg_pool", source, size=size)


def _check_ranks(source: str, have: Shape, want: Shape) -> None:
    if len(have) != len(want):
        refuse(f"{source!r} has no positions to add to the target's", f"{have} and {want}")


def _stride(have: Shape, want: Shape, n: int, m: int, kernel: int | None) -> int:
    """The step with which windows of `kernel` (None: of the step itself) make m positions of n."""
    for step in range(1, n + 1):
        if (n - (kernel or step)) // step + 1 == m:
            return step
    refuse("no stride makes the positions of one shape those of the other", f"{have} and {want}")
