"""The channels of any model that runs: which leave together, where they stand in its tensors, what stays."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from nnopt_lib.checks import NnoptError, refuse
from nnopt_lib.frameworks import mask_backend_of, reading_backend_of, removal_backend_of
from nnopt_lib.structure.coupling import FIXED, Nodes, couple
from nnopt_lib.structure.reading import Channels, Reading
from nnopt_lib.structure.spec import NetSpec

_BY_DESCRIPTION = "joined to inputs or outputs of the network, or read by attention or a position encoding"


@dataclass(frozen=True)
class ReadModel:
    """A model that was read: its channels, and what its adapter needs to cut it."""

    channels: Channels
    details: Any


def read_channels(model: Any, example_input: Any = None, kind: str | None = "node") -> ReadModel:
    """Read `model` by running it on `example_input`; refuses one in which nothing can be removed.

    kind: ``"node"``, ``"head"``, or None for both. Operations whose code may hold a number of channels (a
    view, a split) are tried for one kind: half of the nodes that they see are removed, and where the smaller
    model does not run or gives other outputs than the masked one, these nodes stay whole, with that reason.
    """
    reading = reading_backend_of(model).read(model, example_input)
    spec = getattr(model, "spec", None)
    if isinstance(spec, NetSpec):  # what its description cannot say of a smaller one stays
        coupling = couple(spec)
        for layer, labels in reading.made.items():
            reading.labels.fix(labels[coupling.nodes[layer] == FIXED], _BY_DESCRIPTION)
    channels = reading.channels(kind)
    reading.refuse_empty(channels, kind)
    if reading.sized and kind:
        channels = _tried(model, reading, kind)
        reading.refuse_empty(channels, kind)
    return ReadModel(channels, reading.details)


def _tried(model: Any, reading: Reading, kind: str) -> Channels:
    """Channels without those of operations that cannot do with fewer of them."""
    places: dict[str, list[np.ndarray]] = {}
    for where, labels in reading.sized:
        places.setdefault(where, []).append(labels)
    problem = _problem(model, reading, kind, [*places.values()])
    if problem is None:
        return reading.channels(kind)
    # Together they fail: each kind of place by itself, with those before it that did not fail.
    good: list[list[np.ndarray]] = []
    for where in places:
        problem = _problem(model, reading, kind, [*good, places[where]])
        if problem is None:
            good.append(places[where])
        else:
            for labels in places[where]:
                reading.labels.fix(labels, f"{where} cannot do with fewer channels ({problem})")
    return reading.channels(kind)


def _problem(model: Any, reading: Reading, kind: str, places: list[list[np.ndarray]]) -> str | None:
    """What goes wrong if half of the nodes seen at these places are removed; None if nothing does."""
    channels = reading.channels(kind)
    number, _, _ = reading.numbers(kind)
    seen = np.unique(np.concatenate([number[labels] for place in places for labels in place]))
    seen = seen[seen != FIXED]
    kept = half_of(channels, seen)
    if kept.all():
        return None
    backend = removal_backend_of(model)
    try:
        added, exact = folded(model, channels, kept, fold=True)
        small = backend.cut(model, channels, kept, reading.details, added)
        return backend.difference(model, small, channels, kept, reading.details) if exact else None
    except NnoptError as error:
        return str(error)


def half_of(nodes: Nodes, among: np.ndarray) -> np.ndarray:
    """Every second one of these nodes leaves, but never the last of a layer; boolean (size,), True = stays."""
    kept = np.ones(nodes.size, bool)
    # At random: a pattern might be one that wrong code survives.
    kept[np.random.default_rng(0).permutation(among)[: (len(among) + 1) // 2]] = False
    for layer in nodes.layers:
        numbers = nodes.nodes[layer]
        if not (numbers == FIXED).any() and not kept[numbers].any():
            kept[numbers[0]] = True
    return kept


def folded(
    model: Any, channels: Channels, kept: np.ndarray, *, fold: bool
) -> tuple[dict[str, np.ndarray], bool]:
    """What removed nodes give to the layers that read them, to be added to biases; and whether it is exact.

    Exact for dense layers and for convolutions without padding. Under zero padding a convolution sees the
    constant inside and zeros at the border, so there the outputs of the border change. With ``fold=False``
    anything to fold is refused.
    """
    added, exact = {}, True
    for read in channels.reads:
        gone = (read.inputs != FIXED) & ~kept[read.inputs]
        constant = np.where(gone, read.held, 0.0)
        if not constant.any():
            continue
        if not fold:
            rule = f"removing nodes that layer {read.layer!r} reads would change its outputs"
            remedy = "Pass fold=True to add it to the layer's bias (under zero padding, borders differ)."
            made = f"{constant[constant != 0][0]:.3g}"
            refuse(rule, f"an activation that makes {made} of their 0, and fold=False", remedy)
        # In float64: a sum over hundreds of inputs would cost the fifth digit that is promised.
        kernel = mask_backend_of(model).weights(model, [read.kernel])[read.kernel].astype(np.float64)
        summed = kernel.reshape(*kernel.shape[:2], -1).sum(2) @ constant
        added[read.kernel] = summed[channels.channels(read.layer, kept)]
        exact = exact and not read.padded
    return added, exact
