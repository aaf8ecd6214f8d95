"""The edit that lets a network grow deeper; with weights, its function stays.

It takes a description and gives a new one. With `weights` (canonical names and layout, as `get_weights` and
`Stack.weights` give them) it gives the new weights too, and by default the outputs stay what they were, in
evaluation mode, up to rounding (Chen, Goodfellow & Shlens 2016). Chapter 03 uses it.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from nnopt_lib.checks import check_choice, check_int, refuse
from nnopt_lib.structure.graph import Inserted
from nnopt_lib.structure.spec import KERNELS, NetSpec, check_node
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
    new = Inserted(spec, after)
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


def _begin_without_effect(new: Inserted, carried: dict[str, np.ndarray], kind: str) -> None:
    """The last new layer becomes the identity, or 0 at the end of a branch; changes `carried` in place."""
    last = f"{[node for node in new.nodes if node.op in KERNELS][-1].name}/kernel"
    carried[last] = np.zeros_like(carried[last]) if kind == "residual" else identity(carried[last])
    for node in new.nodes:
        if kind == "plain" and node.op == "batch_norm":  # its running mean is 0, its variance 1
            carried[f"{node.name}/scale"] *= np.float32(np.sqrt(1 + node.options["eps"]))


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
