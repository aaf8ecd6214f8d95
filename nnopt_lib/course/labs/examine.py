"""The trusted side of grading: the lab's own solution, run as the student, and tests of the student's work.

The tests never meet the student's kernel. What they take from it are values, as data, and stand-ins for
functions, that carry each call over and bring the result back, as data, too.
"""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import io
import math
import os
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from nbgrader.utils import is_grade, is_solution

from nnopt_lib.checks import NnoptError
from nnopt_lib.course.labs.kernel import BrokenKernelError, NotDataError
from nnopt_lib.course.labs.submissions import name_of

STUDENT = "NNOPT_STUDENT"
Call = Callable[[str, Sequence[Any], Mapping[str, Any]], Any]


@dataclasses.dataclass(frozen=True)
class Judgement:
    """How a test ended: whether it ran to its end, the points if it gave any, and a sentence."""

    passed: bool
    points: float | None = None
    sentence: str = ""
    printed: str = ""


class Examiner:
    """A lab's source run as one student, for a with statement; `judge` runs a test of it.

    Parameters:
        source: the lab's notebook with its solution and hidden tests.
        student: the name from whose seed everything is drawn.
        files: the folder of files handed out with the lab.
    """

    def __init__(self, source: Any, student: str, files: Path | None = None, threads: int = 1) -> None:
        self.student = student
        self._cells = [cell for cell in source.cells if cell.cell_type == "code"]
        self._files, self._threads = files, threads
        self.exports = frozenset(
            name for cell in self._cells if is_solution(cell) for name in assigned(cell.source)
        )
        self.needs = {
            str(name_of(cell)): used(cell.source) & self.exports for cell in self._cells if is_test(cell)
        }
        self._base: dict[str, Any] = {}
        self._kept: dict[str, Any] = {}

    def __enter__(self) -> Examiner:
        with contextlib.ExitStack() as stack:
            folder = stack.enter_context(tempfile.TemporaryDirectory())
            stack.enter_context(_surroundings(folder, self.student, self._files, self._threads))
            self._base = {"__name__": "lab", "__builtins__": __builtins__}
            for cell in self._cells:
                if not is_test(cell):
                    _run_own(cell, self._base)
            self._base["solution"] = {name: self._base[name] for name in self.exports if name in self._base}
            self._leave = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._leave.close()

    @property
    def solution(self) -> dict[str, Any]:
        """What the solution's own cells define: its answers and its functions."""
        return dict(self._base["solution"])

    def is_function(self, name: str) -> bool:
        """Whether the solution has a function under this name, so that the student's is to be called."""
        return callable(self._base.get(name))

    def stand_in(self, name: str, call: Call) -> Callable[..., Any]:
        """A function that a test calls in place of the student's: the call is carried over as data.

        An empty result is refused where the solution's is not: an empty array is close to any other, and a
        loop over nothing finds nothing wrong.
        """

        def carried(*arguments: Any, **options: Any) -> Any:
            result = call(name, arguments, options)
            if _is_empty(result) and not _is_empty(self._base[name](*arguments, **options)):
                raise NotDataError(f"{name} returned something empty")
            return result

        carried.__name__ = carried.__qualname__ = name
        return carried

    def judge(self, source: str, exported: Mapping[str, Any], student: str) -> Judgement:
        """Run a test with these values and stand-ins of the student's, `student` being who handed in."""
        namespace = {**self._base, **self._kept, **exported}
        output = io.StringIO()
        before = os.environ[STUDENT]
        os.environ[STUDENT] = student
        try:
            with contextlib.redirect_stdout(output), contextlib.redirect_stderr(io.StringIO()):
                value = _execute(source, namespace)
        except BrokenKernelError:
            raise
        except Exception as error:
            return Judgement(False, None, _sentence(error, source), output.getvalue())
        finally:
            os.environ[STUDENT] = before
        known = {*self._base, *exported}
        self._kept.update({name: value for name, value in namespace.items() if name not in known})
        points = float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None
        losses = "; ".join(getattr(value, "losses", ()))
        if points is not None and not math.isfinite(points):
            points = 0.0
        return Judgement(True, points, losses, output.getvalue())


