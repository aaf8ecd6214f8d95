"""What late work costs: policies read and refused, days counted from the due date, due dates with their zone."""

from __future__ import annotations

import datetime

import pytest
from traitlets.config import Config

from nnopt_lib.checks import NnoptError
from nnopt_lib.course.labs.gradebook import CONFIGURATION, make_course
from nnopt_lib.course.labs.late import EXAMPLE, LateWork, Policy, read_due, read_policy, say_due

MINUTE, HOUR, DAY = 60, 3600, 86400


@pytest.mark.parametrize(
    "text, policy",
    [
        (EXAMPLE, Policy(15 * MINUTE, 0.1, DAY, 0.5)),
        ("At most 40%,  5 % per hour", Policy(0, 0.05, HOUR, 0.4)),
        ("100 % a day", Policy(0, 1, DAY, 1)),
        ("12.5 % each week, grace 2 days", Policy(2 * DAY, 0.125, 7 * DAY, 1)),
        ("", Policy()),
        ("None", Policy()),
    ],
)
def test_a_policy_is_read_in_any_order(text, policy):
    assert read_policy(text) == policy


@pytest.mark.parametrize(
    "text", ["10 %", "10 % a day, 5 % an hour", "grace 15 min", "10 a day", "110 % a day", "at most 50 %", 10]
)
def test_a_policy_that_cannot_be_read_is_one_sentence(text):
    with pytest.raises(NnoptError) as refused:
        read_policy(text)
    assert str(refused.value) == (
        "c.LateWork.policy must read as 'grace 15 min, 10 % a day, at most 50 %': what it costs, and if need be "
        f"a grace and a cap; received {text!r}. For no penalty, leave it empty."
    )


def test_days_count_from_the_due_date_and_the_grace_forgives_all_or_nothing():
    policy = read_policy(EXAMPLE)
    late = [0, 15 * MINUTE, 15 * MINUTE + 1, DAY, DAY + 1, 4 * DAY + 1, 40 * DAY]
    assert [policy.penalty(20, seconds) for seconds in late] == [0, 0, 2, 2, 4, 10, 10]
    assert policy.penalty(3.33, HOUR) == 0.33  # hundredths
    assert Policy().penalty(20, DAY) == 0


def test_nbgrader_asks_the_policy_of_its_configuration():
    config = Config({"LateWork": {"policy": EXAMPLE}})
    assert LateWork(config=config).late_submission_penalty("ada", 20.0, DAY + 1) == 4.0
    assert LateWork(config=config).late_submission_penalty("ada", 20.0, MINUTE) is None
    assert LateWork().late_submission_penalty("ada", 20.0, DAY) is None


def test_a_course_with_a_policy_that_cannot_be_read_is_refused_and_one_of_before_is_not(tmp_path):
    course = make_course(tmp_path / "course")
    path = course.folder / CONFIGURATION
    text = path.read_text()
    path.write_text(text.replace('policy = ""', 'policy = "10 a day"'))
    with pytest.raises(NnoptError, match="^c.LateWork.policy must read as"):
        course.api()
    path.write_text("\n".join(line for line in text.splitlines() if "Late" not in line))
    assert "LateWork" not in path.read_text()
    assert "plugin_class" not in course.api().config.AssignLatePenalties
    path.write_text(f"{path.read_text()}\nc.LateWork.policy = {EXAMPLE!r}\n")
    assert course.api().config.AssignLatePenalties.plugin_class == "nnopt_lib.course.labs.late.LateWork"


def test_a_due_date_has_a_time_zone():
    berlin = read_due("2027-03-01 23:59 Europe/Berlin")
    assert berlin.astimezone(datetime.UTC) == datetime.datetime(2027, 3, 1, 22, 59, tzinfo=datetime.UTC)
    assert say_due(berlin) == "2027-03-01 23:59 CET (2027-03-01 22:59 UTC)"
    assert say_due(read_due("2027-03-01T23:59+00:00")) == "2027-03-01 23:59 UTC"
    here = read_due("2027-03-01 23:59")
    assert here.tzinfo is not None
    assert here == datetime.datetime(2027, 3, 1, 23, 59).astimezone()
    assert read_due("none") is None


@pytest.mark.parametrize(
    "text",
    ["tomorrow", "2027-03-01", "2027-13-01 10:00", "2027-03-01 23:59 Berlin", "2027-03-01 23:59+01:00 UTC"],
)
def test_a_due_date_that_cannot_be_read_is_one_sentence(text):
    with pytest.raises(NnoptError) as refused:
        read_due(text)
    assert str(refused.value) == (
        "--due must be a day and a time, with a time zone unless it is this machine's; "
        f'received {text!r}. As --due "2027-03-01 23:59" or --due "2027-03-01 23:59 Europe/Berlin"; '
        "--due none for no date."
    )
