"""The five labs are well formed and worth 20 points each; `test_solutions` grades their solutions."""

from __future__ import annotations

import ast
import builtins
import re
import symtable

import nbformat
import pytest
from nbgrader.nbgraderformat import MetadataValidator

from nnopt_lib.course.chapters.source import read_source
from nnopt_lib.course.labs.course_key import EMPTY, TAG
from nnopt_lib.course.labs.examine import is_test
from nnopt_lib.course.labs.kernel import PART_OF_SECONDS
from nnopt_lib.course.labs.sandbox.sandbox import Limits
from nnopt_lib.course.labs.sources import find_labs
from nnopt_lib.course.labs.submissions import name_of

LABS = ("connectivity", "depth", "nodes", "weights", "width")
LADDER = ["Your name", "Predict", "Implement", "Apply", "Measure", "Explain"]
PAIRS = (("### BEGIN SOLUTION", "### END SOLUTION"), ("### BEGIN HIDDEN TESTS", "### END HIDDEN TESTS"))


def cells_of(name: str) -> list:
    (lab,) = find_labs([name])
    return read_source(lab).cells


def marks(cell) -> dict:
    return cell.metadata.get("nbgrader", {})


def texts_of(name: str) -> str:
    return "\n\n".join(cell.source for cell in cells_of(name) if cell.cell_type == "markdown")


def cell_called(name: str, grade_id: str):
    return next(cell for cell in cells_of(name) if marks(cell).get("grade_id") == grade_id)


def meanings(source: str) -> tuple[set[str], set[str]]:
    """The names that a cell gives a meaning to, and those to which it expects that an earlier one did."""
    table = symtable.symtable(source, "<cell>", "exec")
    made = {one.get_name() for one in table.get_symbols() if one.is_assigned() or one.is_imported()}
    wanted = {one.get_name() for one in table.get_symbols() if one.is_referenced()}
    inner = list(table.get_children())
    while inner:
        scope = inner.pop()
        inner += scope.get_children()
        wanted |= {one.get_name() for one in scope.get_symbols() if one.is_global() and one.is_referenced()}
    return made, wanted - made - set(dir(builtins))


def test_each_technique_has_a_lab():
    assert tuple(lab.name for lab in find_labs()) == LABS


@pytest.mark.parametrize("name", LABS)
def test_metadata_is_nbgraders_and_gives_20_points(name):
    (lab,) = find_labs([name])
    MetadataValidator().validate_nb(read_source(lab))
    cells = [cell for cell in cells_of(name) if marks(cell)]
    assert sum(marks(cell).get("points", 0) for cell in cells) == 20
    names = [marks(cell)["grade_id"] for cell in cells]
    assert len(set(names)) == len(names) and names.count("numbers") == 1
    assert names[:2] == ["student", "student-test"] and names[-1] == "words"


@pytest.mark.parametrize("name", LABS)
def test_the_ladder_stands_in_order(name):
    text = "\n".join(cell.source for cell in cells_of(name) if cell.cell_type == "markdown")
    assert [line[3:] for line in text.splitlines() if line.startswith("## ")] == LADDER


@pytest.mark.parametrize("name", LABS)
def test_marks_are_balanced_and_pictures_described(name):
    expected = 0
    for cell in cells_of(name):
        for begin, end in PAIRS:
            assert cell.source.count(begin) == cell.source.count(end) <= 1
        solves = marks(cell).get("solution", False)
        assert (PAIRS[0][0] in cell.source) == bool(solves)
        if "expected" in cell.metadata.get("tags", []):
            expected += 1
            assert cell.metadata["alt"].strip() and "labs.compare" in cell.source
    assert expected >= 2


@pytest.mark.parametrize("name", LABS)
def test_unfinished_cells_raise_and_nothing_is_given_away(name):
    (lab,) = find_labs([name])
    released = nbformat.read(lab.notebook, as_version=4)
    for cell in released.cells:
        assert "### BEGIN" not in cell.source
        if cell.cell_type == "code":
            assert len(cell.source.splitlines()) <= 30
            if marks(cell).get("solution"):
                raised = [node for node in ast.walk(ast.parse(cell.source)) if isinstance(node, ast.Raise)]
                assert len(raised) == 1, name_of(cell)
                assert "NotImplementedError" in ast.unparse(raised[0])


@pytest.mark.parametrize("name", LABS)
def test_the_question_in_words_stays_in_the_student_copy_and_its_answer_does_not(name):
    (lab,) = find_labs([name])
    cells = nbformat.read(lab.notebook, as_version=4).cells
    position = next(number for number, cell in enumerate(cells) if marks(cell).get("grade_id") == "words")
    assert cells[position - 1].source.startswith("In your own words:")
    assert cells[position].source == "YOUR ANSWER HERE"


@pytest.mark.parametrize("name", LABS)
def test_the_lab_says_at_its_top_what_grading_allows(name):
    first = cells_of(name)[0].source
    assert first.startswith("# Lab: ") and re.search(r"after chapters? \[\d\d\]\(", first)
    limits = f"a cell may take {Limits.seconds / PART_OF_SECONDS:g} seconds, and the notebook {Limits.seconds:g} seconds"
    assert limits in first and f"{Limits.memory_gib:g} GiB of memory" in first
    assert "read from the text of the cell" in first


