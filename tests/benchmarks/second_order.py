"""Pruning with curvature at the size of a transformer's layer: seconds and peak memory, against bars.

`sparsegpt` and `wanda` on weights (3072, 768) and (768, 3072) with 4,096 calibration rows; beside them, what
the dense inverse alone takes. Then `woodfisher` on the 266,200 weights of LeNet-300-100, in blocks. Results are checked first: exact counts, zeros, and an error no larger than
that of the mask alone. Every measurement is a process of its own, whose memory includes Python and libraries.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", str(min(2, os.cpu_count() or 1)))

import numpy as np
from scipy import linalg

from nnopt_lib.pruning import layerwise

ROWS, SPARSITY = 4096, 0.5
SHAPES = ((3072, 768), (768, 3072))
BAR_SECONDS, BAR_BYTES = 30.0, 1e9
WOODFISHER = ((100, 2000), (400, 2000), (400, 0))  # examples, weights in a block (0: a layer's)
WOODFISHER_BAR_SECONDS = 120.0


def layer(shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Weights, and rows that depend on each other as activations do: half their directions hold most of it."""
    random = np.random.default_rng(0)
    outputs, inputs = shape
    W = random.standard_normal(shape, np.float32) / np.sqrt(inputs)
    mixing = random.standard_normal((inputs // 2, inputs), np.float32) / np.sqrt(inputs // 2)
    X = random.standard_normal((ROWS, inputs // 2), np.float32) @ mixing
    return W, np.maximum(X + 0.3 * random.standard_normal(X.shape, np.float32), 0)


def gram(X: np.ndarray) -> np.ndarray:
    """X^T X / rows in float64, from 256 rows at a time, as calibration batches arrive."""
    H = np.zeros((X.shape[1], X.shape[1]))
    for begin in range(0, len(X), 256):
        part = X[begin : begin + 256].astype(np.float64)
        H += part.T @ part
    return H / len(X)


def check(W: np.ndarray, H: np.ndarray, mask: np.ndarray, new: np.ndarray) -> float:
    """The relative error of the layer, if the result is what was asked for."""
    assert np.count_nonzero(~mask) == round(SPARSITY * W.size)
    assert not new[~mask].any() and np.isfinite(new).all()
    error, alone = (layerwise.layer_error(W, one, H) for one in (new, np.where(mask, W, 0)))
    assert error <= alone * (1 + 1e-9), "the update made the layer worse"
    return error / layerwise.spread(W, H)


def pruned(method: str, shape: tuple[int, int]) -> dict[str, float]:
    """Seconds, peak memory and error of one method on one shape; H is made within the time."""
    W, X = layer(shape)
    options: dict[str, Any] = {"sparsity": SPARSITY}
    if method == "sparsegpt":
        options = {"count": round(SPARSITY * W.size)}
    begin = time.perf_counter()
    H = gram(X)
    calibrated = time.perf_counter()
    mask, new = getattr(layerwise, method)(W, H, **options)
    end = time.perf_counter()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    error = check(W, H, mask, new)
    return {"H": calibrated - begin, "seconds": end - begin, "bytes": peak, "error": error}


def inverse(shape: tuple[int, int]) -> dict[str, float]:
    """Seconds of the dense inverse of H alone, which pruning with the factor never forms."""
    _, X = layer(shape)
    H = gram(X)
    H[np.diag_indices_from(H)] += 0.01 * H.diagonal().mean()
    begin = time.perf_counter()
    dense = linalg.inv(H)
    seconds = time.perf_counter() - begin
    assert np.abs(H[:50] @ dense - np.eye(len(H))[:50]).max() < 1e-6
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return {"H": 0.0, "seconds": seconds, "bytes": peak, "error": float("nan")}


def woodfisher(shape: tuple[int, int]) -> dict[str, float]:
    """Seconds and peak memory of WoodFisher on a network with its gradients, which are made within the time."""
    import nnopt_lib as nnopt

    examples, block = shape
    random = np.random.default_rng(0)
    x, y = random.random((examples, 784), np.float32), random.integers(0, 10, examples)
    model = nnopt.build(nnopt.lenet_300_100())
    begin = time.perf_counter()
    masks = nnopt.prune_one_shot(model, x, y, method="woodfisher", sparsity=0.9, block_size=block or None)
    seconds = time.perf_counter() - begin
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    assert masks.size == 266_200 and masks.removed == round(0.9 * masks.size)
    for name, value in nnopt.get_weights(model).items():
        assert np.isfinite(value).all() and (name not in masks or not value[~masks[name]].any())
    return {"seconds": seconds, "bytes": peak}


JOBS: dict[str, Callable[..., dict[str, float]]] = {
    "sparsegpt": lambda shape: pruned("sparsegpt", shape),
    "wanda": lambda shape: pruned("wanda", shape),
    "dense inverse alone": inverse,
    "woodfisher": woodfisher,
}
LAYER_JOBS = [job for job in JOBS if job != "woodfisher"]


def measured(job: str, shape: tuple[int, int]) -> dict[str, float]:
    """The job in a fresh process."""
    command = [sys.executable, __file__, "--job", job, "--shape", *map(str, shape)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def main() -> None:
    """Print the table, and fail if a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--job", choices=JOBS)
    parser.add_argument("--shape", type=int, nargs=2)
    given = parser.parse_args()
    if given.job:
        print(json.dumps(JOBS[given.job](tuple(given.shape))))
        return
    print(f"{ROWS:,} rows, sparsity {SPARSITY}, {os.environ['OMP_NUM_THREADS']} threads")
    print(f"{'weights':>14} {'':>20} {'seconds':>8} {'of them H':>10} {'peak':>8} {'relative error':>15}")
    missed = []
    for shape in SHAPES:
        for job in LAYER_JOBS:
            row = measured(job, shape)
            print(
                f"{shape!s:>14} {job:>20} {row['seconds']:>8.1f} {row['H']:>10.1f} {row['bytes'] / 1e6:>5.0f} MB"
                f" {row['error']:>15.4f}"
            )
            if job != "dense inverse alone" and (row["seconds"] > BAR_SECONDS or row["bytes"] > BAR_BYTES):
                missed.append(f"{job} on {shape}")
    for examples, block in WOODFISHER:
        row = measured("woodfisher", (examples, block))
        print(
            f"woodfisher, 266,200 weights, {examples} examples, blocks of {block or 'a layer'}: "
            f"{row['seconds']:.1f} s, {row['bytes'] / 1e6:.0f} MB with PyTorch (bar {WOODFISHER_BAR_SECONDS:g} s)"
        )
        if row["seconds"] > WOODFISHER_BAR_SECONDS:
            missed.append(f"woodfisher with {examples} examples")
    if missed:
        sys.exit(f"above the bar: {', '.join(missed)}")


if __name__ == "__main__":
    main()
