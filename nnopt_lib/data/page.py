"""What the book's page on data shows: every set of the catalog, every file with its hash and addresses."""

from __future__ import annotations

from nnopt_lib.data.catalog import CATALOG, Entry
from nnopt_lib.data.files import RemoteFile


def overview() -> str:
    """A Markdown table of the sets, and a list of the files that are downloaded."""
    head = ["| name | what it is | license | source |", "| --- | --- | --- | --- |"]
    files = [_files(entry) for entry in CATALOG.values() if entry.files]
    return "\n".join([*head, *map(_row, CATALOG.values()), "", "## The files", "", *files])


def _row(entry: Entry) -> str:
    return f"| `{entry.name}` | [{entry.what}]({entry.home}) | {entry.license} | {{cite:t}}`{entry.source}` |"


def _files(entry: Entry) -> str:
    lines = [f"**{entry.name}**\n"]
    for file in entry.files:
        lines.append(_line(file))
        if file.instead:
            lines.append(f"{_line(file.instead)} (the same arrays in a safe form, if you have them)")
    return "\n".join([*lines, ""])


def _line(file: RemoteFile) -> str:
    links = ", ".join(f"[address]({address})" for address in file.addresses)
    return f"- `{file.path}`{': ' if links else ''}{links}; sha256 `{file.sha256}`"
