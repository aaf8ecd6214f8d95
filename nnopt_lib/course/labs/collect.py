"""Take what learning platforms and people hand over into a course: a notebook per student, nothing trusted.

Names of files only say whose a notebook is; they are never used as paths, so nothing is written elsewhere.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import stat
import unicodedata
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from nnopt_lib.checks import NnoptError, refuse
from nnopt_lib.course.labs.gradebook import Course
from nnopt_lib.course.labs.submissions import LARGEST
from nnopt_lib.files import hash_of, write_atomically

MOST_ENTRIES = 20_000
LONGEST_NAME = 120  # bytes, since a folder is called so
IGNORED = ("__MACOSX", ".ipynb_checkpoints", ".DS_Store", "Thumbs.db")


@dataclasses.dataclass(frozen=True)
class Collected:
    """What came of collecting: students by word (new, replaced, unchanged), and notes on what was odd."""

    students: Mapping[str, str]
    notes: list[str]


def collect(course: Course, lab: str, handed_in: Path) -> Collected:
    """Put the notebooks in a folder or .zip file into ``submitted/STUDENT/LAB/LAB.ipynb``.

    A student is called as the folder that holds the notebook, else as the file, without the lab's name and
    what Moodle and Canvas add. A later collection replaces a student's earlier notebook. Two notebooks of one
    student in one collection are refused before anything is written.
    """
    course.most_points(lab)
    notes: list[str] = []
    with _Source(handed_in) as source:
        paths = [path for path in source.names(notes) if path.suffix.lower() == ".ipynb"]
        others = [path for path in source.all_names if path.suffix.lower() != ".ipynb"]
        notes += [f"{path} is no notebook (.ipynb) and was left out" for path in others]
        notebooks = _by_student(lab, paths, notes)
        if not notebooks:
            refuse(
                f"{handed_in} must hold notebooks (.ipynb), one for each student", "; ".join(notes) or "none"
            )
        result = {}
        for student, path in sorted(notebooks.items()):
            content = source.read(path, notes)
            if content is not None:
                result[student] = _put(course, lab, student, content)
    return Collected(result, notes)


def _put(course: Course, lab: str, student: str, content: bytes) -> str:
    target = course.notebook("submitted", lab, student)
    if not target.exists():
        word = "new"
    else:
        word = "unchanged" if hash_of(target.read_bytes()) == hash_of(content) else "replaced"
    if word != "unchanged":
        write_atomically(target, content)
    return word


def _by_student(lab: str, paths: list[PurePosixPath], notes: list[str]) -> dict[str, PurePosixPath]:
    """The notebook of each student; two of one are refused, and a name that says nobody is noted."""
    by_student: dict[str, list[PurePosixPath]] = {}
    shown: dict[str, str] = {}
    for path, parts in zip(paths, _without_common_folder(paths), strict=True):
        raw = _student_in(lab, parts)
        student = clean_name(raw)
        if not student:
            notes.append(f"{path} does not say whose it is and was left out; call it STUDENT.ipynb")
            continue
        if student != unicodedata.normalize("NFC", raw):
            notes.append(f"{path}: the student {raw!r} is called {student!r} here")
        shown.setdefault(student.casefold(), student)
        by_student.setdefault(student.casefold(), []).append(path)
    for key, notebooks in by_student.items():
        by_name = [path for path in notebooks if path.stem == lab]
        if len(notebooks) > 1 and len(by_name) == 1 and len({path.parent for path in notebooks}) == 1:
            notebooks[:] = by_name  # a folder with other notebooks beside the lab's
        if len(notebooks) > 1:
            rule = f"each student must hand in one notebook; {shown[key]} handed in {len(notebooks)}"
            raise NnoptError(f"{rule}: {', '.join(map(str, notebooks))}. Keep one of them and collect again.")
    return {shown[key]: notebooks[0] for key, notebooks in by_student.items()}


def _without_common_folder(paths: list[PurePosixPath]) -> list[tuple[str, ...]]:
    """The parts of paths, without the folders that all share; one path keeps the folder it is in."""
    parts = [path.parts for path in paths]
    while len(parts) > 1 and min(map(len, parts)) > 1 and len({one[0] for one in parts}) == 1:
        parts = [one[1:] for one in parts]
    return parts


def _student_in(lab: str, parts: tuple[str, ...]) -> str:
    """Who a notebook belongs to, by its place: its outermost folder, else its name."""
    platform = re.compile(r"_\d+_assignsubmission_.*$|(_LATE)?_\d+_\d+_.*$", re.IGNORECASE)
    if len(parts) > 1:
        return platform.sub("", parts[0])
    name = platform.sub("", re.sub(r"\.ipynb$", "", parts[0], flags=re.IGNORECASE))
    name = re.sub(r"( \(\d+\)|-Copy\d*)+$", "", name.strip())
    name = re.sub(rf"^{re.escape(lab)}[\s_-]+|[\s_-]+{re.escape(lab)}$", "", name, flags=re.IGNORECASE)
    return "" if name.lower() == lab.lower() else name


def clean_name(name: str) -> str:
    """A student's name as a folder may be called everywhere; letters of every language stay.

    Example:
        >>> clean_name("../Zoé  Müller "), clean_name("=cmd|1"), clean_name("李雷")
        ('Zoé Müller', 'cmd_1', '李雷')
    """
    text = unicodedata.normalize("NFC", name)
    text = "".join(letter if letter.isalnum() or letter in " -_.@" else "_" for letter in text)
    text = re.sub(r"\s+", " ", text).strip(" ._-@")
    if len(text.encode()) > LONGEST_NAME:
        kept = text.encode()[: LONGEST_NAME - 9].decode(errors="ignore")
        text = f"{kept}-{hash_of(text)[:8]}"
    return text


class _Source:
    """The files in a folder or a .zip file: their names, and what they hold, up to a size."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.all_names: list[PurePosixPath] = []
        self._zip: zipfile.ZipFile | None = None
        self._entries: dict[PurePosixPath, Any] = {}

    def __enter__(self) -> _Source:
        if self.path.is_file():
            try:
                self._zip = zipfile.ZipFile(self.path)
            except (zipfile.BadZipFile, OSError) as error:
                refuse("what was handed in must be a folder or a .zip file", f"{self.path}: {error}")
        elif not self.path.is_dir():
            refuse("what was handed in must be a folder or a .zip file", f"{self.path}, which does not exist")
        return self

    def __exit__(self, *_: object) -> None:
        if self._zip:
            self._zip.close()

    def names(self, notes: list[str]) -> list[PurePosixPath]:
        """The safe names of ordinary files, in order; the others are noted."""
        for path, entry, ordinary in self._in_zip() if self._zip else self._in_folder():
            if any(part in IGNORED or part.startswith("._") for part in path.parts):
                continue
            if len(self.all_names) >= MOST_ENTRIES:
                refuse(f"{self.path} must hold at most {MOST_ENTRIES} files", "more")
            if not ordinary:
                notes.append(f"{path} is a link or no ordinary file and was left out")
            elif path.is_absolute() or ".." in path.parts or "\\" in str(path) or "\0" in str(path):
                notes.append(f"{str(path)!r} leads out of its folder and was left out")
            else:
                self._entries[path] = entry
                self.all_names.append(path)
        self.all_names.sort()
        return list(self.all_names)

    def _in_zip(self) -> Iterator[tuple[PurePosixPath, Any, bool]]:
        for info in self._zip.infolist() if self._zip else []:
            name = info.filename
            if not info.flag_bits & 0x800:  # macOS writes UTF-8 without saying so
                with contextlib.suppress(UnicodeError):
                    name = name.encode("cp437").decode()
            kind = stat.S_IFMT(info.external_attr >> 16)
            if not info.is_dir():
                yield PurePosixPath(name), info, kind in (0, stat.S_IFREG) and not info.flag_bits & 1

    def _in_folder(self) -> Iterator[tuple[PurePosixPath, Any, bool]]:
        for folder, _, files in os.walk(self.path):
            for name in files:
                path = Path(folder, name)
                ordinary = stat.S_ISREG(path.lstat().st_mode)
                yield PurePosixPath(path.relative_to(self.path).as_posix()), path, ordinary

    def read(self, path: PurePosixPath, notes: list[str]) -> bytes | None:
        """What a file holds; of one that is too large only so much that grading sees it is."""
        entry = self._entries[path]
        try:
            with self._zip.open(entry) if self._zip else open(entry, "rb") as file:
                content = file.read(LARGEST + 1)
        except (OSError, zipfile.BadZipFile, zlib.error, RuntimeError, EOFError, ValueError) as error:
            notes.append(f"{path} could not be read and was left out: {error}")
            return None
        if len(content) > LARGEST:
            notes.append(f"{path} is larger than {LARGEST // 2**20} MiB; grading will refuse it")
        return bytes(content)
