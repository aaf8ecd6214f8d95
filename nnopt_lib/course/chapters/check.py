"""Check chapters: source and committed notebook agree, the template is kept, outputs come out again."""

from __future__ import annotations

import os
import re
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from nnopt_lib.checks import NnoptError
from nnopt_lib.course.chapters.kernel import kernel_environment
from nnopt_lib.course.chapters.prepare import Prepared, prepare
from nnopt_lib.course.chapters.source import Chapter
from nnopt_lib.experiments.records import PUBLISHED_ROWS_ONLY
from nnopt_lib.results.seals import seal_problems

# Words of the template's headings, in their order; a heading may say more.
SECTIONS = ("learn", "idea", "hand", "experiment", "fails", "claims", "exercises", "summary", "sources")
PARAMETERS = {"profile": "published", "recompute": False, "device": "auto"}
MEDIAN_LINES, LONGEST_LINES = 5, 30
CELL_TIMEOUT_SECONDS = 600
FAILURES = ("failure", "error", "skipped")  # tags of a report's tests that did not pass


def check_chapter(chapter: Chapter, run: bool = True) -> list[str]:
    """What is wrong with a chapter, one line each; nbval runs the notebook only where the rest is right."""
    try:
        prepared = prepare(chapter, profile=None)  # a parameter that is missing is one of the problems
        source, problems = prepared.notebook, list(_template_problems(prepared))
        if not chapter.notebook.is_file():
            return [
                *problems,
                f"{chapter.notebook.name} is missing; nnopt run {chapter.number} --save makes it",
            ]
        notebook = _read_notebook(chapter.notebook)
        problems += [*_disagreements(source, notebook), *_output_problems(notebook)]
        broken = seal_problems(chapter.name)
    except NnoptError as error:
        return [str(error)]
    remedy = f"take it from version control or run nnopt run {chapter.number} --save"
    seals = {line: f"{line}; {remedy}" for line in broken}
    problems += [words for line, words in seals.items() if not line.startswith(chapter.notebook.name)]
    problems = problems if problems or not run else list(nbval_problems(chapter.notebook))
    # Last, since what else is wrong with a notebook says more than that it was edited.
    return problems or list(seals.values())


def _read_notebook(path: Path) -> Any:
    import nbformat

    try:
        return nbformat.read(path, as_version=4)
    except (OSError, ValueError, nbformat.ValidationError) as error:
        raise NnoptError(f"{path} is not a readable notebook: {str(error).splitlines()[0]}.") from error


def _disagreements(source: Any, notebook: Any) -> Iterator[str]:
    """Where the MyST source and the committed notebook differ, cell by cell."""
    if len(source.cells) != len(notebook.cells):
        yield f"the notebook has {len(notebook.cells)} cells, its source {len(source.cells)}"
    for number, (cell, committed) in enumerate(zip(source.cells, notebook.cells, strict=False), start=1):
        if _content(cell) != _content(committed):
            yield f"cell {number} of the notebook differs from its source: {_first_line(cell.source)!r}"
            return  # one cell too many makes all the following differ


def _content(cell: Any) -> tuple[str, str, list[str]]:
    return cell.cell_type, cell.source.strip(), sorted(cell.metadata.get("tags", []))


def _first_line(text: str) -> str:
    return text.strip().splitlines()[0] if text.strip() else ""


def _template_problems(prepared: Prepared) -> Iterator[str]:
    source = prepared.notebook
    prose = "\n\n".join(cell.source for cell in source.cells if cell.cell_type == "markdown")
    code = [cell.source for cell in source.cells if cell.cell_type == "code"]
    title = _first_line(source.cells[0].source if source.cells else "")
    if not re.fullmatch(r"# .+\?", title):
        yield f"the first line must be a title that asks a question; it is {title!r}"
    missing = [name for name, value in PARAMETERS.items() if prepared.defaults.get(name) != value]
    if missing:
        wanted = ", ".join(f"{name} = {PARAMETERS[name]!r}" for name in missing)
        yield f"the parameters cell must say {wanted}"
    yield from _section_problems(prose)
    if not any("claim(" in text for text in code):
        yield "no conclusion is recorded with claim(...)"
    if "<details>\n<summary>Solution" not in prose:  # HTML: collapsed in JupyterLab and in the book alike
        yield "no exercise has a collapsed solution (<details> with <summary>Solution)"
    lengths = [len(text.strip().splitlines()) for text in code]
    if lengths and statistics.median(lengths) > MEDIAN_LINES:
        yield f"code cells have a median of {statistics.median(lengths):g} lines; {MEDIAN_LINES} are allowed"
    for text, length in zip(code, lengths, strict=True):
        if length > LONGEST_LINES:
            yield f"a code cell has {length} lines, {LONGEST_LINES} are allowed: {_first_line(text)!r}"
    yield from _picture_problems(prose)


def _section_problems(prose: str) -> Iterator[str]:
    headings = [heading.lower() for heading in re.findall(r"^#{2,3} (.+)$", prose, re.MULTILINE)]
    start = 0
    for word in SECTIONS:
        position = next((n for n, heading in enumerate(headings[start:], start) if word in heading), None)
        if position is None:
            late = any(word in heading for heading in headings)
            yield f"a section whose heading has the word {word!r} " + (
                "stands too early" if late else "is missing"
            )
        else:
            start = position + 1


