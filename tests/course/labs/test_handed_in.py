"""Files in folders and .zip files: their times, and entries that are not what they seem."""

from __future__ import annotations

import os
import struct
import time
import zipfile
from datetime import UTC, datetime
from pathlib import PurePosixPath

import pytest

from nnopt_lib.course.labs.handed_in import HandedIn

ADA = PurePosixPath("ada.ipynb")
NOON = datetime(2027, 7, 1, 12, tzinfo=UTC)


def archive_of(path, *entries, **settings):
    with zipfile.ZipFile(path, "w") as archive:
        for info, content in entries:
            for name, value in settings.items():
                setattr(info, name, value)
            archive.writestr(info, content)
    return path


def entry(at=(2027, 7, 1, 14, 0, 0), name="ada.ipynb"):
    return zipfile.ZipInfo(name, at)


def time_in(path):
    with HandedIn(path) as source:
        source.names([])
        return source.time(ADA)


def test_a_files_time_is_its_last_change(tmp_path):
    (tmp_path / "ada.ipynb").touch()
    os.utime(tmp_path / "ada.ipynb", (0, NOON.timestamp() + 0.7))
    assert time_in(tmp_path) == NOON


@pytest.mark.parametrize(("zone", "hour"), [("UTC", 14), ("CET-1CEST,M3.5.0,M10.5.0", 12), ("XST+5", 19)])
def test_an_entrys_time_is_local(tmp_path, monkeypatch, zone, hour):
    with monkeypatch.context() as patch:
        patch.setenv("TZ", zone)
        time.tzset()
        found = time_in(archive_of(tmp_path / "a.zip", (entry(), "x")))
    time.tzset()
    assert found == NOON.replace(hour=hour)


def test_an_entrys_time_in_utc_is_believed_before_the_local_one(tmp_path):
    field = struct.pack("<HHBi", 0x5455, 5, 1, int(NOON.timestamp()))
    other = struct.pack("<HH2s", 0x7875, 2, b"xx")
    assert time_in(archive_of(tmp_path / "a.zip", (entry(), "x"), extra=other + field)) == NOON


@pytest.mark.parametrize("extra", [b"", b"\x55", b"\x55\x54\x05\x00", struct.pack("<HHBi", 0x5455, 5, 0, 9)])
def test_a_damaged_field_is_as_none(tmp_path, extra):
    path = archive_of(tmp_path / "a.zip", (entry((1980, 1, 1, 0, 0, 0)), "x"), extra=b"")
    with HandedIn(path) as source:
        source.names([])
        source._entries[ADA].extra = extra
        assert source.time(ADA) is None


@pytest.mark.parametrize("at", [(1980, 0, 0, 0, 0, 0), (2027, 13, 1, 0, 0, 0), (2027, 2, 30, 0, 0, 0)])
def test_a_time_that_is_none_is_not_known(tmp_path, at):
    path = archive_of(tmp_path / "a.zip", (entry(), "x"))
    with HandedIn(path) as source:
        source.names([])
        source._entries[ADA].date_time = at
        assert source.time(ADA) is None


def test_of_two_entries_of_one_name_the_last_counts(tmp_path):
    with pytest.warns(UserWarning, match="Duplicate name"):
        path = archive_of(tmp_path / "a.zip", (entry(), "first"), (entry(), "second"))
    notes: list[str] = []
    with HandedIn(path) as source:
        assert source.names(notes) == [ADA]
        assert source.read(ADA, notes) == b"second"
    assert notes == ["ada.ipynb stands in a.zip twice; the last counts"]


def test_an_entry_with_a_password_is_named(tmp_path):
    path = archive_of(tmp_path / "a.zip", (entry(), "x"), (entry(name="bo.ipynb"), "x"))
    content = bytearray(path.read_bytes())
    where = content.index(b"PK\x01\x02")
    content[where + 8] |= 1  # the flag of the first entry in the directory
    path.write_bytes(content)
    notes: list[str] = []
    with HandedIn(path) as source:
        assert source.names(notes) == [PurePosixPath("bo.ipynb")]
    assert notes == ["ada.ipynb is locked by a password and was left out"]
