"""One-shot pruning by curvature: which weights go, and what the others become to make up for them.

`prune_one_shot` is the verb for six methods. Three read the curvature of the loss, of all weights together
(`curvature`); three read what each layer is given, one layer after the other (`layerwise`). Chapter 12
teaches them.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np

from nnopt_lib.checks import check_choice, check_int, check_number, refuse
from nnopt_lib.frameworks import mask_backend_of
from nnopt_lib.pruning.curvature import NETWORK
from nnopt_lib.pruning.examples import Loss, check_examples, check_loss
from nnopt_lib.pruning.layer_by_layer import prune_by_layer, readable, write
from nnopt_lib.pruning.masks import SCOPES, Masks, n_and_m
from nnopt_lib.pruning.names import ranked_weights
from nnopt_lib.pruning.patterns import fractions_of
from nnopt_lib.pruning.prune import fitted, masks_for
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
        x: examples of the training data, as `saliency` takes them. Some hundred show much already.
        y: a label for each, where the loss needs one; methods by layer do without.
        method: by the curvature of the loss ``"obd"`` (diagonal, no update), ``"obs"`` (whole inverse, at
            most 5,000 weights) or ``"woodfisher"`` (empirical Fisher matrix); so that each layer's outputs
            change least ``"obc"`` (greedy), ``"sparsegpt"`` (fixed order) or ``"wanda"`` (no update).
            `curvature` and `layerwise` name the sources.
        sparsity, granularity, names, skip, previous: as in `prune`; wanda counts by outputs. What `previous`
            removed is set to 0 first.
        scope: ``"global"`` (the default) or ``"layer"``; methods by layer give all layers one sparsity.
        loss: ``"cross_entropy"``, ``"mse"``, or, for woodfisher, a function as in `saliency`.
        dampening: added to the diagonal of what is inverted: for obs and woodfisher a number, by default
            1e-5; 1e-3 is steadier where about as few weights are kept as there are examples. For obc and
            sparsegpt a share of its mean, by default 0.01. It may be 0, but for woodfisher, if examples span.
        block_size: for woodfisher how many weights of a layer have their curvature taken together, by default
            all, or ``"network"`` for all layers' together; for sparsegpt from how many columns weights are
            chosen together, by default 128. batch_size: examples in memory at a time, for methods by layer.

    Returns `OneShotMasks`, for all that takes masks. Errors, after which the model is as it was: labels
    missing; an option of another method; examples that do not span what is inverted; more than 5,000 weights
    for obs; gradients that are not finite; those of `prune`.

    Example:
        >>> from nnopt_lib import build, load_data, mlp
        >>> model, digits = build(mlp((8,), inputs=64, outputs=10)), load_data("digits")
        >>> prune_one_shot(model, digits.x_train[:100], method="obc", sparsity=0.5)
        OneShotMasks(sparsity 0.5: 296 of 592 weights removed, 2 arrays)
    """
    options = _checked_options(method, scope, dampening, block_size)
    check_int("batch_size", batch_size, at_least=1)
    _check_data(method, x, y, loss)
    names, previous = _ranked(model, names, previous)
    request = _Request(model, names, previous, sparsity, skip, scope or "global", granularity)
    if method in LAYER_BY_LAYER:
        return _by_layer(request, x, method, options, batch_size)
    return _by_curvature(request, x, y, loss, method, **options)


def _by_curvature(request: _Request, x: Any, y: Any, loss: Loss, method: str, **options: Any) -> OneShotMasks:
    """All weights together, by the curvature of the loss."""
    model, asked = request.model, request.masks()
    if method == "obs":
        check_size(asked, request.previous)
    with request.at_work(asked):
        flat = Flat.of(model, asked, request.previous)
        if method == "obd":
            masks, new, predicted = obd(model, flat, x, loss, request.masks)
        elif method == "obs":
            masks, new, predicted = obs(model, flat, x, loss, asked, request.groups(asked), **options)
        else:
            masks, new, predicted = woodfisher(model, flat, x, y, loss, request.masks, **options)
        write(model, flat.split(new))
        mask_backend_of(model).apply(model, masks)
    return OneShotMasks.made(masks, predicted=predicted)


