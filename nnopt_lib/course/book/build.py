"""The built book: a clean source folder, filled from what exists, and Jupyter Book run on it."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nnopt_lib.checks import NnoptError, refuse
from nnopt_lib.course.book.links import add_launch_links, add_links, repository
from nnopt_lib.course.book.pages import fill
from nnopt_lib.course.book.sources import check_sources
from nnopt_lib.course.chapters.source import Chapter
from nnopt_lib.course.chapters.state import read_note
from nnopt_lib.files import write_atomically, writing
from nnopt_lib.paths import build_folder, chapters_folder, project_root, results_folder
from nnopt_lib.results.seals import read_published_json, read_status

RENDERERS = ("jupyter-book", "myst-nb", "Sphinx", "sphinx-book-theme", "sphinxcontrib-bibtex")


def build_book(*, notebooks: Mapping[str, Path], profile: str = "published", force: bool = False) -> Path:
    """Build the book around executed notebooks and return the path of its first page, `index.html`.

    `notebooks` maps a chapter's stem (``"02-cost"``) to its .ipynb file, executed in `profile`, whose records
    of runs fill the pages on status and claims; for a committed notebook these are the published ones.
    Nothing is executed here;
    when nothing that the book is made of has changed since the last build, nothing is built, unless `force`.
    Refuses a chapter that `book/_toc.yml` does not list, pages that would render broken without a warning
    (`check_sources` names them all), and a build with warnings: it names the first ones,
    leaves the previous book in place and keeps the whole output in `build/book.log`.
    Example: ``build_book(notebooks={"02-cost": Path("build/notebooks/published/02-cost.ipynb")})``.
    """
    from filelock import FileLock

    root, build = project_root(), build_folder()
    site, record = root / "book" / "_build", build / "book.json"
    for stem, notebook in notebooks.items():
        if not notebook.is_file():
            rule = f"chapter {stem} must be executed before the book is built"
            refuse(rule, None, f"Run nnopt run {stem[:2]}.")
    with writing(record):
        record.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(build / "book.lock"), writing(site):
        source = build / "book-src"
        _assemble(root, notebooks, profile, source)
        check_sources(source)
        # The programs count too: another version of the theme makes other pages of the same source.
        made_of = _digest(source, *(f"{name}=={importlib.metadata.version(name)}" for name in RENDERERS))
        index = site / "html" / "index.html"
        # The pages are hashed as well, so that a book that somebody edited or half deleted is built again.
        if force or not index.is_file() or _read_json(record) != _made(made_of, site):
            _replace_site(source, site, build)
            write_atomically(record, json.dumps(_made(made_of, site), indent=1) + "\n")
    return index


def _made(source_hash: str, site: Path) -> dict[str, str]:
    """What is noted of a build: the hash of what it was made of, and of the pages that came of it."""
    return {"source": source_hash, "html": _digest(site / "html")}


def _replace_site(source: Path, site: Path, build: Path) -> None:
    """Build apart, and only a book without warnings takes the place of the one before."""
    for left_over in build.glob("book-out*"):  # of builds that were killed
        shutil.rmtree(left_over, ignore_errors=True)
    # A name of its own, since the Sphinx of a command that was killed may still be writing to the last one.
    fresh = build / f"book-out-{uuid.uuid4().hex[:8]}"
    _run_jupyter_book(source, fresh, log=build / "book.log")
    pages, arriving, leaving = site / "html", site / "html.new", site / "html.old"
    for folder in (arriving, leaving):
        shutil.rmtree(folder, ignore_errors=True)
    site.mkdir(parents=True, exist_ok=True)
    shutil.move(fresh / "_build" / "html", arriving)  # perhaps from another disk, which takes its time
    if pages.exists():
        pages.rename(leaving)
    arriving.rename(pages)
    shutil.rmtree(leaving, ignore_errors=True)
    shutil.rmtree(fresh)


def _assemble(root: Path, notebooks: Mapping[str, Path], profile: str, source: Path) -> None:
    """Fill `source` with what the book is made of, and nothing else.

    Pages and chapters keep the places they have in the repository (`book/`, `chapters/`), so that a link
    which is right in JupyterLab or on a repository's web page is right in the book too.
    """
    import yaml

    book = root / "book"
    shutil.rmtree(source, ignore_errors=True)
    (source / "book").mkdir(parents=True)
    (source / "chapters").mkdir()
    shutil.copy(book / "_config.yml", source)
    shutil.copytree(book / "_static", source / "_static")
    shutil.copytree(book / "vendor", source / "vendor", ignore=shutil.ignore_patterns("README.md"))
    for page in [*book.glob("*.md"), *book.glob("*.bib")]:
        shutil.copy(page, source / "book")
    address = repository(root)
    for stem, notebook in notebooks.items():
        _copy_with_links(notebook, stem, address, source / "chapters")
    # Parts and chapters that do not exist yet stand in book/_toc.yml as a plan, which Sphinx would refuse.
    titles = {stem: _title(Path(notebook)) for stem, notebook in notebooks.items()}
    contents = _table_of_contents(yaml.safe_load((book / "_toc.yml").read_text(encoding="utf-8")), titles)
    toc = yaml.safe_dump(contents, sort_keys=False, allow_unicode=True)
    (source / "_toc.yml").write_text(toc, encoding="utf-8")
    runs = {stem: _record_of_run(stem, Path(notebook), profile) for stem, notebook in notebooks.items()}
    claims = {  # of this very run where they are known, else those published with the repository
        stem: run.get("claims") or _published_claims(stem) for stem, run in runs.items()
    }
    for page in (source / "book").glob("*.md"):
        page.write_text(fill(page, titles, runs, claims), encoding="utf-8")
    add_links(source)


def _copy_with_links(notebook: Path, stem: str, address: str | None, folder: Path) -> None:
    content = json.loads(notebook.read_text(encoding="utf-8"))
    first = content["cells"][0]
    first["source"] = add_launch_links("".join(first["source"]), stem, address)
    (folder / f"{stem}.ipynb").write_text(json.dumps(content), encoding="utf-8")


def _record_of_run(stem: str, notebook: Path, profile: str) -> dict[str, Any]:
    """What is known of the run that made `notebook`: the published record where it is the committed one."""
    if notebook.resolve().parent != chapters_folder().resolve():
        return read_note(Chapter(stem, chapters_folder() / f"{stem}.md"), profile)
    saved = read_status().get(stem)
    origin = ("versions", "hardware", "commit")
    return {**saved, "provenance": {name: saved[name] for name in origin}} if saved else {}


def _published_claims(stem: str) -> list[dict[str, Any]]:
    file = results_folder() / "claims" / f"{stem}.json"
    return list(read_published_json(file)) if file.is_file() else []


def _table_of_contents(planned: dict[str, Any], titles: Mapping[str, str]) -> dict[str, Any]:
    """The planned contents without missing chapters and empty parts; chapters get their titles."""
    listed = {Path(entry["file"]).name for part in planned["parts"] for entry in part["chapters"]}
    for stem in titles:
        if stem not in listed:
            refuse(
                "every chapter must stand in book/_toc.yml",
                f"{stem!r}, which does not",
                f"Add `- file: chapters/{stem}` to its part.",
            )
    parts = []
    for part in planned["parts"]:
        entries = []
        for entry in part["chapters"]:
            folder, stem = Path(entry["file"]).parts
            if folder != "chapters":
                entries.append(entry)
            elif stem in titles:
                entries.append({**entry, "title": f"{stem[:2]} · {titles[stem]}"})
        if entries:
            parts.append({**part, "chapters": entries})
    return {**planned, "parts": parts}


def _title(notebook: Path) -> str:
    """The first heading of a notebook."""
    for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"]:
        heading = re.search(r"^# +(.+?)\s*$", "".join(cell["source"]), flags=re.MULTILINE)
        if cell["cell_type"] == "markdown" and heading:
            return heading[1]
    refuse("a chapter must have a title, a markdown line beginning with `# `", notebook.name)


def _run_jupyter_book(source: Path, output: Path, log: Path) -> None:
    """Run Jupyter Book as a process of its own (it changes global state), keeping what it prints in `log`."""
    # Version 1 has no `python -m jupyter_book`, and a script in the path may belong to another Python.
    program = "from jupyter_book.cli.main import main; main()"
    command = [sys.executable, "-c", program, "build", str(source), "--path-output", str(output)]
    command += ["-W", "-n", "--keep-going"]  # warnings fail, broken references too, but all are collected
    environment = {**os.environ, "NO_COLOR": "1", "PYTHONIOENCODING": "utf-8"}
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    run = subprocess.run(command, env=environment, text=True, encoding="utf-8", **pipes)
    printed = re.sub(r"\x1b\[[0-9;]*m", "", run.stdout)  # colors, which not every part of it leaves out
    write_atomically(log, printed)
    problems = [line for line in printed.splitlines() if re.search(r"\b(WARNING|ERROR|CRITICAL):", line)]
    warnings = [line.replace(f"{source}/", "") for line in problems]
    if run.returncode == 0 and not warnings and (output / "_build" / "html" / "index.html").is_file():
        return
    count = f"{len(warnings)} warning{'s'[: len(warnings) != 1]}"
    count = count if warnings else "no warning, but Jupyter Book failed"
    first = " | ".join(" ".join(line.split()) for line in warnings[:3] or printed.splitlines()[-3:])
    raise NnoptError(
        f"The book must build without a warning; received {count}: {first} "
        f"The whole output is in build/{log.name}; the previous book was left in place."
    )


def _digest(folder: Path, *also: str) -> str:
    """A hash over every file below `folder`, names and contents, and the strings `also`."""
    total = hashlib.sha256("\n".join(also).encode())
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        total.update(f"{file.relative_to(folder).as_posix()}\n".encode())
        total.update(hashlib.sha256(file.read_bytes()).digest())
    return total.hexdigest()


def _read_json(path: Path) -> Any:
    """What a JSON file holds, None where it is missing or unreadable."""
    with contextlib.suppress(OSError, json.JSONDecodeError):
        return json.loads(path.read_text(encoding="utf-8"))
    return None
