"""What would render broken without a word from Sphinx is named before it runs; the real book has none."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from nnopt_lib.checks import NnoptError
from nnopt_lib.course.book import build as book
from nnopt_lib.course.book.sources import check_sources, source_problems
from nnopt_lib.course.chapters.source import find_chapters

ROOT = Path(__file__).parents[3]
SQUARE = "data:image/png;base64,AA=="
DETAILS = "<details>\n<summary>Solution</summary>\n\nSo.\n\n</details>\n"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """An assembled book with no page yet, and one picture beside its pages."""
    for name in ("_static", "vendor"):
        shutil.copytree(ROOT / "book" / name, tmp_path / name)
    shutil.copy(ROOT / "book" / "_config.yml", tmp_path)
    for name in ("book", "chapters"):
        (tmp_path / name).mkdir()
        shutil.copy(tmp_path / "_static" / "logo.svg", tmp_path / name / "logo.svg")
    return tmp_path


def write_cells(source: Path, *texts: str, **cell: object) -> None:
    """Chapter 01 with these markdown cells, after one of code that looks broken and is not read."""
    cells = [{"cell_type": "code", "source": "$$ ![ <details>"}]
    cells += [{"cell_type": "markdown", "source": text, **cell} for text in texts]
    (source / "chapters" / "01-first.ipynb").write_text(json.dumps({"cells": cells}), encoding="utf-8")


BROKEN = [
    # Pictures
    ("![a](no.png)", "the picture no.png is not in the book"),
    ("![a]()", "the picture without an address is not in the book"),
    ("![a](https://example.org/a.png)", "the picture https://example.org/a.png is not in the book"),
    ("![a](attachment:a.png)", "the picture attachment:a.png is not in the book"),
    ("```{image} no.png\n```", "the picture no.png is not in the book"),
    ("```{figure} no.png\n:alt: a\n\nWords.\n```", "the picture no.png is not in the book"),
    ("![a](my logo.svg)", "“![a](my logo.svg)” has a picture whose address cannot be read"),
    ("![a][logo]", "“![a][logo]” has a picture whose address cannot be read"),
    ("<img src='no.png'>", "no.png, of an HTML tag, is not in the book's _static/"),
    # Sphinx copies what markdown names, and nothing that HTML names.
    ("a <img src='logo.svg'> b", "logo.svg, of an HTML tag, is not in the book's _static/"),
    ("<img alt='a'>", "a picture without an address, of an HTML tag, is not in the book's _static/"),
    # Fences
    ("```python\na", "```python is not closed"),
    ("~~~\na\n```", "~~~ is not closed"),
    ("```python\na\n\nWords.\n\n```python\nb\n```", "```python is not closed"),
    ("- a\n\n  ```python\n  b\n\nWords.", "```python is not closed"),
    (":::{note}\na", ":::{note} is not closed"),
    ("a\n\n:::\n\nb", "::: is not closed"),
    # HTML
    ("<details>\n<summary>a</summary>\n\nb", "<details> is not closed"),
    ("<details>\n<summary>a\n\nb\n\n</details>", "<summary> is not closed"),
    ("a\n\n</details>", "</details> closes what nothing has opened"),
    ("a</summary>", "</summary> closes what nothing has opened"),
    ("<details/>", "<details> is not closed"),
    ("```{note}\n:class: tip\n<details>\n```\n\n</details>", "<details> is not closed"),
    ("<!-- a\n\nWords.", "<!-- that nothing closes"),
    # Formulas
    (r"$\foo$", r"the formula $\foo$ has \foo, which MathJax does not know"),
    ("# A $\\foo$", r"the formula $\foo$ has \foo, which MathJax does not know"),
    ("$$\n\\foo\n$$", r"the formula $\foo$ has \foo, which MathJax does not know"),
    ("a $$\\foo$$ b", r"the formula $\foo$ has \foo, which MathJax does not know"),
    ("$$\n\\foo\n$$ (name)", r"the formula $\foo$ has \foo, which MathJax does not know"),
    ("{math}`\\foo`", r"the formula $\foo$ has \foo, which MathJax does not know"),
    ("```{math}\n:label: a\n\\foo\n```", r"the formula $\foo$ has \foo, which MathJax does not know"),
    ("| a |\n|---|\n| $\\foo$ |", r"the formula $\foo$ has \foo, which MathJax does not know"),
    ("::::{grid}\n:::{grid-item-card} a\n$\\foo$\n:::\n::::", r"the formula $\foo$ has \foo, which MathJax does not know"),
    ("\\begin{align}\\foo\\end{align}", r"the formula $\begin{align}\foo\end{align}$ has \foo, which MathJax does not know"),
    ("\\begin{align}\na", "“\\begin{align} a” has \\begin that no \\end closes, or of an environment that needs $$"),
    ("$$\na\n\nb", "“$$ a” has $$ that nothing closes"),
    ("It costs $5.", "“It costs $5.” has $ that nothing closes"),
    ("Let \\(x\\) be.", "“Let \\(x be.” has \\( that begins no formula here, where $ does"),
    # Other signs that are left over
    ("a `b", "“a `b” has ` that nothing closes"),
    ("[a](b c.md)", "“[a](b c.md)” has a link whose address cannot be read"),
    ("[a][b]", "“[a][b]” has a link whose address is not defined"),
    ("a[^1]", "“a[^1]” has a footnote that is not defined"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "problem"), BROKEN)
def test_a_page_and_a_cell_that_render_broken_are_named(source: Path, text: str, problem: str) -> None:
    (source / "book" / "page.md").write_text(f"# A page\n\n{text}\n", encoding="utf-8")
    write_cells(source, "# What?", text)
    problems = list(source_problems(source))
    assert (
        f"book/page.md: {problem}" in problems and f"chapters/01-first.ipynb, cell 3: {problem}" in problems
    )


@pytest.mark.parametrize(
    "text",
    [
        DETAILS,
        f"1. a\n\n{DETAILS}",
        "![a](logo.svg) ![b](../book/logo.svg) ![c](/_static/logo.svg)",
        f"![a]({SQUARE}) <img src='{SQUARE}'> <img src='../_static/logo.svg'>",
        "```{figure} logo.svg\n:alt: a\n\nWords with $x$.\n```",
        "```python\n$ ![a](b) <details> `\n```",
        "````md\n```python\na\n```\n````",
        "> ```\n> a\n> ```\n\n- b\n\n  ~~~\n  c\n  ~~~",
        "    ```python",
        "`<details>`, ``a ` b``, `$`, `![a](b)` and `$$`",
        "It costs \\$5 and \\`, \\!\\[a\\](b c), \\\\ and <https://example.org/$>.",
        "<div><p>a<br><svg viewBox='0 0 1 1'><path d='M0'/></svg></div> <!-- <details> $ -->",
        r"$\newcommand{\foo}{a}$ and then $\foo$",
        "[a][b] and [c][]\n\n[b]: page.md\n[c]: page.md",
        "a[^1]\n\n[^1]: b",
        "```{code-block} python\n:caption: a\n![a](b\n```",
        ":::{note}\n```python\na\n```\n:::",
        "Weights\n: $x$",
    ],
)
def test_what_renders_well_is_no_problem(source: Path, text: str) -> None:
    (source / "book" / "page.md").write_text(f"---\ntitle: a\n---\n\n# A page\n\n{text}\n", encoding="utf-8")
    write_cells(source, "# What?", text)
    assert list(source_problems(source)) == []


def test_a_cell_has_its_own_attachments_and_closes_its_own_details(source: Path) -> None:
    write_cells(source, "![a](attachment:a.png)", attachments={"a.png": {"image/png": ""}})
    assert list(source_problems(source)) == []
    write_cells(source, "<details>", "</details>")  # JupyterLab and the book put each cell into a box
    assert list(source_problems(source)) == [
        "chapters/01-first.ipynb, cell 2: <details> is not closed",
        "chapters/01-first.ipynb, cell 3: </details> closes what nothing has opened",
    ]


def test_a_macro_is_known_where_the_page_or_the_configuration_defines_it(source: Path) -> None:
    write_cells(source, r"$\newcommand{\foo}{a}$", r"$\foo$")
    (source / "book" / "page.md").write_text("# A page\n\n$\\foo$\n", encoding="utf-8")
    problem = r"book/page.md: the formula $\foo$ has \foo, which MathJax does not know"
    assert list(source_problems(source)) == [problem]  # what a chapter defines is of no other page
    config = source / "_config.yml"
    macros = '    mathjax3_config:\n      tex: {macros: {foo: "a"}}\n'
    config.write_text(re.sub(r" +mathjax3_config:\n", macros, config.read_text(encoding="utf-8")))
    assert list(source_problems(source)) == []


def test_all_problems_are_one_refusal(source: Path) -> None:
    check_sources(source)
    (source / "book" / "a.md").write_text("```\n", encoding="utf-8")
    with pytest.raises(NnoptError) as refusal:
        check_sources(source)
    assert str(refusal.value) == (
        "The book must have no page that renders broken; received 1 problem: book/a.md: ``` is not closed. "
        "The previous book was left in place."
    )
    (source / "book" / "b.md").write_text("<details>\n\n![a](b.png)\n", encoding="utf-8")
    with pytest.raises(NnoptError) as refusal:
        check_sources(source)
    assert str(refusal.value) == (
        "The book must have no page that renders broken; received 3 problems: book/a.md: ``` is not closed | "
        "book/b.md: the picture b.png is not in the book | book/b.md: <details> is not closed. "
        "The previous book was left in place."
    )


def test_the_build_stops_before_sphinx(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root, ran = tmp_path / "home", []
    shutil.copytree(ROOT / "book", root / "book", ignore=shutil.ignore_patterns("_build"))
    (root / "chapters").mkdir()
    for page in ("questions", "play"):  # these need what all chapters have published
        (root / "book" / f"{page}.md").write_text(f"# The page {page}\n", encoding="utf-8")
    with (root / "book" / "errata.md").open("a", encoding="utf-8") as page:
        page.write("\n<details>\n")
    monkeypatch.setenv("NNOPT_HOME", str(root))
    monkeypatch.delenv("NNOPT_BUILD", raising=False)
    monkeypatch.setattr(book, "_run_jupyter_book", lambda *arguments, **options: ran.append(arguments))
    with pytest.raises(NnoptError) as refusal:
        book.build_book(notebooks={})
    assert ran == [] and str(refusal.value) == (
        "The book must have no page that renders broken; received 1 problem: book/errata.md: "
        "<details> is not closed. The previous book was left in place."
    )


def test_the_real_book_has_no_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NNOPT_HOME", str(ROOT))
    monkeypatch.setenv("NNOPT_BUILD", str(tmp_path / "build"))
    notebooks = {chapter.name: chapter.notebook for chapter in find_chapters()}
    book._assemble(ROOT, notebooks, "published", tmp_path / "source")
    assert len(list((tmp_path / "source" / "chapters").glob("*.ipynb"))) == len(notebooks) > 9
    assert list(source_problems(tmp_path / "source")) == []
