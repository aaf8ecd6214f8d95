"""Functions that only move data: they are applied to the labels themselves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from nnopt_lib.backends.torch.rewriting import SIZED, SizedCall
from nnopt_lib.backends.torch.rules.reader import Reader, Result, bound, rule_for
from nnopt_lib.backends.torch.tracing import BatchSize, Call, calls_in
from nnopt_lib.structure.labels import Value, compact, distinct, unlabeled, varying

_MOVES = (
    "flatten reshape view squeeze unsqueeze permute transpose swapaxes swapdims movedim moveaxis T mT t "
    "cat concat concatenate stack hstack vstack expand expand_as broadcast_to repeat tile "
    "repeat_interleave unflatten narrow select flip index_select view_as reshape_as ravel chunk split "
    "tensor_split unbind split_with_sizes getitem adjoint H rot90 unsafe_chunk unsafe_split"
)
# Their numbers may say how many channels there are.
_SIZED = (
    "reshape view expand broadcast_to repeat unflatten narrow select chunk split tensor_split "
    "split_with_sizes getitem index_select repeat_interleave"
)
_PICKS = (
    "chunk split tensor_split split_with_sizes unsafe_chunk unsafe_split unbind getitem select narrow "
    "index_select"
)
_PIECES = ("chunk", "split", "tensor_split", "split_with_sizes", "unsafe_chunk", "unsafe_split")


@rule_for(_MOVES, "taught_moved")
def _move(r: Reader, call: Call) -> Result:
    given = calls_in([*call.args, *call.kwargs.values()])
    if r.transposes(call):
        return unlabeled(call.shape)
    values = [r.entries(one) for one in given]
    if not any(one.labeled for one in values):
        return _without_channels(r, call, values)
    name = r.name_of(call)
    if name in ("cat", "concat", "concatenate", "stack", "hstack", "vstack"):
        _stay_aligned(r, call, name, values)
    moved = _applied(r, call, [one.labels for one in values])
    if moved is None:
        return None
    many = not isinstance(moved, np.ndarray)
    parts = [compact(one) for one in (moved if many else [moved])]
    helds = _moved_held(r, call, values, len(parts))
    x = values[0]
    if name in _PICKS.split() and not _picked(r, call, name, x.labels, parts):
        return None
    if name == "taught_moved" or (name in _SIZED.split() and _names_sizes(call, name)):
        for one in [x.labels, *parts]:
            r.reading.note_size(r.where(call), np.unique(distinct(one)))
        _note_sizes(r, call, [x.labels, *parts])
    _note_call(r, call, name, parts)
    for one in parts:
        r.reading.labels.keep_box(one)
    results = [Value(one, held) for one, held in zip(parts, helds, strict=True)]
    return results if many else results[0]


def _without_channels(r: Reader, call: Call, values: Sequence[Value]) -> Result:
    shapes = [call.shape]
    if not call.shape:  # it gave several
        moved = _applied(r, call, [np.zeros(one.shape, np.int8) for one in values])
        shapes = [call.shape] if moved is None else [one.shape for one in moved]
    results = [unlabeled(shape) for shape in shapes]
    _note_call(r, call, r.name_of(call), [one.labels for one in results])
    return results[0] if call.shape else results


def _stay_aligned(r: Reader, call: Call, name: str, values: Sequence[Value]) -> None:
    """Arrays that are put side by side must keep the same channels along all other axes."""
    if name == "stack":
        for one in values[1:]:
            r.reading.labels.join(values[0].labels, one.labels)
        return
    rank = len(call.shape)
    dim = bound(call, "tensors dim").get("dim", call.kwargs.get("axis", 0))
    dim = {"hstack": min(1, rank - 1), "vstack": 0}.get(name, dim) % rank
    if {axis for one in values for axis in varying(one.labels)} - {dim}:
        rows = [np.moveaxis(one.labels, dim, 0)[:1] for one in values if one.labels.ndim == rank]
        for row in rows[1:]:
            r.reading.labels.join(rows[0], row)


def _applied(r: Reader, call: Call, arrays: Sequence[np.ndarray]) -> Any:
    """The call, applied to arrays in the place of its tensors; arrays of what it gives."""
    left = iter(arrays)

    def replace(value: Any, top: bool = True) -> Any:
        if isinstance(value, Call):
            array = next(left)
            if not top and value.tensor is not None:  # an index
                return value.tensor
            # A copy of what differs: PyTorch warns of memory that it must not write to.
            return torch.from_numpy(np.array(distinct(array))).expand(array.shape)
        if isinstance(value, (list, tuple)):
            inside = [replace(one, top) for one in value]
            return tuple(inside) if isinstance(value, tuple) else inside
        if isinstance(value, slice):
            return (
                slice(*(replace(one, False) for one in (value.start, value.stop)))
                if calls_in(value)
                else value
            )
        return value

    name = call.target if isinstance(call.target, str) else ""
    if call.module is not None:  # of a kind that was taught
        return call.module.forward(*[torch.from_numpy(np.array(one, float)) for one in arrays]).long().numpy()
    name = "reshape" if name == "view" else name  # labels may lie in memory in another way than the numbers
    indexed = name == "__getitem__" or r.name_of(call) == "index_select"
    args = [replace(one, i == 0 or not indexed) for i, one in enumerate(call.args)]
    kwargs = {key: replace(one, not indexed) for key, one in call.kwargs.items()}
    if indexed and any(one.tensor is None for one in calls_in(call.args[1:])):
        return None
    if name in ("T", "mT", "H"):
        moved = getattr(args[0], name)
    else:
        moved = getattr(args[0], name)(*args[1:], **kwargs) if name else call.target(*args, **kwargs)
    return [one.numpy() for one in moved] if isinstance(moved, (tuple, list)) else moved.numpy()


def _moved_held(r: Reader, call: Call, values: Sequence[Value], count: int) -> list[Any]:
    labeled = [one for one in values if one.labeled]
    first = labeled[0].held
    if all(
        np.ndim(one.held) == 0 and (one.held == first or (np.isnan(one.held) and np.isnan(first)))
        for one in labeled
    ):
        return [first] * count
    arrays = [np.array(np.broadcast_to(np.asarray(one.held, np.float32), one.shape)) for one in values]
    moved = _applied(r, call, arrays)
    return list(moved) if isinstance(moved, list) else [moved]


def _names_sizes(call: Call, name: str) -> bool:
    numbers = list(_numbers([call.args[1:], call.kwargs]))
    return (
        name in ("chunk", "tensor_split")
        or any(one > 1 and not isinstance(one, BatchSize) for one in numbers)
        or (name == "getitem" and bool(numbers))
    )


def _numbers(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        for one in value:
            yield from _numbers(one)
    elif isinstance(value, dict):
        yield from _numbers(list(value.values()))
    elif isinstance(value, slice):
        yield from _numbers([value.start, value.stop])
    elif isinstance(value, int) and not isinstance(value, bool):
        yield value


def _note_call(r: Reader, call: Call, name: str, parts: Sequence[np.ndarray]) -> None:
    """Calls that may name sizes, in the order in which a module's code makes them."""
    if name in SIZED:
        path = r.paths.get(id(call.within), "")
        r.details.calls.setdefault(path, []).append(SizedCall(name, tuple(parts)))


