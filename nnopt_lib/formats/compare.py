"""One layer in every format, side by side on this machine: equal results first, then times. Chapter 16."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from nnopt_lib.checks import check_choice, check_fraction, check_int, check_number, refuse
from nnopt_lib.formats.layers import convert
from nnopt_lib.formats.runners import runners
from nnopt_lib.formats.storage import check_fits, matrix_shape, store
from nnopt_lib.frameworks import runner_backend
from nnopt_lib.measure.statistics import median_interval
from nnopt_lib.measure.timing import time_in_turns

SPARSE = ("csr", "bsr", "constant_fan_in", "nodes_removed")
ROWS = ("dense", *SPARSE, "int8", "compiled", "onnxruntime")
BLOCK = (16, 16)
IMAGE = (8, 8)  # height and width of what a convolution reads
TOLERANCE = 1e-5  # of the largest output: sums of float32 in another order
_KINDS = {"dense": "eager", "int8": "onnxruntime_int8", "compiled": "compiled", "onnxruntime": "onnxruntime"}
_MOST = 50  # turns
_FEWEST = 6  # turns that give an interval of a median


@dataclass(frozen=True)
class _Side:
    """One format, ready to be timed: seconds of its first call, bytes, error over the largest output."""

    run: Callable[[], Any]
    first_seconds: float
    nbytes: int
    max_error: float


def compare_formats(
    shape: tuple[int, ...],
    *,
    sparsity: float | Sequence[float],
    batch: int,
    threads: int,
    formats: Sequence[str] = ROWS,
    repeats: int | None = None,
    seconds: float = 5.0,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """Time one layer in several formats against the dense one, after each has given the dense result.

    Parameters:
        shape: of the kernel, (out, in) or (out, in, height, width); a convolution of odd height and width
            reads images of 8 x 8 and gives as many.
        sparsity: one, or several that are timed in the same turns.
        batch: examples. threads: of every format.
        formats: of `ROWS`; ``"dense"`` is timed in any case.
        repeats: turns, at least 6; None for as many as fit into `seconds`, 6 to 50.
        seed: of weights, masks and inputs, all normal.

    ``"csr"``, ``"bsr"`` (blocks of 16 x 16) and ``"constant_fan_in"`` are computed by `convert`, each from
    weights pruned in its own pattern: single weights, whole blocks, the same number in each row. Convolutions
    are unfolded for them. ``"nodes_removed"`` is a dense layer with the fraction 1 - sparsity of the outputs,
    and so of the weights; in a network the next layer would lose inputs besides. ``"compiled"``,
    ``"onnxruntime"`` and ``"int8"`` (dynamic, of ONNX Runtime) have no use for zeros, nor has ``"dense"``:
    they are timed once, and the same numbers stand in the rows of every sparsity.

    Results must equal those of a dense layer with the same weights to 1e-5 of the largest output, those of
    nodes removed the outputs that are left, those of int8 to half a step of each weight and input; else it
    is refused and nothing is timed. Then all are called in turns, so that weights are read from wherever the
    others left them, as those of a layer in a network.

    Returns a row for each sparsity and format: `format`, `shape`, `batch`, `threads`, `sparsity` asked for,
    `seconds_median`, `seconds_low`, `seconds_high`; `ratio_to_dense_median`, `_low`, `_high`, dense seconds
    over those of the format, turn by turn, so that more than 1 is faster; `bytes` of weights and indices;
    `max_error`, as a fraction of the largest output; `repeats`. Intervals are `median_interval`'s.
    Source of the comparison: Lasby et al. (2024). Chapter 16 uses it.

    Example:
        >>> rows = compare_formats(
        ...     (32, 16), sparsity=0.75, batch=2, threads=1, formats=["csr", "nodes_removed"], repeats=6
        ... )
        >>> [(row["format"], row["bytes"]) for row in rows]
        [('dense', 2048), ('csr', 1156), ('nodes_removed', 512)]
    """
    asked = _check(shape, sparsity, formats)
    sizes = {"batch": check_int("batch", batch, at_least=1)}
    sizes["threads"] = check_int("threads", threads, at_least=1)
    if repeats is not None:
        check_int("repeats", repeats, at_least=_FEWEST)
    check_number("seconds", seconds, above=0)
    chosen = [name for name in ROWS if name in formats or name == "dense"]
    layer = _Layer(shape, batch, threads, seed, chosen)
    sides: dict[tuple[str, float | None], _Side] = {}
    for name in chosen:
        for each in asked if name in SPARSE else [None]:
            sides[name, each] = layer.side(name, each)
    timed = _time(sides, repeats, seconds)
    dense = timed["dense", None]
    rows = []
    for each in asked:
        for name in chosen:
            key = name, each if name in SPARSE else None
            row = {"format": name, "shape": list(shape), **sizes, "sparsity": each}
            row |= _named("seconds", median_interval(timed[key]))
            row |= _named("ratio_to_dense", median_interval(dense / timed[key]))
            row |= {"bytes": sides[key].nbytes, "max_error": sides[key].max_error, "repeats": len(dense)}
            rows.append(row)
    return rows


def faster_from(rows: Sequence[Mapping[str, Any]], format: str) -> tuple[float, float] | None:
    """Between which two sparsities a format becomes faster than dense: where it breaks even.

    Of rows of one shape, batch and number of threads: the first sparsity from which on all intervals of the
    ratio lie above 1, and the one before it that was measured, 0 for none. None where even the last does not.

    Example:
        >>> rows = [{"format": "csr", "sparsity": s, "ratio_to_dense_low": s * 1.2} for s in (0.5, 0.8, 0.9)]
        >>> faster_from(rows, "csr")
        (0.8, 0.9)
    """
    mine = sorted((row for row in rows if row["format"] == format), key=lambda row: row["sparsity"])
    if not mine:
        refuse(f"rows must hold the format {format!r}", sorted({row["format"] for row in rows}))
    places = {(str(row.get("shape")), row.get("batch"), row.get("threads")) for row in mine}
    if len(places) > 1:
        refuse("rows must be of one shape, batch and number of threads", f"{len(places)} of them")
    slow = [index for index, row in enumerate(mine) if row["ratio_to_dense_low"] <= 1]
    first = slow[-1] + 1 if slow else 0
    if first == len(mine):
        return None
    return mine[first - 1]["sparsity"] if first else 0.0, mine[first]["sparsity"]


class _Layer:
    """One random layer and its input; `side` makes it in a format, and checks what that gives."""

    def __init__(
        self, shape: tuple[int, ...], batch: int, threads: int, seed: int, formats: Sequence[str]
    ) -> None:
        self.random = np.random.default_rng(seed)
        self.threads = threads
        self.kernel = self.random.standard_normal(shape, np.float32)
        # Sums of as many products as there are inputs come out near 1.
        self.kernel /= np.float32(np.sqrt(matrix_shape(shape)[1]))
        self.x = self.random.standard_normal((batch, shape[1], *IMAGE[: len(shape) - 2]), np.float32)
        # In one call: both sessions of ONNX Runtime come from one export.
        kinds = [_KINDS[name] for name in formats if name in _KINDS]
        self.runs = runners(runner_backend().layer_of(self.kernel), self.x, kinds, threads=threads)

    def side(self, name: str, sparsity: float | None) -> _Side:
        """The layer in a format, compared with the dense one of the same weights."""
        kernel = self.kernel if sparsity is None else self.pruned(name, sparsity)
        expected = self.outputs(kernel, self.x)
        if name == "nodes_removed":
            kept = kernel.reshape(len(kernel), -1).any(1)
            kernel, expected = kernel[kept], expected[:, kept]
        model = runner_backend().layer_of(kernel)
        stored = store(kernel, name, block=BLOCK) if name in ("csr", "bsr", "constant_fan_in") else None
        if stored is not None:
            model = convert(model, name, block=BLOCK)
        run = self.runs[_KINDS[name]] if sparsity is None else self.eager(model)
        largest = float(np.abs(expected).max())
        bound = TOLERANCE * largest + (self.int8_bound() if name == "int8" else 0)
        begin = time.perf_counter()
        given = run()
        first_seconds = time.perf_counter() - begin
        errors = np.abs(np.asarray(given) - expected)
        if not (errors <= bound).all():
            rule = f"{name} must give the dense result before it is timed"
            refuse(rule, f"an error of {errors.max():.2g} where the largest output is {largest:.2g}")
        # int8: one byte for each weight, and the scale and zero point of the kernel.
        nbytes = kernel.size + 5 if name == "int8" else kernel.nbytes if stored is None else stored.nbytes
        return _Side(run, first_seconds, nbytes, float(errors.max()) / largest)

    def pruned(self, name: str, sparsity: float) -> np.ndarray:
        """The weights without the smallest, in the pattern of a format."""
        rows, columns = matrix_shape(self.kernel.shape)
        sizes = np.abs(self.kernel.reshape(rows, columns))
        if name == "bsr":
            height, width = BLOCK
            tiles = sizes.reshape(rows // height, height, columns // width, width).sum((1, 3))
            keep = np.kron(
                _largest(tiles.reshape(1, -1), sparsity).reshape(tiles.shape), np.ones(BLOCK, bool)
            )
        elif name == "nodes_removed":
            keep = np.broadcast_to(_largest(sizes.sum(1)[None], sparsity).T, sizes.shape)
        else:
            keep = _largest(sizes if name == "constant_fan_in" else sizes.reshape(1, -1), sparsity)
        return np.where(keep.reshape(self.kernel.shape), self.kernel, np.float32(0))

    def outputs(self, kernel: np.ndarray, x: np.ndarray) -> np.ndarray:
        """What the dense layer gives, in PyTorch."""
        model = runner_backend().layer_of(kernel)
        return np.asarray(self.eager(model, x)())

    def eager(self, model: Any, x: np.ndarray | None = None) -> Callable[[], Any]:
        """A function that runs a torch model on the layer's input, or on another."""
        return runners(model, self.x if x is None else x, ["eager"], threads=self.threads)["eager"]

    def int8_bound(self) -> np.ndarray:
        """The largest error of each output when weights and inputs are off by half a step."""
        size, ones = np.abs(self.kernel), np.ones_like
        weight_error = float(size.max()) / 127 / 2
        x_error = float(max(self.x.max(), 0) - min(self.x.min(), 0)) / 255 / 2
        # |w x - (w + a)(x + b)| <= |w| |b| + |a| |x| + |a| |b|
        by_x = self.outputs(size, ones(self.x)) * x_error
        by_weights = self.outputs(ones(size), np.abs(self.x) + np.float32(x_error)) * weight_error
        return by_x + by_weights


