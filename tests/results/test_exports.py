"""Tables and references as a paper takes them along."""

from __future__ import annotations

import csv

import pytest
from pybtex.database import parse_string

from nnopt_lib.results.exports import as_csv, as_latex, references_of
from tests.results.kinds import INTERVALS


def test_a_paper_gets_a_table_of_the_rows():
    assert as_latex(INTERVALS).splitlines() == [
        r"\begin{tabular}{lrrrrlr}",
        r"\hline",
        r"label & mean & low & high & printed & run id & seed \\",
        r"\hline",
        r"network & 0.94 & 0.93 & 0.95 & 0.97 & b & 1 \\",
        r"logistic & 0.92 & 0.91 & 0.93 & 0.94 & a & 0 \\",
        r"\hline",
        r"\end{tabular}",
    ]


def test_a_table_in_csv_has_all_digits_and_all_fields():
    rows = [{"a": 0.1 + 0.2, "b": "x, y"}, {"a": 1e-300, "c": None}]
    read = list(csv.DictReader(as_csv(rows).splitlines()))
    assert [float(row["a"]) for row in read] == [0.1 + 0.2, 1e-300]
    assert list(read[0]) == ["a", "b", "c"] and read[0]["b"] == "x, y" and read[1]["b"] == ""


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A chapter that cites three works by two directives, and a bibliography that has another, too."""
    (tmp_path / "chapters").mkdir()
    (tmp_path / "book").mkdir()
    chapter = "As {cite}`ada1843notes` and {cite:t}`bob2000other, eve` say."
    (tmp_path / "chapters/01-first.md").write_text(chapter)
    entry = "@article{%s,\n author = {Lovelace, Ada},\n title = {{Notes}},\n year = {1843}\n}\n"
    bib = "".join(entry % key for key in ("ada1843notes", "bob2000other", "nobody"))
    (tmp_path / "book/references.bib").write_text(bib)
    monkeypatch.setenv("NNOPT_HOME", str(tmp_path))
    return tmp_path


def test_a_paper_gets_the_references_of_the_figures_chapter(project):
    known = parse_string(references_of("01-intervals"), "bibtex").entries
    assert sorted(known) == ["ada1843notes", "bob2000other"]
    assert references_of("02-other") == ""  # no such chapter
    (project / "book/references.bib").unlink()
    assert references_of("01-intervals") == ""


def test_what_latex_would_read_as_its_own_is_written_out():
    rows = [{"name_of": "5 % of a_b & c\\d", "value": -0.000012345, "none": None}]
    body = as_latex(rows).splitlines()
    assert body[2] == r"name of & value & none \\"
    assert body[4] == r"5 \% of a\_b \& c\textbackslash{}d & $-1.234 \times 10^{-5}$ & -- \\"


def test_lists_stand_in_csv_as_json_and_are_left_out_of_a_papers_table():
    rows = [{"label": "a", "values": [0.1, 2], "mean": 1.5}, {"label": "b", "values": None, "mean": 2.5}]
    assert as_csv(rows).splitlines() == ["label,values,mean", 'a,"[0.1, 2]",1.5', "b,,2.5"]
    assert as_latex(rows).splitlines()[2:5] == [r"label & mean \\", r"\hline", r"a & 1.5 \\"]
