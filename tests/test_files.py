"""Files that are written whole or not at all, on disks that refuse."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nnopt_lib.checks import NnoptError
from nnopt_lib.files import (
    finish_replacing,
    load_tensors,
    replace_together,
    save_tensors,
    write_atomically,
)
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


def test_only_ordinary_files_are_replaced(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    kinds = {"pipe": "a device, a pipe or a socket", "folder": "a folder"}
    for name, kind in kinds.items():
        with pytest.raises(NnoptError) as refusal:
            write_atomically(tmp_path / name, "x")
        assert str(refusal.value) == (
            f"only an ordinary file can be written or replaced; received {tmp_path / name}, which is {kind}."
        )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder", "pipe"]
    assert (tmp_path / "pipe").is_fifo() and (tmp_path / "folder").is_dir()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs the device that is always full")
def test_a_device_stays_a_device(tmp_path):
    (tmp_path / "link").symlink_to("/dev/full")
    for path in (Path("/dev/full"), tmp_path / "link"):
        with pytest.raises(NnoptError, match="which is a device, a pipe or a socket"):
            write_atomically(path, "x")
    assert Path("/dev/full").is_char_device()


def test_a_link_is_followed_and_stays_a_link(tmp_path):
    (tmp_path / "real").write_text("old")
    (tmp_path / "link").symlink_to("real")
    write_atomically(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "real").read_text() == "new"


@pytest.mark.parametrize("changes", [{"dtype": "F64", "shape": [1, 2]}, {"dtype": "I32"}, {"shape": [2, 2]}])
def test_a_header_that_lies_about_type_or_shape_is_refused(tmp_path, changes):
    file = tmp_path / "weights"
    save_tensors(file, {"a": np.arange(4, dtype=np.float32).reshape(1, 4)}, "kind", "text")
    arrays, text = load_tensors(file, "kind", "rule", "remedy")
    assert arrays["a"].tolist() == [[0, 1, 2, 3]] and text == "text"
    content = file.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    header["a"] |= changes
    lie = json.dumps(header).encode()
    file.write_bytes(len(lie).to_bytes(8, "little") + lie + content[8 + length :])
    with pytest.raises(NnoptError) as refusal:
        load_tensors(file, "kind", "rule", "remedy")
    assert str(refusal.value) == (
        "rule; received contents that do not have the sha256 they were saved with. remedy"
    )


# Several files together


def replaced(root):
    """What stands below `root`, but for journals."""
    files = [path for path in root.rglob("*") if path.is_file() and "journal" not in path.parts]
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in files}


@pytest.mark.parametrize("left_over", [False, True])
def test_files_are_replaced_and_removed_together(tmp_path, left_over):
    for name in ("a", "deep/b", "c"):
        write_atomically(tmp_path / name, "old")
    if left_over:  # of one who was killed before it was complete
        write_atomically(tmp_path / "journal" / "7.new", "half")
    contents = {"a": b"new", "deep/er/d": b"also new"}
    replace_together(tmp_path / "journal", tmp_path, contents, ["c", "never there"])
    assert replaced(tmp_path) == {"a": b"new", "deep/b": b"old", "deep/er/d": b"also new"}
    assert not (tmp_path / "journal").exists()


@pytest.mark.parametrize("moved", range(3))
def test_a_replacement_is_finished_from_wherever_it_was_cut(tmp_path, monkeypatch, moved):
    for name in "abc":
        write_atomically(tmp_path / name, "old")
    contents = dict.fromkeys("abc", b"new")
    count = [0]

    def cut(source, target, real=os.replace):
        count[0] += Path(target).parent == tmp_path
        if count[0] > moved:
            raise KeyboardInterrupt
        real(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", cut)
        with pytest.raises(KeyboardInterrupt):
            replace_together(tmp_path / "journal", tmp_path, contents)
    assert list(replaced(tmp_path).values()).count(b"new") == moved
    finish_replacing(tmp_path / "journal", tmp_path)
    assert set(replaced(tmp_path).values()) == {b"new"}
    assert not (tmp_path / "journal").exists()


def test_a_replacement_that_cannot_be_written_changes_nothing(tmp_path):
    write_atomically(tmp_path / "a", "old")
    with pytest.raises(NnoptError, match="could not be written: File too large"), small_files():
        replace_together(tmp_path / "journal", tmp_path, {"a": b"new", "b": b"x" * 200})
    assert replaced(tmp_path) == {"a": b"old"} and not (tmp_path / "journal").exists()
