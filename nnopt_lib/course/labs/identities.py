"""Which student each notebook belongs to: by the roster, by what was collected before, else by its name."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Sequence

from nnopt_lib.course.labs.gradebook import Course
from nnopt_lib.course.labs.platforms import Place
from nnopt_lib.course.labs.roster import Person, Roster, clean_name, origins

Key = tuple[str, str]  # platform and number there; or nothing, and the name


class Identities:
    """Students of one collection; who shares a name with another is told apart by the platform's number."""

    def __init__(self, course: Course, lab: str, roster: Roster, notes: list[str]) -> None:
        self.lab, self.roster, self.notes = lab, roster, notes
        # Without case, since macOS and Windows would put Ada and ada into one folder.
        folders = sorted(path.name for path in course.folder.glob("submitted/*") if path.is_dir())
        self.folders = {name.casefold(): name for name in folders}
        self.apart: dict[str, list[tuple[str, str]]] = defaultdict(list)  # by the name that they share
        self.before: dict[Key, str] = {}  # students by platform and number, this lab's last
        self.here: dict[Key, str] = {}  # in this lab alone
        self.numbers: dict[str, set[Key]] = defaultdict(set)  # those that a folder is known to belong to
        found = sorted(origins(course), key=lambda one: one[0] == lab)
        for of_lab, student, origin in found:
            key = (str(origin.get("platform", "")), str(origin.get("platform_id", "")))
            if key[1]:
                self.before[key] = student
                if of_lab == lab:
                    self.here[key] = student
                # A student has one number on Canvas, and another for each assignment on Moodle.
                if of_lab == lab or key[0] != "moodle":
                    self.numbers[student.casefold()].add(key)

    def students(self, places: Sequence[Place]) -> dict[str, list[Place]]:
        """The places of each student's notebooks; a name that says nobody is noted."""
        groups: dict[Key, list[Place]] = defaultdict(list)
        for place in places:
            if clean_name(place.called):
                groups[_key(place)].append(place)
            else:
                self.notes.append(
                    f"{place.path} does not say whose it is and was left out; call it STUDENT.ipynb"
                )
        people = self._people(groups)
        unlisted = [key for key in groups if key not in people]
        called = {key: clean_name(groups[key][0].called).casefold() for key in unlisted}
        sharing = Counter(called[key] for key in unlisted if key[0])
        shown: dict[str, str] = {}
        result: dict[str, list[Place]] = defaultdict(list)
        for key, group in groups.items():
            if key in people:
                student = people[key].id
                self._note_person(people[key], key)
            else:
                student = self._unlisted(key, group[0], sharing[called[key]] > 1)
            result[shown.setdefault(student.casefold(), student)] += group
        self.notes += list(map(_note_namesakes, self.apart.items()))
        return dict(result)

    def _people(self, groups: dict[Key, list[Place]]) -> dict[Key, Person]:
        """Who of the roster each group is; without those who only share a name with one of another number."""
        people: dict[Key, Person] = {}
        for key, group in groups.items():
            if person := self.roster.find(group[0].called, group[0].platform_id):
                people[key] = person
        by_person: dict[tuple[str, str], list[Key]] = defaultdict(list)
        for key, person in people.items():
            if key[0]:
                by_person[person.id, key[0]].append(key)
        for keys in by_person.values():
            if len(keys) > 1:
                for key in keys:
                    if key[1] not in people[key].platform_ids:
                        del people[key]
        return people

    def _note_person(self, person: Person, key: Key) -> None:
        if person.dropped:
            self.notes.append(f"{person.id} is dropped in students.csv, and was taken in all the same")
        before = self.here.get(key, person.id)
        if before.casefold() != person.id.casefold():
            place = f"submitted/{before}/{self.lab}"
            self.notes.append(f"{person.id} was taken in as {before!r} before; remove the folder {place}")
        others = {one[1] for one in self.numbers[person.id.casefold()] if one[0] == key[0]} - {key[1]}
        if key[0] and others and key[1] not in person.platform_ids:
            numbers = ", ".join(sorted(others))
            self.notes.append(
                f"{person.id} came with the number {key[1]}, and with {numbers} before; if these are two "
                "people, write a line for each into students.csv, with the number as platform id"
            )

    def _unlisted(self, key: Key, place: Place, shared: bool) -> str:
        """What a student is called who is not in the roster, or whose line there cannot be told."""
        name = clean_name(place.called)
        student = self.folders.get(name.casefold(), name)
        namesakes = self.roster.namesakes(place.called)
        if key[0] and key in self.before:
            student = self.before[key]
        elif key[0] and (shared or namesakes or self._is_anothers(student, key)):
            student = clean_name(f"{name} {key[1]}")
            self.apart[name].append((student, key[1]))
        elif unicodedata.normalize("NFC", place.called) != name:
            self.notes.append(f"{place.path}: the student {place.called!r} is called {student!r} here")
        if namesakes and not key[0]:
            ids = ", ".join(one.id for one in namesakes)
            self.notes.append(
                f"{place.path} may be of any of {ids}; call it by one of these and collect again"
            )
        elif self.roster.people and not namesakes:
            remedy = "add a line, or an alias to one, and collect again"
            self.notes.append(f"{student} is not in students.csv and was taken in all the same; {remedy}")
        return student

    def _is_anothers(self, student: str, key: Key) -> bool:
        """Whether a folder is known to be of somebody with another number, or its name of several."""
        if any(one[0] == key[0] and one != key for one in self.numbers[student.casefold()]):
            return True
        split = re.compile(rf"{re.escape(student)} \w+", re.IGNORECASE)
        return any(
            split.fullmatch(one) and one.endswith(f" {number}") for (_, number), one in self.before.items()
        )


def _key(place: Place) -> Key:
    if place.platform_id:
        return place.platform, place.platform_id
    return "", unicodedata.normalize("NFC", place.called).casefold()


def _note_namesakes(apart: tuple[str, list[tuple[str, str]]]) -> str:
    name, students = apart
    folders = " and ".join(repr(student) for student, _ in students)
    numbers = " or ".join(number for _, number in students)
    several = (
        f"{len(students)} students are called {name!r} and were"
        if len(students) > 1
        else f"another student is called {name!r} and was"
    )
    remedy = f"to name them, write a line for each into students.csv, with {numbers} as platform id"
    return f"{several} taken in as {folders}; {remedy}"
