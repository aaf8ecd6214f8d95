"""Grade a class: each submission in a process of its own, some at a time, going on where it stopped.

A record per submission, written when its points are in the gradebook, says how it ended; only what has none
is graded. A full or read-only disk stops grading and is nobody's failure.
"""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import datetime
import errno
import glob
import json
import multiprocessing
import os
import signal
import stat
import sys
import threading
import warnings
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any, NoReturn

from nnopt_lib.checks import NnoptError, check_int, nearest, refuse
from nnopt_lib.course import Course, hash_of
from nnopt_lib.sandbox import MIB, Limits, check_python
from nnopt_lib.store import lock, write_atomically

LARGEST = 20 * MIB  # of a submitted notebook
GRACE_SECONDS = 90  # for all that is not the notebook's own time: a start, the gradebook, its turn
BEGUN = b"begun"
DISK = {errno.ENOSPC, errno.EROFS, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EPERM, errno.EIO}


def grade(
    course: Course, lab: str, limits: Limits, *, jobs: int = 2, students: Sequence[str] = ()
) -> dict[str, str]:
    """Grade what is not graded yet, or `students` whatever was; returns each failure by student, "" for none.

    Refuses a lab that was not released, unknown students, a class without submissions, a Python that does not
    start in the sandbox. When the disk is full or read-only, what was graded until then is kept.
    """
    check_int("--jobs", jobs, at_least=1)
    known = submitted(course, lab)
    for student in students:
        if student not in known:
            refuse(f"there is no submission of {student!r}", None, nearest(student, known))
    with contextlib.ExitStack() as stack:
        held = lock(course.folder / "grading", timeout=0)
        if held is None:
            raise NnoptError(f"{course.folder} is being graded by another process. Wait until it has ended.")
        stack.enter_context(held)
        todo = [
            one
            for one in known
            if one in students or (not students and not is_graded(course, lab, one, limits))
        ]
        return _grade_all(course, lab, limits, jobs, todo) if todo else {}


def submitted(course: Course, lab: str) -> list[str]:
    """Who handed in a lab; refuses a lab that was not released, and a class of which nobody did."""
    course.most_points(lab)
    students = course.students(lab)
    if not students:
        remedy = f"nnopt labs collect {lab} FOLDER --course {course.folder} takes them in."
        refuse(f"somebody must have handed in {lab}", f"no notebook in {course.folder / 'submitted'}", remedy)
    return students


def read_record(course: Course, lab: str, student: str) -> dict[str, Any] | None:
    """How grading one submission ended; None where there is no record that can be read."""
    with contextlib.suppress(OSError, ValueError):
        record = json.loads(course.record(lab, student).read_text(encoding="utf-8"))
        return record if isinstance(record, dict) and isinstance(record.get("failure"), str) else None
    return None


def is_graded(course: Course, lab: str, student: str, limits: Limits) -> bool:
    """Whether this submission was graded, against this very lab; a failure counts for its limits only."""
    record = read_record(course, lab, student)
    if record is None or record.get("of") != _identity(course, lab, student):
        return False
    return not record["failure"] or record.get("limits") == dataclasses.asdict(limits)


def _identity(course: Course, lab: str, student: str) -> str:
    content, problem = read_submission(course.notebook("submitted", lab, student))
    return hash_of(course.notebook("source", lab).read_bytes(), content, problem)


