"""The ways to break the library, by cosmic-ray's operators; a sample of them; the tests that should notice.

A place in the code is drawn, then one way to break it, so a place counts once however many ways there are.
"""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import cosmic_ray.ast
import cosmic_ray.mutating
import cosmic_ray.plugins

MODULES = (
    *(f"pruning/{name}.py" for name in ("allocation", "importance", "iterative", "masks", "node_masks")),
    *(f"pruning/{name}.py" for name in ("prune", "removal", "schedules", "scores", "topk")),
    *("structure/coupling.py", "structure/edits/resize.py", "backends/torch/masks.py"),
    *("backends/torch/removal.py", "measure/statistics.py", "files.py"),
    *(f"experiments/{name}.py" for name in ("records", "rows", "run")),
    *(f"results/{name}.py" for name in ("claims", "figures", "seals", "staleness")),
    "course/chapters/*.py",
    *(
        f"course/labs/{name}.py"
        for name in ("collect", "grade", "gradebook", "report", "submissions", "untouched")
    ),
)
TORCH = (
    "backends/torch/test_masks.py",
    "backends/torch/test_removal.py",
    "backends/torch/test_importance.py",
)
MORE_TESTS = {
    **{f"pruning/{name}.py": TORCH for name in ("importance", "iterative", "masks", "node_masks", "prune")},
    **{f"pruning/{name}.py": TORCH for name in ("allocation", "removal", "schedules", "scores", "topk")},
    "backends/torch/masks.py": ("pruning/test_prune.py", "pruning/test_iterative.py"),
    "backends/torch/removal.py": ("pruning/test_removal.py", "pruning/test_node_masks.py"),
    "structure/coupling.py": ("pruning/test_removal.py", "pruning/test_node_masks.py", *TORCH[1:]),
    "structure/edits/resize.py": ("pruning/test_removal.py", "backends/torch/test_removal.py"),
    "experiments/records.py": ("results/test_staleness.py", "course/chapters/test_verify.py"),
    "experiments/run.py": ("results/test_staleness.py", "course/chapters/test_commands.py"),
    "experiments/rows.py": ("results/test_claims.py", "results/test_figures.py"),
    "files.py": (
        "results/test_seals.py",
        "pruning/test_checkpoints.py",
        "pruning/test_masks.py",
        "experiments/test_records.py",
    ),
}
# Other replacements are equal for what occurs here (`==` by `is`, `-1` by `+1` beside `1`), or a TypeError
# wherever the line runs (`<<` between floats), which would count as an easy kill.
BINARY = ("Add_Sub", "Sub_Add", "Mul_Div", "Div_Mul", "FloorDiv_Div", "Mod_FloorDiv", "Pow_Mul")
BINARY += ("BitOr_BitAnd", "BitAnd_BitOr", "BitXor_BitAnd", "LShift_RShift", "RShift_LShift")
ORDER = ("Eq", "NotEq", "Lt", "LtE", "Gt", "GtE")
OPERATORS = (
    *(f"ReplaceBinaryOperator_{pair}" for pair in BINARY),
    *(f"ReplaceComparisonOperator_{one}_{other}" for one in ORDER for other in ORDER if one != other),
    *("ReplaceComparisonOperator_Is_IsNot", "ReplaceComparisonOperator_IsNot_Is"),
    *("ReplaceUnaryOperator_Delete_Not", "ReplaceUnaryOperator_Delete_USub"),
    *("ReplaceUnaryOperator_Delete_Invert", "AddNot", "ReplaceTrueWithFalse", "ReplaceFalseWithTrue"),
    *("ReplaceAndWithOr", "ReplaceOrWithAnd", "ReplaceBreakWithContinue", "ReplaceContinueWithBreak"),
    *("ExceptionReplacer", "NumberReplacer", "ZeroIterationForLoop"),
)
ARITHMETIC = {"arith_expr", "term", "power", "expr", "and_expr", "xor_expr", "shift_expr"}


class Mutant(NamedTuple):
    """One way to break one file; `line` as in the file, `diff` what is taken out and put in."""

    file: str
    line: int
    operator: str
    occurrence: int
    source: str
    diff: tuple[str, ...]


