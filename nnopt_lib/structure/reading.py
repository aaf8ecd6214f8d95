"""What a reader learns of a model: labels of channels, where they stand in its tensors, what stays whole.

Filled by the adapters, which know the operations; turned into nodes here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from nnopt_lib.checks import refuse
from nnopt_lib.structure.coupling import FIXED, Nodes, grouped, numbered
from nnopt_lib.structure.labels import NONE, Labels
from nnopt_lib.structure.weights import layers_renamed

NODE_KINDS = ("node", "head")


@dataclass(frozen=True)
class Taught:
    """A rule of the reader's own, see `channel_rule`."""

    kind: str
    at_zero: float


TAUGHT: dict[Any, Taught] = {}
TAUGHT_KINDS = ("elementwise", "joined", "moved")
_OTHER_KIND = {
    "node": "attention heads, which granularity='head' removes",
    "head": "nodes that are no attention heads, which granularity='node' removes",
}


def layer_of(tensor: str) -> str:
    """The layer that a kernel belongs to; one that is no layer's weight is a layer by itself."""
    return tensor.removesuffix("/kernel")


@dataclass(frozen=True)
class Axis:
    """Which node each index along one axis of a tensor belongs to, `FIXED` where it stays.

    part: ``"kernel"``, ``"bias"``, ``"scale"`` or ``"shift"`` where masking the node sets these entries to 0;
    ``""`` where they only go with it.
    """

    tensor: str
    axis: int
    nodes: np.ndarray
    part: str


@dataclass(frozen=True)
class Read:
    """A kernel whose inputs are not 0 while they are masked: what they hold can be folded into its bias.

    held: (inputs,); inputs: their nodes. padded: zeros at the border, where folding is not exact.
    """

    layer: str
    kernel: str
    held: np.ndarray
    inputs: np.ndarray
    padded: bool


@dataclass(frozen=True)
class Channels(Nodes):
    """The nodes of a model, and where they stand in it.

    whole: layers that keep all their channels, with the reason. groups_of: for convolutions in groups, the
    node of each group, by kernel. number: the node of each label of the reading, `FIXED` last, for `NONE`.
    """

    axes: tuple[Axis, ...]
    reads: tuple[Read, ...]
    whole: dict[str, str]
    groups_of: dict[str, np.ndarray]
    number: np.ndarray

    def kept(self, masks: Mapping[str, np.ndarray]) -> np.ndarray:
        """As of `Nodes`; layers may have other names since (Keras changes them on loading)."""
        return super().kept(layers_renamed(masks, {name: len(self.nodes[name]) for name in self.layers}))

    def why_fixed(self, layer: str) -> str:
        """The sentence that says why nodes of a layer stay."""
        return (
            f"What stays whole there: {self.whole.get(layer, 'channels joined with such as cannot leave')}."
        )

    def made(self, part: str) -> list[Axis]:
        """The axes of all kernels (or biases, scales, shifts) along which nodes are made."""
        return [axis for axis in self.axes if axis.part == part and (axis.nodes != FIXED).any()]


