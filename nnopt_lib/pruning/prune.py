"""The verbs of weight pruning, the same for PyTorch and Keras: prune, apply masks, hold.

Masks live outside the model. Its weights stay ordinary parameters, so that it can be copied, saved, compiled
and exported before, during and after. Chapters 09 and 10 teach them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from nnopt_lib.checks import check_choice, check_fraction, check_int, refuse
from nnopt_lib.frameworks import backend_of, mask_backend_of
from nnopt_lib.pruning.examples import Loss
from nnopt_lib.pruning.importance import DATA_SCORES, importance
from nnopt_lib.pruning.masks import SCOPES, Masks, make_masks
from nnopt_lib.pruning.names import ranked_weights
from nnopt_lib.pruning.node_masks import LAYERS_ONLY, NodeMasks, node_masks
from nnopt_lib.pruning.patterns import fractions_of, matching
from nnopt_lib.pruning.saliency import SALIENCIES, saliency
from nnopt_lib.pruning.schedules import exponential
from nnopt_lib.pruning.scores import SCORES
from nnopt_lib.structure.reading import NODE_KINDS, layer_of
from nnopt_lib.structure.weights import check_match

SYNFLOW_ROUNDS = 100  # as its authors prune


def prunable(model: Any) -> list[str]:
    """Canonical names of what `prune` prunes by default: kernels of dense, convolution and embedding layers.

    Frozen ones are left out and shared ones come once. Biases and normalization can be named all the same.
    Refused by name: a layer whose kernel is computed from others (weight_norm, spectral_norm, low rank), and
    a lazy layer that was never called. Nothing in the model changes.

    Example:
        >>> from nnopt_lib import build, mlp
        >>> prunable(build(mlp((3,), inputs=4, outputs=2)))
        ['dense_1/kernel', 'dense_2/kernel']
    """
    return mask_backend_of(model).prunable(model)


def prune(
    model: Any,
    *,
    sparsity: float | Mapping[str, float] | None = None,
    score: str | Mapping[str, np.ndarray] | None = None,
    scope: str = "global",
    allocation: str = "uniform",
    granularity: str = "weight",
    previous: Masks | None = None,
    names: Sequence[str] | None = None,
    skip: Sequence[str] = (),
    round_to: int = 1,
    rounding: str = "nearest",
    example_input: Any = None,
    x: Any = None,
    y: np.ndarray | None = None,
    loss: Loss = "cross_entropy",
    rounds: int | None = None,
    seed: int = 0,
) -> Masks:
    """Remove the weights, or nodes, of lowest score: set them to 0 in `model`, and return the masks.

    Parameters:
        model: any torch module that runs, or built Keras 3 model. For nodes and heads, what is not
            understood in it is left whole, and ``masks.whole`` names it with the reason; the rest is pruned.
        sparsity: the fraction of the prunable weights to remove, in [0, 1); those of `previous` count. Or a
            fraction for each layer or pattern, ``{"features.*": 0.5, "classifier": 0.9}``: the first that
            fits a layer holds, what none fits stays whole, and each layer is ranked by itself.
        score: ``"magnitude"`` (the default), ``"random"``, one of `saliency` (``"snip"``, ``"grasp"``,
            ``"synflow"``, ``"taylor"``, ``"fisher"``), or scores by canonical name, larger = keep. For nodes
            ``"l1"`` (the default), ``"l2"``, ``"bn_scale"``, ``"geometric_median"``, ``"random"``, those by
            data of `importance`, or importance by layer, arrays (channels,), as it gives them.
        scope, allocation, granularity, previous: as in `make_masks`, which states the rules. With
            ``granularity="node"`` whole neurons and filters go: coupled ones together and counted as one,
            ``round(sparsity * n)`` of the n in each scope, and a layer keeps its best one whatever is asked.
            ``"head"`` does so with attention heads. Both give `NodeMasks`, for `hold` and `remove_nodes`.
        names: canonical names of the weights to rank; by default those of `prunable`.
        skip: layers, or patterns such as ``"layer4.*"``, that keep everything, with what they are coupled to.
        round_to: for nodes: every coupled group keeps a multiple of this many, so that the sparsity is met
            less exactly; chapter 15 measures which are fast. rounding: which multiple, the ``"nearest"``, the
            next one ``"up"`` or ``"down"`` (at least one).
        example_input: for nodes of a PyTorch model that `build` did not make, or of a subclassed Keras one: a
            batch like your data, as a tensor, a tuple of them, or a dict of arguments by name. What it does
            not show (several tokens, a branch on data) cannot be checked.
        x, y, loss: examples and labels for scores by data, and the loss, as `saliency` takes them.
        rounds: prune in so many rounds, equal parts of what is left in each, and score what is left anew; 100
            by default for synflow, which without them may empty a layer, else 1. seed: of random scores.

    The zeros stay only while nothing trains the model: `hold` keeps them. Errors, before anything is
    changed: those of `make_masks`; an unknown score or name; nothing that can be pruned.

    Example:
        >>> from nnopt_lib import build, mlp
        >>> prune(build(mlp((), inputs=64, outputs=10)), sparsity=0.9)
        Masks(sparsity 0.9: 576 of 640 weights removed, 1 array)
    """
    if granularity in NODE_KINDS:
        options = {"scope": scope, "previous": previous, "example_input": example_input, "seed": seed}
        options |= {"skip": skip, "granularity": granularity, "round_to": round_to, "rounding": rounding}
        if isinstance(score, str) and score in DATA_SCORES:
            score = importance(model, score, x, y, granularity=granularity)
        return _prune_nodes(model, sparsity, score or "l1", allocation, names, **options)
    if round_to != 1 or rounding != "nearest":
        option = "rounding" if round_to == 1 else "round_to"
        refuse(f"{option} belongs to granularity 'node'", f"granularity={granularity!r}", "Leave it out.")
    score = "magnitude" if score is None else score
    if rounds is None:
        rounds = SYNFLOW_ROUNDS if score == "synflow" and not isinstance(sparsity, Mapping) else 1
    kind = {"scope": scope, "allocation": allocation, "granularity": granularity}
    data: dict[str, Any] = {"x": x, "y": y, "loss": loss}
    if check_int("rounds", rounds, at_least=1) > 1:
        return _in_rounds(model, rounds, sparsity, score, names, skip, previous, seed, data, kind)
    scores = _weight_scores(model, score, names, previous, seed, data)
    masks = masks_for(scores, sparsity, skip, previous, kind)
    mask_backend_of(model).apply(model, masks)
    return masks


def _in_rounds(
    model: Any,
    rounds: int,
    sparsity: float | Mapping[str, float] | None,
    score: str | Mapping[str, np.ndarray],
    names: Sequence[str] | None,
    skip: Sequence[str],
    previous: Masks | None,
    seed: int,
    data: dict[str, Any],
    kind: dict[str, Any],
) -> Masks:
    """Prune a little, score anew, and so on; after an error the weights are what they were."""
    if not isinstance(score, str):
        refuse("rounds score anew, by a score that is named", "scores", "Leave rounds out.")
    if isinstance(sparsity, Mapping) or kind["granularity"] != "weight":
        refuse("rounds go to one sparsity of single weights", f"rounds={rounds}", "Pass rounds=1.")
    final = check_fraction("sparsity", sparsity)
    backend, masks = mask_backend_of(model), previous
    initial = 0.0 if previous is None else fitted(model, previous).sparsity
    before = {name: np.array(value) for name, value in ranked_weights(model, names).items()}
    try:
        for target in exponential(final, rounds, min(initial, final)):
            scores = _weight_scores(model, score, names, masks, seed, data)
            masks = masks_for(scores, target, skip, masks, kind)
            backend.apply(model, masks)
    except BaseException:
        backend_of(model).set_weights(model, {**backend_of(model).get_weights(model), **before})
        raise
    assert masks is not None  # there is at least one round
    return masks


def masks_for(
    scores: Mapping[str, np.ndarray],
    sparsity: float | Mapping[str, float] | None,
    skip: Sequence[str],
    previous: Masks | None,
    kind: dict[str, Any],
) -> Masks:
    """Masks of single weights, also where some layers are left out, or each has its own sparsity."""
    if not skip and not isinstance(sparsity, Mapping):
        return make_masks(scores, sparsity=sparsity, previous=previous, **kind)
    layers = {name: layer_of(name) for name in scores}
    skipped = matching(skip, layers.values(), "skip")
    left = [name for name in scores if layers[name] not in skipped]
    if not left:
        refuse("skip must leave a layer to prune", f"{len(skipped)} of {len(skipped)} layers")
    if not isinstance(sparsity, Mapping):
        parts = [(sparsity, left)]
    else:
        if kind["allocation"] != "uniform":
            rule = "allocation shares one sparsity among layers"
            refuse(rule, f"a sparsity for each and allocation={kind['allocation']!r}", "Leave it out.")
        by_layer = fractions_of(sparsity, [layers[name] for name in left])
        parts = [(by_layer[layers[name]], [name]) for name in left if layers[name] in by_layer]
    arrays: dict[str, np.ndarray] = {}
    before = None if previous is None else previous.under({name: scores[name].shape for name in scores})
    for fraction, names in parts:
        own = None if before is None else Masks({name: before[name] for name in names})
        arrays |= make_masks({name: scores[name] for name in names}, sparsity=fraction, previous=own, **kind)
    return Masks(arrays)


def _weight_scores(
    model: Any,
    score: str | Mapping[str, np.ndarray],
    names: Sequence[str] | None,
    previous: Masks | None,
    seed: int,
    data: dict[str, Any],
) -> Mapping[str, np.ndarray]:
    """Scores by canonical name for the weights to rank, given or by rule."""
    if names is None and previous:
        names = list(fitted(model, previous))
    weights = ranked_weights(model, names)
    if isinstance(score, Mapping):
        check_match(score, {name: weights[name].shape for name in weights}, "scores")
        return {name: score[name] for name in weights}
    if check_choice("score", score, [*SCORES, *SALIENCIES]) in SALIENCIES:
        return saliency(model, score, names=list(weights), **data)
    rule = SCORES[score]
    return rule(weights, seed=check_int("seed", seed, at_least=0))


def _prune_nodes(
    model: Any,
    sparsity: float | Mapping[str, float] | None,
    score: str | Mapping[str, np.ndarray],
    allocation: str,
    names: Sequence[str] | None,
    **options: Any,
) -> NodeMasks:
    check_choice("scope", options["scope"], SCOPES)
    if allocation != "uniform":
        refuse("granularity 'node' shares sparsity evenly", f"allocation={allocation!r}", "Leave it out.")
    if names is not None:
        refuse("granularity 'node' ranks all nodes that can leave", "names", "Use skip, or leave it out.")
    if not isinstance(sparsity, Mapping):
        sparsity = check_fraction("sparsity", sparsity)
    masks = node_masks(model, sparsity=sparsity, score=score, **options)
    apply_masks(model, masks)
    return masks


def fitted(model: Any, masks: Masks) -> Masks:
    """Masks under the model's own names of weights; refused where names, order and shapes do not fit it."""
    backend = mask_backend_of(model)
    weights = backend.weights(model, list(masks))
    if not weights and backend.weights(model, [f"{layer}/kernel" for layer in masks]):
        refuse(*LAYERS_ONLY)  # masks on nodes, as Masks.load reads them
    if len(weights) < len(masks):  # another name since: all weights are looked at
        weights = backend.weights(model, None)
    shapes = {name: weights[name].shape for name in weights}
    fitting = masks.under(shapes) or masks
    check_match(fitting, {name: shapes[name] for name in fitting if name in shapes})
    return fitting


