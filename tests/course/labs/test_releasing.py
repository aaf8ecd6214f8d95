"""A lab released again after submissions exist: cells are added, points stay, and what is refused changes nothing."""

from __future__ import annotations

import json

import pytest

from nnopt_lib.checks import NnoptError
from nnopt_lib.course.labs.gradebook import Course
from nnopt_lib.course.labs.releasing import release_source
from tests.course.labs.test_grade import hashes


def changed_source(course: Course, change) -> str:
    """The lab's source with its cells changed by `change`."""
    notebook = json.loads(course.notebook("source", "tiny").read_text())
    notebook["cells"] = change(notebook["cells"])
    return json.dumps(notebook)


def named(cell: dict) -> str | None:
    return cell["metadata"].get("nbgrader", {}).get("grade_id")


def with_new_cells(cells: list[dict]) -> list[dict]:
    """A new exercise after `mask-test`: a solution cell and its test, worth 1 point."""
    position = [named(cell) for cell in cells].index("mask-test") + 1
    marks = {"locked": False, "schema_version": 3, "task": False}
    answer = {"grade": False, "grade_id": "new", "solution": True, **marks}
    test = {**answer, "grade": True, "grade_id": "new-test", "solution": False, "locked": True, "points": 1}
    new = [
        {
            "cell_type": "code",
            "execution_count": None,
            "outputs": [],
            "metadata": {"nbgrader": one},
            "id": name,
        }
        for one, name in ((answer, "new"), (test, "new-test"))
    ]
    new[0]["source"] = "### BEGIN SOLUTION\nsix = 6\n### END SOLUTION"
    new[1]["source"] = "assert six == 6"
    return [*cells[:position], *new, *cells[position:]]


@pytest.fixture
def graded(course):
    """The class with points of two students, one by hand, without running anything."""
    with course.open_gradebook() as gradebook:
        for student in ("ada", "bob"):
            gradebook.add_student(student)
            gradebook.add_submission("tiny", student)
            gradebook.find_grade("mask-test", "tiny", "tiny", student).auto_score = 2
        gradebook.find_grade("mask-test", "tiny", "tiny", "bob").manual_score = 1.5
        gradebook.find_comment("words", "tiny", "tiny", "bob").manual_comment = "well said"
        gradebook.db.commit()
    return course


def state(course: Course) -> dict[str, bytes]:
    files = hashes(*(course.folder / name for name in ("source", "release")))
    return {**files, "gradebook": course.gradebook.read_bytes()}


def test_new_cells_come_into_the_gradebook_and_no_points_are_lost(graded):
    release_source(graded, "tiny", changed_source(graded, with_new_cells))
    assert graded.most_points("tiny") == {
        **{"student-test": 1, "mask-test": 2, "new-test": 1, "numbers-test": 2, "words": 0}
    }
    assert list(graded.most_points("tiny"))[1:3] == ["mask-test", "new-test"]  # in the source's order
    assert graded.points("tiny")["ada"]["mask-test"] == 2
    assert graded.points("tiny")["bob"] == {
        **{"student-test": 0, "mask-test": 1.5, "new-test": 0, "numbers-test": 0, "words": 0}
    }
    with graded.open_gradebook() as gradebook:
        assert gradebook.find_comment("words", "tiny", "tiny", "bob").comment == "well said"
        assert gradebook.find_comment("new", "tiny", "tiny", "bob").comment is None
        assert not gradebook.find_grade("new-test", "tiny", "tiny", "bob").needs_manual_grade
        assert gradebook.find_source_cell("new-test", "tiny", "tiny").checksum
    released = json.loads(graded.notebook("release", "tiny").read_text())
    assert "new-test" in map(named, released["cells"])
    assert "six = 6" not in json.dumps(released)
    assert not list(graded.folder.glob(".release-*"))


def test_a_cell_with_points_cannot_be_taken_away_and_nothing_is_changed(graded):
    before = state(graded)
    text = changed_source(graded, lambda cells: [one for one in cells if named(one) != "mask-test"])
    with pytest.raises(NnoptError) as refused:
        release_source(graded, "tiny", text)
    assert str(refused.value) == (
        "lab tiny was handed in, so points and comments of mask-test would be lost with the cell; nothing was "
        "changed. Keep it, with 0 points if it is not to count, or release the lab under another name."
    )
    assert state(graded) == before


def test_without_submissions_any_cell_may_go(course):
    text = changed_source(course, lambda cells: [one for one in cells if named(one) != "mask-test"])
    release_source(course, "tiny", text)
    assert "mask-test" not in course.most_points("tiny")


def test_what_nbgrader_refuses_leaves_source_copy_and_gradebook_as_they_were(graded):
    before = state(graded)

    def without_end(cells):
        for cell in with_new_cells(cells):
            cell["source"] = "".join(cell["source"]).replace("### END SOLUTION", "")
            yield cell

    with pytest.raises(NnoptError, match="^lab tiny could not be released: RuntimeError: no end solution"):
        release_source(graded, "tiny", changed_source(graded, lambda cells: list(without_end(cells))))
    assert state(graded) == before
    assert not list(graded.folder.glob(".release-*"))


def test_points_that_another_program_writes_meanwhile_are_not_overwritten(graded, monkeypatch):
    from nnopt_lib.course.labs import releasing

    give_cells = releasing._give_cells

    def meanwhile(*arguments):
        give_cells(*arguments)
        with graded.open_gradebook() as gradebook:
            gradebook.find_grade("mask-test", "tiny", "tiny", "ada").manual_score = 0.5
            gradebook.db.commit()

    monkeypatch.setattr(releasing, "_give_cells", meanwhile)
    with pytest.raises(NnoptError, match="was written meanwhile by another program"):
        release_source(graded, "tiny", changed_source(graded, with_new_cells))
    assert graded.points("tiny")["ada"]["mask-test"] == 0.5


def test_what_a_killed_release_left_is_taken_away(course):
    (course.folder / ".release-killed").mkdir()
    release_source(course, "tiny", course.notebook("source", "tiny").read_text())
    assert not list(course.folder.glob(".release-*"))


def test_files_beside_the_notebook_are_given_out_and_an_unchanged_source_keeps_its_date(course):
    source = course.notebook("source", "tiny")
    (source.parent / "data.csv").write_text("1,2\n")
    before = source.stat().st_mtime_ns
    release_source(course, "tiny", source.read_text())
    assert source.stat().st_mtime_ns == before
    assert (course.notebook("release", "tiny").parent / "data.csv").read_text() == "1,2\n"
