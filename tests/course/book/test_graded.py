"""Tables of the kinds of submissions that were graded."""

import json

from nnopt_lib.course.book import graded


def test_a_row_has_both_points_and_the_sentence_counts_those_apart(tmp_path, monkeypatch) -> None:
    row = {"part": "honest", "kind": "a", "says": "a lambda", "expected": [1, 2, 2], "given": [1, 2, 2]}
    row |= {"judgement": ""}
    worse = {"part": "odd", "kind": "b", "says": "cut in two", "expected": [1, 2, 2], "given": [1, 0, 1.5]}
    worse |= {"judgement": "nobody knows"}
    (tmp_path / "book").mkdir()
    (tmp_path / graded._FILE).write_text(json.dumps([row, worse]), encoding="utf-8")
    monkeypatch.setattr(graded, "project_root", lambda: tmp_path)
    text = graded.graded_tables()
    assert text.splitlines()[0] == (
        "Of 1 honest kinds and 1 odd ones, with points expected before any was graded, 1 were given other points, "
        "by 2.5 at most. For 1 of them readers could differ; the last column says why."
    )
    cells = [[cell.strip() for cell in line.split("|")][1:-1] for line in text.splitlines() if "|" in line]
    assert ["a lambda", "5", "5", ""] in cells
    assert ["cut in two", "5", "2.5 (1 + 0 + 1.5)", "nobody knows"] in cells


def test_the_page_shows_every_kind_of_the_file() -> None:
    rows = json.loads((graded.project_root() / graded._FILE).read_text(encoding="utf-8"))
    text = graded.graded_tables()
    assert {row["part"] for row in rows} == set(graded._TITLES)
    assert all(row["says"] in text for row in rows)
    assert "all were given these points" in text
