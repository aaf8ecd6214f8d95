"""Grade a class: each submission in a process of its own, some at a time, going on where it stopped.

A record per submission, written when its points are in the gradebook, says how it ended; only what has none
is graded. A full or read-only disk stops grading and is nobody's failure.
"""

from __future__ import annotations

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
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any, NoReturn

from nnopt_lib.checks import NnoptError, check_int, nearest, refuse
from nnopt_lib.course.labs.gradebook import Course
from nnopt_lib.course.labs.sandbox.sandbox import Limits, check_python
from nnopt_lib.course.labs.submissions import LARGEST, another_labs, read_submission
from nnopt_lib.course.processes import be_silent
from nnopt_lib.experiments.records import is_sealed, sealed
from nnopt_lib.files import hash_of, lock, write_atomically

LEAVING_SECONDS = 10
GRACE_SECONDS = 90  # for all that is not the notebook's own time: a start, the gradebook, its turn
BEGUN = b"begun"
PRELOADED = [
    *("nnopt_lib.course.labs.grade", "nnopt_lib.course.labs.execute", "nbgrader.apps.api"),
    *("alembic.script", "sqlalchemy.dialects.sqlite", "sqlite3"),
    # What labs use, so that their own solutions start warm; no thread of theirs runs before the fork.
    *("matplotlib.pyplot", "torch", "nnopt_lib.backends.torch.fit", "nnopt_lib.measure"),
    *("scipy.stats", "scipy.ndimage", "scipy.interpolate", "sklearn.datasets"),
]
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
            if one in students or (not students and not _is_graded(course, lab, one, limits))
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
    """How grading this very submission, against this very lab, ended; None where it was not graded."""
    with contextlib.suppress(OSError, ValueError):
        record = json.loads(course.record(lab, student).read_text(encoding="utf-8"))
        if is_sealed(record) and record.get("of") == _identity(course, lab, student):
            return record
    return None


def _is_graded(course: Course, lab: str, student: str, limits: Limits) -> bool:
    """Whether a submission has its grade; one that failed has it for the same limits only."""
    record = read_record(course, lab, student)
    return record is not None and (not record["failure"] or record["limits"] == dataclasses.asdict(limits))


def _identity(course: Course, lab: str, student: str) -> str:
    """A hash of what was handed in and of the lab, so that a change of either is graded anew."""
    contents = []
    for path in (course.notebook("source", lab), course.notebook("submitted", lab, student)):
        try:
            ordinary = stat.S_ISREG(path.lstat().st_mode)
            with open(path, "rb") if ordinary else contextlib.nullcontext() as file:
                contents.append(file.read(LARGEST + 1) if file else b"")
        except OSError as error:
            contents.append(str(error.strerror).encode())
    return hash_of(*contents)


def _grade_all(course: Course, lab: str, limits: Limits, jobs: int, todo: Sequence[str]) -> dict[str, str]:
    from tqdm import tqdm

    check_python()
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
                    future = pool.submit(_in_new_process, course, lab, student, limits, alive)
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
    kept = {key: value for key, value in answer.items() if key != "zero"}
    record = sealed({"finished_at": finished, "limits": dataclasses.asdict(limits), **kept})
    write_atomically(course.record(lab, student), json.dumps(record, indent=1, ensure_ascii=False) + "\n")
    return str(answer["failure"])


