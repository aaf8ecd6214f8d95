"""Which chapters are fresh: a hash of all that an execution depends on, and notes of what was run."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import platform
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nnopt_lib
from nnopt_lib.course.chapters.source import Chapter, convert_parameters, default_parameters, read_source
from nnopt_lib.experiments.provenance import provenance
from nnopt_lib.files import file_hash
from nnopt_lib.paths import build_folder, project_root, published_file
from nnopt_lib.results.staleness import read_status, row_hashes

LIBRARY = Path(nnopt_lib.__file__).parent
NO_CHAPTER_RUNS = ("course", "cli.py")


@dataclasses.dataclass(frozen=True)
class State:
    """What is known of a chapter in one profile: `word` is fresh, stale or never run."""

    word: str
    duration_seconds: float | None = None
    finished_at: str | None = None


def _library_hash(folder: Path) -> str:
    """Of all that can change a chapter's numbers, since nothing else imports what no chapter runs."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        place = path.relative_to(folder)
        if place.parts[0] not in NO_CHAPTER_RUNS:
            digest.update(place.as_posix().encode() + b"\0" + path.read_bytes())
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
