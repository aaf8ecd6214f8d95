"""Which framework does a model belong to? Its adapter is chosen from the model's type and loaded lazily.

`nnopt_lib.adapters` says what each module of an adapter offers. Lower modules reach adapters only through
here, by name, so that nothing imports a framework before a model of it exists.
"""

from __future__ import annotations

import importlib
from typing import Any, cast

from nnopt_lib.adapters import (
    ActivationBackend,
    Backend,
    DescriptionBackend,
    DistillationBackend,
    GradientBackend,
    MaskBackend,
    PenaltyBackend,
    QuantizationBackend,
    ReadingBackend,
    RemovalBackend,
    SharingBackend,
    TrainingBackend,
)
from nnopt_lib.checks import check_choice, refuse

FRAMEWORKS = ("torch", "keras")
DEVICES = ("auto", "cpu", "cuda", "mps")  # where models can compute; an adapter says which are there


def _part(framework: str, name: str) -> Any:
    """One module of an adapter, imported now if it was not."""
    check_choice("framework", framework, FRAMEWORKS)
    return importlib.import_module(f"nnopt_lib.backends.{framework}.{name}")


def backend(framework: str) -> Backend:
    """The adapter of ``"torch"`` or ``"keras"``, imported now if it was not."""
    return cast(Backend, _part(framework, "build"))


def training_backend(framework: str) -> TrainingBackend:
    """The adapter's loops."""
    return cast(TrainingBackend, _part(framework, "fit"))


def framework_of(model: Any) -> str:
    """``"torch"`` for a `torch.nn.Module`, ``"keras"`` for a Keras 3 model; anything else is refused."""
    # By name along the bases, not by isinstance, which would need both frameworks to be imported.
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


def framework_of_tensor(tensor: Any) -> str:
    """``"torch"`` for a `torch.Tensor`, ``"keras"`` for TensorFlow's and Keras's; others are refused."""
    packages = {base.__module__.split(".")[0] for base in type(tensor).__mro__}
    for package, framework in (("torch", "torch"), ("tensorflow", "keras"), ("keras", "keras")):
        if package in packages:
            return framework
    refuse(
        "logits of a student must be a tensor of PyTorch or TensorFlow",
        f"{type(tensor).__module__}.{type(tensor).__qualname__}",
    )


def backend_of(model: Any) -> Backend:
    """The adapter of the framework that `model` belongs to."""
    return backend(framework_of(model))


def training_backend_of(model: Any) -> TrainingBackend:
    """The loops of the framework that `model` belongs to."""
    return training_backend(framework_of(model))


def mask_backend_of(model: Any) -> MaskBackend:
    """The adapter for masks of the framework that `model` belongs to."""
    return cast(MaskBackend, _part(framework_of(model), "masks"))


def penalty_backend_of(model: Any) -> PenaltyBackend:
    """The adapter for penalties of the framework that `model` belongs to."""
    return cast(PenaltyBackend, _part(framework_of(model), "penalties"))


def sharing_backend_of(model: Any) -> SharingBackend:
    """The adapter for shared values of the framework that `model` belongs to."""
    return cast(SharingBackend, _part(framework_of(model), "sharing"))


def distillation_backend(framework: str) -> DistillationBackend:
    """The adapter for distillation of ``"torch"`` or ``"keras"``."""
    return cast(DistillationBackend, _part(framework, "distillation"))


def distillation_backend_of(model: Any) -> DistillationBackend:
    """The adapter for distillation of the framework that `model` belongs to."""
    return distillation_backend(framework_of(model))


def removal_backend_of(model: Any) -> RemovalBackend:
    """The adapter for smaller copies of the framework that `model` belongs to."""
    return cast(RemovalBackend, _part(framework_of(model), "removal"))


def reading_backend_of(model: Any) -> ReadingBackend:
    """The reader of channels of the framework that `model` belongs to."""
    return cast(ReadingBackend, _part(framework_of(model), "reading"))


def gradient_backend_of(model: Any) -> GradientBackend:
    """What gradients say, in the framework that `model` belongs to."""
    return cast(GradientBackend, _part(framework_of(model), "gradients"))


def description_backend_of(model: Any) -> DescriptionBackend:
    """The reader of the framework that `model` belongs to."""
    return cast(DescriptionBackend, _part(framework_of(model), "describe"))


def activation_backend_of(model: Any) -> ActivationBackend:
    """The reader of activations of the framework that `model` belongs to."""
    return cast(ActivationBackend, _part(framework_of(model), "activations"))


def quantization_backend_of(model: Any) -> QuantizationBackend:
    """Quantization in the framework that `model` belongs to."""
    return cast(QuantizationBackend, _part(framework_of(model), "quantization"))


def stacks() -> Any:
    """The module whose `Stack` trains many networks at once; PyTorch alone has it."""
    return _part("torch", "stack")


def data_on_twin(name: str) -> Any:
    """``"importance"`` or ``"repair"``: what data say, on a PyTorch twin, of models of both frameworks."""
    return _part("torch", name)


def export_backend() -> Any:
    """The module that makes ONNX models of PyTorch's; Keras models come to it as twins."""
    return _part("torch", "export")


def runner_backend() -> Any:
    """The module that compiles PyTorch models and sets their threads."""
    return _part("torch", "runners")


def stored_layers() -> Any:
    """The module whose layers compute from stored weights; PyTorch alone has it."""
    return _part("torch", "sparse")
