"""Run one program that nobody trusts: a private folder, limits that are enforced, no network, no leftovers.

With bubblewrap (``bwrap``) the program sees Python, the library and its own folder, and nothing else of the
machine. Without it the limits hold all the same, and `not_cut` says what could not be cut off.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from nnopt_lib.checks import NnoptError, check_int, check_number
from nnopt_lib.store import writing

GIB, MIB = 2**30, 2**20
LOOK_SECONDS = 0.1  # between two looks at what the program uses
MOST_FILES = 10_000
SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/nix/store", "/etc/ld.so.cache")
SETTINGS = ("/etc/alternatives", "/etc/fonts", "/etc/localtime", "/etc/ld.so.conf", "/etc/ld.so.conf.d")
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
    limit was broken, `reason` says which. `folder` is the program's home and the only place it can write to.
    """

    def __init__(self, limits: Limits, threads: int = 1, **environment: str) -> None:
        self.limits = limits
        self.reason = ""
        self.uid = UIDS + os.getpid() if _is_root() else None
        self._own = environment
        self._threads = threads
        self._process: Any = None
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
        if not uses_bwrap():
            _adopt_orphans()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
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
            **{"PYTHONPATH": str(_library().parent), "PYTHONDONTWRITEBYTECODE": "1"},
            **{"PYDEVD_DISABLE_FILE_VALIDATION": "1", **self._own},
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
            str(_library() / "limited.py"),
            uid,
            json.dumps(limits),
            *words,
        ]
        return [*_bwrap(self.folder), *limited] if uses_bwrap() else limited

    def watch(self, process: Any) -> None:
        """From now on enforce the limits on the tree of `process` (a Popen), in a thread."""
        self._process = process
        threading.Thread(target=self._watch, args=(time.monotonic(),), daemon=True).start()

    def _watch(self, started: float) -> None:
        while not self._done.wait(LOOK_SECONDS):
            reason = self._broken(time.monotonic() - started)
            if reason:
                self.stop(reason)
                return

    def _broken(self, seconds: float) -> str:
        limits = self.limits
        memory, count = _use_of(self._tree())
        size, files = _size_of(self.folder)
        if seconds > limits.seconds:
            return f"timed out after {limits.seconds:g} s"
        if memory > limits.memory_gib * GIB:
            return f"used more than {limits.memory_gib:g} GiB of memory"
        if count > limits.processes:
            return f"started more than {limits.processes} processes and threads"
        if size > 2 * limits.file_mib * MIB or files > MOST_FILES:
            return f"wrote more than {2 * limits.file_mib} MiB or {MOST_FILES} files"
        return ""

    def _tree(self) -> list[Any]:
        import psutil

        with contextlib.suppress(psutil.Error):
            if uses_bwrap():
                root = psutil.Process(self._process.pid)
                return [root, *root.children(recursive=True)]
            return list(psutil.Process().children(recursive=True))  # orphans have been adopted
        return []

    def stop(self, reason: str) -> None:
        """Kill the program and all it started, for this reason."""
        self.reason = self.reason or reason
        self.kill()

    def kill(self) -> None:
        """Kill the program and all that it started."""
        import psutil

        for _ in range(50):  # a fork bomb goes on while it is being killed
            alive = [one for one in self._tree() if _is_alive(one)] if self._process else []
            for one in alive:
                with contextlib.suppress(psutil.Error):
                    one.kill()
            if not alive:
                return
            time.sleep(0.01)


def not_cut() -> list[str]:
    """What this system cannot keep a program from, in words; empty where bubblewrap works."""
    if uses_bwrap():
        return []
    owner = "files that any account may read" if _is_root() else "files that your account may read"
    writing = [] if _is_root() else ["writing to files that your account may write"]
    return ["the network", f"reading {owner}", *writing]


@functools.cache
def uses_bwrap() -> bool:
    """Whether bubblewrap is there and works on this system; tried once, with the very options used later."""
    if shutil.which("bwrap") is None:
        return False
    with tempfile.TemporaryDirectory() as folder:
        command = [*_bwrap(Path(folder).resolve()), sys.executable, "-I", "-S", "-c", "pass"]
        return subprocess.run(command, capture_output=True, stdin=subprocess.DEVNULL).returncode == 0


