"""Pages of the book that are filled from records when it is built."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from nnopt_lib.checks import NnoptError
from nnopt_lib.course.book import pages

ROOT = Path(__file__).parents[3]
RESULTS = ROOT / "chapters" / "results"
CLAIMS = {
    file.stem: json.loads(file.read_text(encoding="utf-8")) for file in (RESULTS / "claims").glob("*.json")
}


def page(folder: Path, text: str) -> Path:
    (folder / "page.md").write_text(text, encoding="utf-8")
    return folder / "page.md"


def test_a_claim_stands_with_its_verdict_and_its_chapter(tmp_path: Path) -> None:
    claims = {
        "01-a": [{"id": "so", "kind": "claim", "sentence": "So it is: +1.", "verdict": "holds"}],
        "02-b": [{"id": "no", "kind": "claim", "sentence": "Not so.", "verdict": "does not hold"}],
    }
    text = "- <!-- nnopt:claim 01-a/so -->\n- <!-- nnopt:claim 02-b/no -->\n<!-- a comment -->"
    titles = {"01-a": "A?", "02-b": "B?"}
    assert pages.fill(page(tmp_path, text), titles, {}, claims) == (
        "- So it is: +1. *(holds; [chapter 01](../chapters/01-a.ipynb))*\n"
        "- Not so. *(**does not hold**; [chapter 02](../chapters/02-b.ipynb))*\n<!-- a comment -->"
    )


def test_links_lead_to_chapters_that_exist_and_are_words_else(tmp_path: Path) -> None:
    text = "[one](../chapters/01-a.md), [two](../chapters/02-b.ipynb), [three](../chapters/01-a.ipynb)"
    assert pages.fill(page(tmp_path, text), {"01-a": "A?"}, {}, {}) == (
        "[one](../chapters/01-a.ipynb), two, [three](../chapters/01-a.ipynb)"
    )


@pytest.mark.parametrize(
    ("mark", "sentence"),
    [
        (
            "claim 01-a/sow",
            "book/page.md tells a claim that no chapter has recorded; received '01-a/sow'. Did you mean '01-a/so'?",
        ),
        (
            "legder",
            "book/page.md has a mark that nothing answers to; received legder. Did you mean 'ledger'?",
        ),
    ],
)
def test_what_no_record_answers_to_fails_the_build_by_name(tmp_path: Path, mark: str, sentence: str) -> None:
    claims = {"01-a": [{"id": "so", "kind": "claim", "sentence": "So.", "verdict": "holds"}]}
    with pytest.raises(NnoptError) as error:
        pages.fill(page(tmp_path, f"<!-- nnopt:{mark} -->"), {}, {}, claims)
    assert str(error.value) == sentence


def test_every_page_of_the_book_is_filled_from_what_is_published() -> None:
    titles = {stem: stem for stem in CLAIMS}
    for file in (ROOT / "book").glob("*.md"):
        assert "<!-- nnopt:" not in pages.fill(file, titles, {}, CLAIMS)


def test_the_questions_page_types_no_result_by_hand() -> None:
    text = (ROOT / "book" / "questions.md").read_text(encoding="utf-8")
    prose = re.sub(r"<!--.*?-->|^```.*?^```|\(chapters?[^)]*\)", "", text, flags=re.S | re.M)
    assert re.findall(r"[\d.]*\d+ ?%|\d+\.\d+", prose) == []
    assert len(re.findall(r"^## .+\?$", prose, flags=re.M)) == 7
