"""Build a described network; read, write and copy its weights, across frameworks too.

Every function takes a `torch.nn.Module` or a Keras 3 model, made by `build` or the user's own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from nnopt_lib.checks import refuse
from nnopt_lib.frameworks import backend, backend_of
from nnopt_lib.structure.spec import NetSpec
from nnopt_lib.structure.weights import initial_weights


def build(spec: NetSpec, framework: str = "torch", *, seed: int = 0, init: str = "glorot_uniform") -> Any:
    """The network of a description, as an ordinary `torch.nn.Module` or functional Keras model.

    Parameters:
        spec: the description. A Keras model reads channels last, as Keras models do.
        framework: ``"torch"`` or ``"keras"``.
        seed: of the first weights; equal seeds give equal weights in both frameworks.
        init: one of `nnopt_lib.structure.weights.INITIALIZERS`.

    Returns a new model on the CPU, that gives logits. Errors: unknown framework or init, one sentence.

    Example:
        >>> from nnopt_lib import mlp
        >>> build(mlp((32,), inputs=64, outputs=10)).dense_1
        Linear(in_features=64, out_features=32, bias=True)
    """
    adapter = backend(framework)
    return adapter.build(spec, initial_weights(spec, seed, init))


def get_weights(model: Any) -> dict[str, np.ndarray]:
    """Copies of a model's weights as ``{"dense_1/kernel": (out, in, *spatial), ...}``, float32.

    Running statistics of batch normalization are included, shared parameters come once.

    Example:
        >>> from nnopt_lib import mlp
        >>> get_weights(build(mlp((), inputs=64, outputs=10)))["dense_1/kernel"].shape
        (10, 64)
    """
    return backend_of(model).get_weights(model)


def set_weights(model: Any, weights: Mapping[str, np.ndarray]) -> None:
    """Write `weights` (canonical names and layout) into `model`; all of them or none.

    Example:
        >>> from nnopt_lib import mlp
        >>> model = build(mlp((), inputs=2, outputs=3))
        >>> set_weights(model, {name: 0 * value for name, value in get_weights(model).items()})
        >>> float(get_weights(model)["dense_1/kernel"].sum())
        0.0
    """
    adapter = backend_of(model)
    # All is checked before anything is written, so that a refusal leaves the model as it was.
    current = adapter.get_weights(model)
    if set(current) != set(weights):
        missing, foreign = sorted(set(current) - set(weights)), sorted(set(weights) - set(current))
        refuse("weights must have the model's names", f"missing {missing}, not the model's {foreign}")
    for name, value in current.items():
        if np.shape(weights[name]) != value.shape:
            refuse(f"weight {name!r} must have the shape {value.shape}", np.shape(weights[name]))
    adapter.set_weights(model, dict(weights))


def copy_weights(source: Any, target: Any) -> None:
    """Copy all weights from one model to another of equal structure, across frameworks if need be.

    Weights are matched by canonical name. Where names differ (a user's own models), the same number of
    weights of equal shapes in the same order is matched in order; anything else is refused, `target`
    untouched.

    Example:
        >>> from nnopt_lib import mlp
        >>> spec = mlp((), inputs=2, outputs=3)
        >>> source, target = build(spec, "torch", seed=1), build(spec, "keras", seed=2)
        >>> copy_weights(source, target)
        >>> bool((get_weights(target)["dense_1/kernel"] == get_weights(source)["dense_1/kernel"]).all())
        True
    """
    weights, names = get_weights(source), get_weights(target)
    if set(weights) != set(names):
        # In the order of both models: a user's layers have names of their own, and nothing else to go by.
        shapes = [[value.shape for value in arrays.values()] for arrays in (weights, names)]
        if shapes[0] != shapes[1]:
            refuse(
                "models must have weights of equal names, or of equal shapes in equal order",
                f"{_listed(weights)} against {_listed(names)}",
            )
        weights = dict(zip(names, weights.values(), strict=True))
    set_weights(target, weights)


def _listed(weights: Mapping[str, np.ndarray]) -> str:
    return ", ".join(f"{name} {value.shape}" for name, value in weights.items())
