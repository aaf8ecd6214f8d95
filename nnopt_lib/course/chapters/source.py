"""Chapters: find them, read them and their parameters."""

from __future__ import annotations

import ast
import dataclasses
import hashlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nnopt_lib.checks import check_choice, nearest, refuse
from nnopt_lib.course.chapters.kernel import tidy
from nnopt_lib.frameworks import DEVICES
from nnopt_lib.paths import build_folder, project_root

PROFILES = ("quick", "published")
KINDS: dict[type, str] = {bool: "true or false", int: "a whole number", float: "a number"}


@dataclasses.dataclass(frozen=True)
class Chapter:
    """One chapter: `name` as in ``01-source-article``, `source` the MyST notebook that is edited."""

    name: str
    source: Path

    @property
    def number(self) -> str:
        """The two digits the name begins with."""
        return self.name[:2]

    @property
    def notebook(self) -> Path:
        """The committed, executed twin."""
        return self.source.with_suffix(".ipynb")

    @property
    def title(self) -> str:
        """The first heading of the source, a question."""
        match = re.search(r"^# (.+)$", self.source.read_text(encoding="utf-8"), re.MULTILINE)
        return match[1].strip() if match else self.name

    def executed(self, profile: str) -> Path:
        """Where `nnopt run` leaves the executed notebook of `profile`."""
        return build_folder() / "notebooks" / profile / f"{self.name}.ipynb"


def find_chapters(names: Sequence[str] = ()) -> list[Chapter]:
    """The chapters called `names` (``1``, ``01``, ``cost``, ``02-cost``), or all of them, in order."""
    folder = project_root() / "chapters"
    chapters = [Chapter(path.stem, path) for path in sorted(folder.glob("[0-9][0-9]-*.md"))]
    if not chapters:
        refuse(
            f"{folder} must hold chapters called NN-name.md", None, "Run nnopt inside the course's checkout."
        )
    called = {
        key: chapter for chapter in chapters for key in (chapter.name, chapter.name[3:], chapter.number)
    }
    for name in names:
        if name.zfill(2) not in called:
            refuse(
                f"there is no chapter {name!r}", None, nearest(name, [chapter.name for chapter in chapters])
            )
    wanted = {called[name.zfill(2)] for name in names}
    return [chapter for chapter in chapters if not names or chapter in wanted]


def read_source(chapter: Chapter) -> Any:
    """The chapter's MyST source as a notebook, with cell ids that depend on the cells' text only."""
    import jupytext

    try:
        notebook = jupytext.read(chapter.source, fmt="md:myst")
    except Exception as error:  # its parsers and validators share no base class
        refuse(f"{chapter.source} must be a MyST notebook", repr((str(error).splitlines() or [""])[0]))
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    # Jupytext draws ids at random: with these an unchanged source gives an unchanged committed notebook.
    seen: set[str] = set()
    for cell in notebook.cells:
        text, copies = cell.source, 0
        while (identity := hashlib.sha256(f"{copies} {text}".encode()).hexdigest()[:8]) in seen:
            copies += 1
        seen.add(identity)
        cell.id = identity
    return tidy(notebook)


def default_parameters(chapter: Chapter, notebook: Any) -> dict[str, Any]:
    """The names and literals of the cell tagged `parameters`; anything but literals there is refused."""
    cells = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
    rule = f"chapter {chapter.name} must have one cell tagged parameters that only assigns literals"
    if len(cells) != 1:
        refuse(rule, f"{len(cells)} such cells")
    try:
        return _assigned(cells[0].source)
    except (SyntaxError, ValueError):
        refuse(rule, repr(cells[0].source))


def _assigned(code: str) -> dict[str, Any]:
    """What `code` assigns, each name once; a ValueError where it does anything else."""
    values: dict[str, Any] = {}
    for statement in ast.parse(code).body:
        match statement:
            case ast.Assign(targets=[ast.Name(id=name)], value=value) if name not in values:
                values[name] = _literal(value)
            case _:
                raise ValueError(ast.unparse(statement))
    return values


def _literal(expression: ast.expr) -> Any:
    """The value of a number, a text, True, False, None, or a list or dictionary of them; else a ValueError.

    No tuples, sets and bytes: neither papermill nor a key written as JSON has them, and papermill makes every
    key of a dictionary a text.
    """
    match expression:
        case ast.Constant(value=bool() | int() | float() | str() | None as value):
            return value
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as number)) if (
            not isinstance(number, bool)
        ):
            return -number
        case ast.List(elts=parts):
            return [_literal(part) for part in parts]
        case ast.Dict(keys=keys, values=parts) if all(_is_text(key) for key in keys):
            return {
                ast.literal_eval(key): _literal(part) for key, part in zip(keys, parts, strict=True) if key
            }
    raise ValueError(ast.unparse(expression))


def _is_text(key: ast.expr | None) -> bool:
    return isinstance(key, ast.Constant) and isinstance(key.value, str)


def convert_parameters(
    chapter: Chapter, defaults: Mapping[str, Any], given: Mapping[str, str]
) -> dict[str, Any]:
    """`given` as typed on a command line, converted to the types of `defaults`; the two joined.

    Papermill itself only warns of a name it does not know, so names and types are checked here first.
    """
    typed = dict(defaults)
    for name, text in given.items():
        check_choice(f"parameter of {chapter.name}", name, defaults)
        default = defaults[name]
        try:
            value: Any = (
                text if isinstance(default, str) else _literal(ast.parse(_as_literal(text), mode="eval").body)
            )
        except (SyntaxError, ValueError):
            value = text
        # `type`, not isinstance, here and below: True is an int to Python, but no number that anybody means.
        if isinstance(default, float) and type(value) is int:
            value = float(value)
        if default is not None and type(value) is not type(default):
            kind = KINDS.get(type(default), f"of type {type(default).__name__}")
            rule = f"parameter {name} of {chapter.name} must be {kind}"
            refuse(f"{rule}, like {default!r}", repr(text))
        typed[name] = value
    if "profile" in typed:
        check_choice("profile", typed["profile"], PROFILES)
    if "device" in typed:  # whether it is there, only a framework can say, and loading one takes seconds
        check_choice("device", typed["device"], DEVICES)
    return typed


def _as_literal(text: str) -> str:
    return text.capitalize() if text.lower() in ("true", "false", "none") else text
