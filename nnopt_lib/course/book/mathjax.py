"""The TeX that the book's MathJax knows, read from its bundle, and what in a formula it would show in red."""

from __future__ import annotations

import ast
import dataclasses
import functools
import json
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path

# In the bundle: `new x.CommandMap("name",{...})`, and which of these maps a package consists of.
MAP = re.compile(r'(Command|Character|Delimiter|Macro|Environment)Map\)?\(("[\w-]+"),')
HANDLERS = re.compile(
    r"\b(?:macro|delimiter|environment):\[([^\]]*)\]"
)  # those of characters are no commands
PACKAGE = re.compile(r'Configuration\.create\("([\w-]+)",')
DEFINITION = re.compile(
    r"\\(?:(?:re|provide)?newcommand|def|gdef|let|DeclareMathOperator|DeclarePairedDelimiter\w*)\*?"
    r"\s*\{?\s*\\([A-Za-z]+)"
)
NEW_ENVIRONMENT = re.compile(r"\\(?:re)?newenvironment\*?\s*\{(\w+\*?)\}")
TOKEN = re.compile(r"\\(begin|end)\s*\{([^{}]*)\}|\\([A-Za-z]+|.)|([{}])|(?<!\\)%[^\n]*", re.DOTALL)


@dataclasses.dataclass
class Vocabulary:
    """Names of commands without their backslash, and of environments; a page adds those that it defines."""

    commands: set[str]
    environments: set[str]

    def define(self, formula: str) -> None:
        """Add what `formula` defines for those after it."""
        self.commands |= set(DEFINITION.findall(formula))
        self.environments |= set(NEW_ENVIRONMENT.findall(formula))


def read_vocabulary(bundle: Path) -> Vocabulary:
    """What MathJax knows without any definition. Example: ``read_vocabulary(Path("tex-chtml-full.js"))``."""
    commands, environments = _names(bundle)
    return Vocabulary(set(commands), set(environments))


@functools.cache  # the bundle has a megabyte, and no page changes it
def _names(bundle: Path) -> tuple[frozenset[str], frozenset[str]]:
    text = bundle.read_text(encoding="utf-8")
    listed = re.search(r"\.AllPackages=(\[[^\]]+\])", text)
    # The packages of a formula, and that of the words inside of \text.
    packages = {"text-base", *(json.loads(listed[1]) if listed else ())}
    used: set[str] = set()
    for package in PACKAGE.finditer(text):
        if package[1] in packages:
            for names in HANDLERS.findall(_parts(text, package.end())[0]):
                used |= set(re.findall(r'"[\w-]+"', names))
    commands, environments = set[str](), set[str]()
    for table in MAP.finditer(text):
        if table[2] not in used:
            continue
        objects = [part for part in _parts(text, table.end()) if part.startswith("{")]
        keys = {_key(part) for part in _parts(objects[0], 1) if part}
        if table[1] == "Environment":
            environments |= keys
        elif table[1] == "Delimiter":  # some are single characters, which need no command
            commands |= {key[1:] for key in keys if key.startswith("\\")}
        else:
            commands |= keys
    return frozenset(commands), frozenset(environments)


def _parts(script: str, start: int) -> list[str]:
    """What stands between commas in JavaScript, from `start` to the bracket that closes what it is in."""
    parts, depth, begin = [], 0, start
    for token in re.compile(r'"(?:[^"\\]|\\.)*"|\'(?:[^\'\\]|\\.)*\'|[()\[\]{},]').finditer(script, start):
        mark = token[0]
        if mark in ("(", "[", "{"):
            depth += 1
        elif mark in (")", "]", "}"):
            depth -= 1
        if depth < 0 or (depth == 0 and mark == ","):
            parts.append(script[begin : token.start()])
            begin = token.end()
        if depth < 0:
            break
    return parts


def _key(part: str) -> str:
    """The name before the colon, in quotes or not."""
    quoted = re.match(r'"(?:[^"\\]|\\.)*"|\'(?:[^\'\\]|\\.)*\'', part)
    return str(ast.literal_eval(quoted[0])) if quoted else part.partition(":")[0]


def formula_problems(formula: str, known: Vocabulary) -> Iterator[str]:
    """What MathJax would show in red: names that it does not know, braces and pairs that do not match."""
    known.define(formula)
    shown = f"the formula ${textwrap.shorten(formula, 80, placeholder=' ...')}$"
    unknown, unmatched = [], []
    open_pairs: list[str] = []
    for token in TOKEN.finditer(formula):
        side, environment, command, brace = token.groups()
        if side == "begin" and environment not in known.environments:
            unknown.append(f"\\begin{{{environment}}}")
        # Before the end of a line a backslash is a blank, as to TeX.
        if command is not None and command not in known.commands and command != "\n":
            unknown.append(f"\\{command}")
        pair = _pair(side, environment, command, brace)
        if pair and pair[0]:
            open_pairs.append(pair[1])
        elif pair and open_pairs[-1:] == [pair[1]]:
            open_pairs.pop()
        elif pair:
            unmatched.append(pair[1])
    for name in dict.fromkeys(unknown):
        yield f"{shown} has {name}, which MathJax does not know"
    for name in dict.fromkeys([*unmatched, *open_pairs]):
        yield f"{shown} has {name} without its other half"


def _pair(
    side: str | None, environment: str | None, command: str | None, brace: str | None
) -> tuple[bool, str] | None:
    """Whether a token opens, and what; None where it is no half of a pair."""
    if environment is not None:
        return side == "begin", f"\\begin{{{environment}}}"
    if command in ("left", "right"):
        return command == "left", "\\left"
    return (brace == "{", "{") if brace else None  # MathJax takes an escaped one for a sign like any other