def _grade_all(course: Course, lab: str, limits: Limits, jobs: int, todo: Sequence[str]) -> dict[str, str]:
    from tqdm import tqdm

    check_python()
    threads = max(1, (os.cpu_count() or 1) // jobs)
    failures: dict[str, str] = {}
    alive: set[Any] = set()
    quiet = os.environ.get("NNOPT_PROGRESS") == "0"
    bar = tqdm(total=len(todo), desc=f"grading {lab}", unit="", disable=quiet)
    with ThreadPoolExecutor(jobs) as pool, bar:
        waiting: dict[Future, str] = {}
        left = iter(todo)
        try:
            while True:
                for student in left:
                    future = pool.submit(_in_own_process, course, lab, student, limits, threads, alive)
                    waiting[future] = student
                    if len(waiting) == jobs:
                        break
                if not waiting:
                    return failures
                for future in wait(waiting, return_when=FIRST_COMPLETED).done:
                    student = waiting.pop(future)
                    failures[student] = _write_down(course, lab, student, limits, future.result())
                    bar.update()
        finally:
            for process in list(alive):
                process.terminate()


def _write_down(course: Course, lab: str, student: str, limits: Limits, answer: Mapping[str, Any]) -> str:
    """Make the record of one submission from what its process answered; returns the failure."""
    if "trouble" in answer:
        _stop(student, answer["trouble"])
    if answer.get("zero"):
        try:
            with lock(course.gradebook):
                course.give_zero(lab, student)
        except Exception as error:
            _stop(student, _trouble_of(error) or f"{type(error).__name__}: {error}")
    finished = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    record = {
        **{"of": _identity(course, lab, student), "limits": dataclasses.asdict(limits)},
        **{"finished_at": finished, **{key: value for key, value in answer.items() if key != "zero"}},
        "typed": typed_literals(course.notebook("submitted", lab, student)),
    }
    write_atomically(course.record(lab, student), json.dumps(record, indent=1, ensure_ascii=False) + "\n")
    return str(answer["failure"])


def _in_own_process(
    course: Course, lab: str, student: str, limits: Limits, threads: int, alive: set[Any]
) -> dict[str, Any]:
    """What the process that grades one submission answers, or that it came to an end without."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["nnopt_lib.lab_grading", "nnopt_lib.lab_execution", "nbgrader.apps.api"])
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(theirs, course.folder, lab, student, limits, threads))
    process.start()
    alive.add(process)
    theirs.close()
    begun = answered = False
    try:
        begun = ours.poll(GRACE_SECONDS) and ours.recv_bytes() == BEGUN
        answered = ours.poll(limits.seconds + GRACE_SECONDS)
        if answered:
            return dict(json.loads(ours.recv_bytes()))
        return _ended("kept the grader waiting", zero=True)
    except EOFError:
        if not begun:  # before it looked at the submission
            return {"trouble": "a grading process did not start"}
        return _ended("brought its grading process to an end, as too much output does", zero=True)
    finally:
        process.join(10 if answered else 0)
        process.kill()
        process.join()
        alive.discard(process)
        ours.close()


def _ended(failure: str, *, zero: bool = False, **more: Any) -> dict[str, Any]:
    return {"failure": failure, "not_cut": [], "seconds": 0.0, "zero": zero, **more}


def _work(pipe: Any, folder: Path, lab: str, student: str, limits: Limits, threads: int) -> None:
    """The process of one submission: nbgrader's autograde with our steps, its answer sent as JSON."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the sandbox is taken down
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _limit_memory()
    pipe.send_bytes(BEGUN)
    warnings.simplefilter("ignore")  # nbgrader's own, as of its database; nothing that a teacher could change
    try:
        answer = _autograde(Course(folder), lab, student, limits, threads)
    except Exception as error:
        trouble = _trouble_of(error)
        what = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        answer = {"trouble": trouble} if trouble else _ended(f"could not be graded: {what}", zero=True)
    pipe.send_bytes(json.dumps(answer).encode())


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)


def _limit_memory() -> None:
    """What a submission prints must not fill the machine through the process that reads it."""
    import resource

    hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
    resource.setrlimit(resource.RLIMIT_DATA, (2 * 2**30, hard))


