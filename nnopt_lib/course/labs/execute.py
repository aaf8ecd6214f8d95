"""What nbgrader runs of ours when it grades: submissions in a sandbox, tests where no student's code runs.

nbgrader_config.py of a course names the lists below, so nbgrader's own commands and JupyterHub grade the same
way. A lab's tests run outside the student's kernel (`examine`); those of other assignments in it (`inside`).
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
from nbconvert.exporters import NotebookExporter
from nbconvert.preprocessors import ClearMetadataPreprocessor
from nbformat.v4 import new_markdown_cell
from nbgrader.preprocessors import (
    AssignLatePenalties,
    CheckCellMetadata,
    ClearOutput,
    DeduplicateIds,
    IgnorePattern,
    LimitOutput,
    NbGraderPreprocessor,
    OverwriteCells,
    OverwriteKernelspec,
    SaveAutoGrades,
)
from traitlets import Float, Int

from nnopt_lib.checks import NnoptError
from nnopt_lib.course.chapters.kernel import LANGUAGE
from nnopt_lib.course.labs.answers import NotTypedError
from nnopt_lib.course.labs.attempt import Attempt, Student, typed_in
from nnopt_lib.course.labs.examine import Examiner
from nnopt_lib.course.labs.flags import found
from nnopt_lib.course.labs.gradebook import Course
from nnopt_lib.course.labs.roster import whose
from nnopt_lib.course.labs.sandbox.sandbox import Limits, not_cut
from nnopt_lib.course.labs.submissions import RestoreCells, notebook_of, read_submission
from nnopt_lib.course.labs.trees import cells_of

MOST_OF_A_NAME = 500  # letters
MARK = "nnopt"  # our part of a notebook's metadata
_held_gradebook: Any = None  # the lock that a grading process of ours holds, but while a submission runs


class AnyNotebook(NotebookExporter):
    """nbgrader's reader of submissions, for every format and encoding that `read_submission` takes."""

    def from_filename(self, filename: str, resources: Any = None, **more: Any) -> tuple[Any, Any]:
        """Read and convert a notebook; what is none is refused in words."""
        path = Path(filename)
        content, problem = read_submission(path)
        if problem:
            raise NnoptError(f"{path.name} {problem}")
        resources = {} if resources is None else resources
        resources["metadata"] = {"name": path.stem, "path": str(path.parent)}
        return self.from_notebook_node(notebook_of(content), resources, **more)


class GuardedExecute(NbGraderPreprocessor):
    """Run a submission in a sandbox and its tests outside; the notebook's metadata says what came of it."""

    seconds = Float(Limits.seconds, help="time for a whole notebook").tag(config=True)
    memory_gib = Float(Limits.memory_gib, help="memory of all its processes").tag(config=True)
    processes = Int(Limits.processes, help="processes and threads").tag(config=True)
    file_mib = Int(Limits.file_mib, help="largest file that it may write").tag(config=True)
    threads = Int(
        1, help="threads for arithmetic; more would wait for each other where cores are shared"
    ).tag(config=True)

    def preprocess(self, nb: Any, resources: Any) -> tuple[Any, Any]:
        """Execute `nb`; a test that did not pass holds an error afterwards, one in part its points."""
        names = resources["nbgrader"]
        limits = Limits(self.seconds, self.memory_gib, self.processes, self.file_mib)
        started = time.monotonic()
        course = self._course()
        with _gradebook_free():
            attempt, words = self._attempt(course, names["assignment"], names["student"], nb, limits)
        notes = attempt.show()
        for cell in nb.cells:
            if cell.cell_type == "code":
                cell.outputs = _clean(cell.outputs)
        nb.metadata["language_info"] = LANGUAGE
        left_out = list(attempt.left_out.values())
        nb.metadata[MARK] = {
            **{"failure": attempt.failure, "left_out": left_out, "notes": notes, **words},
            **{"not_cut": not_cut(), "seconds": round(time.monotonic() - started, 1)},
        }
        for text in _notices(attempt.failure, left_out):
            nb.cells.insert(0, new_markdown_cell(text, id=f"notice-{len(nb.cells)}"))
        return nb, resources

    def _course(self) -> Course:
        owner = self.parent
        while not hasattr(owner, "coursedir"):
            owner = owner.parent
        return Course(Path(owner.coursedir.root))

    def _attempt(
        self, course: Course, lab: str, student: str, nb: Any, limits: Limits
    ) -> tuple[Attempt, dict[str, Any]]:
        """A notebook that was run and judged, and what the record says of its answers."""
        path = course.notebook("source", lab)
        source = nbformat.read(path, as_version=4) if path.is_file() else None
        if source is None or MARK not in source.metadata:
            attempt = Attempt(nb, Student(student, student), None, limits)
            attempt.run(self.threads, path.parent if path.is_file() else None)
            return attempt, {"flags": [], "typed": {}, "name": "own"}
        answers = _typed(nb.cells)
        name = answers.get("student")
        name = name if isinstance(name, str) and _is_name(name) else None
        belongs = whose(course, lab, student, name) if name else "own"
        # Numbers of a name that is nobody's were measured all the same; those of another's are another's.
        counted = name if name and belongs != "another's" else student
        accepted = counted if belongs == "own" else student
        with Examiner(source, counted, path.parent, self.threads) as examiner:
            attempt = Attempt(nb, Student(student, accepted), examiner, limits)
            attempt.run(self.threads, path.parent)
        computed = [f"{name} was computed, not typed" for name in sorted(attempt.computed)]
        computed += [f"{name} changes what it is given" for name in sorted(examiner.changing)]
        tests = list(examiner.needs)
        own, solution = (cells_of(nbformat.writes(one).encode(), tests) for one in (nb, source))
        flags = [*computed, *found(own, solution)]
        return attempt, {"flags": flags, "typed": answers, "name": belongs}


