import importlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nnopt_lib.checks import NnoptError
from nnopt_lib.formats import compare_formats, faster_from

pytestmark = pytest.mark.torch
module = importlib.import_module("nnopt_lib.formats.compare")
UNCOMPILED = [name for name in module.ROWS if name != "compiled"]


def refused(function, *arguments, **options) -> str:
    with pytest.raises(NnoptError) as caught:
        function(*arguments, **options)
    return str(caught.value)


@pytest.mark.parametrize("shape", [(32, 48), (32, 16, 3, 3)])
def test_rows_say_what_was_compared(shape):
    options = {"batch": 3, "threads": 1, "repeats": 6, "formats": UNCOMPILED}
    rows = compare_formats(shape, sparsity=[0.75, 0.5], **options)
    assert [(row["sparsity"], row["format"]) for row in rows] == [
        (sparsity, name) for sparsity in (0.5, 0.75) for name in UNCOMPILED
    ]
    size = int(np.prod(shape))
    kept = {0.5: size // 2, 0.75: size // 4}
    for row in rows:
        assert (row["shape"], row["batch"], row["threads"], row["repeats"]) == (list(shape), 3, 1, 6)
        for name in ("seconds", "ratio_to_dense"):
            assert 0 < row[f"{name}_low"] <= row[f"{name}_median"] <= row[f"{name}_high"]
        left = kept[row["sparsity"]]
        blocks = left // 256
        expected_bytes = {
            "dense": 4 * size,
            "csr": 8 * left + 4 * 33,
            "bsr": blocks * (4 * 256 + 4) + 4 * 3,
            "constant_fan_in": 8 * left,
            "nodes_removed": 4 * left,
            "int8": size + 5,
            "onnxruntime": 4 * size,
        }
        # Of 6 blocks a quarter is 1.5, so that 2 go; for the convolution both numbers are even.
        if row["format"] != "bsr" or size % 1024 == 0:
            assert row["bytes"] == expected_bytes[row["format"]], row["format"]
        assert row["max_error"] <= (0.05 if row["format"] == "int8" else 1e-5)
    dense = [row for row in rows if row["format"] == "dense"]
    assert all(row["ratio_to_dense_median"] == 1 and row["max_error"] == 0 for row in dense)
    # What has no use for zeros was timed once.
    times = [{row["format"]: row["seconds_median"] for row in rows if row["sparsity"] == s} for s in kept]
    same = {name for name in UNCOMPILED if times[0][name] == times[1][name]}
    assert {"dense", "int8", "onnxruntime"} <= same < set(UNCOMPILED)


def test_one_sparsity_and_one_format_beside_dense():
    rows = compare_formats((16, 8), sparsity=0.5, batch=1, threads=1, formats=["csr"], repeats=6)
    assert [row["format"] for row in rows] == ["dense", "csr"]


@pytest.mark.parametrize("name", ["csr", "bsr", "constant_fan_in", "nodes_removed"])
def test_the_smallest_weights_go_in_each_format_s_own_pattern(name):
    layer = module._Layer((64, 32), 1, 1, 5, ["dense"])
    pruned = layer.pruned(name, 0.75)
    kept = pruned != 0
    assert np.array_equal(pruned[kept], layer.kernel[kept]) and kept.sum() == 512
    sizes = np.abs(layer.kernel)
    if name == "csr":
        assert sizes[kept].min() > sizes[~kept].max()
    elif name == "constant_fan_in":
        assert (kept.sum(1) == 8).all()
        assert all(sizes[row][kept[row]].min() > sizes[row][~kept[row]].max() for row in range(64))
    elif name == "nodes_removed":
        rows = kept.all(1)
        assert (
            rows.sum() == 16
            and not kept[~rows].any()
            and sizes[rows].sum(1).min() > sizes[~rows].sum(1).max()
        )
    else:
        blocks = kept.reshape(4, 16, 2, 16).swapaxes(1, 2).reshape(8, 256)
        totals = sizes.reshape(4, 16, 2, 16).swapaxes(1, 2).reshape(8, 256).sum(1)
        chosen = blocks.all(1)
        assert (
            chosen.sum() == 2 and not blocks[~chosen].any() and totals[chosen].min() > totals[~chosen].max()
        )


def test_one_weight_is_left_at_the_highest_sparsity_and_all_at_none():
    assert module._largest(np.array([[1.0, 3.0, 2.0]]), 0.99).tolist() == [[False, True, False]]
    assert module._largest(np.array([[1.0, 3.0, 2.0]]), 0.0).tolist() == [[True, True, True]]


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 5), st.integers(0, 1000))
def test_rounding_to_8_bits_stays_within_its_bound_and_to_5_bits_does_not_always(rows, columns, batch, seed):
    layer = module._Layer((rows, columns), batch, 1, seed, ["dense"])

    def error(levels, input_levels):
        step = np.abs(layer.kernel).max() / levels
        x_low, x_high = min(layer.x.min(), 0), max(layer.x.max(), 0)
        x_step = (x_high - x_low) / input_levels
        rounded = np.round(layer.kernel / step) * step, np.round(layer.x / x_step) * x_step
        return np.abs(rounded[1] @ rounded[0].T - layer.x @ layer.kernel.T)

    bound = layer.int8_bound()
    assert bound.shape == (batch, rows)
    assert (error(127, 255) <= bound + 1e-6).all()
    if rows * batch > 20 and columns > 4:
        assert (error(7, 15) > bound).any()


