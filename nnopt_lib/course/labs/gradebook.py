"""A class's folder as nbgrader knows it: its configuration, its gradebook, where everything lies in it."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import shutil
import sqlite3
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from nnopt_lib.checks import NnoptError, nearest, refuse
from nnopt_lib.course.labs.late import read_policy
from nnopt_lib.course.labs.untouched import check_untouched, remember
from nnopt_lib.files import write_atomically

CONFIGURATION = "nbgrader_config.py"
# Read by nbgrader's own commands and by JupyterHub too, so that they grade in the same sandbox.
SETTINGS = """\
# Made by nnopt labs release, for nbgrader's commands as well; yours to change.
import os

from nnopt_lib.course.labs.execute import GUARDED, RESTORED, AnyNotebook
from nnopt_lib.course.labs.feedback import PAGES

c = get_config()
c.CourseDirectory.root = os.path.dirname(os.path.abspath(__file__))
c.CourseDirectory.course_id = os.path.basename(c.CourseDirectory.root)
c.ClearSolutions.code_stub = {"python": 'raise NotImplementedError("your code here")'}
c.Autograde.sanitize_preprocessors = RESTORED  # cells and their points as they were released
c.Autograde.autograde_preprocessors = GUARDED  # submissions run in a sandbox
c.Autograde.exporter_class = AnyNotebook  # whatever program wrote them
c.HTMLExporter.sanitize_html = True  # no program of a student's in the pages that you and they read
c.GenerateFeedback.preprocessors = PAGES  # hidden tests stay hidden; nnopt labs report has an option
c.AssignLatePenalties.plugin_class = "nnopt_lib.course.labs.late.LateWork"
c.LateWork.policy = ""  # what late work costs, as "grace 15 min, 10 % a day, at most 50 %"
"""


@dataclasses.dataclass(frozen=True)
class Marks:
    """What the gradebook holds of one submission: points by cell, what is taken off for being late."""

    points: Mapping[str, float]
    penalty: float
    seconds_late: float
    unread: tuple[str, ...]  # cells whose points only a person can give, and nobody has
    look_again: tuple[str, ...]  # cells with points by hand that were graded again since


@dataclasses.dataclass(frozen=True)
class Course:
    """One class: `folder` holds nbgrader_config.py, source/, release/, submitted/, autograded/, feedback/."""

    folder: Path

    @property
    def gradebook(self) -> Path:
        """The database of points, written by the grader alone."""
        return self.folder / "gradebook.db"

    def notebook(self, step: str, lab: str, student: str = "") -> Path:
        """Where a lab's notebook lies in one of nbgrader's steps, as ``submitted``."""
        return self.folder / step / student / lab / f"{lab}.ipynb"

    def record(self, lab: str, student: str) -> Path:
        """How grading one submission ended, with the hash of what was graded."""
        return self.folder / "graded" / lab / f"{student}.json"

    def students(self, lab: str) -> list[str]:
        """Who handed in this lab, by name."""
        return sorted(path.parents[1].name for path in self.folder.glob(f"submitted/*/{lab}/{lab}.ipynb"))

    def api(self, extra: Mapping[str, Any] | None = None) -> Any:
        """nbgrader on this folder, with its configuration file read and `extra` settings on top."""
        from nbgrader.apps.api import NbGraderAPI
        from traitlets.config import Config
        from traitlets.config.loader import PyFileConfigLoader

        _know_the_gradebooks_version()
        try:
            config = PyFileConfigLoader(CONFIGURATION, path=str(self.folder)).load_config()
        except Exception as error:  # the teacher's own program: anything may happen in it
            what = f"{type(error).__name__}: {error}"
            refuse(f"{self.folder / CONFIGURATION} must be a configuration that nbgrader can read", what)
        read_policy(config.LateWork.get("policy", ""))  # refused now, not once for each student
        if config.LateWork.get("policy"):  # a folder of before names no plugin
            config.AssignLatePenalties.setdefault("plugin_class", "nnopt_lib.course.labs.late.LateWork")
        config.merge(Config({"CourseDirectory": {"root": str(self.folder)}}))
        config.merge(Config(dict(extra or {})))
        return NbGraderAPI(config=config)

    def points(self, lab: str) -> dict[str, dict[str, float]]:
        """Points by student and cell, from the gradebook; what a teacher gave by hand counts."""
        with self.open_gradebook() as gradebook:
            submissions = gradebook.assignment_submissions(lab)
            return {
                one.student.id: {
                    grade.name: grade.score or 0.0 for book in one.notebooks for grade in book.grades
                }
                for one in submissions
            }

    def marks(self, lab: str) -> dict[str, Marks]:
        """All that the gradebook holds of a lab's submissions, by student."""
        with self.open_gradebook() as gradebook:
            return {one.student.id: _marks(one) for one in gradebook.assignment_submissions(lab)}

    def due(self, lab: str) -> datetime.datetime | None:
        """When a lab is due, in UTC."""
        with self.open_gradebook() as gradebook:
            due = gradebook.find_assignment(lab).duedate
            return None if due is None else due.replace(tzinfo=datetime.UTC)

    def set_due(self, lab: str, due: datetime.datetime | None) -> None:
        """Write down when a released lab is due, where nbgrader's own commands find it."""
        with self.open_gradebook() as gradebook:
            gradebook.find_assignment(lab).duedate = due and due.astimezone(datetime.UTC).replace(tzinfo=None)
            gradebook.db.commit()

    def assign_penalties(self, lab: str) -> None:
        """Take off anew what late work costs, since points given by hand count too, as do extensions."""
        from nbgrader.preprocessors import AssignLatePenalties

        assigning = AssignLatePenalties(parent=self.api())
        assigning.init_plugin()  # the course's own, as nbgrader would take it
        with self.open_gradebook() as gradebook:
            for submission in gradebook.assignment_submissions(lab):
                late = submission.total_seconds_late
                for book in submission.notebooks:
                    cost = (
                        assigning.plugin_inst.late_submission_penalty(submission.student.id, book.score, late)
                        if late > 0
                        else None
                    )
                    book.late_submission_penalty = None if cost is None else min(max(0.0, cost), book.score)
            gradebook.db.commit()

    def name_students(self, names: Mapping[str, str]) -> None:
        """Let nbgrader know what students are called, those of whom it has a submission."""
        with self.open_gradebook() as gradebook:
            for student in gradebook.students:
                if student.id in names:
                    *first, last = (names[student.id].replace(",", " ").split()) or [""]
                    # Nothing that a spreadsheet would take for a formula: nbgrader exports names as they are.
                    student.first_name = " ".join(first).lstrip("=+-@") or None
                    student.last_name = last.lstrip("=+-@") or None
            gradebook.db.commit()

    def most_points(self, lab: str) -> dict[str, float]:
        """The most that each graded cell of a lab can give, in the lab's order; refuses one not released."""
        from nbgrader.api import MissingEntry

        with self.open_gradebook() as gradebook:
            try:
                notebooks = gradebook.find_assignment(lab).notebooks
                most = {cell.name: float(cell.max_score) for book in notebooks for cell in book.grade_cells}
                order = [cell.name for book in notebooks for cell in book.source_cells]
            except MissingEntry:
                names = [one.name for one in gradebook.assignments]
                remedy = nearest(lab, names) if names else f"nnopt labs release {lab} --course {self.folder}."
                refuse(f"{lab!r} must be a lab that was released in {self.folder}", None, remedy)
            return {name: most[name] for name in order if name in most}

    def give_zero(self, lab: str, student: str) -> None:
        """Zero points for a submission that could not be graded, as nbgrader gives a missing one."""
        with self.open_gradebook() as gradebook, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of nbgrader's database layer
            gradebook.update_or_create_student(student)
            submission = gradebook.update_or_create_submission(lab, student)
            for grade in (grade for book in submission.notebooks for grade in book.grades):
                grade.auto_score, grade.needs_manual_grade = 0, False
            gradebook.db.commit()
        shutil.rmtree(
            self.notebook("autograded", lab, student).parent, ignore_errors=True
        )  # of an earlier one

    @contextlib.contextmanager
    def open_gradebook(self) -> Iterator[Any]:
        """nbgrader's Gradebook on the course's database, for a with statement."""
        from nbgrader.api import Gradebook
        from sqlalchemy.exc import DatabaseError

        try:
            check_untouched(self.gradebook)
            with Gradebook(f"sqlite:///{self.gradebook}") as gradebook:
                yield gradebook
            remember(self.gradebook)
        # The last where a damaged file gives SQLite's own message bytes that are no text.
        except (DatabaseError, sqlite3.DatabaseError, UnicodeDecodeError) as error:
            raise NnoptError(
                f"{self.gradebook} could not be read or written: {getattr(error, 'orig', error)}. Free some "
                "space, make its folder writable, or put back a copy of it, and run again."
            ) from error


