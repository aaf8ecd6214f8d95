"""Execute one notebook in a fresh kernel of this very interpreter; the result is whole or there is none."""

from __future__ import annotations

import atexit
import functools
import logging
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NoReturn

from nnopt_lib.checks import NnoptError
from nnopt_lib.files import writing
from nnopt_lib.paths import build_folder, chapters_folder, project_root

KERNELSPEC = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}
# A kernel ends with the process that started it. ipykernel looks after that itself, but takes a parent that
# died before its first look for none; where orphans go to another process than number 1 it would never end.
WATCHED = """
import os, runpy, threading, time
def watch(parent):
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)
if os.name == "posix":
    threading.Thread(target=watch, args=(int(os.environ["JPY_PARENT_PID"]),), daemon=True).start()
runpy.run_module("ipykernel_launcher", run_name="__main__", alter_sys=True)
"""
LANGUAGE = {
    "name": "python",
    "file_extension": ".py",
    "mimetype": "text/x-python",
    "pygments_lexer": "ipython3",
}


def kernel_environment() -> dict[str, str]:
    """What kernels get besides the caller's environment: the project's folders, programs' default settings.

    No progress bars, since they would stand in stored outputs; no debugger's warning about frozen modules.
    Where the home cannot be written it is a temporary folder, since IPython and Matplotlib would complain on
    stderr.
    """
    home = {} if os.access(os.path.expanduser("~"), os.W_OK) else {"HOME": str(_temporary_folder("home"))}
    quiet = {"NNOPT_PROGRESS": "0", "PYDEVD_DISABLE_FILE_VALIDATION": "1"}
    return {**_project_folders(), **_default_settings(), **home, **quiet}


def _project_folders() -> dict[str, str]:
    """A kernel works in ``chapters/``: a relative NNOPT_DATA or NNOPT_STORE means the caller's folder."""
    folders = {"NNOPT_HOME": str(project_root()), "NNOPT_BUILD": str(build_folder().absolute())}
    given = {name: os.environ.get(name) for name in ("NNOPT_DATA", "NNOPT_STORE")}
    return folders | {name: os.path.abspath(folder) for name, folder in given.items() if folder}


def _default_settings() -> dict[str, str]:
    """Nothing that a user has set for other work: profiles, startup files and styles would change outputs.

    A variable set to nothing counts as not set, and Matplotlib looks for no other file when it is named one.
    """
    style = _temporary_folder("matplotlib") / "matplotlibrc"
    style.touch()
    folders = {
        name: str(_temporary_folder(name)) for name in ("IPYTHONDIR", "JUPYTER_CONFIG_DIR", "KERAS_HOME")
    }
    unset = ("JUPYTER_CONFIG_PATH", "MPLBACKEND", "PYTHONOPTIMIZE", "PYTHONSTARTUP", "PYTHONWARNINGS")
    return {**folders, "MATPLOTLIBRC": str(style), **dict.fromkeys(unset, "")}


