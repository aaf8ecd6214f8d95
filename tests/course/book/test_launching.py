"""Links that open a chapter to be run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from nnopt_lib.checks import NnoptError
from nnopt_lib.course.book.links import add_launch_links, repository

ROOT = Path(__file__).parents[3]
HEAD = "# Why?\n\n| time | hardware |\n|---|---|\n| a minute | any |\n\nText."
PLACE = "https://github.com/some/where"


def test_without_an_address_only_the_link_to_this_machine_stays() -> None:
    text = add_launch_links(HEAD, "09-magnitude", None)
    assert (
        "| any |\n\nRun it: [in JupyterLab on this machine](http://localhost:8888/lab/tree/chapters/09-"
        in text
    )
    assert "Colab" not in text and "Binder" not in text and text.endswith("\n\nText.")


def test_with_an_address_colab_and_binder_open_the_same_file() -> None:
    text = add_launch_links(HEAD, "09-magnitude", PLACE)
    assert "colab.research.google.com/github/some/where/blob/main/chapters/09-magnitude.ipynb)" in text
    assert "mybinder.org/v2/gh/some/where/main?urlpath=lab/tree/chapters/09-magnitude.ipynb)" in text


@pytest.mark.parametrize("notebook", sorted((ROOT / "chapters").glob("*.ipynb")), ids=lambda path: path.stem)
def test_every_chapter_gets_its_links(notebook: Path) -> None:
    first = "".join(json.loads(notebook.read_text(encoding="utf-8"))["cells"][0]["source"])
    assert f"lab/tree/chapters/{notebook.stem}.ipynb" in add_launch_links(first, notebook.stem, None)


def test_the_address_stands_in_one_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NNOPT_REPOSITORY", raising=False)
    assert repository(tmp_path) is None
    (tmp_path / "pyproject.toml").write_text(f'[project.urls]\nRepository = "{PLACE}.git"\n')
    assert repository(tmp_path) == PLACE
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
