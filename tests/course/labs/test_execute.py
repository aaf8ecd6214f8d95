"""Proof that a test passed: how it is put into a cell, and what is believed of what a kernel sends."""

from __future__ import annotations

import contextlib
import io

import pytest
from nbformat.v4 import new_code_cell, new_output

from nnopt_lib.course.labs import execute


def printed_by(source: str) -> list[str]:
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        with contextlib.suppress(AssertionError):
            exec(source, {})
    return printed.getvalue().splitlines()


@pytest.mark.parametrize(
    "source", ["assert 1 == 1", "x = 1\nassert x", "assert True\n1 + 1", "def f(): pass"]
)
def test_the_proof_is_printed_once_by_a_test_that_runs_to_its_end(source):
    assert printed_by(execute._with_proof(source, "token")) == ["token"]


@pytest.mark.parametrize("source", ["assert 1 == 2", "x = 0\nassert x", "assert False\n1 + 1"])
def test_a_test_that_fails_proves_nothing(source):
    assert printed_by(execute._with_proof(source, "token")) == []


def test_the_last_value_stays_the_last_statement_since_nbgrader_reads_points_from_it():
    assert execute._with_proof("x = 1\nx", "t").splitlines()[-1] == "x"
    assert execute._with_proof("x = (", "t").splitlines()[0] == "x = ("  # the kernel is to say what is wrong


def test_the_proof_is_taken_out_of_the_outputs_and_what_else_was_printed_stays():
    outputs = [new_output("stream", text="before\nt0ken\n"), new_output("stream", text="t0ken\n")]
    (left,) = execute._without(outputs, "t0ken")
    assert left.text == "before\n"


@pytest.mark.parametrize("false_statement", ["{a} == {b}", "abs({a} - {b}) < 1", "all([False])", "any([])"])
def test_the_control_fails_with_its_token_unless_python_was_changed(false_statement):
    source = execute.CONTROL.format(a=3, b=7, token="t0ken")
    assert false_statement.format(a=3, b=7) in source
    with pytest.raises(AssertionError, match="t0ken"):
        exec(source, {})


def test_outputs_that_the_format_does_not_have_are_dropped():
    good = new_output("stream", text="kept")
    assert execute._clean([good, {"output_type": "stream"}, {"output_type": "own", "text": ""}]) == [good]
    (clean,) = execute._clean([new_output("stream", text="half a letter: \ud800")])
    clean.text.encode()


def test_only_a_graded_cell_without_a_solution_is_a_test():
    marks = {
        "grade": True,
        "solution": False,
        "locked": True,
        "schema_version": 3,
        "grade_id": "a",
        "points": 1,
    }
    test = new_code_cell("assert True", metadata={"nbgrader": marks})
    assert execute._is_test(test)
    assert not execute._is_test(new_code_cell("x = 1", metadata={"nbgrader": {**marks, "solution": True}}))
    assert not execute._is_test(new_code_cell("x = 1"))


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
