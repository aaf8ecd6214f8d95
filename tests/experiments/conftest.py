"""What the tests of experiments share: an empty project, settings, and a compute function that counts."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from nnopt_lib.experiments.records import write_record


@dataclasses.dataclass(frozen=True)
class Settings:
    seed: int
    rate: float = 0.5


@dataclasses.dataclass(frozen=True)
class Fingerprinted:
    fingerprint: str


SETTINGS = [Settings(seed) for seed in range(4)]


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """An empty project, no progress bars."""
    (tmp_path / "chapters").mkdir()
    monkeypatch.setenv("NNOPT_HOME", str(tmp_path))
    monkeypatch.setenv("NNOPT_PROGRESS", "0")
    for name in ("NNOPT_BUILD", "NNOPT_STORE", "NNOPT_JOBS", "NNOPT_USED", "NNOPT_ROWS"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


class Counting:
    """A compute function that counts its calls."""

    def __init__(self):
        self.seeds = []

    def __call__(self, settings):
        self.seeds.append(settings.seed)
        return {"square": settings.seed**2}


def record_files(home: Path) -> list[Path]:
    return sorted((home / "build" / "store" / "01-try").glob("*.json"))


def other_rows(home, value=-1):
    """Put other rows under the same run ids into the local store, as another processor would."""
    for path in record_files(home):
        write_record(path, {**json.loads(path.read_text()), "rows": [{"square": value}]})
