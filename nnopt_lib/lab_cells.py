"""A submission's cells made again what was released: their marks, their number, none missing."""

from __future__ import annotations

from typing import Any

import nbformat
from nbformat.v4 import new_code_cell, new_markdown_cell
from nbgrader.api import Gradebook
from nbgrader.preprocessors import NbGraderPreprocessor


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
                place = len(names) - names[::-1].index(previous) if previous in names else 0
                cell = new(source.source if source.locked else "", metadata={"nbgrader": dict(marks)})
                nb.cells.insert(place, cell)
            previous = name


def name_of(cell: Any) -> str | None:
    """What a cell calls itself for nbgrader, None where it is no name."""
    marks = cell.metadata.get("nbgrader")
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
