"""One layer in every format and runtime: equal results first, then dense seconds over those of the format.

    python tests/benchmarks/formats.py

Three shapes, batches of 1 and 64, one and two threads, sparsities from 0.5 to 0.99; all formats of one setting
are called in turns in this process (`nnopt.formats.compare_formats`, whose words say what each is). Nodes removed
are the dense layer with that fraction of its outputs gone. A convolution reads images of 8 x 8; CSR, BSR and
constant fan-in unfold it. Ratios are medians over turns with their 95 % interval; more than 1 is faster than dense.
The last table compares the order with that of Lasby et al. (2024), abstract: 3072 inputs, 768 outputs, 90 %, one
example on a CPU, constant fan-in 3.4 times as fast as dense and 2.5 times as fast as CSR.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence

from nnopt_lib.formats import compare_formats, faster_from
from nnopt_lib.formats.compare import ROWS, SPARSE

SHAPES = ((768, 768), (768, 3072), (512, 512, 3, 3))  # of kernels: outputs come first
BATCHES = (1, 64)
THREADS = (1, 2)
SPARSITIES = (0.5, 0.8, 0.9, 0.95, 0.99)
PUBLISHED = {"dense": 3.4, "csr": 2.5}  # constant fan-in is so many times as fast

Rows = list[dict]


def ratio(row: dict) -> str:
    """Median and interval of dense seconds over those of a row."""
    low, median, high = (row[f"ratio_to_dense_{part}"] for part in ("low", "median", "high"))
    return f"{median:.3g} [{low:.3g}, {high:.3g}]"


def print_setting(rows: Rows, seconds: float) -> None:
    """One line for each format: its time at the highest sparsity, its ratios at all."""
    first = rows[0]
    print(
        f"\n{' x '.join(map(str, first['shape']))}, batch {first['batch']}, {first['threads']} thread(s):"
        f" {first['repeats']} turns, {seconds:.0f} s with compiling and export"
    )
    print(f"{'':16} {'ms':>9} {'largest error':>13}" + "".join(f"{s:>22}" for s in SPARSITIES))
    for name in [name for name in ROWS if any(row["format"] == name for row in rows)]:
        own = {row["sparsity"]: row for row in rows if row["format"] == name}
        shown = SPARSITIES if name in SPARSE else SPARSITIES[:1]
        error = max(row["max_error"] for row in own.values())
        ms = own[SPARSITIES[-1]]["seconds_median"] * 1e3
        cells = "".join(f" {ratio(own[s]):>21}" for s in shown)
        print(f"{name:16} {ms:9.3f} {error:13.1e}{cells}" + ("" if name in SPARSE else "  at every sparsity"))


def print_break_even(settings: Sequence[Rows]) -> None:
    """Between which sparsities each format begins to be faster than dense."""
    print("\nFaster than dense, by all of the interval, from a sparsity between")
    print(f"{'':38}" + "".join(f"{name:>17}" for name in SPARSE))
    for rows in settings:
        first = rows[0]
        where = (
            f"{' x '.join(map(str, first['shape']))}, batch {first['batch']}, {first['threads']} thread(s)"
        )
        found = [faster_from(rows, name) for name in SPARSE]
        cells = ["none" if pair is None else f"{pair[0]:g} and {pair[1]:g}" for pair in found]
        print(f"{where:38}" + "".join(f"{cell:>17}" for cell in cells))


def print_order(settings: Sequence[Rows]) -> None:
    """Constant fan-in against dense and CSR, as published and here."""
    rows = next(
        rows
        for rows in settings
        if (tuple(rows[0]["shape"]), rows[0]["batch"], rows[0]["threads"]) == (SHAPES[1], 1, 1)
    )
    seconds = {row["format"]: row["seconds_median"] for row in rows if row["sparsity"] == 0.9}
    print(
        "\n3072 inputs, 768 outputs, 90 %, batch 1, one thread: constant fan-in is so many times as fast as"
    )
    for name, published in PUBLISHED.items():
        here = seconds[name] / seconds["constant_fan_in"]
        order = "the same" if here > 1 else "ANOTHER"
        print(f"{name:8} {here:6.2f} here, {published} published: {order} order")
    order = sorted(seconds, key=lambda name: seconds[name])
    print("here, from the fastest: " + ", ".join(f"{name} {seconds[name] * 1e3:.3f} ms" for name in order))


def main() -> None:
    """Every setting, then what follows from all of them."""
    begin, settings = time.perf_counter(), []
    formats = [name for name in ROWS if name != "compiled" or shutil.which("g++")]
    if "compiled" not in formats:
        print("torch.compile is left out: it needs g++, which is not installed")
    for shape in SHAPES:
        for batch in BATCHES:
            for threads in THREADS:
                start = time.perf_counter()
                rows = compare_formats(
                    shape, sparsity=SPARSITIES, batch=batch, threads=threads, formats=formats
                )
                print_setting(rows, time.perf_counter() - start)
                settings.append(rows)
    print_break_even(settings)
    print_order(settings)
    print(f"\n{time.perf_counter() - begin:.0f} s in total")


if __name__ == "__main__":
    main()
