import gzip
from types import SimpleNamespace

import numpy as np
import pytest

from nnopt_lib import measure
from nnopt_lib.checks import NnoptError
from nnopt_lib.measure import timing


def test_latency_counts_calls_and_orders_its_interval():
    calls = []
    result = measure.latency(lambda: calls.append(sum(range(2000))), repeats=20, warmup=3)
    assert len(calls) == 23
    assert 0 < result.low_seconds <= result.median_seconds <= result.high_seconds
    assert (result.repeats, result.threads) == (20, measure.threads())


def test_functions_are_timed_in_turns(monkeypatch):
    """On a clock that only the functions move, since a loaded machine's own says nothing exact."""
    clock, calls = [0.0], []

    def runs_for(name, seconds):
        def run():
            calls.append(name)
            clock[0] += seconds + len(calls)  # each call is longer than the one before

        return run

    monkeypatch.setattr(timing, "time", SimpleNamespace(perf_counter=lambda: clock[0]))
    runs = {"a": runs_for("a", 100.0), "b": runs_for("b", 300.0)}
    seconds = measure.time_in_turns(runs, repeats=5, warmup=2)
    assert calls == ["a", "b"] * 7
    # Calls 1 to 4 warm up; then a is called 5th, 7th, ..., b 6th, 8th, ...
    assert seconds["a"].tolist() == [105.0, 107.0, 109.0, 111.0, 113.0]
    assert seconds["b"].tolist() == [306.0, 308.0, 310.0, 312.0, 314.0]


def test_peak_memory_sees_a_large_array():
    def allocate():
        block = np.ones(8_000_000)  # 64 MB, touched
        return float(block[::512].sum())

    assert 50e6 < measure.peak_memory(allocate) < 100e6


def test_peak_memory_passes_errors_on():
    def fail():
        raise KeyError("inside")

    with pytest.raises(KeyError, match="inside"):
        measure.peak_memory(fail)


def test_size_on_disk_is_the_file_size(tmp_path):
    from safetensors.numpy import load_file, save_file

    weights = {"dense_1/kernel": np.random.default_rng(0).normal(size=(30, 20)).astype(np.float32)}
    save_file(weights, tmp_path / "w.safetensors")
    assert measure.size_on_disk(weights) == (tmp_path / "w.safetensors").stat().st_size
    assert np.array_equal(load_file(tmp_path / "w.safetensors")["dense_1/kernel"], weights["dense_1/kernel"])
    zeros = {"dense_1/kernel": np.zeros((30, 20), np.float32)}
    assert measure.size_on_disk(zeros) == measure.size_on_disk(weights)
    assert measure.size_on_disk(zeros, compressed=True) < measure.size_on_disk(weights, compressed=True) / 5
    assert measure.size_on_disk(zeros, compressed=True) < len(gzip.compress(b"")) + 200


def test_too_few_repeats_are_refused():
    with pytest.raises(NnoptError) as error:
        measure.latency(lambda: None, repeats=1)
    assert str(error.value) == "repeats must be a whole number, at least 6; received 1."
