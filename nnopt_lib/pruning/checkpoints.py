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
from nnopt_lib.structure.spec import NetSpec
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
        ...     own = load_small(f"{folder}/small.safetensors", model=build(spec))
        >>> tuple(own.dense_2.weight.shape)
        (2, 4)
    """
    recipe, weights = _read(Path(path))
    after = NetSpec.from_json(recipe["after"])
    if model is None:
        result = backend(check_choice("framework", framework or "torch", FRAMEWORKS)).build(after, weights)
        paths = {name.split("/")[0]: name.split("/")[0] for name in weights}
        note_recipe(result, recipe["before"], after, recipe["kept"], paths, {})
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
    result = cut_model(model, described, kept, after, weights, example_input)
    indices = {own_name[layer]: places for layer, places in recipe["kept"].items()}
    orders = orders_after(described, kept)
    note_recipe(result, described.spec.to_json(), after, indices, described.paths, orders)
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
