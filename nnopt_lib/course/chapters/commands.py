"""The commands `nnopt results`: stored and published rows listed, verified on this machine, cleared away."""

from __future__ import annotations

from typing import Annotated

import typer

from nnopt_lib.checks import NnoptError, check_choice, check_number

results = typer.Typer(rich_markup_mode=None, help="Look after stored and published rows.")

Names = Annotated[
    list[str] | None, typer.Argument(metavar="[NN]...", help="chapters; all where none is named")
]


@results.command("list")
def list_results() -> None:
    """Print the experiments, with the number of their records in the store and published."""
    from nnopt_lib.experiments.records import count_records

    for experiment, (stored, published) in count_records().items():
        typer.echo(f"{experiment:32} {stored:6} stored {published:6} published")


@results.command()
def verify(
    chapters: Names = None,
    tolerance: Annotated[float, typer.Option(help="allowed difference, relative or absolute")] = 0.01,
    profile: Annotated[
        str, typer.Option(help="quick (a sample of runs) or published (all runs and claims; long)")
    ] = "quick",
    save: Annotated[
        bool, typer.Option("--save", help="author: keep what was seen for the book's page on machines")
    ] = False,
) -> None:
    """Compute rows anew on this machine and compare with the published ones of the same runs, except times.

    Goes through all chapters, then fails with a line for each experiment that differs.

    \b
    nnopt results verify
    nnopt results verify 01 --tolerance 0.001
    nnopt results verify 01 --profile published --save
    """
    from nnopt_lib.course.chapters.source import PROFILES, find_chapters
    from nnopt_lib.course.chapters.verify import problems, save_report, summary, verify_chapter

    check_number("--tolerance", tolerance, at_least=0)
    check_choice("profile", profile, PROFILES)
    lines = []
    for chapter in find_chapters(chapters or []):
        report = verify_chapter(chapter, tolerance, profile)
        typer.echo("\n".join(summary(report)))
        lines += problems(report)
        if save and report.runs:
            typer.echo(f"{'':24} kept in {save_report(report)}")
    if lines:
        raise NnoptError("\n".join(lines))


@results.command()
def prune(
    older_than_days: Annotated[
        float | None, typer.Option(help="also remove all records older than this")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="only print what would be removed")] = False,
) -> None:
    """Remove from the local store what is published too, set aside as damaged, or left by killed runs.

    \b
    nnopt results prune --dry-run
    nnopt results prune --older-than-days 30
    """
    from nnopt_lib.experiments import records as store

    if older_than_days is not None:
        check_number("--older-than-days", older_than_days, at_least=0)
    removed = store.clean(older_than_days, dry_run)
    for path in removed:
        typer.echo(path)
    typer.echo(f"{len(removed)} files {'would be ' if dry_run else ''}removed")
