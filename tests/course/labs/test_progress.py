"""A bar for what takes long, and none where a variable says so."""

from __future__ import annotations

from nnopt_lib.course.labs.progress import progress


def test_a_bar_counts_and_a_variable_silences_it(monkeypatch, capsys):
    monkeypatch.delenv("NNOPT_PROGRESS", raising=False)
    with progress(3, "releasing") as bar:
        for _ in range(3):
            bar.update()
    assert "releasing: 100%" in capsys.readouterr().err
    monkeypatch.setenv("NNOPT_PROGRESS", "0")
    with progress(3, "releasing") as bar:
        bar.update()
    assert capsys.readouterr().err == ""
