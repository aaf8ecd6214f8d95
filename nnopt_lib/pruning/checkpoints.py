"""How smaller models are saved: a recipe of kept nodes (JSON) and ordinary weights, read without trust."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from nnopt_lib.checks import NnoptError, check_choice, refuse
from nnopt_lib.files import load_tensors, save_tensors
from nnopt_lib.frameworks import FRAMEWORKS, backend, backend_of
from nnopt_lib.models.channels import read_channels
from nnopt_lib.models.describe import Described, read
from nnopt_lib.pruning.removal import cut_model, example_shape, note_recipe, recipe_of
from nnopt_lib.structure.coupling import couple
from nnopt_lib.structure.reading import Channels
from nnopt_lib.structure.spec import NetSpec
from nnopt_lib.structure.weights import check_match

_FORMAT = "nnopt-small-2"


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
    description = _description(model, recipe["example"])
    content = {name: recipe[name] for name in ("before", "kept", "widths")} | {"description": description}
    weights = backend_of(model).get_weights(model)
    # A file of tensors has an order of its own, and names of Keras's layers are others in another process.
    text = json.dumps(content | {"order": list(weights)})
    save_tensors(path, weights, _FORMAT, text)


def _description(model: Any, example: list[int] | None) -> dict[str, Any] | None:
    """The description of the smaller model and what leads back to it; None for one that has none."""
    try:
        spec, paths, orders = read(model, None if example is None else np.zeros((1, *example), np.float32))
    except NnoptError:
        return None
    positions = {layer: order.tolist() for layer, order in orders.items()}
    return {"spec": spec.to_json(), "paths": dict(paths), "orders": positions}


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
    if model is not None:
        if framework is not None:
            refuse("framework says what to build, and a model was given", repr(framework), "Leave it out.")
        return _cut_as_saved(model, recipe, weights, path, example_input)
    check_choice("framework", framework or "torch", FRAMEWORKS)
    if recipe["description"] is None:
        rule = f"{path} must hold a network that NetSpec can describe, to be built"
        refuse(rule, "one with other operations", "Pass model=, a model of the network before removal.")
    described = _described(recipe["description"])
    result = backend(framework or "torch").build(described.spec, described.translated(weights))
    name_of = {path: name for name, path in described.paths.items()}
    kept, widths = ({name_of[layer]: one for layer, one in recipe[key].items()} for key in ("kept", "widths"))
    note_recipe(result, recipe["before"], kept, widths, None)
    return result


def _described(description: dict[str, Any]) -> Described:
    spec = NetSpec.from_json(description["spec"])
    orders = {layer: np.asarray(order) for layer, order in description["orders"].items()}
    return Described(spec, description["paths"], orders, couple(spec))


def _cut_as_saved(
    model: Any,
    recipe: dict[str, Any],
    weights: Mapping[str, np.ndarray],
    path: str | Path,
    example_input: Any,
) -> Any:
    """The smaller copy of `model` that a recipe asks for, with the saved weights."""
    read_model = read_channels(model, example_input, None)
    channels = read_model.channels
    rule = f"{path} must hold a recipe for this network"
    names, kept = _matching(recipe["kept"], channels), {}
    for saved, layer in names.items():
        mask, width = np.zeros(len(channels.nodes[layer]), bool), recipe["widths"][saved]
        if width != len(mask):
            refuse(rule, f"one for another (with {width} channels in layer {layer!r}, not {len(mask)})")
        mask[np.asarray(recipe["kept"][saved])] = True
        kept[layer] = mask
    if len(names) < len(recipe["kept"]):
        missing = next(layer for layer in recipe["kept"] if layer not in names)
        refuse(rule, f"one for another (with a layer {missing!r} whose nodes left)")
    result = cut_model(model, read_model, channels.kept(kept), True)
    shapes = {name: value.shape for name, value in backend_of(result).get_weights(result).items()}
    # In the same order: Keras numbers its layers on.
    values = dict(zip(shapes, weights.values(), strict=False)) if set(shapes) != set(weights) else weights
    received = {name: value.shape for name, value in values.items()}
    if received != shapes or len(shapes) != len(weights):
        differ = next(
            (n for n in {**shapes, **received} if shapes.get(n) != received.get(n)), "another number"
        )
        refuse(rule, f"one for another ({differ}: {received.get(differ)} for {shapes.get(differ)})")
    backend_of(result).set_weights(result, {name: np.array(value) for name, value in values.items()})
    spec = getattr(model, "spec", None)
    before = spec.to_json() if isinstance(spec, NetSpec) else recipe["before"]
    by_layer = {layer: np.flatnonzero(mask).tolist() for layer, mask in kept.items()}
    widths = {layer: len(mask) for layer, mask in kept.items()}
    note_recipe(result, before, by_layer, widths, example_shape(example_input))
    return result


def _matching(kept: Mapping[str, Any], channels: Channels) -> dict[str, str]:
    """The model's layer for each of a recipe: of the same name, else in the same order."""
    if all(layer in channels.nodes for layer in kept):
        return {layer: layer for layer in kept}
    return dict(zip(kept, channels.layers, strict=False))


def _read(path: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    rule, remedy = f"{path} must be a whole file that save_small wrote", "Save it again, or use another file."
    weights, text = load_tensors(path, _FORMAT, rule, remedy)
    try:  # a file may come from anyone: nothing in it is used before it has been built and compared
        recipe = json.loads(text)
        for layer, indices in recipe["kept"].items():
            channels = np.asarray(indices)
            if channels.dtype.kind != "i" or channels.ndim != 1 or not len(channels):
                raise ValueError(layer)
            if channels.min() < 0 or channels.max() >= int(recipe["widths"][layer]):
                raise ValueError(layer)
        if sorted(recipe["order"]) != sorted(weights):
            raise ValueError("order")
        weights = {name: weights[name] for name in recipe["order"]}
        if recipe["before"] is not None:
            NetSpec.from_json(recipe["before"])
        if recipe["description"] is not None:
            described = _described(recipe["description"])
            shapes = described.spec.parameter_shapes(trainable=False)
            translated = described.translated(weights)
            check_match(translated, shapes, "weights")
    except (NnoptError, AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        refuse(rule, f"a recipe that does not fit its weights ({type(error).__name__})", remedy)
    return recipe, weights
