"""Random edits of everything that the library reads back: refused, set aside, or without consequence.

    python tests/random_edits.py --count 10000 --seed 1

A file is edited at random (bytes flipped, lines dropped, doubled or moved, cut off) and read by its reader,
which must do one of three things: give exactly what it gave before, refuse in a sentence that names the file,
or warn of it by name and do without. A trace, or another number, is a fault: it is printed, and the status is 1.
"""

from __future__ import annotations

import argparse
import collections
import dataclasses
import json
import os
import random
import shutil
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from nnopt_lib.checks import NnoptError


@dataclasses.dataclass(frozen=True)
class Kept:
    """One kind of file: `read` gives what its reader makes of it, comparable by ==."""

    kind: str
    file: Path
    read: Callable[[], Any]
    # Whether the reader may do without the file, as long as it says so: what is set aside is computed again.
    sets_aside: bool = False


def edited(content: bytes, draw: random.Random) -> bytes:
    """`content` with one to three random edits."""
    for _ in range(draw.choice((1, 1, 1, 2, 3))):
        content = draw.choice((_flip, _flip, _flip, _drop, _double, _move, _cut, _digit))(content, draw)
    return content


def _flip(content: bytes, draw: random.Random) -> bytes:
    spot = draw.randrange(max(1, len(content)))
    return content[:spot] + bytes([draw.randrange(256)]) + content[spot + 1 :]


def _digit(content: bytes, draw: random.Random) -> bytes:
    """Another digit in the place of one: the edit that reads best."""
    spots = [spot for spot, byte in enumerate(content) if 48 <= byte < 58]
    if not spots:
        return content
    spot = draw.choice(spots)
    return content[:spot] + bytes([48 + draw.randrange(10)]) + content[spot + 1 :]


def _drop(content: bytes, draw: random.Random) -> bytes:
    lines = content.splitlines(keepends=True)
    spot = draw.randrange(max(1, len(lines)))
    return b"".join(lines[:spot] + lines[spot + 1 :])


def _double(content: bytes, draw: random.Random) -> bytes:
    lines = content.splitlines(keepends=True)
    spot = draw.randrange(max(1, len(lines)))
    return b"".join(lines[: spot + 1] + lines[spot:])


def _move(content: bytes, draw: random.Random) -> bytes:
    lines = content.splitlines(keepends=True)
    draw.shuffle(lines)
    return b"".join(lines)


def _cut(content: bytes, draw: random.Random) -> bytes:
    return content[: draw.randrange(max(1, len(content)))]


def kept_files(folder: Path) -> Iterator[Kept]:
    """One file of each kind, made by the library in `folder`, which becomes the project."""
    from nnopt_lib.course.chapters.source import Chapter
    from nnopt_lib.course.chapters.state import read_note
    from nnopt_lib.experiments.records import read_published, read_record, sealed, write_record
    from nnopt_lib.experiments.run import run_experiment
    from nnopt_lib.files import write_atomically
    from nnopt_lib.paths import chapters_folder, published_file, results_folder, store_folder
    from nnopt_lib.results.claims import claim
    from nnopt_lib.results.figures import redraw, save_figure
    from nnopt_lib.results.seals import read_published_json, read_status, seal_problems, status_file
    from nnopt_lib.results.staleness import read_claims, read_machines
    from tests.published import publish, seal

    os.environ |= {"NNOPT_HOME": str(folder), "NNOPT_PROGRESS": "0", "NNOPT_BUILD": str(folder / "build")}
    rows = run_experiment("01-rows", [Setting(seed) for seed in range(5)], _half)
    publish("01-rows", [row["run_id"] for row in rows[:4]])
    claim("01-first", "mean", "The mean is 0.75.", holds=True, rows=rows, mean=0.75)
    options = {"x": "seed", "y": "y", "x_label": "seed", "y_label": "y"}
    save_figure("01-line", rows, "curves", alt="A line.", **options)
    built = folder / "build" / "figures" / "01-line" / "figure.json"
    results = results_folder()
    write_atomically(results / "figures" / "01-line.json", built.read_bytes())
    write_atomically(
        results / "claims" / "01-first.json", (folder / "build/claims/01-first.json").read_bytes()
    )
    machine = sealed({"cpu": "A", "chapters": {"01-first": {"quick": {"runs": 4, "tolerance": 0.01}}}})
    write_record(results / "machines" / "a.json", machine)
    seal("01-first", ["01-rows"])

    def read_rows() -> Any:
        problems = seal_problems("01-first")
        if problems:
            raise NnoptError("\n".join(problems))
        return read_published("01-rows")

    stored = store_folder() / "01-rows" / f"{rows[4]['run_id']}.json"
    chapter = Chapter("01-first", chapters_folder() / "01-first.md")
    note = folder / "build" / "runs" / "published-01-first.json"
    write_record(note, {"key": "1" * 64, "duration_seconds": 0.5, "claims": [{"numbers": {"mean": 0.75}}]})
    figure = results / "figures" / "01-line.json"
    yield Kept("rows", published_file("01-rows"), read_rows)
    elsewhere = folder / "elsewhere"  # nothing is stored there: what is not published is computed

    def rows_again() -> Any:
        shutil.rmtree(elsewhere, ignore_errors=True)
        return run_experiment("01-rows", [Setting(seed) for seed in range(4)], _half, store=elsewhere)

    yield Kept("rows used", published_file("01-rows"), rows_again)
    yield Kept("stored rows", stored, lambda: read_record(stored), True)
    yield Kept("claims", results / "claims" / "01-first.json", read_claims)
    yield Kept("figures", figure, lambda: read_published_json(figure))
    drawn = folder / "drawn"
    yield Kept(
        "figures drawn",
        figure,
        lambda: [p.read_bytes() for p in redraw("01-line", formats=["svg"], out=drawn)],
    )
    yield Kept(
        "own figures", built, lambda: redraw("01-line", formats=[], out=drawn, own=True)[0].read_bytes()
    )
    yield Kept("status", status_file(), read_status)
    yield Kept("machines", results / "machines" / "a.json", read_machines)
    yield Kept("notes of runs", note, lambda: read_note(chapter, "published") or None, True)
    yield from _kept_of_models(folder)
    yield from _kept_of_classes(folder)