@dataclass
class Reading:
    """A model as it is read.

    made: labels of the channels that each layer with a kernel makes. heads: labels of attention heads, one
    array for each attention. made_along: the tensor and axis of each layer. sized: operations whose code may
    hold the number of channels, see `note_size`.
    """

    labels: Labels = field(default_factory=Labels)
    made: dict[str, np.ndarray] = field(default_factory=dict)
    heads: list[np.ndarray] = field(default_factory=list)
    sized: list[tuple[str, np.ndarray]] = field(default_factory=list)
    groups_of: dict[str, np.ndarray] = field(default_factory=dict)
    unread: dict[str, str] = field(default_factory=dict)
    made_along: dict[str, tuple[str, int]] = field(default_factory=dict)
    details: Any = None  # what the adapter needs to cut the model
    _axes: dict[tuple[str, int], tuple[np.ndarray, str]] = field(default_factory=dict)
    _reads: list[tuple[str, np.ndarray, np.ndarray, bool]] = field(default_factory=list)

    def new_layer(self, layer: str, channels: int, axis: tuple[str, int] | None = None) -> np.ndarray:
        """Labels of the channels that a layer makes, the same at every use of it.

        axis: where they stand in which tensor, if it is one that another layer may make channels of as well,
        along another axis (an embedding that is the last layer, too).
        """
        if axis is not None and self.made_along.setdefault(layer, axis) != axis:
            layer = f"{layer} (axis {axis[1]})"
        if layer not in self.made:
            self.made[layer] = self.labels.new(channels)
        return self.made[layer]

    def axis(self, tensor: str, axis: int, labels: np.ndarray, part: str = "") -> None:
        """Labels stand along this axis of this tensor; all `NONE` says that it must stay as it is.

        A tensor that is used twice must lose the same entries for both: its labels are joined.
        """
        if (tensor, axis) in self._axes:
            before, part_before = self._axes[tensor, axis]
            labels = self.labels.join(before, labels, f"{tensor!r} is used a second time, whole")
            part = part or part_before
        self._axes[tensor, axis] = labels, part

    def read(
        self, kernel: str, labels: np.ndarray, held: Any, *, padded: bool, foldable: bool = True
    ) -> None:
        """A layer reads channels that hold something while they are masked."""
        held, layer = np.broadcast_to(held, labels.shape), layer_of(kernel)
        unknown = np.isnan(held) & (labels != NONE)
        self.labels.fix(labels[unknown], f"read by {layer!r} while they hold what other channels say")
        constant = ~unknown & (labels != NONE) & (held != 0)
        if not foldable or not kernel.endswith("/kernel"):  # then there is no bias to add it to
            self.labels.fix(labels[constant], f"read by {layer!r} while they hold a constant, not 0")
        elif constant.any():
            self._reads.append((kernel, np.nan_to_num(held), labels, padded))

    def note_size(self, where: str, labels: np.ndarray) -> None:
        """An operation at `where` (alike for modules of one class) may hold the number of these channels."""
        if (labels != NONE).any():
            self.sized.append((where, np.unique(labels[labels != NONE])))

    def _all_heads(self) -> np.ndarray:
        labels = np.concatenate([np.empty(0, int), *(one.ravel() for one in self.heads)])
        return labels[labels != NONE]

    def numbers(self, kind: str | None) -> tuple[np.ndarray, dict[int, str], np.ndarray]:
        """The node of each label, `FIXED` last, for `NONE`; why components stay; the component of labels."""
        component, reasons = self.labels.components()
        heads = np.zeros(len(component), bool)
        heads[component[self._all_heads()]] = True
        present = np.unique(component)
        for one in present[heads[present] == (kind == "node")] if kind else ():
            reasons.setdefault(int(one), _OTHER_KIND[str(kind)])
        fixed = np.zeros(len(component), bool)
        fixed[list(reasons)] = True
        number = numbered(component, fixed, [component[labels] for labels in self.made.values()])
        return np.append(number[component], FIXED), reasons, component

    def channels(self, kind: str | None = "node") -> Channels:
        """The nodes of this kind, ``"node"`` or ``"head"``, or None for both."""
        number, reasons, component = self.numbers(kind)

        def nodes_of(labels: np.ndarray) -> np.ndarray:
            return number[labels]  # NONE is -1: it reads the last entry

        nodes = {layer: nodes_of(labels) for layer, labels in self.made.items()}
        whole = dict(self.unread)
        for layer, numbers in nodes.items():
            reason = reasons.get(int(component[self.made[layer][0]]), "")
            if (numbers == FIXED).all() and reason != _OTHER_KIND["head"]:
                whole.setdefault(layer, reason)
        if kind == "head":  # then what has no heads is not spoken of
            attentions = {layer for layer in self.made if np.isin(self.made[layer], self._all_heads()).any()}
            whole = {
                layer: reason for layer, reason in whole.items() if layer in attentions | set(self.unread)
            }
        axes = tuple(
            Axis(tensor, axis, nodes_of(labels), part)
            for (tensor, axis), (labels, part) in self._axes.items()
            if (labels != NONE).any()
        )
        reads = tuple(
            Read(layer_of(kernel), kernel, held, nodes_of(labels), p)
            for kernel, held, labels, p in self._reads
        )
        groups_of = {kernel: nodes_of(labels) for kernel, labels in self.groups_of.items()}
        makers = list(self.made)
        return Channels(nodes, *grouped(makers, nodes), axes, reads, whole, groups_of, number)

    def refuse_empty(self, channels: Channels, kind: str | None) -> None:
        """A model without anything to remove is refused, by what stays whole and why."""
        if channels.size:
            return
        what = (
            "a layer whose outputs another layer reads" if kind != "head" else "attention with several heads"
        )
        shown = "; ".join(f"{layer!r}: {reason}" for layer, reason in list(channels.whole.items())[:3])
        refuse(
            f"a model to prune by {kind or 'node'}s needs {what}",
            f"none ({shown or 'no layer with a kernel'})",
        )
