"""A teacher's own lab: started from a small one that works, found and released like the course's."""

from __future__ import annotations

import ast
import base64
import json

import nbformat
import pytest
from nbgrader.nbgraderformat import MetadataValidator

from nnopt_lib import labs
from nnopt_lib.checks import NnoptError
from nnopt_lib.course.chapters.source import Chapter, read_source
from nnopt_lib.course.labs import sources as lab_sources
from nnopt_lib.course.labs.course_key import choose_key, with_key
from nnopt_lib.course.labs.flags import cells_of, found
from nnopt_lib.course.labs.grade import grade, read_record
from nnopt_lib.course.labs.gradebook import make_course
from nnopt_lib.course.labs.private import new_lab, private_labs
from nnopt_lib.course.labs.report import report
from nnopt_lib.course.labs.sandbox.sandbox import Limits
from nnopt_lib.course.labs.sources import find_labs, release
from nnopt_lib.course.labs.submissions import name_of
from tests import labs_class

DRAWN = base64.b64encode(b"\x89PNG not a real picture").decode()
LADDER = ["Your name", "Predict", "Implement", "Apply", "Measure", "Explain"]


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project with the tiny lab, and beside it a class's folder to come."""
    (tmp_path / "chapters" / "labs").mkdir(parents=True)
    (tmp_path / "chapters" / "labs" / "tiny.md").write_text(labs_class.SOURCE.read_text())
    monkeypatch.setenv("NNOPT_HOME", str(tmp_path))
    return tmp_path


def own_lab(project):
    path = new_lab("my-lab", project / "class")
    return path, read_source(Chapter("my-lab", path))


def value_of(cell: str, names: dict):
    """Run a cell; the value of its last expression, as a notebook shows it."""
    body = ast.parse(cell).body
    last = body.pop() if isinstance(body[-1], ast.Expr) else None
    exec(compile(ast.Module(body, []), "<cell>", "exec"), names)
    return eval(compile(ast.Expression(last.value), "<cell>", "eval"), names) if last else None


def points(notebook, student: str, monkeypatch, instead=None) -> tuple[float, dict]:
    """What the tests of a lab give to its solution, some cells replaced, and all names at the end."""
    monkeypatch.setenv("NNOPT_STUDENT", student)
    earned, base, names = 0.0, {}, {}
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    for cell in code:
        if not str(name_of(cell)).endswith("-test"):
            value_of(cell.source, base)
    names["solution"] = base
    for cell in code:
        source = (instead or {}).get(name_of(cell), cell.source)
        most = cell.metadata.get("nbgrader", {}).get("points", 0)
        try:
            value = value_of(source, names)
        except (AssertionError, NotImplementedError, NameError):
            continue
        earned += value if isinstance(value, float) else most
    return earned, names


def test_the_template_is_a_lab_of_the_courses_form(project):
    path, notebook = own_lab(project)
    MetadataValidator().validate_nb(notebook)
    text = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    assert [line[3:] for line in text.splitlines() if line.startswith("## ")] == LADDER
    marks = [cell.metadata["nbgrader"] for cell in notebook.cells if "nbgrader" in cell.metadata]
    assert sum(mark.get("points", 0) for mark in marks) == 12 and marks[-1]["points"] == 2
    code = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "code")
    assert "labs.given(numbers" in code and "labs.mark(numbers" in code and "labs.choose(variant" in code
    assert (
        "<summary>Hint 2</summary>" in text
        and "For the reader:" in text
        and "LABNAME" not in path.read_text()
    )
    for pair in ("SOLUTION", "HIDDEN TESTS"):
        assert path.read_text().count(f"BEGIN {pair}") == path.read_text().count(f"END {pair}") > 0


def test_the_template_gives_its_solution_all_points_and_an_untouched_copy_none(project, monkeypatch):
    _, notebook = own_lab(project)
    measured = set()
    for student in ("ada", "Zoé O'Neil", "李雷"):
        earned, names = points(notebook, student, monkeypatch)
        assert earned == 10  # two more are given by a reader
        measured.add(json.dumps(names["numbers"]))
    assert len(measured) == 3
    cells = {name_of(cell): "raise NotImplementedError" for cell in notebook.cells if name_of(cell)}
    untouched = {name: stub for name, stub in cells.items() if not name.endswith("-test")}
    assert points(notebook, "ada", monkeypatch, untouched)[0] == 0


def test_a_wrong_number_costs_its_own_points_and_the_answer_counts_from_it(project, monkeypatch):
    _, notebook = own_lab(project)
    _, names = points(notebook, "ada", monkeypatch)
    right = names["numbers"]
    wrong = f"numbers = {{'median': {right['median']!r}, 'part': 0.9}}"
    yes = "answer = {'larger': 'Yes'}"
    assert points(notebook, "ada", monkeypatch, {"numbers": wrong, "explain": yes})[0] == 8.5
    percent = f"numbers = {{'median': {right['median']!r}, 'part': {100 * right['part']!r}}}"
    # percent for a fraction is half an error; what follows is told from the number as it was typed
    assert points(notebook, "ada", monkeypatch, {"numbers": percent, "explain": yes})[0] == 9.25


