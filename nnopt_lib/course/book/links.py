"""Links that the book adds to its copies: to the glossary on a term's first use, and to where chapters run.

They are added when the book is built: the notebooks themselves stay plain text that JupyterLab shows well.
"""

from __future__ import annotations

import json
import os
import re
import tomllib
from pathlib import Path

from nnopt_lib.checks import refuse

UNLINKED_PAGES = ("glossary.md", "ledger.md", "status.md", "bibliography.md", "bibliography-check.md")
# Words with an everyday meaning too ("a row of the kernel"): linked only where an author does it.
EVERYDAY = {"attention", "claim", "front", "head", "importance", "level", "profile", "row", "scope", "step"}
# Not prose: front matter, cards, code, formulas, headings, tables, HTML, options, roles, links.
NOT_PROSE = r"""
    \A---\n.*?^---$ | ^(?P<colons>:{3,})\{grid\}.*?^(?P=colons)$
    | ^[ ]*(?P<fence>`{3,}|~{3,}).*?^[ ]*(?P=fence)$ | \$\$.*?\$\$ | \$[^$\n]+\$
    | ^[ ]{4,}[^\n]*$ | ^[ ]*\#[^\n]*$ | ^[ ]*\|[^\n]*$ | ^[ ]*<[^\n]*$(?:\n[^\n]+)* | ^:[\w:{][^\n]*$
    | \{[\w:]+\}`[^`]*` | (?P<tick>`+)[^`].*?(?P=tick) | !?\[[^\]]*\](?:\([^)]*\)|\[[^\]]*\])
    | <[^>\n]+> | https?://\S+
"""


def add_links(source: Path) -> None:
    """Add glossary links to the copies in `source`. Example: ``add_links(Path("build/book-src"))``."""
    terms = glossary_terms((source / "book" / "glossary.md").read_text(encoding="utf-8"))
    for file in (source / "chapters").glob("*.ipynb"):
        notebook, used = json.loads(file.read_text(encoding="utf-8")), set[str]()
        for cell in notebook["cells"]:
            if cell["cell_type"] == "markdown":
                cell["source"] = link_terms("".join(cell["source"]), terms, used)
        file.write_text(json.dumps(notebook), encoding="utf-8")
    for page in (source / "book").glob("*.md"):
        if page.name not in UNLINKED_PAGES:
            text = page.read_text(encoding="utf-8")
            page.write_text(link_terms(text, terms, set()), encoding="utf-8")


def glossary_terms(glossary: str) -> list[str]:
    """The English words that have an entry, in the page's order, without those of everyday."""
    bodies = re.findall(r"^:::\{glossary\}\n(.*?)^:::$", glossary, re.DOTALL | re.MULTILINE)
    lines = [line for body in bodies for line in body.splitlines()]
    return [line for line in lines if re.match(r"[A-Za-z]", line) and line.isascii() and line not in EVERYDAY]


def link_terms(text: str, terms: list[str], used: set[str]) -> str:
    """`text` with each term linked to the glossary on its first use; `used` holds, and gets, those linked.

    A longer term wins over one inside it, plurals count, and only the first letter's case is free, where the
    glossary writes it small. Example: ``link_terms("Pruning.", ["pruning"], set())``.
    """
    skipped = re.compile(NOT_PROSE.strip(), re.VERBOSE | re.DOTALL | re.MULTILINE)
    groups = {f"t{number}": term for number, term in enumerate(sorted(terms, key=len, reverse=True))}
    words = re.compile("|".join(f"(?P<{key}>{_pattern(term)})" for key, term in groups.items()))

    def linked(match: re.Match[str]) -> str:
        term = groups[str(match.lastgroup)]
        if term in used:
            return match[0]
        used.add(term)
        shown = " ".join(match[0].split())
        return f"{{term}}`{shown}`" if shown == term else f"{{term}}`{shown} <{term}>`"

    parts, end = [], 0
    for gap in skipped.finditer(text):
        parts += [words.sub(linked, text[end : gap.start()]), gap[0]]
        if role := re.match(r"\{term\}`(?:[^`<]*<)?([^`>]+)>?`", gap[0]):
            used.update(term for term in terms if term.lower() == role[1].lower())
        end = gap.end()
    return "".join([*parts, words.sub(linked, text[end:])])


def _pattern(term: str) -> str:
    first = f"[{term[0].lower()}{term[0].upper()}]" if term == term.lower() else re.escape(term[0])
    rest = r"\s".join(re.escape(word) for word in term[1:].split(" "))
    return rf"(?<![\w-]){first}{rest}(?:e?s)?(?![\w-])"


def repository(root: Path) -> str | None:
    """The repository's public address ``https://github.com/OWNER/NAME``, None where none is named.

    ``NNOPT_REPOSITORY`` wins over ``Repository`` in ``[project.urls]`` of pyproject.toml. Refuses an
    address that neither Colab nor Binder could open.
    """
    address, file = os.environ.get("NNOPT_REPOSITORY", ""), root / "pyproject.toml"
    if not address and file.is_file():
        project = tomllib.loads(file.read_text(encoding="utf-8")).get("project", {})
        address = project.get("urls", {}).get("Repository", "")
    address = address.removesuffix("/").removesuffix(".git")
    if address and not re.fullmatch(r"https://github\.com/[\w.-]+/[\w.-]+", address):
        refuse(
            "the repository's address must be https://github.com/OWNER/NAME",
            address,
            "Correct NNOPT_REPOSITORY or [project.urls] in pyproject.toml, or leave it out.",
        )
    return address or None


def add_launch_links(text: str, stem: str, address: str | None) -> str:
    """A chapter's first cell with links below its table of time and hardware, that open it to be run."""
    links = [f"[in JupyterLab on this machine](http://localhost:8888/lab/tree/chapters/{stem}.ipynb)"]
    if address:
        name = address.removeprefix("https://github.com/")
        colab = f"https://colab.research.google.com/github/{name}/blob/main/chapters/{stem}.ipynb"
        binder = f"https://mybinder.org/v2/gh/{name}/main?urlpath=lab/tree/chapters/{stem}.ipynb"
        links += [f"[in Colab]({colab})", f"[on Binder]({binder})"]
    line = f"Run it: {' · '.join(links)}. [How](../book/how-to-read.md)"
    return re.sub(r"(^\| *time *\|.*\n(?:\|.*(?:\n|$))+)", rf"\1\n{line}\n", text, count=1, flags=re.M)
