"""The figures that a reader can play with in the built book: what they show, from published rows, as HTML.

Each is complete without its script (a table stands below it); ``book/_static/play.js`` draws it and makes it
answer to mouse and keyboard. Nothing is loaded from anywhere.
"""

from __future__ import annotations

import html
import json
from collections.abc import Mapping, Sequence
from typing import Any

from nnopt_lib.checks import refuse
from nnopt_lib.experiments.records import read_published
from nnopt_lib.measure.costs import count
from nnopt_lib.measure.statistics import interval
from nnopt_lib.structure.classics import mlp
from nnopt_lib.structure.spec import NetSpec

BYTES = 4  # of a float32 weight


def masks_widget() -> str:
    """A slider over sparsity: the masks of one layer, accuracy with its interval, weights kept."""
    (record,) = _records("09-masks")
    layer = record["rows"]
    stops = []  # one for each position of the slider: its mask, its weights, its accuracies
    for sparsity in sorted({row["sparsity"] for row in layer}):
        rows = [row for row in layer if row["sparsity"] == sparsity]
        cells, kept = [row["cells"] for row in rows], rows[0]["kept"]
        stop = {"sparsity": sparsity, "cells": cells, "kept": kept, "bytes": BYTES * kept}
        stops.append(stop | _accuracies(sparsity))
    whole = stops[0]["kept"]  # the first has sparsity 0, so it keeps every weight, and one accuracy only
    head = ["Sparsity", "Weights kept", "Bytes of their values", *stops[1]["accuracy"]]
    body = [
        [f"{stop['sparsity']:g}", f"{stop['kept']:,}", f"{stop['bytes']:,}"]
        + [_band(stop["accuracy"].get(name)) for name in stops[1]["accuracy"]]
        for stop in stops
    ]
    return _widget("masks", {"stops": stops, "whole": whole}, head, body)


def _accuracies(sparsity: float) -> dict[str, Any]:
    """Test accuracy, %, as (mean, low, high) over the seeds, by the name of what was done."""
    wanted = {"network": "MLP", "training": 40, "retraining": 40, "schedule": "cosine"}
    accuracies: dict[str, Any] = {}
    for record in _records("09-choices"):
        settings, rows = record["settings"], record["rows"]
        if settings["sparsity"] != sparsity or any(settings[name] != v for name, v in wanted.items()):
            continue
        test = interval([row["test"] for row in rows])
        if settings["method"] == "dense":
            return {"accuracy": {"Magnitude, retrained": test}}
        if settings["method"] == "random":
            accuracies["Random mask, retrained"] = test
        if settings["method"] == "global":
            accuracies["Magnitude, retrained"] = test
            accuracies["Magnitude, not retrained"] = interval([row["at_once"] for row in rows])
    return {"accuracy": dict(sorted(accuracies.items()))}


def front_widget() -> str:
    """The candidates of chapter 06's pool, accuracy against parameters, with their structure, by budget."""
    best: dict[str, dict[str, Any]] = {}
    for record in _records("06-pool"):
        point = _point(record)
        known = best.get(record["settings"]["network"])
        if known is None or point["accuracy"][0] > known["accuracy"][0]:  # a candidate chooses its own rate
            best[record["settings"]["network"]] = point
    pool = sorted(best.values(), key=lambda point: (point["parameters"], point["macs"]))
    article = count(mlp((32,), inputs=64, outputs=10))
    searches = {
        f"at most {article.parameters:,} parameters": [
            dict(point) for point in pool if point["parameters"] <= article.parameters
        ],
        f"at most {article.macs:,} MACs": [dict(point) for point in pool if point["macs"] <= article.macs],
        "the whole pool": pool,
    }
    for points in searches.values():
        highest = 0.0
        for point in points:  # from the smallest: on the front is what beats all that is smaller
            point["front"] = point["accuracy"][0] > highest
            highest = max(highest, point["accuracy"][0])
    head = ["Search", "Structure", "Parameters", "MACs", "Validation accuracy, %", "On the front"]
    body = [
        [name, point["structure"], f"{point['parameters']:,}", f"{point['macs']:,}"]
        + [_band(point["accuracy"]), "yes" if point["front"] else ""]
        for name, points in searches.items()
        for point in points
    ]
    return _widget("front", {"searches": searches}, head, body)


def _point(record: Mapping[str, Any]) -> dict[str, Any]:
    spec = NetSpec.from_json(record["settings"]["network"])
    cost = count(spec)
    accuracy = interval([row["validation"] for row in record["rows"]])
    costs = {"parameters": cost.parameters, "macs": cost.macs}
    return {"structure": structure(spec), "accuracy": accuracy, **costs}


def structure(spec: NetSpec) -> str:
    """A network in a line: its layers with their widths in order, then what joins them.

    Example:
        >>> from nnopt_lib import mlp
        >>> structure(mlp((32, 16), inputs=64, outputs=10))
        'dense 32, 16, 10'
    """
    runs: list[tuple[str, list[int]]] = []
    joins: dict[str, int] = {}
    for node in spec.nodes:
        if "units" in node.options or "filters" in node.options:
            if not runs or runs[-1][0] != node.op:
                runs.append((node.op, []))
            runs[-1][1].append(spec.shapes[node.name][0])
        elif len(node.inputs) > 1:
            joins[node.op] = joins.get(node.op, 0) + 1
    layers = "; ".join(f"{op} {', '.join(map(str, widths))}" for op, widths in runs)
    joined = ", ".join(f"{number} × {op}" for op, number in joins.items())
    return f"{layers}; joined by {joined}" if joined else layers


def _records(experiment: str) -> list[dict[str, Any]]:
    records = list(read_published(experiment).values())
    if not records:
        rule = f"the page to play with needs the published rows of {experiment}"
        refuse(rule, "none", f"Run nnopt run {experiment[:2]} --save.")
    return records


def _band(accuracy: Sequence[float] | None) -> str:
    return "–" if accuracy is None else "{:.1f} [{:.1f}, {:.1f}]".format(*accuracy)


def _widget(kind: str, data: Mapping[str, Any], head: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    """A place to draw in, its data as JSON, and the same numbers as a table."""
    text = json.dumps(data).replace("<", "\\u003c")  # no element of the page can begin inside the data
    rows = [("th", head), *(("td", row) for row in body)]
    table = "\n".join(
        "<tr>" + "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in row) + "</tr>" for tag, row in rows
    )
    return (
        f'<div class="play" data-play="{kind}">\n'
        f'<script type="application/json">{text}</script>\n'
        "<noscript>This figure needs JavaScript; its numbers stand in the table below.</noscript>\n</div>\n"
        f"<details>\n<summary>The numbers as a table</summary>\n"
        f'<div class="play-table" tabindex="0" role="region" aria-label="The numbers as a table">\n'
        f'<table class="table">\n{table}\n</table>\n</div>\n</details>\n'
    )
