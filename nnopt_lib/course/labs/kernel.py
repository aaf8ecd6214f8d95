"""A student's kernel: in a sandbox of its own, spoken to by messages, its functions called through data."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import json
import secrets
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from nbclient.exceptions import CellTimeoutError, DeadKernelError
from nbformat.v4 import new_code_cell, new_notebook

from nnopt_lib.checks import NnoptError
from nnopt_lib.course.labs.crossing import CannotCrossError, pack, read_message, unpack, write_message
from nnopt_lib.course.labs.sandbox.sandbox import MIB, Limits, Sandbox

MOST_OUTPUT = 10 * MIB
PART_OF_SECONDS = 3  # a cell may take a third of the time of the notebook
OF_THE_DISK = {errno.ENOSPC, errno.EROFS, errno.EDQUOT, errno.EIO}  # nobody's fault
CROSSING = "nnopt_lib.course.labs.crossing"


class BrokenKernelError(Exception):
    """A kernel that came to its end, and why in words; `final` where the notebook may not run again."""

    def __init__(self, reason: str, *, final: bool = False) -> None:
        super().__init__(reason)
        self.final = final


class UndefinedError(Exception):
    """A name that the student's kernel does not know."""


class NotDataError(Exception):
    """What a student's function did that no test can look at, in words."""


class StudentKernel(NotebookClient):
    """A kernel in a sandbox, for a with statement; it ends by a `BrokenKernelError`, in words.

    `limits` are the notebook's, of whose time a cell has its part; `left` is what is left of that time.
    """

    def __init__(
        self, limits: Limits, threads: int, student: str, files: Path | None = None, left: float | None = None
    ) -> None:
        super().__init__(new_notebook(), timeout=max(1, int(limits.seconds / PART_OF_SECONDS)))
        limits = limits if left is None else dataclasses.replace(limits, seconds=left)
        self.allow_errors, self.record_timing, self.store_widget_state = True, False, False
        self.shutdown_kernel, self.iopub_timeout = "immediate", 30
        self.interrupt_on_timeout = False
        self.box = Sandbox(limits, threads, NNOPT_STUDENT=student)
        self.on_cell_executed = self._note
        self._files, self._received, self._ok = files, 0, False

    def __enter__(self) -> StudentKernel:
        self.box.__enter__()
        try:
            if self._files is not None:
                copy_files(self._files, self.box)
            self.km = _manager(self.box)
            self.start_new_kernel()
            self.start_new_kernel_client()
        except BaseException as error:  # a grader that is told to end leaves nothing behind either
            self.box.__exit__()
            if isinstance(error, Exception):
                raise NnoptError(f"its kernel did not start: {error}") from error
            raise
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.box.kill()
            self._cleanup_kernel()
        finally:
            self.box.__exit__()

    def run(self, cell: Any) -> bool:
        """Execute a cell, its outputs put into it; returns whether the kernel called it a success."""
        self._ok = False
        try:
            self.nb.cells = [cell]
            self._display_id_map = {}  # outputs of earlier cells, which have been taken away
            self.execute_cell(cell, 0)
            if self.box.reason:  # although its reply came first
                raise DeadKernelError
        except CellTimeoutError:
            self.box.kill()
            raise BrokenKernelError(f"ran for more than {self.timeout:g} s") from None
        except DeadKernelError:
            self.box.kill()
            raise BrokenKernelError(self.box.reason or "killed its kernel", final=self.box.final) from None
        except Exception as error:  # whatever a kernel in strange hands may send
            self.box.kill()
            what = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
            raise BrokenKernelError(
                self.box.reason or f"could not be executed: {what}", final=True
            ) from error
        return self._ok

    def call(self, name: str, arguments: Sequence[Any], options: Mapping[str, Any]) -> Any:
        """What the student's function `name` returns; changes that it made to arguments are made here, too.

        Raises `UndefinedError`, or `NotDataError` where it raised an error or returned what is no data.
        """
        message = {"name": name, "arguments": pack(list(arguments)), "options": pack(dict(options))}
        answer = self._ask(message)
        if "changed" in answer:
            try:
                changed = {part: unpack(packed) for part, packed in answer["changed"].items()}
                take_over(list(arguments), changed["arguments"])
                take_over(dict(options), changed["options"])
            except Exception as error:  # the kernel says what changed, and to what
                what = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
                raise NotDataError(
                    f"{name} changed what it was given to what no test can look at: {what}"
                ) from None
        return self._read(name, answer["value"])

    def value(self, name: str) -> Any:
        """The value that the kernel knows under `name`; raises as `call` does."""
        return self._read(name, self._ask({"name": name})["value"])

    def knows(self, name: str) -> bool:
        """Whether the kernel has anything under this name."""
        try:
            self._ask({"name": name})
        except UndefinedError:
            return False
        except NotDataError:
            return True
        return True

    def _ask(self, message: dict[str, Any]) -> dict[str, Any]:
        name, token = message["name"], secrets.token_hex(16)
        asked, answered = (self.box.folder / f"{word}-{token}.json" for word in ("asked", "answered"))
        try:
            write_message(asked, message)
            self.box.give(asked)
            # By the shell's own function, since the student may have a variable called globals.
            words = f"get_ipython().user_ns, {str(asked)!r}, {str(answered)!r}"
            code = f"__import__({CROSSING!r}, fromlist=['serve']).serve({words})"
            if not self.run(new_code_cell(code)):
                raise NotDataError(f"{name} could not be called: the kernel did not answer")
            answer = read_message(answered)
        except CannotCrossError as error:
            raise NotDataError(f"{name} cannot be given {error}") from None
        except OSError as error:
            if error.errno in OF_THE_DISK:
                raise
            self.box.kill()
            raise BrokenKernelError("spoiled its own folder", final=True) from None
        except ValueError as error:
            raise NotDataError(f"{name} gave an answer that cannot be read: {error}") from None
        finally:
            for path in (asked, answered):
                with contextlib.suppress(OSError):  # it may be a folder by now
                    path.unlink(missing_ok=True)
        if not isinstance(answer, dict):
            raise NotDataError(f"{name} gave an answer that cannot be read")
        if "undefined" in answer:
            raise UndefinedError(name)
        if "error" in answer:
            raise NotDataError(f"{name} raised {str(answer['error'])[:500]}")
        if "crossed" in answer or "value" not in answer:
            raise NotDataError(
                f"{name} returned {str(answer.get('crossed'))[:200]}, which no test can look at"
            )
        return answer

    @staticmethod
    def _read(name: str, packed: Any) -> Any:
        try:
            return unpack(packed)
        except Exception as error:  # anything may stand in what a student's kernel sends
            what = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
            raise NotDataError(f"{name} gave what cannot be read: {what}") from None

    def _note(self, **messages: Any) -> None:
        self._ok = messages["execute_reply"]["content"]["status"] == "ok"

    def process_message(self, msg: Any, cell: Any, cell_index: int) -> Any:
        """Take a message of the kernel's, until there were too many."""
        buffers = sum(map(len, msg.get("buffers") or []))
        self._received += len(json.dumps(msg["content"], default=str)) + buffers
        if self._received > MOST_OUTPUT:
            self.box.stop(f"printed more than {MOST_OUTPUT // MIB} MiB")
        return super().process_message(msg, cell, cell_index)


