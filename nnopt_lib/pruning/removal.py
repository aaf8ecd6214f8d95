"""Removing nodes for real: smaller ordinary models with the masked model's outputs.

A masked node outputs exactly 0: kernel row, bias, normalization scale and shift together. Where an
activation makes a constant of that 0 (a sigmoid gives 0.5), the constant can be folded into the biases of the
layers that read it. Chapters 14 and 15 teach it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from nnopt_lib.checks import refuse
from nnopt_lib.frameworks import removal_backend_of
from nnopt_lib.models.channels import ReadModel, folded, read_channels
from nnopt_lib.pruning.masks import Masks
from nnopt_lib.structure.coupling import couple
from nnopt_lib.structure.edits.resize import resize
from nnopt_lib.structure.reading import Channels
from nnopt_lib.structure.spec import NetSpec

_RECIPE = "_nnopt_recipe"


def remove_nodes(model: Any, masks: Masks, *, example_input: Any = None, fold: bool = False) -> Any:
    """A smaller ordinary model without the nodes that `masks` removed, with the masked model's outputs.

    Parameters:
        model: any that runs; it stays as it is. What is not understood in it is left whole.
        masks: of ``prune(..., granularity="node")`` or ``"head"``, or boolean arrays (channels,) by layer; a
            layer without one follows those that it is coupled with.
        example_input: a batch, needed for a PyTorch model that `build` did not make: a tensor, a tuple of
            them, or a dict of keyword arguments.
        fold: add the constants that removed nodes leave behind a sigmoid to the next layer's bias. Exact but
            for the border of a convolution with zero padding.

    Returns a model of the same type, its layers under their own names, with plain, smaller weights (copies);
    outputs equal the masked model's to 1e-5 in float32. A compiled Keras model must be compiled again.
    Errors, before anything is made: layers or shapes of another model; masks that disagree within a coupled
    group, empty a layer, or touch what must stay whole; a smaller model that would not give these outputs.

    Example:
        >>> from nnopt_lib import build, mlp, prune
        >>> model = build(mlp((8,), inputs=4, outputs=2))
        >>> small = remove_nodes(model, prune(model, sparsity=0.5, granularity="node"))
        >>> tuple(small.dense_1.weight.shape)
        (4, 4)
    """
    read = read_channels(model, example_input, None)
    channels = read.channels
    kept = channels.kept(masks)
    result = cut_model(model, read, kept, fold)
    indices = {name: np.flatnonzero(channels.channels(name, kept)).tolist() for name in channels.layers}
    earlier = recipe_of(model)
    if earlier:  # of a model that is a smaller one already: say which of the first one's nodes are left
        known = earlier["kept"]
        indices = {
            name: [known[name][i] for i in left] if name in known else left for name, left in indices.items()
        }
        indices = {**known, **indices}
    spec = getattr(model, "spec", None)
    before = earlier["before"] if earlier else spec.to_json() if isinstance(spec, NetSpec) else None
    widths = earlier["widths"] if earlier else {name: len(channels.nodes[name]) for name in indices}
    widths = {name: len(channels.nodes[name]) for name in indices if name in channels.nodes} | widths
    note_recipe(result, before, indices, widths, example_shape(example_input))
    return result


def cut_model(model: Any, read: ReadModel, kept: np.ndarray, fold: bool) -> Any:
    """A copy of `model` without the nodes that are not kept; it was run beside the masked model."""
    channels, backend = read.channels, removal_backend_of(model)
    added, exact = folded(model, channels, kept, fold=fold)
    small = backend.cut(model, channels, kept, read.details, added)
    spec = getattr(model, "spec", None)
    if isinstance(spec, NetSpec):
        small.spec = _smaller_spec(spec, channels, kept, added)
    problem = backend.difference(model, small, channels, kept, read.details) if exact else None
    places = {where for where, _ in read.reading.sized}
    if problem and [where for where in places if backend.another_way(read.details, where)]:
        small = backend.cut(model, channels, kept, read.details, added)
        problem = backend.difference(model, small, channels, kept, read.details)
    if problem:
        rule = f"a smaller {type(model).__name__} must give the outputs of the masked one"
        refuse(rule, problem, "Keep those layers whole (skip=[...]), or write no sizes into forward.")
    return small


def _smaller_spec(
    spec: NetSpec, channels: Channels, kept: np.ndarray, added: Mapping[str, np.ndarray]
) -> NetSpec:
    coupling = couple(spec)
    by_layer = {
        layer: channels.channels(layer, kept) for layer in channels.layers if layer in coupling.layers
    }
    after = resize(coupling, coupling.kept(by_layer).astype(int), whole_groups=True).spec()
    nodes = [
        replace(node, options={**node.options, "bias": True}) if f"{node.name}/kernel" in added else node
        for node in after.nodes
    ]
    return NetSpec(after.input_shape, tuple(nodes))


def note_recipe(
    model: Any,
    before: str | None,
    kept: Mapping[str, list[int]],
    widths: Mapping[str, int],
    example: list[int] | None,
) -> None:
    """Keep with a smaller model what `save_small` writes; as text, which every framework leaves alone.

    before: the description of the network before, if it has one. widths: how many channels layers had then.
    """
    recipe = {"before": before, "kept": dict(kept), "widths": dict(widths), "example": example}
    setattr(model, _RECIPE, json.dumps(recipe))


def example_shape(example_input: Any) -> list[int] | None:
    """The shape of one example of a single tensor of real numbers; None for anything else."""
    shape, kind = getattr(example_input, "shape", None), str(getattr(example_input, "dtype", ""))
    return [int(size) for size in shape[1:]] if shape is not None and "float" in kind else None


def recipe_of(model: Any) -> dict[str, Any] | None:
    """What a smaller model came from; None for one that `remove_nodes` did not make."""
    text = getattr(model, _RECIPE, None)
    return None if text is None else json.loads(text)
