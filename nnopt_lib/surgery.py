"""Removing nodes for real: smaller ordinary models with the masked model's outputs, and how they are saved.

Chapters 14 and 15 teach it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from nnopt_lib.checks import NnoptError, check_choice, refuse
from nnopt_lib.coupling import couple
from nnopt_lib.frameworks import FRAMEWORKS, backend, surgery_backend_of
from nnopt_lib.masks import Masks, check_match
from nnopt_lib.nodes import Described
from nnopt_lib.removal import fold_constants, smaller_spec, smaller_weights
from nnopt_lib.spec import NetSpec
from nnopt_lib.tensors import load_tensors, save_tensors

_FORMAT = "nnopt-small-1"
_RECIPE = "_nnopt_recipe"


def remove_nodes(model: Any, masks: Masks, *, example_input: Any = None, fold: bool = False) -> Any:
    """A smaller ordinary model without the nodes that `masks` removed, with the masked model's outputs.

    Parameters:
        model: one that `build` made, or any that `describe` understands; it stays as it is.
        masks: of ``prune(..., granularity="node")``, or boolean arrays (channels,) by layer; a layer without
            one follows those that it is coupled with.
        example_input: a batch, needed for a model that `build` did not make.
        fold: add the constants that removed nodes leave behind a sigmoid to the next layer's bias. Exact but
            for the border of a convolution with zero padding.

    Returns a model of the same type, its layers under their own names, with plain, smaller weights (copies);
    outputs equal the masked model's to 1e-5 in float32. A compiled Keras model must be compiled again.
    Errors, before anything is made: layers or shapes of another model; masks that disagree within a coupled
    group, empty a layer, or touch the network's outputs; a model that is not understood.

    Example:
        >>> from nnopt_lib import build, mlp, prune
        >>> model = build(mlp((8,), inputs=4, outputs=2))
        >>> small = remove_nodes(model, prune(model, sparsity=0.5, granularity="node"))
        >>> tuple(small.dense_1.weight.shape)
        (4, 4)
    """
    described = Described.of(model, example_input)
    return _removed(model, described, described.kept(masks), example_input, fold)


def _removed(model: Any, described: Described, kept: np.ndarray, example_input: Any, fold: bool) -> Any:
    """`remove_nodes` of a model that was read, by the nodes that stay."""
    coupling, weights = described.coupling, described.weights(model)
    small = smaller_weights(coupling, kept, weights)
    after = fold_constants(coupling, kept, weights, smaller_spec(coupling, kept), small, fold=fold)
    result = _cut(model, described, kept, after, small, example_input)
    indices = {name: np.flatnonzero(coupling.channels(name, kept)).tolist() for name in coupling.layers}
    earlier = _recipe_of(model)
    if earlier:  # of a model that is a smaller one already: say which of the first one's nodes are left
        known = earlier["kept"]
        indices = {
            name: [known[name][i] for i in own] if name in known else own for name, own in indices.items()
        }
        indices = {**known, **indices}
    before = earlier["before"] if earlier else described.spec.to_json()
    _note(result, before, after, indices, described.paths, _orders_after(described, kept))
    return result


def _inputs_kept(described: Described, layer: str, kept: np.ndarray) -> np.ndarray:
    source = next(node.inputs[0] for node in described.spec.nodes if node.name == layer)
    return described.coupling.channels(source, kept)


def _orders_after(described: Described, kept: np.ndarray) -> dict[str, np.ndarray]:
    """Where each kept canonical input stands among those that the smaller layer reads."""
    orders = {}
    for layer, order in described.orders.items():
        own = order[_inputs_kept(described, layer, kept)]
        orders[layer] = np.argsort(np.argsort(own))
    return orders


def _cut(
    model: Any,
    described: Described,
    kept: np.ndarray,
    after: NetSpec,
    small: Mapping[str, np.ndarray],
    example_input: Any,
) -> Any:
    """A copy of `model` with the sizes of `after`; `small` in canonical order, the copy in its own."""
    own = dict(small)
    for layer, order in _orders_after(described, kept).items():
        own[f"{layer}/kernel"] = small[f"{layer}/kernel"][:, np.argsort(order)]
    return surgery_backend_of(model).cut(model, described.paths, after, own, example_input)


# ---------------------------------------------------------------- saving


def _note(
    model: Any,
    before: str,
    after: NetSpec,
    kept: Mapping[str, list[int]],
    paths: Mapping[str, str],
    orders: Mapping[str, np.ndarray],
) -> None:
    """Keep with a smaller model what `save_small` writes; as text, which every framework leaves alone."""
    recipe = {
        "before": before,
        "after": after.to_json(),
        "kept": dict(kept),
        "paths": dict(paths),
        "orders": {layer: order.tolist() for layer, order in orders.items()},
    }
    setattr(model, _RECIPE, json.dumps(recipe))


def _recipe_of(model: Any) -> dict[str, Any] | None:
    text = getattr(model, _RECIPE, None)
    return None if text is None else json.loads(text)


def save_small(model: Any, path: str | Path) -> None:
    """Write a model that `remove_nodes` made, whatever it learned since, as recipe and ordinary weights.

    One safetensors file, whole or not at all: which nodes of which network are left (JSON), and the weights
    in canonical names and layout. Nothing in it is code. Errors: a model that `remove_nodes` did not make.

    Example:
        >>> import tempfile
        >>> from nnopt_lib import build, mlp, prune
        >>> model = build(mlp((8,), inputs=4, outputs=2))
        >>> small = remove_nodes(model, prune(model, sparsity=0.5, granularity="node"))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save_small(small, f"{folder}/small.safetensors")
        ...     loaded = load_small(f"{folder}/small.safetensors", framework="keras")
        >>> tuple(loaded.get_layer("dense_1").kernel.shape)
        (4, 4)
    """
    recipe = _recipe_of(model)
    if recipe is None:
        refuse("a model to save as a recipe must come from remove_nodes or load_small", type(model).__name__)
    after = NetSpec.from_json(recipe["after"])
    orders = {layer: np.asarray(order) for layer, order in recipe["orders"].items()}
    weights = Described(after, recipe["paths"], orders, couple(after)).weights(model)
    text = json.dumps({name: recipe[name] for name in ("before", "after", "kept")})
    save_tensors(path, weights, _FORMAT, text)


def load_small(
    path: str | Path, *, framework: str | None = None, model: Any = None, example_input: Any = None
) -> Any:
    """The model that `save_small` wrote, built in either framework, or cut from one of your own.

    Parameters:
        framework: ``"torch"`` (the default) or ``"keras"``: an ordinary model is built from the description.
        model: instead, a model of the network *before* removal, with any weights, such as ``MyNet()``: a
            smaller copy of it is returned.
        example_input: as in `remove_nodes`, for a model that `build` did not make.

    Errors, in one sentence: a file that is damaged or something else; a recipe for another network.

    Example:
        >>> import tempfile
        >>> from nnopt_lib import build, mlp, prune
        >>> spec = mlp((8,), inputs=4, outputs=2)
        >>> model = build(spec)
        >>> small = remove_nodes(model, prune(model, sparsity=0.5, granularity="node"))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save_small(small, f"{folder}/small.safetensors")
        ...     own = load_small(f"{folder}/small.safetensors", model=build(spec))
        >>> tuple(own.dense_2.weight.shape)
        (2, 4)
    """
    recipe, weights = _read(Path(path))
    after = NetSpec.from_json(recipe["after"])
    if model is None:
        result = backend(check_choice("framework", framework or "torch", FRAMEWORKS)).build(after, weights)
        paths = {name.split("/")[0]: name.split("/")[0] for name in weights}
        _note(result, recipe["before"], after, recipe["kept"], paths, {})
        return result
    if framework is not None:
        refuse("framework says what to build, and a model was given", repr(framework), "Leave it out.")
    described = Described.of(model, example_input)
    before = NetSpec.from_json(recipe["before"])
    own_name = _names(before, described.spec, path)
    masks = {}
    for layer, indices in recipe["kept"].items():
        masks[own_name[layer]] = np.zeros(len(described.coupling.nodes[own_name[layer]]), bool)
        masks[own_name[layer]][indices] = True
    kept = described.coupling.kept(masks)
    after = _renamed(after, own_name)
    weights = {f"{own_name[name.split('/')[0]]}/{name.split('/')[1]}": v for name, v in weights.items()}
    result = _cut(model, described, kept, after, weights, example_input)
    indices = {own_name[layer]: places for layer, places in recipe["kept"].items()}
    orders = _orders_after(described, kept)
    _note(result, described.spec.to_json(), after, indices, described.paths, orders)
    return result


def _names(theirs: NetSpec, ours: NetSpec, path: str | Path) -> dict[str, str]:
    """Our names of their nodes, by place (Keras numbers its layers on); refused where the networks differ."""
    own_name = {other.name: own.name for other, own in zip(theirs.nodes, ours.nodes, strict=False)}
    if len(theirs.nodes) != len(ours.nodes) or _renamed(theirs, own_name) != ours:
        difference = _first_difference(ours, theirs, own_name)
        refuse(f"{path} must hold a recipe for this network", f"one for another ({difference})")
    return own_name


def _renamed(spec: NetSpec, names: Mapping[str, str]) -> NetSpec:
    nodes = [
        replace(node, name=names[node.name], inputs=tuple(names.get(own, own) for own in node.inputs))
        for node in spec.nodes
    ]
    return NetSpec(spec.input_shape, tuple(nodes))


def _first_difference(ours: NetSpec, theirs: NetSpec, own_name: Mapping[str, str]) -> str:
    if ours.input_shape != theirs.input_shape:
        return f"it reads {theirs.input_shape}, this one {ours.input_shape}"
    for own, other in zip(ours.nodes, theirs.nodes, strict=False):
        inputs = tuple(own_name.get(name, name) for name in other.inputs)
        if (own.op, own.inputs, own.options) != (other.op, inputs, other.options):
            return f"{other.op} {dict(other.options)} for {own.op} {own.name!r} {dict(own.options)}"
    return f"it has {len(theirs.nodes)} nodes, this one {len(ours.nodes)}"


def _read(path: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    rule, remedy = f"{path} must be a whole file that save_small wrote", "Save it again, or use another file."
    weights, text = load_tensors(path, _FORMAT, rule, remedy)
    try:
        recipe = json.loads(text)
        before, after = (NetSpec.from_json(recipe[name]) for name in ("before", "after"))
        check_match(weights, after.parameter_shapes(trainable=False), "weights")
        coupling, masks = couple(before), {}
        for layer, indices in recipe["kept"].items():
            masks[layer] = np.zeros(coupling.nodes[layer].shape, bool)
            masks[layer][np.asarray(indices, int)] = True
        coupling.kept(masks)
    except (NnoptError, AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        refuse(rule, f"a recipe that does not fit its weights ({type(error).__name__})", remedy)
    return recipe, weights
