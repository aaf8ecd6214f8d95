"""Whose a notebook is, by its place among the files: what Moodle, Canvas and people make of names.

Moodle: a folder ``Ada Lovelace_201_assignsubmission_file_`` (without the last sign since version 4.1), or a
file that begins so where no folders were asked for; 201 is a number of this student in this assignment.
Canvas: ``lovelaceada_LATE_12_345_depth-1.ipynb``: the sortable name run together in small letters, whether it
was late, the numbers of the student and of the file, the file's own name.
"""

from __future__ import annotations

import dataclasses
import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import PurePosixPath

from nnopt_lib.course.labs.roster import Roster, fits, name_key

MOODLE = re.compile(r"(?P<name>.+?)(?:_(?P<id>\d+))?_assignsubmission_[a-z]+(?:_(?P<file>.*))?", re.I | re.S)
CANVAS = re.compile(r"(?P<name>.+?)(?P<late>_LATE)?_(?P<id>\d+)_(?P<number>\d+)_(?P<file>.+)", re.S)
CANVAS_NAMELESS = re.compile(
    r"(?P<late>LATE_)?(?P<name>anon_(?P<id>[A-Za-z0-9]+))_(?P<number>\d+)_(?P<file>.+)", re.S
)
NOTEBOOK = re.compile(r"\.ipynb(\.txt|\.json)?$", re.IGNORECASE)  # browsers add the last
SECTION = re.compile(
    r"(section|group|class|tutorial|seminar|gruppe|klasse|übung|groupe|classe|grupo|sección|turno)"
    r"([\s_-]+\w{1,12}|\d{1,3}\w?)|\w{1,6}[班组]",
    re.IGNORECASE,
)
COPY = r"(?: ?\(\d+\)|-Copy\d*| - Copy(?: ?\(\d+\))?| copy(?: \d+)?)"


@dataclasses.dataclass(frozen=True)
class Place:
    """A notebook's place and what it says; `number` grows with every file that Canvas takes in."""

    path: PurePosixPath
    called: str
    place: str
    platform: str = ""
    platform_id: str = ""
    section: str = ""
    late: bool = False
    number: int = 0
    file: str = ""  # its own name, as the student had it


def is_notebook(path: PurePosixPath) -> bool:
    """Whether a file is called as a notebook."""
    return bool(NOTEBOOK.search(path.name))


def read_places(
    lab: str, paths: Sequence[PurePosixPath], roster: Roster, other_labs: Sequence[str] = ()
) -> list[Place]:
    """What the places of notebooks say, in the order of `paths`."""
    places: list[Place | None] = [_on_platform(path, roster) for path in paths]
    names = defaultdict(set)
    for place in places:
        if place and place.platform == "canvas":
            names[place.platform_id].add(place.called.casefold())
    # One number with several names is no student's: ada_2026_11_depth.ipynb, bo_2026_11_depth.ipynb.
    several = {number for number, called in names.items() if len(called) > 1}
    around = {place.section for place in places if place}
    shared = len(around) == 1 and not any(map(SECTION.fullmatch, around))  # the download's own folder
    for k, place in enumerate(places):
        if place and place.platform_id in several and place.platform == "canvas":
            place = dataclasses.replace(place, platform="", platform_id="", number=0, late=False)
        if place and (shared and place.section in place.path.parts or fits(place.section, place.called)):
            place = dataclasses.replace(place, section="")
        places[k] = place
    plain = [path for path, place in zip(paths, places, strict=True) if place is None]
    by_path = _by_people(lab, plain, roster, other_labs)
    return [place or by_path[path] for path, place in zip(paths, places, strict=True)]


def attachment_number(place: str) -> int:
    """Canvas's number of a file, by its name; 0 where it is none of Canvas's."""
    found = CANVAS_NAMELESS.fullmatch(place) or CANVAS.fullmatch(place)
    return int(found["number"]) if found else 0


def _on_platform(path: PurePosixPath, roster: Roster) -> Place | None:
    found = CANVAS_NAMELESS.fullmatch(path.name) or CANVAS.fullmatch(path.name)
    folder = path.parent.name
    if found and not any(map(MOODLE.fullmatch, path.parts)):
        kind = ("canvas", found["id"])
        late, attachment = bool(found["late"]), int(found["number"])
        return Place(path, found["name"], path.name, *kind, folder, late, attachment, found["file"])
    for depth, part in enumerate(path.parts):
        if found := MOODLE.fullmatch(part):
            name, number = found["name"], found["id"] or ""
            if name.casefold() == "participant" and number:  # graded without names
                name = f"{name} {number}"
            section = path.parts[depth - 1] if depth else ""
            if not roster.find(name, number):  # versions before 4 put the group before the name
                for dash in re.finditer("-", name):
                    if roster.find(name[dash.end() :]):
                        section, name = name[: dash.start()], name[dash.end() :]
                        break
            own = (found["file"] or path.name) if part == path.name else path.name
            return Place(path, name, part, "moodle", number, section, file=own)
    return None


