"""The command `nnopt labs`: hand labs out, take them in, grade, report; nbgrader works inside."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from nnopt_lib.checks import refuse
from nnopt_lib.course.labs.sandbox.sandbox import Limits, not_cut

labs = typer.Typer(rich_markup_mode=None, help="Give, collect and grade the labs of a class.")
Lab = Annotated[str, typer.Argument(metavar="NAME", help="a lab, as depth")]
Names = Annotated[list[str] | None, typer.Argument(metavar="[NAME]...", help="labs; all where none is named")]
CourseFolder = Annotated[Path, typer.Option("--course", help="the class's folder, as nbgrader knows it")]
HERE = Path("course")


@labs.command()
def release(
    names: Names = None,
    course: CourseFolder = HERE,
    due: Annotated[
        str,
        typer.Option(help='when they are due, as "2027-03-01 23:59" (here) or with a zone; none for no date'),
    ] = "",
    key: Annotated[
        str,
        typer.Option(metavar="WORD", help="the class's own word: other data and questions than elsewhere"),
    ] = "",
    force: Annotated[bool, typer.Option("--force", help="change the key of what was released")] = False,
    save: Annotated[bool, typer.Option("--save", help="author: write the committed student copies")] = False,
) -> None:
    """Make the student copy of labs, in a class's folder that is made where there is none.

    \b
    nnopt labs release --course optimization-2027
    nnopt labs release depth width --course optimization-2027 --key autumn-27
    nnopt labs release depth --due "2027-03-01 23:59 Europe/Berlin" --course optimization-2027
    nnopt labs release depth --save
    """
    from nnopt_lib.course.chapters.source import read_source
    from nnopt_lib.course.labs import sources as lab_sources
    from nnopt_lib.course.labs.course_key import choose_key, has_variants, key_of
    from nnopt_lib.course.labs.gradebook import make_course
    from nnopt_lib.course.labs.late import read_due, say_due
    from nnopt_lib.course.labs.progress import progress

    when = read_due(due) if due else None
    if save:
        if key or force or due:
            refuse(
                "committed student copies have no key and no due date",
                "--save with --key, --force or --due",
                "Leave out one of them.",
            )
        for lab in lab_sources.find_labs(names or []):
            typer.echo(f"{lab.name:16} {lab_sources.save_copy(lab)}")
        return
    to_release = lab_sources.find_labs(names or [], course)
    opened = make_course(course)
    if key:
        choose_key(opened.folder, key, force=force)
    with progress(len(to_release), "releasing") as bar:
        for lab in to_release:
            path = lab_sources.release(lab, opened)
            if due:
                opened.set_due(lab.name, when)
            alike = key_of(opened.folder) and not has_variants(read_source(lab))
            about = [str(path), *(["the same whatever the key"] if alike else [])]
            about += [f"due {say_due(when)}"] if when else []
            bar.clear()
            typer.echo(f"{lab.name:16} {', '.join(about)}")
            bar.update()


@labs.command()
def new(name: Lab, course: CourseFolder = HERE) -> None:
    """Start a lab of your own in the class's folder, from a small one that works.

    \b
    nnopt labs new my-lab --course optimization-2027
    nnopt labs release my-lab --course optimization-2027
    """
    from nnopt_lib.course.labs.gradebook import make_course
    from nnopt_lib.course.labs.private import new_lab

    opened = make_course(course)
    typer.echo(f"{new_lab(name, opened.folder)}: edit it, then nnopt labs release {name} --course {course}")


@labs.command()
def pack(
    name: Lab,
    course: Annotated[
        Path | None, typer.Option("--course", help="the class's folder: its notebook and key")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", metavar="FILE", help="the .zip file; NAME.zip")] = None,
) -> None:
    """Pack what a student needs: the notebook, the library's wheel and how to start, without any solution.

    \b
    nnopt labs pack depth --course optimization-2027
    nnopt labs pack depth --out handouts/depth.zip
    """
    from nnopt_lib.course.labs import pack as packing
    from nnopt_lib.course.labs.gradebook import open_course
    from nnopt_lib.course.labs.sources import find_labs

    opened = open_course(course) if course else None
    (lab,) = find_labs([name], course)
    typer.echo(str(packing.pack(lab, opened, out or Path(f"{name}.zip"))))


@labs.command()
def collect(
    name: Lab,
    handed_in: Annotated[Path, typer.Argument(metavar="FOLDER_OR_ZIP", help="what the students handed in")],
    course: CourseFolder = HERE,
) -> None:
    """Take in the notebooks of a class: a folder or .zip file with a file or a folder for each student.

    Who is who may stand in students.csv in the class's folder.

    \b
    nnopt labs collect depth downloads/depth.zip --course optimization-2027
    """
    from nnopt_lib.course.labs.collect import collect as collect_lab
    from nnopt_lib.course.labs.gradebook import open_course

    collected = collect_lab(open_course(course), name, handed_in)
    for note in collected.notes:
        typer.echo(note)
    in_section = sorted(collected.students.items(), key=lambda one: collected.sections.get(one[0], ""))
    for student, word in in_section:
        typer.echo(f"{student:32} {word:10} {collected.sections.get(student, '')}".rstrip())


@labs.command()
def grade(
    name: Lab,
    course: CourseFolder = HERE,
    jobs: Annotated[int, typer.Option(help="submissions at once; they share the cores")] = 2,
    seconds: Annotated[float, typer.Option(help="time for one submission")] = Limits.seconds,
    memory_gib: Annotated[float, typer.Option(help="memory for one submission")] = Limits.memory_gib,
    processes: Annotated[int, typer.Option(help="its processes and threads")] = Limits.processes,
    file_mib: Annotated[int, typer.Option(help="the largest file that it may write")] = Limits.file_mib,
    student: Annotated[
        list[str] | None, typer.Option(help="grade this one, again if need be; may be repeated")
    ] = None,
) -> None:
    """Grade what was collected and is not graded yet, each submission in a sandbox of its own.

    \b
    nnopt labs grade depth --course optimization-2027
    nnopt labs grade depth --course optimization-2027 --student ada --seconds 300
    """
    from nnopt_lib.course.labs.grade import grade as grade_lab
    from nnopt_lib.course.labs.gradebook import open_course

    limits = Limits(seconds, memory_gib, processes, file_mib)
    opened = open_course(course)
    if cuts := not_cut():
        typer.echo(f"bubblewrap does not work here, so submissions are not kept from: {'; '.join(cuts)}.")
    failures = grade_lab(opened, name, limits, jobs=jobs, students=student or [])
    for name_of_student, failure in sorted(failures.items()):
        typer.echo(f"{name_of_student:32} {failure or 'graded'}")
    typer.echo(f"{len(failures)} graded now, {len(opened.students(name)) - len(failures)} before")


@labs.command()
def report(
    name: Lab,
    course: CourseFolder = HERE,
    tests: Annotated[
        str, typer.Option(help="in the students' pages, hidden tests stay hidden or are shown")
    ] = "hidden",
) -> None:
    """Write points as CSV, a page of feedback for each student, and print the table of the class.

    \b
    nnopt labs report depth --course optimization-2027
    nnopt labs report depth --course optimization-2027 --tests shown
    """
    from nnopt_lib.course.labs.gradebook import open_course
    from nnopt_lib.course.labs.report import report as report_lab

    typer.echo(report_lab(open_course(course), name, tests), nl=False)
