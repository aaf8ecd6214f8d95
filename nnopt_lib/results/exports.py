"""What a paper takes along with a figure: its rows as CSV and as a LaTeX table, its references."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from nnopt_lib.paths import project_root

Rows = Sequence[Mapping[str, Any]]
_LATEX = {
    **{sign: rf"\{sign}" for sign in "&%$#_{}"},
    **{"~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "\\": r"\textbackslash{}"},
    **{"−": "$-$", "±": r"$\pm$", "×": r"$\times$", "→": r"$\to$"},
}


def as_csv(rows: Rows) -> str:
    """The rows with all their digits, a column per field; a list (of pixels, of seeds) stands as JSON."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns(rows), lineterminator="\n")
    writer.writeheader()
    writer.writerows({field: _as_json(value) for field, value in row.items()} for row in rows)
    return text.getvalue()


def _as_json(value: Any) -> Any:
    return json.dumps(value) if isinstance(value, (list, tuple)) else value


def as_latex(rows: Rows) -> str:
    r"""The rows as a plain ``tabular`` (four significant digits) that needs no package; ``\input`` it.

    Lists, as of pixels, are left out: no table has room for them.
    """
    lists = {field for row in rows for field, value in row.items() if isinstance(value, (list, tuple))}
    fields = [field for field in columns(rows) if field not in lists]
    # A column is aligned to the right only if all of it is numbers; a missing cell does not count.
    numbers = [all(_is_number(row.get(field, 0)) for row in rows) for field in fields]
    lines = [rf"\begin{{tabular}}{{{''.join('r' if number else 'l' for number in numbers)}}}", r"\hline"]
    lines += [" & ".join(_cell(field.replace("_", " ")) for field in fields) + r" \\", r"\hline"]
    lines += [" & ".join(_cell(row.get(field)) for field in fields) + r" \\" for row in rows]
    return "\n".join([*lines, r"\hline", r"\end{tabular}", ""])


def columns(rows: Rows) -> list[str]:
    """All fields, in the order in which they first appear."""
    return list(dict.fromkeys(field for row in rows for field in row))


def _is_number(value: Any) -> bool:
    # A bool is an int in Python, but no number to a reader.
    return value is None or (isinstance(value, (int, float)) and not isinstance(value, bool))


def _cell(value: Any) -> str:
    if value is None:
        return "--"
    if isinstance(value, float):
        mantissa, _, power = f"{value:.4g}".partition("e")
        number = rf"{mantissa} \times 10^{{{int(power)}}}" if power else mantissa
        return f"${number}$" if power or value < 0 else number  # outside math "-" is a hyphen
    return "".join(_LATEX.get(sign, sign) for sign in str(value))


def references_of(figure: str) -> str:
    """BibTeX of all that the chapter of a figure cites; empty where there is no chapter or bibliography."""
    from pybtex.database import BibliographyData, parse_file

    file = project_root() / "book" / "references.bib"
    sources = sorted((project_root() / "chapters").glob(f"{figure[:2]}-*.md"))
    if not file.is_file() or not sources:
        return ""
    known = parse_file(str(file)).entries
    text = "".join(source.read_text(encoding="utf-8") for source in sources)
    cited = {
        key.strip() for keys in re.findall(r"\{cite(?::\w+)?\}`([^`]+)`", text) for key in keys.split(",")
    }
    # An unknown key is left out here: the book's build refuses it, and names it.
    entries = {key: known[key] for key in sorted(cited) if key in known}
    return str(BibliographyData(entries=entries).to_string("bibtex")) if entries else ""
