"""Which framework does a model belong to? Its adapter is chosen from the model's type and loaded lazily.

An adapter (`torch_backend`, `keras_backend`) is a module with the functions of `Backend`. Lower modules reach
it only through here, by name, so that nothing imports a framework before a model of it exists.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
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

    def fit(self, model: Any, data: Any, training: Any, seed: int, device: str, begin: Any) -> Any:
        """Train in place and return the history.

        ``begin(optimizer)`` is called before the first step; it gives a regularizer, or None.
        """

    def predict(self, model: Any, x: np.ndarray, batch_size: int, device: str | None) -> np.ndarray:
        """Outputs for `x` in inference mode."""

    def runner(self, model: Any, x: np.ndarray, device: str | None) -> Callable[[], Any]:
        """A function that runs one inference on `x`, already on the device, and waits for its end."""

    def seed(self, seed: int) -> None:
        """Seed the framework's own generators."""


class MaskBackend(Protocol):
    """What `torch_masks` and `keras_masks` offer: masks on a model's own weights."""

    def prunable(self, model: Any) -> list[str]:
        """Names of trainable kernels of dense, convolution and embedding layers."""

    def weights(self, model: Any, names: Sequence[str]) -> Mapping[str, np.ndarray]:
        """The named weights, read one at a time; not to be changed."""

    def apply(self, model: Any, masks: Mapping[str, np.ndarray]) -> None:
        """Set what the masks remove to 0."""

    def hold(self, model: Any, masks: Mapping[str, np.ndarray], optimizer: Any) -> Any:
        """Mask weights and the optimizer's state after each of its steps; gives a handle with `remove`."""

    def reinitialize(self, model: Any, seed: int) -> None:
        """Draw all weights again."""


class PenaltyBackend(Protocol):
    """What `torch_penalties` and `keras_penalties` offer: regularization of a model's kernels."""

    def total(self, kind: str, model: Any) -> Any:
        """A penalty as a differentiable scalar."""

    def shrink(self, kind: str, model: Any, amount: float) -> None:
        """One proximal step, in place."""

    def gates(self, model: Any, strength: float, learning_rate: float, seed: int) -> Any:
        """Hard-concrete gates."""

    def regularizer(self, model: Any, penalty: Any, training: Any, seed: int) -> Any:
        """A penalty at work in a loop."""


class DescriptionBackend(Protocol):
    """What `torch_description` and `keras_description` offer."""

    def read(self, model: Any, example_input: Any) -> tuple[Any, Mapping[str, str], Mapping[str, np.ndarray]]:
        """The description of `model`, its own names of layers, and orders of inputs."""


class SurgeryBackend(Protocol):
    """What `torch_surgery` and `keras_surgery` offer."""

    def cut(
        self,
        model: Any,
        paths: Mapping[str, str],
        after: Any,
        weights: Mapping[str, np.ndarray],
        example_input: Any,
    ) -> Any:
        """A copy of `model` with the sizes of the description `after` and these weights."""


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


def mask_backend_of(model: Any) -> MaskBackend:
    """The adapter for masks of the framework that `model` belongs to."""
    return cast(MaskBackend, importlib.import_module(f"nnopt_lib.{framework_of(model)}_masks"))


def penalty_backend_of(model: Any) -> PenaltyBackend:
    """The adapter for penalties of the framework that `model` belongs to."""
    return cast(PenaltyBackend, importlib.import_module(f"nnopt_lib.{framework_of(model)}_penalties"))


def surgery_backend_of(model: Any) -> SurgeryBackend:
    """The adapter for surgery of the framework that `model` belongs to."""
    return cast(SurgeryBackend, importlib.import_module(f"nnopt_lib.{framework_of(model)}_surgery"))


def description_backend_of(model: Any) -> DescriptionBackend:
    """The reader of the framework that `model` belongs to."""
    return cast(DescriptionBackend, importlib.import_module(f"nnopt_lib.{framework_of(model)}_description"))
