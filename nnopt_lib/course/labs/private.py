"""A teacher's own labs: in the class's folder, beside nobody's public repository."""

from __future__ import annotations

import re
from pathlib import Path

from nnopt_lib.checks import refuse
from nnopt_lib.course.chapters.source import Chapter
from nnopt_lib.files import write_atomically
from nnopt_lib.paths import project_root

TEMPLATE = Path(__file__).with_name("template.md")


def public_labs() -> dict[str, Chapter]:
    """The course's own labs by name, whose solutions everybody can read."""
    folder = project_root() / "chapters" / "labs"
    return {path.stem: Chapter(path.stem, path) for path in sorted(folder.glob("*.md"))}


def private_labs(folder: Path) -> dict[str, Chapter]:
    """The labs in ``labs/`` of a class's folder by name; refuses one called as one of the course's."""
    labs = {path.stem: Chapter(path.stem, path) for path in sorted((folder / "labs").glob("*.md"))}
    for name, lab in labs.items():
        if name in public_labs():
            rule = "a lab of your own must have another name than the course's labs"
            refuse(rule, str(lab.source), f"Call it {_free(name, folder)}.md.")
    return labs


def new_lab(name: str, folder: Path) -> Path:
    """Write ``labs/NAME.md`` into a class's folder: a small lab that works, to be made into another one."""
    if not re.fullmatch(r"[a-z][a-z0-9_-]{0,39}", name):
        rule = "a lab's name must be a small letter, then at most 39 small letters, digits and the signs - _"
        refuse(rule, repr(name), "As my-lab.")
    path = folder / "labs" / f"{name}.md"
    if name in public_labs():
        rule = "a lab of your own must have another name than the course's labs"
        refuse(rule, repr(name), f"As {_free(name, folder)}.")
    if path.exists():
        refuse("a new lab must not exist yet", str(path), "Edit it, or take another name.")
    if not TEMPLATE.is_file():  # it stays out of the wheel that students get
        refuse("a new lab is started from the course's checkout", f"no {TEMPLATE.name} beside the library")
    write_atomically(path, TEMPLATE.read_text(encoding="utf-8").replace("LABNAME", name))
    return path


def _free(name: str, folder: Path) -> str:
    """A name like `name` that nobody has: ``my-depth``, else ``my-my-depth``."""
    while name in public_labs() or (folder / "labs" / f"{name}.md").exists():
        name = f"my-{name}"
    return name