@pytest.mark.parametrize("name", LABS)
def test_another_course_key_gives_other_data_and_questions(name):
    (keyed,) = [cell for cell in cells_of(name) if TAG in cell.metadata.get("tags", [])]
    assert EMPTY.search(keyed.source)
    code = "\n".join(cell.source for cell in cells_of(name) if cell.cell_type == "code")
    assert "labs.seed_of(student, course_key)" in code and 'labs.seed_of("variant", course_key)' in code
    for seed in ("seed", "variant"):
        chosen = set(re.findall(rf'labs\.choose\({seed}, "(\w+)", ', code))
        assert len(chosen) >= 2, f"settings chosen by {seed}: {chosen}"
    assert "labs.seed_of(os.environ[" not in code.replace(
        'labs.seed_of(os.environ["NNOPT_STUDENT"], course_key)', ""
    )


@pytest.mark.parametrize("name", LABS)
def test_each_function_to_write_has_a_ladder_of_hints_folded_away(name):
    text, described = "", 0
    for cell in cells_of(name):
        if cell.cell_type == "markdown":
            text += f"\n{cell.source}"
        elif marks(cell).get("solution"):
            if cell.source.startswith("def "):
                hints = [int(number) for number in re.findall(r"<summary>Hint (\d)</summary>", text)]
                assert hints == list(range(1, len(hints) + 1)) and len(hints) >= 3, name_of(cell)
                assert text.count("<details>") == text.count("</details>") == len(hints)
                described += 1
            text = ""
    assert described >= 5


@pytest.mark.parametrize("name", LABS)
def test_links_lead_to_sections_of_chapters_and_texts_name_what_describes_a_function(name):
    (lab,) = find_labs([name])
    text = texts_of(name)
    links = re.findall(r"\]\((\.\./[\w-]+\.md)(?:#([\w-]+))?\)", text)
    assert len([section for _, section in links if section]) >= 2
    for file, section in links:
        headings = re.findall(
            r"^#+ (.+)$", (lab.source.parent / file).read_text(encoding="utf-8"), re.MULTILINE
        )
        anchors = {"-".join(re.sub(r"[^\w -]", "", heading.casefold()).split()) for heading in headings}
        assert not section or section in anchors, f"{file}#{section}"
    assert len(set(re.findall(r"`help\(([\w.]+)\)`", text))) >= 2


@pytest.mark.parametrize("name", LABS)
def test_predictions_are_met_again_and_students_decide_and_draw(name):
    cells = cells_of(name)
    start = next(number for number, cell in enumerate(cells) if "## Measure" in cell.source.splitlines())
    given = [cell.source for cell in cells[start:] if cell.cell_type == "code" and not marks(cell)]
    assert any("guess" in source and "print" in source for source in given), "the guess is not met again"
    assert "because" in cell_called(name, "decision").source
    assert '"because"' in cell_called(name, "decision-test").source
    assert cell_called(name, "picture").source.startswith("def picture(")
    assert "labs.drawing(picture(" in cell_called(name, "picture-test").source


@pytest.mark.parametrize("name", LABS)
def test_numbers_are_five_and_marked_one_by_one_against_the_solution(name):
    asked = re.findall(r'"(\w+)": \.\.\.', cell_called(name, "numbers").source.splitlines()[0])
    assert len(asked) == 5 and "Type five numbers" in texts_of(name)
    shown, hidden = cell_called(name, "numbers-test").source.split(PAIRS[1][0])
    given = ", ".join(f'"{one}"' for one in asked)
    assert f"labs.given(numbers, {given})" in shown
    assert "labs.mark(numbers, " in hidden and "points=5)" in hidden and 'solution["numbers"]' in hidden
    assert "labs.carried(" in cell_called(name, "explain-test").source


@pytest.mark.parametrize("name", LABS)
def test_what_is_in_words_waits_for_a_reader_with_a_rubric(name):
    words = cell_called(name, "words")
    assert marks(words)["points"] == 0
    rubric = words.source.split("For the reader:")[1]
    assert all(part in rubric for part in ("0 points for", "1 point if", "2 points for"))
    question = next(text for text in texts_of(name).split("\n\n") if text.startswith("In your own words:"))
    assert "your guess" in question and "(Your teacher reads this" in question


@pytest.mark.parametrize("name", LABS)
def test_no_cell_needs_a_name_that_only_a_test_defines(name):
    known: set[str] = set()
    for cell in cells_of(name):
        if cell.cell_type == "code" and not is_test(cell):
            made, wanted = meanings(cell.source)
            assert wanted <= known, f"{sorted(wanted - known)} in a cell that begins {cell.source[:60]!r}"
            known |= made


def test_a_name_that_only_a_test_defines_would_be_noticed():
    assert meanings("a = [b for b in c]\ndef d(e):\n    return f + e + a") == ({"a", "d"}, {"c", "f"})
