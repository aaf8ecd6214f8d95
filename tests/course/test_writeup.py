"""The write-up: built offline from a clean clone, from records alone; stale rows and unknown names stop it."""

import json
import re
import shutil
import subprocess
import sys
import zlib
from pathlib import Path

import pytest

from nnopt_lib.checks import NnoptError
from nnopt_lib.course import writeup
from tests.published import seal

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / writeup.SOURCE


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    """What a commit of the working tree would hold, and nothing of what git ignores."""
    folder = tmp_path_factory.mktemp("clean") / "clone"
    words = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():  # not one that was deleted and is in the index still
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    return folder


def build(clone, *words):
    """``nnopt writeup`` of the clone's own library, in a network namespace of its own where there are any."""
    offline = next(
        (
            command
            for command in (["unshare", "-n"], ["unshare", "-rn"])
            if shutil.which("unshare")
            and subprocess.run([*command, "true"], capture_output=True).returncode == 0
        ),
        [],
    )
    command = [*offline, sys.executable, "-m", "nnopt_lib.cli", "writeup", *words]
    return subprocess.run(command, cwd=clone, capture_output=True, text=True, timeout=180)


@pytest.fixture(scope="module")
def pdf(clone):
    """The bytes of the paper as the clean clone makes it."""
    done = build(clone)
    assert (done.returncode, done.stderr) == (0, "")
    file = clone / "build" / "writeup" / "paper.pdf"
    assert done.stdout == f"The paper is {file}\n"
    return file.read_bytes()


def streams(pdf):
    """The decompressed streams of a PDF."""
    for stream in re.findall(rb"stream\r?\n(.*?)\r?\nendstream", pdf, flags=re.DOTALL):
        try:
            yield zlib.decompress(stream)
        except zlib.error:
            yield stream


def test_a_clean_clone_without_a_network_gives_three_to_eight_pages(pdf):
    # Not more, since it is to be short; the table of all replays takes the most, and grows with the chapters.
    assert pdf.startswith(b"%PDF") and 3 <= len(re.findall(rb"/Type\s*/Page\b", pdf)) <= 8
    date = max(chapter["finished_at"] for chapter in map(writeup.chapter_facts, writeup.read_status()))
    assert b"/CreationDate(D:" + re.sub(r"\D", "", date)[:14].encode() in pdf  # of the rows, not of today


def test_equal_rows_give_equal_bytes(clone, pdf, tmp_path):
    assert build(clone, "--out", str(tmp_path / "again.pdf")).returncode == 0
    assert (tmp_path / "again.pdf").read_bytes() == pdf


