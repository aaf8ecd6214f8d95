"""Schedules by their formulas, and what all of them share."""

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nnopt_lib import schedules
from nnopt_lib.checks import NnoptError

STEPPED = {"linear": schedules.linear, "exponential": schedules.exponential, "cubic": schedules.cubic}


def test_one_shot_is_the_final_sparsity():
    assert schedules.one_shot(0.9) == [0.9] and schedules.one_shot(0) == [0.0]


def test_linear_by_hand():
    assert schedules.linear(0.8, 4) == pytest.approx([0.2, 0.4, 0.6, 0.8])
    assert schedules.linear(0.9, 2, initial=0.5) == pytest.approx([0.7, 0.9])


def test_exponential_removes_an_equal_part_of_the_rest():
    """Frankle & Carbin 2019: 20 % of what is left per level leaves 80 %, 64 %, 51.2 %."""
    assert schedules.exponential(1 - 0.8**3, 3) == pytest.approx([0.2, 0.36, 0.488])
    assert schedules.exponential(0.75, 2) == pytest.approx([0.5, 0.75])
    assert schedules.exponential(0.95, 2, initial=0.8) == pytest.approx([0.9, 0.95])


def test_cubic_by_hand():
    """Zhu & Gupta 2018, eq. 1: s_f + (s_i - s_f)(1 - t/n)^3."""
    assert schedules.cubic(0.8, 4) == pytest.approx(
        [0.8 - 0.8 * 27 / 64, 0.8 - 0.8 / 8, 0.8 - 0.8 / 64, 0.8], rel=1e-14
    )
    assert schedules.cubic(0.9, 2, initial=0.5) == pytest.approx([0.85, 0.9])


fractions = st.floats(0, 1, exclude_max=True)


@given(st.sampled_from(list(STEPPED)), fractions, fractions, st.integers(1, 200))
def test_every_schedule_rises_to_exactly_the_final_sparsity(name, first, second, steps):
    initial, final = sorted((first, second))
    targets = STEPPED[name](final, steps, initial)
    assert len(targets) == steps and targets[-1] == final
    assert all(type(target) is float and 0 <= target < 1 for target in targets)
    assert all(a <= b + 1e-15 for a, b in pairwise([initial, *targets])), targets  # up to rounding


@given(fractions, st.integers(2, 50))
def test_cubic_is_ahead_of_exponential_is_ahead_of_linear_never_behind(final, steps):
    linear, cubic = schedules.linear(final, steps), schedules.cubic(final, steps)
    exponential = schedules.exponential(final, steps)
    for straight, equal_parts, fast in zip(linear, exponential, cubic, strict=True):
        assert straight <= equal_parts + 1e-12 and straight <= fast + 1e-12


@pytest.mark.parametrize("schedule", STEPPED.values(), ids=STEPPED)
@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ((80, 4), "final must be at least 0 and below 1; received 80. For 80 %, pass 0.8."),
        ((1.0, 4), "final must be at least 0 and below 1; received 1."),
        ((math.nan, 4), "final must be at least 0 and below 1; received nan."),
        ((0.9, 0), "steps must be a whole number, at least 1; received 0."),
        ((0.9, 2.5), "steps must be a whole number, at least 1; received 2.5."),
        ((0.9, 4, -0.1), "initial must be at least 0 and below 1; received -0.1."),
        ((0.5, 4, 0.6), "initial must be at most final, here 0.5; received 0.6."),
    ],
)
def test_bad_calls_are_refused_in_one_sentence(schedule, arguments, sentence):
    with pytest.raises(NnoptError) as error:
        schedule(*arguments)
    assert str(error.value) == sentence


def test_one_shot_refuses_what_is_no_sparsity():
    with pytest.raises(NnoptError) as error:
        schedules.one_shot(90)
    assert str(error.value) == "final must be at least 0 and below 1; received 90. For 90 %, pass 0.9."
