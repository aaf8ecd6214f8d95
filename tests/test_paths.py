"""Where the project's folders are: by the environment, else by the folder that the command runs in."""

from __future__ import annotations

import pytest

from nnopt_lib import paths
from nnopt_lib.checks import NnoptError


@pytest.fixture(autouse=True)
def no_folders(monkeypatch):
    for name in ("NNOPT_HOME", "NNOPT_BUILD", "NNOPT_STORE"):
        monkeypatch.delenv(name, raising=False)


def test_the_project_is_the_nearest_folder_above_with_chapters_and_a_pyproject(tmp_path, monkeypatch):
    below = tmp_path / "checkout" / "chapters" / "labs"
    below.mkdir(parents=True)
    monkeypatch.chdir(below)
    assert paths.project_root() == below  # chapters/ alone is no project
    (tmp_path / "checkout" / "pyproject.toml").touch()
    assert paths.project_root() == tmp_path / "checkout"
    assert paths.published_file("01-rows") == paths.results_folder() / "01-rows.jsonl"


def test_the_environment_wins(tmp_path, monkeypatch):
    monkeypatch.setenv("NNOPT_HOME", str(tmp_path))
    assert paths.project_root() == tmp_path and paths.build_folder() == tmp_path / "build"
    monkeypatch.setenv("NNOPT_BUILD", str(tmp_path / "elsewhere"))
    assert paths.store_folder() == tmp_path / "elsewhere" / "store"
    monkeypatch.setenv("NNOPT_STORE", str(tmp_path / "rows"))
    assert paths.store_folder() == tmp_path / "rows"


def test_a_home_that_does_not_exist_is_one_sentence(monkeypatch):
    monkeypatch.setenv("NNOPT_HOME", "/proc/nowhere")
    with pytest.raises(NnoptError) as refusal:
        paths.project_root()
    assert str(refusal.value) == "NNOPT_HOME must name a folder that exists; received '/proc/nowhere'."