def test_figures_are_vectors_at_column_width_with_fonts_and_text_of_seven_to_nine_points(pdf):
    fonts = [one for one in pdf.split(b"endobj") if re.search(rb"/Type\s*/FontDescriptor\b", one)]
    assert len(fonts) > 4 and all(b"/FontFile" in font for font in fonts)
    assert not re.search(rb"/Subtype\s*/Image", pdf)
    drawn = re.findall(r'^#fig\("', SOURCE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    boxes = re.findall(rb"/Subtype\s*/Form.{0,60}?/BBox\[0 0 ([\d.]+) ", pdf, flags=re.DOTALL)
    assert boxes.count(b"%g" % (72 * writeup.COLUMN_INCHES)) == len(drawn) >= 5
    # matplotlib calls its fonts F1, F2, ..., Typst calls its own f0, f1, ...
    sizes = {float(size) for text in streams(pdf) for size in re.findall(rb"/F\d+ ([\d.]+) Tf", text)}
    assert sizes and 7 <= min(sizes) <= max(sizes) <= 9


def test_one_changed_row_stops_the_build_and_names_what_went_stale(clone, pdf):
    rows = clone / "chapters" / "results" / "03-depths.jsonl"
    before = rows.read_text(encoding="utf-8")
    try:
        rows.write_text(before.replace('"test": ', '"test": 1', 1), encoding="utf-8")
        assert rows.read_text(encoding="utf-8") != before
        done = build(clone)
    finally:
        rows.write_text(before, encoding="utf-8")
    (line,) = done.stderr.splitlines()
    assert done.returncode == 1
    assert line.startswith(
        "nnopt: stale, since chapters/results/03-depths.jsonl changed: 03-depth/deep-plain, He; "
    )
    assert "figure 03-depths" in line and "04-width" not in line
    assert line.endswith(". Run nnopt run 03 --save.")
    assert (clone / "build" / "writeup" / "paper.pdf").read_bytes() == pdf  # the last good one stays


def test_no_number_is_typed():
    """Digits stand only in records' and data sets' names, citations, labels, lengths and chapter numbers."""
    text = SOURCE.read_text(encoding="utf-8")
    allowed = (
        r'"\d\d-[^"]+"',  # a record, a figure or a chapter, by name
        r"@\w+",  # a citation or a reference
        r"\bchapters? \d\d\b",
        r"Chapter \d\d\b",
        r"\d+(\.\d+)?(pt|em|in|cm|fr)\b",
        r'rgb\("#\w+"\)',
        r"MNIST-1D|LeNet-300-100|\bL[012]\b|V2|sha256",
        r"(?m)^ *(paper|columns|margin|numbering): .*$",  # of the page
        r"slice\(0, \d+\)|heading\(numbering: \"1\"\)|\* 1in",
    )
    for pattern in allowed:
        text = re.sub(pattern, "", text)
    left = [line for line in text.splitlines() if re.search(r"\d", line)]
    assert left == []


def test_no_semicolon_is_lost_behind_a_number():
    """Typst takes a semicolon behind ``#f(...)`` for the end of its code, and prints none."""
    assert re.findall(r"#\w+\([^()]*\);", SOURCE.read_text(encoding="utf-8")) == []


RECORD = {"chapter": "01-first", "kind": "claim", "verdict": "holds", "sentence": "More."}


@pytest.mark.parametrize(
    ("mean", "low", "high", "expected", "less"),
    [
        (2.9166, 2.3888, 3.6666, "2.9 2.4 3.7", "−2.9 −3.7 −2.4"),
        (35.05, 19.35, 43.13, "35 19 43", "−35 −43 −19"),
        (-0.004, -0.25, 0.1, "0.00 −0.25 0.10", "0.00 −0.10 0.25"),
        (12.017, 12.017, 12.017, "12.02 12.02 12.02", "−12.02 −12.02 −12.02"),
    ],
)
def test_numbers_have_two_digits_of_their_interval(mean, low, high, expected, less):
    facts = writeup.shown({**RECORD, "numbers": {"mean": mean, "low": low, "high": high}})
    assert " ".join(facts[key] for key in ("mean", "low", "high")) == expected
    assert " ".join(facts["less"][key] for key in ("mean", "low", "high")) == less


def test_verdicts_are_those_of_the_records():
    assert writeup.shown({**RECORD, "numbers": {}})["verdict"] == "holds"
    assert writeup.shown({**RECORD, "verdict": "undecided", "numbers": {}})["verdict"] == "undecided"
    replay = {
        "chapter": "01-first",
        "kind": "replay",
        "quantity": "q",
        "published": 0.56883,
        "half_width": 0.1,
    }
    replay |= {"mark": "V", "source": "s", "mean": 1.0, "low": 0.9, "high": 1.1}
    facts = writeup.shown({**replay, "verdict": "replayed, differs, because it is so, because of this"})
    assert (facts["verdict"], facts["because"]) == ("differs", "it is so, because of this")
    assert facts["published"] == "0.5688 ± 0.1"
    assert writeup.shown({**replay, "verdict": "replayed, inside"})["verdict"] == "inside"


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A course of one chapter, saved, and a paper of one line."""
    monkeypatch.setenv("NNOPT_HOME", str(tmp_path))
    for name in ("chapters/results/claims", "chapters/results/figures", "book/writeup"):
        (tmp_path / name).mkdir(parents=True)
    results = tmp_path / "chapters" / "results"
    shutil.copy(ROOT / "chapters" / "results" / "15-staircase.jsonl", results)
    claim = {**RECORD, "chapter": "15-surgery", "id": "more", "numbers": {}, "rests_on": ["15-staircase"]}
    (results / "claims" / "15-surgery.json").write_text(json.dumps([claim]))
    seal("15-surgery", ["15-staircase"], commit="1" * 40 + "+changes")
    (tmp_path / "book" / "references.bib").write_text("")
    (tmp_path / writeup.SOURCE).write_text('#json("facts.json").records.at("15-surgery/more").verdict')
    return tmp_path


def test_a_small_paper_is_built_where_it_is_asked_for(project):
    assert writeup.build_writeup(project / "new" / "one.pdf").read_bytes().startswith(b"%PDF")
    facts = writeup.chapter_facts("15-surgery")
    assert (facts["runs"], facts["seeds"], facts["commit"]) == (49, "–", "11111111+")


def test_seeds_are_counted_for_each_comparison(monkeypatch):
    rows = [{"kind": kind, "seed": seed} for kind, seeds in (("a", 5), ("b", 3)) for seed in range(seeds)]
    assert writeup._seeds([{"settings": {}, "rows": rows}, {"settings": {}, "rows": rows[:2]}]) == [5, 3]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (
            '#ci("15-surgery/mor")',
            "book/writeup/paper.typ names the record '15-surgery/mor', which no chapter made. "
            "Did you mean '15-surgery/more'?",
        ),
        (
            '#fig("15-staircase", "key")[Caption.]',
            "book/writeup/paper.typ names the figure '15-staircase', which is not published. Choose from none.",
        ),
        ('#panic("no " + "15-surgery/more")', "book/writeup/paper.typ could not be compiled: panicked with: no 15-surgery/more."),
    ],
)  # fmt: skip
def test_a_source_that_is_wrong_is_one_sentence(project, text, sentence):
    (project / writeup.SOURCE).write_text(text)
    with pytest.raises(NnoptError) as error:
        writeup.build_writeup()
    assert str(error.value) == sentence
    assert not (project / "build" / "writeup").exists()


def test_a_bad_out_is_one_sentence_and_changes_nothing(project):
    with pytest.raises(NnoptError) as error:
        writeup.build_writeup(project)
    assert str(error.value) == (
        f"--out must name a file; received the folder {project}. As {project / 'paper.pdf'}."
    )
    (project / "file").write_text("mine")
    with pytest.raises(NnoptError, match=r"paper\.pdf could not be written: .* Make that folder writable"):
        writeup.build_writeup(project / "file" / "paper.pdf")
    assert (project / "file").read_text() == "mine"


def test_a_project_without_the_source_is_one_sentence(project):
    (project / writeup.SOURCE).unlink()
    with pytest.raises(NnoptError) as error:
        writeup.build_writeup()
    assert str(error.value) == (
        f"the write-up needs its source book/writeup/paper.typ; received no such file in {project}."
    )
