"""Where the project and its folders are."""

from __future__ import annotations

import pytest

from nnopt_lib.checks import NnoptError
from nnopt_lib.paths import build_folder, project_root, published_file, results_folder, store_folder


def test_project_root_is_the_variable_else_the_checkout_else_here(tmp_path, monkeypatch):
    monkeypatch.setenv("NNOPT_HOME", str(tmp_path))
    assert project_root() == tmp_path
    monkeypatch.delenv("NNOPT_HOME")
    deep = tmp_path / "chapters" / "deep"
    deep.mkdir(parents=True)
    monkeypatch.chdir(deep)
    assert project_root() == deep
    (tmp_path / "pyproject.toml").touch()
    assert project_root() == tmp_path
    monkeypatch.setenv("NNOPT_HOME", str(tmp_path / "nowhere"))
    with pytest.raises(NnoptError) as refusal:
        project_root()
    assert (
        str(refusal.value) == f"NNOPT_HOME must name a folder that exists; received '{tmp_path / 'nowhere'}'."
    )


def test_what_is_made_goes_below_the_project_unless_a_variable_names_another_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("NNOPT_HOME", str(tmp_path))
    for name in ("NNOPT_BUILD", "NNOPT_STORE"):
        monkeypatch.delenv(name, raising=False)
    assert (build_folder(), store_folder()) == (tmp_path / "build", tmp_path / "build" / "store")
    monkeypatch.setenv("NNOPT_BUILD", str(tmp_path / "elsewhere"))
    assert store_folder() == tmp_path / "elsewhere" / "store"
    monkeypatch.setenv("NNOPT_STORE", str(tmp_path / "store"))
    assert store_folder() == tmp_path / "store" and build_folder() == tmp_path / "elsewhere"
    # What is committed stays in the project, wherever the rest goes.
    assert published_file("01-runs") == results_folder() / "01-runs.jsonl"
    assert results_folder() == tmp_path / "chapters" / "results"