RESTORED = [ClearOutput, RestoreCells, DeduplicateIds, OverwriteKernelspec, OverwriteCells, CheckCellMetadata]
GUARDED = [
    *(GuardedExecute, IgnorePattern, ClearMetadataPreprocessor, LimitOutput),
    *(SaveAutoGrades, AssignLatePenalties, CheckCellMetadata),
]


def _typed(cells: list[Any]) -> dict[str, Any]:
    """What was typed for the name and the numbers, as JSON can hold it."""
    answers = {}
    for name in ("student", "numbers"):
        with contextlib.suppress(KeyError, NotTypedError, RecursionError):
            answers[name] = typed_in(cells, name)
    return dict(json.loads(json.dumps(answers, default=str, skipkeys=True)))


def _is_name(text: str) -> bool:
    """Whether a seed can be drawn from this and an environment hold it; no name of anybody's is refused."""
    written = text.encode(errors="replace").decode()
    return bool(text.strip()) and len(text) <= MOST_OF_A_NAME and text == written and "\0" not in text


def _notices(failure: str, left_out: list[str]) -> list[str]:
    notices = [f"**Left out: {one}.** The other cells ran without it." for one in left_out]
    if failure:
        stopped = f"**Grading stopped: this notebook {failure}.** What had run until then was graded."
        return [*notices, stopped]
    return notices


def _clean(outputs: list[Any]) -> list[Any]:
    """The outputs that are what the format asks for, and can be written as UTF-8."""
    kept = []
    for output in outputs:
        with contextlib.suppress(nbformat.ValidationError, ValueError, RecursionError):
            text = json.dumps(output, ensure_ascii=False, allow_nan=False).encode(errors="replace").decode()
            clean = nbformat.from_dict(json.loads(text))
            nbformat.validate(clean, ref="output", version=4)
            kept.append(clean)
    return kept


@contextlib.contextmanager
def gradebook_held(lock: Any) -> Iterator[None]:
    """Say, for a with statement, which lock on the gradebook to let go of while a submission runs.

    A variable of this module, since nbgrader makes the steps itself, from the classes in a configuration
    file, and copies whatever value a configuration sets: a copy of a lock would be another lock.
    """
    global _held_gradebook
    _held_gradebook = lock
    try:
        yield
    finally:
        _held_gradebook = None


@contextlib.contextmanager
def _gradebook_free() -> Iterator[None]:
    """Let the other grading processes at the gradebook meanwhile; nbgrader's own commands hold no lock."""
    if _held_gradebook is None:
        yield
        return
    _held_gradebook.release()
    try:
        yield
    finally:
        _held_gradebook.acquire()