def take_over(original: Any, changed: Any) -> None:
    """Make the changes to an argument that a function made in the kernel; what cannot change is left."""
    import numpy as np

    if isinstance(original, np.ndarray) and np.shape(original) == np.shape(changed):
        if original.flags.writeable:
            original[...] = changed
    elif isinstance(original, list) and isinstance(changed, list):
        if len(original) == len(changed):
            for index, (one, other) in enumerate(zip(original, changed, strict=True)):
                if isinstance(one, (np.ndarray, list, dict, tuple)):
                    take_over(one, other)
                else:
                    original[index] = other
        else:
            original[:] = changed
    elif isinstance(original, tuple) and isinstance(changed, tuple) and len(original) == len(changed):
        for one, other in zip(original, changed, strict=True):
            take_over(one, other)
    elif isinstance(original, dict) and isinstance(changed, dict):
        for key in set(original) - set(changed):
            del original[key]
        for key, other in changed.items():
            if isinstance(original.get(key), (np.ndarray, list, dict, tuple)):
                take_over(original[key], other)
            else:
                original[key] = other
    elif hasattr(original, "load_state_dict") and hasattr(changed, "state_dict"):
        original.load_state_dict(changed.state_dict())
    elif hasattr(original, "copy_") and hasattr(changed, "detach"):
        original.data.copy_(changed.detach())


def copy_files(folder: Path, box: Sandbox) -> None:
    """Give the notebook the files that the teacher handed out with it."""
    for path in folder.rglob("*"):
        if path.is_file() and path.suffix != ".ipynb":
            target = box.folder / path.relative_to(folder)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, target)
            box.give(target)


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