def left_out(node: Any, operator: str) -> bool:
    """No code that runs, the code's checks of itself, a TypeError at once, or what another operator does."""
    if operator.startswith("ReplaceBinaryOperator"):
        beside = {sibling.type for sibling in node.parent.children}
        if node.parent.type not in ARITHMETIC or beside & {
            "string",
            "fstring",
        }:  # f(*a); text or path, no numbers
            return True
        if node.value == "|" and node.search_ancestor("funcdef") is None:  # a type with a name
            return True
    if operator == "AddNot":
        condition = node.children[2 if node.type == "test" else 1]
        words = condition.get_code().split()
        if words == ["TYPE_CHECKING"] or condition.type == "not_test":  # the latter loses its `not` elsewhere
            return True
        if condition.type == "comparison" and "in" not in words:  # is replaced elsewhere
            return True
    while node.parent is not None:
        inside, parent = node, node.parent
        if parent.type in ("tfpdef", "decorator", "assert_stmt"):
            return True
        if parent.type == "annassign" and parent.children[1] is inside:
            return True
        if parent.type == "funcdef" and parent.annotation is inside:
            return True
        if parent.type == "argument" and parent.children[0].get_code().strip() == "strict":  # of zip
            return True
        node = parent
    return False


def places(text: str) -> dict[tuple[str, tuple[int, int]], list[tuple[str, int]]]:
    """Kind of operator and position, with all ways to break the code there: operator and its occurrence."""
    nodes = list(cosmic_ray.ast.ast_nodes(cosmic_ray.ast.get_ast(text)))
    ways: dict[tuple[str, tuple[int, int]], list[tuple[str, int]]] = {}
    for operator in OPERATORS:
        breaking = cosmic_ray.plugins.get_operator(f"core/{operator}")()
        spots = ((node, start) for node in nodes for start, _ in breaking.mutation_positions(node))
        for occurrence, (node, start) in enumerate(spots):
            if not left_out(node, operator):
                ways.setdefault((operator.partition("_")[0], start), []).append((operator, occurrence))
    return ways


def ranked(root: Path, seed: int, only: str = "") -> list[tuple[str, str, list[tuple[str, int]]]]:
    """A drawn number, the file and the ways of every place, by that number.

    The number comes from the line itself, so an edit elsewhere leaves most of a sample as it was.
    """
    drawn = []
    files = [file for pattern in MODULES for file in sorted((root / "nnopt_lib").glob(pattern))]
    for file in files:
        name = file.relative_to(root).as_posix()
        if only not in name:
            continue
        text = file.read_text(encoding="utf-8")
        seen: dict[str, int] = {}
        for (kind, (line, _)), ways in sorted(places(text).items()):
            words = f"{seed} {name} {kind} {text.splitlines()[line - 1].strip()}"
            seen[words] = seen.get(words, 0) + 1
            digest = hashlib.sha256(f"{words} {seen[words]}".encode()).hexdigest()
            drawn.append((digest, name, ways))
    return sorted(drawn)


def sample(root: Path, count: int, seed: int, only: str = "") -> Iterator[Mutant]:
    """The first `count` places by their drawn numbers, each broken in one way; what is no Python is left out."""
    for digest, name, ways in ranked(root, seed, only):
        operator, occurrence = ways[int(digest, 16) % len(ways)]
        text = (root / name).read_text(encoding="utf-8")
        breaking = cosmic_ray.plugins.get_operator(f"core/{operator}")()
        try:
            source = cosmic_ray.mutating.mutate_code(text, breaking, occurrence)
            compile(source, name, "exec")
        except (AttributeError, SyntaxError):  # the former: cosmic-ray cannot replace `a.Error` in a tuple
            continue
        before, after = text.splitlines(), source.splitlines()
        changes = [
            c for c in difflib.SequenceMatcher(None, before, after, False).get_opcodes() if c[0] != "equal"
        ]
        diff = [f"- {line.strip()}" for _, i, j, _, _ in changes for line in before[i:j]]
        diff += [f"+ {line.strip()}" for _, _, _, i, j in changes for line in after[i:j]]
        yield Mutant(name, changes[0][1] + 1, operator, occurrence, source, tuple(diff))
        count -= 1
        if count == 0:
            return


def stages(root: Path, name: str) -> list[tuple[str, ...]]:
    """Test files for a module, in two steps: those that stand for it, then others that would notice."""
    module = Path(name).relative_to("nnopt_lib")
    mirror = root / "tests" / module.parent / f"test_{module.name}"
    room = root / "tests" / Path(*module.parts[:-1][: 2 if module.parts[0] == "course" else 1])
    others = [] if module.parent == Path() else sorted(room.rglob("test_*.py"))
    others += [root / "tests" / more for more in MORE_TESTS.get(module.as_posix(), ())]
    others = [file for file in dict.fromkeys(others) if file != mirror and file.is_file()]
    steps = [[mirror] if mirror.is_file() else [], others]
    return [tuple(file.relative_to(root).as_posix() for file in step) for step in steps if step]
