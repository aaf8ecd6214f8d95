"""Students' pages: hidden tests stay hidden, the network is asked for nothing, one bad notebook stops nobody."""

from __future__ import annotations

import errno
import json

import nbformat
import pytest
from nbformat.v4 import new_output
from nbgrader.converters import GenerateFeedback

from nnopt_lib.checks import NnoptError
from nnopt_lib.course.labs.feedback import HideTests, without_requests, write_pages, write_plain_page
from nnopt_lib.course.labs.report import report
from tests.course.labs import by_hand

pytestmark = pytest.mark.usefixtures("silent")
SECRET = ("linspace", "somebody else")  # of the hidden tests alone


@pytest.fixture
def silent(monkeypatch):
    monkeypatch.setenv("NNOPT_PROGRESS", "0")


def page(course, student: str) -> str:
    return course.notebook("feedback", "tiny", student).with_suffix(".html").read_text()


def fail(course, student: str, name: str, said: str) -> None:
    """Let a test in the graded notebook have failed, with a trace as IPython prints it."""
    path = course.notebook("autograded", "tiny", student)
    notebook = nbformat.read(path, as_version=4)
    (cell,) = [one for one in notebook.cells if one.metadata.get("nbgrader", {}).get("grade_id") == name]
    trace = [f"----> 7 assert abs(numbers) < 1, 'of somebody else'\n{said}"]
    cell.outputs = [new_output("error", ename="AssertionError", evalue=said, traceback=trace)]
    nbformat.write(notebook, path)


def test_hidden_tests_are_cut_and_their_messages_kept(course):
    by_hand.put(course, "ada")
    fail(course, "ada", "numbers-test", "the median is of other weights")
    assert write_pages(course, "tiny") == {}
    text = page(course, "ada")
    assert "the median is of other weights" in text
    assert not any(secret in text for secret in SECRET)
    assert text.count("# hidden tests ran here") == 3
    assert "(Score: 5.0 / 5.0)" in text
    write_pages(course, "tiny", "shown")
    assert all(secret in page(course, "ada") for secret in SECRET)


def test_nbgraders_own_command_hides_them_too(course):
    by_hand.put(course, "ada")
    assert course.api().generate_feedback("tiny")["success"]
    assert not any(secret in page(course, "ada") for secret in SECRET)


def test_delimiters_that_a_student_wrote_stay_and_stop_nothing():
    cell = nbformat.v4.new_code_cell("### BEGIN HIDDEN TESTS\nmine = 1")
    cell.metadata["nbgrader"] = {"grade_id": "mask", "grade": False, "solution": True, "locked": False}
    notebook = nbformat.v4.new_notebook(cells=[cell, nbformat.v4.new_code_cell("### END HIDDEN TESTS")])
    kept = HideTests().preprocess(notebook, {})[0]
    assert [one.source for one in kept.cells] == ["### BEGIN HIDDEN TESTS\nmine = 1", "### END HIDDEN TESTS"]


def test_a_lost_attachment_stops_nobody_elses_page(course):
    for student in ("ada", "bob", "cem"):
        by_hand.put(course, student, notes={"mask-test": "two masks differ"} if student == "bob" else {})
    path = course.notebook("autograded", "tiny", "bob")
    notebook = json.loads(path.read_text())
    for cell in notebook["cells"]:
        cell.pop("attachments", None)
    path.write_text(json.dumps(notebook))
    text = report(course, "tiny")
    assert "since none could be made of their notebook:\n  bob: missing attachment: expected-1.png\n" in text
    for student in ("ada", "cem"):
        assert "(Score: 5.0 / 5.0)" in page(course, student)
    assert "<h1>tiny: 5 of 5 points</h1>" in page(course, "bob")
    assert "<td>mask</td><td>2</td><td>of 2</td><td>two masks differ</td>" in page(course, "bob")


def test_a_full_disk_is_no_students_fault(course, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    by_hand.put(course, "ada")
    monkeypatch.setattr(GenerateFeedback, "convert_single_notebook", full)
    with pytest.raises(NnoptError, match="^feedback on tiny could not be written: "):
        write_pages(course, "tiny")


def test_a_plain_page_shows_what_students_wrote_as_text(course):
    write_plain_page(course, "tiny", "ada", "tiny <1>", ["<script>alert(1)</script>"], [["a&b"]])
    text = page(course, "ada")
    assert "<h1>tiny &lt;1&gt;</h1>\n<p>&lt;script&gt;alert(1)&lt;/script&gt;</p>" in text
    assert "<td>a&amp;b</td>" in text


def test_another_choice_than_hidden_or_shown_is_one_sentence(course):
    by_hand.put(course, "ada")
    with pytest.raises(
        NnoptError, match="^--tests must be one of hidden, shown; received 'show'. Did you mean"
    ):
        report(course, "tiny", "show")


def test_a_page_asks_the_network_for_nothing(course):
    made = (
        '<link rel="stylesheet" href="//cdn/x.css"><script src="https://cdn/x.js"></script>'
        "<script>here</script><p>kept</p>"
    )
    assert without_requests(made) == "<script>here</script><p>kept</p>"
    by_hand.put(course, "ada")
    write_pages(course, "tiny")
    assert not any(request in page(course, "ada") for request in ("//cdn", 'src="http'))
