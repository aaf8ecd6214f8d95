"""Which weights are ranked: those that a caller names, or all kernels of a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from nnopt_lib.checks import nearest, refuse
from nnopt_lib.frameworks import backend_of, mask_backend_of


def ranked_weights(model: Any, names: Sequence[str] | None) -> Mapping[str, np.ndarray]:
    """The weights to rank by canonical name, read one at a time: all that are prunable, or these.

    Refused: a model without any; no name at all; an unknown one, with the nearest there is.

    Example:
        >>> from nnopt_lib import build, mlp
        >>> list(ranked_weights(build(mlp((3,), inputs=4, outputs=2)), None))
        ['dense_1/kernel', 'dense_2/kernel']
    """
    backend = mask_backend_of(model)
    if names is None:
        names = backend.prunable(model)
        if not names:
            kinds = "a dense, convolution or embedding layer"
            refuse(f"a model to prune needs a trainable kernel of {kinds}", "none")
    elif not names:
        refuse("names must list at least one weight", "none", "Leave it out for all kernels.")
    weights = backend.weights(model, names)
    for name in names:
        if name not in weights:
            known = backend_of(model).get_weights(model)
            refuse(f"the model has no weight {name!r}", None, nearest(name, known))
    return weights
