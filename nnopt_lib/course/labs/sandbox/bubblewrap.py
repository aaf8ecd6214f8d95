"""Bubblewrap's part of a sandbox: what a program sees of the machine, and whether that works here at all."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import Any

import nnopt_lib

SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/nix/store", "/etc/ld.so.cache")
SETTINGS = ("/etc/alternatives", "/etc/fonts", "/etc/localtime", "/etc/ld.so.conf", "/etc/ld.so.conf.d")
SHARED_MEMORY = 64 * 2**20  # bytes


@functools.cache
def uses_bwrap() -> bool:
    """Whether bubblewrap is there and works on this system; tried once, with the very options used later."""
    if shutil.which("bwrap") is None:
        return False
    with tempfile.TemporaryDirectory() as folder:
        command = [*bwrap(Path(folder).resolve()), sys.executable, "-I", "-S", "-c", "pass"]
        return subprocess.run(command, capture_output=True, stdin=subprocess.DEVNULL).returncode == 0


def in_words() -> str:
    """What there is of bubblewrap, for `nnopt env`: its version, and whether it works here."""
    remedy = "labs are graded without it, and submissions not kept from network and files"
    if shutil.which("bwrap") is None:
        return f"not found; {remedy}"
    try:
        pipes: dict[str, Any] = {
            "stdout": subprocess.PIPE,
            "stderr": subprocess.STDOUT,
            "stdin": subprocess.DEVNULL,
        }
        said = subprocess.run(["bwrap", "--version"], text=True, timeout=20, check=True, **pipes).stdout
        works = uses_bwrap()
    except (OSError, subprocess.SubprocessError):
        said, works = "of an unknown version", False
    version = " ".join(said.split()).removeprefix("bubblewrap ")
    return version if works else f"{version}, but it does not work here; {remedy}"


def bwrap(folder: Path) -> list[str]:
    """Bubblewrap's part of a command: own namespaces, read-only views of Python, `folder` to write to."""
    words = ["bwrap", "--die-with-parent", "--new-session", "--unshare-pid", "--unshare-net", "--unshare-ipc"]
    words += ["--unshare-uts", "--unshare-cgroup-try", "--hostname", "lab"]
    words += ["--unsetenv", "JPY_PARENT_PID"]  # numbers of processes are others inside; a kernel would stop
    if is_root():  # until exec_limited.py becomes an ordinary user
        words += [word for right in ("CAP_SETUID", "CAP_SETGID") for word in ("--cap-add", right)]
    else:
        words += ["--unshare-user", "--disable-userns"]
    words += ["--proc", "/proc", "--dev", "/dev", "--perms", "1777"]
    words += ["--size", str(SHARED_MEMORY), "--tmpfs", "/dev/shm"]
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
    paths = [*SYSTEM, *SETTINGS, *python, *packages, str(library())]
    return tuple(sorted({one for path in paths if os.path.lexists(path) for one in _with_links(path)}))


def _with_links(path: str) -> set[str]:
    """A path without links in it, and the links that lead there: nothing can be bound below a link."""
    places = {os.path.realpath(path)}
    for part in (Path(path), *Path(path).parents):
        if part.is_symlink():
            link = Path(os.path.realpath(part.parent), part.name)
            places |= {str(link), *_with_links(os.path.join(link.parent, os.readlink(link)))}
    return places


def library() -> Path:
    """The folder of this very library."""
    return Path(nnopt_lib.__file__).resolve().parent


def is_root() -> bool:
    """Whether this process may do everything on this machine."""
    return hasattr(os, "geteuid") and os.geteuid() == 0
