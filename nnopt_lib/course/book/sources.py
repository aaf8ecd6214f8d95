"""What would render broken in the book although Sphinx says nothing: looked for before it runs.

Pages and markdown cells are taken apart by the parser that the book itself uses.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
from collections.abc import Iterator, Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote

from nnopt_lib.checks import NnoptError
from nnopt_lib.course.book.mathjax import Vocabulary, formula_problems, read_vocabulary

if TYPE_CHECKING:
    from markdown_it import MarkdownIt
    from markdown_it.token import Token

# Directives whose content is no markdown; that of all others is looked at as a page is.
LITERAL = {"bibliography", "code", "code-block", "code-cell", "csv-table", "eval-rst", "literalinclude"}
LITERAL |= {"math", "mermaid", "raw", "sourcecode", "toctree"}
PICTURES = {"image", "figure"}
FORMULAS = ("math_inline", "math_inline_double", "math_block", "math_block_label", "amsmath")
# Signs that the parser leaves among the words where what they begin has no end, or no beginning.
LEFT_OVER = {
    "![": "a picture whose address cannot be read",
    "](": "a link whose address cannot be read",
    "][": "a link whose address is not defined",
    "[^": "a footnote that is not defined",
    "$$": "$$ that nothing closes",
    "$": "$ that nothing closes",
    "\\begin{": "\\begin that no \\end closes, or of an environment that needs $$",
    "\\(": "\\( that begins no formula here, where $ does",
    "`": "` that nothing closes",
    "<!--": "<!-- that nothing closes",
}
VOID = {"area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "track", "wbr"}
MAY_STAY_OPEN = {"p", "li", "dt", "dd", "tr", "td", "th", "thead", "tbody", "tfoot", "option", "colgroup"}


@dataclasses.dataclass(frozen=True)
class Part:
    """A page, a cell, or the content of a directive: what it is called, its text and where it stands."""

    name: str
    text: str
    folder: Path
    attachments: frozenset[str] = frozenset()


def check_sources(source: Path) -> None:
    """Refuse the assembled book in `source` where a page would render broken, naming each in one sentence.

    Example: ``check_sources(Path("build/book-src"))``.
    """
    problems = list(source_problems(source))
    if problems:
        count = f"{len(problems)} problem{'s'[: len(problems) != 1]}"
        raise NnoptError(
            f"The book must have no page that renders broken; received {count}: {' | '.join(problems)}. "
            "The previous book was left in place."
        )


def source_problems(source: Path) -> Iterator[str]:
    """What would render broken in the pages and notebooks of `source`, each by name."""
    import yaml

    config = yaml.safe_load((source / "_config.yml").read_text(encoding="utf-8"))["sphinx"]["config"]
    parser = _parser(config["myst_enable_extensions"])
    tex = config.get("mathjax3_config", {}).get("tex", {})
    for file in [*sorted((source / "book").glob("*.md")), *sorted((source / "chapters").glob("*.ipynb"))]:
        known = read_vocabulary(source / "vendor" / "mathjax" / "tex-chtml-full.js")
        known.commands.update(tex.get("macros", ()))
        known.environments.update(tex.get("environments", ()))
        page = _Page(source, parser, known)
        for part in _parts(file, file.relative_to(source).as_posix()):
            yield from (f"{part.name}: {problem}" for problem in dict.fromkeys(page.problems(part)))


def _parser(extensions: Sequence[str]) -> MarkdownIt:
    """The book's own, that leaves escaped characters apart from words: ``\\$`` begins no formula."""
    from markdown_it.renderer import RendererHTML
    from myst_parser.config.main import MdParserConfig
    from myst_parser.parsers.mdit import create_md_parser

    parser = create_md_parser(MdParserConfig(enable_extensions=set(extensions)), RendererHTML)
    return parser.disable("text_join")


def _parts(file: Path, name: str) -> Iterator[Part]:
    text = file.read_text(encoding="utf-8")
    if file.suffix == ".md":
        yield Part(name, text, file.parent)
        return
    for number, cell in enumerate(json.loads(text)["cells"], start=1):
        if cell["cell_type"] == "markdown":
            attachments = frozenset(cell.get("attachments", ()))
            yield Part(f"{name}, cell {number}", "".join(cell["source"]), file.parent, attachments)


