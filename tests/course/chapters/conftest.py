"""A course of two tiny chapters, and two stand-ins for papermill."""

from __future__ import annotations

import contextlib
import io

import nbformat
import pytest

from nnopt_lib.course.chapters import run as running
from tests.tiny_course import write_course


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A course of two tiny chapters; nothing of the real one is touched."""
    write_course(tmp_path, monkeypatch)
    return tmp_path


@pytest.fixture
def executions(monkeypatch):
    """Names of the chapters executed; a stand-in for papermill that takes no time."""
    names = []

    def execute(name, notebook, parameters, output, environment):
        names.append(name)
        return f'{{"executed": {len(names)}}}\n'

    monkeypatch.setattr(running, "execute", execute)
    return names


@pytest.fixture
def kernel(monkeypatch):
    """Chapters executed by a stand-in for papermill that runs their code in this process, without a kernel."""
    calls = []

    def execute(name, notebook, parameters, output, environment):
        calls.append((name, dict(parameters)))
        names = {}
        with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()) as printed:
            for variable, value in environment.items():
                patch.setenv(variable, value)
            for cell in (one for one in notebook.cells if one.cell_type == "code"):
                exec(cell.source, names)
                names.update(parameters if "parameters" in cell.metadata.get("tags", []) else {})
        notebook.metadata["printed"] = [printed.getvalue(), [row["y"] for row in names["rows"]]]
        return nbformat.writes(notebook) + "\n"

    monkeypatch.setattr(running, "execute", execute)
    return calls