def _by_layer(
    request: _Request, x: Any, method: str, options: dict[str, Any], batch_size: int
) -> OneShotMasks:
    """One layer after the other, by what it reads."""
    names, whole = readable(request.model, request.names, x)
    previous = request.previous and Masks({name: request.previous[name] for name in names})
    scope = "layer" if request.n_m is None else "global"  # runs of n:m are by themselves in any case
    request = dataclasses.replace(request, names=names, previous=previous, scope=scope)
    asked = request.masks()
    with request.at_work(asked):
        arrays, errors = prune_by_layer(
            *(request.model, x, asked, previous, method),
            n_m=request.n_m,
            shares=request.shares(asked),
            options=options,
            batch_size=batch_size,
        )
    return OneShotMasks.made(arrays, errors=errors, whole=whole)


# ------------------------------------------------------------------ what is asked for


@dataclasses.dataclass(frozen=True)
class _Request:
    """How much of which weights is to go, and what went before."""

    model: Any
    names: list[str]
    previous: Masks | None
    sparsity: Any
    skip: Sequence[str]
    scope: str
    granularity: str

    @functools.cached_property
    def n_m(self) -> tuple[int, int] | None:
        return n_and_m(self.granularity)

    def masks(self, costs: Mapping[str, np.ndarray] = MappingProxyType({})) -> Masks:
        """Masks by costs. By none their counts are what is asked for, and what is wrong is refused."""
        weights = ranked_weights(self.model, self.names)
        every = {name: costs.get(name, np.zeros(np.shape(weights[name]))) for name in self.names}
        kind = {"scope": self.scope, "allocation": "uniform", "granularity": self.granularity}
        return masks_for(every, self.sparsity, self.skip, self.previous, kind)

    def groups(self, asked: Masks) -> np.ndarray:
        """For each weight the number of the group of which a fixed number goes."""
        return groups_of(asked, self.scope == "layer" or isinstance(self.sparsity, Mapping), self.n_m)

    def shares(self, asked: Masks) -> dict[str, float]:
        """The sparsity of each layer to prune; none for n:m."""
        if self.n_m or not isinstance(self.sparsity, Mapping):
            return {} if self.n_m else dict.fromkeys(asked, float(self.sparsity))
        fractions = fractions_of(self.sparsity, [layer_of(name) for name in self.names])
        return {name: fractions[layer_of(name)] for name in asked}

    @contextlib.contextmanager
    def at_work(self, asked: Masks) -> Iterator[None]:
        """The model with what went before at 0; whatever goes wrong, its weights are then what they were."""
        weights = ranked_weights(self.model, list(asked))
        before = {name: np.array(weights[name]) for name in asked}
        try:
            if self.previous is not None:
                mask_backend_of(self.model).apply(self.model, {name: self.previous[name] for name in asked})
            yield
        except BaseException:
            write(self.model, before)
            raise


def _checked_options(
    method: str, scope: str | None, dampening: float | None, block_size: int | str | None
) -> dict[str, Any]:
    """The method's own options; those that it does not have are refused."""
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
    options: dict[str, Any] = {"block_size": block_size} if method == "woodfisher" else {}
    options |= {"block": block_size} if method == "sparsegpt" and block_size else {}
    if method in DAMPENING:
        value = DAMPENING[method] if dampening is None else dampening
        bound = {"above": 0} if method == "woodfisher" else {"at_least": 0}
        options["dampening"] = check_number("dampening", value, **bound)
    return options


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
    if names is None and previous is not None:
        names = list(previous)
    weights = ranked_weights(model, names)
    if previous is not None:
        check_match(previous, {name: np.shape(weights[name]) for name in weights})
    return list(weights), previous
