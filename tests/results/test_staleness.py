"""What is published, read back, and which row file made it stale."""

import json

import pytest

from nnopt_lib.checks import NnoptError
from nnopt_lib.results.staleness import (
    check_fresh,
    read_claims,
    read_status,
    row_hashes,
    stale_rows,
)


@pytest.fixture
def results(tmp_path, monkeypatch):
    """One chapter that was saved with two experiments, and whose claim rests on the first."""
    monkeypatch.setenv("NNOPT_HOME", str(tmp_path))
    folder = tmp_path / "chapters" / "results"
    (folder / "claims").mkdir(parents=True)
    for name in ("01-one", "01-two"):
        (folder / f"{name}.jsonl").write_text('{"y": 1}\n')
    status = {"01-first": {"rows": row_hashes(["01-two", "01-one"])}}
    (folder / "status.json").write_text(json.dumps(status))
    claim = {"chapter": "01-first", "id": "more", "kind": "claim", "rests_on": ["01-one"]}
    (folder / "claims" / "01-first.json").write_text(json.dumps([claim]))
    return folder


def test_rows_as_they_were_are_not_stale(results):
    assert list(read_claims()) == ["01-first/more"]
    assert stale_rows("01", ["01-one", "01-two"], read_status()) == []
    check_fresh(read_claims())


def test_only_what_rests_on_a_changed_file_is_stale_and_the_file_is_named(results):
    (results / "01-two.jsonl").write_text('{"y": 2}\n')
    check_fresh(read_claims())
    (results / "01-one.jsonl").write_text('{"y": 2}\n')
    with pytest.raises(NnoptError) as error:
        check_fresh({"the claim 01-first/more": read_claims()["01-first/more"]})
    assert str(error.value) == (
        "stale, since chapters/results/01-one.jsonl changed: the claim 01-first/more. Run nnopt run 01 --save."
    )


def test_what_cannot_be_known_is_not_taken_for_fresh(results):
    (results / "01-two.jsonl").unlink()
    (results / "01-new.jsonl").write_text("")
    assert stale_rows("01-first", ["01-new", "01-one", "01-two"], read_status()) == [
        "chapters/results/01-new.jsonl was not noted when the chapter was saved",
        "chapters/results/01-two.jsonl is missing",
    ]
    with pytest.raises(NnoptError) as error:
        check_fresh({"old": {"chapter": "01-first"}})
    assert str(error.value) == (
        "stale, since they do not say which rows they rest on: old. Run nnopt run 01 --save."
    )


def test_a_damaged_file_is_named(results):
    (results / "status.json").write_text("{")
    with pytest.raises(NnoptError, match=r"status\.json must be a whole JSON file; received JSONDecodeError"):
        read_status()
