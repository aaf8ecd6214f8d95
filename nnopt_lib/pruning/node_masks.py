"""Masks on nodes, decided by importance, and what they mean for the weights."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from nnopt_lib.checks import check_choice, nearest, refuse
from nnopt_lib.frameworks import mask_backend_of
from nnopt_lib.models.channels import ReadModel, read_channels, trouble
from nnopt_lib.pruning.importance import NODE_SCORES, by_weights, keep_nodes
from nnopt_lib.pruning.masks import Masks, read_parts, write_parts
from nnopt_lib.pruning.patterns import fractions_of, matching
from nnopt_lib.structure.coupling import FIXED, Coupling
from nnopt_lib.structure.reading import Channels
from nnopt_lib.structure.spec import split_name

LAYERS_ONLY = (
    "masks on nodes must say what they mean for weights to be held or applied",
    "one array for each layer",
    "Take those of prune, or of NodeMasks.load.",
)


class NodeMasks(Masks):
    """One boolean array (channels,) per layer, **True = keep**; coupled nodes count as one.

    Example:
        >>> from nnopt_lib import build, mlp, prune
        >>> prune(build(mlp((8,), inputs=4, outputs=2)), sparsity=0.5, granularity="node")
        NodeMasks(sparsity 0.5: 4 of 8 nodes removed, 1 array; 1 layer whole, see .whole)
    """

    _unit = "nodes"
    _kept: np.ndarray | None = None  # (nodes,); without it all channels are counted
    _weights: Masks | None = None
    _whole: Mapping[str, str] = MappingProxyType({})

    def __repr__(self) -> str:
        count = len(self.whole)
        whole = f"; {count} layer{'s' * (count != 1)} whole, see .whole" if count else ""
        return f"{super().__repr__().removesuffix(')')}{whole})"

    @property
    def whole(self) -> Mapping[str, str]:
        """The layers that keep all their nodes, with the reason."""
        return MappingProxyType(dict(self._whole))

    @property
    def weights(self) -> Masks:
        """The same as masks on the model's weights: kernel rows, biases, normalization scales and shifts."""
        if self._weights is None:
            refuse(*LAYERS_ONLY)
        return self._weights

    @property
    def size(self) -> int:
        """The number of prunable nodes."""
        return super().size if self._kept is None else len(self._kept)

    @property
    def removed(self) -> int:
        """The number of removed nodes."""
        return super().removed if self._kept is None else int((~self._kept).sum())

    def save(self, path: str | Path) -> None:
        """Write to a safetensors file, with what they mean for weights; whole or not at all."""
        if self._kept is None:
            return super().save(path)
        parts = {"layers": self, "weights": self.weights, "nodes": {"kept": self._kept}}
        write_parts(path, parts, self.whole)

    @classmethod
    def load(cls, path: str | Path) -> NodeMasks:
        """Read what `save` wrote, to be held again; a file of other masks is refused in one sentence."""
        rule = f"{path} must be a whole file that NodeMasks.save wrote"
        parts, whole = read_parts(path, rule)
        if set(parts) != {"layers", "weights", "nodes"} or set(parts["nodes"]) != {"kept"}:
            refuse(rule, "other masks", "Load those on weights by Masks.load.")
        return cls.of_nodes(parts["layers"], parts["nodes"]["kept"], Masks(parts["weights"]), whole)

    @classmethod
    def of_nodes(
        cls,
        layers: dict[str, np.ndarray],
        kept: np.ndarray,
        weights: Masks,
        whole: Mapping[str, str] | None = None,
    ) -> NodeMasks:
        """From masks per layer, what they say of each node and of weights, and why layers stay whole."""
        masks = cls(layers)
        masks._kept, masks._weights, masks._whole = kept, weights, dict(whole or {})
        return masks


def node_masks(
    model: Any,
    *,
    granularity: str,
    sparsity: float | Mapping[str, float],
    score: str | Mapping[str, np.ndarray],
    scope: str,
    round_to: int,
    rounding: str,
    previous: Masks | None,
    example_input: Any,
    skip: Sequence[str],
    seed: int,
) -> NodeMasks:
    """What `prune` with ``granularity="node"`` or ``"head"`` decides; the model stays as it is."""
    if isinstance(score, str):
        check_choice("score", score, NODE_SCORES)
    options: dict[str, Any] = {"scope": scope, "round_to": round_to, "rounding": rounding, "skip": skip}
    read = read_channels(model, example_input, granularity)
    while True:
        channels = read.channels
        if isinstance(score, Mapping):
            scores = _given(channels, score)
        else:
            scores = by_weights(model, channels, score, seed)
        kept = _decided(channels, scores, sparsity, previous, **options)
        # Sizes in code may pass a trial by chance; what is decided must leave a model that runs.
        problem = trouble(model, read, kept) if read.reading.sized else None
        if problem is None:
            return _masks_of(channels, model, kept)
        gone = np.flatnonzero(~kept)
        groups = [np.intersect1d(nodes, gone) for nodes in channels.groups.values()]
        for nodes in [one for one in groups if _fails_alone(model, read, one)] or [gone]:
            reason = f"the model cannot do with fewer of its channels ({problem})"
            read = read.without(nodes, reason, granularity)
        read.reading.refuse_empty(read.channels, granularity)


