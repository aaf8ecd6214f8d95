"""Chapters found by name, read from MyST, and their parameters converted."""

from __future__ import annotations

import nbformat
import pytest

from nnopt_lib.checks import NnoptError
from nnopt_lib.course.chapters.source import (
    convert_parameters,
    default_parameters,
    find_chapters,
    read_source,
)
from tests.tiny_course import edit

pytestmark = pytest.mark.usefixtures("project")


def test_chapters_are_found_by_number_word_or_name_in_their_order():
    first, second = find_chapters()
    assert (first.number, first.name, first.title) == ("01", "01-first", "Does it work?")
    for names in (["2"], ["02"], ["second"], ["02-second"], ["02", "2"]):
        assert find_chapters(names) == [second]
    assert find_chapters(["2", "1"]) == [first, second]


def test_an_unknown_chapter_is_one_sentence(project):
    with pytest.raises(NnoptError) as refusal:
        find_chapters(["7"])
    assert str(refusal.value) == "there is no chapter '7'. Choose from 01-first, 02-second."
    with pytest.raises(NnoptError) as refusal:
        find_chapters(["02-secnd"])
    assert str(refusal.value) == "there is no chapter '02-secnd'. Did you mean '02-second'?"
    for path in (project / "chapters").glob("*.md"):
        path.unlink()
    with pytest.raises(NnoptError) as refusal:
        find_chapters()
    assert str(refusal.value) == (
        f"{project / 'chapters'} must hold chapters called NN-name.md. Run nnopt inside the course's checkout."
    )


def test_a_source_that_is_no_myst_notebook_is_one_sentence(project):
    edit(project / "chapters" / "01-first.md", "  display_name: Python 3\n", "")
    (chapter,) = find_chapters(["1"])
    with pytest.raises(NnoptError) as refusal:
        read_source(chapter)
    assert str(refusal.value) == (
        f"{chapter.source} must be a MyST notebook; received \"'display_name' is a required property\"."
    )


def test_cell_ids_depend_on_the_text_only():
    one, again = (read_source(find_chapters(["1"])[0]) for _ in range(2))
    assert [cell.id for cell in one.cells] == [cell.id for cell in again.cells]
    assert len({cell.id for cell in one.cells}) == len(one.cells)
    nbformat.validate(one)


def test_parameters_are_converted_to_the_type_of_their_literal():
    (chapter,) = find_chapters(["1"])
    defaults = default_parameters(chapter, read_source(chapter))
    assert defaults == {"profile": "published", "recompute": False, "device": "auto"}
    for text, value in (("true", True), ("True", True), ("false", False)):
        assert convert_parameters(chapter, defaults, {"recompute": text})["recompute"] is value
    others = {"count": 3, "rate": 0.5, "name": "x", "widths": [1]}
    given = {"count": "4", "rate": "2", "name": "5", "widths": "[2, 3]"}
    assert convert_parameters(chapter, others, given) == {
        "count": 4,
        "rate": 2.0,
        "name": "5",
        "widths": [2, 3],
    }


def test_parameters_that_are_not_literals_are_refused(project):
    edit(project / "chapters" / "01-first.md", 'device = "auto"', "device = max(1, 2)")
    (chapter,) = find_chapters(["1"])
    with pytest.raises(NnoptError) as refusal:
        default_parameters(chapter, read_source(chapter))
    assert str(refusal.value).startswith(
        "chapter 01-first must have one cell tagged parameters that only assigns literals; received 'profile ="
    )
