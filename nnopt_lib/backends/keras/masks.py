"""Masks on Keras 3 models: reading and masking a model's own variables, holding zeros under any optimizer.

Layers and variables stay as they are. Keras's optimizers have no hooks, so `hold` shadows `apply` on the one
optimizer object; its class, its configuration and what is saved of it do not change.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from keras import layers

from nnopt_lib.backends.keras import keras, tf
from nnopt_lib.backends.keras.build import canonical_variables, from_canonical, to_canonical
from nnopt_lib.checks import refuse

_RANKED = ("Conv", "DepthwiseConv", "SeparableConv")
_LAYERS: tuple[type, ...] = (
    *(layers.Dense, layers.EinsumDense, layers.Embedding),
    *(getattr(layers, f"{kind}{rank}D") for kind in _RANKED for rank in (1, 2)),
    *(layers.Conv3D, layers.Conv1DTranspose, layers.Conv2DTranspose, layers.Conv3DTranspose),
)


def variables_of(model: keras.Model) -> dict[str, tuple[Any, keras.layers.Layer]]:
    """Every floating variable with its layer, by canonical name; an unbuilt model is refused."""
    if not model.built:
        remedy = "Call it once on data, or give it an input shape."
        refuse("a Keras model must be built before its weights are pruned", repr(model.name), remedy)
    return {name: (variable, layer) for name, variable, layer in canonical_variables(model)}


def prunable(model: keras.Model) -> list[str]:
    """Names of trainable kernels of dense, convolution and embedding layers; a shared one comes once."""
    trainable = {id(variable) for variable in model.trainable_variables}
    return [
        name
        for name, (variable, layer) in variables_of(model).items()
        if name.endswith("kernel") and isinstance(layer, _LAYERS) and id(variable) in trainable
    ]


class _Weights(Mapping[str, np.ndarray]):
    """Weights as arrays in canonical layout, made when they are read."""

    def __init__(self, variables: dict[str, tuple[Any, keras.layers.Layer]]) -> None:
        self.variables = variables

    def __getitem__(self, name: str) -> np.ndarray:
        variable, layer = self.variables[name]
        return to_canonical(layer, name, keras.ops.convert_to_numpy(variable))

    def __iter__(self) -> Iterator[str]:
        return iter(self.variables)

    def __len__(self) -> int:
        return len(self.variables)


def weights(model: keras.Model, names: Sequence[str]) -> Mapping[str, np.ndarray]:
    """The named weights, read one at a time."""
    variables = variables_of(model)
    return _Weights({name: variables[name] for name in names if name in variables})


def _removed(model: keras.Model, masks: Mapping[str, np.ndarray]) -> list[tuple[Any, np.ndarray]]:
    """(variable, where it is removed, in Keras's layout) for each mask."""
    variables, pairs = variables_of(model), []
    for name, mask in masks.items():
        variable, layer = variables[name]
        pairs.append((variable, from_canonical(layer, name, ~mask, tuple(variable.shape))))
    return pairs


def _fill(variable: Any, removed: Any) -> None:
    variable.assign(tf.where(removed, tf.zeros((), variable.dtype), variable.value))


def apply(model: keras.Model, masks: Mapping[str, np.ndarray]) -> None:
    """Set what the masks remove to 0."""
    for variable, removed in _removed(model, masks):
        _fill(variable, removed)


class Hold:
    """What `hold` returns: `remove` ends it. The weights stay as they are then, and may move again."""

    def __init__(self, model: keras.Model, pairs: list[tuple[Any, np.ndarray]], optimizer: Any) -> None:
        self._model, self._optimizer = weakref.ref(model), weakref.ref(optimizer)
        self._targets = [
            (target, removed) for variable, removed in pairs for target in _with_state(optimizer, variable)
        ]
        plain_apply = type(optimizer).apply

        def apply(grads: Any, trainable_variables: Any = None) -> Any:
            result = plain_apply(self._optimizer(), grads, trainable_variables)
            self._mask()
            return result

        # On the object, not on its class: other optimizers of the class go on as they were, and `remove` only
        # has to take the attribute away. Layers stay untouched, so a model is copied and saved as it is.
        self._apply = optimizer.__dict__["apply"] = apply
        self._mask()
        self._trace_anew()

    def remove(self) -> None:
        """Let go."""
        optimizer = self._optimizer()
        if optimizer is not None and optimizer.__dict__.get("apply") is self._apply:
            del optimizer.__dict__["apply"]
            self._trace_anew()

    def _mask(self) -> None:
        for target, removed in self._targets:
            _fill(target, removed)

    def _trace_anew(self) -> None:
        """Let `fit` compile its step again: the one that it keeps was traced with another `apply`.

        A new function, not None: a callback may have asked, in the middle of `fit`, which calls it next.
        """
        model, optimizer = self._model(), self._optimizer()
        if model is not None and getattr(model, "optimizer", None) is optimizer and model.train_function:
            model.make_train_function(force=True)


def _with_state(optimizer: Any, variable: Any) -> Iterator[Any]:
    """The variable and those of the optimizer that hold one number for each of its weights."""
    yield variable
    inner = _inner(optimizer)
    trained = inner._trainable_variables
    index = next((index for index, other in enumerate(trained) if other is variable), None)
    if index is None:
        return
    # Keras has no name for an optimizer's state: each kind keeps lists beside that of its variables, in the
    # same order, as `_momentums` and `_velocities`.
    for values in vars(inner).values():
        if isinstance(values, (list, tuple)) and len(values) == len(trained) and values is not trained:
            state = values[index]
            if isinstance(state, keras.Variable) and state is not variable and state.shape == variable.shape:
                yield state


def _inner(optimizer: Any) -> Any:
    """The optimizer itself, or the one that loss scaling (mixed precision) wraps."""
    return getattr(optimizer, "inner_optimizer", optimizer)


# Which hold is at work on an optimizer; weak, so that an optimizer that nobody uses takes its hold along.
_held: weakref.WeakKeyDictionary[Any, Hold] = weakref.WeakKeyDictionary()


def hold(model: keras.Model, masks: Mapping[str, np.ndarray], optimizer: Any) -> Hold:
    """Mask now and after every step of `optimizer` (or `model.optimizer`); an earlier hold on it ends."""
    optimizer = getattr(model, "optimizer", None) if optimizer is None else optimizer
    if not isinstance(optimizer, keras.optimizers.Optimizer):
        remedy = "Pass it as the third argument, or compile the model first."
        refuse("hold needs the Keras optimizer that trains the model", type(optimizer).__name__, remedy)
    pairs = _removed(model, masks)
    if not optimizer.built:
        optimizer.build(model.trainable_variables)
    owned = {id(variable) for variable in _inner(optimizer)._trainable_variables}
    foreign = [  # what is not trained (frozen layers, running means) stays as it is masked
        name
        for name, (variable, _) in zip(masks, pairs, strict=True)
        if variable.trainable and id(variable) not in owned
    ]
    if foreign:
        refuse(
            "the optimizer must own the masked parameters",
            f"one without {', '.join(foreign)}",
            "Build it with this model's trainable_variables.",
        )
    if optimizer in _held:
        _held[optimizer].remove()
    _held[optimizer] = Hold(model, pairs, optimizer)
    return _held[optimizer]


def reinitialize(model: keras.Model, seed: int) -> None:
    """Every variable by its layer's initializer, with a seed of its own."""
    drawn = []
    for number, (name, variable, layer) in enumerate(canonical_variables(model)):
        # kernel_initializer; where it is depthwise_kernel, recurrent_kernel, ..., depthwise_initializer
        kinds = (variable.name, variable.name.removesuffix("_kernel"), "depthwise")
        candidates = (getattr(layer, f"{kind}_initializer", None) for kind in kinds)
        initializer = next((each for each in candidates if each is not None), None)
        if initializer is None:
            rule = "drawing weights again needs layers with initializers"
            refuse(rule, f"none for {name}", "Build the model anew with another seed.")
        config = initializer.get_config()
        if "seed" in config:
            config["seed"] = int(np.random.default_rng([seed, number]).integers(2**31))
        drawn.append((variable, type(initializer).from_config(config)(variable.shape, variable.dtype)))
    for variable, value in drawn:
        variable.assign(value)
