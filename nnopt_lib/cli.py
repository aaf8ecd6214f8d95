"""The command `nnopt`: run, check, build the course; a failure is one line and a status other than 0."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from nnopt_lib.checks import NnoptError, check_choice, check_int, check_number, refuse
from nnopt_lib.course.chapters.commands import Names, results
from nnopt_lib.course.labs.commands import labs
from nnopt_lib.course.processes import ended_whole

app = typer.Typer(add_completion=False, rich_markup_mode=None)
app.add_typer(results, name="results")
app.add_typer(labs, name="labs")

Profile = Annotated[str, typer.Option(help="quick (seconds, few seeds) or published (what the book shows)")]
Jobs = Annotated[int, typer.Option(help="chapters at once; they share the cores")]


class _WithParameters(TyperCommand):
    """A command whose option -p takes two words, NAME and VALUE, as often as it is given.

    Typer refuses the annotation ``list[tuple[str, str]]`` that would say so, but its parser takes `nargs`
    together with `multiple`: the option is declared as a list of anything, and `nargs` set afterwards.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        (pairs,) = (option for option in self.params if "-p" in option.opts)
        pairs.nargs = 2


@app.callback()
def _global(
    debug: Annotated[bool, typer.Option("--debug", help="show the trace of a failure")] = False,
) -> None:
    """Run, check and build the course on smaller and better shaped neural networks.

    \b
    nnopt list                       what there is, and what is stale
    nnopt run 01 --profile quick     execute a chapter in seconds
    nnopt book                       execute what is stale, build the book
    nnopt COMMAND --help             the options of a command, with examples
    """


@app.command("list")
def list_chapters(profile: Profile = "published") -> None:
    """Print the chapters: number, state, last duration, title.

    \b
    nnopt list
    nnopt list --profile quick
    """
    from nnopt_lib.course.chapters.source import PROFILES, find_chapters
    from nnopt_lib.course.chapters.state import listed_state

    check_choice("profile", profile, PROFILES)
    # No tabulate, which needs all rows first: a line is printed as soon as its chapter has been looked at.
    # The other commands keep the width of this first column, so that their lines stand below these.
    for chapter in find_chapters():
        state = listed_state(chapter, profile)
        seconds = "" if state.duration_seconds is None else f"{state.duration_seconds:.1f} s"
        typer.echo(f"{chapter.name:24} {state.word:10} {seconds:>9}  {chapter.title}")


@app.command(cls=_WithParameters)
def run(
    chapters: Names = None,
    profile: Profile = "published",
    parameter: Annotated[
        list[Any] | None, typer.Option("-p", metavar="NAME VALUE", help="set a parameter; may be repeated")
    ] = None,
    jobs: Jobs = 1,
    save: Annotated[
        bool, typer.Option("--save", help="author: replace the committed notebook and rows")
    ] = False,
) -> None:
    """Execute chapters that are not fresh; outputs go to build/notebooks/PROFILE.

    \b
    nnopt run                            all chapters, as published
    nnopt run 01 02 --profile quick --jobs 2
    nnopt run 02 -p device cpu -p recompute true
    nnopt run 01 --save
    nnopt run 01 --save -p recompute true        also compute published rows anew, and replace them
    """
    from nnopt_lib.course.chapters.batch import run_chapters
    from nnopt_lib.course.chapters.source import find_chapters

    given = dict(parameter or [])
    for name in given:
        if "=" in name:  # no parameter's name has one; the next word, a chapter perhaps, went for its value
            refuse("a parameter must be given as -p NAME VALUE", f"-p {name}")
    profile = given.pop("profile", profile)
    check_int("--jobs", jobs, at_least=1)
    outcomes = run_chapters(find_chapters(chapters or []), profile, given, jobs=jobs, save=save)
    for name, outcome in outcomes.items():
        typer.echo(f"{name:24} {outcome}")


@app.command()
def check(chapters: Names = None, jobs: Jobs = 1) -> None:
    """Check chapters: source and notebook agree, the template is kept, nbval gets the stored outputs again.

    Without a name also the labs: the student copies are what their sources give.

    \b
    nnopt check
    nnopt check 01
    """
    from concurrent.futures import ThreadPoolExecutor

    from nnopt_lib.course.chapters.check import check_chapter
    from nnopt_lib.course.chapters.source import find_chapters
    from nnopt_lib.course.labs.sources import find_labs, lab_problems

    check_int("--jobs", jobs, at_least=1)
    sources = find_chapters(chapters or [])
    with ThreadPoolExecutor(jobs) as pool:  # each waits for a process of its own
        problems = list(pool.map(check_chapter, sources))
    # Looked for first, since find_labs refuses a course without a single lab.
    if not chapters and any(sources[0].source.parent.glob("labs/*.md")):
        student_labs = find_labs()
        sources, problems = [*sources, *student_labs], [*problems, *map(lab_problems, student_labs)]
    checked = list(zip(sources, problems, strict=True))
    for source, sentences in checked:
        typer.echo(f"{source.name:24} {'has problems' if sentences else 'ok'}")
    lines = [f"{source.name}: {sentence}" for source, sentences in checked for sentence in sentences]
    if lines:
        raise NnoptError("\n".join(lines))


