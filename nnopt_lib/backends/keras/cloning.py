"""A Keras graph once more with layers of other sizes: nested models stay nested, shared layers shared."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any

from keras import layers, tree

from nnopt_lib.backends.keras import keras
from nnopt_lib.backends.keras.walk import graph_of
from nnopt_lib.checks import refuse

Resize = Callable[[Any, dict[str, Any]], dict[str, Any]]
Arguments = Callable[[Any, tuple[Any, ...]], tuple[Any, ...]]


class Clone:
    """Copies of a model's operations, made as they are called.

    resize: gives an operation's configuration with its new sizes. arguments: gives new arguments of a call.
    opened: graphs of layers that become models. copies: the new operation (or model) of each old one, by its
    identity.
    """

    def __init__(self, resize: Resize, arguments: Arguments, opened: Mapping[int, Any]) -> None:
        self.resize, self.arguments, self.opened = resize, arguments, opened
        self.copies: dict[int, Any] = {}

    def model(self, model: Any, graph: Any, inputs: Any = None) -> Any:
        """The copy of a model, with the graph that was read of it."""
        flat = graph.inputs if inputs is None else inputs
        made = [
            keras.Input(batch_shape=_open(old.shape, new.shape), dtype=old.dtype, name=_input_name(old))
            for old, new in zip(graph.inputs, flat, strict=True)
        ]
        outputs = graph._run_through_graph(made, call_fn=self.call)
        struct = tree.pack_sequence_as(graph._inputs_struct, made)
        if isinstance(model, keras.Sequential):
            new: Any = keras.Sequential(
                [made[0], *(self.copies[id(layer)] for layer in model.layers)], name=model.name
            )
        else:
            kind = type(model)
            same = keras.src.models.functional.functional_like_constructor(kind)
            new = (kind if same and graph is model else keras.Model)(struct, outputs, name=model.name)
        self.copies[id(model)] = new
        return new

    def call(self, op: Any, *args: Any, **kwargs: Any) -> Any:
        """Call the copy of an operation on symbolic tensors."""
        new = self.copies.get(id(op))
        if new is None:
            inner = graph_of(op) or self.opened.get(id(op))
            if inner is not None:
                new = self.model(op, inner, tree.flatten(args[0]))
            elif isinstance(op, layers.TimeDistributed):
                new = self._of_steps(op, args[0])
            else:
                new = self._copy(op)
            self.copies[id(op)] = new
        return new(*self.arguments(op, args), **kwargs)

    def _of_steps(self, op: Any, steps: Any) -> Any:
        graph = graph_of(op.layer)
        if graph is None:
            inner = self._copy(op.layer)
        else:
            inner = self.model(op.layer, graph, [keras.KerasTensor((steps.shape[0], *steps.shape[2:]))])
        self.copies[id(op.layer)] = inner
        config = op.get_config()
        del config["layer"]
        return type(op)(inner, **{key: config[key] for key in ("name", "trainable")})

    def _copy(self, op: Any) -> Any:
        if isinstance(op, layers.Lambda) or hasattr(op, "lookup_table") or hasattr(op, "_lookup_layer"):
            return _as_it_is(op)  # a function or a vocabulary, which its configuration may lack
        if not isinstance(op, layers.Layer):
            return self._copy_plain(op)
        try:
            return self._from_config(op)
        except Exception as error:
            if not op.variables:
                return self._copy_plain(op)
            kind = type(op).__name__
            rule = f"a layer with weights to copy must give its configuration; {op.name!r} ({kind})"
            refuse(rule, f"{type(error).__name__}: {error}".split("\n")[0][:120])

    def _from_config(self, op: Any) -> Any:
        with warnings.catch_warnings():  # of functions that a file could not hold: nothing is saved here
            warnings.simplefilter("ignore")
            config = _unbuilt(self.resize(op, op.get_config()))
        try:
            return type(op).from_config(dict(config))
        except Exception:
            # Functions and objects of the user's own, which Keras cannot find by name.
            own = {
                key: getattr(op, key)
                for key, value in config.items()
                if isinstance(value, dict) and hasattr(op, key)
            }
            return type(op).from_config(config | own)

    def _copy_plain(self, op: Any) -> Any:
        """An operation without weights: from its configuration, or as it stands."""
        try:
            new = self._from_config(op)
        except Exception:
            return _as_it_is(op)
        new.name = op.name  # configurations of operations leave it out
        return new


def _as_it_is(op: Any) -> Any:
    """The operation once more, with the same parts, called nowhere yet."""
    new = object.__new__(type(op))  # not copy.copy, which makes a Keras layer of its file
    new.__dict__.update(vars(op))
    new.__dict__.update(_inbound_nodes=[], _outbound_nodes=[])
    return new


def _input_name(tensor: Any) -> str:
    made_by = tensor._keras_history.operation
    return made_by.name if isinstance(made_by, layers.InputLayer) else tensor.name


def _unbuilt(config: Any) -> Any:
    """A configuration without the shapes that layers inside were built for."""
    if isinstance(config, dict):
        return {key: _unbuilt(value) for key, value in config.items() if key != "build_config"}
    return config


def _open(old: tuple[int | None, ...], new: tuple[int | None, ...]) -> tuple[int | None, ...]:
    """The new shape, its sizes left open where the old one leaves them open."""
    return tuple(None if a is None else b for a, b in zip(old, new, strict=True))
