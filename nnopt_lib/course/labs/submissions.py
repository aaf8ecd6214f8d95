"""What was handed in, read with suspicion, and its cells made again what was released: marks and number."""

from __future__ import annotations

import ast
import contextlib
import json
import stat
from pathlib import Path
from typing import Any

import nbformat
from nbformat.v4 import new_code_cell, new_markdown_cell
from nbgrader.api import Gradebook
from nbgrader.preprocessors import NbGraderPreprocessor

MIB = 2**20
LARGEST = 20 * MIB  # of a submitted notebook
MOST_CELLS, MOST_LETTERS = 1000, 100_000


class RestoreCells(NbGraderPreprocessor):
    """Give every known cell the marks it was released with, and put back those that are missing.

    What a submission says of its cells is not believed: only the names count, and the first step of grading
    takes the rest from the gradebook.
    """

    def preprocess(self, nb: Any, resources: Any) -> tuple[Any, Any]:
        """Mark, complete and number the cells of `nb`."""
        course = resources["nbgrader"]
        with Gradebook(course["db_url"]) as gradebook:
            notebook = gradebook.find_notebook(course["notebook"], course["assignment"])
            released = {cell.name: (cell, _marks(cell, notebook)) for cell in notebook.source_cells}
        for cell in nb.cells:
            name = name_of(cell)
            cell.metadata.pop("nbgrader", None)
            if name in released:
                cell.metadata["nbgrader"] = dict(released[name][1])
        self._put_back(nb, released)
        for number, cell in enumerate(nb.cells):
            cell["id"] = f"cell-{number}"
            marks = cell.metadata.get("nbgrader")
            cell.metadata = nbformat.from_dict({"nbgrader": marks} if marks else {})
        nb.nbformat, nb.nbformat_minor = 4, 5
        nb.metadata = nbformat.from_dict({})  # nbgrader's next steps put the kernel back
        return nb, resources

    @staticmethod
    def _put_back(nb: Any, released: dict[str, Any]) -> None:
        previous = None
        for name, (source, marks) in released.items():
            names = [name_of(cell) for cell in nb.cells]
            if name not in names:
                new = new_code_cell if source.cell_type == "code" else new_markdown_cell
                position = len(names) - names[::-1].index(previous) if previous in names else 0
                cell = new(source.source if source.locked else "", metadata={"nbgrader": dict(marks)})
                nb.cells.insert(position, cell)
            previous = name


def name_of(cell: Any) -> str | None:
    """What a cell calls itself for nbgrader, None where it is no name."""
    marks = cell["metadata"].get("nbgrader")
    name = marks.get("grade_id") if isinstance(marks, dict) else None
    return name if isinstance(name, str) else None


def _marks(cell: Any, notebook: Any) -> dict[str, Any]:
    """nbgrader's metadata of a cell, from the gradebook."""
    points = {one.name: float(one.max_score) for one in (*notebook.grade_cells, *notebook.task_cells)}
    marks = {
        **{"schema_version": 3, "grade_id": cell.name, "locked": cell.locked, "checksum": cell.checksum},
        **{"cell_type": cell.cell_type, "grade": any(one.name == cell.name for one in notebook.grade_cells)},
        **{"solution": any(one.name == cell.name for one in notebook.solution_cells)},
        **{"task": any(one.name == cell.name for one in notebook.task_cells)},
    }
    return {**marks, "points": points[cell.name]} if cell.name in points else marks


def read_submission(path: Path) -> tuple[bytes, str]:
    """The content of a submitted notebook, and what is wrong with it in words, empty where nothing is."""
    try:
        if not stat.S_ISREG(path.lstat().st_mode):
            return b"", "is not a notebook: it is no ordinary file"
        with open(path, "rb") as file:
            content = file.read(LARGEST + 1)
        if len(content) > LARGEST:
            return content, f"is larger than {LARGEST // MIB} MiB"
        if problem := _too_much(json.loads(content)):
            return content, problem
        notebook = nbformat.reads(content.decode(), as_version=4)
        if not notebook.cells:
            return content, "is not a notebook: it has no cells"
        nbformat.validate(nbformat.validator.normalize(notebook)[1], relax_add_props=True)
        json.dumps(notebook, ensure_ascii=False).encode()
    except OSError as error:
        return b"", f"could not be read: {error.strerror}"
    except json.JSONDecodeError as error:
        return content, f"is not a notebook: line {error.lineno} is no JSON"
    except Exception as error:  # readers of notebooks share no base class for what they cannot read
        what = " ".join(str(error).split())[:100] or type(error).__name__
        return content, f"is not a notebook: {what}"
    return content, ""


def _too_much(notebook: Any) -> str:
    """What would keep readers of notebooks busy for hours; empty where nothing does."""
    cells = notebook.get("cells", []) if isinstance(notebook, dict) else []
    if len(cells) > MOST_CELLS:
        return f"has more than {MOST_CELLS} cells"
    if any(len("".join(cell.get("source", ""))) > MOST_LETTERS for cell in cells):
        return f"has a cell of more than {MOST_LETTERS} letters"
    return ""


def typed_literals(content: bytes) -> dict[str, Any]:
    """What a student typed for `student` and `numbers`; only literals, so that nothing is executed."""
    typed: dict[str, Any] = {}
    for cell in json.loads(content)["cells"]:
        name = name_of(cell)
        if name in ("student", "numbers"):
            with contextlib.suppress(SyntaxError, ValueError, RecursionError, MemoryError):
                for node in ast.parse("".join(cell["source"])).body:
                    if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == name:
                        typed[name] = ast.literal_eval(node.value)
    return dict(json.loads(json.dumps(typed, default=str, skipkeys=True)))
