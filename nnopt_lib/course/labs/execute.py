"""What nbgrader runs of ours when it grades: execution in a sandbox, and proof that a test passed.

nbgrader_config.py of a course names both lists, so nbgrader's own commands and JupyterHub grade the same way.
nbgrader itself gives full points to a test that left no error. Here a test gives points only if the kernel
ran it to its end, and if just afterwards a statement that is false still counts as false.
"""

from __future__ import annotations

import ast
import contextlib
import json
import secrets
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager
from nbclient.exceptions import DeadKernelError
from nbconvert.preprocessors import ClearMetadataPreprocessor
from nbformat.v4 import new_code_cell, new_markdown_cell, new_output
from nbgrader.preprocessors import (
    AssignLatePenalties,
    CheckCellMetadata,
    ClearOutput,
    DeduplicateIds,
    Execute,
    IgnorePattern,
    LimitOutput,
    OverwriteCells,
    OverwriteKernelspec,
    SaveAutoGrades,
)
from nbgrader.utils import is_grade, is_solution
from traitlets import Float, Int

from nnopt_lib.checks import NnoptError
from nnopt_lib.course.chapters.kernel import LANGUAGE
from nnopt_lib.course.labs.sandbox.sandbox import MIB, Limits, Sandbox, not_cut
from nnopt_lib.course.labs.submissions import RestoreCells, name_of

MARK = "nnopt"  # our part of an autograded notebook's metadata
MOST_OUTPUT = 10 * MIB
# A false statement, told by everything that tests commonly ask; it must fail, with its token.
CONTROL = """\
assert ({a} == {b} or abs({a} - {b}) < 1 or all([False]) or any([]) or __import__("math").isclose({a}, {b})
    or __import__("numpy").allclose({a}, {b}) or __import__("numpy").array_equal([{a}], [{b}])), {token!r}
"""
_held_gradebook: Any = None  # the lock that a grading process of ours holds, but while a submission runs


class GuardedExecute(Execute):
    """nbgrader's Execute in a sandbox; of what the kernel sends, outputs alone are taken, cells never.

    The autograded notebook says in its metadata what stopped the execution, if anything did.
    """

    seconds = Float(Limits.seconds, help="time for a whole notebook").tag(config=True)
    memory_gib = Float(Limits.memory_gib, help="memory of all its processes").tag(config=True)
    processes = Int(Limits.processes, help="processes and threads").tag(config=True)
    file_mib = Int(Limits.file_mib, help="largest file that it may write").tag(config=True)
    threads = Int(1, help="threads for arithmetic").tag(config=True)

    box: Sandbox

    def preprocess(self, nb: Any, resources: Any, km: Any = None) -> tuple[Any, Any]:
        """Execute `nb` in a sandbox; a test that was not proven to pass holds an error afterwards."""
        self.timeout, self.shutdown_kernel, self.store_widget_state = None, "immediate", False
        self.iopub_timeout, self.record_timing = 30, False
        self.failure, self.received, self.started, self.proven = "", 0, False, set[int]()
        limits = Limits(self.seconds, self.memory_gib, self.processes, self.file_mib)
        student = resources["nbgrader"]["student"]
        started = time.monotonic()
        with _gradebook_free(), Sandbox(limits, self.threads, NNOPT_STUDENT=student) as self.box:
            _copy_files(Path(resources["metadata"]["path"]), self.box)
            try:
                super().preprocess(nb, resources)
            except Exception as error:  # whatever a kernel in strange hands may send
                if not self.started:
                    raise NnoptError(f"its kernel did not start: {error}") from error
                self.failure = self.failure or self._failure(error, "its last cell")
        for index, cell in enumerate(nb.cells):
            if cell.cell_type == "code":
                cell.outputs = _clean(cell.outputs)
                if _is_test(cell) and index not in self.proven:
                    _add_error(cell, f"not run, since grading stopped: the notebook {self.failure}")
        nb.metadata["language_info"] = LANGUAGE
        seconds = round(time.monotonic() - started, 1)
        nb.metadata[MARK] = {"failure": self.failure, "not_cut": not_cut(), "seconds": seconds}
        if self.failure:
            notice = f"**Grading stopped: this notebook {self.failure}.** What had run until then was graded."
            nb.cells.insert(0, new_markdown_cell(notice, id="stopped"))
        return nb, resources

    def create_kernel_manager(self) -> Any:
        """A manager of kernels in the sandbox, whatever kernels the machine knows."""
        self.km = _manager(self.box)
        return self.km

    def preprocess_cell(self, cell: Any, resources: Any, index: int) -> tuple[Any, Any]:
        """Execute one cell; a test with a proof that it ran, and with a control afterwards."""
        if self.failure or cell.cell_type != "code":
            return cell, resources
        self.started = True
        source, token = cell.source, secrets.token_hex(16)
        number = sum(one.cell_type == "code" for one in self.nb.cells[: index + 1])
        label = f"cell {name_of(cell) or number}"
        try:
            if _is_test(cell):
                cell.source = _with_proof(source, token)
            self.ok = False
            super().preprocess_cell(cell, resources, index)
            if self.box.reason:  # although its reply came first
                raise DeadKernelError
            if _is_test(cell):
                cell.source = source
                self._judge(cell, index, token, label)
        except Exception as error:
            self.failure = self._failure(error, label)
            self.box.kill()
        finally:
            cell.source = source
        return cell, resources

    def on_cell_executed(self, **messages: Any) -> None:
        """Note whether the kernel called the cell a success, then do as nbgrader does."""
        self.ok = messages["execute_reply"]["content"]["status"] == "ok"
        super().on_cell_executed(**messages)

    def process_message(self, msg: Any, cell: Any, cell_index: int) -> Any:
        """Take a message of the kernel's, until there were too many."""
        self.received += len(json.dumps(msg["content"], default=str)) + sum(
            map(len, msg.get("buffers") or [])
        )
        if self.received > MOST_OUTPUT:
            self.box.stop(f"printed more than {MOST_OUTPUT // MIB} MiB")
        return super().process_message(msg, cell, cell_index)

    def _judge(self, cell: Any, index: int, token: str, label: str) -> None:
        """Leave in a test's outputs what nbgrader is to see: an error, unless it is proven to have passed."""
        seen = any(token in one.get("text", "") for one in cell.outputs if one.output_type == "stream")
        cell.outputs = _without(cell.outputs, token)
        if not (self.ok and seen):
            self.proven.add(index)  # that it failed
            cell.outputs = [one for one in cell.outputs if one.output_type != "execute_result"]
            if not any(one.output_type == "error" for one in cell.outputs):
                _add_error(cell, "the test did not run to its end")
            return
        if not self._control_fails(index):
            self.failure = f"changed how Python tells right from wrong, in or before {label}"
            self.box.kill()
            return
        self.proven.add(index)
        results = [one for one in cell.outputs if one.output_type == "execute_result"]
        dropped = results[:-1] if _ends_in_expression(cell.source) else results  # those that others printed
        cell.outputs = [one for one in cell.outputs if not any(one is other for other in dropped)]
        for output in cell.outputs:
            if output.output_type == "stream":
                output.name = "stdout"  # a warning is no failure, which nbgrader takes it for

    def _control_fails(self, index: int) -> bool:
        token, a = secrets.token_hex(16), secrets.randbelow(1000)
        control = new_code_cell(CONTROL.format(a=a, b=a + 2 + secrets.randbelow(1000), token=token))
        tested = self.nb.cells[index]
        self.execute_cell(control, index, store_history=False)
        self.nb.cells[index] = tested  # nbclient puts there what it executed
        errors = [one for one in control.outputs if one.output_type == "error"]
        return not self.ok and any(one.ename == "AssertionError" and one.evalue == token for one in errors)

    def _failure(self, error: Exception, label: str) -> str:
        if self.box.reason:
            return f"{self.box.reason}, in {label}"
        if isinstance(error, DeadKernelError):
            return f"killed its kernel, in {label}"
        return (
            f"could not be executed, in {label}: {type(error).__name__}: {' '.join(str(error).split())[:200]}"
        )


