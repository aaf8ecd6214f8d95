"""The check: what it notices in a template, a committed notebook and its outputs."""

from __future__ import annotations

import subprocess
from pathlib import Path
from xml.etree import ElementTree

import nbformat
import pytest

from nnopt_lib.checks import NnoptError
from nnopt_lib.course.chapters import check as checking
from nnopt_lib.course.chapters.batch import run_chapters
from nnopt_lib.course.chapters.check import check_chapter, nbval_problems
from nnopt_lib.course.chapters.save import save_chapter
from nnopt_lib.course.chapters.source import (
    find_chapters,
    read_source,
)
from tests import surroundings
from tests.tiny_course import edit, plant_row, write_course

pytestmark = pytest.mark.usefixtures("project")


@pytest.mark.notebook
def test_a_planted_local_row_moves_neither_the_check_nor_the_book(project):
    (chapter,) = find_chapters(["1"])
    save_chapter(chapter)
    plant_row(2.0000001)
    assert check_chapter(chapter) == []
    rows = project / "chapters" / "results" / "01-rows.jsonl"
    whole = rows.read_text()
    rows.write_text("".join(line for line in whole.splitlines(True) if '"seed": 1}' not in line))
    assert check_chapter(chapter) == [
        "results/01-rows.jsonl was changed since its chapter was saved; "
        "take it from version control or run nnopt run 01 --save"
    ]
    assert list(nbval_problems(chapter.notebook)) == [
        "code cell 4: Cell execution caused an exception: NnoptError: 01-rows must take all its rows "
        "from the published ones while NNOPT_ROWS is published; received 1 of 3 settings that are not published, "
        "the first {'seed': 1}. Run nnopt run 01 --save."
    ]
    rows.write_text(whole)
    edit(chapter.source, "Yes, it does.", "Yes, it does so.")  # now the book has to execute it
    assert run_chapters([chapter], published_rows=True) == {"01-first": "executed"}
    assert "[0, 2, 4]" in chapter.executed("published").read_text()
    edit(chapter.source, "else 3)", "else 4)")
    with pytest.raises(NnoptError, match="received 1 of 4 settings that are not published, the first"):
        run_chapters([chapter], published_rows=True)


@pytest.fixture
def twin(project):
    """A committed notebook that agrees with its source, made without a kernel."""
    (chapter,) = find_chapters(["1"])

    def write(change=lambda notebook: None):
        notebook = read_source(chapter)
        code = [cell for cell in notebook.cells if cell.cell_type == "code"]
        for number, cell in enumerate(code, start=1):
            cell.execution_count = number
        change(notebook)
        nbformat.write(notebook, chapter.notebook)
        return check_chapter(chapter, run=False)

    return write


def test_a_chapter_by_the_template_passes(twin):
    assert twin() == []


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("# Does it work?", "# It works", "the first line must be a title that asks a question; it is '# It works'"),
        ('device = "auto"', 'device = "cpu"', "the parameters cell must say device = 'auto'"),
        ("## The idea", "## Thoughts", "a section whose heading has the word 'idea' is missing"),
        ("## Where it fails", "## Summary of failures: where it fails\n\n## Summary", ""),
        ("## Claims", "## Where it ends", "a section whose heading has the word 'claims' is missing"),
        ("claim(", "note(", "no conclusion is recorded with claim(...)"),
        ("<details>", "<p>", "no exercise has a collapsed solution (<details> with <summary>Solution)"),
        ("Yes, it does.", "![](plot.svg)", "picture plot.svg has no alternative text"),
        ("Yes, it does.", "```{figure} plot.svg\n:width: 3\n```", "picture plot.svg has no alternative text"),
        ("Yes, it does.", "```{figure} plot.svg\n:alt: a line\n```", ""),
        ("def claim", "\n".join(f"x{n} = 1" for n in range(30)) + "\ndef claim",
         "a code cell has 32 lines, 30 are allowed: 'x0 = 1'"),
        ("import dataclasses, sys", "import dataclasses, sys\na = 1\nb = 2\nc = 3\nd = 4\ne = 5", ""),
    ],
)  # fmt: skip
def test_what_breaks_the_template_is_a_problem(project, twin, old, new, problem):
    edit(project / "chapters" / "01-first.md", old, new)
    assert twin() == ([problem] if problem else [])


def test_sections_keep_their_order(project, twin):
    path = project / "chapters" / "01-first.md"
    edit(path, "## Sources", "## Late")
    edit(path, "## The idea", "## Sources\n\n## The idea")
    assert twin() == ["a section whose heading has the word 'sources' stands too early"]


def test_long_cells_are_counted_by_their_median(project, twin):
    path = project / "chapters" / "01-first.md"
    for old in ("import dataclasses, sys", 'print(f"accuracy', "def claim"):
        edit(path, old, "a = 1\nb = 2\nc = 3\nd = 4\ne = 5\n" + old)
    assert twin() == ["code cells have a median of 7 lines; 5 are allowed"]


def test_a_notebook_that_differs_from_its_source_is_noticed(project, twin):
    def other_source(notebook):
        notebook.cells[3].source += "\nx = 1"

    def other_tags(notebook):
        notebook.cells[1].metadata.tags = []

    def one_more(notebook):
        notebook.cells.append(nbformat.v4.new_markdown_cell("more"))

    assert twin(other_source) == ["cell 4 of the notebook differs from its source: 'import dataclasses, sys'"]
    assert twin(other_tags) == ["cell 2 of the notebook differs from its source: 'profile = \"published\"'"]
    count = len(read_source(find_chapters(["1"])[0]).cells)
    assert twin(one_more) == [f"the notebook has {count + 1} cells, its source {count}"]
    find_chapters(["1"])[0].notebook.unlink()
    assert check_chapter(find_chapters(["1"])[0]) == [
        "01-first.ipynb is missing; nnopt run 01 --save makes it"
    ]


