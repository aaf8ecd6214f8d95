"""Whether a gradebook is as SQLite left it: a byte that changed in any other way may be somebody's points.

SQLite has no checksums, but counts in the file how often it wrote into it. So a file with the same count and
other contents was changed by a disk, an editor or a copy that went wrong; one with a higher count was written
by a program that may, such as nbgrader's own.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import sqlite3
from pathlib import Path
from typing import Any

from nnopt_lib.checks import NnoptError, refuse
from nnopt_lib.experiments.records import is_sealed, sealed
from nnopt_lib.files import write_atomically

COUNTER = slice(24, 28)  # of the file's header, where SQLite counts


def check_untouched(database: Path) -> None:
    """Refuse a gradebook whose contents changed since `remember`, but for what SQLite wrote."""
    try:
        noted = json.loads(_note(database).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return  # none yet, or lost: there is nothing to compare with
    if not is_sealed(noted) or not database.is_file():
        return
    current = _state(database)
    if current["writes"] == noted["writes"] and current["sha256_of_file"] != noted["sha256_of_file"]:
        remedy = f"Put back a copy of it; to take it as it is, remove {_note(database)}."
        rule = f"{database} must be as it was written last"
        refuse(rule, "other contents, although nothing was written into it since", remedy)


def remember(database: Path) -> None:
    """Note what the gradebook holds now, for `check_untouched` to compare with; where that can be written."""
    if database.is_file():
        content = json.dumps(sealed(_state(database))) + "\n"
        # A full disk must not stop whoever only reads; the older note still fits the older count of writes.
        with contextlib.suppress(NnoptError):
            write_atomically(_note(database), content)


def _note(database: Path) -> Path:
    return database.with_name(f"{database.name}.sha256")


def _state(database: Path) -> dict[str, Any]:
    """How often SQLite wrote into the file, and the sha256 of its bytes."""
    # The bytes are read inside a transaction, in which nobody can write: half of a change would be another
    # content under the same count.
    with contextlib.closing(sqlite3.connect(database, isolation_level=None)) as connection:
        connection.execute("BEGIN")
        connection.execute("SELECT count(*) FROM sqlite_master")
        content = database.read_bytes()
    writes = int.from_bytes(content[COUNTER], "big")
    return {"writes": writes, "sha256_of_file": hashlib.sha256(content).hexdigest()}
