"""What a network costs, counted from its description and measured on this machine; statistics over seeds.

Counts need no framework. Measurements time any function without arguments; `nnopt_lib.runner` makes one
from a model of either framework. Chapter 02 teaches all of it.
"""

from __future__ import annotations

import math
import os
import time
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from nnopt_lib.checks import NnoptError, check_int, refuse
from nnopt_lib.description import describe
from nnopt_lib.frameworks import backend_of, framework_of
from nnopt_lib.spec import NetSpec, Node
from nnopt_lib.training import accuracy_and_loss as accuracy_and_loss  # offered here, too

FLOAT32_BYTES = 4


# ---------------------------------------------------------------- counted


@dataclass(frozen=True)
class Cost:
    """Counts of one network or node, for one example. `bytes` are those of float32 numbers.

    weights: entries of kernels. parameters: weights, biases, scales and shifts. macs: multiply-accumulate
    operations of dense layers, convolutions and attention's two products (2 floating-point operations each;
    other nodes count none).
    activation_bytes: outputs of all nodes, which training keeps; flatten is a view and counts none.
    """

    weights: int
    parameters: int
    macs: int
    activation_bytes: int

    @property
    def parameter_bytes(self) -> int:
        """Bytes of all parameters in float32."""
        return FLOAT32_BYTES * self.parameters


def count_by_node(spec: NetSpec) -> dict[str, Cost]:
    """The `Cost` of every node, by name, in order."""
    sizes: dict[str, dict[str, int]] = {node.name: {} for node in spec.nodes}
    for name, shape in spec.parameter_shapes().items():
        owner, _, part = name.rpartition("/")
        sizes[owner][part] = math.prod(shape)
    costs = {}
    for node in spec.nodes:
        own, out = sizes[node.name], spec.shapes[node.name]
        weights = own.get("kernel", 0)
        costs[node.name] = Cost(
            weights=weights,
            parameters=sum(own.values()),
            # every weight is used once for each position of the output
            macs=_attention_macs(spec, node) if node.op == "attention" else weights * math.prod(out[1:]),
            activation_bytes=0 if node.op == "flatten" else FLOAT32_BYTES * math.prod(out),
        )
    return costs


def _attention_macs(spec: NetSpec, node: Node) -> int:
    """Of query times key, and of the attention times the value, for all heads together."""
    query, key, value = (spec.shapes[name] for name in node.inputs)
    return math.prod(query[1:]) * math.prod(key[1:]) * (query[0] + value[0])


def count(spec: NetSpec) -> Cost:
    """The whole network's `Cost`, for one example.

    Example:
        >>> from nnopt_lib import lenet_300_100
        >>> count(lenet_300_100())
        Cost(weights=266200, parameters=266610, macs=266200, activation_bytes=3240)
    """
    costs = list(count_by_node(spec).values())
    totals = (sum(getattr(cost, name) for cost in costs) for name in Cost.__dataclass_fields__)
    return Cost(*totals)


# ---------------------------------------------------------------- measured


@dataclass(frozen=True)
class Latency:
    """Seconds per call: median over repeats, with the bootstrap 95 % interval of the median."""

    median_seconds: float
    low_seconds: float
    high_seconds: float
    repeats: int
    threads: int


def latency(run: Callable[[], Any], *, repeats: int = 50, warmup: int = 10) -> Latency:
    """Time `run`, a function without arguments that returns when its work is done.

    The first `warmup` calls are not counted: they load code, fill caches and let frameworks compile.
    `threads` in the result is the largest number that a loaded numerical library would use.

    Example:
        >>> latency(lambda: sum(range(1000)), repeats=5, warmup=1).repeats
        5
    """
    seconds = time_in_turns({"run": run}, repeats=repeats, warmup=warmup)["run"]
    median, low, high = interval(seconds, statistic=np.median)
    return Latency(median, low, high, repeats, threads())


