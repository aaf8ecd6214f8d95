"""What an adapter of a framework must offer: the functions of each of its modules.

An adapter is a folder of `backends`; a class here stands for one of its modules, or for an object that a
module makes. `nnopt_lib.frameworks` chooses the adapter that a model needs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

__all__ = [
    "ActivationBackend",
    "Backend",
    "DescriptionBackend",
    "DistillationBackend",
    "GradientBackend",
    "Learner",
    "MaskBackend",
    "PenaltyBackend",
    "QuantizationBackend",
    "ReadingBackend",
    "RemovalBackend",
    "SharingBackend",
    "Stack",
    "TrainingBackend",
]


class Backend(Protocol):
    """What `build` of both adapters offers. Arrays are canonical: kernels (out, in, *spatial)."""

    def build(self, spec: Any, weights: dict[str, np.ndarray]) -> Any:
        """A model of `spec` with these weights."""

    def get_weights(self, model: Any) -> dict[str, np.ndarray]:
        """Copies of all weights, running statistics included."""

    def set_weights(self, model: Any, weights: dict[str, np.ndarray]) -> None:
        """Write all weights; names and shapes were checked before."""


class Learner(Protocol):
    """S models of one shape in training, as the loop sees them; one model is a stack of one."""

    def indices(self, orders: np.ndarray) -> Any:
        """Orders of the examples, int64 (models, examples), where `step` reads them; sliced by the loop."""

    def step(self, batch: Any, rate: float) -> Any:
        """One optimizer step, at this learning rate, of each model on its examples `batch`, (models, size).

        Gives the sums of losses and of correct answers, (2, models), as an array of the framework's own.
        """

    def predict(self, sets: Sequence[np.ndarray]) -> np.ndarray:
        """Outputs of each model in inference mode, (models, examples, *outputs).

        `sets` holds the inputs that all models share, or one array for each.
        """

    def keep(self, index: int) -> None:
        """Set aside a copy of one model's weights, in the place of an earlier one."""

    def restore(self) -> None:
        """Give each model back the weights that were kept of it last, if any were."""


class TrainingBackend(Protocol):
    """What `fit` of both adapters offers. Inputs are canonical: channels first."""

    def optimizer_for(self, model: Any, x: np.ndarray, training: Any, device: str) -> Any:
        """The optimizer of a recipe; moves the model to the device, and builds it by `x` where it was not."""

    def learner(
        self,
        model: Any,
        data: Any,
        training: Any,
        optimizer: Any,
        regularizers: Sequence[Any],
        device: str,
        objective: Any = None,
    ) -> Learner:
        """The model in training, on the device.

        `objective` gives the loss in place of cross-entropy: by `targets` of a batch's examples, then, called
        with (model, x, y, targets), logits and mean loss. Each of `regularizers`, in this order at every
        step, is called by `before` (the forward pass), `loss` (what it adds), `after_backward` (gradients)
        and `after_step` (at this learning rate).
        """

    def predict(self, model: Any, x: np.ndarray, batch_size: int, device: str | None) -> np.ndarray:
        """Outputs for `x` in inference mode."""

    def runner(self, model: Any, x: np.ndarray, device: str | None) -> Callable[[], Any]:
        """A function that runs one inference on `x`, already on the device, and waits for its end."""

    def seed(self, seed: int) -> None:
        """Seed the framework's own generators."""


class MaskBackend(Protocol):
    """What `masks` of both adapters offers: masks on a model's own weights."""

    def prunable(self, model: Any) -> list[str]:
        """Names of trainable kernels of dense, convolution and embedding layers."""

    def weights(self, model: Any, names: Sequence[str] | None) -> Mapping[str, np.ndarray]:
        """The named weights, or all of them, read one at a time; not to be changed."""

    def apply(self, model: Any, masks: Mapping[str, np.ndarray]) -> None:
        """Set what the masks remove to 0."""

    def hold(self, model: Any, masks: Mapping[str, np.ndarray], optimizer: Any) -> Any:
        """Mask weights and the optimizer's state after each of its steps; gives a handle with `remove`."""

    def reinitialize(self, model: Any, seed: int) -> None:
        """Draw all weights again."""


class PenaltyBackend(Protocol):
    """What `penalties` of both adapters offers: regularization of a model's kernels."""

    def total(self, kind: str, model: Any) -> Any:
        """A penalty as a differentiable scalar."""

    def shrink(self, kind: str, model: Any, amount: float) -> None:
        """One proximal step, in place."""

    def gates(self, model: Any, strength: float, learning_rate: float, seed: int) -> Any:
        """Hard-concrete gates."""

    def regularizer(self, model: Any, penalty: Any, training: Any, seed: int) -> Any:
        """A penalty at work in a loop."""


class SharingBackend(Protocol):
    """What `sharing` of both adapters offers: training of weights that share values."""

    def regularizer(self, model: Any, shared: Mapping[str, Any]) -> Any:
        """Who shares which value at work in a loop; the model's weights are shared so already."""


class DistillationBackend(Protocol):
    """What `distillation` of both adapters offers: learning from a teacher's answers."""

    def loss(self, student_logits: Any, teacher_logits: Any, y: Any, temperature: float, alpha: float) -> Any:
        """The mean loss of a batch, a scalar with a gradient."""

    def layer_outputs(
        self, model: Any, names: Sequence[str], x: np.ndarray, batch_size: int
    ) -> dict[str, np.ndarray]:
        """Outputs of layers, by the model's own names, (examples, channels, *space), in inference mode."""

    def objective(
        self, model: Any, lesson: Any, maps: Sequence[np.ndarray], training: Any, optimizer: Any
    ) -> Any:
        """What `learner` takes as `objective`; `maps` (student's channels, teacher's) are trained with it."""