@dataclasses.dataclass(frozen=True)
class Setting:
    seed: int


def _half(setting: Setting) -> dict[str, float]:
    return {"y": setting.seed / 2}


def _kept_of_models(folder: Path) -> Iterator[Kept]:
    from nnopt_lib import build, get_weights, load_small, mlp, prune, remove_nodes, save_small
    from nnopt_lib.compression import load_compressed, save_compressed, share_weights
    from nnopt_lib.pruning.masks import Masks

    model = build(mlp((8,), inputs=4, outputs=2))
    prune(model, sparsity=0.5).save(folder / "masks.safetensors")
    save_small(
        remove_nodes(model, prune(model, sparsity=0.5, granularity="node")), folder / "small.safetensors"
    )
    masks, small = folder / "masks.safetensors", folder / "small.safetensors"
    yield Kept("masks", masks, lambda: {name: mask.tolist() for name, mask in Masks.load(masks).items()})
    yield Kept(
        "recipes",
        small,
        lambda: {name: value.tolist() for name, value in get_weights(load_small(small)).items()},
    )
    compressed = folder / "compressed.safetensors"
    share_weights(model, bits=2)
    save_compressed(model, compressed)
    yield Kept(
        "compressed",
        compressed,
        lambda: {name: value.tolist() for name, value in get_weights(load_compressed(compressed)).items()},
    )


def _kept_of_classes(folder: Path) -> Iterator[Kept]:
    from nnopt_lib.course.labs.grade import _identity, read_record
    from nnopt_lib.course.labs.gradebook import Course
    from nnopt_lib.experiments.records import sealed
    from nnopt_lib.files import write_atomically
    from tests.labs_class import hand_in, new_course, solved

    course: Course = new_course(folder)
    hand_in(course, "ada", solved("ada"))
    course.give_zero("tiny", "ada")
    with course.open_gradebook() as gradebook:
        grade = gradebook.find_submission("tiny", "ada").notebooks[0].grades[0]
        grade.manual_score = 1.5
        gradebook.db.commit()
    record = course.record("tiny", "ada")
    content = sealed({"of": _identity(course, "tiny", "ada"), "failure": "", "seconds": 1.5})
    write_atomically(record, json.dumps(content, indent=1) + "\n")
    yield Kept("records of grading", record, lambda: read_record(course, "tiny", "ada"), True)
    yield Kept("gradebooks", course.gradebook, lambda: course.points("tiny"))


def outcome(kept: Kept, before: Any) -> str:
    """What came of one edit: ``harmless``, ``refused``, ``set aside``; anything else is a fault, described."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            after = kept.read()
        except NnoptError as error:
            return "refused" if kept.file.name in str(error) else f"does not name the file: {error}"
        except BaseException as error:
            return f"{type(error).__name__}: {error}"
    if after == before:
        return "harmless"
    told = any(kept.file.name in str(one.message) for one in caught if one.category is UserWarning)
    # A note or a record of grading that cannot be trusted is nothing: the run, the grading is done again.
    if kept.sets_aside and (told or after is None):
        return "set aside"
    return f"silently other: {str(after)[:200]}"


def run(count: int, seed: int, folder: Path) -> dict[str, collections.Counter]:
    """`count` edits shared among all kinds; how many had which outcome, by kind."""
    draw = random.Random(seed)
    outcomes: dict[str, collections.Counter] = {}
    all_kept = list(kept_files(folder))
    whole = {kept.kind: (kept.file.read_bytes(), kept.read()) for kept in all_kept}
    for number in range(count):
        # Figures are drawn where an edit is harmless, which takes its time.
        kept = all_kept[number % len(all_kept)]
        content, before = whole[kept.kind]
        kept.file.write_bytes(edited(content, draw))
        outcomes.setdefault(kept.kind, collections.Counter())[outcome(kept, before)] += 1
        for aside in kept.file.parent.glob(f"{kept.file.name}.damaged-*"):
            aside.unlink()
        kept.file.write_bytes(content)
    return outcomes


def faults(outcomes: dict[str, collections.Counter]) -> list[str]:
    fine = {"harmless", "refused", "set aside"}
    return [f"{kind}: {what}" for kind, counted in outcomes.items() for what in counted if what not in fine]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        outcomes = run(arguments.count, arguments.seed, Path(folder))
    for kind, counted in outcomes.items():
        print(f"{kind:20} {dict(counted.most_common(6))}")
    found = faults(outcomes)
    print(f"{sum(map(sum, (c.values() for c in outcomes.values())))} edits, {len(found)} kinds of fault")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
