"""A figure is data too: its kind, its options and the rows it is drawn from; one look for the whole book.

`save_figure` draws from rows and keeps all that is needed to draw again, so that `redraw` (and
``nnopt figures``) makes the same figure for the screen or at a paper's column width without running anything.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nnopt_lib.checks import check_choice, check_number, nearest, refuse
from nnopt_lib.experiments.provenance import provenance
from nnopt_lib.experiments.records import is_sealed, plain, sealed
from nnopt_lib.experiments.rows import experiments_of
from nnopt_lib.files import write_atomically
from nnopt_lib.paths import build_folder, results_folder
from nnopt_lib.results.exports import as_csv, as_latex, references_of
from nnopt_lib.results.layout import LAYOUTS, render
from nnopt_lib.results.plots import KINDS, Rows
from nnopt_lib.results.seals import read_json, read_published_json, read_status
from nnopt_lib.results.staleness import stale_rows
from nnopt_lib.results.style import FORMATS, STYLES

NARROWEST_INCHES, WIDEST_INCHES = 1.0, 100.0  # beyond either is a slip of units


@dataclass(frozen=True)
class Shown:
    """What a notebook shows of a saved figure: the picture, and its alternative text for those without."""

    png: bytes
    alt: str

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> tuple[dict[str, Any], ...]:
        return {"image/png": self.png, "text/plain": self.alt}, {"image/png": {"width": 700, "alt": self.alt}}


def save_figure(name: str, rows: Rows, kind: str, *, alt: str, rests_on: Any = None, **options: Any) -> Shown:
    """Draw a figure from `rows` and keep it with everything needed to draw it again.

    Parameters:
        name: begins with its chapter, as in ``"01-held-out"``.
        rows: dictionaries of plain values; every mark is drawn from them, nothing else.
        kind: ``"intervals"``, ``"curves"``, ``"pairs"``, ``"bars"``, ``"images"``, ``"roofline"``,
            ``"graph"`` or ``"contours"``.
        options: of the kind, as its function in `nnopt_lib.results.plots` names them, and for small
            multiples, broken axes and grids of images those of `nnopt_lib.results.layout`.
        alt: what the picture shows, for readers who do not see it. No numbers that change with the rows.
        rests_on: the rows of `run_experiment` that the drawn ones were summarized from, in lists or lists of
            lists; ``()`` for a picture of no stored rows; None where the drawn rows are an experiment's.

    Writes ``build/figures/<name>/``: figure.json and what `redraw` writes, the picture as .svg, .pdf and
    .png, the rows as .csv and as a LaTeX table, what its chapter cites as .bib, and the .manifest.json
    (options, run ids, seeds, versions, commit, a hash of each file).
    Returns what a notebook cell shows as its last value.
    Errors: no rows, unknown kind, unknown or missing option, a field that the rows lack, rows that do not
    know their experiment.

    Example:
        >>> rows = [{"label": "network", "mean": 0.9, "low": 0.88, "high": 0.92}]
        >>> save_figure("00-demo", rows, "intervals", x_label="accuracy", alt="A dot.", rests_on=()).alt
        'A dot.'
    """
    if not re.fullmatch(r"\d\d-[\w.-]+", name):  # also keeps it inside its folder
        refuse("a figure's name must begin with its chapter's number and -", repr(name), "As 01-held-out.")
    check_choice("kind", kind, KINDS)
    if not rows:
        refuse(f"figure {name} needs at least one row", "none")
    if not alt.strip():
        refuse(f"figure {name} needs an alternative text", repr(alt))
    _check_options(name, kind, options)
    experiments = _experiments_under(name, rows, rests_on)
    figure = {"format": 1, "name": name, "kind": kind, "alt": alt, "options": options}
    figure |= {"rows": [dict(row) for row in rows], "rests_on": experiments, "provenance": provenance()}
    figure = plain(figure, f"figure {name}")
    folder = build_folder() / "figures" / name
    try:
        _write(figure, "screen", None, FORMATS, folder, from_build=True)
    # A kind reads its fields where it draws them: only drawing shows which one the rows lack.
    except KeyError as error:
        refuse(f"the rows of figure {name} must have the field {error}", f"{sorted(rows[0])}")
    write_atomically(folder / "figure.json", json.dumps(sealed(figure), indent=1, ensure_ascii=False) + "\n")
    return Shown((folder / f"{name}.png").read_bytes(), alt)


def _experiments_under(name: str, rows: Rows, rests_on: Any) -> list[str]:
    """The experiments that a figure rests on: those of `rests_on`, or where it is None of the drawn rows."""
    if rests_on is not None:
        name_of_argument = f"rests_on of figure {name}"
        return experiments_of(rests_on, name_of_argument, "Pass () for a picture of no stored rows.")
    remedy = (
        "Pass rests_on=<the rows that these were summarized from>, "
        "or rests_on=() for a picture of no stored rows."
    )
    return experiments_of(rows, f"the rows of figure {name}", remedy)


def _write(
    figure: Mapping[str, Any],
    style: str,
    width_inches: float | None,
    formats: Sequence[str],
    folder: Path,
    from_build: bool,
) -> list[Path]:
    """Draw, then write the pictures, the rows and the manifest; nothing is written if drawing fails."""
    name, rows = figure["name"], figure["rows"]
    files: dict[str, str | bytes] = {**render(figure, style, width_inches, formats)}
    files |= {"csv": as_csv(rows), "tex": as_latex(rows), "bib": references_of(name)}
    # The arguments of `redraw` by their names, so that `verify` can repeat the call.
    drawn = {"style": style, "width_inches": width_inches, "formats": list(formats), "own": from_build}
    hashes = {f"{name}.{ending}": _hash(content) for ending, content in files.items()}
    manifest = {**_manifest(figure), "drawn": drawn, "files": hashes}
    files["manifest.json"] = json.dumps(manifest, indent=1) + "\n"
    for ending, content in files.items():
        write_atomically(folder / f"{name}.{ending}", content)
    return [folder / f"{name}.{ending}" for ending in files]


def _hash(content: str | bytes) -> str:
    return hashlib.sha256(content.encode() if isinstance(content, str) else content).hexdigest()


def _check_options(name: str, kind: str, options: Mapping[str, Any]) -> None:
    parameters = list(inspect.signature(KINDS[kind]).parameters.values())[2:]
    known = {parameter.name: parameter for parameter in parameters}
    names = [*known, *LAYOUTS.get(kind, {})]
    for option in options:
        if option not in names:
            refuse(f"figure {name}: {kind} has no option {option!r}", None, nearest(option, names))
    for option, parameter in known.items():
        if parameter.default is parameter.empty and option not in options:
            refuse(f"figure {name}: {kind} needs the option {option!r}")


def _manifest(figure: Mapping[str, Any]) -> dict[str, Any]:
    """Where a figure comes from: how it was drawn, the runs and seeds behind it, versions, commit.

    Versions, hardware and commit are those under which it was saved, wherever it is drawn again.
    """
    rows = figure["rows"]
    described = {key: figure.get(key) for key in ("name", "kind", "alt", "options", "rests_on")}
    # Drawn rows that are summaries have neither; the lists are empty then, and `rests_on` leads to the rows.
    origins = {
        plural: sorted({row[field] for row in rows if row.get(field) is not None})
        for plural, field in (("run_ids", "run_id"), ("seeds", "seed"))
    }
    digest = _hash(json.dumps(rows, sort_keys=True))
    return {**described, **origins, "rows_sha256": digest, **figure["provenance"]}


def _stored(name: str, build_first: bool) -> Path | None:
    """Where a figure can be drawn again from: what is published, else (or first) what this machine made."""
    files = [
        results_folder() / "figures" / f"{name}.json",
        build_folder() / "figures" / name / "figure.json",
    ]
    return next((file for file in (files[::-1] if build_first else files) if file.is_file()), None)


def list_figures() -> list[str]:
    """The names of all figures that can be drawn again, in order."""
    made = (path.parent.name for path in build_folder().glob("figures/*/figure.json"))
    published = (path.stem for path in results_folder().glob("figures/*.json"))
    return sorted({*made, *published})


def redraw(
    name: str,
    *,
    style: str = "screen",
    width_inches: float | None = None,
    formats: Sequence[str] = FORMATS,
    out: Path | None = None,
    own: bool = False,
) -> list[Path]:
    """Draw a stored figure again, from its rows alone.

    Parameters:
        style: ``"screen"`` or ``"paper"`` (text of 7 to 9 points at column width, fonts embedded).
        width_inches: of the figure; by default the style's own (7 and 3.25).
        formats: of ``svg``, ``pdf``, ``png``.
        out: folder; by default ``build/figures/<name>``, in the paper style its sub-folder ``paper``.
        own: draw what this machine saved last, in whatever profile, although another is published.

    Returns the files written: pictures, rows as CSV and as a LaTeX table, BibTeX, manifest. An unknown name
    is refused.
    """
    _check_drawing(style, width_inches, formats, out)
    figure = _read_stored(name, own)
    folder = out or build_folder() / "figures" / name / ("paper" if style == "paper" else ".")
    return _write(figure, style, width_inches, formats, folder, own)


def _check_drawing(style: str, width_inches: float | None, formats: Sequence[str], out: Path | None) -> None:
    """Refuse arguments of `redraw` before anything is drawn."""
    check_choice("style", style, STYLES)
    for form in formats:
        check_choice("format", form, FORMATS)
    if width_inches is not None:
        check_number("width_inches", width_inches, at_least=NARROWEST_INCHES, below=WIDEST_INCHES)
    if out is not None and out.exists() and not out.is_dir():
        refuse("out must be a folder, there or to be made", f"the file {out}")


def _read_stored(name: str, build_first: bool) -> dict[str, Any]:
    """What `save_figure` kept of a figure; an unknown name and a damaged file are refused."""
    file = _stored(name, build_first)
    if file is None:
        refuse(f"there is no figure {name!r}", None, nearest(name, list_figures() or ["none yet: nnopt run"]))
    if file.is_relative_to(results_folder()):
        return dict(read_published_json(file))
    figure = read_json(file)
    if not is_sealed(figure):
        refuse(
            f"{file} must be as it was drawn", "contents that do not match their own sha256", "Draw it again."
        )
    return dict(figure)


def verify(folder: Path) -> dict[str, str]:
    """Whether figures that `redraw` once wrote into `folder` are still what code and rows give.

    Returns, for each file that a manifest there lists, ``same``, ``missing``, ``changed by hand``, ``stale``
    with the reason (a row file that changed, other rows, another bibliography or drawing), or ``no longer a
    figure``.
    Refuses a folder without a manifest, and a manifest that cannot be read.
    """
    manifests = sorted(folder.glob("*.manifest.json"))
    if not manifests:
        rule = "--verify needs a folder that nnopt figures --out has written, with a .manifest.json"
        refuse(rule, folder)
    return {file: verdict for path in manifests for file, verdict in _verdicts(path).items()}


def _verdicts(path: Path) -> dict[str, str]:
    """What `verify` says of each file of one manifest. The figure is drawn again, elsewhere, and compared."""
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        name, drawn, hashes = manifest["name"], manifest["drawn"], dict(manifest["files"])
    except (ValueError, KeyError, TypeError) as error:
        refuse(f"{path} must be a whole manifest of nnopt figures", repr(error), "Draw the figure again.")
    if name not in list_figures():
        return dict.fromkeys(hashes, "no longer a figure")
    with tempfile.TemporaryDirectory() as scratch:
        redraw(name, **drawn, out=Path(scratch))
        redrawn = json.loads((Path(scratch) / path.name).read_text(encoding="utf-8"))
    verdicts = {}
    for file, digest in hashes.items():
        verdict = _on_disk(path.parent / file, digest)
        # What was polished by hand or lost is said as such, whatever its rows have become meanwhile.
        stale = _why_stale(file, manifest, redrawn) if verdict == "same" else ""
        verdicts[file] = f"stale, since {stale}" if stale else verdict
    return verdicts


def _why_stale(file: str, manifest: Mapping[str, Any], redrawn: Mapping[str, Any]) -> str:
    """Why a file that is as it was written is not what would be written now; empty where it is."""
    is_bibliography = file.endswith(".bib")
    # One's own figure was never published, so status.json says nothing about the rows under it.
    if not is_bibliography and not manifest["drawn"]["own"]:
        reasons = stale_rows(manifest["name"][:2], redrawn["rests_on"] or (), read_status())
        if reasons:
            return "; ".join(reasons)
    if redrawn["files"].get(file) == manifest["files"][file]:
        return ""
    if is_bibliography:
        return "what its chapter cites changed"
    return "its rows changed" if redrawn["rows_sha256"] != manifest["rows_sha256"] else "it is drawn anew"


def _on_disk(file: Path, digest: str) -> str:
    if not file.is_file():
        return "missing"
    return "same" if _hash(file.read_bytes()) == digest else "changed by hand"
