"""Reading any Keras model with a graph of operations: which channels can leave, from one walk over it."""

from __future__ import annotations

from typing import Any

import numpy as np
from keras import layers, tree

import nnopt_lib.backends.keras.rules  # noqa: F401
from nnopt_lib.backends.keras import keras, tf
from nnopt_lib.backends.keras.walk import Details, Known, Reader, followed, graph_of
from nnopt_lib.checks import NnoptError, refuse
from nnopt_lib.structure.labels import unlabeled
from nnopt_lib.structure.reading import Reading


def read(model: keras.Model, example_input: Any = None) -> Reading:
    """The channels of `model`; its weights, states and layers stay as they are."""
    graph = graph_of(model) if model.built else None
    if graph is None:
        graph = _traced(model, example_input)
    details = Details(graph, example_of(graph, example_input))
    reader = Reader(model, details)
    inputs = [tf.constant(one) for one in details.inputs]
    # Nothing that layers assign in this scope (statistics, seeds, states) stays.
    with keras.StatelessScope():
        try:
            given = [Known(one, unlabeled(one.shape)) for one in inputs]
            outputs = reader.run(graph, given)
        except NnoptError:
            raise
        except Exception as error:
            reason = " ".join(f"{type(error).__name__}: {error}".split())[:160]
            refuse(
                f"{model.name!r} must run to be read", reason, "Pass a batch that it reads, example_input=x."
            )
    for one in tree.flatten(outputs):
        reader.reading.labels.fix(one.value.labels, "its channels are outputs of the model")
    for name in reader.names.values():
        path = name.rpartition("/")[0]
        if name.endswith("kernel") and name not in reader.used and path not in reader.reading.made:
            reader.reading.unread.setdefault(path, "it did not run on the example")
    reader.reading.details = details
    return reader.reading


def example_of(graph: Any, example_input: Any) -> list[np.ndarray]:
    """One example for each input, flat: random numbers of its shape, open sizes as in what is given."""
    given: list[Any] = (
        [np.asarray(one) for one in tree.flatten(example_input)] if example_input is not None else []
    )
    if len(given) != len(graph.inputs):
        given = [None] * len(graph.inputs)
    random = np.random.default_rng(0)
    arrays = []
    most = min(
        (layer.input_dim for layer in _layers_of(graph) if isinstance(layer, layers.Embedding)), default=2
    )
    for spec, one in zip(graph.inputs, given, strict=True):
        if one is not None:
            one = one[:1] if one.ndim == len(spec.shape) else one[None]
            if one.ndim > 2 and not _fits(one.shape, spec.shape):
                one = np.moveaxis(one, 1, -1)
        shape = [spec.shape[0] or 1]
        for axis, size in enumerate(spec.shape[1:], 1):
            open_size = one.shape[axis] if one is not None and one.ndim > axis else None
            shape.append(size or open_size or (64 if len(spec.shape) > 3 else 16))
        if spec.dtype == "string":
            if one is None:
                refuse(
                    "a model that reads text needs an example_input", "none", "Pass a batch, example_input=x."
                )
            arrays.append(one)
        elif spec.dtype.startswith(("int", "uint")):
            arrays.append(random.integers(0, most, shape).astype(spec.dtype))
        elif spec.dtype == "bool":
            arrays.append(np.ones(shape, bool))
        else:
            arrays.append(random.standard_normal(shape).astype(np.float32))
    return arrays


def _layers_of(graph: Any) -> list[Any]:
    return list(graph._flatten_layers())


def _fits(shape: tuple[int, ...], spec: tuple[int | None, ...]) -> bool:
    return all(size is None or size == given for given, size in zip(shape[1:], spec[1:], strict=True))


def _traced(model: keras.Model, example_input: Any) -> Any:
    """The graph of a subclassed model, if its `call` can be followed on symbolic tensors."""
    kind = type(model).__name__
    if not model.built and example_input is None:
        remedy = "Call it once on data, or give it an input shape."
        refuse("a Keras model must be built before its nodes are read", repr(model.name), remedy)
    rule = f"a Keras model to read must be functional, sequential, or one whose call Keras can follow; {kind}"
    try:
        inputs = _symbolic_inputs(model, example_input)
        flat = [tf.zeros([size or 1 for size in one.shape], one.dtype) for one in tree.flatten(inputs)]
        graph = followed(model, inputs, flat)
    except Exception as error:
        refuse(rule, f"{type(error).__name__}: {error}".split("\n")[0][:160])
    if graph is None:
        refuse(rule, "one with weights beside its layers, or whose outputs are others than theirs")
    return graph


def _symbolic_inputs(model: keras.Model, example_input: Any) -> Any:
    if example_input is None:
        shapes = list((model._build_shapes_dict or {}).values())
        made = [keras.Input(batch_shape=tuple(shape)) for shape in shapes]
        return made[0] if len(made) == 1 else made

    def symbolic(one: Any) -> Any:
        one = np.asarray(one)
        dtype = str(one.dtype) if one.dtype.kind != "f" else "float32"
        return keras.Input(one.shape[1:], dtype=dtype)

    return tree.map_structure(symbolic, example_input)
