"""Numbers are marked one by one, words whatever their spelling; each loss has its sentence."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given as with_cases
from hypothesis import strategies as st

from nnopt_lib.checks import NnoptError
from nnopt_lib.course.labs.marking import Points, carried, given, mark, same_words, verdict

RIGHT = {"share": (0.5, 1e-3), "gain": (36.28, 0.6), "macs": (1184, 0), "better": "yes"}
TYPED = {"share": 0.5, "gain": 36.3, "macs": 1184, "better": "Yes"}


def test_right_answers_get_all_points_and_each_wrong_one_costs_its_share(capsys):
    assert mark(TYPED, RIGHT, points=4) == 4
    assert capsys.readouterr().out == ""
    for name in RIGHT:
        assert mark({**TYPED, name: "nothing"}, RIGHT, points=4) == 3, name
        assert mark({key: value for key, value in TYPED.items() if key != name}, RIGHT, points=4) == 3
    assert mark({}, RIGHT, points=4) == mark(None, RIGHT, points=4) == mark([1], RIGHT, points=4) == 0


HALF = [("share", 50, "share: 50 is 100 times what was asked, as percent for a fraction (0.5 of 4 points lost)"),
        ("gain", 0.3628, "gain: 0.3628 is a hundredth of what was asked, as a fraction for percent (0.5 of 4 points lost)")]  # fmt: skip


@pytest.mark.parametrize(("name", "received", "sentence"), HALF)
def test_percent_for_a_fraction_is_half_an_error_with_a_name(name, received, sentence, capsys):
    points = mark({**TYPED, name: received}, RIGHT, points=4)
    assert (points, points.losses) == (3.5, (sentence,))
    assert capsys.readouterr().out == sentence + "\n"


@pytest.mark.parametrize(
    "received", [np.float64(0.5), np.float32(0.5), "0.5", "0,5", " 0.5 ", np.int64(1) / 2, "0.5 %"]
)
def test_a_number_is_a_number_however_it_is_typed(received):
    assert mark({"share": received}, {"share": (0.5, 1e-6)}, points=1) == 1


@pytest.mark.parametrize("received", [float("nan"), float("inf"), True, [0.5], 10**400, "half", ..., None])
def test_what_is_no_finite_number_earns_nothing(received):
    assert mark({"share": received}, {"share": (1.0, 10.0)}, points=1) == 0


@with_cases(st.floats(-1e6, 1e6), st.floats(0, 10), st.floats(-1e8, 1e8, allow_nan=False), st.integers(1, 20))
def test_points_lie_between_none_and_all_and_the_right_number_has_all(value, tolerance, received, points):
    assert mark({"a": value}, {"a": (value, tolerance)}, points=points) == points
    earned = mark({"a": received}, {"a": (value, tolerance)}, points=points)
    assert earned in (0, points / 2, points)
    assert (earned == points) == (abs(received - value) <= tolerance)


def test_a_wide_tolerance_does_not_make_any_number_half_right():
    assert mark({"gain": 70}, {"gain": (1.3, 0.6)}, points=1) == 0
    assert mark({"gain": 60}, {"gain": (0.5, 0.6)}, points=1) == 0


def test_several_words_may_be_right():
    for word in ("yes", "cannot tell"):
        assert mark({"a": word.upper()}, {"a": ("yes", "cannot tell")}, points=1) == 1
    assert mark({"a": "no"}, {"a": ("yes", "cannot tell")}, points=1) == 0


def test_points_are_shown_as_nbgrader_reads_them():
    assert repr(Points(2.5)) == "2.5" and repr(Points(4)) == "4"


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [("Yes", "yes", True), ("yes.", "yes", True), ("can't tell", "cannot tell", True), (True, "yes", True),
     ("Can not  tell!", "cannot tell", True), ("can’t tell", "cannot tell", True), ("no", "yes", False),
     ("that neighbors belong together.", "that neighbors belong together", True), ("", "no", False)],
)  # fmt: skip
def test_words_count_whatever_their_spelling(one, other, same):
    assert same_words(one, other) is same is same_words(other, one)


def test_an_interval_says_yes_no_or_neither():
    assert [verdict(1, 2), verdict(-2, -1), verdict(-1, 1), verdict(0, 1)] == [
        "yes",
        "no",
        *["cannot tell"] * 2,
    ]


def test_what_is_given_and_what_is_missing_is_printed(capsys):
    given({"norm": 1.0, "macs": ..., "x": 2}, "norm", "macs", "gain")
    assert capsys.readouterr().out == "given: norm; missing: macs, gain\nnot asked for: x\n"
    with pytest.raises(AssertionError, match="^none of norm, macs is given yet$"):
        given({"norm": ...}, "norm", "macs")
    with pytest.raises(AssertionError, match="^give a dictionary, {name: value}, not a list$"):
        given([1], "norm")


def test_nothing_to_mark_is_refused():
    with pytest.raises(NnoptError, match="mark needs at least one expected answer and points above 0"):
        mark({}, {}, points=1)


def test_of_several_right_answers_one_is_enough(capsys):
    expected = {"part": [(0.25, 1e-6), (0.5, 1e-6)], "better": ["no", ("yes", "of course")]}
    for part, better in ((0.25, "no"), (0.5, "Of course"), (0.25, "yes")):
        assert mark({"part": part, "better": better}, expected, points=2) == 2
    assert mark({"part": 0.3, "better": "cannot tell"}, expected, points=2) == 0
    assert mark({"part": 25, "better": "no"}, expected, points=2) == 1.5  # percent for a fraction
    assert "part: 0.3 is not right" in capsys.readouterr().out


@pytest.mark.parametrize("typed", [None, [], {}, {"low": "?"}, {"low": ...}, {"low": float("nan")}])
def test_a_number_that_was_not_given_is_carried_from_the_right_ones(typed):
    assert carried(typed, {"low": -1, "high": 2}, "high", "low") == (2.0, -1.0)


def test_a_number_that_was_given_is_carried_although_it_is_wrong():
    assert carried({"low": "7 %", "high": np.float32(0.5)}, {"low": 1, "high": 2}, "low", "high") == (
        7.0,
        0.5,
    )