def check_python() -> None:
    """Refuse, before anything is graded, where the guarded Python cannot even start a kernel's modules."""
    with Sandbox(Limits()) as box:
        command = box.command([sys.executable, "-c", "import ipykernel.kernelapp, nnopt_lib.labs"])
        options: dict[str, Any] = {"env": box.environment, "cwd": box.folder, "stdin": subprocess.DEVNULL}
        done = subprocess.run(command, capture_output=True, text=True, **options)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise NnoptError(f"Python must start inside the sandbox; it said {last!r}. Run make setup again.")


def _bwrap(folder: Path) -> list[str]:
    """Bubblewrap's part of a command: own namespaces, read-only views of Python, `folder` to write to."""
    words = ["bwrap", "--die-with-parent", "--new-session", "--unshare-pid", "--unshare-net", "--unshare-ipc"]
    words += ["--unshare-uts", "--unshare-cgroup-try", "--hostname", "lab"]
    words += ["--unsetenv", "JPY_PARENT_PID"]  # numbers of processes are others inside; a kernel would stop
    if _is_root():  # until limited.py becomes an ordinary user
        words += [word for right in ("CAP_SETUID", "CAP_SETGID") for word in ("--cap-add", right)]
    else:
        words += ["--unshare-user", "--disable-userns"]
    words += ["--proc", "/proc", "--dev", "/dev", "--size", str(64 * MIB), "--tmpfs", "/dev/shm"]
    words += ["--bind", str(folder / "tmp") if (folder / "tmp").is_dir() else str(folder), "/tmp"]
    parents = {str(parent) for path in (*_visible(), str(folder)) for parent in Path(path).parents}
    for parent in sorted(parents - {"/", "/tmp", *_visible()}):
        if not parent.startswith(tuple(f"{path}/" for path in _visible())):
            words += ["--perms", "0755", "--dir", parent]
    for path in _visible():
        if os.path.islink(path):  # as /bin, which is a link into /usr
            words += ["--symlink", os.readlink(path), path]
        else:
            words += ["--ro-bind-try", path, path]
    return [*words, "--bind", str(folder), str(folder), "--remount-ro", "/", "--chdir", str(folder)]


@functools.cache
def _visible() -> tuple[str, ...]:
    """What a program may read: the system's programs, this Python with its packages, the library."""
    python = [
        sys.prefix,
        sys.base_prefix,
        *(sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib")),
    ]
    link = sys.executable
    while os.path.islink(link):  # a virtual environment's python may be a link to another one's
        link = os.path.normpath(os.path.join(os.path.dirname(link), os.readlink(link)))
        python.append(os.path.dirname(os.path.dirname(link)))
    packages = [path for path in sys.path if path.endswith(("site-packages", "dist-packages"))]
    paths = [*SYSTEM, *SETTINGS, *python, *packages, str(_library())]
    return tuple(sorted({path for path in paths if os.path.lexists(path)}))


def _library() -> Path:
    return Path(__file__).resolve().parent


def _is_root() -> bool:
    return hasattr(os, "geteuid") and os.geteuid() == 0


def _font_caches() -> list[Path]:
    named = os.environ.get("MPLCONFIGDIR")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "matplotlib"
    return list((Path(named) if named else cache).glob("fontlist-*.json"))


def _adopt_orphans() -> None:
    """On Linux, processes whose parent is gone become this process's, so that none is lost sight of."""
    import ctypes

    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER


def _threads_of_user(uid: int | None) -> int:
    """Threads that the account runs already, since the system counts them toward the limit."""
    import psutil

    if uid is not None:
        return 0
    mine = [one.info for one in psutil.process_iter(["uids", "num_threads"]) if one.info["uids"]]
    return sum(info["num_threads"] or 1 for info in mine if info["uids"].real == os.getuid())


def _use_of(tree: list[Any]) -> tuple[int, int]:
    """Bytes of memory and number of threads of a tree of processes."""
    import psutil

    memory = count = 0
    for one in tree:
        with contextlib.suppress(psutil.Error):
            memory += one.memory_info().rss
            count += one.num_threads()
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
