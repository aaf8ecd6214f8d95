"""Examples that a model is asked about: counted, checked against their labels, cut into batches.

Inputs are an array (examples, ...), canonical (channels first), or a tuple or dict of such arrays for a model
of several arguments.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NoReturn

import numpy as np

from nnopt_lib.checks import check_choice, refuse

LOSSES = ("cross_entropy", "mse")
Loss = str | Callable[[Any, Any], Any]


def arrays_of(x: Any) -> list[Any]:
    """The arrays of inputs, in order."""
    return list(x.values() if isinstance(x, Mapping) else x) if isinstance(x, (tuple, Mapping)) else [x]


def count_of(x: Any) -> int:
    """How many examples inputs hold; 0 for none at all."""
    arrays = [] if x is None else arrays_of(x)
    counts = {len(array) for array in arrays}
    if len(counts) > 1:
        refuse("inputs of several arguments must have equal numbers of examples", sorted(counts))
    return counts.pop() if counts else 0


def check_examples(what: str, x: Any, y: Any = None, *, labels: bool = False) -> None:
    """Refuse what needs data and gets none."""
    examples = count_of(x)
    if examples == 0:
        refuse(f"{what} needs examples x", "none")
    if labels and (y is None or len(y) != examples):
        refuse(f"{what} needs a label y for each of {examples} examples", "none" if y is None else len(y))


def check_loss(what: str, x: Any, y: Any, loss: Loss) -> None:
    """Refuse an unknown loss, no examples, or no labels where the loss compares with them."""
    if not callable(loss):
        check_choice("loss", loss, LOSSES)
    check_examples(what, x, y, labels=not callable(loss) or y is not None)


def part_of(x: Any, part: slice) -> Any:
    """Some of the examples, in the form that they came in."""
    if isinstance(x, Mapping):
        return {name: array[part] for name, array in x.items()}
    return tuple(array[part] for array in x) if isinstance(x, tuple) else x[part]


def batches_of(x: Any, y: Any, size: int) -> Iterator[tuple[Any, Any, int]]:
    """Inputs, labels (None where there are none) and number of the examples of each batch."""
    examples = count_of(x)
    for begin in range(0, examples, size):
        part = slice(begin, min(begin + size, examples))
        yield part_of(x, part), None if y is None else y[part], part.stop - begin


def class_axis(outputs: Sequence[int], labels: Sequence[int]) -> int:
    """Which axis of logits holds the classes, by both shapes: the last, or 1 where positions come behind."""
    outputs, labels = tuple(outputs), tuple(labels)
    if outputs[:-1] == labels:
        return len(outputs) - 1
    if outputs[:1] + outputs[2:] == labels:
        return 1
    rule = "labels must be integers of the shape of the outputs without the axis of classes"
    remedy = "Pass a function of outputs and labels as loss for anything else."
    refuse(rule, f"outputs {outputs} and labels {labels}", remedy)


def check_labels(loss: str, outputs: Sequence[int], y: Any) -> None:
    """Refuse labels that do not fit a model whose outputs for one example have this shape."""
    labels = np.asarray(y)
    if loss == "mse":
        if math.prod(outputs) != labels[:1].size:
            rule = "labels for 'mse' must be as many numbers as there are outputs"
            refuse(rule, f"outputs {tuple(outputs)} and labels {labels[:1].shape}")
        return
    classes = tuple(outputs)[class_axis(outputs, labels[:1].shape)]
    if labels.dtype.kind not in "iub":
        refuse("labels must be integers", f"type {labels.dtype}")
    if labels.min() < 0 or labels.max() >= classes:
        remedy = "For one output and labels 0 and 1 pass a loss of your own." if classes == 1 else ""
        rule = f"labels must be from 0 to {classes - 1}, for {classes} outputs"
        refuse(rule, f"{labels.min()} to {labels.max()}", remedy)


def refuse_to_run(kind: str, error: Exception) -> NoReturn:
    """Say in one sentence that a model does not run on the examples."""
    reason = " ".join(f"{type(error).__name__}: {error}".split())[:160]
    remedy = "Pass what it reads: an array, or a tuple or dict of arrays for several arguments."
    refuse(f"{kind} must run on the examples x", reason, remedy)


def check_finite(loss: float, gradients: Mapping[str, np.ndarray]) -> None:
    """Refuse a loss that is not finite, and gradients with NaN or infinity, naming the layer."""
    if not math.isfinite(loss):
        remedy = "Look for weights or inputs that are NaN or too large."
        refuse("the loss must be finite", f"{loss}", remedy)
    for name, gradient in gradients.items():
        if not np.isfinite(gradient).all():
            layer = name.rpartition("/")[0] or name
            count = f"{int((~np.isfinite(gradient)).sum())} of {gradient.size} that are not"
            refuse(f"gradients must be finite, and in layer {layer!r} they are not", count)
