"""Quantization of models: their weights alone, with int8 kernels, and with what their layers read.

Models stay as they are; results are copies. Chapter 18 teaches them; `fit(quantization=...)` trains with it.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np

from nnopt_lib.compression.calibration import calibrate
from nnopt_lib.compression.quantization import Quantization, Quantized, check_finite, quantize
from nnopt_lib.frameworks import activation_backend_of, backend_of, quantization_backend_of
from nnopt_lib.pruning.names import ranked_weights

BATCH = 256  # examples at a time, while layers are calibrated


def quantize_weights(
    model: Any,
    *,
    bits: int = 8,
    scheme: str = "symmetric",
    per: str = "row",
    group: int = 64,
    names: Sequence[str] | None = None,
) -> tuple[Any, dict[str, Quantized]]:
    """A copy of `model` that computes in float with quantized weights; and these by canonical name.

    Parameters:
        bits, scheme, per, group: as in `Quantization`.
        names: of the weights, by default those of `prunable`; biases stay float32.

    So many bits are enough for storing the weights; time is that of the float model. Pruned weights stay 0.
    Errors, naming the layer: NaN or inf.

    Example:
        >>> from nnopt_lib import build, get_weights, mlp
        >>> model = build(mlp((8,), inputs=64, outputs=10))
        >>> small, quantized = quantize_weights(model, bits=4)
        >>> quantized["dense_1/kernel"].nbytes  # 512 weights of 4 bits and 8 scales
        288
        >>> moved = get_weights(small)["dense_1/kernel"] - get_weights(model)["dense_1/kernel"]
        >>> bool((abs(moved) <= quantized["dense_1/kernel"].step / 2).all())
        True
    """
    options: dict[str, Any] = {"bits": bits, "scheme": scheme, "per": per, "group": group}
    quantized = {
        name: quantize(kernel, layer=name, **options) for name, kernel in ranked_weights(model, names).items()
    }
    small = copy.deepcopy(model)
    weights = {name: each.dequantize() for name, each in quantized.items()}
    backend_of(small).set_weights(small, {**backend_of(small).get_weights(small), **weights})
    return small, quantized


def quantize_dynamic(model: Any, *, names: Sequence[str] | None = None) -> Any:
    """A copy of `model` whose dense layers multiply whole numbers of 8 bits, by kernels made for that.

    Parameters:
        names: kernels of dense layers, by default of all of them; other layers go on in float32.

    Weights are symmetric by row; each layer's inputs are rounded as they come, in PyTorch by the range of the
    batch to 7 bits (fbgemm's kernels, on the CPU), in Keras by the largest magnitude of each example to 8
    (``keras.Model.quantize``). Both are for inference only. Errors: NaN or inf, naming the layer; no dense
    layer, or names of others.

    Example:
        >>> from nnopt_lib import build, mlp
        >>> quantize_dynamic(build(mlp((8,), inputs=64, outputs=10))).dense_1
        Int8Linear(in_features=64, out_features=8, bias=True)
    """
    return quantization_backend_of(model).dynamic(model, names)


def quantize_static(
    model: Any,
    x: Any,
    *,
    bits: int = 8,
    method: str = "min-max",
    percentile: float = 99.9,
    names: Sequence[str] | None = None,
) -> tuple[Any, dict[str, tuple[float, float]]]:
    """A copy of `model` with quantized weights whose dense and convolution layers read rounded numbers.

    Parameters:
        x: examples that show the range of what each layer reads, canonical.
        bits: of weights (symmetric, by row) and of what layers read (affine, one grid for each layer).
        method, percentile: as in `calibrate`.
        names: of the weights, by default those of `prunable`.

    Also returns the ranges by kernel. What a layer of another kind reads stays float32, and so do sums: the
    copy has the accuracy of int8 arithmetic with 32-bit sums, and takes the float model's time. In Keras
    the rounding stands on the layer objects, and is neither copied nor saved. Source: Jacob et al. 2018.

    Example:
        >>> from nnopt_lib import build, mlp
        >>> model, x = build(mlp((8,), inputs=64, outputs=10)), np.linspace(-1, 3, 640, dtype=np.float32)
        >>> quantize_static(model, x.reshape(10, 64))[1]["dense_1/kernel"]
        (-1.0, 3.0)
    """
    Quantization(bits)
    small, quantized = quantize_weights(model, bits=bits, names=names)
    activations = activation_backend_of(model)
    # PyTorch's attention has weights of other names, and is called with several inputs.
    candidates = [name for name in quantized if name.rpartition("/")[2] == "kernel"]
    reasons = activations.readable(model, candidates, x) if candidates else {}
    options: dict[str, Any] = {"bits": bits, "scheme": "affine"}
    ranges = {
        name: calibrate(
            activations.columns(model, name, x, BATCH), method=method, percentile=percentile, **options
        )
        for name, reason in reasons.items()
        if reason is None
    }
    grids = {name: quantize(np.zeros(1), clip=ends, **options) for name, ends in ranges.items()}
    quantization_backend_of(small).round_inputs(small, grids)
    return small, ranges


def straight_through(model: Any, recipe: Quantization) -> Any:
    """A regularizer of a training loop that quantizes all kernels of `prunable`; what `fit` uses.

    The forward pass and its gradients see quantized weights, the optimizer steps float ones that are kept
    aside (Bengio et al. 2013; Jacob et al. 2018, section 3). Between steps the model holds the quantized
    weights. Refused, naming the layer: NaN or inf.
    """
    kernels = ranked_weights(model, None)
    for name, kernel in kernels.items():
        check_finite(kernel, name)
    return quantization_backend_of(model).straight_through(model, list(kernels), recipe)