def _fails_alone(model: Any, read: ReadModel, gone: np.ndarray) -> bool:
    kept = np.ones(read.channels.size, bool)
    kept[gone] = False
    return len(gone) > 0 and trouble(model, read, kept) is not None


def _decided(
    channels: Channels,
    scores: np.ndarray,
    sparsity: float | Mapping[str, float],
    previous: Masks | None,
    *,
    skip: Sequence[str],
    **options: Any,
) -> np.ndarray:
    """Which nodes stay, (size,)."""
    # Masks of before may come from a file: then they know layers only, and nodes are read off them again.
    before = None if previous is None else channels.kept(previous)
    options["previous"] = before
    left = _not_skipped(channels, skip)
    if isinstance(sparsity, Mapping):
        # Coupled layers leave together, so a group has one sparsity: that of its first layer with one.
        kept, by_layer = np.ones(channels.size, bool), fractions_of(sparsity, channels.layers)
        by_group: dict[str, float] = {}
        for layer, fraction in by_layer.items():
            by_group.setdefault(channels.layers[layer], fraction)
        for group, fraction in by_group.items():
            among = np.intersect1d(channels.groups[group], left)
            kept &= keep_nodes(channels, scores, sparsity=fraction, among=among, **options)
    else:
        kept = keep_nodes(channels, scores, sparsity=sparsity, among=left, **options)
    return kept


def _not_skipped(channels: Channels, skip: Sequence[str]) -> np.ndarray:
    """The nodes that no skipped layer makes; coupled ones are those of all their layers."""
    skipped = matching(skip, {**channels.nodes, **channels.whole}, "skip")
    numbers = [channels.nodes[layer] for layer in skipped if layer in channels.layers]
    left = np.setdiff1d(np.arange(channels.size), np.concatenate([np.empty(0, int), *numbers]))
    if not len(left):
        refuse("skip must leave a node to remove", f"{len(skipped)} layers that make all of them")
    return left


def _masks_of(channels: Channels, model: Any, kept: np.ndarray) -> NodeMasks:
    """`NodeMasks` under the model's own names."""
    layers = {layer: channels.channels(layer, kept) for layer in channels.layers}
    made = [axis for axis in channels.axes if axis.part and (axis.nodes != FIXED).any()]
    weights = mask_backend_of(model).weights(model, [axis.tensor for axis in made])
    masks: dict[str, np.ndarray] = {}
    for axis in made:
        shape = weights[axis.tensor].shape
        rows = np.where(axis.nodes == FIXED, True, kept[axis.nodes])
        mask = np.broadcast_to(rows.reshape([-1 if i == axis.axis else 1 for i in range(len(shape))]), shape)
        masks[axis.tensor] = mask & masks[axis.tensor] if axis.tensor in masks else np.array(mask)
    return NodeMasks.of_nodes(layers, kept, Masks._of(masks), channels.whole)


def _given(channels: Channels, score: Mapping[str, np.ndarray]) -> np.ndarray:
    """One number per node from arrays (channels,) by layer: the mean over a node's channels that have one."""
    total, count = np.zeros(channels.size), np.zeros(channels.size)
    for layer, values in score.items():
        if layer not in channels.layers:
            rule = f"scores name a layer {layer!r} that has no removable nodes"
            refuse(rule, None, nearest(layer, channels.layers))
        numbers, values = channels.nodes[layer], np.asarray(values, float)
        if values.shape != numbers.shape:
            refuse(f"scores of layer {layer!r} must have the shape {numbers.shape}", values.shape)
        removable = numbers != FIXED
        # bincount: several channels of a layer may be one node, and numbers[...] += would count one of them.
        total += np.bincount(numbers[removable], values[removable], channels.size)
        count += np.bincount(numbers[removable], None, channels.size)
    if not count.all():
        missing = [
            layer
            for layer in channels.layers
            if not count[channels.nodes[layer][channels.nodes[layer] != FIXED]].all()
        ]
        refuse("scores must cover every layer with removable nodes", f"none for {', '.join(missing)}")
    return total / count


def weight_masks(coupling: Coupling, kept: np.ndarray) -> dict[str, np.ndarray]:
    """What masking the removed nodes means for weights: ``{"conv_1/kernel": bool array of its shape, ...}``.

    Kernel rows, biases, normalization scales and shifts, for every parameter that a removable node owns.
    """
    masks, rows = {}, {}
    for name, shape in coupling.spec.parameter_shapes().items():
        layer, _ = split_name(name)
        if layer not in rows:
            rows[layer] = coupling.channels(layer, kept) if (coupling.nodes[layer] >= 0).any() else None
        row = rows[layer]
        if row is not None:
            masks[name] = row if len(shape) == 1 else row.repeat(math.prod(shape[1:])).reshape(shape)
    return masks