def _in_new_process(
    course: Course, lab: str, student: str, limits: Limits, alive: set[Any]
) -> dict[str, Any]:
    """What the process that grades one submission answers, or that it came to an end without."""
    # A forkserver loads nbgrader once for all submissions, and unlike fork copies no thread's locks.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    receiving, sending = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(sending, course.folder, lab, student, limits))
    graded = {"of": _identity(course, lab, student)}  # what is handed in from now on is graded another time
    process.start()
    alive.add(process)
    sending.close()
    begun = answered = False
    try:
        begun = receiving.poll(GRACE_SECONDS) and receiving.recv_bytes() == BEGUN
        answered = begun and receiving.poll(limits.seconds + GRACE_SECONDS)
        if answered:
            return {**graded, **json.loads(receiving.recv_bytes())}
        failure = "kept the grader waiting"
    except EOFError:
        failure = "brought its grading process to an end, as too much output does"
    finally:
        process.join(10 if answered else 0)
        process.kill()
        process.join()
        alive.discard(process)
        receiving.close()
    if not begun:  # it had not looked at the submission yet
        return {"trouble": "a grading process did not start"}
    return graded | _ended(failure, zero=True)


def _ended(failure: str, *, zero: bool = False) -> dict[str, Any]:
    nothing: dict[str, Any] = {"left_out": [], "notes": {}, "flags": [], "typed": {}, "name": "own"}
    return {"failure": failure, "not_cut": [], "seconds": 0.0, **nothing, "zero": zero}


def _work(pipe: Any, folder: Path, lab: str, student: str, limits: Limits) -> None:
    """The process of one submission: nbgrader's autograde with our steps, its answer sent as JSON."""
    signal.signal(signal.SIGTERM, _leave)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _limit_memory()
    pipe.send_bytes(BEGUN)
    warnings.simplefilter("ignore")  # nbgrader's own, as of its database; nothing that a teacher could change
    try:
        answer = _autograde(Course(folder), lab, student, limits)
    except Exception as error:
        trouble = _trouble_of(error)
        what = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        answer = {"trouble": trouble} if trouble else _ended(f"could not be graded: {what}", zero=True)
    pipe.send_bytes(_sent(answer))


def _sent(answer: Mapping[str, Any]) -> bytes:
    # Halves of letters, which Python can hold and no file, may stand in what a student typed or raised.
    return json.dumps(answer, ensure_ascii=False).encode(errors="replace")


def _leave(*_: Any) -> NoReturn:
    """End by an exception, so that the sandbox is taken down on the way."""
    be_silent()
    sys.exit(1)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(LEAVING_SECONDS)
        os._exit(1)  # the exception met something that swallows all, as Python's finalizers do


def _limit_memory() -> None:
    """What a submission prints must not fill the machine through the process that reads it."""
    import resource

    hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
    with contextlib.suppress(ValueError, OSError):  # not every system knows it
        resource.setrlimit(resource.RLIMIT_DATA, (4 * 2**30, hard))


def _autograde(course: Course, lab: str, student: str, limits: Limits) -> dict[str, Any]:
    import nbformat
    from nbgrader.utils import temp_attrs

    from nnopt_lib.course.labs.execute import AnyNotebook, gradebook_held

    content, problem = read_submission(course.notebook("submitted", lab, student))
    if not problem:
        problem = another_labs(content, list(course.most_points(lab)))
    if problem:
        return _ended(problem, zero=True)
    settings = dataclasses.asdict(limits)
    held = lock(course.gradebook)
    with held, gradebook_held(held.lock):
        api = course.api({"GuardedExecute": settings, "Autograde": {"exporter_class": AnyNotebook}})
        converter = _remembering_autograde()(coursedir=api.coursedir, parent=api)
        converter.force = True  # else nbgrader would skip what has a grade and is not newer
        # Escaped, since nbgrader takes the name for a pattern of names of files: a folder may be called [x].
        with temp_attrs(api.coursedir, assignment_id=lab, student_id=glob.escape(student)):
            try:
                converter.start()
            except Exception as error:
                raise (converter.error or error) from None
    ending = nbformat.read(course.notebook("autograded", lab, student), as_version=4).metadata["nnopt"]
    return {**_ended(""), **ending}


def _remembering_autograde() -> Any:
    """nbgrader's Autograde with its first error kept, since it logs that one and raises something else."""
    from nbgrader.converters import Autograde

    class Remembering(Autograde):
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

    return Remembering


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
