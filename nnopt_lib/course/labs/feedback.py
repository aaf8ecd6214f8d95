"""A page for each student, made by nbgrader; hidden tests stay hidden in it unless the teacher shows them."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import sqlalchemy
from nbconvert.preprocessors import CSSHTMLHeaderPreprocessor
from nbgrader.converters import GenerateFeedback
from nbgrader.preprocessors import ClearHiddenTests, GetGrades
from nbgrader.utils import capture_log, is_grade, is_solution, temp_attrs
from traitlets import List

from nnopt_lib.course.labs.gradebook import Course, run
from nnopt_lib.course.labs.progress import progress
from nnopt_lib.files import write_atomically

CHOICES = ("hidden", "shown")
PAGE = """\
<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>{lab}</title>
<style>body {{ font-family: sans-serif; max-width: 40em; margin: 2em auto; line-height: 1.5 }}</style></head>
<body><h1>{heading}</h1>
{text}
</body></html>
"""


class HideTests(ClearHiddenTests):
    """Leave hidden tests out of a page, and of an error in them all but what it says to the student."""

    # Of no use here, but the exporter of pages sets it, and warns of a class that does not know it.
    display_data_priority: Any = List().tag(config=True)

    def preprocess(self, nb: Any, resources: Any) -> tuple[Any, Any]:
        """Cut the hidden tests of the lab's own cells."""
        for cell in nb.cells:
            # Only tests, whose text came from the gradebook: a student may write the delimiters too.
            ours = cell.cell_type == "code" and is_grade(cell) and not is_solution(cell)
            if ours and self._remove_hidden_test_region(cell):
                cell.source = f"{cell.source.rstrip()}\n# hidden tests ran here".lstrip()
                for output in cell.outputs:
                    if output.output_type == "error":  # its trace quotes the tests
                        said = ": ".join(part for part in (output.ename, output.evalue) if part)
                        output.traceback = [said]
        return nb, resources


PAGES = [GetGrades, HideTests, CSSHTMLHeaderPreprocessor]  # what nbgrader_config.py names
PAGES_WITH_TESTS = [GetGrades, CSSHTMLHeaderPreprocessor]


class _Pages(GenerateFeedback):
    """nbgrader's pages, where one that cannot be made keeps nobody else from theirs."""

    def __init__(self, bar: Any, **settings: Any) -> None:
        super().__init__(**settings)
        self.bar, self.problems = bar, dict[str, str]()

    def convert_single_notebook(self, notebook_filename: str) -> None:
        try:
            super().convert_single_notebook(notebook_filename)
        except (OSError, sqlalchemy.exc.SQLAlchemyError):
            raise  # the disk or the gradebook, which is nobody's notebook
        except Exception as error:  # of nbconvert and its templates, which share no base class
            what = " ".join(str(error).split())[:200] or type(error).__name__
            self.problems[Path(notebook_filename).parts[-3]] = what
        finally:
            self.bar.update()


def write_pages(course: Course, lab: str, tests: str = "hidden") -> dict[str, str]:
    """nbgrader's page for everybody who was graded; returns why there is none, by student.

    A page asks the network for nothing. `tests` says whether hidden tests are ``"hidden"`` or ``"shown"``.
    """
    graded = sorted(path.parents[1].name for path in course.folder.glob(f"autograded/*/{lab}/{lab}.ipynb"))
    if not graded:
        return {}
    chosen = PAGES if tests == "hidden" else PAGES_WITH_TESTS
    settings = {"GenerateFeedback": {"preprocessors": chosen}, "HTMLExporter": {"template_name": "feedback"}}
    api = course.api(settings)
    with progress(len(graded), f"pages of {lab}") as bar, temp_attrs(api.coursedir, assignment_id=lab):
        pages = _Pages(bar, coursedir=api.coursedir, parent=api)
        pages.force = True
        run(f"feedback on {lab} could not be written", capture_log(pages))
    for student in graded:
        page = course.notebook("feedback", lab, student).with_suffix(".html")
        if student not in pages.problems:
            write_atomically(page, without_requests(page.read_text(encoding="utf-8")))
    return pages.problems


def write_plain_page(
    course: Course,
    lab: str,
    student: str,
    heading: str,
    text: Iterable[str],
    rows: Sequence[Sequence[str]] = (),
) -> None:
    """A page of sentences and a table, where nbgrader can make none of the notebook."""
    parts = [f"<p>{html.escape(sentence)}</p>" for sentence in text]
    cells = ["".join(f"<td>{html.escape(word)}</td>" for word in row) for row in rows]
    parts += [f"<table>{''.join(f'<tr>{row}</tr>' for row in cells)}</table>"] if rows else []
    words: Mapping[str, str] = {"lab": html.escape(lab), "heading": html.escape(heading)}
    page = course.notebook("feedback", lab, student).with_suffix(".html")
    write_atomically(page, PAGE.format(**words, text="\n".join(parts)))


def without_requests(page: str) -> str:
    """A page of nbgrader's without the scripts and styles that it would fetch from elsewhere.

    They draw formulas and widgets; formulas then stand as they were typed.
    """
    scripts = re.sub(r'<script[^>]*\bsrc="(?:https?:)?//[^>]*>\s*</script>', "", page)
    return re.sub(r'<link[^>]*\bhref="(?:https?:)?//[^>]*>', "", scripts)
