"""The channels of any model that runs: which leave together, where they stand in its tensors, what stays."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from nnopt_lib.checks import NnoptError
from nnopt_lib.frameworks import reading_backend_of, removal_backend_of
from nnopt_lib.structure.coupling import FIXED, Nodes
from nnopt_lib.structure.reading import Channels, Reading


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
        small = backend.cut(model, channels, kept, reading.details)
        return backend.difference(model, small, channels, kept, reading.details)
    except NnoptError as error:
        return str(error)


def half_of(nodes: Nodes, among: np.ndarray) -> np.ndarray:
    """Every second one of these nodes leaves, but never the last of a layer; boolean (size,), True = stays."""
    kept = np.ones(nodes.size, bool)
    # At random: a pattern might be one that wrong code survives.
    kept[np.random.default_rng(0).permutation(among)[: len(among) // 2]] = False
    for layer in nodes.layers:
        numbers = nodes.nodes[layer]
        if not (numbers == FIXED).any() and not kept[numbers].any():
            kept[numbers[0]] = True
    return kept
