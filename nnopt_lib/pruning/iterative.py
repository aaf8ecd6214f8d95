"""Pruning in levels: prune, rewind, train again; and the controls. Chapters 09 and 10 teach it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from nnopt_lib.checks import check_fraction, check_int, refuse
from nnopt_lib.frameworks import backend_of, mask_backend_of
from nnopt_lib.pruning.masks import Masks
from nnopt_lib.pruning.prune import fitted, prune
from nnopt_lib.structure.weights import check_match, initial_weights, renamed


def rewind(model: Any, weights: Mapping[str, np.ndarray], masks: Masks | None = None) -> None:
    """Put earlier weights, of `get_weights`, back, bit by bit, and set to 0 what `masks` removed.

    Both may be of the model before it was saved and loaded, cloned or wrapped, as in `apply_masks`.
    To the start of training this is "reset to initialization" (Frankle & Carbin 2019), to an early step it is
    rewinding (Frankle et al. 2020). Chapter 10 compares them.

    Example:
        >>> from nnopt_lib import build, get_weights, mlp
        >>> model = build(mlp((3,), inputs=4, outputs=2))
        >>> first = get_weights(model)
        >>> rewind(model, first, prune(model, sparsity=0.5))
    """
    current = backend_of(model).get_weights(model)
    # Everything is checked before anything is written: a refusal leaves the model as it was.
    shapes = {name: value.shape for name, value in current.items()}
    if len(weights) == len(shapes):
        weights = renamed(weights, shapes) or weights
    check_match(weights, shapes, "weights")
    if masks is not None:
        fitting = fitted(model, masks.weights)
    backend_of(model).set_weights(model, dict(weights))
    if masks is not None:
        mask_backend_of(model).apply(model, fitting)


def reinitialize(model: Any, *, seed: int, init: str = "glorot_uniform") -> None:
    """Draw all weights again: the control that keeps a mask and loses the first weights.

    A network of `build` is drawn as ``build(spec, seed=seed, init=init)`` would be. Any other model uses the
    initializers of its own layers (`reset_parameters` in PyTorch), and `init` plays no part.

    Example:
        >>> from nnopt_lib import build, mlp
        >>> reinitialize(build(mlp((3,), inputs=4, outputs=2)), seed=7)
    """
    check_int("seed", seed, at_least=0)
    spec = getattr(model, "spec", None)
    if spec is not None:
        backend_of(model).set_weights(model, initial_weights(spec, seed, init))
    else:
        mask_backend_of(model).reinitialize(model, seed)


@dataclass(frozen=True)
class Level:
    """One round of pruning and training: its number from 0, its masks, what `train` returned."""

    index: int
    masks: Masks
    result: Any

    @property
    def sparsity(self) -> float:
        """The achieved sparsity of the masks."""
        return self.masks.sparsity


def iterative_prune(
    model: Any,
    train: Callable[[Any, Masks], Any],
    sparsities: Iterable[float],
    *,
    rewind_to: Mapping[str, np.ndarray] | None = None,
    **options: Any,
) -> Iterator[Level]:
    """Prune, rewind if asked, train, for each cumulative target; yields a `Level` after each training.

    Parameters:
        train: function of (model, masks) that trains and keeps the zeros, with `fit(masks=...)` or `hold`.
        sparsities: rising targets, as `nnopt_lib.schedules` makes them; begin with 0 to train dense first.
        rewind_to: weights to go back to after each pruning, of `get_weights`; None trains on as it is.
        options: of `prune`, the same at every level.

    Example:
        >>> from nnopt_lib import Training, build, fit, load_data, mlp
        >>> digits, recipe = load_data("digits"), Training(epochs=1)
        >>> model = build(mlp((32,), inputs=64, outputs=10))
        >>> def train(model, masks):
        ...     return fit(model, digits, recipe, masks=masks, device="cpu")
        >>> [round(level.sparsity, 2) for level in iterative_prune(model, train, [0, 0.5, 0.75])]
        [0.0, 0.5, 0.75]
    """
    targets = [check_fraction("sparsity", sparsity) for sparsity in sparsities]
    for before, after in pairwise(targets):
        if after < before:
            refuse("sparsities must not fall from level to level", f"{after:g} after {before:g}")
    return _levels(model, train, targets, rewind_to, options)


def _levels(
    model: Any,
    train: Callable[[Any, Masks], Any],
    targets: list[float],
    rewind_to: Mapping[str, np.ndarray] | None,
    options: dict[str, Any],
) -> Iterator[Level]:
    masks = options.pop("previous", None)
    for index, sparsity in enumerate(targets):
        masks = prune(model, sparsity=sparsity, previous=masks, **options)
        if rewind_to is not None:
            rewind(model, rewind_to, masks)
        yield Level(index, masks, train(model, masks))