def test_outputs_that_nbval_would_pass_are_noticed(twin):
    def display(words):
        return nbformat.v4.new_output("display_data", {"image/svg+xml": "<svg/>", "text/plain": words})

    def code(notebook):
        return [cell for cell in notebook.cells if cell.cell_type == "code"]

    def stripped(notebook):
        code(notebook)[2].execution_count = None

    def failed(notebook):
        code(notebook)[2].outputs = [
            nbformat.v4.new_output("error", ename="ValueError", evalue="", traceback=[])
        ]

    def silent(notebook):
        code(notebook)[2].outputs = [display("<Figure size 640x480>")]

    def described(notebook):
        code(notebook)[2].outputs = [display("Accuracy rises with width.")]

    assert twin(stripped) == ["code cell 3 was not executed in order (it says None)"]
    assert twin(failed) == ["code cell 3 shows an error: ValueError"]
    assert twin(silent) == ["the figure of code cell 3 has no alternative text"]
    assert twin(described) == []


@pytest.mark.parametrize(
    ("counts", "problems"),
    [
        ([1, 2, 3, 4, 5], []),
        ([2, 1, 3, 4, 5], ["code cell 1 was not executed in order (it says 2)",
                           "code cell 2 was not executed in order (it says 1)"]),
        ([1, 2, 3, 4, 6], ["code cell 5 was not executed in order (it says 6)"]),
        ([2, 3, 4, 5, 6], [f"code cell {n} was not executed in order (it says {n + 1})" for n in range(1, 6)]),
        ([1, 2, 2, 4, 5], ["code cell 3 was not executed in order (it says 2)"]),
        ([None, 2, 3, 4, 0], ["code cell 1 was not executed in order (it says None)",
                              "code cell 5 was not executed in order (it says 0)"]),
    ],
)  # fmt: skip
def test_cells_were_executed_once_each_from_the_first_to_the_last(twin, counts, problems):
    def executed(notebook):
        cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
        for cell, count in zip(cells, counts, strict=True):
            cell.execution_count = count

    assert twin(executed) == problems


def reported(monkeypatch, cases, returncode=0, stderr=""):
    """What is said of a report of nbval with these tests, each what stands inside it."""
    xml = "".join(f'<testcase name="Cell {n}">{inner}</testcase>' for n, inner in enumerate(cases))
    done = subprocess.CompletedProcess([], returncode, "", stderr)
    found = list(ElementTree.fromstring(f"<suite>{xml}</suite>").iter("testcase"))
    monkeypatch.setattr(checking, "_run_nbval", lambda notebook, folder: (done, found))
    return list(checking.nbval_problems(Path("01-first.ipynb")))


@pytest.mark.parametrize("tag", ["failure", "error", "skipped"])
@pytest.mark.parametrize("returncode", [0, 1])
def test_a_cell_that_failed_broke_or_was_skipped_is_a_problem_whatever_pytest_returns(
    monkeypatch, tag, returncode
):
    cases = ["", f'<{tag} message="m">{tag} it was</{tag}>', "<system-out>words</system-out>"]
    assert reported(monkeypatch, cases, returncode) == [f"code cell 2: {tag} it was"]
    assert reported(monkeypatch, [f'<{tag} message="by its message"/>'] * 2, returncode) == [
        "code cell 1: by its message",
        "code cell 2: by its message",
    ]


def test_a_report_without_failures_passes_only_if_something_ran_and_pytest_says_so(monkeypatch):
    assert reported(monkeypatch, ["", "<system-out>words</system-out>"]) == []
    assert reported(monkeypatch, []) == ["nbval could not run: []"]
    assert reported(monkeypatch, [""], 1, "first\nlast\n") == ["nbval could not run: ['last']"]
    assert reported(monkeypatch, [], 4, "usage\n") == ["nbval could not run: ['usage']"]


@pytest.mark.notebook
def test_nbval_fails_on_a_timeout_and_on_an_unexpected_warning(project, monkeypatch):
    monkeypatch.setattr("nnopt_lib.course.chapters.check.CELL_TIMEOUT_SECONDS", 1)
    (chapter,) = find_chapters(["1"])
    notebook = nbformat.v4.new_notebook()
    endless = "import threading; threading.Event().wait()"
    lines = ["import sys; print('careful', file=sys.stderr)", "1 / 0", endless, "x = 1"]
    for number, line in enumerate(lines, start=1):
        notebook.cells.append(nbformat.v4.new_code_cell(line, execution_count=number))
    nbformat.write(notebook, chapter.notebook)
    assert list(nbval_problems(chapter.notebook)) == [
        "code cell 1: Unexpected output fields from running code: {'stderr'}",
        "code cell 2: Cell execution caused an exception: ZeroDivisionError: division by zero",
        "code cell 3: Timeout of 1 seconds exceeded executing cell",
    ]


@pytest.mark.notebook
@pytest.mark.parametrize("set_up", ["pytest", "kernels", "the path"])
def test_nbval_is_alone_with_the_notebook(project, monkeypatch, set_up):
    path = project / "chapters" / "01-first.ipynb"
    if set_up == "pytest":
        surroundings.set_up_pytest_for_other_work(project, monkeypatch)
    elif set_up == "kernels":
        surroundings.set_up_kernels_for_other_work(project, monkeypatch)
    else:
        folder = project / "a [1] b::c"
        folder.mkdir()
        write_course(folder, monkeypatch)
        path = folder / "chapters" / "01-first.ipynb"
    nbformat.write(surroundings.notebook(), path)
    assert list(nbval_problems(path)) == []