def _picture_problems(prose: str) -> Iterator[str]:
    for target in re.findall(r"!\[\s*\]\(([^)]*)\)", prose):
        yield f"picture {target} has no alternative text"
    for target, options in re.findall(r"^`{3,}\{(?:image|figure)\} *(\S+)\n(.*?)^`{3,}", prose, re.M | re.S):
        if not re.search(r"^:alt: *\S", options, re.MULTILINE):
            yield f"picture {target} has no alternative text"


def _output_problems(notebook: Any) -> Iterator[str]:
    """What stored outputs must not be: an error, absent (nbval compares nothing), a figure unexplained."""
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    for number, cell in enumerate(cells, start=1):
        if cell.source.strip() and cell.execution_count != number:
            yield f"code cell {number} was not executed in order (it says {cell.execution_count})"
        for output in cell.outputs:
            if output.output_type == "error":
                yield f"code cell {number} shows an error: {output.ename}"
            data = output.get("data", {})
            words = data.get("text/plain", "").strip()
            if any(kind.startswith("image/") for kind in data) and (not words or re.match(r"<[\w.]+", words)):
                yield f"the figure of code cell {number} has no alternative text"


def nbval_problems(notebook: Path) -> Iterator[str]:
    """What pytest with nbval says of a committed notebook, executed in a process and a kernel of its own.

    It reads published rows alone, so that what a machine has computed for itself decides nothing.
    An expected failure (nbval's mark on all cells after a timeout) and a skipped cell count as problems too.
    """
    with tempfile.TemporaryDirectory() as folder:
        done, cases = _run_nbval(notebook, Path(folder))
    failures = [case for case in cases if any(case.find(tag) is not None for tag in FAILURES)]
    for case in failures:
        yield _nbval_sentence(case)
    # pytest itself failed, before any cell: all there is to quote is its last line.
    if not failures and (done.returncode != 0 or not cases):
        yield f"nbval could not run: {(done.stderr or done.stdout).strip().splitlines()[-1:]}"


def _run_nbval(
    notebook: Path, folder: Path
) -> tuple[subprocess.CompletedProcess[str], list[ElementTree.Element]]:
    """Run pytest with nbval in `folder`, alone with the notebook: no settings or plugins of others.

    Returns the process that ended, and the tests of its report.
    """
    report, settings = folder / "report.xml", folder / "pytest.ini"
    settings.write_text("[pytest]\n")  # the project's own settings are for its unit tests
    # pytest takes a path apart at a bracket, which may stand in the project's.
    (folder / "chapters").symlink_to(notebook.parent.resolve())
    # -P: a module in the current folder, such as pytest.py, is none of ours.
    command = [sys.executable, "-P", "-m", "pytest", "-p", "nbval.plugin", "--nbval", "--nbval-current-env"]
    command += ["--noconftest", "-c", str(settings), "--rootdir", str(folder), "-p", "no:cacheprovider"]
    command += [f"--nbval-cell-timeout={CELL_TIMEOUT_SECONDS}", "--color=no", f"--junitxml={report}"]
    command += [f"chapters/{notebook.name}"]
    # What a notebook draws and claims while it is checked replaces nothing of one's own runs.
    apart = {
        **PUBLISHED_ROWS_ONLY,
        "NNOPT_BUILD": str(folder / "build"),
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
    }
    others = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    environment = {**others, **kernel_environment(), **apart}
    pipes: dict[str, Any] = {"capture_output": True, "text": True, "stdin": subprocess.DEVNULL}
    done = subprocess.run(command, cwd=folder, env=environment, **pipes)
    cases = list(ElementTree.parse(report).iter("testcase")) if report.is_file() else []
    return done, cases


def _nbval_sentence(case: ElementTree.Element) -> str:
    """One line from nbval's report; it counts code cells from 0, we count from 1."""
    number = re.search(r"\d+$", case.get("name", ""))
    cell = f"code cell {int(number[0]) + 1}" if number else "the notebook"
    result = next(child for child in case if child.tag in FAILURES)
    text = re.sub(r"\x1b\[[0-9;]*m|#x1B\[[0-9;]*m", "", result.text or result.get("message") or "")
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    compared = [line.strip() for line in text.partition("test_output failed:")[2].splitlines()]
    stored = next((line[2:] for line in compared if line.startswith("+ ")), None)
    computed = next((line[2:] for line in compared if line.startswith("- ")), None)
    if "Cell outputs differ" in text and stored is not None and computed is not None:
        return f"{cell}: the stored output says {stored!r}, executing it gives {computed!r}"
    fields = next((line for line in lines if line.startswith(("Unexpected output", "Missing output"))), "")
    reason = next(
        (line.partition(": ")[2] for line in lines if re.match(r"Cell \d+: ", line)),
        lines[0] if lines else "",
    )
    if "caused an exception" in reason:
        reason = f"{reason}: {lines[-1]}"
    return f"{cell}: {fields or reason}"
