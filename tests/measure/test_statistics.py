import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nnopt_lib import measure
from nnopt_lib.checks import NnoptError


def test_interval_equals_scipy_on_a_textbook_sample():
    from scipy.stats import t

    # For normal samples the bootstrap interval of the mean is close to Student's, a little narrower at n = 10.
    sample = np.random.default_rng(1).normal(5, 2, 40)
    mean, low, high = measure.interval(sample)
    student = t.interval(0.95, 39, sample.mean(), sample.std(ddof=1) / math.sqrt(40))
    assert mean == pytest.approx(sample.mean())
    assert (low, high) == pytest.approx(student, abs=0.12 * (student[1] - student[0]))


@pytest.mark.parametrize("confidence", [0.5, 0.8, 0.99])
def test_an_interval_is_as_wide_as_its_confidence_asks(confidence):
    from scipy.stats import t

    sample = np.random.default_rng(1).normal(5, 2, 40)
    student = t.interval(confidence, 39, sample.mean(), sample.std(ddof=1) / math.sqrt(40))
    about = pytest.approx(student, abs=0.12 * (student[1] - student[0]))
    assert measure.interval(sample, confidence=confidence)[1:] == about
    shared = np.linspace(-100, 100, 40)  # far wider than what is asked for, unless pairing takes it away
    assert measure.paired_difference(sample + shared, shared, confidence=confidence)[1:] == about


def test_an_interval_of_medians_has_its_confidence_too():
    """Dropping any one of these values leaves their median, so the bootstrap takes its other way, percentiles."""
    values = [1.0, 2.0, 2.0, 2.0, 9.0]
    # Three of five draws are the 1 with a chance of 5.8 %, and as often the 9: within 99 %, outside 50 %.
    assert measure.interval(values, statistic=np.median, confidence=0.5) == (2.0, 2.0, 2.0)
    assert measure.interval(values, statistic=np.median, confidence=0.99) == (2.0, 1.0, 9.0)


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
