"""The channels of any model that runs: which leave together, where they stand in its tensors, what stays."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from nnopt_lib.checks import NnoptError, check_choice, refuse
from nnopt_lib.frameworks import mask_backend_of, reading_backend_of, removal_backend_of
from nnopt_lib.structure.coupling import FIXED, Nodes, couple
from nnopt_lib.structure.reading import TAUGHT, TAUGHT_KINDS, Channels, Reading, Taught
from nnopt_lib.structure.spec import NetSpec

_BY_DESCRIPTION = "joined to inputs or outputs of the network, or read by attention or a position encoding"


@dataclass(frozen=True)
class ReadModel:
    """A model that was read: its channels, and how they were found."""

    channels: Channels
    reading: Reading

    @property
    def details(self) -> Any:
        """What its adapter needs to cut it."""
        return self.reading.details

    def without(self, nodes: np.ndarray, reason: str, kind: str) -> ReadModel:
        """The same with these nodes whole, for this reason."""
        labels = np.flatnonzero(np.isin(self.channels.number[:-1], nodes))
        self.reading.labels.fix(labels, reason)
        return ReadModel(self.reading.channels(kind), self.reading)


def channel_rule(op: Any, kind: str, *, at_zero: float = 0.0) -> None:
    """Teach what an operation of your own does with channels, so that what it reads need not stay whole.

    Parameters:
        op: a function that the framework sees as one (of `torch` or ``torch.ops``), or a class of
            `torch.nn.Module` or `keras.Layer` that has no weights with channels.
        kind: ``"elementwise"``: every number by itself. ``"joined"``: of several values element by element,
            whose channels then leave together. ``"moved"``: numbers change their places only, whatever they
            are; the operation is applied to the numbers of channels.
        at_zero: what it makes of 0 (of a channel that is masked); NaN where that depends on others.

    A wrong rule does no harm: a smaller model is compared with the masked one before it is handed over. The
    rule holds for this process. Errors: an unknown kind; an operation that cannot be looked up.

    Example:
        >>> import torch
        >>> class Bend(torch.nn.Module):
        ...     def forward(self, x):
        ...         return torch.special.i1(x)  # the library has no rule for it
        >>> channel_rule(Bend, "elementwise", at_zero=0.0)
    """
    check_choice("kind", kind, TAUGHT_KINDS)
    try:
        TAUGHT[op] = Taught(kind, float(at_zero))
    except TypeError:
        refuse("an operation to teach must be a function or a class", type(op).__name__)


def read_channels(model: Any, example_input: Any = None, kind: str | None = "node") -> ReadModel:
    """Read `model` by running it on `example_input`; refuses one in which nothing can be removed.

    kind: ``"node"``, ``"head"``, or None for both. For one kind removal is tried: half of the nodes leave,
    and where the smaller model does not run (code may hold a number of channels, in a view, a split, a
    quotient) or gives other outputs than the masked one, these nodes stay whole, with that reason.
    """
    reading = reading_backend_of(model).read(model, example_input)
    spec = getattr(model, "spec", None)
    if isinstance(spec, NetSpec):  # what its description cannot say of a smaller one stays
        coupling = couple(spec)
        for layer, labels in reading.made.items():
            reading.labels.fix(labels[coupling.nodes[layer] == FIXED], _BY_DESCRIPTION)
    channels = reading.channels(kind)
    reading.refuse_empty(channels, kind)
    if kind:
        channels = _tried(model, reading, kind)
        reading.refuse_empty(channels, kind)
    return ReadModel(channels, reading)


def trouble(model: Any, read: ReadModel, kept: np.ndarray) -> str | None:
    """What goes wrong if all nodes but these are removed; None if nothing does."""
    backend = removal_backend_of(model)
    try:
        added, exact = folded(model, read.channels, kept, fold=True)
        small = backend.cut(model, read.channels, kept, read.details, added)
        return backend.difference(model, small, read.channels, kept, read.details) if exact else None
    except NnoptError as error:
        return str(error)


def _tried(model: Any, reading: Reading, kind: str) -> Channels:
    """Channels without those that a smaller model cannot do without."""
    if _problem(model, reading, kind, None) is None:
        return reading.channels(kind)
    backend = removal_backend_of(model)
    # Something does not fit. Places alike (a view in every module of one class) are tried together first.
    places: dict[str, list[np.ndarray]] = {}
    for where, labels in reading.sized:
        places.setdefault(where, []).append(labels)
    number, good = reading.numbers(kind)[0], [np.empty(0, int)]
    for where, seen in places.items():
        nodes = np.unique(number[np.concatenate(seen)])
        nodes = nodes[nodes != FIXED]
        problem = _problem(model, reading, kind, np.concatenate([*good, nodes]))
        if problem and backend.another_way(reading.details, where):
            if _problem(model, reading, kind, np.concatenate([*good, nodes])) is None:
                problem = None
            else:
                backend.another_way(reading.details, where, on=False)
        if problem is None:
            good.append(nodes)
        else:
            reading.labels.fix(np.concatenate(seen), f"{where} cannot do with fewer channels ({problem})")
            number, good = reading.numbers(kind)[0], [np.empty(0, int)]
    if _problem(model, reading, kind, None) is not None:
        groups = list(reading.channels(kind).groups.values())
        for nodes, problem in _culprits(model, reading, kind, groups):
            labels = np.flatnonzero(np.isin(number[:-1], nodes))
            reading.labels.fix(labels, f"the model cannot do with fewer of its channels ({problem})")
    return reading.channels(kind)


def _culprits(
    model: Any, reading: Reading, kind: str, groups: list[np.ndarray]
) -> list[tuple[np.ndarray, str]]:
    """The groups of nodes that cannot leave, with what goes wrong; by halves, since they are few."""
    problem = _problem(model, reading, kind, np.concatenate(groups)) if groups else None
    if problem is None:
        return []
    if len(groups) == 1:
        return [(groups[0], problem)]
    middle = len(groups) // 2
    parts = groups[:middle], groups[middle:]
    return [one for part in parts for one in _culprits(model, reading, kind, part)]


def _problem(model: Any, reading: Reading, kind: str, among: np.ndarray | None) -> str | None:
    """What goes wrong if half of these nodes, or of all, are removed; None if nothing does."""
    channels = reading.channels(kind)
    kept = half_of(channels, np.arange(channels.size) if among is None else np.unique(among))
    return None if kept.all() else trouble(model, ReadModel(channels, reading), kept)


def half_of(nodes: Nodes, among: np.ndarray) -> np.ndarray:
    """Half of each group's nodes leave, of those `among`, but never a layer's last; (size,), True = stays."""
    kept, random = np.ones(nodes.size, bool), np.random.default_rng(0)
    for group in nodes.groups.values():
        group = np.intersect1d(group, among)
        # At random: a pattern might be one that wrong code survives.
        kept[random.permutation(group)[: (len(group) + 1) // 2]] = False
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