@pytest.mark.parametrize("name", ["csr", "nodes_removed", "onnxruntime", "int8"])
def test_what_gives_another_result_is_not_timed(name, monkeypatch):
    side = module._Layer.side

    def wrong_side(self, wanted, sparsity):
        if wanted == name:  # only what this side runs is wrong, not the dense result beside it
            self.runs = {kind: lambda run=run: run() * 1.1 for kind, run in self.runs.items()}
            outputs = self.outputs
            self.outputs = lambda kernel, x: outputs(kernel, x) / (1.1 if sparsity is not None else 1)
        return side(self, wanted, sparsity)

    monkeypatch.setattr(module._Layer, "side", wrong_side)
    monkeypatch.setattr(module, "time_in_turns", lambda *_, **__: pytest.fail("it was timed"))
    sentence = refused(compare_formats, (32, 16), sparsity=0.5, batch=2, threads=1, formats=[name])
    assert sentence.startswith(
        f"{name} must give the dense result before it is timed; received an error of 0."
    )


@pytest.mark.parametrize(
    ("first_seconds", "later", "turns", "warmup"),
    [(0.01, 0.001, 50, 2), (0.1, 0.03, 33, 2), (1.0, None, 6, 0)],
)
def test_as_many_turns_as_fit(first_seconds, later, turns, warmup, monkeypatch):
    asked = []

    def time_in_turns(runs, *, repeats, warmup):
        asked.append((repeats, warmup))
        return {name: np.full(repeats, later or 1.0) for name in runs}

    monkeypatch.setattr(module, "time_in_turns", time_in_turns)
    side = module._Side(lambda: None, first_seconds, 0, 0.0)
    timed = module._time({("dense", None): side, ("csr", 0.5): side}, None, 2.0)
    assert asked == ([(3, 0)] if later else []) + [(turns, warmup)]
    assert [len(times) for times in timed.values()] == [turns, turns]


def test_threads_are_those_asked_for_and_come_back(monkeypatch):
    import torch

    before, seen, counts = torch.get_num_threads(), [], []
    times = module.time_in_turns

    def time_in_turns(runs, **options):
        counts.append(torch.get_num_threads())
        return times(runs, **options)

    linear = torch.nn.functional.linear
    monkeypatch.setattr(module, "time_in_turns", time_in_turns)
    monkeypatch.setattr(
        torch.nn.functional, "linear", lambda *a: seen.append(torch.get_num_threads()) or linear(*a)
    )
    compare_formats((16, 8), sparsity=0.5, batch=1, threads=before + 1, formats=["nodes_removed"], repeats=6)
    assert set(seen) == {before + 1} and len(seen) > 12
    assert counts == [before] and torch.get_num_threads() == before


def test_bad_arguments_are_refused_before_anything_is_computed(monkeypatch):
    monkeypatch.setattr(module, "_Layer", lambda *_: pytest.fail("something was computed"))
    good = {"sparsity": 0.5, "batch": 1, "threads": 1}
    assert refused(compare_formats, (32, 32, 3), **good) == (
        "shape must be (out, in), or (out, in, height, width) with odd height and width; received (32, 32, 3)."
    )
    assert refused(compare_formats, (32, 32, 2, 3), **good).endswith("; received (32, 32, 2, 3).")
    assert refused(compare_formats, (30, 32), **good) == (
        "blocks of 16 x 16 must tile the matrix of a kernel; received 30 x 32. Choose another block, or csr."
    )
    assert refused(compare_formats, (32, 32), **good | {"sparsity": 90}) == (
        "sparsity must be at least 0 and below 1; received 90. For 90 %, pass 0.9."
    )
    assert refused(compare_formats, (32, 32), **good | {"sparsity": []}) == (
        "compare_formats needs at least one sparsity; received none."
    )
    assert refused(compare_formats, (32, 32), **good, formats="csr") == (
        "formats must be a list; received 'csr'. Pass ['csr']."
    )
    assert refused(compare_formats, (32, 32), **good, formats=["crs"]) == (
        "format must be one of dense, csr, bsr, constant_fan_in, nodes_removed, int8, compiled, onnxruntime;"
        " received 'crs'. Did you mean 'csr'?"
    )
    for name, value in (("batch", 0), ("threads", 0)):
        assert refused(compare_formats, (32, 32), **good | {name: value}) == (
            f"{name} must be a whole number, at least 1; received 0."
        )
    assert refused(compare_formats, (32, 32), **good, repeats=5) == (
        "repeats must be a whole number, at least 6; received 5."
    )
    assert refused(compare_formats, (32, 32), **good, seconds=0) == (
        "seconds must be a finite number, above 0; received 0."
    )


def rows_of(lows, **more):
    rows = [{"format": "csr", "sparsity": s, "ratio_to_dense_low": low, **more} for s, low in lows.items()]
    return rows[::-1]  # in any order


@pytest.mark.parametrize(
    ("lows", "expected"),
    [
        ({0.5: 0.3, 0.8: 0.9, 0.9: 1.1}, (0.8, 0.9)),
        ({0.5: 1.2, 0.8: 2}, (0.0, 0.5)),
        ({0.5: 1.2, 0.8: 0.9, 0.9: 1.5}, (0.8, 0.9)),  # from which on all are faster
        ({0.5: 0.5, 0.8: 1.0}, None),
    ],
)
def test_a_format_breaks_even_where_all_intervals_from_there_on_lie_above_1(lows, expected):
    assert faster_from(rows_of(lows), "csr") == expected


def test_rows_that_say_nothing_of_a_format_or_of_several_layers_are_refused():
    rows = rows_of({0.5: 1.2}, batch=1) + rows_of({0.5: 1.2}, batch=64)
    assert refused(faster_from, rows, "bsr") == "rows must hold the format 'bsr'; received ['csr']."
    assert refused(faster_from, rows, "csr") == (
        "rows must be of one shape, batch and number of threads; received 2 of them."
    )
