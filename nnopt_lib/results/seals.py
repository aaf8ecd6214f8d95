"""Seals: all that a chapter publishes is hashed in one place, status.json, and whoever reads it compares.

A file that was edited, lost or merged by hand is then refused by name, and no other number gets into a book
or a paper. Bytes are compared, not times: a checkout gives every file a new time.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from nnopt_lib.checks import refuse
from nnopt_lib.experiments.records import is_sealed
from nnopt_lib.files import file_hash, finish_replacing, lock
from nnopt_lib.paths import chapters_folder, results_folder

RESTORE = "Take it from version control, or run nnopt run {} --save."


def status_file() -> Path:
    """Where the hashes of everything published stand, an entry for each chapter."""
    return results_folder() / "status.json"


def journals() -> Path:
    """Where chapters that are being published put everything first, a folder each."""
    return results_folder() / ".publishing"


def publishing() -> Any:
    """The lock that whoever replaces published files holds, for a with statement."""
    return lock(journals() / "all")


def settle() -> None:
    """Finish what a process that was killed while it published a chapter had begun."""
    # Looked for without the lock first: there is nearly always nothing, and readers may have no right
    # to write.
    if any(journals().glob("*/plan.json")):
        with publishing():
            for journal in sorted(path for path in journals().iterdir() if path.is_dir()):
                finish_replacing(journal, chapters_folder())


def read_json(file: Path) -> Any:
    """The content of a JSON file; one that is not whole is refused by name."""
    try:
        return json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        what = " ".join(str(error).split()) or type(error).__name__
        refuse(f"{file} must be a whole JSON file", what, RESTORE.format(_number(file)))


def read_status() -> dict[str, dict[str, Any]]:
    """For each chapter's name what its last saved run noted: date, versions, commit, hashes of files.

    Refuses a file with an entry that is not as it was written.
    """
    settle()
    file = status_file()
    entries = read_json(file) if file.is_file() else {}
    rule = f"{file} must be as nnopt run --save left it"
    if not isinstance(entries, dict):
        refuse(rule, f"a {type(entries).__name__}", RESTORE.format("NN"))
    for chapter, saved in entries.items():
        if not is_sealed(saved) or saved["chapter"] != chapter:
            received = f"an entry of {chapter} that does not match its own sha256"
            refuse(rule, received, RESTORE.format(_number(chapter)))
    return entries


def read_published_json(file: Path) -> Any:
    """The content of a published figure or list of claims, if it is what its chapter was saved with."""
    status = read_status()
    problem = next(iter(_problems(file, _entry_of(file, status))), "")
    if problem:
        refuse(f"{file} must be as its chapter was saved", problem, RESTORE.format(_number(file)))
    return read_json(file)


def seal_problems(chapter: str) -> list[str]:
    """What is wrong with a chapter's published files, by name, a sentence for each; its notebook comes last.

    Empty for a chapter that was never saved and has no published rows, figures and claims.
    """
    saved = read_status().get(chapter, {})
    listed = {chapters_folder() / name for name in saved.get("files", {})}
    files = sorted(listed | published_files(chapter), key=lambda file: (file.suffix == ".ipynb", file))
    return [f"{_name(file)} {problem}" for file in files for problem in _problems(file, saved)]


def published_files(chapter: str) -> set[Path]:
    """The published rows, figures and claims of a chapter, by its name or number."""
    results, number = results_folder(), chapter[:2]
    names = (f"{number}-*.jsonl", f"figures/{number}-*.json", f"claims/{number}-*.json")
    return {path for name in names for path in results.glob(name)}


def _problems(file: Path, saved: Mapping[str, Any]) -> Iterator[str]:
    digest = saved.get("files", {}).get(_name(file))
    if digest is None:
        yield "is not among the files that its chapter was saved with"
    elif not file.is_file():
        yield "is missing"
    elif file_hash(file) != digest:
        yield "was changed since its chapter was saved"


def _entry_of(file: Path, status: Mapping[str, Mapping[str, Any]]) -> Mapping[str, Any]:
    return next((saved for name, saved in status.items() if name.startswith(f"{_number(file)}-")), {})


def _name(file: Path) -> str:
    return file.relative_to(chapters_folder()).as_posix()


def _number(file: Path | str) -> str:
    """The two digits of the chapter that a file belongs to; NN where there are none."""
    name = Path(file).name[:2]
    return name if name.isdigit() else "NN"
