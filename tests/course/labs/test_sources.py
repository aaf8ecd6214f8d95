"""Labs' sources, the student copies made from them, and the folder of a class."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import nbformat
import pytest

from nnopt_lib.checks import NnoptError
from nnopt_lib.cli import main
from nnopt_lib.course.labs import sources as lab_sources
from nnopt_lib.course.labs.gradebook import make_course, open_course
from nnopt_lib.course.labs.sources import find_labs, lab_problems, release, save_copy
from tests import labs_class

PICTURE = base64.b64encode(b"\x89PNG not a real picture").decode()
ROOT = Path(__file__).parents[3]


@pytest.fixture
def lab(tmp_path, monkeypatch):
    """A project with the tiny lab; its pictures are not drawn, which takes a kernel."""
    folder = tmp_path / "chapters" / "labs"
    folder.mkdir(parents=True)
    (folder / "tiny.md").write_text(labs_class.SOURCE.read_text())
    monkeypatch.setenv("NNOPT_HOME", str(tmp_path))
    monkeypatch.setattr(lab_sources, "draw_pictures", lambda lab, source: [PICTURE])
    return find_labs()[0]


def test_the_student_copy_has_no_solution_no_hidden_test_and_the_expected_picture(lab):
    text = save_copy(lab).read_text()
    for secret in ("np.abs(values)", "BEGIN SOLUTION", "HIDDEN", "labs.mark", "os.environ"):
        assert secret in labs_class.SOURCE.read_text()
        assert secret not in text
    notebook = nbformat.reads(text, as_version=4)
    stubs = [cell for cell in notebook.cells if 'raise NotImplementedError("your code here")' in cell.source]
    assert [cell.metadata.nbgrader.grade_id for cell in stubs] == ["student", "mask", "numbers"]
    position = next(n for n, cell in enumerate(notebook.cells) if cell.get("attachments"))
    shown = notebook.cells[position]
    assert shown.attachments == {"expected-1.png": {"image/png": PICTURE}}
    assert shown.source == (
        "This is what it should look like:\n\n"
        "![Two rows of four cells, False, True, True, False, equal in every cell.](attachment:expected-1.png)"
    )
    assert notebook.cells[position + 1].source.startswith("labs.compare(")
    assert all(not cell.get("outputs") for cell in notebook.cells)


@pytest.mark.notebook
def test_the_picture_is_what_the_solution_draws(lab, monkeypatch):
    monkeypatch.undo()
    monkeypatch.setenv("NNOPT_HOME", str(lab.source.parents[2]))
    (picture,) = lab_sources.draw_pictures(lab, lab_sources.read_source(lab))
    assert base64.b64decode(picture).startswith(b"\x89PNG\r\n")


def test_a_copy_that_fits_has_no_problem_and_drift_is_noticed(lab):
    remedy = "nnopt labs release tiny --save makes it"
    assert lab_problems(lab) == [f"tiny.ipynb is missing; {remedy}"]
    save_copy(lab)
    assert lab_problems(lab) == []
    text = lab.source.read_text()
    lab.source.write_text(text.replace("A lab for the tests", "A lab for all tests"))
    assert lab_problems(lab) == [f"tiny.ipynb is not what its source gives; {remedy} anew"]
    lab.source.write_text(text.replace("np.abs(values) > threshold", "np.abs(values) >= threshold"))
    assert lab_problems(lab) == [f"the pictures of tiny.ipynb are of another source; {remedy} anew"]
    lab.source.write_text(text)
    copy = json.loads(lab.notebook.read_text())
    copy["cells"][0]["source"] = ["edited by hand"]
    lab.notebook.write_text(json.dumps(copy))
    assert lab_problems(lab) == [f"tiny.ipynb is not what its source gives; {remedy} anew"]


def test_releasing_uses_the_committed_pictures_while_they_fit(lab, tmp_path, monkeypatch):
    save_copy(lab)
    monkeypatch.setattr(lab_sources, "draw_pictures", lambda lab, source: pytest.fail("drawn again"))
    course = make_course(tmp_path / "course")
    path = release(lab, course)
    assert path == tmp_path / "course" / "release" / "tiny" / "tiny.ipynb"
    assert path.read_text() == lab.notebook.read_text()
    assert course.most_points("tiny") == {"student-test": 1, "mask-test": 2, "numbers-test": 2, "words": 0}
    assert release(lab, course) == path  # again, over what is there


def test_a_lab_without_alternative_text_or_with_broken_marks_is_refused(lab, tmp_path):
    text = lab.source.read_text()
    lab.source.write_text(
        text.replace("alt: Two rows of four cells, False, True, True, False, equal in every cell.", "alt: ''")
    )
    with pytest.raises(NnoptError) as refused:
        save_copy(lab)
    assert str(refused.value) == (
        "each cell tagged expected in lab tiny must have an alternative text; received none in "
        "'labs.compare(keep_large(np.array([0.1, -2.0, 3.0, 0.5]), 1.0), [False, True, True, False], title=\"Kept\")'. "
        "As alt: What it shows."
    )
    lab.source.write_text(text.replace("    ### END SOLUTION\n", "", 1))
    with pytest.raises(NnoptError, match="^lab tiny could not be released: RuntimeError: no end solution"):
        save_copy(lab)


def refusal(capsys, *words: str) -> str:
    assert main(["labs", *words]) == 1
    return capsys.readouterr().err


def test_unknown_labs_and_folders_that_are_no_course_are_one_sentence(lab, tmp_path, capsys):
    course, other = tmp_path / "course", tmp_path / "other"
    other.mkdir()
    (other / "thesis.txt").write_text("mine")
    assert refusal(capsys, "release", "tinny") == "nnopt: there is no lab 'tinny'. Did you mean 'tiny'?\n"
    assert refusal(capsys, "release", "--course", str(other)) == (
        "nnopt: --course must name a new or empty folder, or one with nbgrader_config.py in it; "
        f"received {other}, which holds other things. Name another one.\n"
    )
    assert refusal(capsys, "release", "--course", str(other / "thesis.txt")) == (
        f"nnopt: --course must name a folder; received {other}/thesis.txt, which is a file.\n"
    )
    for words in (["grade", "tiny"], ["collect", "tiny", str(other)], ["report", "tiny"]):
        assert refusal(capsys, *words, "--course", str(other)) == (
            "nnopt: --course must name a folder with nbgrader_config.py in it; "
            f"received {other}, which has none. nnopt labs release --course {other} makes one.\n"
        )
        assert refusal(capsys, *words, "--course", str(course)) == (
            "nnopt: --course must name a folder with nbgrader_config.py in it; "
            f"received {course}, which is no folder. nnopt labs release --course {course} makes one.\n"
        )
    assert [path.name for path in other.iterdir()] == ["thesis.txt"]


def test_a_configuration_that_fails_is_one_sentence(tmp_path):
    course = make_course(tmp_path / "course")
    (course.folder / "nbgrader_config.py").write_text("1 / 0")
    with pytest.raises(NnoptError) as refused:
        open_course(course.folder).api()
    assert str(refused.value) == (
        f"{course.folder}/nbgrader_config.py must be a configuration that nbgrader can read; "
        "received ZeroDivisionError: division by zero."
    )


def test_check_names_a_student_copy_that_has_drifted(lab, capsys, monkeypatch):
    from nnopt_lib.course.chapters import check as validation

    (lab.source.parents[1] / "01-first.md").write_text("# ?\n")
    monkeypatch.setattr(validation, "check_chapter", lambda chapter: [])
    assert (
        refusal_of_check(capsys)
        == "nnopt: tiny: tiny.ipynb is missing; nnopt labs release tiny --save makes it\n"
    )
    save_copy(lab)
    assert main(["check"]) == 0
    assert "tiny                     ok\n" in capsys.readouterr().out


def refusal_of_check(capsys) -> str:
    assert main(["check"]) == 1
    return capsys.readouterr().err


LABS = sorted(path.stem for path in (ROOT / "chapters" / "labs").glob("*.md"))


@pytest.mark.parametrize(
    "name", LABS or [pytest.param("", marks=pytest.mark.skip(reason="there are no labs yet"))]
)
def test_the_committed_student_copies_are_what_their_sources_give(name, monkeypatch):
    monkeypatch.setenv("NNOPT_HOME", str(ROOT))
    assert lab_problems(find_labs([name])[0]) == []


KEYED = '```{code-cell} ipython3\n---\ntags: [course-key]\n---\ncourse_key = ""\n```\n\n## Implement'


def test_the_key_of_a_class_goes_into_all_that_is_released_and_not_into_the_committed_copy(
    lab, tmp_path, capsys, monkeypatch
):
    lab.source.write_text(lab.source.read_text().replace("## Implement", KEYED))
    drawn = []
    monkeypatch.setattr(
        lab_sources, "draw_pictures", lambda lab, source: drawn.append(lab_sources._code(source)) or [PICTURE]
    )
    save_copy(lab)
    course = tmp_path / "course"
    assert main(["labs", "release", "tiny", "--course", str(course), "--key", "autumn"]) == 0
    released = course / "release" / "tiny" / "tiny.ipynb"
    assert r"course_key = \"autumn\"" in released.read_text()
    assert r"course_key = \"autumn\"" in (course / "source" / "tiny" / "tiny.ipynb").read_text()
    assert len(set(drawn)) == 2  # of another key, so other pictures
    assert main(["labs", "release", "--course", str(course)]) == 0  # later ones have the same key
    assert r"course_key = \"autumn\"" in released.read_text() and len(drawn) == 2
    capsys.readouterr()
    assert refusal(capsys, "release", "--course", str(course), "--key", "winter") == (
        "nnopt: the key must stay as it was once a lab was released: students have tiny with the key 'autumn', and "
        "would get other numbers; received 'winter'. Name another folder for another class, or add --force and hand "
        "out all labs anew.\n"
    )
    assert r"course_key = \"autumn\"" in released.read_text()
    assert main(["labs", "release", "--course", str(course), "--key", "winter", "--force"]) == 0
    assert r"course_key = \"winter\"" in released.read_text() and len(drawn) == 3
    assert lab_problems(lab) == [] and r"course_key = \"\"" in lab.notebook.read_text()
    assert refusal(capsys, "release", "--save", "--key", "winter") == (
        "nnopt: committed student copies have no key and no due date; received --save with --key, --force or "
        "--due. Leave out one of them.\n"
    )


def test_a_lab_without_a_cell_for_the_key_says_so(lab, tmp_path, capsys):
    save_copy(lab)
    assert main(["labs", "release", "--course", str(tmp_path / "course"), "--key", "autumn"]) == 0
    assert capsys.readouterr().out.endswith("/release/tiny/tiny.ipynb, the same whatever the key\n")


@pytest.mark.notebook
def test_the_solution_is_tested_by_tests_that_ask_for_the_solution(lab, monkeypatch):
    monkeypatch.undo()
    monkeypatch.setenv("NNOPT_HOME", str(lab.source.parents[2]))
    text = lab.source.read_text()
    asks = 'assert solution["numbers"] == numbers\n### END HIDDEN TESTS'
    lab.source.write_text(text.replace("### END HIDDEN TESTS", asks).replace(asks, "### END HIDDEN TESTS", 2))
    assert asks in lab.source.read_text()
    source = lab_sources.read_source(lab)
    before = lab_sources._code(source)
    assert len(lab_sources.draw_pictures(lab, source)) == 1
    assert lab_sources._code(source) == before


def test_a_new_lab_is_started_and_released_by_commands(lab, tmp_path, capsys):
    course = tmp_path / "course"
    assert main(["labs", "new", "my-lab", "--course", str(course)]) == 0
    assert capsys.readouterr().out == (
        f"{course}/labs/my-lab.md: edit it, then nnopt labs release my-lab --course {course}\n"
    )
    assert main(["labs", "release", "my-lab", "--course", str(course)]) == 0
    assert (course / "release" / "my-lab" / "my-lab.ipynb").is_file()
    assert not (course / "labs" / "my-lab.ipynb").exists()
