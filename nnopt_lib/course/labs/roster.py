"""Who is in the class: ``students.csv``, and whose a name is that a platform or a student wrote.

The file is the teacher's and is optional. Names are compared without case, accents, apostrophes, commas and
the order of words, so that "Lovelace, Ada", "ADA LOVELACE " and Canvas's "lovelaceada" are one student.
"""

from __future__ import annotations

import csv
import dataclasses
import difflib
import functools
import io
import json
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Literal

from nnopt_lib.checks import refuse
from nnopt_lib.files import hash_of

if TYPE_CHECKING:
    from pathlib import Path

    from nnopt_lib.course.labs.gradebook import Course

ROSTER = "students.csv"
COLUMNS = ("id", "name", "aliases", "section", "platform id", "status")
LONGEST_NAME = 120  # bytes, since a folder is called so
LARGEST = 5 * 2**20  # of a roster
# Letters that Unicode does not take apart into a plain letter and a mark.
PLAIN = str.maketrans(
    {"ø": "o", "ł": "l", "đ": "d", "ð": "d", "ħ": "h", "ı": "i", "æ": "ae", "œ": "oe", "þ": "th"}
)
SPELLED_OUT = str.maketrans({"ä": "ae", "ö": "oe", "ü": "ue", "å": "aa", "ø": "oe"})


@dataclasses.dataclass(frozen=True)
class Person:
    """One line of the roster; `id` is what the student's folder is called."""

    id: str
    name: str
    aliases: tuple[str, ...] = ()
    section: str = ""
    platform_ids: tuple[str, ...] = ()
    dropped: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        """All that this student may be called."""
        return (self.id, self.name, *self.aliases)


@dataclasses.dataclass(frozen=True)
class Roster:
    """The students of a class; empty where the teacher keeps no file."""

    people: tuple[Person, ...] = ()

    def find(self, name: str, platform_id: str = "") -> Person | None:
        """Who has this platform id, else who is called so; None where it is nobody or cannot be told."""
        if platform_id:
            for person in self.people:
                if platform_id in person.platform_ids:
                    return person
        for person in self.people:
            if person.id.casefold() == _nfc(name).casefold():
                return person
        fitting = [one for one in self.people if any(map(_key_of(name), one.names))]
        if not fitting:  # words run together, as Canvas writes them, only where nothing closer fits
            fitting = [one for one in self.people if any(fits(name, own) for own in one.names)]
        return fitting[0] if len(fitting) == 1 else None

    def namesakes(self, name: str) -> list[Person]:
        """All who may be called so."""
        return [one for one in self.people if any(fits(name, own) for own in one.names)]


def _key_of(name: str) -> Any:
    key = name_key(name)
    return lambda other: bool(key) and name_key(other) == key


@functools.lru_cache(maxsize=10_000)  # every name of a class is compared with every other
def name_key(text: str) -> str:
    """A name as it is compared: no case, no accents, letters and digits only, its words sorted.

    Example:
        >>> name_key("Lovelace, Ada"), name_key("ADA  lovelace "), name_key("Seán O'Brien")
        ('ada lovelace', 'ada lovelace', 'obrien sean')
    """
    return " ".join(sorted(_words(text)))


def fits(one: str, other: str) -> bool:
    """Whether two texts are the same name; also where words were run together or umlauts spelled out.

    Example:
        >>> fits("lovelaceada", "Ada Lovelace"), fits("Mueller", "müller"), fits("Ada", "Ada Lovelace")
        (True, True, False)
    """
    key = name_key(one)
    return bool(key) and (key == name_key(other) or not _run_together(one).isdisjoint(_run_together(other)))


def _words(text: str, spelled_out: bool = False) -> list[str]:
    text = _nfc(text).casefold()
    text = text.translate(SPELLED_OUT) if spelled_out else text
    letters = (one for one in unicodedata.normalize("NFKD", text) if not unicodedata.combining(one))
    text = "".join(letters).casefold().translate(PLAIN)
    # Only signs that are written inside a word: the rest, as a comma or a hyphen, parts two words.
    text = re.sub(r"['’‘`´ʼʻ′]", "", text)
    return re.findall(r"[^\W_]+", text)


