"""One-shot pruning by curvature: which weights go, and what the others become to make up for them.

`prune_one_shot` is the verb for six methods. Three read the curvature of the loss, of all weights together
(`curvature`); three read what each layer is given, one layer after the other (`layerwise`). Chapter 12
teaches them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np

from nnopt_lib.checks import check_choice, check_int, check_number, refuse
from nnopt_lib.frameworks import mask_backend_of
from nnopt_lib.pruning.curvature import NETWORK
from nnopt_lib.pruning.examples import Loss, check_examples, check_loss
from nnopt_lib.pruning.layer_by_layer import prune_by_layer, readable, write
from nnopt_lib.pruning.masks import SCOPES, Masks, _n_and_m
from nnopt_lib.pruning.patterns import fractions_of
from nnopt_lib.pruning.prune import _weight_masks, _weights_of, fitted, prunable
from nnopt_lib.pruning.whole_network import Flat, check_size, groups_of, obd, obs, woodfisher
from nnopt_lib.structure.reading import layer_of
from nnopt_lib.structure.weights import check_match

WHOLE_NETWORK = ("obd", "obs", "woodfisher")
LAYER_BY_LAYER = ("obc", "sparsegpt", "wanda")
METHODS = (*WHOLE_NETWORK, *LAYER_BY_LAYER)
# What is added to the diagonal by default: absolute for the first two, as WoodFisher's authors add it;
# relative to the diagonal's mean for the others, as SparseGPT's do.
DAMPENING = {"obs": 1e-5, "woodfisher": 1e-5, "obc": 0.01, "sparsegpt": 0.01}
BLOCKS = ("woodfisher", "sparsegpt")


class OneShotMasks(Masks):
    """`Masks` that also say what a method foresaw, and what it had to leave; read-only.

    Example:
        >>> masks = OneShotMasks({"dense_1/kernel": np.array([[True, False]])})
        >>> masks, masks.predicted, masks.errors, masks.whole
        (OneShotMasks(sparsity 0.5: 1 of 2 weights removed, 1 array), None, {}, {})
    """

    _predicted: float | None = None
    _errors: Mapping[str, tuple[float, float]] = MappingProxyType({})
    _whole: Mapping[str, str] = MappingProxyType({})

    @classmethod
    def made(cls, arrays: Mapping[str, np.ndarray], **known: Any) -> OneShotMasks:
        """Masks with what is known of them: predicted, errors, whole."""
        masks = cls(arrays)
        for name, value in known.items():
            setattr(masks, f"_{name}", value)
        return masks

    def __repr__(self) -> str:
        count = len(self.whole)
        whole = f"; {count} layer{'s' * (count != 1)} whole, see .whole" if count else ""
        return f"{super().__repr__().removesuffix(')')}{whole})"

    @property
    def predicted(self) -> float | None:
        """By how much the quadratic model says that the loss rises; None for methods by layer."""
        return self._predicted

    @property
    def errors(self) -> dict[str, tuple[float, float]]:
        """For each layer the mean squared change of its outputs, relative to their mean square.

        The first is that of the mask alone, the second with the weights updated; for methods by layer.
        """
        return dict(self._errors)

    @property
    def whole(self) -> dict[str, str]:
        """The layers that stayed whole since what they read is no columns for a kernel, and why."""
        return dict(self._whole)


def prune_one_shot(
    model: Any,
    x: Any,
    y: np.ndarray | None = None,
    *,
    method: str,
    sparsity: float | Mapping[str, float] | None = None,
    scope: str | None = None,
    granularity: str = "weight",
    names: Sequence[str] | None = None,
    skip: Sequence[str] = (),
    previous: Masks | None = None,
    loss: Loss = "cross_entropy",
    dampening: float | None = None,
    block_size: int | str | None = None,
    batch_size: int = 256,
) -> OneShotMasks:
    """Remove weights of a trained `model` and let the others make up for them, without training; in place.

    Parameters:
        model: any torch module that runs, or built Keras 3 model; read in evaluation mode.
        x: examples of the training data, canonical (channels first): an array, or a tuple or dict of arrays
            for a model of several arguments. Some hundred show much already.
        y: a label for each, where the loss needs one; methods by layer do without.
        method: by the curvature of the loss ``"obd"`` (diagonal, no update; LeCun et al. 1989), ``"obs"``
            (whole inverse, at most 5,000 weights; Hassibi & Stork 1993) or ``"woodfisher"`` (empirical
            Fisher matrix; Singh & Alistarh 2020). Layer by layer, so that the layer's outputs change least,
            ``"obc"`` (greedy; Frantar & Alistarh 2022), ``"sparsegpt"`` (fixed order; 2023) or ``"wanda"``
            (scores, no update; Sun et al. 2024). `curvature` and `layerwise` say what each does.
        sparsity, granularity, names, skip, previous: as in `prune`. Wanda removes ``round(sparsity * d)`` of
            the d weights of each output. What `previous` removed is set to 0 first.
        scope: ``"global"`` (the default) or ``"layer"``; methods by layer give each layer the same sparsity.
        loss: ``"cross_entropy"``, ``"mse"``, or, for woodfisher, a function as in `saliency`.
        dampening: what is added to the diagonal of what is inverted: for obs and woodfisher a number, 1e-5
            by default, where 1e-3 is steadier if about as few weights are kept as there are examples; for obc
            and sparsegpt a share of its mean, 0.01 by default. It may be 0, but for woodfisher, where the
            examples span all directions.
        block_size: for woodfisher how many weights of a layer have their curvature taken together, by default
            all of it, or ``"network"`` for all weights together, which takes no more memory; for sparsegpt
            from how many columns weights are chosen together, 128 by default.
        batch_size: examples in memory at a time, for methods by layer.

    Returns `OneShotMasks`, for `hold` and all else that takes masks. Errors, after which the model is as it
    was: labels missing; an option of another method; dampening that is negative; examples that do not span
    what is inverted; too many weights for obs; gradients that are not finite; those of `prune`.

    Example:
        >>> from nnopt_lib import build, load_data, mlp
        >>> model, digits = build(mlp((8,), inputs=64, outputs=10)), load_data("digits")
        >>> prune_one_shot(model, digits.x_train[:100], method="obc", sparsity=0.5)
        OneShotMasks(sparsity 0.5: 296 of 592 weights removed, 2 arrays)
    """
    dampening = _checked_options(method, scope, dampening, block_size)
    check_int("batch_size", batch_size, at_least=1)
    _check_data(method, x, y, loss)
    names, previous = _ranked(model, names, previous)
    whole: dict[str, str] = {}
    if method in LAYER_BY_LAYER:
        names, whole = readable(model, names, x)
        previous = None if previous is None else Masks({name: previous[name] for name in names})
        scope = "layer" if granularity == "weight" else None
    shapes = {name: np.shape(_weights_of(model, [name])[name]) for name in names}
    kind = {"scope": scope or "global", "allocation": "uniform", "granularity": granularity}

    def choose(scores: Mapping[str, np.ndarray]) -> Masks:
        every = {name: scores.get(name, np.zeros(shape)) for name, shape in shapes.items()}
        return _weight_masks(every, sparsity, skip, previous, kind)

    # Masks by no scores: their counts are what is asked for, and what is wrong is refused before any work.
    asked = choose({})
    if method == "obs":
        check_size(asked, previous)
    with _restored_on_error(model, list(asked)):
        if previous is not None:
            mask_backend_of(model).apply(model, {name: previous[name] for name in asked})
        if method in LAYER_BY_LAYER:
            options: dict[str, Any] = {"dampening": dampening} if method in DAMPENING else {}
            options |= {"block": block_size} if block_size else {}
            arrays, errors = prune_by_layer(
                *(model, x, asked, previous, method),
                n_m=_n_and_m(granularity),
                shares=_shares(asked, sparsity),
                options=options,
                batch_size=batch_size,
            )
            return OneShotMasks.made(arrays, errors=errors, whole=whole)
        flat = Flat.of(model, asked, previous)
        if method == "obd":
            masks, new, predicted = obd(model, flat, x, loss, choose)
        elif method == "obs":
            by_layer = scope == "layer" or isinstance(sparsity, Mapping)
            groups = groups_of(asked, by_layer, _n_and_m(granularity))
            masks, new, predicted = obs(model, flat, x, loss, asked, groups, dampening)
        else:
            masks, new, predicted = woodfisher(model, flat, x, y, loss, choose, dampening, block_size)
        write(model, flat.split(new))
        mask_backend_of(model).apply(model, masks)
        return OneShotMasks.made(masks, predicted=predicted)


# ------------------------------------------------------------------ what is asked for


def _checked_options(
    method: str, scope: str | None, dampening: float | None, block_size: int | str | None
) -> float:
    """The dampening to use; options that the method does not have are refused."""
    check_choice("method", method, METHODS)
    if scope is not None:
        check_choice("scope", scope, SCOPES)
        if method in LAYER_BY_LAYER:
            refuse(f"method {method!r} prunes layer by layer", f"scope={scope!r}", "Leave scope out.")
    for what, value, methods in (("dampening", dampening, DAMPENING), ("block_size", block_size, BLOCKS)):
        if value is not None and method not in methods:
            refuse(f"{what} belongs to methods {', '.join(methods)}", f"method={method!r}", "Leave it out.")
    if block_size is not None and not (method == "woodfisher" and block_size == NETWORK):
        check_int("block_size", block_size, at_least=1)
    if dampening is None:
        return DAMPENING.get(method, 0.0)
    if method == "woodfisher":
        return check_number("dampening", dampening, above=0)
    return check_number("dampening", dampening, at_least=0)


def _check_data(method: str, x: Any, y: Any, loss: Loss) -> None:
    """Refuse missing examples, or labels where the loss needs them."""
    what = f"method {method!r}"
    if method in LAYER_BY_LAYER:
        check_examples(what, x, y, labels=y is not None)
        return
    check_loss(what, x, y, loss)
    if method == "woodfisher":
        return
    if callable(loss):
        rule = f"{what} needs a loss whose curvature is known, 'cross_entropy' or 'mse'"
        refuse(rule, "a function", "Pass one of them, or method='woodfisher'.")
    if loss == "cross_entropy" and np.ndim(y) != 1:
        # Outputs come flat: which of them one softmax reads, only one label for each example says.
        rule = f"{what} with cross-entropy needs one label for each example"
        refuse(rule, f"labels of shape {np.shape(y)}", "Pass method='woodfisher'.")


def _ranked(
    model: Any, names: Sequence[str] | None, previous: Masks | None
) -> tuple[list[str], Masks | None]:
    """The names of the weights to rank, and the previous masks under them."""
    if previous is not None:
        previous = fitted(model, previous.weights)
    if names is None:
        names = list(previous) if previous is not None else prunable(model)
        if not names:
            kinds = "a dense, convolution or embedding layer"
            refuse(f"a model to prune needs a trainable kernel of {kinds}", "none")
    elif not names:
        refuse("names must list at least one weight", "none", "Leave it out for all kernels.")
    weights = _weights_of(model, names)
    if previous is not None:
        check_match(previous, {name: np.shape(weights[name]) for name in names})
    return list(names), previous


def _shares(asked: Masks, sparsity: Any) -> dict[str, float]:
    """The sparsity of each layer to prune, for wanda, which counts by outputs; none for n:m."""
    if sparsity is None:
        return {}
    if not isinstance(sparsity, Mapping):
        return dict.fromkeys(asked, float(sparsity))
    fractions = fractions_of(sparsity, [layer_of(name) for name in asked])
    return {name: fractions[layer_of(name)] for name in asked}


@contextlib.contextmanager
def _restored_on_error(model: Any, names: Sequence[str]) -> Iterator[None]:
    """Whatever goes wrong, the named weights are then what they were."""
    before = {name: np.array(_weights_of(model, [name])[name]) for name in names}
    try:
        yield
    except BaseException:
        write(model, before)
        raise
