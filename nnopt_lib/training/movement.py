"""Movement: how far training pushes each weight away from zero, summed over its steps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from nnopt_lib.frameworks import gradient_backend_of, training_backend_of
from nnopt_lib.pruning.names import ranked_weights
from nnopt_lib.training.fit import seed_everything
from nnopt_lib.training.loop import check_data, train
from nnopt_lib.training.recipe import Training

if TYPE_CHECKING:
    from nnopt_lib.data import Data


def movement(
    model: Any,
    data: Data,
    training: Training,
    *,
    seed: int = 0,
    device: str = "auto",
    names: Sequence[str] | None = None,
) -> dict[str, np.ndarray]:
    """Train `model` in place as `fit` does, and return the sum over steps of -w dL/dw for each weight.

    Above 0 where training moved a weight away from zero, below where toward it; larger = keep (Sanh, Wolf &
    Rush 2020, who learn scores with a straight-through estimator through the mask; here all weights take
    part in every step, so that one training gives the scores of all sparsities). Dropout and batch
    normalization are as in training.

    Parameters: as in `fit`; names: canonical names of the weights, by default those of `prunable`.
    Returns arrays of the weights' shapes, for ``prune(score=...)``. In a loop of your own, make
    ``gradient_backend_of(model).Movement(model, names)`` and call its `after_backward` after every backward
    pass. Chapter 11 uses it.

    Example:
        >>> from nnopt_lib import build, load_data, mlp
        >>> model, digits = build(mlp((8,), inputs=64, outputs=10)), load_data("digits")
        >>> scores = movement(model, digits, Training(epochs=1), device="cpu")
        >>> scores["dense_1/kernel"].shape
        (8, 64)
    """
    check_data(data, training)
    adapter = training_backend_of(model)
    seed_everything(seed)
    optimizer = adapter.optimizer_for(model, data.x_train[:1], training, device)
    names = list(ranked_weights(model, names))
    moved = gradient_backend_of(model).Movement(model, names)
    learner = adapter.learner(model, data, training, optimizer, [moved], device)
    train(learner, [data], training, [seed])
    return moved.scores()