def _largest(scores: np.ndarray, sparsity: float) -> np.ndarray:
    """Which scores of each row stay when the fraction `sparsity`, rounded, goes; at least one does."""
    count = scores.shape[1]
    gone = min(round(sparsity * count), count - 1)
    keep = np.ones(scores.shape, bool)
    np.put_along_axis(keep, np.argpartition(scores, gone - 1, axis=1)[:, :gone], False, 1)
    return keep


def _time(
    sides: Mapping[tuple[str, float | None], _Side], repeats: int | None, seconds: float
) -> dict[tuple[str, float | None], np.ndarray]:
    """Seconds of every call, in turns, after first calls that say how many fit."""
    runs = {str(number): side.run for number, side in enumerate(sides.values())}
    turn = sum(side.first_seconds for side in sides.values())
    slow = turn * _FEWEST > seconds
    if repeats is None and not slow:  # first calls of fast ones take several times as long as later ones
        turn = float(sum(times.mean() for times in time_in_turns(runs, repeats=3, warmup=0).values()))
    if repeats is None:
        repeats = int(np.clip(seconds / turn, _FEWEST, _MOST))
    timed = time_in_turns(runs, repeats=repeats, warmup=0 if slow else 2)
    return dict(zip(sides, timed.values(), strict=True))


def _named(name: str, interval: tuple[float, float, float]) -> dict[str, float]:
    return {f"{name}_{part}": value for part, value in zip(("median", "low", "high"), interval, strict=True)}


def _check(shape: tuple[int, ...], sparsity: float | Sequence[float], formats: Sequence[str]) -> list[float]:
    """Refuse what cannot be compared; gives the sparsities in rising order."""
    if isinstance(formats, str):
        refuse("formats must be a list", repr(formats), f"Pass [{formats!r}].")
    for name in formats:
        check_choice("format", name, ROWS)
    sizes = [check_int(f"shape[{axis}]", size, at_least=1) for axis, size in enumerate(shape)]
    if len(sizes) not in (2, 4) or any(size % 2 == 0 for size in sizes[2:]):
        rule = "shape must be (out, in), or (out, in, height, width) with odd height and width"
        refuse(rule, tuple(shape))
    if "bsr" in formats:
        check_fits(shape, "bsr", block=BLOCK)
    several = sparsity if isinstance(sparsity, Sequence) else [sparsity]
    if not several:
        refuse("compare_formats needs at least one sparsity", "none")
    return sorted({check_fraction("sparsity", each) for each in several})
