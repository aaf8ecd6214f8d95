"""Where a result comes from: versions, hardware and commit; the same in words, with what was not found."""

from __future__ import annotations

import copy
import functools
import importlib
import importlib.metadata
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from nnopt_lib.data.catalog import CATALOG, Entry
from nnopt_lib.frameworks import backend
from nnopt_lib.paths import project_root

PACKAGES = ("numpy", "nnopt", "torch", "tensorflow", "keras")


def provenance() -> dict[str, Any]:
    """Where a result comes from: versions, hardware and commit of this process.

    Returns a new dictionary ``{"versions": {...}, "hardware": {...}, "commit": ...}``; a package that is not
    installed has version None; the commit is None outside a repository of its own, and ends in ``+changes``
    after edits and with new sources.
    No framework is imported. Example: ``provenance()["versions"]["torch"]``.
    """
    origin = copy.deepcopy(_fixed_provenance())
    origin["hardware"]["accelerator"] = _accelerator()
    return origin


@functools.cache
def _fixed_provenance() -> dict[str, Any]:
    """What cannot change while a process lives; the commit is that of the code it loaded."""
    import psutil  # the accelerator is not in here: a framework that names it may be loaded later

    hardware = {
        "cpu": _cpu_model(),
        "cores": psutil.cpu_count(),
        "memory_bytes": psutil.virtual_memory().total,
    }
    versions = {"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}}
    return {"versions": versions, "hardware": hardware, "commit": _commit()}


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _cpu_model() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _accelerator() -> str | None:
    """The name of the graphics card, if a framework that is already loaded reports one."""
    torch, tensorflow = sys.modules.get("torch"), sys.modules.get("tensorflow")
    if torch is not None and hasattr(torch, "cuda") and torch.cuda.is_available():
        return str(torch.cuda.get_device_name())
    if torch is not None and hasattr(torch, "backends") and torch.backends.mps.is_available():
        return "Apple MPS"
    if tensorflow is not None and hasattr(tensorflow, "config"):
        devices = tensorflow.config.list_physical_devices("GPU")
        return str(devices[0].name) if devices else None
    return None


# What a run itself writes (rows, executed notebooks) is no edit of what made it.
MADE_BY_RUNS = (":(exclude)chapters/results", ":(exclude,glob)chapters/**/*.ipynb")
# New files that can change a result, where notes beside them cannot; `**` is any folder, or none.
SOURCES = (
    ":(glob)nnopt_lib/**/*.py",
    "nnopt_lib/data/samples",
    ":(glob)chapters/**/*.md",
    ":(glob)chapters/**/*.py",
    "pyproject.toml",
    "constraints.txt",
    "environment.yml",
)


def _commit() -> str | None:
    """The commit of the project's own repository, with what is edited or new; an outer one is another's."""
    try:
        if _git("rev-parse", "--show-prefix"):  # the way down from the repository's folder to the project's
            return None
        edited = _git("status", "--porcelain", "--untracked-files=no", "--", ".", *MADE_BY_RUNS)
        # Only the project's .gitignore counts: one of the user's may leave out anything.
        new = _git("ls-files", "--others", "--exclude-per-directory=.gitignore", "--", *SOURCES)
        return _git("rev-parse", "HEAD") + ("+changes" if edited or new else "")
    except (OSError, subprocess.SubprocessError):
        return None


def _git(*arguments: str) -> str:
    """What git prints of the project; the variables of a hook or a script name another repository."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    command = ["git", "-C", str(project_root()), *arguments]
    pipes: dict[str, Any] = {"capture_output": True, "text": True, "env": environment}
    return str(subprocess.run(command, check=True, timeout=20, **pipes).stdout).strip()


TOOLS = ("jupyterlab", "papermill", "nbval", "jupyter-book")


def describe_environment() -> dict[str, str]:
    """Names and what was found, in the order in which `nnopt env` prints them."""
    if shutil.which("nvidia-smi") or sys.platform == "darwin":
        backend("torch")  # seconds, but PyTorch then names the accelerator
    origin = provenance()
    hardware = origin["hardware"]
    versions = {**origin["versions"], **{tool: importlib.metadata.version(tool) for tool in TOOLS}}
    memory = f"{hardware['memory_bytes'] / 1e9:.0f} GB"
    return {
        **{name: version or "not found" for name, version in versions.items()},
        "processor": f"{hardware['cpu']}, {hardware['cores']} cores, {memory}",
        "accelerator": hardware["accelerator"] or "not found; everything runs on the processor",
        "project": str(project_root()),
        "commit": origin["commit"] or "not found",
        **{entry.name: _where(entry) for entry in CATALOG.values() if entry.files},
    }


def _where(entry: Entry) -> str:
    return (
        "on this machine"
        if entry.is_local
        else "not found; downloaded on first use, or name its folder by NNOPT_DATA"
    )
