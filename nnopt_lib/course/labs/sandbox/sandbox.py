"""Run one program that nobody trusts: a private folder, limits that are enforced, no network, no leftovers.

With bubblewrap (``bwrap``) the program sees Python, the library and its own folder, and nothing else of the
machine. Without it the limits hold all the same, and `not_cut` says what could not be cut off.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from nnopt_lib.checks import NnoptError, check_int, check_number
from nnopt_lib.course.labs.sandbox.bubblewrap import bwrap, is_root, library, uses_bwrap
from nnopt_lib.files import writing

GIB, MIB = 2**30, 2**20
EXEC_LIMITED = Path("course", "labs", "sandbox", "exec_limited.py")
LOOK_SECONDS = 0.1  # between two looks at what the program uses
MOST_FILES = 10_000
UIDS = 1_500_000_000  # no account has a number near it; the grader's process number makes it its own


@dataclasses.dataclass(frozen=True)
class Limits:
    """What one program may use: time, memory and processes of its whole tree, size of the files it writes."""

    seconds: float = 120.0
    memory_gib: float = 4.0
    processes: int = 128
    file_mib: int = 256

    def __post_init__(self) -> None:
        check_number("--seconds", self.seconds, above=0)
        check_number("--memory-gib", self.memory_gib, above=0)
        check_int("--processes", self.processes, at_least=1)
        check_int("--file-mib", self.file_mib, at_least=1)


class Sandbox:
    """A private folder and a guarded program in it, for a with statement; both are gone at its end.

    `command` turns a command into a guarded one, `watch` enforces what the system alone does not. After a
    limit was broken, `reason` says which, and `final` whether the program endangered the machine or used up
    its time, so that it should not be started again. `folder` is the program's home and the only place it can
    write to.
    """

    def __init__(self, limits: Limits, threads: int = 1, **environment: str) -> None:
        self.limits = limits
        self.reason = ""
        self.final = False
        self.uid = UIDS + os.getpid() if is_root() else None
        self._environment = environment
        self._threads = threads
        self._process: Any = None
        self._watching: threading.Thread | None = None
        self._done = threading.Event()

    def __enter__(self) -> Sandbox:
        with writing(Path(tempfile.gettempdir())):
            self.folder = Path(tempfile.mkdtemp(prefix="nnopt-")).resolve()
            (self.folder / "tmp").mkdir()
            for cache in _font_caches():  # else every program would look through all fonts anew
                (self.folder / "matplotlib").mkdir(exist_ok=True)
                shutil.copy(cache, self.folder / "matplotlib")
            for path in (self.folder, *self.folder.rglob("*")):
                self.give(path)
        self._others = set() if uses_bwrap() else _adopt_orphans()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        if self._watching:
            self._watching.join()
        self.kill()
        subprocess.run(["chmod", "-R", "u+rwX", self.folder], capture_output=True)
        subprocess.run(
            ["rm", "-rf", "--", self.folder], capture_output=True
        )  # takes any depth, unlike rmtree

    def give(self, path: Path) -> None:
        """Make the program the owner of `path`."""
        if self.uid is not None:
            os.chown(path, self.uid, self.uid, follow_symlinks=False)

    @property
    def environment(self) -> dict[str, str]:
        """All that the program finds in its environment; nothing of the caller's but path and language."""
        kept = {name: os.environ[name] for name in ("PATH", "LANG", "LC_ALL", "TZ") if name in os.environ}
        home = str(self.folder)
        threads = dict.fromkeys(
            ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), str(self._threads)
        )
        return {
            **{
                **kept,
                **threads,
                "HOME": home,
                "USER": "student",
                "LOGNAME": "student",
                "TMPDIR": f"{home}/tmp",
            },
            **{"MPLCONFIGDIR": f"{home}/matplotlib", "NNOPT_HOME": home, "NNOPT_PROGRESS": "0"},
            **{"PYTHONPATH": str(library().parent), "PYTHONDONTWRITEBYTECODE": "1"},
            "PIP_NO_INDEX": "1",  # a notebook's !pip would try for long to reach a network that is not there
            **{"PYDEVD_DISABLE_FILE_VALIDATION": "1", **self._environment},
        }

    def command(self, words: list[str]) -> list[str]:
        """`words` as a guarded command; it is to be started in `folder` with `environment`."""
        limits = {
            "FSIZE": self.limits.file_mib * MIB,
            "NPROC": self.limits.processes + 32 + _threads_of_user(self.uid),  # the watch names it earlier
            "DATA": int(2 * self.limits.memory_gib * GIB),
            "CORE": 0,
        }
        uid = "-" if self.uid is None else str(self.uid)
        limited = [
            sys.executable,
            "-I",
            "-S",
            str(library() / EXEC_LIMITED),
            uid,
            json.dumps(limits),
            *words,
        ]
        return [*bwrap(self.folder), *limited] if uses_bwrap() else limited

    def watch(self, process: Any) -> None:
        """From now on enforce the limits on the tree of `process` (a Popen), in a thread."""
        self._process = process
        self._watching = threading.Thread(target=self._watch, args=(time.monotonic(),), daemon=True)
        self._watching.start()

    def _watch(self, started: float) -> None:
        while not self._done.wait(LOOK_SECONDS):
            reason, final = self._broken(time.monotonic() - started)
            if reason:
                self.stop(reason, final=final)
                return

    def _broken(self, seconds: float) -> tuple[str, bool]:
        """Which limit is broken, in words, empty where none is; and whether that is final."""
        limits = self.limits
        memory, count = _use_of(self._tree(), limits.memory_gib * GIB)
        size, files = _size_of(self.folder)
        if seconds > limits.seconds:
            return f"timed out after {limits.seconds:g} s", True
        if count > limits.processes:
            return f"started more than {limits.processes} processes and threads", True
        if memory > limits.memory_gib * GIB:
            return f"used more than {limits.memory_gib:g} GiB of memory", False
        if size > 2 * limits.file_mib * MIB or files > MOST_FILES:
            return f"wrote more than {2 * limits.file_mib} MiB or {MOST_FILES} files", True
        return "", False

    def _tree(self) -> list[Any]:
        """The program and all that it started and that is alive."""
        import psutil

        with contextlib.suppress(psutil.Error):
            if uses_bwrap():
                root = psutil.Process(self._process.pid)
                return [one for one in (root, *root.children(recursive=True)) if _is_alive(one)]
            descendants = psutil.Process().children(recursive=True)  # orphans have been adopted
            return [one for one in descendants if one not in self._others and _is_alive(one)]
        return []

    def stop(self, reason: str, *, final: bool = False) -> None:
        """Kill the program and all it started, for this reason."""
        if not self.reason:
            self.reason, self.final = reason, final
        self.kill()

    def kill(self) -> None:
        """Kill the program and all that it started."""
        import psutil

        if self._process is None:
            return
        suspended: set[Any] = set()
        for _ in range(100):  # what is suspended cannot start another, so this comes to an end
            started = set(self._tree()) - suspended
            for process in started:
                with contextlib.suppress(psutil.Error):
                    process.suspend()
            suspended |= started
            if not started:
                break
        for process in suspended:
            with contextlib.suppress(psutil.Error):
                process.kill()
        if not uses_bwrap():  # adopted ones count as processes until they were waited for
            mine = set(psutil.Process().children()) - self._others
            psutil.wait_procs([one for one in mine if one.pid != self._process.pid], timeout=3)