def open_course(folder: Path) -> Course:
    """The course in `folder`; refuses a folder that is none."""
    if not (folder / CONFIGURATION).is_file():
        received = f"{folder}, which {'has none' if folder.is_dir() else 'is no folder'}"
        remedy = f"nnopt labs release --course {folder} makes one."
        refuse(f"--course must name a folder with {CONFIGURATION} in it", received, remedy)
    return Course(folder.resolve())


def make_course(folder: Path) -> Course:
    """The course in `folder`, made if there is nothing yet; refuses a folder that holds other things."""
    if (folder / CONFIGURATION).is_file():
        return open_course(folder)
    if folder.exists() and not folder.is_dir():
        refuse("--course must name a folder", f"{folder}, which is a file")
    if folder.is_dir() and any(folder.iterdir()):
        rule = f"--course must name a new or empty folder, or one with {CONFIGURATION} in it"
        refuse(rule, f"{folder}, which holds other things", "Name another one.")
    write_atomically(folder / CONFIGURATION, SETTINGS)
    return Course(folder.resolve())


def _marks(submission: Any) -> Marks:
    grades = [grade for book in submission.notebooks for grade in book.grades]
    waiting = [grade for grade in grades if grade.needs_manual_grade]
    return Marks(
        {grade.name: grade.score or 0.0 for grade in grades},
        submission.late_submission_penalty or 0.0,
        submission.total_seconds_late,
        tuple(grade.name for grade in waiting if grade.manual_score is None and grade.auto_score is None),
        tuple(grade.name for grade in waiting if grade.manual_score is not None),
    )


