"""Time, memory and bytes, measured on this machine.

Measurements time any function without arguments; `nnopt_lib.runner` makes one from a model of either
framework. Chapter 02 teaches it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from nnopt_lib.checks import check_int
from nnopt_lib.measure.statistics import median_interval


@dataclass(frozen=True)
class Latency:
    """Seconds per call: median over repeats, with the 95 % interval of the median (`median_interval`)."""

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
        >>> latency(lambda: sum(range(1000)), repeats=10, warmup=1).repeats
        10
    """
    check_int("repeats", repeats, at_least=6)  # fewer give no interval of a median
    seconds = time_in_turns({"run": run}, repeats=repeats, warmup=warmup)["run"]
    median, low, high = median_interval(seconds)
    return Latency(median, low, high, repeats, threads())


def time_in_turns(
    runs: Mapping[str, Callable[[], Any]], *, repeats: int = 50, warmup: int = 10
) -> dict[str, np.ndarray]:
    """Seconds of every call, with the functions called in turns, so that a noisy moment disturbs all of them.

    Returns an array of shape (repeats,) per name; entries of one turn were measured one after the other, so
    ratios are taken entry by entry: ``median_interval(a / b)``.
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

    # A thread, since `run` is one call; numerical libraries let go of Python's lock while they compute.
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

    # mtime=0 below: gzip would else write the time into its header, and bytes must not depend on it.
    content = save({name: np.ascontiguousarray(value) for name, value in weights.items()})
    return len(gzip.compress(content, mtime=0)) if compressed else len(content)
