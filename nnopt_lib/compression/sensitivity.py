"""What each layer alone can lose: pruned, quantized or of low rank. Chapter 18 uses it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from nnopt_lib.checks import check_choice, check_fraction, check_int, check_number, refuse
from nnopt_lib.compression.quantization import BITS, quantize
from nnopt_lib.frameworks import backend_of
from nnopt_lib.pruning.masks import make_masks
from nnopt_lib.pruning.names import ranked_weights
from nnopt_lib.structure.edits.factorize import factors, full_rank, product

AMOUNTS: Mapping[str, Sequence[float]] = {
    "pruned": (0.5, 0.8, 0.9, 0.95),
    "quantized": (8, 4, 3, 2),
    "factorized": (0.5, 0.25, 0.1),
}


def sensitivity(
    model: Any,
    score: Callable[[Any], float],
    *,
    methods: Mapping[str, Sequence[float]] = AMOUNTS,
    names: Sequence[str] | None = None,
) -> list[dict[str, Any]]:
    """The score of a model with one layer changed, for each layer, method and amount.

    Parameters:
        model: of either framework, in any way made.
        score: what the model is worth, one number, such as its accuracy on validation data. It is called once
            for each row, and may call the model but not train it.
        methods: amounts by method. ``"pruned"``: sparsities in [0, 1), the smallest weights go.
            ``"quantized"``: bits, 2 to 8, a symmetric grid for each row. ``"factorized"``: ranks as fractions
            of the full one, above 0 and at most 1, of both sides of a convolution; at least rank 1.
        names: canonical names of kernels; by default all that are prunable. `factorize` makes no layers of
            convolutions with groups: leave them out, their low rank is that of the kernel as stored.

    Returns rows with `layer`, `method`, `amount`, `score`; drawn as curves with a panel for each method. The
    weights change in place while it runs; afterwards, also after an error, they are bit for bit what they
    were. Errors: an unknown method, name or amount; weights that are not finite; a score that is no number.
    Source: Han et al. 2015 scan their layers so.

    Example:
        >>> from nnopt_lib import build, get_weights, mlp
        >>> model = build(mlp((3,), inputs=4, outputs=2))
        >>> def kept(model):
        ...     return float((get_weights(model)["dense_1/kernel"] != 0).mean())
        >>> for row in sensitivity(model, kept, methods={"pruned": [0.25]}):
        ...     print(row)
        {'layer': 'dense_1', 'method': 'pruned', 'amount': 0.25, 'score': 0.75}
        {'layer': 'dense_2', 'method': 'pruned', 'amount': 0.25, 'score': 1.0}
    """
    steps = _checked_steps(methods)
    backend = backend_of(model)
    names = list(ranked_weights(model, names))
    before = backend.get_weights(model)
    for name in names:
        _check_kernel(name, before[name], methods)
    rows = []
    try:
        for name in names:
            layer = name.removesuffix("/kernel")
            for method, amount in steps:
                changed = _CHANGES[method](before[name], amount).astype(before[name].dtype)
                backend.set_weights(model, {**before, name: changed})
                worth = _number(score(model))
                rows.append({"layer": layer, "method": method, "amount": amount, "score": worth})
    finally:
        backend.set_weights(model, before)
    return rows


def _pruned(kernel: np.ndarray, sparsity: float) -> np.ndarray:
    return kernel * make_masks({"kernel": np.abs(kernel)}, sparsity=sparsity)["kernel"]


def _quantized(kernel: np.ndarray, bits: float) -> np.ndarray:
    return quantize(kernel, bits=int(bits), per="row").dequantize()


def _factorized(kernel: np.ndarray, fraction: float) -> np.ndarray:
    rank = tuple(max(1, round(fraction * full)) for full in full_rank(kernel.shape))
    return product(factors(kernel, rank))


_CHANGES: dict[str, Callable[[np.ndarray, float], np.ndarray]] = {
    "pruned": _pruned,
    "quantized": _quantized,
    "factorized": _factorized,
}


def _checked_steps(methods: Mapping[str, Sequence[float]]) -> list[tuple[str, float]]:
    """Every method with each of its amounts, in order."""
    steps: list[tuple[str, float]] = []
    for method, amounts in methods.items():
        check_choice("each of methods", method, _CHANGES)
        for amount in amounts:
            if method == "pruned":
                steps.append((method, check_fraction("a sparsity", amount)))
            elif method == "quantized":
                steps.append((method, check_int("bits", amount, at_least=BITS[0], at_most=BITS[-1])))
            else:
                if check_number("a fraction of the full rank", amount, above=0) > 1:
                    refuse("a fraction of the full rank must be at most 1", amount)
                steps.append((method, float(amount)))
    if not steps:
        refuse("methods must have at least one amount", "none")
    return steps


def _check_kernel(name: str, kernel: np.ndarray, methods: Mapping[str, Sequence[float]]) -> None:
    if not np.isfinite(kernel).all():
        refuse(f"weights to scan must be finite; {name!r}", "NaN or infinity")
    if kernel.ndim < 2 and "factorized" in methods:
        refuse(f"a kernel to factorize needs outputs and inputs; {name!r}", f"shape {kernel.shape}")


def _number(worth: Any) -> float:
    try:
        return float(worth)
    except (TypeError, ValueError):
        refuse("score must give one number", type(worth).__name__)
