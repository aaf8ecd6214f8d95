"""What gradients say of a Keras model's weights, of any model that runs; it stays as it was."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from keras import layers

from nnopt_lib.backends.keras import keras, tf
from nnopt_lib.backends.keras.build import from_canonical, to_canonical
from nnopt_lib.backends.keras.inputs import as_inputs, run
from nnopt_lib.backends.keras.masks import variables_of
from nnopt_lib.checks import refuse
from nnopt_lib.pruning.examples import (
    Loss,
    batches_of,
    check_finite,
    check_labels,
    class_axis,
    part_of,
)
from nnopt_lib.pruning.paths import first_usable, is_removed

_NOISE = {
    "rate": (layers.Dropout, layers.GaussianDropout, layers.AlphaDropout),
    "stddev": (layers.GaussianNoise,),
}


def _moments(original: Any, axes: Sequence[int], x: Any, mask: Any) -> Any:
    """Mean and variance by plain sums: TensorFlow's stop gradients inside, so second ones come out wrong."""
    if mask is not None:
        return original(x, mask)
    mean = tf.reduce_mean(x, axes)
    return mean, tf.reduce_mean(tf.square(x - tf.reduce_mean(x, axes, keepdims=True)), axes)


class _Asked:
    """The named variables of a model, and its loss and outputs as functions of them."""

    def __init__(
        self,
        model: keras.Model,
        names: Sequence[str],
        loss: Loss,
        batch_statistics: bool,
        temperature: float = 1.0,
    ) -> None:
        self.model, self.loss, self.training = model, loss, batch_statistics
        self.temperature = temperature
        found = variables_of(model)
        self.named = {name: found[name] for name in names}
        self.values = [variable.value for variable, _ in self.named.values()]

    @contextlib.contextmanager
    def quiet(self) -> Iterator[None]:
        """Layers of noise draw nothing in training mode, and statistics of batches can be differentiated."""
        changed, shadowed = [], []
        for layer in self.model._flatten_layers():
            for attribute, kinds in _NOISE.items():
                if isinstance(layer, kinds):
                    changed.append((layer, attribute, getattr(layer, attribute)))
                    setattr(layer, attribute, 0.0)
            if self.training and isinstance(layer, layers.BatchNormalization):
                shadowed.append(layer)
                layer._moments = functools.partial(_moments, layer._moments, layer._reduction_axes)
        try:
            yield
        finally:
            for layer, attribute, value in changed:
                setattr(layer, attribute, value)
            for layer in shadowed:
                del layer._moments  # the class's own comes to light again

    def outputs(self, x: Any, scope: Any = None) -> Any:
        """What the model gives; statistics, seeds and states that layers assign do not stay."""
        with scope or keras.StatelessScope():
            return run(self.model, x, training=self.training)

    def tensor(self, x: Any, scope: Any = None) -> Any:
        """The one tensor of outputs."""
        outputs = self.outputs(x, scope)
        if not tf.is_tensor(outputs):
            remedy = "Pass a function of outputs and labels as loss, or wrap the model."
            refuse("a model must give one tensor of outputs here", type(outputs).__name__, remedy)
        return outputs

    def mean_loss(self, x: Any, y: Any) -> Any:
        """The mean loss of a batch, a scalar."""
        if callable(self.loss):
            return self.loss(self.outputs(x), y)
        outputs = self.tensor(x)
        if self.loss == "mse":
            return tf.reduce_mean(
                tf.square(outputs - tf.reshape(tf.cast(y, outputs.dtype), tf.shape(outputs)))
            )
        class_axis(outputs.shape, y.shape)  # a check: in Keras classes are the last axis
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(
            tf.cast(y, tf.int64), outputs / self.temperature
        )
        return tf.reduce_mean(losses)

    def check(self, x: Any, y: Any) -> None:
        """Refuse labels that do not fit, by one example, before anything is computed."""
        if not callable(self.loss):
            inference = _Asked(self.model, list(self.named), self.loss, False)
            check_labels(self.loss, inference.tensor(as_inputs(self.model, part_of(x, slice(1)))).shape, y)

    def slopes(self, tape: Any, target: Any) -> list[Any]:
        """Gradients by each variable, dense, 0 where the target does not depend on it."""
        found = tape.gradient(target, self.values, unconnected_gradients=tf.UnconnectedGradients.ZERO)
        return [tf.convert_to_tensor(one) for one in found]

    @contextlib.contextmanager
    def watched(self, **options: Any) -> Iterator[Any]:
        """A tape that follows these variables only, frozen ones too."""
        with tf.GradientTape(watch_accessed_variables=False, **options) as tape:
            tape.watch(self.values)
            yield tape

    def gradients(self, x: Any, y: Any) -> Any:
        """The mean loss of a batch and its slopes."""
        with self.watched() as tape:
            loss = self.mean_loss(x, y)
        return loss, self.slopes(tape, loss)

    def canonical(self, tensors: Sequence[Any]) -> dict[str, np.ndarray]:
        """Arrays in canonical layout, by name."""
        pairs = zip(self.named.items(), tensors, strict=True)
        return {name: to_canonical(layer, name, one.numpy()) for (name, (_, layer)), one in pairs}

    def own(self, arrays: Mapping[str, np.ndarray]) -> list[Any]:
        """Canonical arrays as tensors in Keras's layout and the variables' types."""
        return [
            tf.constant(from_canonical(layer, name, arrays[name], tuple(variable.shape)), variable.dtype)
            for name, (variable, layer) in self.named.items()
        ]


