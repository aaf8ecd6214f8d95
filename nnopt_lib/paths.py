"""The project's folders and files, each named once."""

from __future__ import annotations

import os
from pathlib import Path

from nnopt_lib.checks import refuse


def project_root() -> Path:
    """The folder that holds `chapters/` and `build/`: NNOPT_HOME, else the checkout around this folder.

    Returns an absolute path; the current folder where no parent has both `chapters/` and `pyproject.toml`.
    Refuses an NNOPT_HOME that is not a folder. Example: ``project_root() / "chapters"``.
    """
    home = os.environ.get("NNOPT_HOME")
    if home:
        if not Path(home).is_dir():
            refuse("NNOPT_HOME must name a folder that exists", repr(home))
        return Path(home).resolve()
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / "chapters").is_dir() and (folder / "pyproject.toml").is_file():
            return folder
    return here


def build_folder() -> Path:
    """Where everything goes that is made and not committed: NNOPT_BUILD, else ``build`` of the project.

    Example: ``build_folder() / "notebooks" / "quick"``.
    """
    return Path(os.environ.get("NNOPT_BUILD") or project_root() / "build")


def store_folder() -> Path:
    """Where records are kept: NNOPT_STORE, else ``build/store`` of the project; one folder per experiment."""
    return Path(os.environ.get("NNOPT_STORE") or build_folder() / "store")


def chapters_folder() -> Path:
    """Where sources and committed notebooks stand, and what is published."""
    return project_root() / "chapters"


def results_folder() -> Path:
    """Where published rows, figures, claims and status.json stand."""
    return chapters_folder() / "results"


def published_file(experiment: str) -> Path:
    """The committed rows of an experiment, one record per line.

    Below NNOPT_RESULTS where that is set, as it is for a chapter whose rows are computed anew and not yet
    published.
    """
    return Path(os.environ.get("NNOPT_RESULTS") or results_folder()) / f"{experiment}.jsonl"