def not_cut() -> list[str]:
    """What this system cannot keep a program from, in words; empty where bubblewrap works."""
    if uses_bwrap():
        return []
    owner = "files that any account may read" if is_root() else "files that your account may read"
    writing = [] if is_root() else ["writing to files that your account may write"]
    return ["the network", f"reading {owner}", *writing]


def check_python() -> None:
    """Refuse, before anything is graded, where the guarded Python cannot even start a kernel's modules."""
    with Sandbox(Limits()) as box:
        command = box.command([sys.executable, "-c", "import ipykernel.kernelapp, nnopt_lib"])
        options: dict[str, Any] = {"env": box.environment, "cwd": box.folder, "stdin": subprocess.DEVNULL}
        done = subprocess.run(command, capture_output=True, text=True, **options)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise NnoptError(f"Python must start inside the sandbox; it said {last!r}. Run make setup again.")


def _font_caches() -> list[Path]:
    folder = os.environ.get("MPLCONFIGDIR")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "matplotlib"
    return list((Path(folder) if folder else cache).glob("fontlist-*.json"))


def _adopt_orphans() -> set[Any]:
    """Let processes whose parent is gone become this process's, on Linux; returns what it has already."""
    import ctypes

    import psutil

    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER
    return set(psutil.Process().children(recursive=True))


def _threads_of_user(uid: int | None) -> int:
    """Threads that the account runs already, since the system counts them toward the limit."""
    import psutil

    if uid is not None:
        return 0
    mine = [one.info for one in psutil.process_iter(["uids", "num_threads"]) if one.info["uids"]]
    return sum(info["num_threads"] or 1 for info in mine if info["uids"].real == os.getuid())


def _use_of(tree: list[Any], most: float) -> tuple[int, int]:
    """Bytes of memory and number of threads of a tree of processes.

    What forked processes share is counted once, which takes longer, so only where `most` seems exceeded.
    """
    import psutil

    memory = count = 0
    for one in tree:
        with contextlib.suppress(psutil.Error):
            memory += one.memory_info().rss
            count += one.num_threads()
    if memory > most and len(tree) > 1:
        memory = 0
        for one in tree:
            with contextlib.suppress(psutil.Error):
                used = one.memory_full_info()
                memory += getattr(used, "pss", used.uss)
    return memory, count


def _size_of(folder: Path) -> tuple[int, int]:
    """Bytes and number of files below `folder`; counting stops where there are too many."""
    size = files = 0
    folders = [os.fspath(folder)]
    while folders and files <= MOST_FILES:
        with contextlib.suppress(OSError), os.scandir(folders.pop()) as entries:
            for entry in entries:
                files += 1
                with contextlib.suppress(OSError):
                    size += entry.stat(follow_symlinks=False).st_size
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(entry.path)
                if files > MOST_FILES:
                    break
    return size, files


def _is_alive(process: Any) -> bool:
    import psutil

    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False
