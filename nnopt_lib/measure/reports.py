"""What each of several models costs, side by side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from tabulate import tabulate

from nnopt_lib.checks import NnoptError, check_int, refuse
from nnopt_lib.frameworks import backend_of, framework_of, training_backend_of
from nnopt_lib.measure.costs import count
from nnopt_lib.measure.statistics import median_interval
from nnopt_lib.measure.timing import peak_memory, time_in_turns
from nnopt_lib.models.describe import describe


class Report(list[dict[str, Any]]):
    """Rows of `report`; printed as a table."""

    def __repr__(self) -> str:
        lines = [
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
        # The titles are a line like the others: tabulate widens a column by two where it knows its header.
        table = [list(lines[0]), *(line.values() for line in lines)] if lines else []
        # Cells are text, with commas and units: tabulate would align "1,000" and "unknown" differently.
        return tabulate(table, tablefmt="plain", stralign="right", disable_numparse=True)


def report(
    *models: Any, example_input: np.ndarray, names: Sequence[str] | None = None, repeats: int = 50
) -> Report:
    """What each model costs, side by side: parameters, zeros, bytes, MACs, measured latency and memory.

    Parameters:
        models: of one or both frameworks, of one input and any outputs; at least one.
        example_input: the batch that is timed, (batch, *input_shape), channels first, or for Keras as the
            model reads it.
        names: of the models, in order; "model 1" and so on by default.
        repeats: timed calls of each, in turns; at least 6.

    Returns one dictionary per model: `parameters`, `zeros` (of all weights), `parameter_bytes`, `macs` for
    one example (None for a model that `describe` cannot read), `latency_seconds` per batch (median)
    with its 95 % interval `low_seconds` and `high_seconds`, `peak_memory_bytes` of one call (see
    `peak_memory`). Printed as a table.

    Example:
        >>> from nnopt_lib import build, mlp
        >>> rows = report(build(mlp((8,), inputs=4, outputs=2)), example_input=np.zeros((1, 4), np.float32))
        >>> rows[0]["parameters"], rows[0]["macs"]
        (58, 48)
    """
    names = [f"model {number}" for number in range(1, len(models) + 1)] if names is None else list(names)
    if not models or len(names) != len(models):
        refuse("a report needs at least one model, and a name for each", f"{len(models)} and {len(names)}")
    check_int("repeats", repeats, at_least=6)  # which an interval of the median needs
    x = np.asarray(example_input)
    # Keyed by number, not by name: two models may be called the same.
    runs = {
        str(number): training_backend_of(model).runner(model, _channels_first(model, x), None)
        for number, model in enumerate(models)
    }
    # Memory first: what the timed calls leave in an allocator's hands would not be seen to rise again.
    peaks = {number: peak_memory(run) for number, run in runs.items()}
    seconds = time_in_turns(runs, repeats=repeats)
    return Report(
        _report_row(model, name, x, seconds[number], peaks[number])
        for number, model, name in zip(runs, models, names, strict=True)
    )


def _report_row(model: Any, name: str, x: np.ndarray, seconds: np.ndarray, peak: int) -> dict[str, Any]:
    statistics = ("/mean", "/variance")
    values = [v for key, v in backend_of(model).get_weights(model).items() if not key.endswith(statistics)]
    try:
        macs = count(describe(model, x)).macs
    except NnoptError:
        macs = None
    median, low, high = median_interval(seconds)
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
    if framework_of(model) != "keras":
        return x
    shapes = _input_shapes(model)
    if len(shapes) > 1:
        refuse(f"a report needs models of one input, and {model.name!r} has more", len(shapes))
    own = shapes and len(shapes[0]) == x.ndim and _fits(x.shape[1:], shapes[0][1:])
    return np.moveaxis(x, -1, 1) if own and x.ndim > 2 else x


def _input_shapes(model: Any) -> list[tuple[int | None, ...]]:
    """Of a Keras model's inputs; of a subclassed one that with which it was built, none if it was not."""
    tensors = getattr(model, "inputs", None)
    if tensors:
        return [tuple(tensor.shape) for tensor in tensors]
    built = (model.get_build_config() or {}).get("input_shape")
    return [tuple(built)] if isinstance(built, (list, tuple)) else []


def _fits(shape: tuple[int, ...], free: tuple[int | None, ...]) -> bool:
    return all(size in (None, own) for own, size in zip(shape, free, strict=True))
