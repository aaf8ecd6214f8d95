"""Searching: one process, two, and a Dask cluster of two workers, side by side; and what is not training.

Rows are compared first: all three ways must give the same ones. Each way is timed in turns, best of three, on
workers that have started and imported everything, since a cluster is kept; what starting costs is printed too.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["NNOPT_PROGRESS"] = "0"

import nnopt_lib as nnopt
from nnopt_lib.nas import result as found_module

RECIPE = nnopt.Training(epochs=20, batch_size=32, optimizer="adam", learning_rate=3e-3)


def space() -> nnopt.SearchSpace:
    """All perceptrons of one and two layers with up to 32 units, in steps of 2."""
    widths = range(2, 33, 2)
    units = [(a,) for a in widths] + [(a, b) for a in widths for b in widths]
    return nnopt.SearchSpace(nnopt.mlp, units=units, inputs=64, outputs=10)


def searched(folder: Path, candidates: int, **options: Any) -> tuple[float, nnopt.SearchResult]:
    """Seconds of a whole search from an empty store, and what it found."""
    shutil.rmtree(folder, ignore_errors=True)
    os.environ["NNOPT_STORE"] = str(folder)
    begin = time.perf_counter()
    result = nnopt.search(
        space(), data="digits", training=RECIPE, seeds=10, candidates=candidates, sampler="random", **options
    )
    return time.perf_counter() - begin, result


def training_seconds(folder: Path, candidates: int) -> tuple[float, float]:
    """Seconds of a search in this process, and those of them that its stacks took to be trained."""
    spent, inner = 0.0, found_module.fit_many

    def timed(*arguments: Any, **options: Any) -> Any:
        nonlocal spent
        begin = time.perf_counter()
        stack = inner(*arguments, **options)
        spent += time.perf_counter() - begin
        return stack

    found_module.fit_many = timed  # type: ignore[assignment]
    try:
        total, _ = searched(folder, candidates, jobs=1)
    finally:
        found_module.fit_many = inner  # type: ignore[assignment]
    return total, spent


def in_turns(ways: dict[str, Callable[[], float]], turns: int) -> dict[str, float]:
    """The shortest seconds of each way, called in turns."""
    seconds = {name: [run() for _ in range(0)] for name, run in ways.items()}
    for _ in range(turns):
        for name, run in ways.items():
            seconds[name].append(run())
    return {name: min(own) for name, own in seconds.items()}


def main() -> None:
    """Print the three parts."""
    from distributed import LocalCluster

    folder = Path(tempfile.mkdtemp()) / "store"
    begin = time.perf_counter()
    with LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None) as cluster:
        address = cluster.scheduler_address
        started = time.perf_counter() - begin
        ways = {
            "one process": {"jobs": 1},
            "two processes": {"jobs": 2},
            "Dask, two workers": {"cluster": address},
        }
        first = {name: searched(folder, 20, **options) for name, options in ways.items()}
        rows = [result.rows for _, result in first.values()]
        assert rows[0] == rows[1] == rows[2], "the three ways must give the same rows"
        print(f"rows of all three ways are equal: {len(rows[0])}; the cluster started in {started:.1f} s")
        for name, (seconds, _) in first.items():
            print(f"  {name:18} first run, imports included: {seconds:5.1f} s")
        runs = {name: (lambda o=options: searched(folder, 40, **o)[0]) for name, options in ways.items()}
        best = in_turns(runs, 3)
        print("40 candidates x 10 seeds, best of three in turns")
        for name, seconds in best.items():
            ratio = best["one process"] / seconds
            workers = 1 if name == "one process" else 2
            print(
                f"  {name:18} {seconds:5.1f} s  {ratio:4.2f} times as fast, efficiency {ratio / workers:.2f}"
            )
    total, training = training_seconds(folder, 40)
    print(f"overhead: {1 - training / total:.1%} of {total:.1f} s are not training")
    seconds, result = searched(folder, 100, jobs=2)
    print(f"100 candidates x 10 seeds with two processes: {seconds:.0f} s; {result}")


if __name__ == "__main__":
    main()
