"""Everything published is hashed, and whoever reads it compares: an edit by hand is refused by name."""

from __future__ import annotations

import json

import pytest

from nnopt_lib.checks import NnoptError
from nnopt_lib.files import PLAN, replace_together, write_atomically
from nnopt_lib.results import figures
from nnopt_lib.results.seals import (
    journals,
    publishing,
    read_published_json,
    read_status,
    seal_problems,
    settle,
    status_file,
)
from nnopt_lib.results.staleness import read_claims, read_machines
from tests.published import seal
from tests.results.kinds import KINDS


@pytest.fixture
def results(tmp_path, monkeypatch):
    """A chapter that was saved with a row file, a claim and a figure."""
    monkeypatch.setenv("NNOPT_HOME", str(tmp_path))
    monkeypatch.delenv("NNOPT_BUILD", raising=False)
    folder = tmp_path / "chapters" / "results"
    claim = {"chapter": "01-first", "id": "more", "kind": "claim", "numbers": {"mean": 0.91}}
    write_atomically(folder / "claims" / "01-first.json", json.dumps([claim]))
    write_atomically(folder / "01-rows.jsonl", '{"y": 1}\n')
    rows, options = KINDS["intervals"]
    figures.save_figure("01-y", rows, "intervals", alt="A.", rests_on=(), **options)
    (folder / "figures").mkdir()
    (tmp_path / "build" / "figures" / "01-y" / "figure.json").rename(folder / "figures" / "01-y.json")
    seal("01-first", ["01-rows"])
    return folder


def test_what_is_as_it_was_saved_is_read(results):
    assert seal_problems("01-first") == []
    assert read_claims()["01-first/more"]["numbers"] == {"mean": 0.91}
    assert read_published_json(results / "figures" / "01-y.json")["name"] == "01-y"


@pytest.mark.parametrize(
    ("name", "read"),
    [("claims/01-first.json", read_claims), ("figures/01-y.json", lambda: figures.redraw("01-y"))],
)
@pytest.mark.parametrize("hand", ["a digit", "lost", "not listed"])
def test_an_edit_by_hand_is_refused_by_name_by_every_reader(results, name, read, hand):
    file = results / name
    text = file.read_text()
    if hand == "a digit":
        file.write_text(text.replace("0.9", "0.8"))
        assert file.read_text() != text
    elif hand == "lost":
        file.unlink()
    else:
        file.rename(file.with_name("02-other.json"))
        file = file.with_name("02-other.json")
    problem = {
        "a digit": "was changed since its chapter was saved",
        "lost": "is missing",
        "not listed": "is not among the files that its chapter was saved with",
    }[hand]
    (chapter,) = ["02-other"] if hand == "not listed" else ["01-first"]
    assert seal_problems(chapter) == [f"results/{file.relative_to(results)} {problem}"]
    if hand == "a digit" or "claims" in name and hand == "not listed":
        with pytest.raises(NnoptError) as error:
            read()
        remedy = f"Take it from version control, or run nnopt run {file.name[:2]} --save."
        assert str(error.value) == f"{file} must be as its chapter was saved; received {problem}. {remedy}"


def test_rows_that_were_added_or_dropped_by_hand_are_named(results):
    (results / "01-more.jsonl").write_text("")
    (results / "01-rows.jsonl").unlink()
    assert seal_problems("01-first") == [
        "results/01-more.jsonl is not among the files that its chapter was saved with",
        "results/01-rows.jsonl is missing",
    ]


def test_the_hashes_themselves_are_sealed(results):
    text = status_file().read_text()
    status_file().write_text(text.replace('"rows": {"01-rows": "', '"rows": {"01-rows": "0'))
    with pytest.raises(NnoptError) as error:
        read_claims()
    assert str(error.value) == (
        f"{status_file()} must be as nnopt run --save left it; received an entry of 01-first that does not match "
        "its own sha256. Take it from version control, or run nnopt run 01 --save."
    )


@pytest.mark.parametrize(
    ("text", "received"),
    [
        ("{", "Expecting property name enclosed in double quotes: line 1 column 2 (char 1)"),
        ("[" * 100_000, "maximum recursion depth exceeded"),
    ],
)
def test_a_status_that_is_not_whole_is_refused_by_name(results, text, received):
    status_file().write_text(text)
    with pytest.raises(NnoptError) as error:
        read_status()
    assert str(error.value).startswith(f"{status_file()} must be a whole JSON file; received {received}")


def test_an_entry_under_another_chapters_name_is_refused(results):
    entries = json.loads(status_file().read_text())
    status_file().write_text(json.dumps({"02-second": entries["01-first"]}))
    with pytest.raises(NnoptError, match="received an entry of 02-second that does not match"):
        read_status()
    status_file().write_text("[1]")
    with pytest.raises(NnoptError, match="must be as nnopt run --save left it; received a list"):
        read_status()


def test_a_machine_that_was_edited_is_refused_by_name(results):
    file = results / "machines" / "a.json"
    write_atomically(file, json.dumps({"cpu": "A", "chapters": {}, "sha256": "0"}))
    with pytest.raises(NnoptError) as error:
        read_machines()
    assert str(error.value) == (
        f"{file} must be as nnopt results verify --save left it; received contents that do not match their own "
        "sha256. Take it from version control, or remove it and verify again on that machine."
    )


def test_a_journal_that_is_incomplete_is_left_alone_and_a_complete_one_is_finished(results):
    root = results.parent
    incomplete = journals() / "01-first"
    write_atomically(incomplete / "0.new", "half")
    settle()
    assert incomplete.is_dir() and (results / "01-rows.jsonl").read_text() == '{"y": 1}\n'
    plan = {"staged": {"results/01-rows.jsonl": "0.new"}, "removed": ["results/claims/01-first.json"]}
    write_atomically(incomplete / PLAN, json.dumps(plan))
    settle()
    assert (results / "01-rows.jsonl").read_text() == "half" and not incomplete.exists()
    assert not (results / "claims" / "01-first.json").exists()
    with publishing():
        replace_together(journals() / "01-first", root, {"results/01-rows.jsonl": b"whole"})
    assert (results / "01-rows.jsonl").read_text() == "whole"


@pytest.mark.parametrize(
    "plan",
    [
        "[]",
        "{",
        '{"staged": {"../../outside": "0.new"}, "removed": []}',
        '{"staged": {}, "removed": ["/etc/hostname"]}',
        '{"staged": {"a": 1}, "removed": []}',
    ],
)
def test_a_plan_that_nnopt_did_not_write_is_refused_and_changes_nothing(results, tmp_path, plan):
    write_atomically(journals() / "01-first" / "0.new", "x")
    write_atomically(journals() / "01-first" / PLAN, plan)
    with pytest.raises(NnoptError) as error:
        read_status()
    assert str(error.value) == (
        f"{journals() / '01-first' / PLAN} must be a plan that nnopt wrote. "
        "Remove that folder, and save what it was to publish again."
    )
    assert not (tmp_path.parent / "outside").exists() and (results / "01-rows.jsonl").is_file()