def test_another_key_gives_other_numbers(project, monkeypatch):
    _, notebook = own_lab(project)
    scales = set()
    for key in ("", "autumn", "spring", "winter", "summer", "a", "b"):
        earned, names = points(with_key("my-lab", notebook, key), "ada", monkeypatch)
        assert earned == 10 and names["seed"] == labs.seed_of("ada", key)
        scales.add(names["scale"])
    assert len(scales) > 1


def test_the_templates_own_solution_is_not_odd(project):
    _, notebook = own_lab(project)
    cells = cells_of(nbformat.writes(notebook).encode())
    student = {name: source for name, source in cells.items() if not name.endswith("-test")}
    assert found({**student, "student": "student = 'ada'"}, {}) == []


@pytest.mark.notebook
def test_a_lab_of_ones_own_is_found_released_and_drawn_once(project, monkeypatch):
    course = make_course(project / "class")
    new_lab("my-lab", course.folder)
    assert [lab.name for lab in find_labs()] == ["tiny"]
    assert [lab.name for lab in find_labs(course=course.folder)] == ["my-lab", "tiny"]
    (lab,) = find_labs(["my-lab"], course.folder)
    choose_key(course.folder, "autumn")
    text = release(lab, course).read_text()
    assert r"course_key = \"autumn\"" in text and "expected-1.png" in text
    for secret in ("np.abs(values) > threshold", "HIDDEN", "SOLUTION", "For the reader"):
        assert secret in lab.source.read_text() and secret not in text
    expected = {"student": 1, "predict": 1, "large": 3, "numbers": 3, "explain": 2}
    assert course.most_points("my-lab") == {f"{name}-test": most for name, most in expected.items()} | {
        "words": 2
    }
    monkeypatch.setattr(lab_sources, "draw_pictures", lambda lab, source: pytest.fail("drawn again"))
    assert release(lab, course).read_text() == text


def test_names_that_are_taken_or_no_names_are_refused_in_a_sentence(project):
    course = project / "class"
    new_lab("my-lab", course)
    for name, sentence in {
        "tiny": "a lab of your own must have another name than the course's labs; received 'tiny'. As my-tiny.",
        "my-lab": f"a new lab must not exist yet; received {course}/labs/my-lab.md. Edit it, or take another name.",
        "../tiny": "a lab's name must be a small letter, then at most 39 small letters, digits and the signs - _; "
        "received '../tiny'. As my-lab.",
    }.items():  # fmt: skip
        with pytest.raises(NnoptError) as refused:
            new_lab(name, course)
        assert str(refused.value) == sentence
    (course / "labs" / "my-tiny.md").touch()
    (course / "labs" / "tiny.md").touch()
    with pytest.raises(NnoptError) as refused:
        find_labs(course=course)
    assert str(refused.value) == (
        f"a lab of your own must have another name than the course's labs; received {course}/labs/tiny.md. "
        "Call it my-my-tiny.md."
    )
    assert private_labs(project / "no class yet") == {}


@pytest.mark.notebook
@pytest.mark.usefixtures("private_temporary_folder")
def test_a_lab_of_ones_own_is_graded_and_reported_like_the_courses(project, monkeypatch):
    monkeypatch.setattr(lab_sources, "draw_pictures", lambda lab, source: [DRAWN])
    course = make_course(project / "class")
    path = new_lab("my-lab", course.folder)
    choose_key(course.folder, "autumn")
    (lab,) = find_labs(["my-lab"], course.folder)
    released = json.loads(release(lab, course).read_text())
    keyed = with_key("my-lab", read_source(Chapter("my-lab", path)), "autumn")
    solved = {
        name_of(cell): cell.source
        for cell in keyed.cells
        if cell.metadata.get("nbgrader", {}).get("solution")
    }
    _, names = points(keyed, "ada", monkeypatch)
    typed = {
        "student": "student = 'ada'",
        "numbers": f"numbers = {names['numbers']!r}",
        "guess": "guess = 30",
    }
    typed["explain"] = f"answer = {names['answer']!r}"
    for student, cells in {"ada": {**solved, **typed}, "bob": {}}.items():
        notebook = json.loads(json.dumps(released))
        for cell in notebook["cells"]:
            cell["source"] = cells.get(name_of(cell), cell["source"])
        handed_in = course.notebook("submitted", "my-lab", student)
        handed_in.parent.mkdir(parents=True)
        handed_in.write_text(json.dumps(notebook))
    grade(course, "my-lab", Limits())
    earned = course.points("my-lab")
    assert {student: sum(given.values()) for student, given in earned.items()} == {"ada": 10, "bob": 0}
    record = read_record(course, "my-lab", "ada")
    assert (record["failure"], record["flags"], record["name"]) == ("", [], "own")
    assert "my-lab: 2 handed in" in report(course, "my-lab")