RESTORED = [ClearOutput, RestoreCells, DeduplicateIds, OverwriteKernelspec, OverwriteCells, CheckCellMetadata]
GUARDED = [
    *(GuardedExecute, IgnorePattern, ClearMetadataPreprocessor, LimitOutput),
    *(SaveAutoGrades, AssignLatePenalties, CheckCellMetadata),
]


def _is_test(cell: Any) -> bool:
    return bool(cell.cell_type == "code" and is_grade(cell) and not is_solution(cell))


def _ends_in_expression(source: str) -> bool:
    with contextlib.suppress(SyntaxError, ValueError):
        body = ast.parse(source).body
        return bool(body) and isinstance(body[-1], ast.Expr)
    return False


def _with_proof(source: str, token: str) -> str:
    """`source` printing `token` at its end, or before its last value, which nbgrader may read points from."""
    proof = f'__import__("builtins").print({token!r})'
    if not _ends_in_expression(source):
        return f"{source}\n{proof}"
    lines, last = source.splitlines(), ast.parse(source).body[-1]
    return "\n".join([*lines[: last.lineno - 1], proof, *lines[last.lineno - 1 :]])


def _without(outputs: list[Any], token: str) -> list[Any]:
    for output in outputs:
        if output.output_type == "stream":
            output.text = output.text.replace(f"{token}\n", "").replace(token, "")
    return [one for one in outputs if one.output_type != "stream" or one.text]


def _add_error(cell: Any, why: str) -> None:
    cell.outputs = [*cell.outputs, new_output("error", ename="NotPassed", evalue=why, traceback=[why])]


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


def _copy_files(folder: Path, box: Sandbox) -> None:
    """Give the notebook the files that the teacher handed out with it."""
    for path in folder.rglob("*"):
        if path.is_file() and path.suffix != ".ipynb":
            target = box.folder / path.relative_to(folder)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, target)
            box.give(target)


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


def _manager(box: Sandbox) -> Any:
    """A kernel manager whose kernels run in `box` and are spoken to through sockets in its folder."""
    words = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    spec = KernelSpec(argv=box.command(words), display_name="lab", language="python")

    class Guarded(AsyncKernelManager):
        @property
        def kernel_spec(self) -> KernelSpec:
            return spec

        def write_connection_file(self, **options: Any) -> None:
            super().write_connection_file(**options)
            box.give(Path(self.connection_file))

        async def start_kernel(self, **options: Any) -> Any:  # type: ignore[override]
            quiet = {"stdout": -3, "stderr": -3}  # subprocess.DEVNULL
            await super().start_kernel(**{**options, **quiet, "env": box.environment, "cwd": str(box.folder)})
            box.watch(self.provisioner.process)  # type: ignore[union-attr]

    manager = Guarded(transport="ipc", transport_encryption="disabled")
    manager.connection_file = str(box.folder / "kernel.json")
    return manager
