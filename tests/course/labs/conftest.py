"""A class with the tiny lab, released once for each file of tests; nothing of the real course is touched."""

from __future__ import annotations

import shutil

import pytest

from tests import labs_class
from tests.labs_class import at_home


@pytest.fixture(scope="module")
def released(tmp_path_factory):
    """A released course that tests copy."""
    root = tmp_path_factory.mktemp("project")
    with at_home(root):
        return labs_class.new_course(root)


@pytest.fixture
def course(released, tmp_path, monkeypatch):
    """A copy of it, for one test."""
    shutil.copytree(released.folder, tmp_path / "course")
    monkeypatch.setenv("NNOPT_HOME", str(released.folder.parent))
    return type(released)(tmp_path / "course")
