"""The built book: what goes into it, what it refuses, and that it reads without a network."""

from __future__ import annotations

import html.parser
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from nnopt_lib import figures
from nnopt_lib.checks import NnoptError
from nnopt_lib.course.book import build as book
from nnopt_lib.course.book import pages
from nnopt_lib.course.chapters.batch import run_chapters
from nnopt_lib.course.chapters.check import check_chapter
from nnopt_lib.course.chapters.run import run_chapter
from nnopt_lib.course.chapters.save import save_chapter
from nnopt_lib.course.chapters.source import find_chapters
from nnopt_lib.experiments import records as store
from nnopt_lib.experiments.records import sealed
from tests.published import seal
from tests.tiny_course import edit, write_course

ROOT = Path(__file__).parents[3]
STEM = "01-source-article"
PLANNED = yaml.safe_load((ROOT / "book" / "_toc.yml").read_text(encoding="utf-8"))


def write_notebook(path: Path, text: str) -> Path:
    figure = {
        "image/svg+xml": '<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>',
        "text/plain": "a square",
    }
    cells = [
        {"cell_type": "markdown", "id": "a", "metadata": {}, "source": text},
        {
            "cell_type": "code",
            "id": "b",
            "metadata": {},
            "source": "figure",
            "execution_count": 1,
            "outputs": [
                {"output_type": "execute_result", "execution_count": 1, "metadata": {}, "data": figure}
            ],
        },
    ]
    notebook = {
        "cells": cells,
        "metadata": {"language_info": {"name": "python"}},
        "nbformat": 4,
        "nbformat_minor": 5,
    }
    path.write_text(json.dumps(notebook), encoding="utf-8")
    return path


# What the book is made of


def test_contents_keep_only_chapters_that_exist_and_parts_that_are_not_empty() -> None:
    contents = book._table_of_contents(PLANNED, {STEM: "What?", "08-regularization": "How?"})
    captions = [part["caption"] for part in contents["parts"]]
    assert captions == [
        "How to use this book",
        "Part I · Foundations",
        "Part III · Pruning",
        "Evidence and reference",
    ]
    chapters = [
        entry for part in contents["parts"] for entry in part["chapters"] if "chapters/" in entry["file"]
    ]
    assert chapters == [
        {"file": f"chapters/{STEM}", "title": "01 · What?"},
        {"file": "chapters/08-regularization", "title": "08 · How?"},
    ]


def test_contents_refuse_a_chapter_that_is_not_planned() -> None:
    with pytest.raises(NnoptError) as refusal:
        book._table_of_contents(PLANNED, {"99-nothing": "Why?"})
    assert str(refusal.value) == (
        "every chapter must stand in book/_toc.yml; received '99-nothing', which does not. "
        "Add `- file: chapters/99-nothing` to its part."
    )


def test_planned_chapters_are_the_nineteen_of_the_design_in_order() -> None:
    files = [Path(entry["file"]) for part in PLANNED["parts"] for entry in part["chapters"]]
    numbers = [file.name[:2] for file in files if file.parent.name == "chapters"]
    assert numbers == [f"{number:02d}" for number in range(1, 20)]


def test_every_page_of_the_book_is_in_the_contents() -> None:
    listed = {PLANNED["root"], *(entry["file"] for part in PLANNED["parts"] for entry in part["chapters"])}
    assert {f"book/{page.stem}" for page in (ROOT / "book").glob("*.md")} <= listed


def test_status_comes_from_the_records_of_runs() -> None:
    record = {
        "duration_seconds": 61.25,
        "finished_at": "2026-01-02T03:04:05+00:00",
        "provenance": {
            "versions": {
                "python": "3.11.9",
                "numpy": "2.4.6",
                "torch": "2.13.0",
                "tensorflow": None,
                "keras": "3.15.1",
            },
            "hardware": {"cpu": "A | B", "cores": 2, "memory_bytes": 3 * 2**30, "accelerator": None},
            "commit": "0123456789abcdef+changes",
        },
    }
    text = pages.status_tables({STEM: "What?", "02-cost": "How much?"}, {STEM: record})
    link = f"[01 · What?](../chapters/{STEM}.ipynb)"
    assert f"| {link} | 61.2 | 2026-01-02 03:04 | 3.11.9 | 2.4.6 | 2.13.0 | – | 3.15.1 |" in text
    assert f"| {link} | A \\| B | 2 | 3.0 | none | `0123456789+changes` |" in text
    assert "| [02 · How much?](../chapters/02-cost.ipynb) | no record |" in text


