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
import symtable
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from nbgrader.utils import is_grade, is_solution

from nnopt_lib.checks import NnoptError
from nnopt_lib.course.labs.crossing import pack_or_none, unpack
from nnopt_lib.course.labs.kernel import BrokenKernelError, NotDataError, take_over
from nnopt_lib.course.labs.submissions import name_of

STUDENT = "NNOPT_STUDENT"
TEST = "<test>"  # what tracebacks call a test's text, apart from the lab's other cells
MOST_LETTERS = 1000  # of a sentence, which may quote what a student's function returned
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
        self.solution: dict[str, Any] = {}  # what the solution's cells define
        self._base: dict[str, Any] = {}
        self._kept: dict[str, Any] = {}
        self.changing: set[str] = set()

    def __enter__(self) -> Examiner:
        with contextlib.ExitStack() as stack:
            folder = stack.enter_context(tempfile.TemporaryDirectory())
            stack.enter_context(_surroundings(folder, self.student, self._files, self._threads))
            self._base = {"__name__": "lab", "__builtins__": __builtins__}
            for cell in self._cells:
                if not is_test(cell):
                    _run_own(cell, self._base)
            self.solution = {name: self._base[name] for name in self.exports if name in self._base}
            self._base["solution"] = dict(self.solution)
            self._leave = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._leave.close()

    def is_function(self, name: str) -> bool:
        """Whether the solution has a function under this name, so that the student's is to be called."""
        value = self._base.get(name)
        return callable(value) and not hasattr(value, "state_dict")  # a network can be called, too

    def stand_in(self, name: str, call: Call) -> Callable[..., Any]:
        """A function that a test calls in place of the student's: the call is carried over as data.

        An empty result is refused where the solution's is not: an empty array is close to any other, and a
        loop over nothing finds nothing wrong. `changing` notes who changes what only they change, since a
        test may compute from it what is right.
        """

        def carried(*arguments: Any, **options: Any) -> Any:
            before = pack_or_none([list(arguments), options])
            # Copies, since a function that empties its arguments would answer a test that compares with them.
            listed, named = (arguments, options) if before is None else unpack(before)
            given = tuple(listed)
            result = call(name, given, named)
            changed = pack_or_none([list(given), named]) != before
            if changed or _is_empty(result):
                own, copies = self._own_result(name, before)
                if _is_empty(result) and not _is_empty(own):
                    raise NotDataError(f"{name} returned something empty")
                if changed and pack_or_none(copies) == before:
                    self.changing.add(name)
                elif changed:  # as the exercise asks for
                    take_over(arguments, given)
                    take_over(options, named)
            return result

        carried.__name__ = carried.__qualname__ = name
        return carried

    def _own_result(self, name: str, packed: Any) -> tuple[Any, Any]:
        """What the solution returns for copies of the arguments, and the copies; nothing if it fails."""
        copies = unpack(packed)
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                return self._base[name](*copies[0], **copies[1]), copies
        except Exception:  # a test of what must be refused
            return [], copies

    def judge(self, source: str, exported: Mapping[str, Any], student: str) -> Judgement:
        """Run a test with these values and stand-ins of the student's, `student` being who handed in."""
        # Nothing of the solution's under the student's names, whatever the test does with them.
        given = {name: value for name, value in self._base.items() if name not in self.exports}
        namespace = {**given, **self._kept, **exported}
        output = io.StringIO()
        before = os.environ[STUDENT]
        os.environ[STUDENT] = student
        try:
            with contextlib.redirect_stdout(output), contextlib.redirect_stderr(io.StringIO()):
                value = _execute(source, namespace, TEST)
            points = _points(value)
        except BrokenKernelError:
            raise
        except Exception as error:
            return Judgement(False, None, _sentence(error, source), output.getvalue())
        finally:
            os.environ[STUDENT] = before
        known = {*self._base, *exported}
        self._kept.update({name: value for name, value in namespace.items() if name not in known})
        losses = "; ".join(getattr(value, "losses", ()))
        return Judgement(True, points, losses[:MOST_LETTERS], output.getvalue())


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
    """The names that a cell reads before it gives them a meaning itself, as Python would look them up."""
    body = _body(source)
    stored = {one.id for node in body for one in _names(node) if isinstance(one.ctx, ast.Store)}
    read, bound = set(), set[str]()
    for statement in body:
        loads = {one.id for one in _names(statement) if isinstance(one.ctx, ast.Load)}
        loops = [node.target for node in ast.walk(statement) if isinstance(node, ast.comprehension)]
        loads -= {one.id for loop in loops for one in _names(loop)}
        stores = {one.id for one in _names(statement) if isinstance(one.ctx, ast.Store)}
        match statement:
            case ast.AugAssign(target=ast.Name(id=name)):
                loads.add(name)
            case ast.Assign() | ast.AnnAssign():
                pass  # the value comes first, as in x = x + 1
            case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
                loads, stores = loads - stored, {name}
            case _:
                loads -= stores  # of loops and comprehensions
        read |= loads - bound
        bound |= stores
    return read & _global(source)


def _names(statement: ast.AST) -> list[ast.Name]:
    return [node for node in ast.walk(statement) if isinstance(node, ast.Name)]


def _global(source: str) -> set[str]:
    """The names that a cell reads from the notebook: no arguments or variables of its functions."""
    with contextlib.suppress(SyntaxError, ValueError):
        top = symtable.symtable(source, TEST, "exec")
        scopes, found = [top], set()
        while scopes:
            scope = scopes.pop()
            found |= {one.get_name() for one in scope.get_symbols() if scope is top or one.is_global()}
            scopes += scope.get_children()
        return found
    return set()


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
            _execute(cell.source, namespace, "<lab>")
    except Exception as error:
        first = next((line for line in cell.source.splitlines() if line.strip()), "")
        raise NnoptError(
            f"the lab's own source must run without its test cells; the cell that begins {first.strip()!r} "
            f"raised {type(error).__name__}: {error}"
        ) from error


def _execute(source: str, namespace: dict[str, Any], called: str) -> Any:
    """Run trusted code; returns the value of its last expression, as a notebook would show it."""
    body = ast.parse(source).body
    last = body[-1] if body else None
    if not isinstance(last, ast.Expr):
        exec(compile(source, called, "exec"), namespace)
        return None
    exec(compile(ast.Module(body[:-1], []), called, "exec"), namespace)
    return eval(compile(ast.Expression(last.value), called, "eval"), namespace)


def _points(value: Any) -> float | None:
    """The points that a test gave by its last value; None where that is no number."""
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return None
    points = float(value)
    return points if math.isfinite(points) else 0.0


def _sentence(error: BaseException, source: str) -> str:
    """What a test that did not pass says: its own words, or the statement that was not true."""
    if isinstance(error, AssertionError):
        words = str(error) or _failed_statement(error, source) or "a test did not pass"
    else:
        words = str(error) if isinstance(error, NotDataError) else f"{type(error).__name__}: {error}"
    return words[:MOST_LETTERS]


def _failed_statement(error: BaseException, source: str) -> str:
    trace, line = error.__traceback__, 0
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == TEST:
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
    return 0 in getattr(value, "shape", ()) or getattr(value, "series", None) == ()  # of a Drawing
