"""Measure what pruning makes of every network that was tried, for the book's page on networks of one's own.

Run as ``python -m tests.zoo.tried`` (some minutes); it writes book/networks-tried.json. Names as arguments measure
these alone again and leave the other rows as they are. A row is written only after the smaller network has given
the masked one's outputs to 1e-5 of their size.
"""

from __future__ import annotations

import gc
import json
import math
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np

import nnopt_lib as nnopt

FILE = Path(__file__).parents[2] / "book" / "networks-tried.json"
WITH_HEADS = (
    "vit-b/16",
    "deit small",
    "swin tiny",
    "bert base",
    "bert, small",
    "gpt-2 small",
    "smollm2 135m",
)
SPARSITY = 0.5


def names() -> list[tuple[str, str, str]]:
    """Framework, network and granularity of each row, in the order of the page."""
    from tests.zoo import ZOO
    from tests.zoo.test_keras_applications import SMALLEST

    torch_rows = [("torch", name, "node") for name, entry in ZOO.items() if "node" in entry.granularities]
    heads = [("torch", name, "head") for name in WITH_HEADS]
    return [*torch_rows, *heads, *(("keras", name, "node") for name in sorted(SMALLEST))]


def row(framework: str, name: str, granularity: str) -> dict[str, Any]:
    """One network with half of the nodes, or heads, of each coupled group removed."""
    measured = _torch_row if framework == "torch" else _keras_row
    try:
        numbers = measured(name, granularity)
    except nnopt.NnoptError as error:
        numbers = {"refused": str(error)}
    return {"framework": framework, "network": name, "granularity": granularity, **numbers}


def _torch_row(name: str, granularity: str) -> dict[str, Any]:
    from tests.zoo import ZOO, drawn, parameter_count
    from tests.zoo.test_pruned import COUNT, macs, outputs

    model, x = drawn(ZOO[name], count=COUNT)
    before = parameter_count(model), macs(model, x)
    options = {"granularity": granularity, "scope": "layer", "example_input": x}
    masks = nnopt.prune(model, sparsity=SPARSITY, **options)
    small = nnopt.remove_nodes(model, masks, example_input=x)
    for masked, given in zip(outputs(model, x), outputs(small, x), strict=True):
        _check(name, masked.numpy(), given.numpy())
    first = next(iter(x.values())) if isinstance(x, dict) else x
    return _numbers(first.shape[1:], before, (parameter_count(small), macs(small, x)), masks)


def _keras_row(name: str, granularity: str) -> dict[str, Any]:
    from tests.zoo.test_keras_applications import network

    model, x = network(name)
    before = model.count_params(), keras_macs(model)
    masks = nnopt.prune(model, sparsity=SPARSITY, granularity=granularity, scope="layer")
    small = nnopt.remove_nodes(model, masks)
    _check(name, *(np.asarray(one(x)) for one in (model, small)))
    return _numbers(x.shape[1:], before, (small.count_params(), keras_macs(small)), masks)


def _check(name: str, masked: np.ndarray, removed: np.ndarray) -> None:
    worst = float(np.abs(masked - removed).max() / np.abs(masked).max())
    if not worst <= 1e-5:
        raise SystemExit(f"{name}: the smaller network's outputs differ by {worst:.2g} of their size")


def _numbers(
    shape: Any, before: tuple[int, int], after: tuple[int, int], masks: nnopt.NodeMasks
) -> dict[str, Any]:
    return {
        "input": [int(size) for size in shape],
        "parameters": int(before[0]),
        "parameters_left": int(after[0]),
        "macs": int(before[1]),
        "macs_left": int(after[1]),
        "layers_pruned": len(masks),
        "layers_whole": len(masks.whole),
    }


def keras_macs(model: Any) -> int:
    """Of the dense layers and convolutions, for one example: each weight of a kernel works at every output."""
    total = 0
    for layer in model._flatten_layers(include_self=False):
        kernels = [one for one in layer._trainable_variables if one.name in ("kernel", "depthwise_kernel")]
        kernels += [one for one in layer._trainable_variables if one.name == "pointwise_kernel"]
        if kernels:
            total += sum(math.prod(one.shape) for one in kernels) * math.prod(layer.output.shape[1:-1])
    return total


def _rows(wanted: set[str]) -> Iterator[dict[str, Any]]:
    known = json.loads(FILE.read_text(encoding="utf-8")) if FILE.exists() else []
    by_key = {(one["framework"], one["network"], one["granularity"]): one for one in known}
    for key in names():
        if key in by_key and wanted and key[1] not in wanted:
            yield by_key[key]
        elif not wanted or key[1] in wanted or key not in by_key:
            yield row(*key)
            gc.collect()


def main(wanted: set[str]) -> None:
    """Measure, row by row, and write the file."""
    rows = []
    for one in _rows(wanted):
        print(one, flush=True)
        rows.append(one)
    lines = ",\n".join(f"  {json.dumps(one)}" for one in rows)
    FILE.write_text(f"[\n{lines}\n]\n", encoding="utf-8")


if __name__ == "__main__":
    main(set(sys.argv[1:]))