CLAIMS = [
    {"chapter": STEM, "id": "a", "kind": "claim", "sentence": "So it is.", "verdict": "holds", "numbers": {}},
    {
        "chapter": STEM,
        "id": "b",
        "kind": "claim",
        "sentence": "So it is not.",
        "verdict": "does not hold",
        "numbers": {},
    },
    {
        "chapter": STEM,
        "id": "c",
        "kind": "replay",
        "quantity": "test accuracy, %",
        "published": 68.0,
        "half_width": 2.0,
        "mean": 66.123456,
        "low": 65.0,
        "high": 67.2,
        "mark": "V",
        "source": "greydanus2024scaling",
        "verdict": "replayed, inside",
    },
]


def test_ledger_shows_claims_that_fail_and_replays_with_both_intervals() -> None:
    text = pages.ledger_tables({STEM: "What?", "02-cost": "How much?"}, {STEM: CLAIMS, "02-cost": []})
    assert "## 01 · What?" in text
    assert "| holds | So it is. |  |" in text
    assert "| **does not hold** | So it is not. |" in text
    cite = "{cite:t}`greydanus2024scaling`"
    assert f"| test accuracy, % | 68 ± 2 | V | {cite} | 66.12 [65.00, 67.20] | replayed, inside |" in text
    assert text.endswith("## 02 · How much?\n\nNo claim was recorded.")


def test_ledger_reads_what_claim_and_replay_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from nnopt_lib.results.claims import claim, replay

    monkeypatch.setenv("NNOPT_HOME", str(tmp_path))
    claim(STEM, "more", "Two is more than one.", holds=True, rows=())
    common = {"rows": (), "mark": "M", "source": "s"}
    replay(STEM, "x", quantity="q", published=1, measured=(3, 2, 4), because="of rain", **common)
    records = json.loads((tmp_path / "build" / "claims" / f"{STEM}.json").read_text(encoding="utf-8"))
    text = pages.ledger_tables({STEM: "What?"}, {STEM: records})
    assert "| holds | Two is more than one. |  |" in text
    assert "| q | 1 | M | {cite:t}`s` | 3.000 [2.000, 4.000] | replayed, differs, because of rain |" in text


@pytest.mark.parametrize("profile, shown", [("quick", "Quickly so."), ("published", "So it is.")])
def test_ledger_takes_the_claims_of_this_run_and_else_the_published_ones(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, profile: str, shown: str
) -> None:
    monkeypatch.setenv("NNOPT_HOME", str(tmp_path / "home"))
    shutil.copytree(home, tmp_path / "home", ignore=shutil.ignore_patterns("_build", "build"))
    runs, stored = tmp_path / "home" / "build" / "runs", tmp_path / "home" / "chapters" / "results" / "claims"
    runs.mkdir(parents=True)
    stored.mkdir(parents=True)
    quick = {"duration_seconds": 1, "finished_at": "", "claims": [{**CLAIMS[0], "sentence": "Quickly so."}]}
    (runs / f"quick-{STEM}.json").write_text(json.dumps(sealed(quick)))
    (stored / f"{STEM}.json").write_text(json.dumps(CLAIMS))
    seal(STEM)
    notebook = write_notebook(tmp_path / "a.ipynb", "# What?")
    book._assemble(tmp_path / "home", {STEM: notebook}, profile, tmp_path / "source")
    ledger = (tmp_path / "source" / "book" / "ledger.md").read_text(encoding="utf-8")
    assert shown in ledger and ("Quickly so." in ledger) == (profile == "quick")


def test_pages_about_a_committed_notebook_are_made_from_what_is_committed(home: Path, tmp_path: Path) -> None:
    root = tmp_path / "home"
    shutil.copytree(home, root, ignore=shutil.ignore_patterns("_build", "build"))
    runs, claims = root / "build" / "runs", root / "chapters" / "results" / "claims"
    runs.mkdir(parents=True)
    claims.mkdir(parents=True)
    mine = {"duration_seconds": 7654.3, "finished_at": "", "claims": [{**CLAIMS[0], "sentence": "Mine."}]}
    (runs / f"published-{STEM}.json").write_text(json.dumps(sealed(mine)))
    (claims / f"{STEM}.json").write_text(json.dumps(CLAIMS))
    saved = {"duration_seconds": 12.5, "finished_at": "2026-01-02T03:04:05", "versions": {"torch": "2.13.0"}}
    hardware = {"cpu": "Theirs", "cores": 2, "memory_bytes": 2**30}
    committed = write_notebook(root / "chapters" / f"{STEM}.ipynb", "# What?")
    executed = write_notebook(tmp_path / f"{STEM}.ipynb", "# What?")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NNOPT_HOME", str(root))
        seal(STEM, **saved, hardware=hardware, commit=None)
        for notebook, seconds, sentence in ((committed, "12.5", "So it is."), (executed, "7654.3", "Mine.")):
            book._assemble(root, {STEM: notebook}, "published", tmp_path / "source")
            assert f"| {seconds} |" in (tmp_path / "source" / "book" / "status.md").read_text(
                encoding="utf-8"
            )
            ledger = (tmp_path / "source" / "book" / "ledger.md").read_text(encoding="utf-8")
            assert sentence in ledger and ("Mine." in ledger) == (notebook == executed)


