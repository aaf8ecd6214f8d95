"""Rows and options for each kind of figure."""

from __future__ import annotations

INTERVALS = [
    {"label": "network", "mean": 0.94, "low": 0.93, "high": 0.95, "printed": 0.97, "run_id": "b", "seed": 1},
    {"label": "logistic", "mean": 0.92, "low": 0.91, "high": 0.93, "printed": 0.94, "run_id": "a", "seed": 0},
]
CURVES = [
    {"width": w, "seconds": w * s, "low": w * s * 0.9, "high": w * s * 1.1, "series": f"batch {s}"}
    for s in (1, 2, 3)
    for w in (1, 2, 4, 8)
]
ROOFLINE = [
    {"kind": "roof", "flops_per_second": 2e11, "bytes_per_second": 1e10},
    {"kind": "point", "label": "batch 1", "intensity": 0.5, "flops_per_second": 4e9},
    {"kind": "point", "label": "batch 256", "intensity": 60.0, "flops_per_second": 1.5e11},
]
GRAPH = [{"kind": "node", "label": label, "group": "8 nodes"} for label in ("stem", "side", "sum")]
GRAPH += [{"kind": "node", "label": "head", "group": None}]
GRAPH += [
    {"kind": "edge", "source": source, "target": target}
    for source, target in (("stem", "side"), ("side", "sum"), ("stem", "sum"), ("sum", "head"))
]
CONTOURS = [
    {"kind": "level", "x": [0.0, 1.0, 0.0, -1.0, 0.0], "y": [-1.0, 0.0, 1.0, 0.0, -1.0]},
    {"kind": "step", "label": "along the axis", "x": [0.5, 0.0], "y": [0.5, 0.5]},
    {"kind": "step", "label": "down the valley", "x": [0.5, 0.0, 0.0], "y": [0.5, 0.5, 0.9]},
]
KINDS = {
    "intervals": (INTERVALS, {"x_label": "accuracy", "mark": "printed", "mark_label": "printed"}),
    "curves": (
        CURVES,
        {"x": "width", "y": "seconds", "low": "low", "high": "high", "series": "series", "x_label": "width"}
        | {"y_label": "seconds", "x_log": True, "steps": True},
    ),
    "bars": (
        [{"label": "first", "a": 0.2, "b": 0.7}, {"label": "second", "a": 0.8, "b": 0.3}],
        {"fields": {"a": "parameters", "b": "MACs"}, "x_label": "share"},
    ),
    "pairs": (
        [
            {
                "label": "tuned − as printed",
                "values": [0.4, -0.2, 1.1],
                "mean": 0.43,
                "low": -1.2,
                "high": 2.0,
            },
            {"label": "deep − shallow", "values": [1.4, 1.2, 1.1], "mean": 1.23, "low": 0.9, "high": 1.6},
        ],
        {"x_label": "difference, points"},
    ),
    "images": (
        [
            {"label": "a digit", "pixels": [[0, 1, 2], [3, 4, 5]]},
            {"label": "a mask", "pixels": [[True, False, True], [False, False, True]]},
            {"label": "a signal", "pixels": [0.0, 0.5, -1.0, 2.0]},
        ],
        {"columns": 2},
    ),
    "roofline": (ROOFLINE, {}),
    "graph": (GRAPH, {}),
    "contours": (CONTOURS, {"x_label": "w1", "y_label": "w2"}),
}
