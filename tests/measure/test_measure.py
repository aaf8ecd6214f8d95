import gzip
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nnopt_lib import measure
from nnopt_lib.checks import NnoptError
from nnopt_lib.structure import classics as builders
from nnopt_lib.structure.spec import NetSpec, Node
from tests.networks import every_operation, networks, parameter_count


def test_lenet_300_100_by_hand():
    cost = measure.count(builders.lenet_300_100())
    assert (cost.weights, cost.parameters - cost.weights) == (266_200, 410)
    assert cost.macs == 784 * 300 + 300 * 100 + 100 * 10
    # outputs of dense and activation: 300 twice, 100 twice, 10, four bytes each
    assert cost.activation_bytes == 4 * (300 + 300 + 100 + 100 + 10)
    assert cost.parameter_bytes == 4 * 266_610


def test_an_unpadded_strided_convolution_by_hand():
    options = {"filters": 4, "kernel": (3, 2), "stride": (2, 3)}
    cost = measure.count(NetSpec((3, 10, 11), (Node("c", "conv2d", "input", options),)))
    # rows: starts 0, 2, 4, 6 (7 is the last that fits); columns: starts 0, 3, 6, 9
    rows, columns = len(range(0, 10 - 3 + 1, 2)), len(range(0, 11 - 2 + 1, 3))
    assert (rows, columns) == (4, 4)
    assert cost.weights == 4 * 3 * 3 * 2
    assert cost.parameters == cost.weights + 4
    assert cost.macs == rows * columns * 4 * (3 * 3 * 2)
    assert cost.activation_bytes == 4 * 4 * rows * columns


def test_groups_divide_weights_and_macs():
    def cost(groups):
        options = {"filters": 8, "kernel": 3, "padding": 1, "groups": groups, "bias": False}
        return measure.count(NetSpec((8, 5), (Node("c", "conv1d", "input", options),)))

    assert cost(1).macs == 8 * 8 * 3 * 5
    assert cost(8).macs == cost(1).macs // 8 == 8 * cost(8).weights // 8 * 5


def test_flatten_and_gates_cost_what_they_should():
    costs = measure.count_by_node(every_operation())
    assert costs["flatten_1"].activation_bytes == 0
    assert costs["excite"].macs == 6 * 6
    assert costs["batch_norm_1"].parameters == 12
    assert costs["scaled"] == measure.Cost(0, 0, 0, 4 * 6 * 6 * 9)


@given(networks())
def test_totals_are_sums_over_nodes(spec):
    costs = measure.count_by_node(spec).values()
    assert measure.count(spec).parameters == parameter_count(spec) == sum(c.parameters for c in costs)
    assert measure.count(spec).macs == sum(c.macs for c in costs)


def test_latency_counts_calls_and_orders_its_interval():
    calls = []
    result = measure.latency(lambda: calls.append(sum(range(2000))), repeats=20, warmup=3)
    assert len(calls) == 23
    assert 0 < result.low_seconds <= result.median_seconds <= result.high_seconds
    assert (result.repeats, result.threads) == (20, measure.threads())


def test_functions_are_timed_in_turns():
    import time

    calls = []
    runs = {
        "a": lambda: calls.append("a") or time.sleep(0.002),
        "b": lambda: calls.append("b") or time.sleep(0.006),
    }
    seconds = measure.time_in_turns(runs, repeats=5, warmup=2)
    assert calls == ["a", "b"] * 7
    assert seconds["a"].shape == (5,) and seconds["a"].min() >= 0.002
    _, low, _ = measure.interval(seconds["b"] / seconds["a"], statistic=np.median)
    assert low > 1.5  # three times as long asleep, and each pair is measured together


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


def test_interval_equals_scipy_on_a_textbook_sample():
    from scipy.stats import t

    # For normal samples the bootstrap interval of the mean is close to Student's, a little narrower at n = 10.
    sample = np.random.default_rng(1).normal(5, 2, 40)
    mean, low, high = measure.interval(sample)
    student = t.interval(0.95, 39, sample.mean(), sample.std(ddof=1) / math.sqrt(40))
    assert mean == pytest.approx(sample.mean())
    assert (low, high) == pytest.approx(student, abs=0.12 * (student[1] - student[0]))


def test_interval_covers_about_as_often_as_it_says():
    random = np.random.default_rng(7)
    covered = 0
    for _ in range(60):
        _, low, high = measure.interval(random.normal(0, 1, 25))
        covered += low <= 0 <= high
    assert 50 <= covered <= 60  # 95 % of 60 is 57; below 50 has a probability under 0.001 at 92 % coverage


@given(st.lists(st.floats(-1e3, 1e3), min_size=3, max_size=8))
def test_interval_holds_the_estimate_and_repeats(values):
    mean, low, high = measure.interval(values)
    assert low - 1e-9 <= mean <= high + 1e-9
    assert measure.interval(values) == (mean, low, high)


def test_constant_values_give_an_interval_without_width():
    assert measure.interval([0.25] * 5) == (0.25, 0.25, 0.25)
    assert measure.paired_difference([0.5, 0.6, 0.7], [0.4, 0.5, 0.6]) == pytest.approx((0.1, 0.1, 0.1))


def test_pairing_removes_what_seeds_share():
    shared = np.random.default_rng(0).normal(0, 5, 10)
    a, b = shared + 1, shared + np.linspace(-0.1, 0.1, 10)
    difference, low, high = measure.paired_difference(a, b)
    assert difference == pytest.approx(1)
    assert high - low < 0.2


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (
            lambda: measure.interval([1.0, 2.0]),
            "an interval needs at least three finite values; received [1.0, 2.0].",
        ),
        (
            lambda: measure.interval([1.0, math.nan, 2.0]),
            "an interval needs at least three finite values; received [1.0, nan, 2.0].",
        ),
        (
            lambda: measure.paired_difference([1, 2, 3], [1, 2]),
            "paired values must have equal lengths; received 3 and 2.",
        ),
        (
            lambda: measure.latency(lambda: None, repeats=1),
            "repeats must be a whole number, at least 3; received 1.",
        ),
    ],
)
def test_bad_statistics_are_refused(call, sentence):
    with pytest.raises(NnoptError) as error:
        call()
    assert str(error.value) == sentence


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), max_size=12))
def test_pareto_front_equals_the_definition(points):
    rows = [{"cost": c, "value": v, "id": i} for i, (c, v) in enumerate(points)]

    def beaten(row):
        return any(
            o["cost"] <= row["cost"]
            and o["value"] >= row["value"]
            and (o["cost"], o["value"]) != (row["cost"], row["value"])
            for o in rows
        )

    expected = {row["id"] for row in rows if not beaten(row)}
    front = measure.pareto_front(rows, cost="cost", value="value")
    assert {row["id"] for row in front} == expected
    assert [row["cost"] for row in front] == sorted(row["cost"] for row in front)


def test_accuracy_and_loss_by_hand():
    logits = np.array([[0.0, math.log(3)], [1000.0, 0.0]])
    accuracy, loss = measure.accuracy_and_loss(logits, np.array([0, 0]))
    assert accuracy == 0.5
    assert loss == pytest.approx(math.log(4) / 2)  # -log(1/4) and, without overflow, 0
