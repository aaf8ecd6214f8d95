"""Old paths and names answer with the new ones, and the page that lists them is true."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from nnopt_lib._moved import MOVED, RENAMED

ROOT = Path(__file__).parents[1]
LIBRARY = ROOT / "nnopt_lib"
PAGE = (ROOT / "book" / "moved.md").read_text(encoding="utf-8")
ROWS = re.findall(
    r"^\| `nnopt_lib\.(\w+)` \| `nnopt_lib\.([\w.]+)` \|(.*)\|$", PAGE.partition("## Public")[0], re.M
)


@pytest.mark.parametrize(
    ("statement", "sentence"),
    [
        (
            "import nnopt_lib.store",
            "ModuleNotFoundError: nnopt_lib.store has moved to nnopt_lib.experiments.records, nnopt_lib.files and "
            "nnopt_lib.paths; book/moved.md says what is where.",
        ),
        (
            "from nnopt_lib import replication",
            "ModuleNotFoundError: nnopt_lib.replication has moved to nnopt_lib.structure.edits.resize, "
            "nnopt_lib.structure.weights, nnopt_lib.structure.spec and nnopt_lib.structure.edits.widen; book/moved.md "
            "says what is where.",
        ),
        (
            "from nnopt_lib.training import Training",
            "ImportError: nnopt_lib.training.Training has moved to nnopt_lib.training.recipe; book/moved.md says what "
            "is where.",
        ),
        ("import nnopt_lib.nothing", "ModuleNotFoundError: No module named 'nnopt_lib.nothing'"),
    ],
)
def test_an_old_path_is_answered_by_the_new_one(statement: str, sentence: str) -> None:
    run = subprocess.run([sys.executable, "-c", statement], capture_output=True, text=True)
    assert run.stderr.splitlines()[-1] == sentence


def top_level(module: str) -> set[str]:
    """Names that a module binds at its top level."""
    path = LIBRARY / module.replace(".", "/")
    path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    names: set[str] = set()
    body = ast.parse(path.read_text(encoding="utf-8")).body
    for node in [
        inner for outer in body for inner in (outer.body if isinstance(outer, ast.With) else [outer])
    ]:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            names.add(node.name)
        elif isinstance(node, ast.Assign):
            names |= {target.id for target in node.targets if isinstance(target, ast.Name)}
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            names.add(node.target.id)
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            names |= {alias.asname or alias.name for alias in node.names}
    return names


def test_the_table_of_old_paths_says_what_the_library_says() -> None:
    assert {old for old, _, _ in ROWS} == set(MOVED)
    assert {(old, new) for old, new, _ in ROWS} == {
        (old, new) for old, all_new in MOVED.items() for new in all_new
    }


@pytest.mark.parametrize(("old", "new", "names"), [row for row in ROWS if row[2].strip()])
def test_the_names_of_the_table_are_where_it_says(old: str, new: str, names: str) -> None:
    # In brackets stands what a name was called before, or what of it is meant.
    listed = set(re.findall(r"`(\w+)`", re.sub(r"\([^)]*\)", "", names)))
    assert listed and listed <= top_level(new)


def test_the_page_lists_the_public_names_that_are_called_otherwise() -> None:
    rows = dict(re.findall(r"^\| `nnopt_lib\.(\w+)` \| `nnopt_lib\.(\w+)` \|$", PAGE, re.M))
    assert rows == RENAMED


@pytest.mark.parametrize(
    ("statement", "sentence"),
    [
        ("import nnopt_lib; nnopt_lib.Found", "nnopt_lib.Found is called nnopt_lib.SearchResult now."),
        ("import nnopt_lib; nnopt_lib.snapshot", "nnopt_lib.snapshot is called nnopt_lib.get_weights now."),
        (
            "from nnopt_lib.pruning import snapshot",
            "nnopt_lib.snapshot is called nnopt_lib.get_weights now.",
        ),
    ],
)
def test_an_old_name_is_answered_by_the_new_one(statement: str, sentence: str) -> None:
    run = subprocess.run([sys.executable, "-c", statement], capture_output=True, text=True)
    assert run.stderr.splitlines()[-1].endswith(f"Error: {sentence}")
