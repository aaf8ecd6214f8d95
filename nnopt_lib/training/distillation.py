"""Distillation: a small network learns from what a large one answers, beside the labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from nnopt_lib.checks import check_number, refuse
from nnopt_lib.frameworks import (
    distillation_backend,
    distillation_backend_of,
    framework_of,
    framework_of_tensor,
    training_backend_of,
)

if TYPE_CHECKING:
    from nnopt_lib.data import Data


@dataclass(frozen=True, eq=False)
class Distillation:
    """What a student learns from a teacher, for ``fit(..., distillation=...)``.

    The loss of a batch is (1 - alpha) CE(student, labels) + alpha T² KL(teacher_T || student_T), where the
    subscript divides logits by the temperature T (Hinton, Vinyals & Dean 2015), plus `hidden_weight` times
    the mean squared differences of hidden layers, over which a learned linear map is laid (FitNets: Romero
    et al. 2015, who train that part first; here everything is trained together).

    Parameters:
        teacher: model of either framework that gives logits, (examples, classes), for the student's inputs.
            It is run once on all training examples, in inference mode, before training, and stays as it is.
        temperature: T, above 0. Large T compares logits, small T the largest of them only.
        alpha: weight of the teacher's answers, from 0 (labels only: plain training, bit for bit) to 1.
        hidden: pairs (student's layer, teacher's layer), by the models' own names of layers. Outputs are read
            as (examples, channels, *space), in Keras with channels last; the map goes over channels.
        hidden_weight: above 0.

    In `History` training losses are this loss, validation losses are plain cross-entropy.

    Example:
        >>> from nnopt_lib import Training, build, fit, load_data, mlp
        >>> digits, teacher = load_data("digits"), build(mlp((64,), inputs=64, outputs=10))
        >>> student = build(mlp((8,), inputs=64, outputs=10))
        >>> len(fit(student, digits, Training(epochs=1), distillation=Distillation(teacher)).rows)
        1

    Chapter 18 uses it.
    """

    teacher: Any = field(repr=False)
    temperature: float = 4.0
    alpha: float = 0.9
    hidden: tuple[tuple[str, str], ...] = ()
    hidden_weight: float = 1.0

    def __post_init__(self) -> None:
        framework_of(self.teacher)
        _check(self.temperature, self.alpha)
        check_number("hidden_weight", self.hidden_weight, above=0)
        pairs = self.hidden if isinstance(self.hidden, (list, tuple)) else [self.hidden]
        for pair in pairs:
            named = isinstance(pair, (list, tuple)) and [type(name) for name in pair] == [str, str]
            if not named:
                refuse("hidden must be pairs (student's layer, teacher's layer)", repr(pair))
        object.__setattr__(self, "hidden", tuple(tuple(pair) for pair in pairs))


def _check(temperature: Any, alpha: Any) -> None:
    check_number("temperature", temperature, above=0)
    if check_number("alpha", alpha) < 0 or alpha > 1:
        refuse("alpha must be from 0 (labels only) to 1 (the teacher only)", f"{alpha:g}")


def distillation_loss(
    student_logits: Any, teacher_logits: Any, y: Any, *, temperature: float = 4.0, alpha: float = 0.9
) -> Any:
    """Mean loss of a batch in a loop of one's own: (1 - alpha) CE + alpha T² KL(teacher_T || student_T).

    Parameters:
        student_logits: torch or TensorFlow tensor, (examples, classes), as the loss is then.
        teacher_logits: the same shape, a tensor or an array; no gradient goes through it.
        y: the true classes, whole numbers, (examples,).
        temperature: above 0. T² keeps the gradient's size: for large T it goes to that of half the mean
            squared difference of centered logits, per class (Hinton, Vinyals & Dean 2015, section 2.1).
        alpha: weight of the teacher, from 0 to 1.

    Example:
        >>> import torch
        >>> logits, y = torch.tensor([[2.0, 0.0]]), torch.tensor([0])
        >>> round(float(distillation_loss(logits, [[2.0, 0.0]], y, alpha=1.0)), 6)  # nothing to learn
        0.0

    Chapter 18 writes it by hand.
    """
    _check(temperature, alpha)
    framework = framework_of_tensor(student_logits)
    shapes = [tuple(np.shape(logits)) for logits in (student_logits, teacher_logits)]
    if shapes[0] != shapes[1] or len(shapes[0]) != 2:
        rule = "logits of student and teacher must have one shape, (examples, classes)"
        refuse(rule, f"{shapes[0]} and {shapes[1]}")
    return distillation_backend(framework).loss(student_logits, teacher_logits, y, temperature, alpha)


@dataclass(frozen=True, eq=False)
class Lesson:
    """A distillation with the teacher's answers on the training set, before the student is looked at."""

    recipe: Distillation
    logits: np.ndarray  # (examples, classes)
    hidden: Sequence[np.ndarray]  # of each pair: (examples, channels, *space)

    def objective(self, model: Any, data: Data, training: Any, seed: int, optimizer: Any) -> Any:
        """What the student is trained by; refused where its outputs do not fit the teacher's."""
        x = data.x_train[:1]
        logits = training_backend_of(model).predict(model, x, 1, None)
        if logits.shape[1:] != self.logits.shape[1:]:
            rule = "teacher and student must give equally many outputs"
            refuse(rule, f"{_size(self.logits)} and {_size(logits)}")
        adapter = distillation_backend_of(model)
        names = [name for name, _ in self.recipe.hidden]
        read = adapter.layer_outputs(model, names, x, 1)
        maps = []
        for index, (name, target) in enumerate(zip(names, self.hidden, strict=True)):
            if read[name].shape[2:] != target.shape[2:]:
                rule = f"hidden layers {self.recipe.hidden[index]} must have equal sizes in space"
                refuse(rule, f"{read[name].shape[2:]} and {target.shape[2:]}")
            shape = read[name].shape[1], target.shape[1]
            bound = np.sqrt(6 / sum(shape))  # Glorot's, as kernels begin
            # A generator of its own: the student's is not drawn from.
            drawn = np.random.default_rng([seed, index]).uniform(-bound, bound, shape)
            maps.append(drawn.astype(np.float32))
        return adapter.objective(model, self, maps, training, optimizer)


def _size(outputs: np.ndarray) -> str:
    return " x ".join(map(str, outputs.shape[1:]))


def lesson(distillation: Distillation, data: Data) -> Lesson:
    """The teacher's answers on all training examples, computed once."""
    teacher, x = distillation.teacher, data.x_train
    logits = training_backend_of(teacher).predict(teacher, x, 1024, None)
    if logits.ndim != 2:
        refuse("a teacher must give logits, (examples, classes)", f"outputs of shape {logits.shape}")
    wrong = int((~np.isfinite(logits).all(1)).sum())
    if wrong:
        refuse("a teacher's logits must be finite", f"NaN or inf for {wrong} of {len(logits)} examples")
    names = [name for _, name in distillation.hidden]
    read = distillation_backend_of(teacher).layer_outputs(teacher, names, x, 1024)
    return Lesson(distillation, logits, [read[name] for name in names])
