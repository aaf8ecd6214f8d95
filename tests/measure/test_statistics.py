import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nnopt_lib import measure
from nnopt_lib.checks import NnoptError


@pytest.mark.parametrize("confidence", [0.5, 0.95, 0.99])
def test_an_interval_of_a_mean_is_students(confidence):
    from scipy.stats import t

    for size in (3, 10, 40):
        sample = np.random.default_rng(size).normal(5, 2, size)
        spread = sample.std(ddof=1) / math.sqrt(size)
        student = t.interval(confidence, size - 1, sample.mean(), spread)
        assert measure.interval(sample, confidence=confidence) == pytest.approx((sample.mean(), *student))
        shared = np.linspace(
            -100, 100, size
        )  # far wider than what is asked for, unless pairing takes it away
        difference = measure.paired_difference(sample + shared, shared, confidence=confidence)
        assert difference == pytest.approx((sample.mean(), *student))


def test_an_interval_of_a_median_lies_between_the_order_statistics_of_the_textbook():
    # Conover's table: for n = 10 the second and the ninth of the sorted values, for n = 30 the 10th and 21st.
    values = np.random.default_rng(0).permutation(np.arange(1.0, 11.0) ** 3)
    assert measure.median_interval(values) == (170.5, 8.0, 729.0)
    assert measure.median_interval(np.arange(1.0, 31.0)) == (15.5, 10.0, 21.0)
    assert measure.median_interval(np.arange(1.0, 31.0), confidence=0.5) == (15.5, 13.0, 18.0)


@given(st.lists(st.floats(-1e3, 1e3), min_size=6, max_size=40))
def test_an_interval_of_a_median_does_not_depend_on_order_and_follows_any_rising_change(values):
    median, low, high = measure.median_interval(values)
    assert low <= median <= high and low in values and high in values
    assert measure.median_interval(sorted(values)) == (median, low, high)
    assert measure.median_interval([2 * v for v in values]) == (2 * median, 2 * low, 2 * high)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=6))
def test_holm_equals_closed_testing(p_values):
    """Holm's method rejects what every intersection that it belongs to rejects by Bonferroni's rule."""
    import itertools

    everyone = range(len(p_values))
    subsets = [s for size in range(1, len(p_values) + 1) for s in itertools.combinations(everyone, size)]
    by_definition = [
        max(min(1.0, len(s) * min(p_values[i] for i in s)) for s in subsets if one in s) for one in everyone
    ]
    assert measure.holm(p_values) == pytest.approx(by_definition)


def test_p_values_are_those_of_scipy_and_agree_with_the_interval():
    from scipy.stats import ttest_1samp

    sample = np.random.default_rng(3).normal(0.4, 1, 12)
    assert measure.p_value(sample, margin=0.1) == pytest.approx(ttest_1samp(sample, 0.1).pvalue)
    mean, low, high = measure.interval(sample)
    for bound in (low, high):  # exactly at the end of the interval the test is at 5 %
        assert measure.p_value(sample, margin=bound) == pytest.approx(0.05)
    reach = max(abs(low), abs(high))  # the smallest margin that the whole interval stays within
    assert measure.p_value(sample, margin=reach, absolute=True) == pytest.approx(0.05)
    tests = [
        ttest_1samp(sample, end, alternative=side).pvalue for end, side in ((-2, "greater"), (2, "less"))
    ]
    assert measure.p_value(sample, margin=2, absolute=True) == pytest.approx(2 * max(tests))


def test_p_values_of_constant_samples_are_decided():
    assert measure.p_value([0.5] * 4, margin=0.0) == 0.0
    assert measure.p_value([0.5] * 4, margin=0.5) == 1.0
    assert measure.p_value([-0.5] * 4, margin=0.5, absolute=True) == 1.0


def test_clusters_are_averaged_in_their_order():
    assert measure.by_cluster([1, 10, 3], ["b", "a", "b"]) == [2.0, 10.0]
    sharing = measure.interval(measure.by_cluster([1, 1, 2, 2, 4, 4], [0, 0, 1, 1, 2, 2]))
    assert sharing == measure.interval([1, 2, 4])


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
            lambda: measure.interval(
                [math.inf, *range(1, 12)]
            ),  # the first ten are enough to recognize them by
            "an interval needs at least three finite values; "
            "received [inf, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0].",
        ),
        (
            lambda: measure.paired_difference([1, 2, 3], [1, 2]),
            "paired values must have equal lengths; received 3 and 2.",
        ),
        (
            lambda: measure.median_interval([1, 2, 3, 4, 5]),
            "an interval needs at least six finite values; received [1.0, 2.0, 3.0, 4.0, 5.0].",
        ),
        (
            lambda: measure.median_interval(range(6), confidence=0.99),
            "6 values must be enough for a confidence of 0.99; received too few of them.",
        ),
        (
            lambda: measure.by_cluster([1, 2], ["a"]),
            "values and clusters must have equal lengths; received 2 and 1.",
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
