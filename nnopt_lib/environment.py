"""What this machine has for the course, in words: versions, hardware, data, and what was not found."""

from __future__ import annotations

import importlib
import importlib.metadata
import shutil
import sys

from nnopt_lib.data.catalog import CATALOG, Entry
from nnopt_lib.experiment import project_root, provenance

TOOLS = ("jupyterlab", "papermill", "nbval", "jupyter-book")


def describe_environment() -> dict[str, str]:
    """Names and what was found, in the order in which `nnopt env` prints them."""
    if shutil.which("nvidia-smi") or sys.platform == "darwin":
        importlib.import_module("nnopt_lib.torch_backend")  # seconds, but PyTorch then names the accelerator
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