@dataclasses.dataclass(frozen=True)
class _Page:
    """One page of the book in `source`, with the TeX that is known where its next part begins."""

    source: Path
    parser: MarkdownIt
    known: Vocabulary

    def problems(self, part: Part) -> Iterator[str]:
        markup = Markup()
        for token in _flat(self.parser.parse(part.text)):
            if token.type in FORMULAS or (token.type == "myst_role" and token.meta["name"] == "math"):
                yield from formula_problems(token.content, self.known)
            elif token.type == "image":
                yield from self._picture_problems(part, str(token.attrs.get("src", "")))
            elif token.type in ("fence", "colon_fence"):
                yield from self._fence_problems(part, token)
            elif token.type == "inline":
                yield from _left_over(token.children or ())
            elif token.type in ("html_block", "html_inline"):
                if token.content.lstrip().startswith("<!--") and "-->" not in token.content:
                    yield LEFT_OVER["<!--"]
                markup.feed(token.content)
        markup.close()
        yield from markup.problems()
        for address in markup.addresses:
            yield from self._asset_problems(part, address)

    def _fence_problems(self, part: Part, token: Token) -> Iterator[str]:
        first = f"{token.markup}{token.info}".strip()
        if not _is_closed(token, part.text.splitlines()):
            yield f"{first} is not closed"
            return  # what follows is not meant to be inside
        directive = re.match(r"\{([\w:+.-]+)\}\s*(\S*)", token.info.strip())
        if not directive:
            return
        name, argument = directive.groups()
        if name == "math":
            yield from formula_problems(_without_options(token.content), self.known)
        if name in PICTURES:
            yield from self._picture_problems(part, argument)
        if name not in LITERAL:
            yield from self.problems(dataclasses.replace(part, text=_without_options(token.content)))

    def _picture_problems(self, part: Part, address: str) -> Iterator[str]:
        """A picture in markdown, which Sphinx copies from beside the page."""
        path = unquote(address)
        if path.startswith("data:") or path.removeprefix("attachment:") in part.attachments:
            return
        folder = self.source if path.startswith("/") else part.folder
        if not path or not (folder / path.lstrip("/")).is_file():
            yield f"the picture {path or 'without an address'} is not in the book"

    def _asset_problems(self, part: Part, address: str) -> Iterator[str]:
        """An address in HTML, which Sphinx leaves as it is: of all files only some stand where it says."""
        path = unquote(address.partition("?")[0].partition("#")[0])
        if path.startswith("data:"):
            return
        inside = os.path.relpath(part.folder / path, self.source)
        copied = self.source / inside if inside.startswith("_static/") else self.source / "vendor" / inside
        if not path or not copied.is_file():
            name = address or "a picture without an address"
            yield f"{name}, of an HTML tag, is not in the book's _static/"


def _flat(tokens: Sequence[Token]) -> Iterator[Token]:
    for token in tokens:
        yield token
        if token.type == "inline":
            yield from _flat(token.children or ())


def _is_closed(token: Token, lines: Sequence[str]) -> bool:
    """Whether a fence ends in one of its own, and none of its lines begins another that it would swallow."""
    begin, end = token.map or (0, 0)
    mark, length = token.markup[0], len(token.markup)
    last = lines[end - 1].strip(" \t>")
    closes = end - 1 > begin and len(last) >= length and set(last) == {mark}
    opening = rf"^ {{0,3}}{re.escape(mark)}{{{length},}}[ \t]*[\w{{]"
    return closes and not re.search(opening, token.content, re.MULTILINE)


def _without_options(content: str) -> str:
    """The content of a directive without the lines ``:name: value``, or those between ``---``, before it."""
    return re.sub(r"\A(?:---\n.*?\n---(?:\n|\Z)|(?::[\w-]+:[^\n]*(?:\n|\Z))+)", "", content, flags=re.DOTALL)


def _left_over(tokens: Sequence[Token]) -> Iterator[str]:
    """The signs among the words of one paragraph or heading; code, formulas and the like count as blanks."""
    words = " ".join("".join(_words(tokens)).split())
    for sign, meaning in LEFT_OVER.items():
        before, met, after = words.partition(sign)
        if met:
            yield f"“{before[-20:].lstrip()}{sign}{after[:20].rstrip()}” has {meaning}"
            return  # `$` is in `$$`, and a picture has a link's signs


def _words(tokens: Sequence[Token]) -> Iterator[str]:
    is_address = False
    for token in tokens:
        # A backslash that escapes nothing is a word's own, as in `\begin`. An escaped sign begins nothing,
        # but nobody would escape a bracket.
        is_word = token.type == "text" or (token.type == "text_special" and token.content == token.markup)
        is_word |= token.type == "text_special" and token.content == "("
        yield (token.markup or token.content) if is_word and not is_address else " "
        is_address = token.type == "link_open" and token.info == "auto"


class Markup(HTMLParser):
    """The HTML of a part: which elements are not closed, or not opened, and which files it asks for."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self._open: list[str] = []
        self._problems: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note what it asks for, and that it is open."""
        values = dict(attrs)
        if tag in ("img", "source", "video", "audio", "iframe", "embed", "script", "object"):
            self.addresses += [values[key] or "" for key in ("src", "data", "poster") if key in values]
            self.addresses += [""] if tag == "img" and "src" not in values else []
        if tag not in VOID | MAY_STAY_OPEN:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """``<path/>`` is closed in a drawing; in HTML a browser takes ``<details/>`` for opened."""
        self.handle_starttag(tag, attrs)
        if "svg" in self._open and self._open[-1] == tag:
            self._open.pop()

    def handle_endtag(self, tag: str) -> None:
        """Close the element, and with it those that were left open inside."""
        if tag in VOID | MAY_STAY_OPEN:
            return
        if tag not in self._open:
            self._problems.append(f"</{tag}> closes what nothing has opened")
            return
        while (inner := self._open.pop()) != tag:
            self._problems.append(f"<{inner}> is not closed")

    def problems(self) -> list[str]:
        """What is wrong, once all was fed and `close` called."""
        return [*self._problems, *(f"<{tag}> is not closed" for tag in self._open)]
