"""One notebook being graded: cells run in a kernel, tests outside, and a cell that breaks costs itself."""

from __future__ import annotations

import dataclasses
import re
import time
from pathlib import Path
from typing import Any

from nbformat.v4 import new_code_cell, new_output

from nnopt_lib.course.labs.answers import NotTypedError, typed
from nnopt_lib.course.labs.examine import Examiner, Judgement, is_test, used
from nnopt_lib.course.labs.inside import add_error, run_test
from nnopt_lib.course.labs.kernel import BrokenKernelError, NotDataError, StudentKernel, UndefinedError
from nnopt_lib.course.labs.sandbox.sandbox import Limits
from nnopt_lib.course.labs.submissions import name_of

MOST_STARTS = 6  # of a kernel for one notebook
# As nbgrader reads it: from line to line, whatever else stands in them, or to the end.
HIDDEN = re.compile(r"^[^\n]*BEGIN HIDDEN TESTS.*?(?:END HIDDEN TESTS[^\n]*|\Z)", re.DOTALL | re.MULTILINE)


@dataclasses.dataclass(frozen=True)
class Student:
    """Who handed a notebook in: the student's id, and the name that the test of the name accepts."""

    id: str
    accepted: str


class Attempt:
    """A notebook and what came of it: `judged` by index of test cells, `left_out` cells, and a failure.

    A cell that ran too long, printed without end or ended its kernel is left out, the kernel starts again
    and runs the others, so that a broken cell costs what it was worth and nothing that follows. A cell that
    endangers the machine, and a notebook that has used its time, end it: `failure` says so.
    """

    def __init__(self, nb: Any, student: Student, examiner: Examiner | None, limits: Limits) -> None:
        self.nb, self.student, self.examiner, self.limits = nb, student, examiner, limits
        self.judged: dict[int, Judgement] = {}
        self.left_out: dict[int, str] = {}
        self.computed: set[str] = set()
        self.failure = ""
        self._incomplete: set[int] = set()

    def run(self, threads: int, files: Path | None) -> None:
        """Run all cells and judge all tests that can be."""
        started = time.monotonic()
        name = self.examiner.student if self.examiner else self.student.id
        for _ in range(MOST_STARTS):
            left = self.limits.seconds - (time.monotonic() - started)
            if left <= 0 or self.failure:
                break
            self._at = 0
            try:
                with StudentKernel(self.limits, threads, name, files, left) as kernel:
                    self._run_cells(kernel)
                return
            except BrokenKernelError as broken:
                self._note(broken)
        else:
            self.failure = self.failure or f"broke its kernel {MOST_STARTS} times"
        if not self.failure:
            self.failure = f"timed out after {self.limits.seconds:g} s, in {self._label(self._at)}"
        if self.failure.startswith(("timed out", "broke its kernel")) and self.examiner:
            self._judge_what_needs_no_kernel()

    def _run_cells(self, kernel: StudentKernel) -> None:
        for index, cell in enumerate(self.nb.cells):
            self._at = index
            if cell.cell_type != "code" or index in self.left_out:
                continue
            if not is_test(cell):
                kernel.run(cell)
            elif self.examiner is None:
                run_test(kernel, cell)
                self.judged[index] = Judgement(True)  # its outputs say how it ended
            else:
                # What a test shows may be read by later cells; whether it is true is judged outside.
                kernel.run(new_code_cell(HIDDEN.sub("", cell.source)))
                if index not in self.judged:
                    self._judge(kernel, index)
        for index in sorted(self._incomplete):  # what a test asked for may have been defined after it
            self._at = index
            self._judge(kernel, index, late=True)

    def _note(self, broken: BrokenKernelError) -> None:
        """Write down which cell broke its kernel, and go on without it or not at all."""
        label, reason = self._label(self._at), str(broken)
        if broken.final:
            whole = f"timed out after {self.limits.seconds:g} s"
            reason = whole if reason.startswith("timed out") else reason
            joint = " " if reason.endswith("before") else ", in "
            self.failure = f"{reason}{joint}{label}"
            return
        self.left_out[self._at] = f"{label} {reason}"
        self._incomplete.discard(self._at)
        if is_test(self.nb.cells[self._at]):
            self.judged[self._at] = Judgement(False, None, f"what it tests {reason}")
            if self.examiner is None:
                add_error(self.nb.cells[self._at], f"the test {reason}")

    def _label(self, index: int) -> str:
        number = sum(one.cell_type == "code" for one in self.nb.cells[: index + 1])
        return f"cell {name_of(self.nb.cells[index]) or number}" if self.nb.cells else "its first cell"

    def _judge(self, kernel: StudentKernel | None, index: int, *, late: bool = False) -> None:
        """Judge a test by what the student's cells until it, or all of them, define."""
        assert self.examiner is not None
        cell = self.nb.cells[index]
        exported: dict[str, Any] = {}
        missing = []
        needed = (
            used(cell.source) & self.examiner.exports
        )  # of the released test, whatever the source says now
        for name in sorted(needed):
            try:
                exported[name] = self._export(kernel, name, len(self.nb.cells) if late else index)
            except UndefinedError:
                missing.append(name)
            except NotDataError as error:
                self.judged[index] = Judgement(False, None, str(error))
                return
        self._incomplete.discard(index)
        if missing and kernel is None:
            return  # what it tests may have been defined: it was not run, which `show` says
        if missing:
            self.judged[index] = Judgement(False, None, f"not defined: {', '.join(missing)}")
            if not late:
                self._incomplete.add(index)
            return
        called = self.student.accepted if "student" in needed else self.examiner.student
        self.judged[index] = self.examiner.judge(cell.source, exported, called)

    def _export(self, kernel: StudentKernel | None, name: str, until: int) -> Any:
        """What a test takes from the student under `name`; raises `UndefinedError` where there is nothing."""
        assert self.examiner is not None
        if self.examiner.is_function(name):
            if kernel is None or not kernel.knows(name):
                raise UndefinedError(name)
            return self.examiner.stand_in(name, kernel.call)
        try:
            return self.typed(name, until)
        except (KeyError, NotTypedError):
            if kernel is None:
                raise UndefinedError(name) from None
            value = kernel.value(name)
            self.computed.add(name)
            return value

    def typed(self, name: str, until: int | None = None) -> Any:
        """The last value that was typed for `name` in a cell before `until`; raises as `answers.typed`."""
        return typed_in(self.nb.cells[:until], name)

    def _judge_what_needs_no_kernel(self) -> None:
        for index, cell in enumerate(self.nb.cells):
            if is_test(cell) and index not in self.judged:
                self._judge(None, index, late=True)

    def show(self) -> dict[str, str]:
        """Put into the outputs of each test what nbgrader is to see; returns a sentence for each loss."""
        notes = {}
        for index, cell in enumerate(self.nb.cells):
            if not is_test(cell):
                continue
            judgement = self.judged.get(index)
            if judgement is None:
                why = f"not run, since grading stopped: the notebook {self.failure}"
                add_error(cell, why)
                notes[str(name_of(cell))] = why
            elif self.examiner is not None:
                cell.outputs = _outputs(judgement, float(cell.metadata.nbgrader["points"]))
                if judgement.sentence:
                    notes[str(name_of(cell))] = judgement.sentence
        return notes


def typed_in(cells: list[Any], name: str) -> Any:
    """The last value that was typed for `name` in these cells; raises as `answers.typed` does."""
    return typed([one.source for one in cells if one.cell_type == "code" and not is_test(one)], name)


def _outputs(judgement: Judgement, most: float) -> list[Any]:
    outputs = [new_output("stream", name="stdout", text=judgement.printed)] if judgement.printed else []
    if not judgement.passed:
        why = judgement.sentence
        return [*outputs, new_output("error", ename="NotPassed", evalue=why, traceback=[why])]
    if judgement.points is not None:
        text = f"{min(max(judgement.points, 0.0), most):g}"
        outputs.append(new_output("execute_result", data={"text/plain": text}, execution_count=1))
    return outputs
