"""Examples in any of their forms, as a Keras model reads them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from nnopt_lib.backends.keras import keras, tf
from nnopt_lib.backends.keras.build import channels_last
from nnopt_lib.pruning.examples import refuse_to_run


def as_inputs(model: keras.Model, x: Any) -> Any:
    """Canonical examples (channels first) as tensors that the model reads.

    Arrays that fit the model's own inputs only as they are, channels last, stay so.
    """
    if isinstance(x, Mapping):
        names = {tensor.name: tuple(tensor.shape) for tensor in getattr(model, "inputs", None) or []}
        return {name: _tensor(array, names.get(name)) for name, array in x.items()}
    shapes = [tuple(tensor.shape) for tensor in getattr(model, "inputs", None) or []]
    if isinstance(x, tuple):
        expected = shapes if len(shapes) == len(x) else [None] * len(x)
        return [_tensor(array, shape) for array, shape in zip(x, expected, strict=True)]
    return _tensor(x, shapes[0] if len(shapes) == 1 else None)


def run(model: keras.Model, inputs: Any, *, training: bool) -> Any:
    """What the model gives; refused where it does not run on these inputs.

    Inputs that a functional model knows by name go in as one; a class of one's own takes arguments.
    """
    functional = isinstance(model, (keras.Sequential, keras.src.models.functional.Functional))
    try:
        if isinstance(inputs, Mapping) and not functional:
            return model(**inputs, training=training)
        if isinstance(inputs, list) and not functional:
            return model(*inputs, training=training)
        return model(inputs, training=training)
    except Exception as error:
        refuse_to_run(repr(model.name), error)


def _tensor(value: Any, shape: Sequence[int | None] | None) -> Any:
    own = np.asarray(value)
    array = channels_last(own)
    if shape is not None and not _fits(array.shape, shape) and _fits(own.shape, shape):
        array = own
    return tf.constant(array, keras.config.floatx() if array.dtype.kind == "f" else None)


def _fits(sizes: Sequence[int], shape: Sequence[int | None]) -> bool:
    """Whether an array of these sizes is a batch of this shape, whose open sizes are None."""
    pairs = zip(sizes[1:], shape[1:], strict=False)
    return len(sizes) == len(shape) and all(want in (None, size) for size, want in pairs)
