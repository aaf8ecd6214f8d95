"""Chapters: find them, read them and their parameters, know which are stale."""

from __future__ import annotations

import ast
import dataclasses
import hashlib
import json
import platform
import re
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nnopt_lib.checks import check_choice, nearest, refuse
from nnopt_lib.execution import tidy
from nnopt_lib.experiment import project_root, provenance
from nnopt_lib.published import read_status, row_hashes
from nnopt_lib.store import build_folder, published_file

PROFILES = ("quick", "published")
LIBRARY = Path(__file__).parent
KINDS: dict[type, str] = {bool: "true or false", int: "a whole number", float: "a number"}
UNREACHED = (
    "book",
    "bubblewrap",
    "chapters",
    "cli",
    "cli_labs",
    "cli_results",
    "course",
    "environment",
    "execution",
    "launching",
    "links",
    "pages",
    "play",
    "lab_cells",
    "lab_collecting",
    "lab_execution",
    "lab_grading",
    "lab_report",
    "lab_sources",
    "labs",
    "limited",
    "running",
    "sandbox",
    "validation",
    "verification",
)  # no chapter runs these


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


@dataclasses.dataclass(frozen=True)
class State:
    """What is known of a chapter in one profile: `word` is fresh, stale or never run."""

    word: str
    duration_seconds: float | None = None
    finished_at: str | None = None


def find_chapters(names: Sequence[str] = ()) -> list[Chapter]:
    """The chapters called `names` (``1``, ``01``, ``cost``, ``02-cost``), or all of them, in order."""
    folder = project_root() / "chapters"
    found = [Chapter(path.stem, path) for path in sorted(folder.glob("[0-9][0-9]-*.md"))]
    if not found:
        refuse(
            f"{folder} must hold chapters called NN-name.md", None, "Run nnopt inside the course's checkout."
        )
    called = {key: chapter for chapter in found for key in (chapter.name, chapter.name[3:], chapter.number)}
    for name in names:
        if name.zfill(2) not in called:
            refuse(f"there is no chapter {name!r}", None, nearest(name, [chapter.name for chapter in found]))
    wanted = {called[name.zfill(2)] for name in names}
    return [chapter for chapter in found if not names or chapter in wanted]


def read_source(chapter: Chapter) -> Any:
    """The chapter's MyST source as a notebook, with cell ids that depend on the cells' text only."""
    import jupytext

    try:
        notebook = jupytext.read(chapter.source, fmt="md:myst")
    except Exception as error:  # its parsers and validators share no base class
        refuse(f"{chapter.source} must be a MyST notebook", repr((str(error).splitlines() or [""])[0]))
    notebook.nbformat, notebook.nbformat_minor = 4, 5
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
        statements = [node for node in ast.parse(cells[0].source).body if isinstance(node, ast.Assign)]
        return {node.targets[0].id: ast.literal_eval(node.value) for node in statements}  # type: ignore[attr-defined]
    except (SyntaxError, ValueError, AttributeError):
        refuse(rule, repr(cells[0].source))


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
            value: Any = text if isinstance(default, str) else ast.literal_eval(_as_literal(text))
        except (SyntaxError, ValueError):
            value = text
        if isinstance(default, float) and type(value) is int:
            value = float(value)
        if default is not None and type(value) is not type(default):
            kind = KINDS.get(type(default), f"of type {type(default).__name__}")
            rule = f"parameter {name} of {chapter.name} must be {kind}"
            refuse(f"{rule}, like {default!r}", repr(text))
        typed[name] = value
    if "profile" in typed:
        check_choice("profile", typed["profile"], PROFILES)
    return typed


def _as_literal(text: str) -> str:
    return text.capitalize() if text.lower() in ("true", "false", "none") else text


def _library_hash(folder: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        if path.stem not in UNREACHED:
            digest.update(path.relative_to(folder).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def _committed_parts(chapter: Chapter, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """What an execution depends on and what is committed: the same in every checkout, on every machine."""
    constraints = project_root() / "constraints.txt"
    results = sorted(published_file(chapter.name).parent.glob(f"{chapter.number}-*.jsonl"))
    return {
        "source": file_hash(chapter.source),
        "library": _library_hash(LIBRARY),
        "parameters": dict(parameters),
        "constraints": file_hash(constraints) if constraints.is_file() else None,
        "published": {path.name: file_hash(path) for path in results},
    }


def _key(parts: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def freshness_key(chapter: Chapter, parameters: Mapping[str, Any]) -> str:
    """A hash of all that an execution depends on: while it is equal, executing again is not needed."""
    device = "cuda" if shutil.which("nvidia-smi") else "mps" if sys.platform == "darwin" else "cpu"
    machine = {"versions": provenance()["versions"], "device": [device, platform.machine()]}
    return _key({**_committed_parts(chapter, parameters), **machine})


def committed_key(chapter: Chapter) -> str:
    """A hash of all that the committed notebook was made from, which no machine or installation changes."""
    return _key(_committed_parts(chapter, default_parameters(chapter, read_source(chapter))))


def committed_is_fresh(chapter: Chapter) -> bool:
    """Whether the committed notebook is what `nnopt run --save` left, and nothing under it has changed.

    Then every machine may show it as it is. Row files of other chapters that it read count too.
    """
    saved = read_status().get(chapter.name, {})
    if "key" not in saved or not chapter.notebook.is_file():
        return False
    return (
        saved.get("notebook_sha256") == file_hash(chapter.notebook)
        and saved["rows"] == row_hashes(saved["rows"])
        and saved["key"] == committed_key(chapter)
    )


def file_hash(path: Path) -> str:
    """The sha256 of a file's bytes."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def note_file(chapter: Chapter, profile: str) -> Path:
    """Where a successful run writes down its key, the hash of its output, and what it used."""
    return build_folder() / "runs" / f"{profile}-{chapter.name}.json"


def read_note(chapter: Chapter, profile: str) -> dict[str, Any]:
    """What the last successful run wrote down; empty where there is none or it cannot be read."""
    try:
        note = json.loads(note_file(chapter, profile).read_text(encoding="utf-8"))
        return note if isinstance(note, dict) else {}
    except (OSError, ValueError):
        return {}


def chapter_state(
    chapter: Chapter, profile: str = "published", parameters: Mapping[str, Any] | None = None
) -> State:
    """Whether the executed notebook of `profile` is fresh: same key, and the very file a successful run left.

    The notebook alone is never trusted: papermill marks the cell that killed its kernel as completed.
    """
    note = read_note(chapter, profile)
    output = chapter.executed(profile)
    if not note or not output.is_file():
        return State("never run")
    if parameters is None:
        defaults = default_parameters(chapter, read_source(chapter))
        parameters = convert_parameters(chapter, defaults, {"profile": profile})
    fresh = note.get("key") == freshness_key(chapter, parameters) and note.get("output_sha256") == file_hash(
        output
    )
    return State("fresh" if fresh else "stale", note.get("duration_seconds"), note.get("finished_at"))


def listed_state(chapter: Chapter, profile: str) -> State:
    """What `nnopt list` tells: as published, a chapter is fresh also where its committed notebook is."""
    state = chapter_state(chapter, profile)
    if profile != "published" or state.word == "fresh" or not committed_is_fresh(chapter):
        return state
    saved = read_status()[chapter.name]
    return State("fresh", saved["duration_seconds"], saved["finished_at"])
