"""Faults at random moments, two of them here; the weekly run makes fifty of all kinds."""

from __future__ import annotations

import json
import random

import pytest

from tests import faults
from tests.faults import Saving, at, fill_disk, kill, one


@pytest.mark.notebook
@pytest.mark.parametrize("fault", [kill, fill_disk])
def test_a_fault_while_a_chapter_is_saved_harms_nothing(tmp_path, fault):
    task = Saving(tmp_path)
    # Moments of both executions, of publishing and of neither, on a machine of any speed.
    moment = random.Random(fault.__name__).uniform(1, 8)
    assert one(task, fault, moment, random.Random(1)) == ""
    with at(task):
        assert task.published() == [0, 3, 6]


def test_what_is_published_in_part_is_told(tmp_path, monkeypatch):
    claims = tmp_path / "chapters" / "results" / "claims" / "01-first.json"

    class Broken(Saving):
        """A command that leaves another claim behind when it meets a fault."""

        def run(self):
            claims.parent.mkdir(parents=True, exist_ok=True)
            claims.write_text(json.dumps([]))

        def published(self):
            return json.loads(claims.read_text())

    task = Broken(tmp_path)
    task.command = ["sleep", "60"]

    def harm(process, draw):
        process.kill()
        claims.write_text(json.dumps(["half"]))

    assert one(task, harm, 0, random.Random(1)) == "published ['half'] where [] or [] would be right"
    assert len(faults.FAULTS) == 6
