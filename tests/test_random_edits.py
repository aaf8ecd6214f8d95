"""Random edits of what the library reads back, a few of each kind here; the weekly run makes ten thousand."""

from __future__ import annotations

import collections

import pytest

from tests import random_edits
from tests.random_edits import Kept, edited, faults, outcome, run

pytestmark = pytest.mark.torch


def test_random_edits_are_refused_set_aside_or_harmless(tmp_path, monkeypatch):
    for name in ("NNOPT_HOME", "NNOPT_PROGRESS", "NNOPT_BUILD"):  # set by `run`, and put back afterwards
        monkeypatch.setenv(name, "")
    for name in ("NNOPT_STORE", "NNOPT_USED", "NNOPT_ROWS"):
        monkeypatch.delenv(name, raising=False)
    outcomes = run(300, seed=7, folder=tmp_path)
    assert faults(outcomes) == []
    assert len(outcomes) == 15
    for kind, counted in outcomes.items():
        # Rows that are used are computed again where they are damaged, which gives the same: told, and harmless.
        assert counted["refused"] + counted["set aside"] > 0 or kind == "rows used", kind


@pytest.mark.parametrize(
    ("read", "verdict"),
    [
        (lambda: 1, "harmless"),
        (lambda: 2, "silently other: 2"),
        (lambda: None, "silently other: None"),
        (lambda: 1 / 0, "ZeroDivisionError: division by zero"),
    ],
)
def test_a_reader_that_does_not_notice_is_a_fault(tmp_path, read, verdict):
    kept = Kept("a kind", tmp_path / "a.json", read)
    assert outcome(kept, 1) == verdict
    assert bool(faults({"a kind": collections.Counter([verdict])})) == (verdict != "harmless")


def test_a_refusal_must_name_the_file(tmp_path):
    def refusing(sentence):
        def read():
            raise random_edits.NnoptError(sentence)

        return Kept("a kind", tmp_path / "a.json", read)

    assert outcome(refusing("a.json is damaged."), 1) == "refused"
    assert outcome(refusing("it is damaged."), 1) == "does not name the file: it is damaged."


def test_edits_change_what_they_edit_and_depend_on_the_seed_alone():
    import random

    content = b'{"a": 1}\n{"b": 22}\n{"c": 333}\n'
    several = [edited(content, random.Random(seed)) for seed in range(200)]
    assert several == [edited(content, random.Random(seed)) for seed in range(200)]
    assert sum(one != content for one in several) > 150
    assert {len(one) > len(content) for one in several} == {True, False}  # lines doubled, lines lost
