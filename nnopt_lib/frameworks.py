"""Which framework does a model belong to? Its adapter is chosen from the model's type and loaded lazily.

An adapter (`torch_backend`, `keras_backend`) is a module with the functions of `Backend`. Lower modules reach
it only through here, by name, so that nothing imports a framework before a model of it exists.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any, Protocol, cast

import numpy as np

from nnopt_lib.checks import check_choice, refuse

FRAMEWORKS = ("torch", "keras")


class Backend(Protocol):
    """What both adapters offer. Arrays are canonical: kernels (out, in, *spatial), inputs channels first."""

    def build(self, spec: Any, weights: dict[str, np.ndarray]) -> Any:
        """A model of `spec` with these weights."""

    def get_weights(self, model: Any) -> dict[str, np.ndarray]:
        """Copies of all weights, running statistics included."""

    def set_weights(self, model: Any, weights: dict[str, np.ndarray]) -> None:
        """Write all weights; names and shapes were checked before."""

    def fit(self, model: Any, data: Any, training: Any, seed: int, device: str, orders: Any) -> Any:
        """Train in place and return the history."""

    def predict(self, model: Any, x: np.ndarray, batch_size: int, device: str | None) -> np.ndarray:
        """Outputs for `x` in inference mode."""

    def runner(self, model: Any, x: np.ndarray, device: str | None) -> Callable[[], Any]:
        """A function that runs one inference on `x`, already on the device, and waits for its end."""

    def seed(self, seed: int) -> None:
        """Seed the framework's own generators."""


def backend(framework: str) -> Backend:
    """The adapter of ``"torch"`` or ``"keras"``, imported now if it was not."""
    check_choice("framework", framework, FRAMEWORKS)
    return cast(Backend, importlib.import_module(f"nnopt_lib.{framework}_backend"))


def framework_of(model: Any) -> str:
    """``"torch"`` for a `torch.nn.Module`, ``"keras"`` for a Keras 3 model; anything else is refused."""
    for base in type(model).__mro__:
        package = base.__module__.split(".")[0]
        if package == "torch" and base.__name__ == "Module":
            return "torch"
        if package == "keras" and base.__name__ == "Model":
            return "keras"
    refuse(
        "a model must be a torch.nn.Module or a keras.Model",
        f"{type(model).__module__}.{type(model).__qualname__}",
    )


def backend_of(model: Any) -> Backend:
    """The adapter of the framework that `model` belongs to."""
    return backend(framework_of(model))
