"""Release a lab into a class's folder: all of it or nothing, and again after submissions exist.

nbgrader refuses to add a cell to a lab that somebody has handed in, and by then has removed the student copy.
So all is done in a copy of what it changes, which takes the original's place once nbgrader is content.
Cells that are new are given to the gradebook first, with no points for anybody until graded again.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nbformat

from nnopt_lib.checks import NnoptError
from nnopt_lib.course.labs.gradebook import Course, run
from nnopt_lib.course.labs.untouched import COUNTER
from nnopt_lib.files import lock, write_atomically, writing


def release_source(course: Course, lab: str, text: str) -> None:
    """Put the notebook `text` into a class as the lab's source, and let nbgrader make the student copy.

    If that fails, source, student copy and gradebook are as they were. Points and submissions stay: of a cell
    that is new they have none, and one with points, answers or comments cannot be taken away.
    """
    with lock(course.gradebook), writing(course.folder / "source"):
        for left in course.folder.glob(".release-*"):
            shutil.rmtree(left)  # of one who was killed
        with tempfile.TemporaryDirectory(dir=course.folder, prefix=".release-") as name:
            copy = Course(Path(name))
            writes = _copy_gradebook(course, copy)
            _copy_files(course, copy, lab)
            write_atomically(copy.notebook("source", lab), text)
            _give_cells(copy, lab, nbformat.reads(text, as_version=4))
            # The class's own configuration, with its headers and delimiters, on the copy.
            where = {"root": str(copy.folder), "db_url": f"sqlite:///{copy.gradebook}"}
            api = course.api({"CourseDirectory": where})
            run(f"lab {lab} could not be released", api.generate_assignment(lab))
            _swap(course, copy, lab, writes)


def _copy_gradebook(course: Course, copy: Course) -> bytes:
    """A copy of the gradebook as SQLite sees it; returns its count of writes, empty for none yet."""
    if not course.gradebook.is_file():
        return b""
    with course.open_gradebook():  # refuses one that is damaged, in a sentence
        pass
    writes = _writes(course)
    _copy_database(course.gradebook, copy.gradebook)
    return writes


def _copy_database(source: Path, target: Path) -> None:
    """Make `target` hold what `source` holds, in one transaction: whole or as it was."""
    try:
        with (
            contextlib.closing(sqlite3.connect(source)) as old,
            contextlib.closing(sqlite3.connect(target)) as new,
        ):
            old.backup(new)
    except sqlite3.Error as error:
        raise NnoptError(f"{target} could not be written: {error}. Free some space and run again.") from error


def _writes(course: Course) -> bytes:
    if not course.gradebook.is_file():
        return b""
    with open(course.gradebook, "rb") as file:
        return file.read(COUNTER.stop)[COUNTER]


def _copy_files(course: Course, copy: Course, lab: str) -> None:
    """The lab's other files, such as data, which nbgrader gives out beside the notebook."""
    source = course.notebook("source", lab).parent
    if source.is_dir():
        shutil.copytree(source, copy.notebook("source", lab).parent)


def _give_cells(course: Course, lab: str, source: Any) -> None:
    """Make the gradebook's cells of a lab with submissions those of `source`.

    Cells of the text that were given stand in the order of `source`, in which a missing one is put back.
    """
    from nbgrader.api import Comment, Grade, MissingEntry
    from nbgrader.utils import is_grade, is_locked, is_solution, is_task

    if not course.gradebook.is_file():
        return
    with course.open_gradebook() as gradebook:
        try:
            notebook = gradebook.find_notebook(lab, lab)
        except MissingEntry:
            return
        if not notebook.submissions:
            return  # nbgrader makes such a notebook anew
        cells = [cell for cell in source.cells if cell.metadata.get("nbgrader")]
        kinds = [
            ("grade_cell", [one for one in cells if is_grade(one)], notebook.grade_cells, [Grade]),
            ("solution_cell", [one for one in cells if is_solution(one)], notebook.solution_cells, [Comment]),
            ("task_cell", [one for one in cells if is_task(one)], notebook.task_cells, [Grade, Comment]),
        ]
        for _, wanted, known, _ in kinds:
            _check_none_goes(lab, known, wanted)
        for kind, wanted, known, belongings in kinds:
            names = {one.name for one in known}
            for cell in (one for one in wanted if _name(one) not in names):
                details = {
                    "max_score": float(cell.metadata.nbgrader.get("points", 0)),
                    "cell_type": cell.cell_type,
                }
                add = getattr(gradebook, f"add_{kind}")
                added = add(_name(cell), lab, lab, **({} if kind == "solution_cell" else details))
                for submission in notebook.submissions:
                    for belonging in belongings:
                        # Nobody has to read what will be graded anew; that sets it where somebody has.
                        more = {"needs_manual_grade": False} if belonging is Grade else {}
                        gradebook.db.add(belonging(cell_id=added.id, notebook=submission, **more))
        for cell in list(notebook.source_cells):
            gradebook.db.delete(cell)
        gradebook.db.commit()
        for cell in cells:
            if is_grade(cell) or is_solution(cell) or is_locked(cell) or is_task(cell):
                text = {"cell_type": cell.cell_type, "locked": is_locked(cell), "source": cell.source}
                gradebook.add_source_cell(_name(cell), lab, lab, **text)


def _name(cell: Any) -> str:
    return str(cell.metadata.nbgrader["grade_id"])


def _check_none_goes(lab: str, known: Sequence[Any], wanted: Sequence[Any]) -> None:
    gone = sorted({one.name for one in known} - {_name(one) for one in wanted})
    if gone:
        raise NnoptError(
            f"lab {lab} was handed in, so points and comments of {', '.join(gone)} would be "
            "lost with the cell; nothing was changed. Keep it, with 0 points if it is not to count, or "
            "release the lab under another name."
        )


def _swap(course: Course, copy: Course, lab: str, writes: bytes) -> None:
    """Let the copy take the original's place; all files are on the disk already."""
    if _writes(course) != writes:
        raise NnoptError(
            f"{course.gradebook} was written meanwhile by another program, such as nbgrader's formgrader. "
            "Run again."
        )
    _copy_database(copy.gradebook, course.gradebook)
    with course.open_gradebook():  # notes what it holds now
        pass
    source = course.notebook("source", lab)
    made = copy.notebook("source", lab)
    source.parent.mkdir(parents=True, exist_ok=True)
    if not source.is_file() or source.read_bytes() != made.read_bytes():  # else its date stays, as its grades
        os.replace(made, source)
    released = course.notebook("release", lab).parent
    released.parent.mkdir(parents=True, exist_ok=True)
    if released.exists():
        os.replace(released, copy.folder / "old")
    os.replace(copy.notebook("release", lab).parent, released)