def time_in_turns(
    runs: Mapping[str, Callable[[], Any]], *, repeats: int = 50, warmup: int = 10
) -> dict[str, np.ndarray]:
    """Seconds of every call, with the functions called in turns, so that a noisy moment disturbs all of them.

    Returns an array of shape (repeats,) per name; equal places were measured one after the other, so ratios
    are taken place by place: ``interval(a / b, statistic=np.median)``.
    """
    check_int("repeats", repeats, at_least=3)
    seconds = {name: np.empty(repeats) for name in runs}
    for turn in range(-check_int("warmup", warmup, at_least=0), repeats):
        for name, run in runs.items():
            begin = time.perf_counter()
            run()
            if turn >= 0:
                seconds[name][turn] = time.perf_counter() - begin
    return seconds


def threads() -> int:
    """The largest number of threads that a loaded numerical library uses (OpenMP, BLAS)."""
    from threadpoolctl import threadpool_info

    return max((library["num_threads"] for library in threadpool_info()), default=1)


def peak_memory(run: Callable[[], Any], *, every_seconds: float = 0.001) -> int:
    """Bytes by which this process's resident memory rose, at most, while `run` ran.

    Sampled from a thread every `every_seconds`: an allocation that is given back sooner can be missed, and
    memory that an allocator had kept from before is not seen. Run it in a fresh process to compare.
    """
    import threading

    import psutil

    process, done = psutil.Process(os.getpid()), threading.Event()
    before = peak = process.memory_info().rss

    def watch() -> None:
        nonlocal peak
        while not done.wait(every_seconds):
            peak = max(peak, process.memory_info().rss)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        run()
    finally:
        done.set()
        watcher.join()
    return max(peak, process.memory_info().rss) - before


def size_on_disk(weights: Mapping[str, np.ndarray], *, compressed: bool = False) -> int:
    """Bytes of a safetensors file of `weights`; `compressed` after gzip, where zeros and patterns pay.

    Example:
        >>> size_on_disk({"w": np.zeros((10, 10), np.float32)}) > 400
        True
    """
    import gzip

    from safetensors.numpy import save

    content = save({name: np.ascontiguousarray(value) for name, value in weights.items()})
    return len(gzip.compress(content, mtime=0)) if compressed else len(content)


class Report(list[dict[str, Any]]):
    """Rows of `report`; printed as a table."""

    def __repr__(self) -> str:
        told = [
            {
                "": row["model"],
                "parameters": f"{row['parameters']:,}",
                "zeros": f"{row['zeros']:,}",
                "bytes": f"{row['parameter_bytes']:,}",
                "MACs": "unknown" if row["macs"] is None else f"{row['macs']:,}",
                "latency": f"{row['latency_seconds'] * 1e3:.3g} ms "
                f"[{row['low_seconds'] * 1e3:.3g}, {row['high_seconds'] * 1e3:.3g}]",
                "peak memory": f"{row['peak_memory_bytes']:,} bytes",
            }
            for row in self
        ]
        table = [list(told[0]), *(list(row.values()) for row in told)] if told else []
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        return "\n".join(
            "  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in table
        )


def report(
    *models: Any, example_input: np.ndarray, names: Sequence[str] | None = None, repeats: int = 50
) -> Report:
    """What each model costs, side by side: parameters, zeros, bytes, MACs, measured latency and memory.

    Parameters:
        models: of one or both frameworks; at least one.
        example_input: the batch that is timed, (batch, *input_shape), channels first, or for Keras as the
            model reads it.
        names: of the models, in order; "model 1" and so on by default.
        repeats: timed calls of each, in turns.

    Returns one dictionary per model: `parameters`, `zeros` (of all weights), `parameter_bytes`, `macs` for
    one example (None for a model that `describe` does not understand), `latency_seconds` per batch (median)
    with its 95 % interval `low_seconds` and `high_seconds`, `peak_memory_bytes` of one call (see
    `peak_memory`). Printed as a table.

    Example:
        >>> from nnopt_lib import build, mlp
        >>> rows = report(build(mlp((8,), inputs=4, outputs=2)), example_input=np.zeros((1, 4), np.float32))
        >>> rows[0]["parameters"], rows[0]["macs"]
        (58, 48)
    """
    names = [f"model {place}" for place in range(1, len(models) + 1)] if names is None else list(names)
    if not models or len(names) != len(models):
        refuse("a report needs at least one model, and a name for each", f"{len(models)} and {len(names)}")
    x = np.asarray(example_input)
    runs = {
        place: backend_of(model).runner(model, _channels_first(model, x), None)
        for place, model in enumerate(models)
    }
    peaks = {place: peak_memory(run) for place, run in runs.items()}
    seconds = time_in_turns({str(place): run for place, run in runs.items()}, repeats=repeats)
    return Report(
        _report_row(model, name, x, seconds[str(place)], peaks[place])
        for place, (model, name) in enumerate(zip(models, names, strict=True))
    )


