"""Run several chapters: refuse what is wrong first, skip what is fresh, tell all failures together."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from nnopt_lib.checks import NnoptError, refuse
from nnopt_lib.course.chapters.prepare import Prepared, prepare
from nnopt_lib.course.chapters.run import is_fresh, run_chapter
from nnopt_lib.course.chapters.save import save_chapter
from nnopt_lib.course.chapters.source import Chapter
from nnopt_lib.course.chapters.state import committed_is_fresh
from nnopt_lib.experiments.records import check_writable
from nnopt_lib.paths import build_folder

# What the libraries of arithmetic read when they are loaded; joblib sets the same for its own processes.
THREADS = ("OMP", "MKL", "OPENBLAS", "NUMEXPR", "BLIS")
THREADS_VARIABLES = (*(f"{name}_NUM_THREADS" for name in THREADS), "VECLIB_MAXIMUM_THREADS")


def run_chapters(
    chapters: Sequence[Chapter],
    profile: str = "published",
    given: Mapping[str, str] | None = None,
    *,
    jobs: int = 1,
    save: bool = False,
    published_rows: bool = False,
) -> dict[str, str]:
    """Execute what is not fresh, `jobs` chapters at once, each kernel with its share of the cores.

    With `published_rows`, as for the book, no other rows may be read, and a chapter whose committed notebook
    is fresh is not executed at all. With `save` what is committed is replaced; of all parameters only
    `recompute` may then be set. All are tried; then the failures are raised together, one line each.
    Returns, for every chapter, ``executed``, ``fresh`` or ``stored``.
    """
    given, outcomes = dict(given or {}), {}
    for chapter in chapters:  # all names and types, before anything is started
        prepared = prepare(chapter, profile, given)
        if save:
            _check_can_be_saved(prepared, given)
        outcomes[chapter.name] = "" if save else _skipped(prepared, profile, published_rows)
    # Each prepares its chapter again when its turn comes, under its lock: hours may have passed, and what was
    # edited or published meanwhile shall be executed, not what stood in the source at the start.
    stale = [chapter for chapter in chapters if not outcomes[chapter.name]]
    if stale:
        check_writable(build_folder())  # one sentence, and not one for each chapter
    jobs = max(1, min(jobs, len(stale)))
    # Threads, since each only waits for its kernel, which is a process: one process to end, not a tree.
    with _shared_cores(jobs), ThreadPoolExecutor(jobs) as pool:
        outcomes |= dict(pool.map(lambda one: _try_chapter(one, profile, given, save, published_rows), stale))
    failures = [word for word in outcomes.values() if word not in ("executed", "fresh", "stored")]
    if failures:
        raise NnoptError("\n".join(failures))
    return outcomes


def _skipped(prepared: Prepared, profile: str, published_rows: bool) -> str:
    """Why a chapter need not be executed, ``stored`` or ``fresh``; empty where it must be."""
    if published_rows and committed_is_fresh(prepared.chapter):
        return "stored"
    return "fresh" if is_fresh(prepared, profile, published_rows) else ""


def _check_can_be_saved(prepared: Prepared, given: Mapping[str, str]) -> None:
    """Refuse what would publish other numbers than those of the source's parameters."""
    values = {name: prepared.parameters[name] for name in given}
    if prepared.profile != "published" or values not in ({}, {"recompute": True}):
        rule = "only the published profile with its own parameters, or with -p recompute true, can be saved"
        refuse(rule, f"{prepared.profile} {dict(given)}")


def _try_chapter(
    chapter: Chapter, profile: str, given: Mapping[str, str], save: bool, published_rows: bool
) -> tuple[str, str]:
    try:
        if save:
            save_chapter(chapter, recompute=bool(given))
            return chapter.name, "executed"
        executed = run_chapter(chapter, profile, given, published_rows=published_rows)
        return chapter.name, "executed" if executed else "fresh"
    except NnoptError as error:
        return chapter.name, str(error)


@contextlib.contextmanager
def _shared_cores(jobs: int) -> Iterator[None]:
    """Let each of `jobs` kernels that start meanwhile use its share of the cores; what a user set stays."""
    import joblib

    share = str(max(1, joblib.cpu_count() // jobs))  # of those that a container gives, unlike os.cpu_count
    names = [name for name in THREADS_VARIABLES if jobs > 1 and name not in os.environ]
    os.environ.update(dict.fromkeys(names, share))
    try:
        yield
    finally:
        for name in names:
            os.environ.pop(name, None)
