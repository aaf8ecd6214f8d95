"""The edit that connects a network otherwise; with weights, its function stays, as in `deepen`.

Chapter 05 uses it.
"""

from __future__ import annotations

import numpy as np

from nnopt_lib.checks import check_choice, refuse
from nnopt_lib.structure.graph import Graph, insert
from nnopt_lib.structure.operations import Shape
from nnopt_lib.structure.spec import NetSpec, Node, check_value
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
) -> tuple[NetSpec, dict[str, np.ndarray] | None]:
    """Let a node read an earlier one too, added to what it reads or beside it.

    Parameters:
        spec: the network. source: a node before `target`, or ``"input"``. target: a node with one input; for
            ``how="concat"`` a dense layer or a convolution without groups.
        how: ``"add"``, through a 1-wide convolution or a dense layer where `projection` says so, or where
            shapes differ; ``"concat"``, pooled where positions differ.
        weights: of `spec`. With `preserve` the new weights are 0, so that the edge adds nothing yet; a plain
            shortcut has none, so it needs ``projection=True``. Without it they are drawn by `seed`.

    Returns the new description and its weights, new arrays, or None without `weights`. Errors: no such node,
    a source that does not stand before, an edge that is there, shapes that cannot be made to fit.

    Example:
        >>> from nnopt_lib import mlp
        >>> spec, _ = connect(mlp((8, 8), inputs=4, outputs=2), "activation_1", "dense_3")
        >>> spec.nodes[-2].op, spec.nodes[-2].inputs
        ('add', ('activation_2', 'activation_1'))
    """
    check_choice("how", how, ("add", "concat"))
    reader = _check_edge(spec, source, target)
    read = reader.inputs[0]
    new, shape = Graph(spec.shapes), spec.shapes[read]
    if how == "concat":
        if not reader.has_kernel or reader.groups > 1:
            what = "one with groups" if reader.has_kernel else reader.op
            refuse("a concatenation needs a dense layer or a convolution without groups to read it", what)
        if projection:
            refuse("projection belongs to how='add'", None, "Leave it out.")
        joined = new.add("concat", read, _pooled(new, spec, source, shape))
    else:
        keeps = weights is not None and preserve
        joined = new.add("add", read, _projected(new, spec, source, shape, projection, keeps))
    connected = insert(spec, spec.nodes.index(reader), new.nodes, {target: (joined,)})
    if weights is None:
        return connected, None
    fresh, carried = initial_weights(connected, seed), check_weights(spec, weights)
    for name, shape in connected.parameter_shapes(trainable=False).items():
        value = np.zeros(shape, np.float32) if preserve else fresh[name]
        if name in carried and carried[name].shape != shape:  # the old input stands first
            value[:, : carried[name].shape[1]] = carried[name]
        carried[name] = value if name not in carried or carried[name].shape != shape else carried[name]
    return connected, carried


def _check_edge(spec: NetSpec, source: str, target: str) -> Node:
    check_value(spec, source)
    reader = spec.node(target)
    order = list(spec.shapes)  # the input, then nodes as they stand
    if order.index(source) >= order.index(target):
        refuse(f"a node reads only nodes before it; {target!r} cannot read {source!r}, which comes later")
    if len(reader.inputs) != 1:
        remedy = "Name a node that reads it, or one before it."
        refuse(f"connect joins what a node with one input reads; {target!r}", f"{len(reader.inputs)}", remedy)
    if source == reader.inputs[0]:
        refuse(f"{target!r} already reads {source!r}")
    return reader


def _projected(
    new: Graph, spec: NetSpec, source: str, want: Shape, projection: bool | None, keeps: bool
) -> str:
    """`source` in the shape `want` of what it is added to."""
    have = spec.shapes[source]
    projection = have != want if projection is None else projection
    if not projection:
        if have != want:
            refuse("an addition needs equal shapes", f"{have} and {want}", "Pass projection=True.")
        if keeps:
            refuse("a shortcut without weights changes the function", None, "Pass projection=True.")
        return source
    if len(want) == 1:
        source = new.add("global_pool", source) if len(have) > 1 else source
        return new.add_layer(source, want, 1)
    _check_ranks(source, have, want)
    stride = tuple(_stride(have, want, n, m, 1) for n, m in zip(have[1:], want[1:], strict=True))
    return new.add_layer(source, want, 1, stride)


def _pooled(new: Graph, spec: NetSpec, source: str, want: Shape) -> str:
    """`source` with the positions of `want`, the shape of what it is put beside."""
    have = spec.shapes[source]
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
    for step in range(1, n + 1):  # the smallest, where several fit
        if (n - (kernel or step)) // step + 1 == m:
            return step
    refuse("no stride makes the positions of one shape those of the other", f"{have} and {want}")