def _report_row(model: Any, name: str, x: np.ndarray, seconds: np.ndarray, peak: int) -> dict[str, Any]:
    statistics = ("/mean", "/variance")
    values = [v for key, v in backend_of(model).get_weights(model).items() if not key.endswith(statistics)]
    try:
        macs = count(describe(model, x)).macs
    except NnoptError:
        macs = None
    median, low, high = interval(seconds, statistic=np.median)
    return {
        "model": name,
        "parameters": sum(value.size for value in values),
        "zeros": sum(int((value == 0).sum()) for value in values),
        "parameter_bytes": sum(value.nbytes for value in values),
        "macs": macs,
        "latency_seconds": median,
        "low_seconds": low,
        "high_seconds": high,
        "peak_memory_bytes": peak,
    }


def _channels_first(model: Any, x: np.ndarray) -> np.ndarray:
    """A Keras model's own input, channels last, as the adapters read it; anything else as it is."""
    if framework_of(model) == "keras" and x.ndim > 2 and tuple(model.input_shape[1:]) == x.shape[1:]:
        return np.moveaxis(x, -1, 1)
    return x


# ---------------------------------------------------------------- statistics


def interval(
    values: Iterable[float], *, statistic: Callable[..., Any] = np.mean, confidence: float = 0.95
) -> tuple[float, float, float]:
    """`statistic` of the values with its bootstrap interval: (estimate, low, high).

    Bias-corrected and accelerated (Efron 1987), by SciPy, 9,999 resamples, always the same ones. Values
    that are all equal give an interval of width 0. At least three values, as everywhere in the course.

    Example:
        >>> interval([0.9, 0.9, 0.9])
        (0.9, 0.9, 0.9)
    """
    sample = np.asarray(list(values), float)
    if len(sample) < 3 or not np.isfinite(sample).all():
        refuse("an interval needs at least three finite values", f"{sample.tolist()[:10]}")
    estimate = float(statistic(sample))
    if np.ptp(sample) == 0:
        return estimate, estimate, estimate
    from scipy.stats import bootstrap

    def resample(method: str) -> tuple[float, float]:
        result = bootstrap(
            (sample,), statistic, confidence_level=confidence, method=method, rng=np.random.default_rng(0)
        ).confidence_interval
        return float(result.low), float(result.high)

    with warnings.catch_warnings():
        # BCa's acceleration is 0/0 where dropping any one value leaves the statistic as it is (medians).
        warnings.simplefilter("ignore")
        low, high = resample("BCa")
    if not (math.isfinite(low) and math.isfinite(high)):
        low, high = resample("percentile")
    return estimate, low, high


def paired_difference(
    a: Sequence[float], b: Sequence[float], *, confidence: float = 0.95
) -> tuple[float, float, float]:
    """Mean of a - b over pairs (equal seeds at equal places), with its bootstrap interval."""
    if len(a) != len(b):
        refuse("paired values must have equal lengths", f"{len(a)} and {len(b)}")
    return interval(np.asarray(a, float) - np.asarray(b, float), confidence=confidence)


def pareto_front(rows: Iterable[Mapping[str, Any]], *, cost: str, value: str) -> list[Mapping[str, Any]]:
    """Rows that no other row beats: none has a cost as low and a value as high, one of them better.

    Returned in order of rising cost; of equal rows all stay.

    Example:
        >>> rows = [{"macs": 1, "accuracy": 0.5}, {"macs": 2, "accuracy": 0.4}]
        >>> pareto_front(rows, cost="macs", value="accuracy")
        [{'macs': 1, 'accuracy': 0.5}]
    """
    front: list[Mapping[str, Any]] = []
    for row in sorted(rows, key=lambda r: (r[cost], -r[value])):
        if (
            not front
            or row[value] > front[-1][value]
            or (row[value] == front[-1][value] and row[cost] == front[-1][cost])
        ):
            front.append(row)
    return front
