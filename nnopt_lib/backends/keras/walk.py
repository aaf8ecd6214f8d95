"""Walking over a Keras graph: every operation runs on an example, and beside it on labels of channels."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from keras import layers, tree

from nnopt_lib.backends.keras import keras, tf
from nnopt_lib.backends.keras.build import canonical_variables
from nnopt_lib.checks import NnoptError
from nnopt_lib.structure.labels import Value, unlabeled
from nnopt_lib.structure.reading import TAUGHT, Reading

Result = Value | list[Value] | None
Rule = Callable[["Reader", "Call"], Result]
RULES: dict[str, Rule] = {}


def rule_for(*names: str) -> Callable[[Rule], Rule]:
    """Layers by the name of their class, operations of keras.ops by "ops." and theirs."""

    def add(rule: Rule) -> Rule:
        RULES.update(dict.fromkeys(names, rule))
        return rule

    return add


@dataclass(eq=False)
class Known:
    """A tensor of the run, with its labels.

    border: a number that was padded around what `value.held` says of masked channels; None without padding.
    """

    array: Any
    value: Value
    border: float | None = None


@dataclass(eq=False)
class Call:
    """One call of an operation. inputs: those of its arguments that are tensors of the run."""

    op: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    inputs: list[Known]
    shapes: list[tuple[int, ...]]

    @property
    def x(self) -> Value:
        """The labels of the first input."""
        return self.inputs[0].value

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the first output."""
        return self.shapes[0]

    def filled(self, arrays: list[Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments with other arrays in the place of the inputs."""
        left = iter(arrays)
        return tree.map_structure(
            lambda one: next(left) if isinstance(one, Known) else one, (self.args, self.kwargs)
        )


@dataclass
class Details:
    """What is needed to cut a model that was read, and to run it beside the smaller one.

    graph: the functional graph that was walked. inputs: the example, flat. labels: for operations whose
    configuration holds sizes, the labels of what they give (or of groups, heads), by the operation's
    identity. sources: the labels of what slices read. opened: graphs of the user's own layers, by identity;
    None for one that cannot be followed.
    """

    graph: Any
    inputs: list[np.ndarray]
    opened: dict[int, Any] = field(default_factory=dict)
    labels: dict[int, np.ndarray] = field(default_factory=dict)
    sources: dict[int, np.ndarray] = field(default_factory=dict)


def kind_of(op: Any) -> str | None:
    """The name that rules know an operation by; None for one whose code is the user's own."""
    if type(op) in TAUGHT:
        return f"taught.{TAUGHT[type(op)].kind}"
    for base in type(op).__mro__:
        root, _, rest = base.__module__.partition(".")
        if root == "keras" or base.__module__ == "nnopt_lib.backends.keras.layers":
            own: Any = type(op), base
            if own[0].call is not own[1].call or own[0].__call__ is not own[1].__call__:
                return None
            prefix = "" if isinstance(op, layers.Layer) else "ops."
            return ("nnopt." if root != "keras" else prefix) + base.__name__
    return None


def graph_of(op: Any) -> Any:
    """The graph of a functional or sequential model; None for anything else."""
    if isinstance(op, keras.Sequential):
        return op._functional
    return op if isinstance(op, keras.src.models.functional.Functional) else None


@contextlib.contextmanager
def _nodes_put_back(model: Any) -> Iterator[None]:
    """Symbolic calls leave nodes with the layers; inside they may, afterwards the layers are as before."""
    layers_of_model = model._flatten_layers()
    found = [(layer, list(layer._inbound_nodes), list(layer._outbound_nodes)) for layer in layers_of_model]
    try:
        yield
    finally:
        for layer, inbound, outbound in found:
            layer._inbound_nodes[:], layer._outbound_nodes[:] = inbound, outbound


def followed(layer: Any, inputs: Any, arrays: list[Any]) -> Any:
    """The graph of layers that the code of `layer` calls on symbolic inputs; None if it has its own weights.

    None, too, if on these arrays (flat) it gives other outputs. What cannot be followed raises.
    """
    if layer._trainable_variables or layer._non_trainable_variables:
        return None
    with _nodes_put_back(layer):
        options: dict[str, Any] = {"training": None} if layer._call_has_training_arg else {}
        graph = keras.Model(inputs, layer.call(inputs, **options))
    given = tree.pack_sequence_as(inputs, arrays) if tree.is_nested(inputs) else arrays[0]
    options = {"training": False} if layer._call_has_training_arg else {}
    with keras.StatelessScope():
        expected, found = tree.flatten(layer(given, **options)), tree.flatten(graph(given, training=False))
    pairs = zip(expected, found, strict=True)
    return graph if all(np.allclose(a, b, rtol=1e-3, atol=1e-5) for a, b in pairs) else None


class Reader:
    """What is known of a run so far. reason: what a rule says of channels that cannot leave."""

    def __init__(self, model: keras.Model, details: Details) -> None:
        self.reading, self.details = Reading(), details
        self.names = {id(variable): name for name, variable, _ in canonical_variables(model)}
        self.used: set[str] = set()
        self.reason = ""

    def name(self, layer: Any, attribute: str) -> str | None:
        """The canonical name of a layer's variable; None where it has none, or computes it."""
        name = self.names.get(id(getattr(layer, attribute, None)))
        if name is not None:
            self.used.add(name)
        return name

    def refuse(self, reason: str) -> None:
        """Say why the channels cannot leave."""
        self.reason = reason

    def run(self, graph: Any, inputs: list[Known]) -> Any:
        """Walk over a graph; gives its outputs in their structure."""
        return graph._run_through_graph(inputs, call_fn=self.call)

    def call(self, op: Any, *args: Any, **kwargs: Any) -> Any:
        """Run one operation; what it gives, in its structure."""
        inner = graph_of(op)
        if inner is None and kind_of(op) is None:
            inner = self.opened(op, args, kwargs)
        if inner is not None:
            given = tree.flatten(args[0])
            if [len(one.array.shape) for one in given] == [len(one.shape) for one in inner.inputs]:
                return self.run(inner, given)
        inputs = [one for one in tree.flatten((args, kwargs)) if isinstance(one, Known)]
        call = Call(op, args, kwargs, inputs, [])
        real_args, real_kwargs = call.filled([one.array for one in inputs])
        if getattr(op, "_call_has_training_arg", False) and real_kwargs.get("training") is None:
            real_kwargs["training"] = False
        given = op(*real_args, **real_kwargs)
        flat = tree.flatten(given)
        call.shapes = [tuple(getattr(one, "shape", ())) for one in flat]
        for one in inputs:
            if one.border is not None and kind_of(op) not in _READ_BORDERS and np.any(one.value.held):
                one.value = Value(one.value.labels, np.nan)
        values = self.labels_of(call)
        border = values.pop() if len(values) > len(flat) else None
        outputs = [Known(one, value, border) for one, value in zip(flat, values, strict=True)]
        return tree.pack_sequence_as(given, outputs) if tree.is_nested(given) else outputs[0]

    def opened(self, op: Any, args: Any, kwargs: Any) -> Any:
        """The graph of a layer of the user's own that calls layers of its own."""
        others = [value for key, value in kwargs.items() if key != "training" and value is not None]
        if not getattr(op, "_layers", None) or others or len(args) != 1:
            return None
        if id(op) not in self.details.opened:
            try:
                arrays = [one.array for one in tree.flatten(args[0])]
                inputs = tree.map_structure(
                    lambda one: keras.Input(one.array.shape[1:], dtype=one.array.dtype.name), args[0]
                )
                graph = followed(op, inputs, arrays)
            except Exception:  # its code looks at numbers, or is not Keras's alone
                graph = None
            self.details.opened[id(op)] = graph
        return self.details.opened[id(op)]

    def labels_of(self, call: Call) -> list[Any]:
        """Labels of all outputs of a call, by its rule; without one its inputs stay whole."""
        name = kind_of(call.op)
        weights = [v for v in getattr(call.op, "variables", []) if id(v) in self.names]
        labeled = any(one.value.labeled for one in call.inputs)
        if not weights and not labeled:
            return [unlabeled(shape) for shape in call.shapes]
        self.reason, result = "", None
        if name in RULES:
            try:
                result = RULES[name](self, call)
            except NnoptError:
                raise
            except Exception:  # a form that the rule does not foresee is one that is not understood
                result = None
        values: list[Any] = result if isinstance(result, list) else [result]
        if result is not None and [v.shape for v in values[: len(call.shapes)]] == call.shapes:
            return values
        what = f"{getattr(call.op, 'name', name)!r} ({type(call.op).__name__})"
        reason = self.reason or f"read by {what}, for which there is no rule"
        for one in call.inputs:
            self.reading.labels.fix(one.value.labels, reason)
        for variable in weights:
            path = self.names[id(variable)].rpartition("/")[0]
            if path not in self.reading.made:
                self.reading.unread.setdefault(path, self.reason or f"there is no rule for {what}")
        return [unlabeled(shape) for shape in call.shapes]

    def moved(self, call: Call, arrays: list[np.ndarray]) -> list[np.ndarray]:
        """The call on other arrays in the place of its inputs; for what only moves data."""
        args, kwargs = call.filled([tf.constant(one) for one in arrays])
        return [np.asarray(one) for one in tree.flatten(call.op.call(*args, **kwargs))]

    def held_by(self, function: Callable[[Any], Any], held: Any, rank: int = 1) -> Any:
        """What a function, element by element, makes of what masked channels hold."""
        if np.ndim(held) == 0:
            if np.isnan(held):
                return np.nan
            given = np.asarray(function(tf.constant(np.full((1,) * rank, held, np.float32))), np.float32)
            return float(given.ravel()[0])
        return np.asarray(function(tf.constant(np.asarray(held, np.float32))))


# What goes on with a border that was padded; to all others masked channels then hold nothing known.
_READ_BORDERS = {f"{kind}{rank}D" for kind in ("Conv", "MaxPooling") for rank in (1, 2, 3)}


def zero(value: Value) -> bool:
    """Whether masked channels hold 0."""
    return bool(np.all(np.asarray(value.held) == 0))