def _labels(y: Any) -> Any:
    return None if y is None else tf.constant(np.asarray(y))


def mean(
    model: keras.Model,
    names: Sequence[str],
    x: Any,
    y: Any,
    *,
    loss: Loss,
    batch_size: int,
    batch_statistics: bool = False,
    temperature: float = 1.0,
) -> tuple[float, dict[str, np.ndarray]]:
    """The mean loss over all examples, and its gradient by each named weight, float64."""
    asked = _Asked(model, names, loss, batch_statistics, temperature)
    asked.check(x, y)
    total, examples = 0.0, 0
    sums: dict[str, Any] = dict.fromkeys(names, 0.0)
    with asked.quiet():
        for inputs, labels, count in batches_of(x, y, batch_size):
            value, tensors = asked.gradients(as_inputs(model, inputs), _labels(labels))
            found = asked.canonical(tensors)
            check_finite(float(value), found)
            total, examples = total + count * float(value), examples + count
            for name, gradient in found.items():
                sums[name] = sums[name] + count * gradient.astype(np.float64)
    return total / examples, {name: np.asarray(one / examples) for name, one in sums.items()}


def each(
    model: keras.Model, names: Sequence[str], x: Any, y: Any, *, loss: Loss
) -> Iterator[dict[str, np.ndarray]]:
    """The gradient of each example's loss by each named weight, one example at a time, inference mode."""
    asked = _Asked(model, names, loss, False)
    asked.check(x, y)
    # One trace for all examples; a user's loss is run as it is written.
    gradients = asked.gradients if callable(loss) else tf.function(asked.gradients, reduce_retracing=True)
    for inputs, labels, _ in batches_of(x, y, 1):
        with asked.quiet():
            value, tensors = gradients(as_inputs(model, inputs), _labels(labels))
        found = asked.canonical(tensors)
        check_finite(float(value), found)
        yield found


def jacobians(
    model: keras.Model, names: Sequence[str], x: Any
) -> Iterator[tuple[np.ndarray, dict[str, np.ndarray]]]:
    """For one example at a time its outputs, flat, and their slopes by each named weight, inference mode."""
    asked = _Asked(model, names, "mse", False)

    def slopes(inputs: Any) -> Any:
        with asked.watched(persistent=True) as tape:
            outputs = asked.tensor(inputs)
            # Canonical order, as PyTorch flattens it.
            flat = tf.reshape(tf.experimental.numpy.moveaxis(outputs, -1, 1), [-1])
            each_output = tf.unstack(flat)
        return flat, [asked.slopes(tape, one) for one in each_output]

    compiled = tf.function(slopes, reduce_retracing=True)
    for inputs, _, _ in batches_of(x, None, 1):
        with asked.quiet():
            flat, rows = compiled(as_inputs(model, inputs))
        arrays = [asked.canonical(row) for row in rows]
        stacked = {name: np.stack([row[name] for row in arrays]) for name in names}
        check_finite(float(flat.numpy().sum()), stacked)
        yield flat.numpy(), stacked


def hessian_product(
    model: keras.Model,
    names: Sequence[str],
    x: Any,
    y: Any,
    vector: Mapping[str, np.ndarray],
    *,
    loss: Loss,
    batch_size: int,
    batch_statistics: bool = False,
    temperature: float = 1.0,
) -> dict[str, np.ndarray]:
    """The Hessian of the mean loss, by the named weights, times `vector`; float64."""
    asked = _Asked(model, names, loss, batch_statistics, temperature)
    asked.check(x, y)
    directions = asked.own(vector)

    def product(inputs: Any, labels: Any) -> Any:
        with asked.watched() as outer:
            with asked.watched() as inner:
                value = asked.mean_loss(inputs, labels)
            pairs = zip(asked.slopes(inner, value), directions, strict=True)
            along = tf.add_n([tf.reduce_sum(slope * direction) for slope, direction in pairs])
        return value, asked.slopes(outer, along)

    examples = 0
    sums: dict[str, Any] = dict.fromkeys(names, 0.0)
    with asked.quiet():
        for inputs, labels, count in batches_of(x, y, batch_size):
            value, tensors = product(as_inputs(model, inputs), _labels(labels))
            found = asked.canonical(tensors)
            check_finite(float(value), found)
            examples += count
            for name, one in found.items():
                sums[name] = sums[name] + count * one.astype(np.float64)
    return {name: np.asarray(one / examples) for name, one in sums.items()}


