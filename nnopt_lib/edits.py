"""Edits that let a network grow deeper and connect it otherwise; with weights, its function stays.

Each takes a description and gives a new one. With `weights` (canonical names and layout, as `get_weights` and
`Stack.weights` give them) it gives the new weights too, and by default the outputs stay what they were, in
evaluation mode, up to rounding (Chen, Goodfellow & Shlens 2016). Chapters 03, 04 and 05 use them.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from nnopt_lib.checks import check_choice, check_int, refuse
from nnopt_lib.operations import Shape
from nnopt_lib.replication import KERNELS, Weights, check_node, check_weights
from nnopt_lib.spec import INPUT, NetSpec, Node, initial_weights

# ---------------------------------------------------------------- depth


def deepen(
    spec: NetSpec,
    after: str,
    *,
    kind: str = "plain",
    kernel: int = 3,
    activation: str | None = "relu",
    batch_norm: bool = False,
    weights: Weights | None = None,
    preserve: bool = True,
    seed: int = 0,
) -> Any:
    """Put a layer of equal width behind a node; all that read the node read the new layer's output.

    Parameters:
        spec: the network. after: a node of it, but not the last, or ``"input"``.
        kind: ``"plain"``, a dense layer or a convolution (odd `kernel`) with batch normalization if asked and
            activation; ``"residual"``, two of them with a shortcut around.
        weights: of `spec`. With `preserve` a plain layer begins as the identity, which needs values at
            `after` that are never negative if the activation is ReLU, and no other activation; the branch of
            a residual one begins at 0, which always works. Without `preserve` layers are drawn by `seed`.

    Returns the new description, with `weights` also new arrays. Errors: no such node, an even kernel, an
    activation through which the identity does not pass.

    Example:
        >>> from nnopt_lib import mlp
        >>> [node.name for node in deepen(mlp((8,), inputs=4, outputs=2), "activation_1").nodes]
        ['dense_1', 'activation_1', 'dense_3', 'activation_2', 'dense_2']
    """
    check_node(spec, after, or_input=True)
    check_choice("kind", kind, ("plain", "residual"))
    if check_int("kernel", kernel, at_least=1) % 2 == 0:
        refuse("kernel must be odd, so that padding keeps the size", kernel)
    if after == spec.output:
        refuse(f"nothing can stand behind {after!r}, the output", None, "Name a node before it.")
    if kind == "residual" and activation is None:
        refuse("a residual layer needs an activation between its two layers", None)
    if weights is not None and preserve and kind == "plain" and activation is not None:
        _check_identity_passes(spec, after, activation)
    new = _Inserted(spec, after)
    last = new.layer(after, kernel)
    last = new.add("batch_norm", last) if batch_norm else last
    last = new.add("activation", last, kind=activation) if activation else last
    if kind == "residual":
        last = new.add("add", after, new.layer(last, kernel))
    deeper = new.placed(last)
    if weights is None:
        return deeper
    carried = check_weights(spec, weights) | {
        name: value
        for name, value in initial_weights(deeper, seed).items()
        if name.split("/")[0] in new.names
    }
    if preserve:
        _begin_without_effect(new, carried, kind)
    return deeper, carried


def _begin_without_effect(new: _Inserted, carried: dict[str, np.ndarray], kind: str) -> None:
    """The last new layer becomes the identity, or 0 at the end of a branch; changes `carried` in place."""
    last = f"{[node for node in new.nodes if node.op in KERNELS][-1].name}/kernel"
    carried[last] = np.zeros_like(carried[last]) if kind == "residual" else identity(carried[last])
    for node in new.nodes:
        if kind == "plain" and node.op == "batch_norm":  # its running mean is 0, its variance 1
            carried[f"{node.name}/scale"] *= np.float32(np.sqrt(1 + node.options["eps"]))


class _Inserted:
    """New nodes behind `after`, with names that count on."""

    def __init__(self, spec: NetSpec, after: str) -> None:
        self.spec, self.after, self.nodes = spec, after, list[Node]()
        self.shape: Shape = spec.shapes[after]
        self.names: set[str] = set()

    def add(self, op: str, *inputs: str, **options: Any) -> str:
        taken = {node.name for node in (*self.spec.nodes, *self.nodes)}
        number = 1
        while f"{op}_{number}" in taken:
            number += 1
        self.nodes.append(Node(f"{op}_{number}", op, inputs, options))
        self.names.add(self.nodes[-1].name)
        return self.nodes[-1].name

    def layer(self, source: str, kernel: int, width: int = 0, stride: Any = 1) -> str:
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


def identity(kernel: np.ndarray) -> np.ndarray:
    """Zeros, and ones that pass each channel on: in the middle of a convolution's window."""
    new = np.zeros_like(kernel)
    diagonal = np.arange(len(kernel))
    new[(diagonal, diagonal, *(size // 2 for size in kernel.shape[2:]))] = 1
    return new


def _check_identity_passes(spec: NetSpec, after: str, activation: str) -> None:
    remedy = 'Pass kind="residual", or activation=None.'
    if activation != "relu":
        refuse(f"a plain layer with {activation} cannot keep the function", None, remedy)
    if not never_negative(spec, after):
        rule = "a plain layer with relu keeps the function only behind values that are never negative"
        refuse(rule, repr(after), remedy)


def never_negative(spec: NetSpec, name: str) -> bool:
    """Whether a value is at least 0 whatever the weights: a ReLU, a sigmoid, and pools and joins of such."""
    node = next((node for node in spec.nodes if node.name == name), None)
    if node is None:
        return False
    if node.op == "activation":
        return node.options["kind"] in ("relu", "sigmoid")
    passing = ("max_pool", "avg_pool", "global_pool", "flatten", "add", "concat", "multiply")
    return node.op in passing and all(never_negative(spec, source) for source in node.inputs)


# ---------------------------------------------------------------- connections


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
    new = _Inserted(spec, read)
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


def _projected(new: _Inserted, source: str, projection: bool | None, keeps: bool) -> str:
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


def _pooled(new: _Inserted, source: str) -> str:
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
