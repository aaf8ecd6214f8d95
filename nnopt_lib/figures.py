"""A figure is data too: its kind, its options and the rows it is drawn from; one look for the whole book.

`save_figure` draws from rows and keeps all that is needed to draw again, so that `redraw` (and
``nnopt figures``) makes the same figure for the screen or at a paper's column width without running anything.
"""

from __future__ import annotations

import csv
import hashlib
import inspect
import io
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nnopt_lib.checks import check_choice, check_number, nearest, refuse
from nnopt_lib.drawing import FORMATS, KINDS, STYLES, Rows, render
from nnopt_lib.experiment import provenance
from nnopt_lib.store import plain, project_root, write_atomically


@dataclass(frozen=True)
class Shown:
    """What a notebook shows of a saved figure: the picture, and its alternative text for those without."""

    png: bytes
    alt: str

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> tuple[dict, dict]:
        return {"image/png": self.png, "text/plain": self.alt}, {"image/png": {"width": 700, "alt": self.alt}}


def save_figure(name: str, rows: Rows, kind: str, *, alt: str, **options: Any) -> Shown:
    """Draw a figure from `rows` and keep it with everything needed to draw it again.

    Parameters:
        name: begins with its chapter, as in ``"01-held-out"``.
        rows: dictionaries of plain values; every mark is drawn from them, nothing else.
        kind: ``"intervals"``, ``"curves"``, ``"bars"``, ``"roofline"`` or ``"graph"``.
        options: of the kind, as its function in `nnopt_lib.drawing` names them.
        alt: what the picture shows, for readers who do not see it. No numbers that change with the rows.

    Writes ``build/figures/<name>/``: figure.json and what `redraw` writes, the picture as .svg, .pdf and
    .png, the rows as .csv and the .manifest.json (options, run ids, seeds, versions, commit).
    Returns what a notebook cell shows as its last value.
    Errors: no rows, unknown kind, unknown or missing option, a field that the rows lack.

    Example:
        >>> rows = [{"label": "network", "mean": 0.9, "low": 0.88, "high": 0.92}]
        >>> save_figure("00-demo", rows, "intervals", x_label="accuracy", alt="A dot with its interval.").alt
        'A dot with its interval.'
    """
    if not re.fullmatch(r"\d\d-[\w.-]+", name):  # also keeps it inside its folder
        refuse("a figure's name must begin with its chapter's number and -", repr(name), "As 01-held-out.")
    check_choice("kind", kind, KINDS)
    if not rows:
        refuse(f"figure {name} needs at least one row", "none")
    if not alt.strip():
        refuse(f"figure {name} needs an alternative text", repr(alt))
    _check_options(name, kind, options)
    figure = {"format": 1, "name": name, "kind": kind, "alt": alt, "options": options}
    figure |= {"rows": [dict(row) for row in rows], "provenance": provenance()}
    figure = plain(figure, f"figure {name}")
    folder = project_root() / "build" / "figures" / name
    try:
        _write(figure, "screen", None, FORMATS, folder)
    except KeyError as error:
        refuse(f"the rows of figure {name} must have the field {error}", f"{sorted(rows[0])}")
    write_atomically(folder / "figure.json", json.dumps(figure, indent=1, ensure_ascii=False) + "\n")
    return Shown((folder / f"{name}.png").read_bytes(), alt)


def _write(
    figure: Mapping[str, Any], style: str, width_inches: float | None, formats: Sequence[str], folder: Path
) -> list[Path]:
    """Draw, then write the pictures, the rows and the manifest; nothing is written if drawing fails."""
    files: dict[str, str | bytes] = {**render(figure, style, width_inches, formats)}
    files |= {"csv": _as_csv(figure["rows"]), "manifest.json": json.dumps(_manifest(figure), indent=1) + "\n"}
    for ending, content in files.items():
        write_atomically(folder / f"{figure['name']}.{ending}", content)
    return [folder / f"{figure['name']}.{ending}" for ending in files]


def _check_options(name: str, kind: str, options: Mapping[str, Any]) -> None:
    parameters = list(inspect.signature(KINDS[kind]).parameters.values())[2:]
    known = {parameter.name: parameter for parameter in parameters}
    for option in options:
        if option not in known:
            refuse(f"figure {name}: {kind} has no option {option!r}", None, nearest(option, known))
    for option, parameter in known.items():
        if parameter.default is parameter.empty and option not in options:
            refuse(f"figure {name}: {kind} needs the option {option!r}")


def _as_csv(rows: Rows) -> str:
    columns = list(dict.fromkeys(column for row in rows for column in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _manifest(figure: Mapping[str, Any]) -> dict[str, Any]:
    """Where a figure comes from: how it was drawn, the runs and seeds behind it, versions, commit.

    Versions, hardware and commit are those under which it was saved, wherever it is drawn again.
    """
    rows = figure["rows"]
    described = {key: figure[key] for key in ("name", "kind", "alt", "options")}
    found = {
        plural: sorted({row[one] for row in rows if row.get(one) is not None})
        for plural, one in (("run_ids", "run_id"), ("seeds", "seed"))
    }
    digest = hashlib.sha256(json.dumps(rows, sort_keys=True).encode()).hexdigest()
    return {**described, **found, "rows_sha256": digest, **figure["provenance"]}


def _stored(name: str) -> Path | None:
    """Where a figure can be drawn again from: what this machine made, else what is published."""
    root = project_root()
    places = (
        root / "build" / "figures" / name / "figure.json",
        root / "chapters" / "results" / "figures" / f"{name}.json",
    )
    return next((place for place in places if place.is_file()), None)


def list_figures() -> list[str]:
    """The names of all figures that can be drawn again, in order."""
    root = project_root()
    made = (path.parent.name for path in root.glob("build/figures/*/figure.json"))
    published = (path.stem for path in root.glob("chapters/results/figures/*.json"))
    return sorted({*made, *published})


def redraw(
    name: str,
    *,
    style: str = "screen",
    width_inches: float | None = None,
    formats: Sequence[str] = FORMATS,
    out: Path | None = None,
) -> list[Path]:
    """Draw a stored figure again, from its rows alone.

    Parameters:
        style: ``"screen"`` or ``"paper"`` (text of 7 to 9 points at column width, fonts embedded).
        width_inches: of the figure; by default the style's own (7 and 3.25).
        formats: of ``svg``, ``pdf``, ``png``.
        out: folder; by default ``build/figures/<name>``, in the paper style its sub-folder ``paper``.

    Returns the files written, the rows as CSV and the manifest among them. An unknown name is refused.
    """
    check_choice("style", style, STYLES)
    for form in formats:
        check_choice("format", form, FORMATS)
    if width_inches is not None:
        check_number("width_inches", width_inches, above=0)
    place = _stored(name)
    if place is None:
        refuse(f"there is no figure {name!r}", None, nearest(name, list_figures() or ["none yet: nnopt run"]))
    try:
        figure = json.loads(place.read_text(encoding="utf-8"))
    except ValueError as error:
        refuse(f"{place} must be a whole JSON file", str(error), "Run its chapter again.")
    folder = out or project_root() / "build" / "figures" / name / ("paper" if style == "paper" else ".")
    return _write(figure, style, width_inches, formats, folder)