def _note_sizes(r: Reader, call: Call, arrays: Sequence[np.ndarray]) -> None:
    """Sizes of axes with channels, which the module's own attributes may hold."""
    path = r.paths.get(id(call.within), "")
    for labels in arrays:
        for axis in varying(labels):
            rows = np.moveaxis(distinct(labels), axis, 0)
            r.details.sizes.append((path, rows.reshape(len(rows), -1)))


def _picked(r: Reader, call: Call, name: str, labels: np.ndarray, parts: Sequence[np.ndarray]) -> bool:
    """Whether parts picked by their position can do with fewer channels.

    Equal pieces of an axis lose the same channels each, so that they stay equal. Along an axis that is cut
    otherwise nothing leaves: where channels stand along another one as well, they leave by whole slices.
    """
    for axis in varying(labels):
        size = labels.shape[axis]
        if name == "unbind":
            cut, pieces = axis == _dimension(call, 1, 0) % labels.ndim, 0
        elif name == "getitem":
            places = _places(call, labels.ndim)
            one = places[axis] if axis < len(places) else slice(None)
            cut, pieces = one != slice(None), 0
            if isinstance(one, slice) and one.step in (None, 1) and not calls_in(one):
                first, stop, _ = one.indices(size)
                length = stop - first
                cut, pieces = length != size, length if length and first % length == 0 else 0
        else:
            dim = _dimension(call, 1 if name in ("select", "narrow", "index_select") else 2, 0)
            cut = axis == dim % labels.ndim and (
                name == "index_select" or len(parts[0].shape) != labels.ndim or parts[0].shape[axis] != size
            )
            equal = name in _PIECES and len({part.shape for part in parts}) == 1 or name == "narrow"
            pieces = parts[0].shape[axis] if cut and equal and len(parts[0].shape) == labels.ndim else 0
        if not cut:
            continue
        if pieces and size % pieces == 0 and name != "index_select":
            _join_rows(r, labels, axis, pieces)
        elif len(varying(labels)) > 1:
            r.reading.labels.join_along(labels, axis)
        else:
            r.refuse(f"picked by position by {name!r}")
            return False
    return True


def _dimension(call: Call, position: int, default: int) -> int:
    given = call.kwargs.get("dim", call.args[position] if len(call.args) > position else default)
    return given if isinstance(given, int) else default


def _places(call: Call, rank: int) -> list[Any]:
    """The index of each axis, from the first on."""
    index = call.args[1] if isinstance(call.args[1], tuple) else (call.args[1],)
    places = [one for one in index if one is not None]
    at = next((i for i, one in enumerate(places) if one is Ellipsis), None)
    if at is not None:
        places = [*places[:at], *[slice(None)] * (rank - len(places) + 1), *places[at + 1 :]]
    return places


def _join_rows(r: Reader, labels: np.ndarray, axis: int, size: int) -> None:
    rows = np.moveaxis(labels, axis, 0)
    rows = rows.reshape(-1, size, *rows.shape[1:])
    r.reading.labels.join(rows, np.broadcast_to(rows[:1], rows.shape))