@contextlib.contextmanager
def _in_double(model: keras.Model) -> Iterator[None]:
    """All layers compute in float64: Keras casts what they read and what they give to their policy."""
    policies = [(layer, layer.dtype_policy) for layer in model._flatten_layers()]
    try:
        for layer, _ in policies:
            layer.dtype_policy = "float64"
        yield
    finally:
        for layer, policy in policies:
            layer.dtype_policy = policy


def path_scores(model: keras.Model, names: Sequence[str], x: Any) -> dict[str, np.ndarray]:
    """|w| dR/d|w| for R, the sum of outputs of the model with absolute weights on ones; float64."""
    found = variables_of(model)
    values = {}
    for name, (variable, _) in found.items():
        value = tf.abs(tf.cast(variable.value, tf.float64))
        values[name] = tf.zeros_like(value) if is_removed(name) else value
    leaves, asked = [values[name] for name in names], _Asked(model, names, "mse", False)
    example = _ones(model, x)

    def attempt(scale: float) -> tuple[float, dict[str, np.ndarray]]:
        scaled = tf.nest.map_structure(lambda one: one * scale if one.dtype.is_floating else one, example)
        scope = keras.StatelessScope()
        # Not as the scope's argument, which would cast them to the variables' own types.
        scope.state_mapping.update({id(variable): values[name] for name, (variable, _) in found.items()})
        with tf.GradientTape() as tape:
            tape.watch(leaves)
            total = tf.reduce_sum(asked.tensor(scaled, scope)) * scale
        slopes = tape.gradient(total, leaves, unconnected_gradients=tf.UnconnectedGradients.ZERO)
        products = [leaf * tf.convert_to_tensor(slope) for leaf, slope in zip(leaves, slopes, strict=True)]
        return float(total), asked.canonical(products)

    with _in_double(model):
        return first_usable(attempt)


def _ones(model: keras.Model, x: Any) -> Any:
    """One example of ones in the form of the inputs; whole numbers (tokens) stay as they are."""
    if x is None:
        shapes = [tuple(tensor.shape[1:]) for tensor in getattr(model, "inputs", None) or []]
        if not shapes or any(size is None for shape in shapes for size in shape):
            rule = "SynFlow needs the shape of the inputs of a model that does not know it"
            refuse(rule, "no examples", "Pass a batch as x; its numbers play no part.")
        made = [tf.ones((1, *shape), tf.float64) for shape in shapes]
        return made[0] if len(made) == 1 else made
    return tf.nest.map_structure(_ones_like, as_inputs(model, x))


def _ones_like(batch: Any) -> Any:
    return tf.ones_like(batch[:1], dtype=tf.float64) if batch.dtype.is_floating else batch[:1]


class Movement:
    """Sums of -w dL/dw over optimizer steps, a penalty of strength 0 to the training loop."""

    def __init__(self, model: keras.Model, names: Sequence[str]) -> None:
        found = variables_of(model)
        self._named = {name: found[name] for name in names}
        self._sums = [
            tf.Variable(tf.zeros(variable.shape, variable.dtype), trainable=False)
            for variable, _ in self._named.values()
        ]

    def before(self) -> None:
        """Nothing happens before the forward pass."""
        return  # AutoGraph warns of a body without a statement

    def loss(self) -> float:
        """Nothing is added to the loss."""
        return 0.0

    def after_backward(self, gradients: list[Any], variables: list[Any]) -> list[Any]:
        """Add this step's part; the gradients go on as they are."""
        by_variable = {
            id(variable): gradient for variable, gradient in zip(variables, gradients, strict=True)
        }
        for total, (variable, _) in zip(self._sums, self._named.values(), strict=True):
            gradient = by_variable.get(id(variable))
            if gradient is not None:
                total.assign_sub(variable.value * tf.convert_to_tensor(gradient))
        return gradients

    def after_step(self, rate: Any) -> None:
        """Nothing happens after the step."""
        return

    def scores(self) -> dict[str, np.ndarray]:
        """Copies of the sums, canonical."""
        pairs = zip(self._named.items(), self._sums, strict=True)
        return {name: to_canonical(layer, name, one.numpy()) for (name, (_, layer)), one in pairs}
