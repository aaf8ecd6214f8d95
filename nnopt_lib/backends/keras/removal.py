"""Smaller Keras models: a model's graph once more, with layers that lack the channels of removed nodes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from keras import tree

from nnopt_lib.backends.keras import keras, tf
from nnopt_lib.backends.keras.build import canonical_variables, from_canonical, to_canonical
from nnopt_lib.backends.keras.cloning import Clone
from nnopt_lib.backends.keras.walk import Details, kind_of
from nnopt_lib.checks import refuse
from nnopt_lib.structure.coupling import FIXED
from nnopt_lib.structure.labels import distinct
from nnopt_lib.structure.reading import Channels

# 1e-4 of the largest: float32 sums in another order differ in rounding, a wrong cut by far more.
_TOLERANCE = {"float16": 1e-2, "bfloat16": 5e-2}


def cut(
    model: keras.Model,
    channels: Channels,
    kept: np.ndarray,
    details: Details,
    added: Mapping[str, np.ndarray] | None = None,
) -> keras.Model:
    """A copy of `model` without the nodes that are not `kept`; its layers keep their names.

    What `compile` set is not cloned: compile the result before `fit`. added: what to add to the bias beside a
    kernel, by the kernel's name, already without removed outputs.
    """
    added = dict(added or {})
    sizes = _Sizes(model, channels, kept, details, added)
    clone = Clone(sizes.resized, sizes.arguments, details.opened)
    small = clone.model(model, details.graph)
    _copy_weights(model, clone, sizes, added)
    return small


class _Sizes:
    """The sizes that layers have after the cut."""

    def __init__(
        self,
        model: keras.Model,
        channels: Channels,
        kept: np.ndarray,
        details: Details,
        added: Mapping[str, np.ndarray],
    ) -> None:
        self.channels, self.kept, self.details, self.added = channels, kept, details, added
        self.names = {id(variable): name for name, variable, _ in canonical_variables(model)}
        self.index: dict[str, dict[int, np.ndarray]] = {}
        for axis in channels.axes:
            stays = np.where(axis.nodes == FIXED, True, kept[axis.nodes])
            if not stays.all():
                self.index.setdefault(axis.tensor, {})[axis.axis] = np.flatnonzero(stays)

    def stays(self, labels: np.ndarray) -> np.ndarray:
        """Which elements stay, once along axes along which they are the same."""
        nodes = self.channels.number[distinct(labels)]
        return np.asarray(np.where(nodes == FIXED, True, self.kept[nodes]))

    def shape(self, labels: np.ndarray) -> list[int]:
        """The shape of what is left of an array."""
        stays = self.stays(labels)
        left = []
        for axis, size in enumerate(labels.shape):
            rows = np.moveaxis(stays, axis, 0).reshape(stays.shape[axis], -1).max(1)
            left.append(int(rows.sum()) if len(rows) == size else size)
        return left

    def count(self, variable: Any, axis: int, before: int) -> int:
        """The size of a weight's axis, in canonical layout."""
        index = self.index.get(self.names.get(id(variable), ""), {}).get(axis)
        return before if index is None else len(index)

    def resized(self, op: Any, config: dict[str, Any]) -> dict[str, Any]:
        """The configuration of an operation, with the sizes that it has now."""
        kind, labels = str(kind_of(op)), self.details.labels.get(id(op))
        config = dict(config)
        if kind.startswith(("Conv", "SeparableConv")) and "LSTM" not in kind:
            kernel = op.pointwise_kernel if kind.startswith("Separable") else op.kernel
            config["filters"] = self.count(kernel, int("Transpose" in kind), op.filters)
            if labels is not None:
                config["groups"] = self.shape(labels)[0]
        elif kind == "Dense":
            config["units"] = self.count(op._kernel, 0, op.units)
        elif kind == "Embedding":
            config["output_dim"] = self.count(op._embeddings, 1, op.output_dim)
        elif kind == "LayerScale":
            config["projection_dim"] = self.count(op.gamma, 0, op.projection_dim)
        elif labels is not None:
            _resize_by_labels(kind, config, op, self, labels)
        if self.names.get(id(getattr(op, "_kernel", None))) in self.added:
            config["use_bias"] = True
        return config

    def arguments(self, op: Any, args: tuple[Any, ...]) -> tuple[Any, ...]:
        """The arguments of a slice, counted in channels that are left."""
        labels = self.details.sources.get(id(op))
        if labels is None or len(args) < 2:
            return args
        return (args[0], _sliced(args[1], self.stays(labels), labels.shape), *args[2:])