def _autograde(course: Course, lab: str, student: str, limits: Limits, threads: int) -> dict[str, Any]:
    import nbformat
    from nbgrader.converters import Autograde
    from nbgrader.utils import temp_attrs

    from nnopt_lib import lab_execution

    _, problem = read_submission(course.notebook("submitted", lab, student))
    if problem:
        return _ended(problem, zero=True)
    settings = {**dataclasses.asdict(limits), "threads": threads}

    class Remembering(Autograde):  # nbgrader logs what went wrong, and raises something else
        error: Exception | None = None

        def init_assignment(self, *names: str) -> None:
            with self._remembering():
                super().init_assignment(*names)

        def convert_single_notebook(self, name: str) -> None:
            with self._remembering():
                super().convert_single_notebook(name)

        @contextlib.contextmanager
        def _remembering(self) -> Iterator[None]:
            try:
                yield
            except Exception as error:
                self.error = error
                raise

    held = lock(course.gradebook)
    lab_execution.gradebook_lock = held.lock
    with held:
        api = course.api({"GuardedExecute": settings})
        converter = Remembering(coursedir=api.coursedir, parent=api)
        converter.force = True
        with temp_attrs(api.coursedir, assignment_id=lab, student_id=glob.escape(student)):
            try:
                converter.start()
            except Exception as error:
                raise (converter.error or error) from None
    ending = nbformat.read(course.notebook("autograded", lab, student), as_version=4).metadata["nnopt"]
    return _ended(ending["failure"]) | {"not_cut": ending["not_cut"], "seconds": ending["seconds"]}


def _trouble_of(error: BaseException | None) -> str:
    """What the disk, the gradebook or a kernel that did not start said, where one is behind `error`."""
    import sqlalchemy

    while error is not None:
        if isinstance(error, sqlalchemy.exc.OperationalError):
            return str(error.orig)
        if isinstance(error, OSError) and error.errno in DISK:
            return f"{error.strerror}: {error.filename or 'gradebook'}"
        if isinstance(error, NnoptError):
            return str(error).rstrip(".")
        error = error.__cause__ or error.__context__
    return ""


def _stop(student: str, trouble: str) -> NoReturn:
    raise NnoptError(
        f"Grading stopped at {student}, through no fault of the submission: {trouble}. "
        "Mend that, as by freeing space, and run again; what was graded is kept."
    )


def read_submission(path: Path) -> tuple[bytes, str]:
    """The content of a submitted notebook, and what is wrong with it in words, empty where nothing is."""
    import nbformat

    try:
        if not stat.S_ISREG(path.lstat().st_mode):
            return b"", "is not a notebook: it is no ordinary file"
        with open(path, "rb") as file:
            content = file.read(LARGEST + 1)
        if len(content) > LARGEST:
            return content, f"is larger than {LARGEST // MIB} MiB"
        notebook = nbformat.reads(content.decode(), as_version=4)
        if not notebook.cells:
            return content, "is not a notebook: it has no cells"
        nbformat.validate(nbformat.validator.normalize(notebook)[1], relax_add_props=True)
        json.dumps(notebook, ensure_ascii=False).encode()
    except OSError as error:
        return b"", f"could not be read: {error.strerror}"
    except Exception as error:  # readers of notebooks share no base class for what they cannot read
        what = " ".join(str(error).split())[:100] or type(error).__name__
        return content, f"is not a notebook: {what}"
    return content, ""


def typed_literals(path: Path) -> dict[str, Any]:
    """What a student typed for `student` and `numbers`; only literals, so that nothing is executed."""
    content, problem = read_submission(path)
    typed: dict[str, Any] = {}
    for cell in json.loads(content)["cells"] if not problem else []:
        name = (cell.get("metadata", {}).get("nbgrader") or {}).get("grade_id")
        if name in ("student", "numbers"):
            with contextlib.suppress(SyntaxError, ValueError, RecursionError, MemoryError):
                for node in ast.parse("".join(cell["source"])).body:
                    if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == name:
                        typed[name] = ast.literal_eval(node.value)
    return json.loads(json.dumps(typed, default=str))