def _know_the_gradebooks_version() -> None:
    """Let nbgrader read the version of its gradebook from its own files.

    It would ask a program called alembic, which is on no path where the environment was not activated.
    Its Gradebook takes neither the version nor the program's path as an argument, so the function that asks
    is replaced in nbgrader's module; the answer is the same.
    """
    import nbgrader.api
    from alembic.script import ScriptDirectory
    from nbgrader.dbutil import ALEMBIC_DIR

    nbgrader.api.get_alembic_version = lambda: ScriptDirectory(ALEMBIC_DIR).get_current_head()


def run(what: str, result: Mapping[str, Any]) -> None:
    """Pass on what nbgrader's API answered: nothing where it worked, else one sentence from its log."""
    if not result["success"]:
        raise NnoptError(f"{what}: {last_error(result)}.")


def last_error(result: Mapping[str, Any]) -> str:
    """The line of nbgrader's log that says what went wrong."""
    lines = [*_lines(result.get("error")), *_lines(result.get("log"))]
    errors = [line for line in lines if "Error" in line and not line.startswith(("File ", "raise "))]
    return (errors or lines or ["nbgrader said nothing"])[-1].rstrip(".")


def _lines(text: str | None) -> Iterator[str]:
    return (line.strip() for line in (text or "").splitlines() if line.strip())
