"""What is believed of what a kernel sends, and who holds the gradebook meanwhile."""

from __future__ import annotations

import contextlib

from nbformat.v4 import new_output

from nnopt_lib.course.labs import execute


def test_outputs_that_the_format_does_not_have_are_dropped():
    good = new_output("stream", text="kept")
    assert execute._clean([good, {"output_type": "stream"}, {"output_type": "own", "text": ""}]) == [good]
    (clean,) = execute._clean([new_output("stream", text="half a letter: \ud800")])
    clean.text.encode()


class Lock:
    """Notes what is done to it."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def release(self) -> None:
        self.calls.append("release")

    def acquire(self) -> None:
        self.calls.append("acquire")


def test_the_gradebook_is_let_go_of_while_a_submission_runs_and_taken_back_whatever_happens():
    lock = Lock()
    with execute.gradebook_held(lock), contextlib.suppress(ValueError):
        with execute._gradebook_free():
            assert lock.calls == ["release"]
            raise ValueError
    assert lock.calls == ["release", "acquire"]
    with execute._gradebook_free():  # nbgrader's own command holds none
        pass
    assert lock.calls == ["release", "acquire"]


def test_a_name_that_no_system_can_hold_is_none_and_odd_ones_of_people_are_names():
    for name in ("ada", "O'Brien, Zoé", "李雷", "non\u00a0breaking", "x" * 500, "\u200bada", "ada\n"):
        assert execute._is_name(name), name
    # An environment cannot hold these, or no kernel would start, which would stop the whole class.
    for name in ("", " ", "a\0b", "\ud800", "a\udc80", "x" * 501):
        assert not execute._is_name(name), name
