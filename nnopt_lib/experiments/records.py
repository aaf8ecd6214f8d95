"""Records: rows kept on disk under the hash of their settings, in the local store and among the published."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
import time
import warnings
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from nnopt_lib.checks import NnoptError, refuse
from nnopt_lib.files import lock, write_atomically, writing
from nnopt_lib.paths import build_folder, published_file, store_folder

FORMAT = 1  # of records; one of another format counts as damaged rather than being misread
FIELDS: dict[str, type] = {  # what every reader of a record may take for granted
    **{"experiment": str, "run_id": str, "settings": dict, "data": str, "results_version": int},
    **{"rows": list, "provenance": dict},
}
# Added to the environment of what must be the same on every machine: checks and the published book.
PUBLISHED_ROWS_ONLY = {"NNOPT_ROWS": "published"}


def check_writable(folder: Path) -> None:
    """Refuse, in one sentence, a folder in which no file can be made; it is made where it is not there.

    For commands that would write much later, or many times. Example: ``check_writable(Path("build"))``.
    """
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".try-"):
            pass


def plain(value: Any, what: str) -> Any:
    """A copy of `value` made of what JSON can hold; `what` names it in the refusal of anything else.

    Tuples become lists, NumPy scalars become Python numbers. NaN and infinity pass: divergence is a result.
    """
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, (int, float)):
        return int(value) if isinstance(value, int) else float(value)
    if isinstance(value, (list, tuple)):
        return [plain(item, what) for item in value]
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return {key: plain(item, what) for key, item in value.items()}
    if getattr(value, "ndim", None) == 0 and hasattr(value, "item"):
        return plain(value.item(), what)
    rule = f"{what} must be made of numbers, strings, booleans, None, lists and dictionaries with string keys"
    refuse(rule, f"a value of type {type(value).__name__}", "Convert it first, an array by .tolist().")


def run_id(experiment: str, settings: Mapping[str, Any], fingerprint: str, results_version: int) -> str:
    """The name of a result: 16 hexadecimal digits of the sha256 over everything that defines it.

    `settings` holds all fields, defaults included; their order and the class they came from do not matter,
    and 1 and 1.0 are the same value. NaN is refused, since it equals nothing.
    Example: ``run_id("01-held-out", {"seed": 0}, data.fingerprint, 1)``.
    """
    fields = plain(dict(settings), f"settings of {experiment}")
    parts = {"experiment": experiment, "settings": _whole_numbers(fields), "data": fingerprint}
    try:
        text = _canonical({**parts, "results_version": results_version}, allow_nan=False)
    except ValueError:
        refuse(
            f"settings of {experiment} must be finite numbers",
            fields,
            "Use None for a value that is not set.",
        )
    # 64 bits: among a million runs two would share a name with a chance of 3 in 100 million.
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _whole_numbers(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _whole_numbers(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_whole_numbers(item) for item in value]
    # From 2**53 on a float may stand for several integers, so it is left as it is.
    return int(value) if isinstance(value, float) and value.is_integer() and abs(value) < 2**53 else value


def _canonical(value: Any, allow_nan: bool = True) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=allow_nan)


def published_rows_only() -> bool:
    """Whether NNOPT_ROWS is ``published``: then no row comes from the local store, and none is computed.

    Refuses any other word in NNOPT_ROWS. Example: ``published_rows_only()`` is False where it is not set.
    """
    word = os.environ.get("NNOPT_ROWS", "")
    if word not in ("", "published"):
        refuse("NNOPT_ROWS must be published or not set", repr(word))
    return word == "published"


def write_record(path: Path, record: Mapping[str, Any]) -> None:
    """Seal `record` with the sha256 of its content and write it as one line, whole or not at all."""
    write_atomically(path, _line(record))


def _line(record: Mapping[str, Any]) -> str:
    return json.dumps(sealed(record), ensure_ascii=False) + "\n"


def sealed(content: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of `content` with the sha256 of all its fields as its last field."""
    fields = {key: value for key, value in content.items() if key != "sha256"}
    # Half of a surrogate pair, which JSON can spell and UTF-8 cannot, may stand in a damaged file.
    text = _canonical(fields).encode(errors="surrogatepass")
    return {**fields, "sha256": hashlib.sha256(text).hexdigest()}


def is_sealed(content: Any) -> bool:
    """Whether `content`, as read from a file, is a dictionary whose fields are those that were sealed."""
    return isinstance(content, dict) and sealed(content)["sha256"] == content.get("sha256")


def read_record(path: Path) -> dict[str, Any] | None:
    """The record at `path`, or None where there is none; a damaged one is set aside, and the user is told.

    It is renamed to ``<name>.damaged-N``, so that it can be looked at, and the result will be computed again.
    """
    try:
        text = path.read_bytes().decode(errors="replace")  # a broken byte is damage, too, and no error here
    except (FileNotFoundError, NotADirectoryError):
        return None
    record, damage = _parse(text, path.parent.name, path.stem)
    if record is None:
        aside = next(name for n in range(1, 10_000) if not (name := Path(f"{path}.damaged-{n}")).exists())
        with contextlib.suppress(FileNotFoundError), writing(aside):  # another run may have been faster
            path.rename(aside)
        warnings.warn(f"{path} {damage}; set aside as {aside.name}, computed again.", stacklevel=2)
    return record


def read_published(experiment: str) -> dict[str, dict[str, Any]]:
    """The published records of `experiment` by run id; damaged lines are left out, and the user is told."""
    records = {}
    for line, record, damage in _published_lines(experiment):
        if record is None:
            warnings.warn(f"{line} {damage}; left out.", stacklevel=2)
        else:
            records[record["run_id"]] = record
    return records


