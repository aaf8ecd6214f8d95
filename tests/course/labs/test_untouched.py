"""A gradebook that was changed by anything but SQLite is refused; what a program wrote into it is not."""

from __future__ import annotations

import contextlib
import sqlite3

import pytest

from nnopt_lib.checks import NnoptError
from nnopt_lib.course.labs.untouched import check_untouched, remember


@pytest.fixture
def database(tmp_path):
    """A gradebook of one table, remembered."""
    path = tmp_path / "gradebook.db"
    write(path, "CREATE TABLE grade (score REAL)", "INSERT INTO grade VALUES (3.25)")
    remember(path)
    return path


def write(path, *statements):
    with contextlib.closing(sqlite3.connect(path)) as connection:
        for statement in statements:
            connection.execute(statement)
        connection.commit()


def score(path):
    with contextlib.closing(sqlite3.connect(path)) as connection:
        return connection.execute("SELECT score FROM grade").fetchone()[0]


def test_another_score_in_the_file_is_refused_although_sqlite_reads_it(database):
    content = database.read_bytes()
    spot = content.index(bytes.fromhex("400a000000000000"))  # 3.25 as SQLite keeps it
    database.write_bytes(content[:spot] + bytes.fromhex("4012") + content[spot + 2 :])
    assert score(database) == 4.5
    with pytest.raises(NnoptError) as refusal:
        check_untouched(database)
    assert str(refusal.value) == (
        f"{database} must be as it was written last; received other contents, although nothing was written into it "
        f"since. Put back a copy of it; to take it as it is, remove {database}.sha256."
    )
    database.write_bytes(content)
    check_untouched(database)


def test_what_another_program_wrote_by_sqlite_is_taken(database):
    write(database, "UPDATE grade SET score = 4.5")
    check_untouched(database)
    remember(database)
    check_untouched(database)
    assert score(database) == 4.5


def test_without_a_note_or_with_a_damaged_one_nothing_is_refused(database, tmp_path):
    note = tmp_path / "gradebook.db.sha256"
    database.write_bytes(changed := database.read_bytes() + b"x")
    with pytest.raises(NnoptError, match="must be as it was written last"):  # by the whole note
        check_untouched(database)
    for text in ("{", '{"writes": 1}'):
        note.write_text(text)
        check_untouched(database)
    note.unlink()
    check_untouched(database)
    check_untouched(tmp_path / "none.db")
    assert database.read_bytes() == changed and not note.exists()


def test_it_waits_for_whoever_is_writing_rather_than_noting_half_of_it(database):
    with contextlib.closing(sqlite3.connect(database, isolation_level=None)) as writing:
        writing.execute("BEGIN EXCLUSIVE")
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            remember(database)
