"""Proof that a test in a student's kernel passed: how it is put into a cell, and that a control fails."""

from __future__ import annotations

import contextlib
import io

import pytest
from nbformat.v4 import new_output

from nnopt_lib.course.labs import inside


def printed_by(source: str) -> list[str]:
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        with contextlib.suppress(AssertionError):
            exec(source, {})
    return printed.getvalue().splitlines()


@pytest.mark.parametrize(
    "source", ["assert 1 == 1", "x = 1\nassert x", "assert True\n1 + 1", "def f(): pass"]
)
def test_the_proof_is_printed_once_by_a_test_that_runs_to_its_end(source):
    assert printed_by(inside._with_proof(source, "token")) == ["token"]


@pytest.mark.parametrize("source", ["assert 1 == 2", "x = 0\nassert x", "assert False\n1 + 1"])
def test_a_test_that_fails_proves_nothing(source):
    assert printed_by(inside._with_proof(source, "token")) == []


def test_the_last_value_stays_the_last_statement_since_nbgrader_reads_points_from_it():
    assert inside._with_proof("x = 1\nx", "t").splitlines()[-1] == "x"
    assert inside._with_proof("x = (", "t").splitlines()[0] == "x = ("  # the kernel is to say what is wrong


def test_the_proof_is_taken_out_of_the_outputs_and_what_else_was_printed_stays():
    outputs = [new_output("stream", text="before\nt0ken\n"), new_output("stream", text="t0ken\n")]
    (left,) = inside._without(outputs, "t0ken")
    assert left.text == "before\n"


@pytest.mark.parametrize("false_statement", ["{a} == {b}", "abs({a} - {b}) < 1", "all([False])", "any([])"])
def test_the_control_fails_with_its_token_unless_python_was_changed(false_statement):
    source = inside.CONTROL.format(a=3, b=7, token="t0ken")
    assert false_statement.format(a=3, b=7) in source
    with pytest.raises(AssertionError, match="t0ken"):
        exec(source, {})
