"""What was handed in, read with suspicion, and its cells made again what was released: marks and number."""

from __future__ import annotations

import ast
import json
import re
import stat
import warnings
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
        nb.cells = joined(nb.cells)
        for cell in nb.cells:
            name = name_of(cell)
            cell.metadata.pop("nbgrader", None)
            if name in released:
                source, marks = released[name]
                cell.metadata["nbgrader"] = dict(marks)
                if cell.cell_type != source.cell_type:  # made markdown by a slip of the keyboard
                    _change_type(cell, source.cell_type)
        self._put_back(nb, released)
        for number, cell in enumerate(nb.cells):
            cell["id"] = f"cell-{number}"
            marks = cell.metadata.get("nbgrader")
            cell.metadata = nbformat.from_dict({"nbgrader": marks} if marks else {})
            _drop_lost_attachments(cell)
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


def joined(cells: list[Any]) -> list[Any]:
    """The cells with the pieces of a split one together again, and each name on the last of its cells.

    JupyterLab keeps a cell's name when the cell is split or copied. Pieces with nothing but text between them
    are joined where only that makes Python of them, or where they are text; other cells of a name are run in
    their order, as in JupyterLab, so that the last copy counts.
    """
    result: list[Any] = []
    for cell in cells:
        last = _piece_before(result, cell)
        if last is not None:
            both = f"{last.source}\n{cell.source}"
            if cell.cell_type == "markdown":
                last.source = both if cell.source.strip() != last.source.strip() else last.source
                last["attachments"] = {**last.get("attachments", {}), **cell.get("attachments", {})}
                continue
            if _are_pieces(last.source, cell.source):
                last.source = both
                continue
        result.append(cell)
    named: set[str] = set()
    for cell in reversed(result):
        name = name_of(cell)
        if name in named:
            cell.metadata.pop("nbgrader")
        elif name is not None:
            named.add(name)
    return result


def _piece_before(cells: list[Any], cell: Any) -> Any:
    """The last of `cells` if it may be a piece of the same as `cell`: of its name and type."""
    name = name_of(cell)
    for one in reversed(cells if name is not None else []):
        if name_of(one) == name:
            return one if one.cell_type == cell.cell_type and cell.cell_type != "raw" else None
        if name_of(one) is not None or (one.cell_type == "code" and one.source.strip()):
            return None
    return None


def _are_pieces(first: str, second: str) -> bool:
    """Whether two cells of a name are pieces of one, and not two tries, of which one may be broken."""
    whole = [_is_python(first), _is_python(second)]
    if _is_python(f"{first}\n{second}"):
        return not all(whole)
    return not any(whole)  # three pieces or more: the rest is still to come


def _is_python(source: str) -> bool:
    # Lines that only IPython understands do not make two whole cells the pieces of one.
    plain = "\n".join("pass" if line.startswith(("%", "!")) else line for line in source.splitlines())
    try:
        ast.parse(plain)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return True


def _change_type(cell: Any, cell_type: str) -> None:
    cell.cell_type = cell_type
    cell.pop("attachments", None)
    for key in ("outputs", "execution_count"):
        cell.pop(key, None)
    if cell_type == "code":
        cell["outputs"], cell["execution_count"] = [], None


def _drop_lost_attachments(cell: Any) -> None:
    """Name pictures that a text shows and that were lost, since no page could be made of it otherwise."""
    if cell.cell_type == "markdown":
        there = cell.get("attachments", {})
        picture = re.compile(r"!\[([^\]]*)\]\(attachment:([^)\s]+)[^)]*\)")
        cell.source = picture.sub(
            lambda found: found[0] if found[2] in there else f"(picture {found[2]} was lost)", cell.source
        )


def name_of(cell: Any) -> str | None:
    """What a cell calls itself for nbgrader, None where it is no name."""
    marks = (cell.get("metadata") or {}).get("nbgrader")  # some programs write null
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
            content = file.read(LARGEST + 1)  # one more than is allowed tells, whatever the size of the rest
        if len(content) > LARGEST:
            return content, f"is larger than {LARGEST // MIB} MiB"
        # Before nbformat, whose conversion and validation take long on what is looked for here.
        if problem := _too_much(json.loads(content)):
            return content, problem
        notebook = notebook_of(content)
        if not notebook.cells:
            return content, "is not a notebook: it has no cells"
        nbformat.validate(notebook, relax_add_props=True)
        json.dumps(notebook, ensure_ascii=False).encode()
    except OSError as error:
        return b"", f"could not be read: {error.strerror}"
    except json.JSONDecodeError as error:
        return content, f"is not a notebook: line {error.lineno} is no JSON"
    except Exception as error:  # readers of notebooks share no base class for what they cannot read
        what = " ".join(str(error).split())[:100] or type(error).__name__
        return content, f"is not a notebook: {what}"
    return content, ""


def notebook_of(content: bytes) -> Any:
    """The notebook that these bytes hold, of whatever format and encoding, as one of version 4."""
    text = content.decode(json.detect_encoding(content)).removeprefix("\ufeff")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it is old, or had cells without a number
        notebook = nbformat.reads(json.dumps(_completed(json.loads(text))), as_version=4)
        return nbformat.validator.normalize(notebook)[1]


def _completed(notebook: Any) -> Any:
    """A parsed notebook with what other programs leave out or write null for."""
    if not isinstance(notebook, dict) or "cells" not in notebook:
        return notebook
    usual: dict[str, Any] = {"outputs": [], "execution_count": None}
    for cell in notebook["cells"]:
        if not isinstance(cell.get("metadata"), dict):
            cell["metadata"] = {}
        for key, value in usual.items() if cell.get("cell_type") == "code" else ():
            cell[key] = cell.get(key) or value
    return {**notebook, "metadata": notebook.get("metadata") or {}}


def _too_much(notebook: Any) -> str:
    """What would keep readers of notebooks busy for hours; empty where nothing does."""
    sheets = [notebook, *notebook.get("worksheets", [])] if isinstance(notebook, dict) else []
    cells = [cell for sheet in sheets for cell in sheet.get("cells", [])]
    if len(cells) > MOST_CELLS:
        return f"has more than {MOST_CELLS} cells"
    if any(len("".join(cell.get("source", cell.get("input", "")))) > MOST_LETTERS for cell in cells):
        return f"has a cell of more than {MOST_LETTERS} letters"
    return ""


def another_labs(content: bytes, tests: list[str]) -> str:
    """That this is the notebook of another lab than the one with these tests, in words; empty where not."""
    names = {name_of(cell) for cell in notebook_of(content).cells} - {None}
    foreign = {name for name in names if str(name).endswith("-test")} - set(tests)
    if len(foreign) > 1 and len(set(tests) - names) > 1:
        return f"is the notebook of another lab, with the tests {', '.join(sorted(map(str, foreign)))}"
    return ""
