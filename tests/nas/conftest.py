"""A store for each test, so that no search finds the rows of another."""

import pytest


@pytest.fixture(autouse=True)
def store(tmp_path, monkeypatch):
    monkeypatch.setenv("NNOPT_STORE", str(tmp_path / "store"))
    monkeypatch.setenv("NNOPT_PROGRESS", "0")
    monkeypatch.delenv("NNOPT_CLUSTER", raising=False)