def damaged_lines(experiment: str) -> list[str]:
    """What is wrong with the published rows of `experiment`, a sentence without its point for each line."""
    return [f"{line} {damage}" for line, record, damage in _published_lines(experiment) if record is None]


def _published_lines(experiment: str) -> Iterator[tuple[str, dict[str, Any] | None, str]]:
    """File and number of each published line, its record and what is wrong with it (one of the two)."""
    path = published_file(experiment)
    # Not splitlines, to which U+2028 and seven other characters, which JSON may hold in a text, end a line.
    lines = path.read_bytes().decode(errors="replace").split("\n") if path.is_file() else []
    seen: dict[str, int] = {}
    for number, line in enumerate(lines[:-1] if lines[-1:] == [""] else lines, start=1):
        record, damage = _parse(line, experiment)
        if record is not None and (first := seen.setdefault(record["run_id"], number)) != number:
            record, damage = None, f"holds the same run as line {first}"
        yield f"{path} line {number}", record, damage


def _parse(text: str, experiment: str, name: str | None = None) -> tuple[dict[str, Any] | None, str]:
    """The record in `text` and what is wrong with it; one of the two is empty."""
    try:
        record = json.loads(text)
        if not isinstance(record, dict):
            raise ValueError
    except (ValueError, RecursionError):
        return None, "is not a whole JSON record"
    if record.get("format") != FORMAT:
        return None, f"has format {record.get('format')!r} where {FORMAT} is read"
    if not is_sealed(record):
        return None, "does not match its own sha256"
    # Sealed, but perhaps by another version of this program, which asked for other fields.
    if missing := [name for name, kind in FIELDS.items() if not isinstance(record.get(name), kind)]:
        return None, f"has no {missing[0]} as this version writes it"
    if not all(isinstance(row, dict) for row in record["rows"]):
        return None, "has rows that are no dictionaries"
    try:
        identity = run_id(experiment, record["settings"], record["data"], record["results_version"])
    except NnoptError:
        return None, "has settings that are not finite numbers"
    if record["experiment"] != experiment or identity != record["run_id"] or name not in (None, identity):
        return None, "does not hold the result that its name promises"
    return record, ""


def rows_to_publish(experiment: str, run_ids: Iterable[str], recomputed: Path | None = None) -> str:
    """What ``chapters/results/<experiment>.jsonl`` must hold to be exactly the records `run_ids`.

    A record that is published already stays as it is, whatever the local store holds; others come from the
    local store. `recomputed` names another store, whose records replace published ones: the author's wish.
    One that is found nowhere is refused.
    """
    published, name = read_published(experiment), f"{experiment}/{{}}.json"
    records = []
    # By run id, so that the same runs give the same file whatever the order of a chapter's settings.
    for identity in sorted(set(run_ids)):
        record = read_record(recomputed / name.format(identity)) if recomputed else None
        record = record or published.get(identity) or read_record(store_folder() / name.format(identity))
        if record is None:
            refuse(f"run {identity} of {experiment} must be in the store", None, "Run its chapter again.")
        records.append(record)
    return "".join(map(_line, records))


def clean(older_than_days: float | None = None, dry_run: bool = False) -> list[Path]:
    """Remove from the store what is not needed; returns the files that were (or would be) removed.

    Not needed are records that are published too, records set aside as damaged, what killed runs left
    behind more than a day ago (in the whole build folder), and locks that nobody holds; with
    `older_than_days`, also every record older than that. What another process is computing or writing at this
    moment stays.
    """
    removed = []
    for path in [path for path in build_folder().rglob("*.tmp") if store_folder() not in path.parents]:
        if _is_needless(path, {}, None) and (dry_run or _remove(path)):
            removed.append(path)
    for folder in sorted(path for path in store_folder().glob("*") if path.is_dir()):
        published = read_published(folder.name)
        # Records last: with one its lock goes, which would otherwise be counted or not by what comes first.
        for path in sorted(folder.iterdir(), key=lambda path: (path.suffix == ".json", path)):
            if _is_needless(path, published, older_than_days) and (dry_run or _remove(path)):
                removed.append(path)
    return sorted(removed)


def _is_needless(path: Path, published: Mapping[str, Any], older_than_days: float | None) -> bool:
    try:
        age_days = (time.time() - path.stat().st_mtime) / 86_400
    except FileNotFoundError:  # removed meanwhile, by its writer or by another who cleans
        return False
    redundant = path.suffix == ".json" and path.stem in published
    # A younger .tmp may belong to a run that is writing it at this moment.
    leftover = ".damaged-" in path.name or path.suffix == ".lock" or (path.suffix == ".tmp" and age_days > 1)
    old = older_than_days is not None and path.suffix == ".json" and age_days > older_than_days
    return redundant or leftover or old


def _remove(path: Path) -> bool:
    """Remove a record or a lock unless a run holds it; whether it is gone."""
    with contextlib.ExitStack() as stack:
        if path.suffix in (".json", ".lock"):
            held = lock(path, timeout=0)
            if held is None:
                return False
            stack.enter_context(held)
        with writing(path):
            path.unlink(missing_ok=True)
            # Under the lock: whoever waits for it sees that its file is gone, and makes another.
            if path.suffix == ".json":
                path.with_suffix(".lock").unlink(missing_ok=True)
    return True


def count_records() -> dict[str, tuple[int, int]]:
    """How many records every experiment has in the store and among the published rows."""
    results = published_file("").parent
    names = {path.name for path in store_folder().glob("*") if path.is_dir()}
    names |= {path.stem for path in results.glob("*.jsonl")}
    stored = {name: len(list((store_folder() / name).glob("*.json"))) for name in names}
    return {name: (stored[name], len(read_published(name))) for name in sorted(names)}
