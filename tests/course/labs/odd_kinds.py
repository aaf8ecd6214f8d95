"""Notebooks that came out oddly, by an editor, a slip or a program without end, with what a fair reader gives.

See `kinds.py`. Most were solved in full, and only the file or the order of its cells is odd.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

from nnopt_lib.course.labs.gradebook import Course
from tests.course.labs.kinds import (
    Kind,
    insert,
    own_cell,
    own_numbers,
    solved,
    with_cells,
    with_extra,
)
from tests.labs_class import MASK, Notebook

Maker = Callable[[Course, str], "Notebook | bytes"]
NONE = (0.0, 0.0, 0.0)
PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
TESTS = ("student-test", "mask-test", "numbers-test")


def changed(change: Callable[[Notebook], Any], **cells: str) -> Maker:
    """A maker of solved notebooks that `change` was done to."""

    def make(course: Course, name: str) -> Notebook:
        notebook = solved(course, name, **cells)
        change(notebook)
        return notebook

    return make


def written(write: Callable[[Notebook], bytes]) -> Maker:
    """A maker of solved notebooks as the bytes that `write` gives."""
    return lambda course, name: write(solved(course, name))


def split(name: str, *pieces: str, between: dict[str, Any] | None = None) -> Maker:
    """A maker of notebooks in which the cell `name` was split; every piece keeps its metadata."""

    def make(course: Course, student: str) -> Notebook:
        notebook = solved(course, student)
        text = [_with_numbers(piece, student) for piece in pieces]
        cell = notebook.cell(name)
        more = [
            {**copy.deepcopy(cell), "id": f"{name}-{number}", "source": piece}
            for number, piece in enumerate(text)
        ]
        at = notebook.cells.index(cell)
        rest = more if between is None else [more[0], between, *more[1:]]
        notebook.cells[at : at + 1] = rest
        return notebook

    return make


def _with_numbers(text: str, student: str) -> str:
    values = own_numbers(student)
    return text.replace("{median}", values["median"]).replace("{kept}", values["kept"])


def _copied(notebook: Notebook, name: str, source: str, *, after: bool) -> None:
    cell = copy.deepcopy(notebook.cell(name))
    insert(notebook, name, {**cell, "id": f"copy-of-{name}", "source": source}, after=after)


def _copies_of_tests(notebook: Notebook) -> None:
    for name in TESTS:
        _copied(notebook, name, notebook.cell(name)["source"], after=name == "mask-test")


def _twice(notebook: Notebook) -> None:
    again = copy.deepcopy(notebook.cells)
    for number, cell in enumerate(again):
        cell["id"] = f"again-{number}"
    notebook.cells.extend(again)


def _below(notebook: Notebook) -> None:
    cell = notebook.cell("mask")
    notebook.cells.remove(cell)
    insert(notebook, "mask-test", cell, after=True)


def _reversed_exercises(notebook: Notebook) -> None:
    """Numbers first, then the function: each still with its test."""
    pair = [notebook.cell("numbers"), notebook.cell("numbers-test")]
    for cell in pair:
        notebook.cells.remove(cell)
    insert(notebook, "mask", *pair)


def _without(*names: str) -> Callable[[Notebook], None]:
    def change(notebook: Notebook) -> None:
        for name in names:
            notebook.cells.remove(notebook.cell(name))

    return change


def _without_imports(notebook: Notebook) -> None:
    notebook.cells.remove(next(one for one in notebook.cells if "import numpy" in "".join(one["source"])))


def _without_metadata(notebook: Notebook) -> None:
    notebook.content["metadata"] = {}
    for cell in notebook.cells:
        cell["metadata"] = {}
        cell.pop("id")
    notebook.content["nbformat_minor"] = 0


def _colab(notebook: Notebook) -> None:
    notebook.content["metadata"] = {
        "colab": {"provenance": [], "toc_visible": True},
        "kernelspec": {"name": "python3", "display_name": "Python 3"},
    }
    for number, cell in enumerate(notebook.cells):
        cell["metadata"] = {
            "id": f"aBc{number}",
            "outputId": "0-1",
            "colab": {"base_uri": "https://localhost:8080/"},
        }
        cell.pop("id")
    notebook.content["nbformat_minor"] = 0


def _kaggle(notebook: Notebook) -> None:
    notebook.content["metadata"]["kaggle"] = {"accelerator": "gpu", "dataSources": []}
    for cell in notebook.cells:
        cell["metadata"].update(
            _uuid="8f2839f2", _cell_guid="b1076dfc", trusted=True, execution={"iopub.status.busy": "x"}
        )
        cell.pop("id")
    notebook.content["nbformat_minor"] = 4


def _widgets(notebook: Notebook) -> None:
    state = {f"{n:032x}": {"model_name": "IntProgressModel", "state": {"value": n}} for n in range(50)}
    notebook.content["metadata"]["widgets"] = {
        "application/vnd.jupyter.widget-state+json": state
    }  # as Colab: broken


def _julia(notebook: Notebook) -> None:
    notebook.content["metadata"]["kernelspec"] = {
        "name": "julia-1.10",
        "display_name": "Julia",
        "language": "julia",
    }
    notebook.content["metadata"]["language_info"] = {"name": "julia"}


def _null_metadata(notebook: Notebook) -> None:
    notebook.cell("mask")["outputs"] = None
    for cell in notebook.cells:
        if not cell["metadata"]:
            cell["metadata"] = None
    notebook.content["metadata"] = None


def _sources_as_lists(notebook: Notebook) -> None:
    for cell in notebook.cells[::2]:
        cell["source"] = "".join(cell["source"]).splitlines(keepends=True)


def _empty_cells(notebook: Notebook) -> None:
    for name in TESTS:
        insert(notebook, name, own_cell("", f"e-{name}"), own_cell("  \n", f"m-{name}", "markdown"))
    notebook.cells.append(own_cell("some raw text ### BEGIN", "raw", "raw"))


def _minor(number: int, *, ids: bool) -> Callable[[Notebook], None]:
    def change(notebook: Notebook) -> None:
        notebook.content["nbformat_minor"] = number
        for cell in notebook.cells:
            cell.pop("id", None) if not ids else cell.update(id="same")

    return change


def _attachments(notebook: Notebook) -> None:
    cell = notebook.cell("words")
    cell["source"] = "my plot ![plot](attachment:plot.png) and ![gone](attachment:lost-one.png)"
    cell["attachments"] = {"plot.png": {"image/png": PIXEL}}


def _lost(notebook: Notebook) -> None:
    notebook.cell("words")["source"] = 'as drawn:\n\n![my sketch](attachment:sketch.jpg "a title")'
    notebook.cell("words").pop("attachments", None)


def _huge_outputs(notebook: Notebook) -> None:
    picture = {"output_type": "display_data", "metadata": {}, "data": {"image/png": PIXEL * 10_000}}
    notebook.cell("mask")["outputs"] = [
        {"output_type": "stream", "name": "stdout", "text": "line\n" * 10**6},
        picture,
    ]


def _old_outputs(notebook: Notebook) -> None:
    trace = {
        "output_type": "error",
        "ename": "KeyboardInterrupt",
        "evalue": "",
        "traceback": ["\x1b[31m^C\x1b[0m"],
    }
    points = {
        "output_type": "execute_result",
        "execution_count": 7,
        "metadata": {},
        "data": {"text/plain": "0.0"},
    }
    for name in TESTS:
        notebook.cell(name)["outputs"] = [trace, points]
        notebook.cell(name)["execution_count"] = 99


def _became(kind: str, *names: str) -> Callable[[Notebook], None]:
    def change(notebook: Notebook) -> None:
        for name in names:
            cell = notebook.cell(name)
            cell["cell_type"] = kind
            for key in ("outputs", "execution_count"):
                cell.pop(key, None)

    return change


def _of_format_3(notebook: Notebook) -> bytes:
    import warnings

    import nbformat

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return nbformat.writes(nbformat.convert(nbformat.reads(notebook.text(), 4), 3), 3).encode()


def _lines_of_windows(notebook: Notebook) -> bytes:
    for cell in notebook.cells:
        cell["source"] = "".join(cell["source"]).replace("\n", "\r\n")
    return json.dumps(notebook.content, indent=1).replace("\n", "\r\n").encode()


def _script(notebook: Notebook) -> bytes:
    codes = ["".join(one["source"]) for one in notebook.cells if one["cell_type"] == "code"]
    return "\n\n".join(f"# In[{number}]:\n{code}" for number, code in enumerate(codes)).encode()


def _other_lab(course: Course, name: str) -> bytes:
    notebook = solved(course, name)
    for cell in notebook.cells:
        marks = cell["metadata"].get("nbgrader")
        if marks and marks["grade_id"] != "student":
            marks["grade_id"] = f"layers-{marks['grade_id']}"
    return notebook.text().encode()


def _magics(notebook: Notebook) -> None:
    for name in ("student", "mask", "numbers"):
        cell = notebook.cell(name)
        cell["source"] = f"%matplotlib inline\n{cell['source']}\n!echo installed\n%time 1 + 1"
    insert(
        notebook,
        "mask",
        own_cell("%%time\n%timeit -n 3 -r 1 2 + 2", "timed"),
        own_cell("%load_ext autoreload\n?np.abs", "ext"),
    )


def _commented_copy(notebook: Notebook) -> None:
    text = "".join(f"# {line}\n" for line in MASK.splitlines())
    _copied(notebook, "mask", text, after=True)
    _copied(notebook, "numbers", "# " + notebook.cell("numbers")["source"], after=True)


WRONG_MASK = "def keep_large(values, threshold):\n    return values > threshold"
WRONG_NUMBERS = 'numbers = {"median": 0.5, "kept": 3}'
SLOW = MASK.replace("return", "if len(values) > 5:\n        while True:\n            pass\n    return")
QUITS = "print('bye')\nexit()"
THREADS = "import threading, time\nthreading.Thread(target=time.sleep, args=(600,)).start()"

# fmt: off
ODD = [
    Kind("split-helper", "a cell split between a helper and the function", split("mask", "def size(v):\n    return abs(v)", "def keep_large(values, threshold):\n    return np.array([size(v) > threshold for v in values])"), often=False),
    Kind("split-function", "a function cut in its middle", split("mask", "def keep_large(values, threshold):", "    return np.abs(values) > threshold")),
    Kind("split-three", "a function cut into three", split("mask", "def keep_large(values, threshold):\n    # sizes", "    sizes = np.abs(values)", "    return sizes > threshold"), often=False),
    Kind("split-numbers", "the dictionary of numbers cut in two", split("numbers", 'numbers = {"median": {median},', '           "kept": {kept}}')),
    Kind("split-by-text", "a function cut in its middle, with a text between", split("mask", "def keep_large(values, threshold):", "    return np.abs(values) > threshold", between=own_cell("a remark", "remark", "markdown")), judgement="in JupyterLab it fails; put together it is right"),
    Kind("split-words", "the answer in words cut in two", split("words", "Large weights matter", "more, since they move the output."), often=False),
    Kind("copy-better", "a copy of the solution below it, and better: the last counts", changed(lambda n: _copied(n, "mask", MASK, after=True), mask=WRONG_MASK), often=False),
    Kind("copy-worse", "a copy of the solution below it, and worse: the last counts", changed(lambda n: _copied(n, "mask", WRONG_MASK, after=True)), (1, 0, 2), judgement="run from top to bottom, the worse one is what the notebook defines", often=False),
    Kind("copy-broken", "a first try that is no Python, copied and mended below", changed(lambda n: _copied(n, "mask", MASK.replace("):", ")"), after=False))),
    Kind("copy-spoilt", "a copy of the solution below it that is no Python", changed(lambda n: _copied(n, "mask", MASK.replace("):", ")"), after=True)), judgement="run from top to bottom, the first one stays defined", often=False),
    Kind("copy-commented", "copies of solutions below them, commented out", changed(_commented_copy)),
    Kind("copy-of-tests", "copies of the test cells", changed(_copies_of_tests), often=False),
    Kind("copy-of-numbers", "two copies of the numbers, the last right", changed(lambda n: _copied(n, "numbers", WRONG_NUMBERS, after=False)), often=False),
    Kind("twice", "the whole notebook pasted below itself", changed(_twice)),
    Kind("below-test", "the solution moved below its test", changed(_below)),
    Kind("other-order", "the second exercise moved above the first", changed(_reversed_exercises), often=False),
    Kind("no-tests", "the test cells deleted", changed(_without(*TESTS))),
    Kind("no-words", "the cell for words deleted, and the test after it", changed(_without("words", "numbers-test")), often=False),
    Kind("no-solution", "a cell for a solution deleted", changed(_without("mask")), (1, 0, 2), often=False),
    Kind("no-imports", "the given cell with the imports deleted, its lines in another", changed(_without_imports, mask="import numpy as np\n" + MASK)),
    Kind("nothing-imported", "the given cell with the imports deleted", changed(_without_imports), (1, 0, 2), judgement="the function does not run as handed in", often=False),
    Kind("made-text", "solution cells made text by a slip", changed(_became("markdown", "mask", "numbers")), judgement="the answer is there; as handed in it is not run", often=False),
    Kind("made-raw", "a solution cell made raw by a slip", changed(_became("raw", "numbers")), judgement="the answer is there; as handed in it is not run", often=False),
    Kind("made-code", "the words' cell made code", changed(_became("code", "words"))),
    Kind("bom", "a byte-order mark before the notebook", written(lambda n: b"\xef\xbb\xbf" + n.text().encode())),
    Kind("utf-16", "saved as UTF-16", written(lambda n: n.text().encode("utf-16")), often=False),
    Kind("windows", "line ends of Windows, in the file and in the cells", written(_lines_of_windows), often=False),
    Kind("format-3", "notebook format 3", written(_of_format_3)),
    Kind("format-4-0", "notebook format 4.0", changed(_minor(0, ids=False)), often=False),
    Kind("format-4-5-bare", "notebook format 4.5 without the names of cells that it asks for", changed(_minor(5, ids=False)), often=False),
    Kind("format-4-9", "a notebook format that is not out yet", changed(_minor(9, ids=False)), often=False),
    Kind("same-ids", "every cell with the same id", changed(_minor(5, ids=True)), often=False),
    Kind("lost-picture", "a picture in the text that was lost", changed(_lost), often=False),
    Kind("pictures", "a picture pasted into the text, another lost", changed(_attachments)),
    Kind("huge-outputs", "stored outputs of six mebibytes", changed(_huge_outputs)),
    Kind("old-outputs", "stored outputs of another run: interrupted, with points", changed(_old_outputs), often=False),
    Kind("no-metadata", "all metadata of the cells lost", changed(_without_metadata)),
    Kind("colab", "all metadata replaced, as Google Colab does", changed(_colab)),
    Kind("kaggle", "metadata added, ids dropped, as Kaggle does", changed(_kaggle), often=False),
    Kind("widgets", "a broken state of widgets", changed(_widgets), often=False),
    Kind("julia", "the kernel of another language noted", changed(_julia), often=False),
    Kind("null", "`null` where metadata should be", changed(_null_metadata)),
    Kind("lists", "some sources as lists of lines", changed(_sources_as_lists), often=False),
    Kind("empty-cells", "empty cells everywhere, a raw one", changed(_empty_cells), often=False),
    Kind("magics", "magics and shell commands in the solution cells", changed(_magics)),
    Kind("loop", "an endless loop in an own cell", with_extra("while True:\n    pass", before="mask"), told="ran for more than"),
    Kind("sleeps", "an own cell that waits for a quarter of an hour", with_extra("import time\ntime.sleep(1000)"), told="ran for more than", often=False),
    Kind("loop-in-function", "an endless loop in the function, for longer arrays", with_cells(mask=SLOW), (1, 0, 2), often=False),
    Kind("prints-on", "an own cell that prints without end", with_extra("while True:\n    print('x' * 1000)"), told="printed more than"),
    Kind("memory", "an own cell that fills the memory", with_extra("eaten = []\nwhile True:\n    eaten.append(bytearray(10_000_000))"), told="GiB of memory"),
    Kind("quits", "`exit()` in an own cell", with_extra(QUITS)),
    Kind("os-exit", "`os._exit(0)` in an own cell", with_extra("import os\nos._exit(0)"), told="killed its kernel", often=False),
    Kind("asks", "`input()` in an own cell", with_extra("border = float(input('Border? '))"), often=False),
    Kind("interrupted", "a cell that raises KeyboardInterrupt", with_extra("raise KeyboardInterrupt"), often=False),
    Kind("thread", "a thread that goes on in the background", with_extra(THREADS), often=False),
    Kind("other-lab", "the notebook of another lab", _other_lab, NONE, told="another lab"),
    Kind("cut-off", "a file that was not uploaded to its end", written(lambda n: n.text().encode()[:-2000]), NONE, told="is not a notebook"),
    Kind("script", "exported as a Python script", written(_script), NONE, told="is not a notebook", often=False),
    Kind("untouched", "the released notebook as it was", lambda course, _: Notebook(course), NONE),
]
# fmt: on