@app.command()
def book(
    profile: Profile = "published",
    jobs: Jobs = 1,
    force: Annotated[bool, typer.Option("--force", help="build the pages even if nothing changed")] = False,
) -> None:
    """Build the book, from committed notebooks where nothing has changed since they were saved.

    A chapter that has changed is executed first, on published rows alone.

    \b
    nnopt book
    nnopt book --profile quick --jobs 2
    """
    from nnopt_lib.course.book.build import build_book
    from nnopt_lib.course.chapters.batch import run_chapters
    from nnopt_lib.course.chapters.source import find_chapters

    check_int("--jobs", jobs, at_least=1)
    chapters = find_chapters()
    outcomes = run_chapters(chapters, profile, jobs=jobs, published_rows=profile == "published")
    for name, outcome in outcomes.items():
        typer.echo(f"{name:24} {outcome}")
    # "stored" means that the committed notebook is fresh, and nothing was executed.
    notebooks = {
        chapter.name: chapter.notebook if outcomes[chapter.name] == "stored" else chapter.executed(profile)
        for chapter in chapters
    }
    typer.echo(f"The book is {build_book(notebooks=notebooks, profile=profile, force=force)}")


@app.command()
def figures(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME|NN]...", help="figures or chapters")
    ] = None,
    style: Annotated[str, typer.Option(help="screen or paper")] = "screen",
    width: Annotated[float | None, typer.Option(help="of the column, in inches")] = None,
    form: Annotated[str, typer.Option("--format", help="any of svg,pdf,png")] = "svg,pdf,png",
    out: Annotated[Path | None, typer.Option(help="folder; build/figures by default")] = None,
    last_run: Annotated[bool, typer.Option("--own", help="of your last run, not those published")] = False,
    only_list: Annotated[bool, typer.Option("--list", help="print the names and stop")] = False,
    verify: Annotated[
        Path | None, typer.Option(help="a folder drawn earlier: is it still what the code gives?")
    ] = None,
) -> None:
    """Draw figures again from the rows stored with them: one, a chapter's, or all.

    Beside each picture: its rows as CSV and as a LaTeX table, what its chapter cites as BibTeX, a manifest.

    \b
    nnopt figures --list
    nnopt figures 01-held-out --style paper --width 3.25 --format pdf --out figures
    nnopt figures --verify figures
    """
    from nnopt_lib.checks import nearest
    from nnopt_lib.results.figures import NARROWEST_INCHES, WIDEST_INCHES, list_figures, redraw

    if verify is not None:
        _verify_figures(verify)
        return
    known = list(list_figures())
    for name in names or []:
        if not _matching(name, known):
            refuse(
                f"there is no figure {name!r}",
                None,
                nearest(name, known) if known else "Run its chapter first.",
            )
    if width is not None:
        check_number("--width", width, at_least=NARROWEST_INCHES, below=WIDEST_INCHES)
    for name in [name for name in known if not names or any(_matching(text, [name]) for text in names)]:
        if not only_list:
            formats = tuple(form.split(","))
            redraw(name, style=style, width_inches=width, formats=formats, out=out, own=last_run)
        typer.echo(name)


def _verify_figures(folder: Path) -> None:
    from nnopt_lib.results.figures import verify

    verdicts = verify(folder)
    for file, verdict in verdicts.items():
        typer.echo(f"{file:40} {verdict}")
    outdated = [file for file, verdict in verdicts.items() if verdict != "same"]
    if outdated:
        rule = f"all files in {folder} must be what the rows give now"
        refuse(rule, f"{len(outdated)} that are not", "Draw again.")


def _matching(text: str, known: Sequence[str]) -> list[str]:
    """Figures called `text`, or those of the chapter with that number."""
    number = f"{text.zfill(2)}-" if text.isdigit() else None
    return [name for name in known if name == text or (number and name.startswith(number))]


@app.command()
def writeup(
    out: Annotated[Path | None, typer.Option(help="file; build/writeup/paper.pdf by default")] = None,
) -> None:
    """Build the paper in book/writeup from published rows, as PDF, without a network.

    Stops where a name in it is unknown, or where a row file is no longer the one that a number came from.

    \b
    nnopt writeup
    nnopt writeup --out paper.pdf
    """
    from nnopt_lib.course.writeup import build_writeup

    typer.echo(f"The paper is {build_writeup(out)}")


@app.command()
def env() -> None:
    """Print versions, hardware and data, and what was not found."""
    from nnopt_lib.course.labs.sandbox.bubblewrap import in_words
    from nnopt_lib.experiments.provenance import describe_environment

    for name, words in {**describe_environment(), "bubblewrap": in_words()}.items():
        typer.echo(f"{name:16} {words}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status and prints a failure as one line on stderr."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    # Taken out here, since the parser knows the options of nnopt before the command's name only.
    debug = "--debug" in words
    words = [word for word in words if word != "--debug"]
    try:
        with ended_whole() as ending:
            status = int(app(words or ["--help"], prog_name="nnopt", standalone_mode=False) or 0)
        return ending.status or status
    except Exception as error:
        if debug:
            traceback.print_exc()
        for line in _sentence(error).splitlines():
            typer.echo(f"nnopt: {line}", err=True)
        return getattr(error, "exit_code", 1)


def _sentence(error: Exception) -> str:
    if isinstance(error, NnoptError):
        return str(error)
    if hasattr(error, "format_message"):  # typer's own: an unknown command or option
        message = str(error.format_message()).rstrip(".")
        return f"{message}{'' if message.endswith('?') else '.'} See nnopt --help."
    what = " ".join(f"{type(error).__name__}: {error}".split())
    return f"unexpected {what}. Run it again with --debug for the trace."


if __name__ == "__main__":
    sys.exit(main())