@functools.lru_cache(maxsize=10_000)
def _run_together(text: str) -> frozenset[str]:
    """The words without spaces, from whichever of them one starts: given names first, or the family name."""
    written = [_words(text), _words(text, spelled_out=True)]
    return frozenset("".join(words[k:] + words[:k]) for words in written for k in range(len(words)))


def whose(course: Course, lab: str, student: str, typed: str) -> Literal["own", "another's", "nobody's"]:
    """Whose name a student typed into the notebook that was handed in as `student`.

    It is the student's own where it fits the id, the name, an alias, or what the platform called them, and
    also where it is a part of these, as a given name, that fits nobody else.
    """
    if not isinstance(typed, str) or not name_key(typed):
        return "nobody's"
    roster = read_roster(course)
    own = _names_of(course, lab, student, roster)
    if any(fits(typed, name) for name in own):
        return "own"
    others = [one for one in course.students(lab) if one != student]
    names = [_names_of(course, lab, one, roster) for one in others]
    names += [set(one.names) for one in roster.people if one.id != student and not own & {one.id}]
    if any(fits(typed, name) for other in names for name in other):
        return "another's"
    partly = [any(_is_part(typed, name) for name in one) for one in (own, *names)]
    return "own" if partly[0] and not any(partly[1:]) else "nobody's"


def _names_of(course: Course, lab: str, student: str, roster: Roster) -> set[str]:
    origin = collected_as(course, lab, student)
    person = roster.find(student, origin.get("platform_id", ""))
    names = {student, origin.get("called", ""), *(person.names if person else ())}
    return names - {""}


def _is_part(typed: str, name: str) -> bool:
    """Whether `typed` is some of the words of a name, or either end of one that Canvas ran together."""
    if set(_words(typed)) <= set(_words(name)):
        return True
    words = _words(name)
    if len(words) > 1 or words != [name]:  # Canvas's names are small letters without a space
        return False
    return any(len(one) > 2 and (name.startswith(one) or name.endswith(one)) for one in _run_together(typed))


def collected_as(course: Course, lab: str, student: str) -> dict[str, str]:
    """Where a student's notebook of a lab came from, as collecting wrote it; empty where it did not."""
    return _read_origin(origin_path(course, lab, student))


def origin_path(course: Course, lab: str, student: str) -> Path:
    """The file that says where a student's notebook of a lab came from."""
    return course.folder / "collected" / lab / f"{student}.json"


def origins(course: Course, lab: str = "*") -> Iterator[tuple[str, str, dict[str, str]]]:
    """Lab, student and origin of all that was collected."""
    for path in sorted(course.folder.glob(f"collected/{lab}/*.json")):
        if origin := _read_origin(path):
            yield path.parent.name, path.stem, origin


def _read_origin(path: Path) -> dict[str, Any]:
    try:
        origin = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}  # of a course collected before origins were kept, or by nbgrader
    return origin if isinstance(origin, dict) else {}


def read_roster(course: Course) -> Roster:
    """The class of ``students.csv``; empty without one. A wrong line is refused by its number."""
    path = course.folder / ROSTER
    if not path.is_file():
        return Roster()
    lines = ((number, cells) for number, cells in _rows(path) if any(cell.strip() for cell in cells))
    where, header = next(lines, (1, []))
    places = _columns(f"{path}, line {where}", header)
    people: list[Person] = []
    used: dict[str, int] = {}
    for number, cells in lines:
        if any(cell.strip() for cell in cells):
            line = f"{path}, line {number}"
            person = _person(line, cells, places, len(header))
            for what in (
                f"id {person.id.casefold()}",
                *(f"platform id {one}" for one in person.platform_ids),
            ):
                if what in used:
                    rule = f"{line}: each student must have an id and platform ids of their own"
                    refuse(rule, f"{what}, which line {used[what]} has")
                used[what] = number
            people.append(person)
    return Roster(tuple(people))


