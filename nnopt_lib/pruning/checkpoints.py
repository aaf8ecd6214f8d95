"""How smaller models are saved: a recipe of kept nodes (JSON) and ordinary weights, read without trust."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from nnopt_lib.checks import NnoptError, check_choice, refuse
from nnopt_lib.files import load_tensors, save_tensors
from nnopt_lib.frameworks import FRAMEWORKS, backend
from nnopt_lib.models.describe import Described
from nnopt_lib.pruning.removal import cut_model, note_recipe, orders_after, recipe_of
from nnopt_lib.structure.coupling import couple
from nnopt_lib.structure.spec import NetSpec, split_name
from nnopt_lib.structure.weights import check_match

_FORMAT = "nnopt-small-1"


def save_small(model: Any, path: str | Path) -> None:
    """Write a model that `remove_nodes` made, whatever it learned since, as recipe and ordinary weights.

    One safetensors file, whole or not at all: which nodes of which network are left (JSON), and the weights
    in canonical names and layout. Nothing in it is code. Errors: a model that `remove_nodes` did not make.

    Example:
        >>> import tempfile
        >>> from nnopt_lib import build, mlp, prune, remove_nodes
        >>> model = build(mlp((8,), inputs=4, outputs=2))
        >>> small = remove_nodes(model, prune(model, sparsity=0.5, granularity="node"))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save_small(small, f"{folder}/small.safetensors")
        ...     loaded = load_small(f"{folder}/small.safetensors", framework="keras")
        >>> tuple(loaded.get_layer("dense_1").kernel.shape)
        (4, 4)
    """
    recipe = recipe_of(model)
    if recipe is None:
        refuse("a model to save as a recipe must come from remove_nodes or load_small", type(model).__name__)
    after = NetSpec.from_json(recipe["after"])
    orders = {layer: np.asarray(order) for layer, order in recipe["orders"].items()}
    weights = Described(after, recipe["paths"], orders, couple(after)).weights(model)
    # Paths and orders are those of this model; one that is loaded brings its own.
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
        >>> from nnopt_lib import build, mlp, prune, remove_nodes
        >>> spec = mlp((8,), inputs=4, outputs=2)
        >>> model = build(spec)
        >>> small = remove_nodes(model, prune(model, sparsity=0.5, granularity="node"))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save_small(small, f"{folder}/small.safetensors")
        ...     loaded = load_small(f"{folder}/small.safetensors", model=build(spec))
        >>> tuple(loaded.dense_2.weight.shape)
        (2, 4)
    """
    recipe, weights = _read(Path(path))
    after = NetSpec.from_json(recipe["after"])
    if model is None:
        result = backend(check_choice("framework", framework or "torch", FRAMEWORKS)).build(after, weights)
        paths = {layer: layer for layer, _ in map(split_name, weights)}
        note_recipe(result, recipe["before"], after, recipe["kept"], paths, {})
        return result
    if framework is not None:
        refuse("framework says what to build, and a model was given", repr(framework), "Leave it out.")
    return _cut_as_saved(model, recipe, weights, path, example_input)


def _cut_as_saved(
    model: Any,
    recipe: dict[str, Any],
    weights: Mapping[str, np.ndarray],
    path: str | Path,
    example_input: Any,
) -> Any:
    """The smaller copy of `model` that a recipe asks for, with the saved weights."""
    described = Described.of(model, example_input)
    before, after = (NetSpec.from_json(recipe[name]) for name in ("before", "after"))
    name_of = _names(before, described.spec, path)
    indices = {name_of[layer]: channels for layer, channels in recipe["kept"].items()}
    masks = {}
    for layer, channels in indices.items():
        masks[layer] = np.zeros(len(described.coupling.nodes[layer]), bool)
        masks[layer][channels] = True
    kept = described.coupling.kept(masks)
    after, parts = _renamed(after, name_of), {name: split_name(name) for name in weights}
    weights = {f"{name_of[layer]}/{part}": weights[name] for name, (layer, part) in parts.items()}
    result = cut_model(model, described, kept, after, weights, example_input)
    orders = orders_after(described, kept)
    note_recipe(result, described.spec.to_json(), after, indices, described.paths, orders)
    return result


def _names(saved: NetSpec, current: NetSpec, path: str | Path) -> dict[str, str]:
    """The current name of each saved node, in order: Keras numbers its layers on. Others are refused."""
    pairs = zip(saved.nodes, current.nodes, strict=False)
    name_of = {saved_node.name: node.name for saved_node, node in pairs}
    if len(saved.nodes) != len(current.nodes) or _renamed(saved, name_of) != current:
        difference = _first_difference(current, saved, name_of)
        refuse(f"{path} must hold a recipe for this network", f"one for another ({difference})")
    return name_of


def _renamed(spec: NetSpec, names: Mapping[str, str]) -> NetSpec:
    nodes = [
        replace(node, name=names[node.name], inputs=tuple(names.get(name, name) for name in node.inputs))
        for node in spec.nodes
    ]
    return NetSpec(spec.input_shape, tuple(nodes))


def _first_difference(current: NetSpec, saved: NetSpec, name_of: Mapping[str, str]) -> str:
    if current.input_shape != saved.input_shape:
        return f"it reads {saved.input_shape}, this one {current.input_shape}"
    for node, old in zip(current.nodes, saved.nodes, strict=False):
        inputs = tuple(name_of.get(name, name) for name in old.inputs)
        if (node.op, node.inputs, node.options) != (old.op, inputs, old.options):
            return f"{old.op} {dict(old.options)} for {node.op} {node.name!r} {dict(node.options)}"
    return f"it has {len(saved.nodes)} nodes, this one {len(current.nodes)}"


def _read(path: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    rule, remedy = f"{path} must be a whole file that save_small wrote", "Save it again, or use another file."
    weights, text = load_tensors(path, _FORMAT, rule, remedy)
    try:  # a file may come from anyone: nothing in it is used before it has been built and compared
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
