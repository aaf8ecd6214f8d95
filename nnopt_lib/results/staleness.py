"""What is published, read back: claims, figures, and whether the rows under them are still the same.

A chapter that is saved notes the sha256 of every row file that it read (`row_hashes`, kept in status.json);
each claim and figure names the experiments it rests on. The two together say what a changed row makes stale.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from nnopt_lib.checks import NnoptError, refuse
from nnopt_lib.experiments.records import is_sealed
from nnopt_lib.files import file_hash
from nnopt_lib.paths import published_file, results_folder
from nnopt_lib.results.seals import read_json, read_published_json, read_status


def row_hashes(experiments: Iterable[str]) -> dict[str, str | None]:
    """The sha256 of each experiment's published row file, None where there is none."""
    hashes = {}
    for experiment in sorted(experiments):
        file = published_file(experiment)
        hashes[experiment] = file_hash(file) if file.is_file() else None
    return hashes


def read_claims() -> dict[str, dict[str, Any]]:
    """Published claims and replays by ``<chapter>/<id>``, in the order of chapters."""
    files = sorted((results_folder() / "claims").glob("*.json"))
    records = [record for file in files for record in read_published_json(file)]
    return {f"{record['chapter']}/{record['id']}": record for record in records}


def read_machines() -> list[dict[str, Any]]:
    """What `nnopt results verify --save` saw on other machines, one dictionary each, by name of processor."""
    files = sorted((results_folder() / "machines").glob("*.json"))
    return sorted((read_machine(file) for file in files), key=lambda machine: str(machine["cpu"]))


def read_machine(file: Path) -> dict[str, Any]:
    """What one of these files holds; one that is not as it was written is refused by name."""
    machine = read_json(file)
    if not is_sealed(machine):
        rule = f"{file} must be as nnopt results verify --save left it"
        remedy = "Take it from version control, or remove it and verify again on that machine."
        refuse(rule, "contents that do not match their own sha256", remedy)
    return dict(machine)


def stale_rows(chapter: str, rests_on: Iterable[str], status: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Why something that `chapter` published is no longer what the rows give; empty where it still is.

    Parameters:
        chapter: its name or number. rests_on: experiments. status: of `read_status`.
    Returns one reason per row file, naming the file, in their order.
    """
    chapter_status = next((saved for name, saved in status.items() if name.startswith(chapter)), {})
    # Bytes are compared, not times: a checkout gives every file a new time.
    noted, reasons = chapter_status.get("rows", {}), []
    for experiment, digest in row_hashes(rests_on).items():
        file = f"chapters/results/{experiment}.jsonl"
        if digest is None:
            reasons.append(f"{file} is missing")
        elif experiment not in noted:
            reasons.append(f"{file} was not noted when the chapter was saved")
        elif digest != noted[experiment]:
            reasons.append(f"{file} changed")
    return reasons


def check_fresh(records: Mapping[str, Mapping[str, Any]]) -> None:
    """Refuse records that are stale: a line for each reason and chapter, with all that it makes stale.

    `records` by the name to tell, each with its chapter. One without `rests_on` cannot be checked, and is
    refused too.
    """
    # By reason and chapter: one row file may make dozens of claims stale, and one command mends them all.
    status, stale = read_status(), dict[tuple[str, str], list[str]]()
    for name, record in records.items():
        reasons = ["they do not say which rows they rest on"]
        if "rests_on" in record:
            reasons = stale_rows(record["chapter"], record["rests_on"], status)
        for reason in reasons:
            stale.setdefault((reason, record["chapter"][:2]), []).append(name)
    lines = [
        f"stale, since {reason}: {'; '.join(names)}. Run nnopt run {chapter} --save."
        for (reason, chapter), names in stale.items()
    ]
    if lines:
        raise NnoptError("\n".join(lines))
