"""Honest submissions of many kinds and odd notebooks get what a fair reader gives, and the book says so."""

from __future__ import annotations

import json
import os
import shutil

import pytest

from nnopt_lib.course.labs.report import report
from tests.course.labs import graded_kinds
from tests.labs_class import at_home

pytestmark = [pytest.mark.notebook, pytest.mark.usefixtures("private_temporary_folder")]
PUBLISHED = json.loads(graded_kinds.FILE.read_text(encoding="utf-8"))
# All of them with NNOPT_EXAMPLES=all, as in the weekly run.
KINDS = [kind for kind in graded_kinds.KINDS if kind.often or os.environ.get("NNOPT_EXAMPLES") == "all"]
PAGES = ("pictures", "colab", "null", "huge-outputs", "other-lab", "loop")


@pytest.fixture(scope="module")
def graded(released, tmp_path_factory, private_temporary_folder):
    """All kinds, graded as one class; and the class."""
    folder = tmp_path_factory.mktemp("kinds") / "course"
    shutil.copytree(released.folder, folder)
    course = type(released)(folder)
    with at_home(released.folder.parent):
        return {**graded_kinds.grade_kinds(course, KINDS), "": course}


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.id)
def test_a_kind_gets_what_a_fair_reader_gives(graded, kind):
    record = graded[kind.id]["record"]
    assert graded[kind.id]["points"] == kind.expected, record
    assert kind.told in json.dumps(record)
    if sum(kind.expected) == 5 and not kind.told:
        assert (record["failure"], record["left_out"], record["notes"]) == ("", [], {})


def test_who_lost_points_is_told_why(graded):
    """By a note for each test, or by what is wrong with the whole notebook."""
    for kind in KINDS:
        record = graded[kind.id]["record"]
        lost = [
            name
            for name, most, points in zip(
                graded_kinds.EXERCISES, (1, 2, 2), graded[kind.id]["points"], strict=True
            )
            if points < most
        ]
        assert record["failure"] or set(record["notes"]) >= set(lost), kind.id


def test_honest_students_are_not_suspected(graded):
    flagged = {kind.id: graded[kind.id]["record"]["flags"] for kind in graded_kinds.HONEST if kind in KINDS}
    # Two remarks on how they did it, and no suspicion.
    assert {name for name, flags in flagged.items() if flags} == {"computed", "in-place"}
    assert {kind.id for kind in KINDS if graded[kind.id]["record"]["name"] != "own"} == {"nickname"}


def test_the_report_and_every_page_come_about_whatever_is_in_the_notebooks(graded, tmp_path, monkeypatch):
    course = type(graded[""])(tmp_path / "course")
    shutil.copytree(graded[""].folder, course.folder)
    for kind in KINDS:
        if kind.id not in PAGES:
            for step in ("submitted", "autograded"):
                shutil.rmtree(course.folder / step / kind.id, ignore_errors=True)
    text = report(course, "tiny")
    assert [name for name in PAGES if f"\n{name} " not in text] == []
    for name in PAGES:
        page = course.notebook("feedback", "tiny", name).with_suffix(".html").read_text()
        assert ("(picture " in page) == (name == "pictures"), name


def test_the_books_table_is_of_these_kinds_and_points():
    assert [graded_kinds.row(kind, kind.expected) for kind in graded_kinds.KINDS] == [
        {**row, "expected": tuple(row["expected"]), "given": tuple(row["given"])} for row in PUBLISHED
    ]


def test_there_are_as_many_kinds_as_the_book_says_and_each_once():
    names = [kind.id for kind in graded_kinds.KINDS]
    assert len(set(names)) == len(names)
    assert len(graded_kinds.HONEST) >= 25
    assert len(graded_kinds.ODD) >= 31