def _resize_by_labels(kind: str, config: dict[str, Any], op: Any, sizes: _Sizes, labels: np.ndarray) -> None:
    left = sizes.shape(labels)
    if kind == "GroupNormalization":
        config["groups"] = left[0]
    elif kind == "Reshape":
        config["target_shape"] = _sizes_after(op.target_shape, labels.shape[1:], left[1:])
    elif kind == "ops.Reshape":
        config["newshape"] = _sizes_after(op.newshape, labels.shape, left)
    elif kind == "ops.BroadcastTo":
        config["shape"] = _sizes_after(op.shape, labels.shape, left)
    elif kind == "nnopt.Attention":
        config["heads"] = left[0]
    elif kind == "EinsumDense":
        asked = config["output_shape"]
        asked = [asked] if isinstance(asked, int) else asked
        config["output_shape"] = _sizes_after(asked, labels.shape[-len(asked) :], left[-len(asked) :])
    elif kind == "GroupedQueryAttention":
        repeats = op.num_query_heads // op.num_key_value_heads
        config["num_key_value_heads"], config["num_query_heads"] = left[0], left[0] * repeats
    elif kind == "MultiHeadAttention":
        config["num_heads"] = left[0]
        kernel = op._output_dense._kernel
        if op._output_shape is None or len(op._output_shape) == 1:  # by default that of the query
            config["output_shape"] = sizes.count(kernel, 0, int(kernel.shape[-1]))


def _sizes_after(asked: Sequence[Any], before: Sequence[int], left: Sequence[int]) -> tuple[Any, ...]:
    return tuple(
        one if one in (-1, None) or old == new else new
        for one, old, new in zip(asked, before, left, strict=True)
    )


def _sliced(key: Any, stays: np.ndarray, shape: tuple[int, ...]) -> Any:
    parts = list(key) if isinstance(key, tuple) else [key]
    if Ellipsis in parts:
        place = parts.index(Ellipsis)
        parts[place : place + 1] = [slice(None)] * (len(shape) - len(parts) + 1)
    for axis, one in enumerate(parts):
        rows = np.moveaxis(stays, axis, 0).reshape(stays.shape[axis], -1).max(1)
        if (
            isinstance(one, slice)
            and one != slice(None)
            and len(rows) == shape[axis]
            and one.step in (None, 1)
        ):
            start, stop, _ = one.indices(shape[axis])
            parts[axis] = slice(int(rows[:start].sum()), int(rows[:stop].sum()))
    return tuple(parts)


def _copy_weights(model: keras.Model, clone: Clone, sizes: _Sizes, added: Mapping[str, np.ndarray]) -> None:
    """Weights of kept channels, and flags of layers, from the old layers to their copies."""
    canonical = {id(variable): (name, layer) for name, variable, layer in canonical_variables(model)}
    for old in model._flatten_layers():
        new = clone.copies.get(id(old))
        if new is None:
            continue
        new.trainable = old.trainable
        if isinstance(old, keras.Model) or sizes.details.opened.get(id(old)):
            continue  # its layers were called, each of them
        for old_layer, new_layer in zip(old._flatten_layers(), new._flatten_layers(), strict=False):
            if id(old_layer) not in clone.copies:
                clone.copies[id(old_layer)] = new_layer
    for old in model._flatten_layers():
        new = clone.copies.get(id(old))
        if new is not None and not isinstance(old, keras.Model):
            new.trainable = old.trainable
            _copy_own(old, new, canonical, sizes, added)
            if kind_of(old) == "Normalization":  # it computes with constants made of its variables
                new.mean, new.variance = old.mean, old.variance