def is_test(cell: Any) -> bool:
    """Whether a code cell tests what students do: it gives points and is not theirs to write."""
    return bool(cell.cell_type == "code" and is_grade(cell) and not is_solution(cell))


def assigned(source: str) -> set[str]:
    """The names that a cell gives a meaning to at its top level."""
    names: set[str] = set()
    for node in _body(source):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            names.add(node.name)
        elif isinstance(node, (ast.Assign, ast.AnnAssign, ast.AugAssign)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names |= {one.id for target in targets for one in ast.walk(target) if isinstance(one, ast.Name)}
    return names


def used(source: str) -> set[str]:
    """The names that a cell reads anywhere and gives no meaning to itself."""
    nodes = [node for statement in _body(source) for node in ast.walk(statement)]
    names = [node for node in nodes if isinstance(node, ast.Name)]
    return {one.id for one in names if isinstance(one.ctx, ast.Load)} - {
        one.id for one in names if isinstance(one.ctx, ast.Store)
    }


def _body(source: str) -> Sequence[ast.stmt]:
    with contextlib.suppress(SyntaxError, ValueError):
        return ast.parse(source).body
    return []


@contextlib.contextmanager
def _surroundings(folder: str, student: str, files: Path | None, threads: int) -> Iterator[None]:
    """A folder of its own with the lab's files, the student's name, pinned threads, nothing printed."""
    import shutil
    import sys

    import matplotlib
    from threadpoolctl import threadpool_limits

    if files is not None:
        shutil.copytree(files, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("*.ipynb"))
    before = os.environ.get(STUDENT)
    os.environ[STUDENT] = student
    matplotlib.use("Agg")
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(threads)
    try:
        with threadpool_limits(threads), contextlib.chdir(folder), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        if "matplotlib.pyplot" in sys.modules:
            matplotlib.pyplot.close("all")
        if before is None:
            del os.environ[STUDENT]
        else:
            os.environ[STUDENT] = before


def _run_own(cell: Any, namespace: dict[str, Any]) -> None:
    """Execute a cell of the lab's own source; where it fails, the lab is at fault, and no submission."""
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            _execute(cell.source, namespace)
    except Exception as error:
        first = next((line for line in cell.source.splitlines() if line.strip()), "")
        raise NnoptError(
            f"the lab's own source must run without its test cells; the cell that begins {first.strip()!r} "
            f"raised {type(error).__name__}: {error}"
        ) from error


def _execute(source: str, namespace: dict[str, Any]) -> Any:
    """Run trusted code; returns the value of its last expression, as a notebook would show it."""
    body = ast.parse(source).body
    last = body[-1] if body else None
    if not isinstance(last, ast.Expr):
        exec(compile(source, "<lab>", "exec"), namespace)
        return None
    exec(compile(ast.Module(body[:-1], []), "<lab>", "exec"), namespace)
    return eval(compile(ast.Expression(last.value), "<lab>", "eval"), namespace)


def _sentence(error: BaseException, source: str) -> str:
    """What a test that did not pass says: its own words, or the statement that was not true."""
    if isinstance(error, AssertionError):
        return str(error) or _failed_statement(error, source) or "a test did not pass"
    return str(error) if isinstance(error, NotDataError) else f"{type(error).__name__}: {error}"


def _failed_statement(error: BaseException, source: str) -> str:
    trace, line = error.__traceback__, 0
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == "<lab>":
            line = trace.tb_lineno
        trace = trace.tb_next
    for node in _body(source):
        for statement in ast.walk(node):
            if isinstance(statement, ast.Assert) and statement.lineno <= line <= (statement.end_lineno or 0):
                return f"not true: {ast.unparse(statement.test)[:200]}"
    return ""


def _is_empty(value: Any) -> bool:
    """Whether a value is, or holds, a container or an array of nothing."""
    if isinstance(value, (list, tuple, dict)):
        parts = value.values() if isinstance(value, dict) else value
        return not value or any(_is_empty(part) for part in parts)
    return 0 in getattr(value, "shape", ())
