"""Tables of the networks that were tried, for the page on networks of one's own, from what was measured."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from tabulate import tabulate

from nnopt_lib.paths import project_root

_FILE = "book/networks-tried.json"  # python -m tests.zoo.tried writes it
_TABLES = (
    ("PyTorch: half of the nodes", "torch", "node"),
    ("PyTorch: half of the attention heads", "torch", "head"),
    ("Keras: half of the nodes", "keras", "node"),
)
_HEADS = (
    "network",
    "one input",
    "parameters",
    "left",
    "MACs",
    "left",
    "layers that lost some",
    "whole",
)


def tried_tables() -> str:
    """Markdown tables: each network with its parameters and MACs, what is left of them, and layers whole."""
    rows = json.loads((project_root() / _FILE).read_text(encoding="utf-8"))
    sections = []
    for title, framework, granularity in _TABLES:
        here = [row for row in rows if (row["framework"], row["granularity"]) == (framework, granularity)]
        lines = [_line(row) for row in here if "refused" not in row]
        right = ("left", "left", *("right",) * 6)
        table = tabulate(lines, _HEADS, tablefmt="pipe", colalign=right, disable_numparse=True)
        refused = [_refused(row) for row in here if "refused" in row]
        sections.append("\n\n".join([f"**{title}**", table, *(["\n".join(refused)] if refused else [])]))
    return "\n\n".join(sections)


def _line(row: Mapping[str, Any]) -> list[str]:
    return [
        row["network"],
        "×".join(str(size) for size in row["input"]),
        _short(row["parameters"]),
        f"{_short(row['parameters_left'])} ({row['parameters_left'] / row['parameters']:.0%})".replace(
            "%", " %"
        ),
        _short(row["macs"]),
        f"{_short(row['macs_left'])} ({row['macs_left'] / row['macs']:.0%})".replace("%", " %"),
        str(row["layers_pruned"]),
        str(row["layers_whole"]),
    ]


def _refused(row: Mapping[str, Any]) -> str:
    """A line for a network that kept everything, with the last of the reasons that stand in brackets."""
    reason = row["refused"].partition(" (")[2].rpartition("; ")[2]
    layer, _, why = reason.partition(": ")
    layer, why = layer.strip("'"), why.partition(" (")[0]
    return f"- {row['network']}: nothing leaves `{layer}` or its like, since {why}."


def _short(number: int) -> str:
    """Three digits that count: 25,557,032 is 25.6 M."""
    for unit, size in ((" G", 10**9), (" M", 10**6), (" k", 10**3)):
        if number >= 0.9995 * size:
            return f"{number / size:#.3g}".rstrip(".") + unit
    return str(number)
