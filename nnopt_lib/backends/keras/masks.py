"""Masks on Keras 3 models: reading and masking a model's own variables, which stay ordinary ones."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from keras import layers

from nnopt_lib.backends.keras import keras
from nnopt_lib.backends.keras.build import canonical_variables, from_canonical, to_canonical
from nnopt_lib.backends.keras.holding import Hold, family, fill, trained
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


def weights(model: keras.Model, names: Sequence[str] | None) -> Mapping[str, np.ndarray]:
    """The named weights, or all of them, read one at a time."""
    variables = variables_of(model)
    return _Weights(
        {name: variables[name] for name in (variables if names is None else names) if name in variables}
    )


def _removed(model: keras.Model, masks: Mapping[str, np.ndarray]) -> list[tuple[Any, np.ndarray]]:
    """(variable, where it is removed, in Keras's layout) for each mask."""
    variables, pairs = variables_of(model), []
    for name, mask in masks.items():
        variable, layer = variables[name]
        pairs.append((variable, from_canonical(layer, name, ~mask, tuple(variable.shape))))
    return pairs


def apply(model: keras.Model, masks: Mapping[str, np.ndarray]) -> None:
    """Set what the masks remove to 0."""
    for variable, removed in _removed(model, masks):
        fill(variable, removed)


def hold(model: keras.Model, masks: Mapping[str, np.ndarray], optimizer: Any) -> Hold:
    """Mask now and at every step of `optimizer` (or `model.optimizer`), and of those after it."""
    optimizer = getattr(model, "optimizer", None) if optimizer is None else optimizer
    if not isinstance(optimizer, keras.optimizers.Optimizer):
        remedy = "Pass it as the third argument, or compile the model first."
        refuse("hold needs the Keras optimizer that trains the model", type(optimizer).__name__, remedy)
    pairs = _removed(model, masks)
    if not optimizer.built:
        with optimizer._distribution_strategy.scope():
            optimizer.build(model.trainable_variables)
    owned = trained(family(optimizer))
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
    return Hold(model, pairs, optimizer)


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
