"""A class's own word, from which labs draw other data and questions; kept in its ``course.json``."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from typing import Any

from nnopt_lib.checks import refuse
from nnopt_lib.files import write_atomically

FILE = "course.json"
TAG = "course-key"  # of the cell of a lab's source that the key is written into
EMPTY = re.compile(r"""^course_key = (?:""|'')(?=\s*(?:#.*)?$)""", re.MULTILINE)
WORD = r"[\w.-]{1,40}"


def read_settings(folder: Path) -> dict[str, Any]:
    """What ``course.json`` of a class's folder holds, nothing where there is none; refuses a damaged one."""
    path = folder / FILE
    if not path.is_file():
        return {}
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        settings = error
    if not isinstance(settings, dict):
        remedy = "Put back a copy of it: students' numbers depend on it."
        refuse(f"{path} must hold a JSON object, {{name: value}}", _in_short(settings), remedy)
    return settings


def write_settings(folder: Path, **changes: Any) -> None:
    """Change some of what ``course.json`` holds; the rest stays."""
    text = json.dumps({**read_settings(folder), **changes}, ensure_ascii=False, indent=2)
    write_atomically(folder / FILE, text + "\n")


def key_of(folder: Path) -> str:
    """The class's key; empty where none was chosen."""
    key = read_settings(folder).get("key", "")
    if not isinstance(key, str) or not re.fullmatch(f"({WORD})?", key):
        refuse(f"key in {folder / FILE} must be one word", repr(key), "The one that it was released with.")
    return key


def choose_key(folder: Path, word: str, *, force: bool = False) -> None:
    """Make `word` the class's key, for all that is released from now on.

    Refuses another key than before once a lab was released, since each student would have other numbers than
    in the notebook they hold; `force` allows it.
    """
    if not re.fullmatch(WORD, word):
        refuse("--key must be one word of at most 40 letters, digits and the signs . - _", repr(word))
    before, released = key_of(folder), sorted(path.parent.name for path in folder.glob("release/*/*.ipynb"))
    if word != before and released and not force:
        refuse(
            f"the key must stay as it was once a lab was released: students have {', '.join(released)} with "
            f"{f'the key {before!r}' if before else 'no key'}, and would get other numbers",
            repr(word),
            "Name another folder for another class, or add --force and hand out all labs anew.",
        )
    write_settings(folder, key=word)


def with_key(lab: str, notebook: Any, key: str) -> Any:
    """A copy of a lab's source with `key` in its cell tagged ``course-key``; as it is where it has none."""
    keyed = copy.deepcopy(notebook)
    for cell in keyed.cells:
        if TAG in cell.metadata.get("tags", []):
            if not EMPTY.search(cell.source):
                rule = f'the cell tagged {TAG} in lab {lab} must assign course_key = ""'
                refuse(rule, repr(cell.source), "Release writes the class's key between the quotes.")
            cell.source = EMPTY.sub(
                lambda _: f"course_key = {json.dumps(key, ensure_ascii=False)}", cell.source
            )
    return keyed


def has_variants(notebook: Any) -> bool:
    """Whether a lab has a cell for the key, so that another class can have other data."""
    return any(TAG in cell.metadata.get("tags", []) for cell in notebook.cells)


def _in_short(what: Any) -> str:
    return " ".join(str(what).split())[:100]
