"""What a teacher reads: a table, points as CSV, pages without requests. The whole report: test_grade.py."""

from __future__ import annotations

import csv
import io

from nnopt_lib.course.labs import report as reporting
from nnopt_lib.course.labs.report import without_requests

MOST = {"mask-test": 2.0, "words": 0.0}
DONE = {"failure": "", "not_cut": [], "typed": {}}


def test_the_table_keeps_its_columns_with_letters_of_every_width():
    lines = [["student", "mask", "points"], ["李雷", "1", "10"], ["007", "1.50", "5"], ["Zoé", "", ""]]
    assert reporting._table(lines).splitlines() == [
        "student  mask  points",
        "李雷        1      10",
        "007      1.50       5",
        "Zoé",
    ]


def test_a_row_has_points_their_sum_and_a_note():
    row = reporting._row("ada", DONE, {"mask-test": 1.5}, MOST)
    assert row == {"student": "ada", "mask-test": 1.5, "words": 0.0, "points": 1.5, "of": 2.0, "note": ""}
    missing = reporting._row("bob", None, {}, MOST)
    assert (missing["points"], missing["note"]) == ("", "not graded yet")


def test_points_as_csv_are_read_back_as_they_were():
    rows = [{"student": 'a, "b"', "points": 1.0, "note": "two\nlines"}]
    read = list(csv.DictReader(io.StringIO(reporting._as_csv(rows))))
    assert read == [{"student": 'a, "b"', "points": "1.0", "note": "two\nlines"}]
    assert reporting._as_csv([]) == ""


def test_a_page_asks_the_network_for_nothing():
    page = (
        '<link rel="stylesheet" href="//cdn/x.css"><script src="https://cdn/x.js"></script>'
        "<script>here</script><p>kept</p>"
    )
    assert without_requests(page) == "<script>here</script><p>kept</p>"