def _by_people(
    lab: str, paths: list[PurePosixPath], roster: Roster, other_labs: Sequence[str]
) -> dict[PurePosixPath, Place]:
    """Places that no platform named: a folder or a file for each student, perhaps in one for each section."""
    common, parts = _without_common_folder(paths)
    around = common if SECTION.fullmatch(common) else ""
    sections = _sections(lab, parts)
    result = {}
    for path, names in zip(paths, parts, strict=True):
        folders, own = names[:-1], student_in(lab, names[-1], other_labs)
        known = [k for k, folder in enumerate(folders) if roster.find(folder)]
        if known:
            called, section = folders[known[0]], folders[known[0] - 1] if known[0] else around
        elif own and folders and roster.find(own):
            called, section = own, folders[-1]
        elif folders and (folders[0] in sections or SECTION.fullmatch(folders[0])) and (folders[1:] or own):
            called, section = folders[1] if folders[1:] else own, folders[0]
        else:
            called, section = folders[0] if folders else own, around
        place = called if called in folders else path.name
        result[path] = Place(path, called, place, section=section, file=path.name)
    return result


def _without_common_folder(paths: list[PurePosixPath]) -> tuple[str, list[tuple[str, ...]]]:
    """The last folder that all paths share, and their parts below it; one path alone keeps its folder."""
    parts, common = [path.parts for path in paths], ""
    while len(parts) > 1 and min(map(len, parts)) > 1 and len({one[0] for one in parts}) == 1:
        common, parts = parts[0][0], [one[1:] for one in parts]
    return common, parts


def _sections(lab: str, parts: list[tuple[str, ...]]) -> set[str]:
    """The outermost folders, where each holds students' folders or files rather than one student's."""
    inside: dict[str, set[str]] = defaultdict(set)
    depths = {len(names) for names in parts}
    for names in parts:
        if len(names) > 2:
            inside[names[0]].add(names[1])
        elif len(names) == 2:
            inside[names[0]].add(student_in(lab, names[1]) if is_lab_in(lab, names[1]) else "")
    all_names = [name_key(name) for students in inside.values() for name in students]
    named = all(name and name != name_key(lab) for name in all_names)
    apart = len(set(all_names)) == len(all_names)  # else parts of one student's work: ada/part1, bo/part1
    if len(depths) == 1 and named and apart and any(len(students) > 1 for students in inside.values()):
        return set(inside)
    return set()


def is_lab_in(lab: str, file: str) -> bool:
    """Whether the lab's name stands in a file's name, as a word."""
    return bool(re.search(rf"(?:^|[\s_-]){re.escape(lab)}(?:[\s_.(-]|$)", file, re.IGNORECASE))


def student_in(lab: str, file: str, other_labs: Sequence[str] = ()) -> str:
    """Whose a file is by its name, without the lab's and what browsers and Jupyter add."""
    stem = re.sub(rf"{COPY}+$", "", NOTEBOOK.sub("", file).strip())
    for one in (lab, *other_labs):
        whole = re.sub(rf"(?<={re.escape(one)})-\d+$", "", stem, flags=re.IGNORECASE)  # Canvas counts so
        if whole.lower() == one.lower():
            return ""
        cut = re.sub(rf"^{re.escape(one)}[\s_-]+|[\s_-]+{re.escape(one)}$", "", whole, flags=re.IGNORECASE)
        if cut != whole:
            return cut
    return stem


def copy_number(lab: str, file: str) -> int | None:
    """Which copy of the lab a file is: 0 for depth.ipynb, 1 for depth-1.ipynb or "depth (1).ipynb".

    None for another name, and for copies that Jupyter made: nobody knows in which the student went on.
    """
    stem = NOTEBOOK.sub("", file).strip()
    found = re.fullmatch(rf"{re.escape(lab)}(?:-(\d+)| ?\((\d+)\))?", stem, re.IGNORECASE)
    return int(found[1] or found[2] or 0) if found else None


def is_called_as(lab: str, file: str) -> bool:
    """Whether a file is called as the lab, perhaps as a copy of it."""
    stem = NOTEBOOK.sub("", file).strip()
    return bool(re.fullmatch(rf"{re.escape(lab)}(-\d+|{COPY})*", stem, re.IGNORECASE))
