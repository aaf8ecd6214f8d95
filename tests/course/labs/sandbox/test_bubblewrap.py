"""The command that bubblewrap gets: nothing to write to but the folder, and no network."""

from __future__ import annotations

from pathlib import Path

import nnopt_lib
from nnopt_lib.course.labs.sandbox import bubblewrap


def bound(words: list[str], option: str) -> list[tuple[str, str]]:
    """What stands after each `option`: the path outside and the path inside."""
    return [(words[n + 1], words[n + 2]) for n, word in enumerate(words) if word == option]


def test_only_the_folder_can_be_written_to(tmp_path):
    words = bubblewrap.bwrap(tmp_path)
    assert bound(words, "--bind") == [(str(tmp_path), "/tmp"), (str(tmp_path), str(tmp_path))]
    (tmp_path / "tmp").mkdir()
    assert bound(bubblewrap.bwrap(tmp_path), "--bind")[0] == (str(tmp_path / "tmp"), "/tmp")


def test_the_root_is_made_read_only_after_all_that_is_made_in_it(tmp_path):
    words = bubblewrap.bwrap(tmp_path)
    last = max(n for n, word in enumerate(words) if word in ("--bind", "--ro-bind-try", "--dir", "--symlink"))
    assert words.index("--remount-ro") > last


def test_networks_and_processes_are_the_programs_alone(tmp_path):
    assert {"--unshare-net", "--unshare-pid", "--die-with-parent"} <= set(bubblewrap.bwrap(tmp_path))


def test_python_and_the_library_are_seen_and_the_home_is_not():
    visible = bubblewrap._visible()
    assert bubblewrap.library() == Path(nnopt_lib.__file__).resolve().parent
    assert str(bubblewrap.library()) in visible
    assert str(Path.home()) not in visible and "/" not in visible and "/etc" not in visible


def test_rights_to_become_another_account_are_kept_for_root_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(bubblewrap, "is_root", lambda: True)
    assert "CAP_SETUID" in bubblewrap.bwrap(tmp_path)
    monkeypatch.setattr(bubblewrap, "is_root", lambda: False)
    words = bubblewrap.bwrap(tmp_path)
    assert "CAP_SETUID" not in words and "--unshare-user" in words


def program(folder: Path, monkeypatch, text: str) -> None:
    """Let bwrap be a script of one line, found before any other."""
    path = folder / "bwrap"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    bubblewrap.uses_bwrap.cache_clear()


def test_the_environment_in_words_names_the_version_or_that_there_is_none(tmp_path, monkeypatch):
    without = "labs are graded without it, and submissions not kept from network and files"
    try:
        program(tmp_path, monkeypatch, "echo bubblewrap 0.11.0")
        assert bubblewrap.in_words() == "0.11.0"
        program(tmp_path, monkeypatch, '[ "$1" = --version ] && echo bubblewrap 0.11.0')
        assert bubblewrap.in_words() == f"0.11.0, but it does not work here; {without}"
        program(tmp_path, monkeypatch, "exit 3")
        assert bubblewrap.in_words() == f"of an unknown version, but it does not work here; {without}"
        monkeypatch.setattr("shutil.which", lambda command: None)
        assert bubblewrap.in_words() == f"not found; {without}"
    finally:
        bubblewrap.uses_bwrap.cache_clear()  # of what another test finds


def test_links_on_the_way_are_shown_as_links_and_what_they_lead_to_as_it_is(tmp_path):
    real = tmp_path.resolve() / "real"
    (real / "lib").mkdir(parents=True)
    link, again = real.parent / "link", real.parent / "again"
    link.symlink_to("real")
    again.symlink_to(link)
    assert bubblewrap._with_links(str(again / "lib")) >= {str(again), str(link), str(real), str(real / "lib")}
    assert not any(Path(one).parent.is_symlink() for one in bubblewrap._with_links(str(again / "lib")))
