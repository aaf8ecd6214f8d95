"""Labs: one source each, with the solution in it; the student copy is made from it by nbgrader."""

from __future__ import annotations

import base64
import copy
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nnopt_lib.checks import NnoptError, nearest, refuse
from nnopt_lib.course.chapters.kernel import execute
from nnopt_lib.course.chapters.source import Chapter, read_source
from nnopt_lib.course.labs.course_key import key_of, with_key
from nnopt_lib.course.labs.gradebook import Course, make_course
from nnopt_lib.course.labs.private import private_labs, public_labs
from nnopt_lib.course.labs.releasing import release_source
from nnopt_lib.files import hash_of, write_atomically
from nnopt_lib.paths import build_folder, project_root

MARK = "nnopt"  # our part of a notebook's metadata
HEADING = "This is what it should look like:"


def find_labs(names: Sequence[str] = (), course: Path | None = None) -> list[Chapter]:
    """The labs called `names`, or all of them, in order of their names.

    With a class's folder as `course` those that its teacher wrote, in ``labs/`` of it, are among them.
    """
    labs = public_labs() | (private_labs(course) if course else {})
    if not labs:
        folder = project_root() / "chapters" / "labs"
        refuse(f"{folder} must hold labs called NAME.md", None, "Run nnopt inside the course's checkout.")
    for name in names:
        if name not in labs:
            refuse(f"there is no lab {name!r}", None, nearest(name, labs))
    return [lab for name, lab in sorted(labs.items()) if not names or name in names]


def release(lab: Chapter, course: Course) -> Path:
    """Put a lab into a course by nbgrader: source with solution, student copy, entry in the gradebook.

    The class's key is written into it. The pictures come from the committed student copy, or from what was
    released before, while it fits the source; else the solution is run. Returns the path of the student copy.
    """
    source = with_key(lab.name, read_source(lab), key_of(course.folder))
    for path in (lab.notebook, course.notebook("release", lab.name)):
        pictures = _pictures_in(path, source)
        if pictures is not None:
            return _release(lab, source, pictures, course)
    return _release(lab, source, draw_pictures(lab, source), course)


def save_copy(lab: Chapter) -> Path:
    """Write the student copy that is committed beside the source, with pictures drawn anew."""
    source = read_source(lab)
    write_atomically(lab.notebook, _student_copy(lab, source, draw_pictures(lab, source)))
    return lab.notebook


def lab_problems(lab: Chapter) -> list[str]:
    """What is wrong with the committed student copy, one line each; nothing is executed."""
    remedy = f"nnopt labs release {lab.name} --save makes it"
    try:
        source = read_source(lab)
        if not lab.notebook.is_file():
            return [f"{lab.notebook.name} is missing; {remedy}"]
        pictures = _pictures_in(lab.notebook, source)
        if pictures is None:
            return [f"the pictures of {lab.notebook.name} are of another source; {remedy} anew"]
        if lab.notebook.read_text(encoding="utf-8") != _student_copy(lab, source, pictures):
            return [f"{lab.notebook.name} is not what its source gives; {remedy} anew"]
    except NnoptError as error:
        return [str(error)]
    return []


def draw_pictures(lab: Chapter, source: Any) -> list[str]:
    """What the solution draws in the cells tagged `expected`, in order, as base64 of a .png file."""
    import nbformat

    output = build_folder() / "labs" / f"{lab.name}.ipynb"
    # Hidden tests compare with what the solution gives; here it is the solution that they test.
    runs = copy.deepcopy(source)
    first = next(cell for cell in runs.cells if cell.cell_type == "code")
    first.source = f"solution = globals()\n{first.source}"
    text = execute(f"labs/{lab.name}", runs, {}, output, {"NNOPT_STUDENT": "instructor"})
    pictures = []
    for cell in _expected(nbformat.reads(text, as_version=4)):
        drawn = [one.data["image/png"] for one in cell.outputs if "image/png" in one.get("data", {})]
        if len(drawn) != 1:
            rule = f"each cell tagged expected in lab {lab.name} must draw one picture"
            refuse(rule, f"{len(drawn)} from {cell.source.strip().splitlines()[0]!r}")
        pictures.append("".join(drawn[0]).replace("\n", ""))
    return pictures


def _expected(notebook: Any) -> list[Any]:
    return [cell for cell in notebook.cells if "expected" in cell.metadata.get("tags", [])]


def _code(source: Any) -> str:
    """What the pictures of a lab depend on: all code, the solution too."""
    return hash_of(*(cell.source for cell in source.cells if cell.cell_type == "code"))


def _pictures_in(path: Path, source: Any) -> list[str] | None:
    """The pictures in a student copy, or None where there are none that fit `source`."""
    import nbformat

    try:
        notebook = nbformat.read(path, as_version=4)
        mark = notebook.metadata.get(MARK, {}).get("pictures_of")
        cells = [cell for cell in notebook.cells if cell.get("attachments") and HEADING in cell.source]
        pictures = [next(iter(cell.attachments.values()))["image/png"] for cell in cells]
        whole = all(base64.b64decode(picture).startswith(b"\x89PNG") for picture in pictures)
    except Exception:  # missing or damaged in whatever way: it is made anew
        return None
    fits = mark == _code(source) and len(pictures) == len(_expected(source)) and whole
    return pictures if fits else None


def _with_pictures(lab: Chapter, source: Any, pictures: Sequence[str]) -> Any:
    """A copy of `source` with a cell before each one tagged `expected` that shows what it should draw."""
    from nbformat.v4 import new_markdown_cell

    notebook = copy.deepcopy(source)
    for number, (cell, picture) in enumerate(zip(_expected(notebook), pictures, strict=True), start=1):
        alt = str(cell.metadata.pop("alt", "")).replace("[", "(").replace("]", ")").strip()
        if not alt:
            rule = f"each cell tagged expected in lab {lab.name} must have an alternative text"
            refuse(rule, f"none in {cell.source.strip().splitlines()[0]!r}", "As alt: What it shows.")
        name = f"expected-{number}.png"
        shown = new_markdown_cell(f"{HEADING}\n\n![{alt}](attachment:{name})", id=f"expected-{number}")
        shown["attachments"] = {name: {"image/png": picture}}
        notebook.cells.insert(notebook.cells.index(cell), shown)
    notebook.metadata[MARK] = {"pictures_of": _code(source)}
    return notebook


def _release(lab: Chapter, source: Any, pictures: Sequence[str], course: Course) -> Path:
    import nbformat

    text = nbformat.writes(_with_pictures(lab, source, pictures)) + "\n"
    release_source(course, lab.name, text)
    return course.notebook("release", lab.name)


def _student_copy(lab: Chapter, source: Any, pictures: Sequence[str]) -> str:
    """The text of the student copy, made by nbgrader in a course of its own."""
    # The same way as `release` makes it for a class, so that the committed copy is what students get.
    with tempfile.TemporaryDirectory() as folder:
        made = _release(lab, source, pictures, make_course(Path(folder).resolve()))
        return made.read_text(encoding="utf-8")