@functools.cache
def _temporary_folder(name: str) -> Path:
    """An empty one called `name`, for this process; removed when it ends."""
    folder = tempfile.mkdtemp(prefix=f"nnopt-{name}-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)


def execute(
    name: str, notebook: Any, parameters: Mapping[str, Any], output: Path, environment: Mapping[str, str]
) -> str:
    """Execute `notebook` in ``chapters/`` with papermill; returns the executed notebook as text, tidied.

    While it runs, and after a failure, what there is stands beside `output` as ``<name>.unfinished.ipynb``;
    `output` itself is not touched. A failing cell, a dead kernel, and a notebook that ends before its last
    cell are refused in one sentence.
    """
    import nbformat
    import papermill
    from nbclient.exceptions import DeadKernelError
    from papermill.exceptions import PapermillExecutionError

    for logger in ("papermill", "traitlets"):  # a dead kernel is told by our own sentence
        logging.getLogger(logger).setLevel(logging.CRITICAL)
    # Beside the output, not over it: papermill writes after every cell, and may be killed at any.
    unfinished = output.with_suffix(".unfinished.ipynb")
    bar = sys.stderr.isatty() and os.environ.get("NNOPT_PROGRESS") != "0"
    try:
        with writing(unfinished):
            unfinished.parent.mkdir(parents=True, exist_ok=True)
            # In a thread: in the main one nbclient takes Ctrl-C and SIGTERM for itself, and nnopt would not
            # get them.
            with ThreadPoolExecutor(1) as thread:
                executing = thread.submit(
                    papermill.execute_notebook,
                    notebook,
                    unfinished,
                    parameters=dict(parameters),
                    kernel_name="python3",
                    progress_bar={"desc": name} if bar else False,
                    kernel_manager_class=_this_interpreter({**kernel_environment(), **environment}),
                    iopub_timeout=60,
                )
                executed = executing.result()
    except PapermillExecutionError as error:
        what = (f"{error.ename}: {error.evalue}".splitlines() or [error.ename])[0]  # one line is all we print
        _fail(name, f"failed in code cell {error.exec_count}: {what}", unfinished)
    except DeadKernelError:
        cell = _last_started(unfinished)
        _fail(name, f"failed in code cell {cell}: the kernel died (killed, or out of memory)", unfinished)
    except RuntimeError as error:  # the kernel never answered
        _fail(name, f"could not start its kernel: {' '.join(str(error).split())}", unfinished)
    if cut_off := _cut_off(executed):
        _fail(name, cut_off, unfinished)
    unfinished.unlink()
    return str(nbformat.writes(tidy(executed))) + "\n"


def _cut_off(executed: Any) -> str:
    """How a notebook came to an end before its last cell, which papermill takes for success; else nothing."""
    cells = [cell for cell in executed.cells if cell.cell_type == "code" and cell.source.strip()]
    for number, cell in enumerate(cells, start=1):
        exits = [one for one in cell.outputs if one.output_type == "error"]
        if exits or cell.execution_count is None:
            why = exits[0].ename if exits else "it was not executed"
            return f"ended early in code cell {number} of {len(cells)}: {why}, and all of them must run"
        if cell.execution_count != number:
            return f"did not run in order: code cell {number} was the kernel's cell {cell.execution_count}"
    return ""


def _fail(name: str, what: str, unfinished: Path) -> NoReturn:
    raise NnoptError(f"chapter {name} {what.rstrip('.')}. What was done until then is in {unfinished}.")


def _this_interpreter(environment: Mapping[str, str]) -> Any:
    """A kernel manager that starts `sys.executable`, whatever kernels are installed on the machine."""
    import zmq
    from ipykernel.kernelspec import get_kernel_dict
    from jupyter_client.kernelspec import KernelSpec
    from jupyter_client.manager import AsyncKernelManager
    from traitlets import default

    argv = [sys.executable, "-c", WATCHED, "-f", "{connection_file}"]
    spec = KernelSpec(**{**get_kernel_dict(), "argv": argv, "env": dict(environment)})

    class ThisInterpreter(AsyncKernelManager):
        @property
        def kernel_spec(self) -> KernelSpec:
            return spec

        def start_kernel(self, **options: Any) -> Any:
            # Papermill's own `cwd` would move this whole process, in which other threads execute chapters.
            folder = str(chapters_folder())
            # Not heard: what a kernel says outside of cells, as when it is interrupted.
            return super().start_kernel(**{**options, "cwd": folder}, stderr=subprocess.DEVNULL)

        @default("transport_encryption")
        def _encrypt(self) -> str:  # else the kernel warns of plain text on every start
            return "auto" if zmq.has("curve") else "disabled"

    return ThisInterpreter


def _last_started(unfinished: Path) -> int:
    """The number of the last code cell begun; papermill calls all cells completed when a kernel dies."""
    import nbformat

    cells = nbformat.read(unfinished, as_version=4).cells
    begun = [cell for cell in cells if cell.metadata.get("papermill", {}).get("start_time")]
    return sum(cell.cell_type == "code" for cell in begun)


def tidy(notebook: Any) -> Any:
    """Strip, in place, what changes from run to run: timings, papermill's marks, the kernel's version."""
    kind = type(notebook.metadata)
    notebook.metadata = kind(kernelspec=kind(KERNELSPEC), language_info=kind(LANGUAGE))
    for cell in notebook.cells:
        for key in ("papermill", "execution"):
            cell.metadata.pop(key, None)
        if not cell.metadata.get("tags", True):
            del cell.metadata["tags"]
    return notebook
