"""Files that are written whole or not at all, on disks that refuse."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nnopt_lib.checks import NnoptError
from nnopt_lib.files import write_atomically
from tests.conftest import small_files


@settings(deadline=None)
@given(st.binary(max_size=300) | st.text(st.characters(exclude_categories=["Cs"]), max_size=300))
def test_what_is_written_is_read_again(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "new" / "file"
    write_atomically(path, content)
    assert path.read_bytes() == (content if isinstance(content, bytes) else content.encode())
    assert [file.name for file in path.parent.iterdir()] == ["file"]


def test_a_full_disk_is_one_sentence_and_the_old_file_stays_whole(tmp_path):
    path = tmp_path / "file"
    write_atomically(path, "old")
    with pytest.raises(NnoptError) as refusal, small_files():
        write_atomically(path, "new" * 100)
    assert str(refusal.value) == (
        f"{path} could not be written: File too large. Free some space and run again; "
        "what was there before is untouched."
    )
    assert path.read_text() == "old" and [file.name for file in tmp_path.glob("*file*")] == ["file"]


def test_no_space_left_reads_the_same(tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(NnoptError) as refusal:
        write_atomically(tmp_path / "file", "new")
    assert str(refusal.value) == (
        f"{tmp_path / 'file'} could not be written: No space left on device. Free some space and run again; "
        "what was there before is untouched."
    )
    assert not list(tmp_path.glob("*file*"))


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="needs a folder that refuses even root")
def test_a_read_only_folder_is_one_sentence():
    with pytest.raises(NnoptError) as refusal:
        write_atomically(Path("/proc/nnopt"), "x")
    assert str(refusal.value).startswith("/proc/nnopt could not be written: ")