def _rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """The cells of each line with its number, whatever signs and letters the spreadsheet used."""
    with open(path, "rb") as file:
        content = file.read(LARGEST + 1)
    if len(content) > LARGEST:
        refuse(f"{path} must be a roster", f"more than {LARGEST // 2**20} MiB")
    text = _text_of(path, content)
    skipped = int(text[:4].lower() == "sep=")  # a line for Excel alone
    text = "".join(text.splitlines(keepends=True)[skipped:])
    first = next((line for line in text.splitlines() if line.strip(" ,;\t")), "")
    delimiter = max(",;\t", key=first.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    while True:
        number = reader.line_num + skipped + 1  # of the line on which a row begins
        try:
            yield number, next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            refuse(f"{path}, line {number} must be a line of a CSV file", str(error))


def _text_of(path: Path, content: bytes) -> str:
    """Text in UTF-8, in UTF-16 with its mark, or as Excel for Windows writes it."""
    if content[:2] in (b"\xff\xfe", b"\xfe\xff"):
        encodings = ["utf-16"]
    else:
        encodings = ["utf-8-sig", "cp1252"]
    for encoding in encodings:
        try:
            text = content.decode(encoding)
        except UnicodeDecodeError:
            continue
        if "\0" not in text and not text.startswith("PK\x03\x04"):
            return text
    remedy = "In a spreadsheet program, save as CSV (UTF-8)."
    return refuse(f"{path} must be a CSV file", "a file of another kind", remedy)


def _columns(line: str, header: list[str]) -> dict[str, int]:
    """Where each column stands; columns of other names are the teacher's own."""
    titles = [" ".join(title.replace("_", " ").lower().split()) for title in header]
    titles = [{"alias": "aliases", "platform ids": "platform id"}.get(one, one) for one in titles]
    for title in titles:
        if title not in COLUMNS and (close := difflib.get_close_matches(title, COLUMNS, 1, 0.8)):
            refuse(f"{line}: columns are {', '.join(COLUMNS)}", repr(title), f"Did you mean {close[0]!r}?")
    for title in set(titles) & set(COLUMNS):
        if titles.count(title) > 1:
            refuse(f"{line}: a column must stand once", f"{title!r} {titles.count(title)} times")
    if "id" not in titles:
        rule = f"{line} must name the columns, id among them ({', '.join(COLUMNS)})"
        refuse(rule, ", ".join(map(repr, titles)) or "nothing")
    return {title: titles.index(title) for title in COLUMNS if title in titles}


def _person(line: str, cells: list[str], places: Mapping[str, int], width: int) -> Person:
    if any(cell.strip() for cell in cells[width:]):
        remedy = 'Put a name with a comma between quotes: "Lovelace, Ada".'
        refuse(f"{line} must have at most {width} cells, as the first has", len(cells), remedy)
    texts = {
        title: " ".join(_nfc(cells[place]).split()) if place < len(cells) else ""
        for title, place in places.items()
    }
    number, status = texts["id"], texts.get("status", "").lower()
    if not number or clean_name(number) != number:
        remedy = f"Write {clean_name(number)!r}." if clean_name(number) else "Write a number or a short name."
        refuse(f"{line}: an id must be a name that a folder can have", repr(number), remedy)
    if status not in ("", "dropped"):
        refuse(f"{line}: status must be empty or dropped", repr(status))
    aliases, platform_ids = (tuple(_listed(texts.get(one, ""))) for one in ("aliases", "platform id"))
    name, section = texts.get("name") or number, texts.get("section", "")
    return Person(number, name, aliases, section, platform_ids, status == "dropped")


def _listed(text: str) -> Iterable[str]:
    return dict.fromkeys(one.strip() for one in text.split(";") if one.strip())


def _nfc(text: str) -> str:
    return unicodedata.normalize("NFC", text).strip()


def clean_name(name: str) -> str:
    """A student's name as a folder may be called everywhere; letters of every language stay.

    Example:
        >>> clean_name("../Zoé  Müller "), clean_name("=cmd|1"), clean_name("李雷")
        ('Zoé Müller', 'cmd_1', '李雷')
    """
    text = unicodedata.normalize("NFC", name)
    text = "".join(letter if letter.isalnum() or letter in " -_.@" else "_" for letter in text)
    text = re.sub(r"\s+", " ", text).strip(" ._-@")
    if len(text.encode()) > LONGEST_NAME:
        kept = text.encode()[: LONGEST_NAME - 9].decode(errors="ignore")
        text = f"{kept}-{hash_of(text)[:8]}"
    return text