def _copy_own(
    old: Any, new: Any, canonical: Mapping[int, Any], sizes: _Sizes, added: Mapping[str, np.ndarray]
) -> None:
    """The variables that a layer holds itself."""
    variables, own = {variable.name: variable for variable in _own(new)}, _own(old)
    in_order = len(own) == len(_own(new))  # a bias that is added makes one more; names need not be distinct
    for position, variable in enumerate(own):
        target = _own(new)[position] if in_order else variables[variable.name]
        target._path = variable.path
        if id(variable) not in canonical:
            target.assign(variable)
            continue
        name, layer = canonical[id(variable)]
        value = to_canonical(layer, name, keras.ops.convert_to_numpy(variable))
        for axis, index in sizes.index.get(name, {}).items():
            value = value.take(index, axis)
        if value.size != np.prod(target.shape, dtype=int):
            rule = f"layer {old.name!r} must be built as small as its weights"
            refuse(rule, f"{tuple(target.shape)} for {value.shape}")
        value = from_canonical(layer, name, value, tuple(target.shape))
        target.assign(value)
    for name, amount in added.items():
        for variable in _own(old):
            if canonical.get(id(variable), ("",))[0] != name:
                continue
            target = new.bias
            target._path = f"{variable.path.rpartition('/')[0]}/bias"
            target.assign(np.asarray(target, np.float64) + amount)


def _own(layer: Any) -> list[Any]:
    held = [*layer._trainable_variables, *layer._non_trainable_variables]
    held += [generator.state for generator in layer._seed_generators]
    return list({id(variable): variable for variable in held}.values())


def difference(
    model: keras.Model, small: keras.Model, channels: Channels, kept: np.ndarray, details: Details
) -> str | None:
    """What is wrong with a smaller model beside the masked one; None if it gives the same outputs."""
    flat = [tf.constant(np.concatenate([one, one]) if one.shape[0] == 1 else one) for one in details.inputs]
    inputs = tree.pack_sequence_as(details.graph._inputs_struct, flat)
    try:
        # A stateless scope gives the model other weights without touching its own, and keeps what it assigns.
        with keras.StatelessScope(state_mapping=_masked(model, channels, kept)):
            expected = [np.asarray(one, np.float64) for one in tree.flatten(_called(model, inputs, False))]
        with keras.StatelessScope():
            given = [np.asarray(one, np.float64) for one in tree.flatten(_called(small, inputs, False))]
    except Exception as error:
        return " ".join(f"{type(error).__name__}: {error}".split())[:120]
    if [one.shape for one in expected] != [one.shape for one in given]:
        return "its outputs have another shape"
    kinds = {layer.compute_dtype for layer in model._flatten_layers()}
    tolerance = max(_TOLERANCE.get(kind, 1e-4) for kind in kinds)
    for one, other in zip(expected, given, strict=True):
        largest = max(1e-6, float(np.nanmax(np.abs(one)))) if one.size else 1.0  # 0.001 behind a softmax
        if not np.allclose(other, one, rtol=0, atol=tolerance * largest, equal_nan=True):
            return "its outputs are others than those of the masked model"
    return _trouble_in_training(small, inputs)


def _trouble_in_training(small: keras.Model, inputs: Any) -> str | None:
    try:
        with keras.StatelessScope():
            _called(small, inputs, True)
    except Exception as error:
        return "in training mode " + " ".join(f"{type(error).__name__}: {error}".split())[:120]
    return None


def _called(model: keras.Model, inputs: Any, training: bool) -> Any:
    return model(inputs, training=training) if model._call_has_training_arg else model(inputs)


def _masked(model: keras.Model, channels: Channels, kept: np.ndarray) -> list[tuple[Any, Any]]:
    """The variables that masks change, with what they hold masked."""
    values: dict[str, np.ndarray] = {}
    variables = {name: (variable, layer) for name, variable, layer in canonical_variables(model)}
    for axis in channels.axes:
        stays = np.where(axis.nodes == FIXED, True, kept[axis.nodes])
        if axis.part and not stays.all():
            variable, layer = variables[axis.tensor]
            if axis.tensor not in values:
                value = keras.ops.convert_to_numpy(variable)
                values[axis.tensor] = to_canonical(layer, axis.tensor, value)
            value = values[axis.tensor]
            shape = [-1 if i == axis.axis else 1 for i in range(value.ndim)]
            values[axis.tensor] = value * stays.reshape(shape).astype(value.dtype)
    pairs = []
    for name, value in values.items():
        variable, layer = variables[name]
        full = from_canonical(layer, name, value, tuple(variable.shape))
        pairs.append((variable, tf.constant(np.ascontiguousarray(full), dtype=variable.dtype)))
    return pairs


def another_way(details: Any, where: str, *, on: bool = True) -> bool:
    """Layers are cut in one way."""
    return False