def apply_masks(model: Any, masks: Masks) -> None:
    """Set to 0 what `masks` removed.

    They fit the model that they were made for, loaded, cloned or wrapped since: by names, of which frameworks
    change the outer ones, else by order and shapes where these leave one way only. Others are refused, with
    the names and shapes that differ.

    Example:
        >>> from nnopt_lib import build, mlp
        >>> spec = mlp((3,), inputs=4, outputs=2)
        >>> apply_masks(build(spec, seed=2), prune(build(spec, seed=1), sparsity=0.5))
    """
    mask_backend_of(model).apply(model, fitted(model, masks.weights))


def hold(model: Any, masks: Masks, optimizer: Any = None) -> Any:
    """Keep zeros at zero: mask the weights and the optimizer's state now and after each of its steps.

    Parameters:
        masks: as `apply_masks` takes them.
        optimizer: the one that trains `model`; in PyTorch any that steps others, too (SAM, Lookahead, several
            as one). For Keras by default the one that it was compiled with.

    Works under any training loop, since it follows the optimizer: momentum, adaptive steps and weight decay
    cannot move a removed weight, nor keep a memory of it. Gradients of removed weights are 0 as well, so that
    clipping, Muon, Adafactor and LBFGS train the network that is left: in PyTorch as they arrive, in Keras as
    the optimizer takes them; `torch.autograd.grad` and Keras's tape give them whole.

    Returns a handle whose `remove()` ends it; holding again on the same optimizer replaces the masks. In
    PyTorch it ends with the optimizer. A Keras model stays held: under the optimizer of a later `compile`
    entirely, and under any other one its zeros stay; a loop of your own that is a `tf.function` must be
    traced after this call. Errors: an optimizer that does not own the masked weights; masks for another
    model, or masks on nodes that `Masks.load` read, which know layers only.

    Example:
        >>> import torch
        >>> model = torch.nn.Linear(4, 2)
        >>> optimizer = torch.optim.SGD(model.parameters(), momentum=0.9)
        >>> handle = hold(model, prune(model, sparsity=0.5), optimizer)
        >>> handle.remove()
    """
    return mask_backend_of(model).hold(model, fitted(model, masks.weights), optimizer)
