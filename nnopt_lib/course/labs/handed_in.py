"""The files that were handed in, in a folder or a .zip file: names, times and contents, nothing trusted.

Names of files only say whose a notebook is; they are never used as paths, so nothing is written elsewhere.
"""

from __future__ import annotations

import contextlib
import os
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any

from nnopt_lib.checks import refuse
from nnopt_lib.course.labs.submissions import LARGEST

MOST_ENTRIES = 20_000
IGNORED = ("__MACOSX", ".ipynb_checkpoints", ".DS_Store", "Thumbs.db")
UNIX_TIMES = 0x5455  # a field of zip entries
RULE = "what was handed in must be a folder or a .zip file"


class HandedIn:
    """The files in a folder or a .zip file: their names, and what they hold, up to a size."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._zip: zipfile.ZipFile | None = None
        self._entries: dict[PurePosixPath, Any] = {}

    def __enter__(self) -> HandedIn:
        if self.path.is_file():
            try:
                self._zip = zipfile.ZipFile(self.path)
            except (zipfile.BadZipFile, OSError, ValueError) as error:
                refuse(RULE, f"{self.path}: {error}")
        elif not self.path.is_dir():
            refuse(RULE, f"{self.path}, which does not exist")
        return self

    def __exit__(self, *_: object) -> None:
        if self._zip:
            self._zip.close()

    @property
    def is_zip(self) -> bool:
        """Whether it is a .zip file."""
        return self._zip is not None

    def names(self, notes: list[str]) -> list[PurePosixPath]:
        """The safe names of ordinary files, in order; the others are noted."""
        for path, entry, oddity in self._in_zip() if self._zip else self._in_folder():
            if any(part in IGNORED or part.startswith("._") for part in path.parts):
                continue
            if len(self._entries) >= MOST_ENTRIES:
                refuse(f"{self.path} must hold at most {MOST_ENTRIES} files", "more")
            if oddity:
                notes.append(f"{path} {oddity} and was left out")
            elif path.is_absolute() or ".." in path.parts or "\\" in str(path) or "\0" in str(path):
                notes.append(f"{str(path)!r} leads out of its folder and was left out")
            else:
                if path in self._entries:
                    notes.append(f"{path} stands in {self.path.name} twice; the last counts")
                self._entries[path] = entry
        return sorted(self._entries)

    def _in_zip(self) -> Iterator[tuple[PurePosixPath, Any, str]]:
        for info in self._zip.infolist() if self._zip else []:
            name = info.filename
            if not info.flag_bits & 0x800:  # macOS writes UTF-8 without saying so
                with contextlib.suppress(UnicodeError):
                    name = name.encode("cp437").decode()
            kind = stat.S_IFMT(info.external_attr >> 16)
            oddity = "" if kind in (0, stat.S_IFREG) else "is a link or no ordinary file"
            if info.flag_bits & 1:
                oddity = "is locked by a password"
            if not info.is_dir():
                yield PurePosixPath(name), info, oddity

    def _in_folder(self) -> Iterator[tuple[PurePosixPath, Any, str]]:
        for folder, _, files in os.walk(self.path):
            for name in files:
                path = Path(folder, name)
                ordinary = stat.S_ISREG(path.lstat().st_mode)
                oddity = "" if ordinary else "is a link or no ordinary file"
                yield PurePosixPath(path.relative_to(self.path).as_posix()), path, oddity

    def time(self, path: PurePosixPath) -> datetime | None:
        """When a file was last changed, to the second; None where a .zip file does not say."""
        entry = self._entries[path]
        try:
            if isinstance(entry, Path):
                return datetime.fromtimestamp(int(entry.stat().st_mtime), UTC)
            if (seconds := _unix_time(entry.extra)) is not None:
                return datetime.fromtimestamp(seconds, UTC)
            if entry.date_time <= (1980, 1, 1, 0, 0, 0):  # what is written where there is no time
                return None
            return datetime(*entry.date_time).astimezone().astimezone(UTC)  # local time, as unpacking has it
        except (OSError, ValueError, OverflowError):
            return None

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


def _unix_time(extra: bytes) -> int | None:
    """The seconds since 1970 of an entry's last change, which some programs write beside the local time."""
    while len(extra) >= 4:
        kind, size = struct.unpack("<HH", extra[:4])
        field, extra = extra[4 : 4 + size], extra[4 + size :]
        if kind == UNIX_TIMES and len(field) >= 5 and field[0] & 1:
            return int(struct.unpack("<i", field[1:5])[0])
    return None
