"""Chapters found by name, read from MyST, and their parameters converted."""

from __future__ import annotations

import nbformat
import pytest

from nnopt_lib.checks import NnoptError
from nnopt_lib.course.chapters.prepare import prepare
from nnopt_lib.course.chapters.source import (
    convert_parameters,
    default_parameters,
    find_chapters,
    read_source,
)
from tests.tiny_course import edit

pytestmark = pytest.mark.usefixtures("project")


def test_chapters_are_asked_for_by_number_word_or_name_and_come_in_their_order():
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


@pytest.mark.parametrize(
    "line",
    [
        "device = max(1, 2)",
        "device = 'a' + 'b'",
        "device = f'a{recompute}'",
        "device = recompute",
        "device = not True",
        "device = -True",
        "device = 1 + 2j",
        "device = b'auto'",
        "device = ...",
        "device = 'auto', 'cpu'",
        "device = ()",
        "device = {1, 2}",
        "device = ['auto', (1, 2)]",
        "device = [*'ab']",
        "device = [n for n in 'ab']",
        "device = {'a': (1, 2)}",
        "device = {1: 'a'}",
        "device = {**{}}",
        "device = {[1]: 2}",
        "device, count = 'auto', 1",
        "(device) = other = 'auto'",
        "[device] = ['auto']",
        "device.name = 'auto'",
        "device['name'] = 'auto'",
        "device: str = 'auto'",
        "count: int",
        "recompute += 1",
        "import os",
        "from os import path",
        "print('auto')",
        "'auto'",
        "pass",
        "if True: device = 'auto'",
        "del recompute",
        "(device := 'auto')",
        "recompute = True",
        "device = 'auto'; device = 'cpu'",
        "%matplotlib inline",
        "device =",
    ],
)
def test_a_parameters_cell_that_does_more_than_assign_literals_is_refused(project, line):
    edit(project / "chapters" / "01-first.md", 'device = "auto"', line)
    (chapter,) = find_chapters(["1"])
    with pytest.raises(NnoptError) as refusal:
        default_parameters(chapter, read_source(chapter))
    code = f'profile = "published"\nrecompute = False\n{line}'
    assert str(refusal.value) == (
        f"chapter 01-first must have one cell tagged parameters that only assigns literals; received {code!r}."
    )


def test_literals_of_every_kind_comments_and_blank_lines_are_parameters(project):
    lines = ["", "# which one", 'device = "auto"  # or another', "none = None", "rate = -0.5; count = 1", ""]
    lines += ["widths = [1, [2.5, -3], True]", 'names = {"a": [1, None], "b": {}}', 'text = ("a"', '  "b")']
    edit(project / "chapters" / "01-first.md", 'device = "auto"', "\n".join(lines))
    (chapter,) = find_chapters(["1"])
    assert default_parameters(chapter, read_source(chapter)) == {
        "profile": "published",
        "recompute": False,
        "device": "auto",
        "none": None,
        "rate": -0.5,
        "count": 1,
        "widths": [1, [2.5, -3], True],
        "names": {"a": [1, None], "b": {}},
        "text": "ab",
    }


def test_a_device_that_no_framework_knows_is_refused(project):
    (chapter,) = find_chapters(["1"])
    for device in ("auto", "cpu", "cuda", "mps"):
        assert prepare(chapter, "quick", {"device": device}).parameters["device"] == device
    with pytest.raises(NnoptError) as refusal:
        prepare(chapter, "quick", {"device": "xyz"})
    assert str(refusal.value) == "device must be one of auto, cpu, cuda, mps; received 'xyz'."
    with pytest.raises(NnoptError) as refusal:
        prepare(chapter, "quick", {"device": "cuda:0"})
    assert str(refusal.value) == (
        "device must be one of auto, cpu, cuda, mps; received 'cuda:0'. Did you mean 'cuda'?"
    )


@pytest.mark.parametrize("text", ["[1, (2, 3)]", "[{1}]", "[b'a']", "(1, 2)", "[1"])
def test_what_is_typed_is_a_literal_of_the_same_kinds(text):
    (chapter,) = find_chapters(["1"])
    with pytest.raises(NnoptError) as refusal:
        convert_parameters(chapter, {"widths": [1]}, {"widths": text})
    assert str(refusal.value) == (
        f"parameter widths of 01-first must be of type list, like [1]; received {text!r}."
    )
