"""The edit that lets a network grow deeper; with weights, its function stays.

It takes a description and gives a new one. With `weights` (canonical names and layout, as `get_weights` and
`Stack.weights` give them) it gives the new weights too, and by default the outputs stay what they were, in
evaluation mode, up to rounding (Chen, Goodfellow & Shlens 2016). Chapter 03 uses it.
"""

from __future__ import annotations

import numpy as np

from nnopt_lib.checks import check_choice, check_int, refuse
from nnopt_lib.structure.graph import Graph, insert
from nnopt_lib.structure.spec import INPUT, NetSpec, check_value, split_name
from nnopt_lib.structure.weights import Weights, check_weights, initial_weights


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
) -> tuple[NetSpec, dict[str, np.ndarray] | None]:
    """Put a layer of equal width behind a node; all that read the node read the new layer's output.

    Parameters:
        spec: the network. after: a node of it, but not the last, or ``"input"``.
        kind: ``"plain"``, a dense layer or a convolution (odd `kernel`) with batch normalization if asked and
            activation; ``"residual"``, two of them with a shortcut around.
        weights: of `spec`. With `preserve` a plain layer begins as the identity, which needs values at
            `after` that are never negative if the activation is ReLU, and no other activation; the branch of
            a residual one begins at 0, which always works. Without `preserve` layers are drawn by `seed`.

    Returns the new description and its weights, new arrays, or None without `weights`. Errors: no such node,
    an even kernel, an activation through which the identity does not pass.

    Example:
        >>> from nnopt_lib import mlp
        >>> deeper, _ = deepen(mlp((8,), inputs=4, outputs=2), "activation_1")
        >>> [node.name for node in deeper.nodes]
        ['dense_1', 'activation_1', 'dense_3', 'activation_2', 'dense_2']
    """
    check_value(spec, after)
    check_choice("kind", kind, ("plain", "residual"))
    if check_int("kernel", kernel, at_least=1) % 2 == 0:
        refuse("kernel must be odd, so that padding keeps the size", kernel)
    if after == spec.output:
        refuse(f"nothing can stand behind {after!r}, the output", None, "Name a node before it.")
    if kind == "residual" and activation is None:
        refuse("a residual layer needs an activation between its two layers", None)
    if weights is not None and preserve and kind == "plain" and activation is not None:
        _check_identity_passes(spec, after, activation)
    new, shape = Graph(spec.shapes), spec.shapes[after]
    last = new.add_layer(after, shape, kernel)
    last = new.add("batch_norm", last) if batch_norm else last
    last = new.add("activation", last, kind=activation) if activation else last
    if kind == "residual":
        last = new.add("add", after, new.add_layer(last, shape, kernel))
    position = 0 if after == INPUT else spec.nodes.index(spec.node(after)) + 1
    readers = {n.name: tuple(last if name == after else name for name in n.inputs) for n in spec.nodes}
    deeper = insert(spec, position, new.nodes, readers)
    if weights is None:
        return deeper, None
    # Drawn for the whole network, so that a layer's first weights depend on the seed and on where it stands.
    added, carried = {node.name for node in new.nodes}, check_weights(spec, weights)
    first = initial_weights(deeper, seed)
    carried |= {name: value for name, value in first.items() if split_name(name)[0] in added}
    if preserve:
        _begin_without_effect(new, carried, kind)
    return deeper, carried


def _begin_without_effect(new: Graph, carried: dict[str, np.ndarray], kind: str) -> None:
    """The last new layer becomes the identity, or 0 at the end of a branch; changes `carried` in place."""
    last = f"{[node for node in new.nodes if node.has_kernel][-1].name}/kernel"
    carried[last] = np.zeros_like(carried[last]) if kind == "residual" else identity(carried[last])
    for node in new.nodes:
        if kind == "plain" and node.op == "batch_norm":
            # It divides by sqrt(variance + eps), with a fresh variance of 1: the scale takes that back.
            carried[f"{node.name}/scale"] *= np.float32(np.sqrt(1 + node.options["eps"]))


def identity(kernel: np.ndarray) -> np.ndarray:
    """Zeros, and ones that pass each channel on: in the middle of a convolution's window."""
    new = np.zeros_like(kernel)
    diagonal = np.arange(len(kernel))
    # Kernels are odd and padded by half: in the middle a window reads the position that it writes.
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
    if name == INPUT:
        return False
    node = spec.node(name)
    if node.op == "activation":
        return node.options["kind"] in ("relu", "sigmoid")
    passing = ("max_pool", "avg_pool", "global_pool", "flatten", "add", "concat", "multiply")
    return node.op in passing and all(never_negative(spec, source) for source in node.inputs)
