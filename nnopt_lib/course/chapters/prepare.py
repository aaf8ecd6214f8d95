"""A chapter prepared once: its notebook, its parameters, and what an execution depends on, as one object."""

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
from nnopt_lib.paths import project_root, published_file

LIBRARY = Path(nnopt_lib.__file__).parent
# A paper or a lab graded anew changes no number of a chapter: the rest of the library never imports these.
NO_CHAPTER_RUNS = ("course", "cli.py")


@dataclasses.dataclass(frozen=True)
class Prepared:
    """One chapter as it was read: run, save, check and state all take this instead of reading again.

    `defaults` are the parameters of its cell, `parameters` those with what was given; `committed_parts` and
    `machine_parts` are all that an execution depends on, as it was when the chapter was prepared.
    """

    chapter: Chapter
    profile: str | None
    notebook: Any
    defaults: Mapping[str, Any]
    parameters: Mapping[str, Any]
    committed_parts: Mapping[str, Any]
    machine_parts: Mapping[str, Any]

    @property
    def changed(self) -> dict[str, Any]:
        """The parameters that differ from those in the source: what is injected into the notebook."""
        return {name: value for name, value in self.parameters.items() if value != self.defaults[name]}

    @property
    def key(self) -> str:
        """A hash of all that an execution depends on: while it is equal, executing again is not needed."""
        return _hash({**self.committed_parts, **self.machine_parts})

    @property
    def committed_key(self) -> str:
        """A hash of all that a committed notebook is made from, which no machine or installation changes."""
        return _hash({**self.committed_parts, "parameters": dict(self.defaults)})

    def with_published_rows(self, hashes: Mapping[str, str]) -> Prepared:
        """The same, on other published rows, given as the sha256 of each file: what saving is to leave.

        Everything else stays as it was read, so that an edit since then still makes the chapter stale.
        """
        parts = {**self.committed_parts, "published": dict(hashes)}
        return dataclasses.replace(self, committed_parts=parts)


def prepare(
    chapter: Chapter, profile: str | None = "published", given: Mapping[str, str] | None = None
) -> Prepared:
    """Read `chapter` and convert `given`, parameters as typed on a command line; nothing is started.

    A `profile` of None leaves the parameters as the source has them. Refuses a source that cannot be read and
    parameters that it does not have. Example: ``prepare(find_chapters(["1"])[0], "quick").parameters``.
    """
    # Hashed before it is read: an edit in between leaves the hash of an older source, which is stale at the
    # next look; the other way round the edited text would pass for what was executed.
    source_hash = file_hash(chapter.source) if chapter.source.is_file() else None
    notebook = read_source(chapter)
    defaults = default_parameters(chapter, notebook)
    typed = {**(given or {}), **({} if profile is None else {"profile": profile})}
    # With nothing given the source's values stand as they are, odd ones too: `nnopt check` is to name them.
    parameters = convert_parameters(chapter, defaults, typed) if typed else dict(defaults)
    constraints = project_root() / "constraints.txt"
    committed = {
        "source": source_hash,
        "library": _library_hash(LIBRARY),
        "parameters": parameters,
        "constraints": file_hash(constraints) if constraints.is_file() else None,
        "published": _published_hashes(chapter),
    }
    # Not asked of a framework: loading one takes seconds, and a key is wanted for every line of `nnopt list`.
    device = "cuda" if shutil.which("nvidia-smi") else "mps" if sys.platform == "darwin" else "cpu"
    machine = {"versions": provenance()["versions"], "device": [device, platform.machine()]}
    return Prepared(chapter, profile, notebook, defaults, parameters, committed, machine)


def _library_hash(folder: Path) -> str:
    """Of all that can change a chapter's numbers, since nothing else imports what no chapter runs."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        name = path.relative_to(folder)
        if name.parts[0] not in NO_CHAPTER_RUNS:
            # The name counts too, or two files that swap their contents would pass for unchanged.
            digest.update(name.as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def _published_hashes(chapter: Chapter) -> dict[str, str]:
    """The chapter's own published rows, by file name."""
    results = published_file(chapter.name).parent.glob(f"{chapter.number}-*.jsonl")
    return {path.name: file_hash(path) for path in sorted(results)}


def _hash(parts: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
