"""Links that the book adds to its copies: to the glossary, and to where a chapter can be run."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from nnopt_lib.checks import NnoptError
from nnopt_lib.course.book import links
from nnopt_lib.course.book.links import add_launch_links, repository

ROOT = Path(__file__).parents[3]
TERMS = ["pruning", "weight pruning", "weight", "ReLU", "SGD"]


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("Pruning, pruning.", "{term}`Pruning <pruning>`, pruning."),
        (
            "Weight\npruning of weights.",
            "{term}`Weight pruning <weight pruning>` of {term}`weights <weight>`.",
        ),
        ("relu ReLU", "relu {term}`ReLU`"),
        ("`pruning` [pruning](a.md) $weight$\n", "`pruning` [pruning](a.md) $weight$\n"),
        ("# Pruning\n\n| pruning |\n\nPruning", "# Pruning\n\n| pruning |\n\n{term}`Pruning <pruning>`"),
        ("  ```python\n  SGD\n  ```\nSGD", "  ```python\n  SGD\n  ```\n{term}`SGD`"),
        ("See:\n\n    SGD = 1\n\nSGD", "See:\n\n    SGD = 1\n\n{term}`SGD`"),
        ("<details>\npruning\n\npruning", "<details>\npruning\n\n{term}`pruning`"),
        ("{term}`Pruning` and pruning", "{term}`Pruning` and pruning"),
        ("{term}`cuts <pruning>` and pruning", "{term}`cuts <pruning>` and pruning"),
        ("pruning-rate unpruning", "pruning-rate unpruning"),
    ],
)
def test_the_first_use_in_prose_is_linked(text: str, wanted: str) -> None:
    assert links.link_terms(text, TERMS, set()) == wanted


def test_a_term_is_linked_once_in_a_chapter() -> None:
    used: set[str] = set()
    links.link_terms("Pruning.", TERMS, used)
    assert used == {"pruning"}
    assert links.link_terms("Pruning a weight.", TERMS, used) == "Pruning a {term}`weight`."


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A project with the real chapters and pages, copied to `source` as the book does."""
    for folder in ("chapters", "book"):
        (tmp_path / "source" / folder).mkdir(parents=True)
        for file in (ROOT / folder).glob("*.ipynb" if folder == "chapters" else "*.md"):
            shutil.copy(file, tmp_path / "source" / folder)
    return tmp_path


def test_every_chapter_and_page_links_what_it_uses(home: Path) -> None:
    links.add_links(home / "source")
    terms = links.glossary_terms((ROOT / "book" / "glossary.md").read_text(encoding="utf-8"))
    assert len(terms) > 80
    texts = {
        file.name: "\n\n".join(
            "".join(cell["source"])
            for cell in json.loads(file.read_text(encoding="utf-8"))["cells"]
            if cell["cell_type"] == "markdown"
        )
        for file in (home / "source" / "chapters").glob("*.ipynb")
    } | {
        file.name: file.read_text(encoding="utf-8")
        for file in (home / "source" / "book").glob("*.md")
        if file.name not in links.UNLINKED_PAGES
    }
    assert len(texts) >= 14
    for name, text in texts.items():
        linked = re.findall(r"\{term\}`(?:[^`<]*<)?([^`>]+)>?`", text)
        # Looked for without the regular expression that skips: lines of plain words, with code and links cut out.
        plain = re.sub(
            r"^(`{3,}).*?^\1$|\{\w+:?\w*\}`[^`]*`|`[^`]*`|\[[^\]]*\]\([^)]*\)", "", text, flags=re.S | re.M
        )
        words = " ".join(line for line in plain.splitlines() if re.match(r"[A-Z][a-z ]", line))
        for term in ("sparsity", "pruning", "weight decay", "seed", "learning rate", "MAC"):
            if re.search(rf"(?<![\w-]){term}(?![\w-])", words):
                assert term.lower() in [one.lower() for one in linked], f"{name}: {term}"


# Where a chapter runs

HEAD = "# Why?\n\n| time | hardware |\n|---|---|\n| a minute | any |\n\nText."
ADDRESS = "https://github.com/some/where"


def test_without_an_address_only_the_link_to_this_machine_stays() -> None:
    text = add_launch_links(HEAD, "09-magnitude", None)
    assert (
        "| any |\n\nRun it: [in JupyterLab on this machine](http://localhost:8888/lab/tree/chapters/09-"
        in text
    )
    assert "Colab" not in text and "Binder" not in text and text.endswith("\n\nText.")


def test_with_an_address_colab_and_binder_open_the_same_file() -> None:
    text = add_launch_links(HEAD, "09-magnitude", ADDRESS)
    assert "colab.research.google.com/github/some/where/blob/main/chapters/09-magnitude.ipynb)" in text
    assert "mybinder.org/v2/gh/some/where/main?urlpath=lab/tree/chapters/09-magnitude.ipynb)" in text


@pytest.mark.parametrize("notebook", sorted((ROOT / "chapters").glob("*.ipynb")), ids=lambda path: path.stem)
def test_every_chapter_gets_its_links(notebook: Path) -> None:
    first = "".join(json.loads(notebook.read_text(encoding="utf-8"))["cells"][0]["source"])
    assert f"lab/tree/chapters/{notebook.stem}.ipynb" in add_launch_links(first, notebook.stem, None)


def test_the_address_comes_from_the_environment_or_else_from_the_project(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NNOPT_REPOSITORY", raising=False)
    assert repository(tmp_path) is None
    (tmp_path / "pyproject.toml").write_text(f'[project.urls]\nRepository = "{ADDRESS}.git"\n')
    assert repository(tmp_path) == ADDRESS
    monkeypatch.setenv("NNOPT_REPOSITORY", "https://github.com/other/place/")
    assert repository(tmp_path) == "https://github.com/other/place"


def test_an_address_elsewhere_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NNOPT_REPOSITORY", "ftp://example.org")
    with pytest.raises(NnoptError) as refusal:
        repository(tmp_path)
    assert str(refusal.value) == (
        "the repository's address must be https://github.com/OWNER/NAME; received ftp://example.org. "
        "Correct NNOPT_REPOSITORY or [project.urls] in pyproject.toml, or leave it out."
    )