class DescriptionBackend(Protocol):
    """What `describe` of both adapters offers."""

    def read(self, model: Any, example_input: Any) -> tuple[Any, Mapping[str, str], Mapping[str, np.ndarray]]:
        """The description of `model`, its own names of layers, and orders of inputs."""


class ReadingBackend(Protocol):
    """What `reading` of both adapters offers."""

    def read(self, model: Any, example_input: Any) -> Any:
        """A `Reading` of `model`, with the details that `removal` needs; the model stays as it is."""


class RemovalBackend(Protocol):
    """What `removal` of both adapters offers."""

    def cut(
        self,
        model: Any,
        channels: Any,
        kept: np.ndarray,
        details: Any,
        added: Mapping[str, np.ndarray] | None = None,
    ) -> Any:
        """A copy of `model` without the nodes that are not `kept`; `added` goes to biases beside kernels."""

    def difference(self, model: Any, small: Any, channels: Any, kept: np.ndarray, details: Any) -> str | None:
        """What is wrong with a smaller model beside the masked one; None if it gives the same outputs."""

    def another_way(self, details: Any, where: str, *, on: bool = True) -> bool:
        """Cut modules at this kind of place in another way from now on; False if there is none."""


class GradientBackend(Protocol):
    """What `gradients` of both adapters offers, of any model that runs, by canonical names of weights.

    The model stays as it was. Refused: a loss or gradients that are not finite; outputs that are several.
    """

    def mean(
        self,
        model: Any,
        names: Sequence[str],
        x: Any,
        y: Any,
        *,
        loss: Any,
        batch_size: int,
        batch_statistics: bool = False,
        temperature: float = 1.0,
    ) -> tuple[float, dict[str, np.ndarray]]:
        """The mean loss over all examples and its gradient, float64.

        Evaluation mode; with `batch_statistics` batch normalizations use those of each batch. Logits are
        divided by `temperature` before cross-entropy.
        """

    def each(
        self, model: Any, names: Sequence[str], x: Any, y: Any, *, loss: Any
    ) -> Iterator[dict[str, np.ndarray]]:
        """The gradient of each example's loss, one example at a time, evaluation mode."""

    def jacobians(
        self, model: Any, names: Sequence[str], x: Any
    ) -> Iterator[tuple[np.ndarray, dict[str, np.ndarray]]]:
        """One example at a time: its outputs, flat, and their slopes (outputs, *shape), evaluation mode."""

    def hessian_product(
        self,
        model: Any,
        names: Sequence[str],
        x: Any,
        y: Any,
        vector: Mapping[str, np.ndarray],
        *,
        loss: Any,
        batch_size: int,
        batch_statistics: bool = False,
        temperature: float = 1.0,
    ) -> dict[str, np.ndarray]:
        """The Hessian of the mean loss times `vector`, float64."""

    def path_scores(self, model: Any, names: Sequence[str], x: Any) -> dict[str, np.ndarray]:
        """SynFlow's |w| dR/d|w| in float64; `x`, or None, gives the shape of inputs only."""

    def Movement(self, model: Any, names: Sequence[str]) -> Any:  # noqa: N802
        """Sums of -w dL/dw over steps: a regularizer that changes nothing, with `scores`."""


class ActivationBackend(Protocol):
    """What `activations` of both adapters offers: what layers read.

    Examples `x`: an array (examples, ...), canonical, or a tuple or dictionary (by argument) of such arrays.
    """

    def readable(self, model: Any, names: Sequence[str], x: Any) -> dict[str, str | None]:
        """None, or why the layer cannot be pruned by itself, for each kernel, in the order of first calls."""

    def columns(self, model: Any, name: str, x: Any, batch_size: int) -> Iterator[np.ndarray]:
        """What a readable layer reads, float32 (rows, groups, inputs / groups * kernel entries).

        ``kernel.reshape(groups, outputs / groups, -1)[g] @ columns[:, g].T`` is what group g gives without
        bias. Arrays are of one batch and one call, or of a part of it where they would be large; nothing
        behind the layer is run.
        """


class QuantizationBackend(Protocol):
    """What `quantization` of both adapters offers."""

    def straight_through(self, model: Any, names: Sequence[str], recipe: Any) -> Any:
        """Quantization-aware training of the named kernels: a regularizer of a loop."""

    def dynamic(self, model: Any, names: Sequence[str] | None) -> Any:
        """A copy whose dense layers run int8 kernels."""

    def round_inputs(self, model: Any, grids: Mapping[str, Any]) -> None:
        """Let the layers of these kernels read rounded numbers from now on."""


class Stack(Protocol):
    """What `fit_many` gives: trained networks of one description. `histories[i]` belongs to ``seeds[i]``."""

    seeds: list[int]
    histories: list[Any]

    def weights(self, index: int, *, last: bool = False) -> dict[str, np.ndarray]:
        """Copies of one network's weights."""

    def predict(self, x: np.ndarray | Sequence[np.ndarray], batch_size: int = 1024) -> np.ndarray:
        """Logits of all networks, for inputs that they share or one array for each."""

    def evaluate(
        self, x: np.ndarray | Sequence[np.ndarray], y: np.ndarray | Sequence[np.ndarray]
    ) -> list[dict[str, float]]:
        """Accuracy and loss of each network."""