@pytest.fixture
def course(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tiny course with the real pages, whose first chapter records a claim and draws a figure."""
    write_course(tmp_path, monkeypatch)
    shutil.copytree(ROOT / "book", tmp_path / "book", ignore=shutil.ignore_patterns("_build"))
    for page in ("questions", "play"):
        (tmp_path / "book" / f"{page}.md").write_text(f"# The page {page}\n", encoding="utf-8")
    edit(tmp_path / "book" / "_toc.yml", "01-source-article", "01-first")
    (tmp_path / "chapters" / "02-second.md").unlink()
    drawn = 'figures.save_figure("01-y", rows, "curves", x="seed", y="y", x_label="seed", y_label="y", alt="A line.")'
    recorded = 'claim("01-first", "sum", f"It is {sum(r[\'y\'] for r in rows):.1f}.", holds=True, rows=rows)'
    source = tmp_path / "chapters" / "01-first.md"
    edit(source, '[row["y"] for row in rows]', drawn)
    edit(source, 'def claim(*words): print(*words)\nclaim("holds")', recorded)
    edit(source, "import dataclasses, sys", "import dataclasses\nfrom nnopt_lib import claim, figures")
    return tmp_path


@pytest.mark.notebook
def test_rows_of_this_machine_move_neither_check_nor_book_nor_figures(course: Path) -> None:
    (chapter,) = find_chapters(["1"])
    save_chapter(chapter)

    def seen() -> dict[str, bytes]:
        notebooks = {chapter.name: chapter.notebook}
        assert run_chapters([chapter], published_rows=True) == {chapter.name: "stored"}
        book._assemble(course, notebooks, "published", course / "source")
        figures.redraw("01-y", out=course / "figures", formats=["svg"])
        folders = (course / "source", course / "figures")
        return {str(path): path.read_bytes() for one in folders for path in one.rglob("*") if path.is_file()}

    before = seen()
    run_chapter(chapter, "quick", {"recompute": "true"})  # its figure and claims are in build/ now
    for path in (course / "build" / "store" / "01-rows").glob("*.json"):
        record = json.loads(path.read_text(encoding="utf-8"))
        store.write_record(path, {**record, "rows": [{"y": record["rows"][0]["y"] + 0.3}]})
    assert check_chapter(chapter) == []
    chapter.executed("published").unlink()  # so that it is executed again
    run_chapter(chapter)
    assert before == seen()
    assert "It is 6.0." in chapter.executed("published").read_text(encoding="utf-8")


def test_a_chapter_that_was_not_executed_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NNOPT_HOME", str(tmp_path))
    with pytest.raises(NnoptError) as refusal:
        book.build_book(notebooks={STEM: tmp_path / "nothing.ipynb"})
    assert str(refusal.value) == (
        f"chapter {STEM} must be executed before the book is built. Run nnopt run 01."
    )


# Pages written by hand


def test_every_reference_says_how_it_was_checked_and_nothing_else_does() -> None:
    entries = re.findall(
        r"^@\w+\{(\w+),", (ROOT / "book" / "references.bib").read_text(encoding="utf-8"), re.M
    )
    checked = re.findall(
        r"^\| `(\w+)` \|", (ROOT / "book" / "bibliography-check.md").read_text(encoding="utf-8"), re.M
    )
    assert len(entries) == len(set(entries)) and len(checked) == len(set(checked))
    assert set(entries) == set(checked)


def test_every_term_of_the_glossary_has_a_chinese_word() -> None:
    text = (ROOT / "book" / "glossary.md").read_text(encoding="utf-8")
    terms = [
        block
        for body in re.findall(r":::\{glossary\}\n(.*?):::", text, re.S)
        for block in body.strip().split("\n\n")
    ]
    assert len(terms) > 50
    heads = [[line for line in term.splitlines() if not line.startswith(" ")] for term in terms]
    assert [head for head in heads if not re.search(r"[\u4e00-\u9fff]", "".join(head[1:]))] == []


# The built site


class Assets(html.parser.HTMLParser):
    """What a browser fetches by itself when it opens a page."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        fetched = {"stylesheet", "icon", "preload", "modulepreload", "preconnect", "dns-prefetch", "prefetch"}
        if tag == "link" and fetched & set((values.get("rel") or "").split()):
            self.addresses.append(values.get("href") or "")
        if tag in ("script", "img", "iframe", "source", "video", "audio", "embed", "object"):
            self.addresses += [address for key in ("src", "data") if (address := values.get(key))]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A project with the real pages of the book, but those made of all chapters, and nothing else."""
    root = tmp_path_factory.mktemp("home")
    shutil.copytree(ROOT / "book", root / "book", ignore=shutil.ignore_patterns("_build"))
    (root / "chapters").mkdir()
    for page in ("questions", "play"):  # these need what all chapters have published: tests/test_pages.py
        (root / "book" / f"{page}.md").write_text(f"# The page {page}\n", encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NNOPT_HOME", str(root))
        yield root


@pytest.fixture(scope="module")
def built(home: Path) -> dict[str, Path]:
    text = "# Does it read well?\n\n{term}`Sparsity` by {cite:t}`williams2009roofline`; [ledger](../book/ledger.md).\n\n$$s = 1 - d$$"
    notebooks = {STEM: write_notebook(home / f"{STEM}.ipynb", text)}
    assert book.build_book(notebooks=notebooks) == home / "book" / "_build" / "html" / "index.html"
    return notebooks


@pytest.mark.notebook
def test_the_first_page_leads_to_the_introduction(home: Path, built: dict[str, Path]) -> None:
    site = home / "book" / "_build" / "html"
    assert "url=book/intro.html" in (site / "index.html").read_text(encoding="utf-8")
    introduction = (site / "book" / "intro.html").read_text(encoding="utf-8")
    assert "01 · Does it read well?" in introduction
    assert "02 ·" not in introduction and "Part II" not in introduction.replace("Part III", "")


@pytest.mark.notebook
def test_no_page_asks_for_anything_outside_the_book(home: Path, built: dict[str, Path]) -> None:
    site = home / "book" / "_build" / "html"
    pages = [page for page in site.rglob("*.html") if "_static" not in page.parts]
    assert len(pages) >= 10
    for page in pages:
        assets = Assets()
        assets.feed(page.read_text(encoding="utf-8"))
        for address in assets.addresses:
            if address.startswith("data:"):
                continue
            assert not re.match(r"(\w+:)?//", address), f"{page.name} asks for {address}"
            assert (page.parent / address.partition("?")[0]).is_file(), f"{page.name} misses {address}"
    for style in site.rglob("*.css"):
        assert not re.search(r"(url\(|@import)\s*[\"']?(https?:)?//", style.read_text(encoding="utf-8")), (
            style.name
        )
    formula = (site / "chapters" / f"{STEM}.html").read_text(encoding="utf-8")
    assert "mathjax/tex-chtml-full.js" in formula
    assert len(list((site / "mathjax" / "output" / "chtml" / "fonts" / "woff-v2").glob("*.woff"))) > 20


@pytest.mark.notebook
def test_nothing_is_rebuilt_unless_something_changed(
    home: Path, built: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[Path] = []
    real = book._run_jupyter_book

    def counted(source: Path, output: Path, log: Path) -> None:
        calls.append(source)
        real(source, output, log)

    monkeypatch.setattr(book, "_run_jupyter_book", counted)
    book.build_book(notebooks=built)
    assert calls == []
    with (home / "book" / "errata.md").open("a", encoding="utf-8") as page:
        page.write("\nOne more line.\n")
    book.build_book(notebooks=built)
    assert len(calls) == 1
    (home / "book" / "_build" / "html" / "book" / "errata.html").write_text("damaged")
    book.build_book(notebooks=built)
    assert len(calls) == 2
    assert "One more line." in (home / "book" / "_build" / "html" / "book" / "errata.html").read_text(
        encoding="utf-8"
    )


@pytest.mark.notebook
def test_a_warning_fails_the_build_in_one_line_and_keeps_the_old_book(
    home: Path, built: dict[str, Path], tmp_path: Path
) -> None:
    old = (home / "book" / "_build" / "html" / "chapters" / f"{STEM}.html").read_bytes()
    broken = write_notebook(tmp_path / "broken.ipynb", "# Why?\n\n{term}`no such word`")
    with pytest.raises(NnoptError) as refusal:
        book.build_book(notebooks={STEM: broken})
    line = str(refusal.value)
    assert "\n" not in line
    assert line.startswith(
        f"The book must build without a warning; received 1 warning: chapters/{STEM}.ipynb:"
    )
    assert "no such word" in line
    assert line.endswith("The whole output is in build/book.log; the previous book was left in place.")
    assert (home / "book" / "_build" / "html" / "chapters" / f"{STEM}.html").read_bytes() == old
    assert "no such word" in (home / "build" / "book.log").read_text(encoding="utf-8")
