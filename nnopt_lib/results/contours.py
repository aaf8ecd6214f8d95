"""A plane of two weights: level lines of a loss, and the ways that methods go across it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from nnopt_lib.checks import refuse
from nnopt_lib.results.style import COLORS, INK, LINES, MARKERS, QUIET, legend_above, line_width

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def contours(axes: Axes, rows: Sequence[Mapping[str, Any]], *, x_label: str, y_label: str) -> None:
    """Level lines and steps on one plane; rows of kind "level" and "step", each with lists `x` and `y`.

    A "step" row has a `label`; its ways begin where its lists do and end at an open mark. Lines of a level
    are closed where their lists end where they begin. Both axes have one scale, so that a circle is round.
    """
    steps = [row for row in rows if row["kind"] == "step"]
    levels = [row for row in rows if row["kind"] == "level"]
    if not steps or not levels:
        refuse("contours need rows of kind 'level' and of kind 'step'", f"{len(levels)} and {len(steps)}")
    for row in levels:
        axes.plot(row["x"], row["y"], color=QUIET, linewidth=0.5 * line_width(), zorder=1)
    axes.axhline(0, color=INK, linewidth=0.4 * line_width(), zorder=1)
    axes.axvline(0, color=INK, linewidth=0.4 * line_width(), zorder=1)
    for index, row in enumerate(steps):
        color = COLORS[index % len(COLORS)]
        axes.plot(row["x"], row["y"], color=color, linestyle=LINES[index % len(LINES)], zorder=2)
        end: dict[str, Any] = {"color": color, "markerfacecolor": "white", "label": row["label"], "zorder": 3}
        end |= {"marker": MARKERS[index % len(MARKERS)], "linestyle": LINES[index % len(LINES)]}
        axes.plot(row["x"][-1:], row["y"][-1:], **end)
    axes.plot(steps[0]["x"][0], steps[0]["y"][0], "o", color=INK, zorder=3)
    axes.set_aspect("equal", adjustable="datalim")
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    legend_above(axes)


def ellipse(
    curvature: Any, center: Sequence[float], loss: float, points: int = 120
) -> dict[str, list[float]]:
    """The lines `x` and `y` on which 1/2 (w - center)^T H (w - center) is `loss`, H a 2 x 2 curvature.

    Example:
        >>> line = ellipse([[1.0, 0.0], [0.0, 1.0]], (0.0, 0.0), loss=0.5, points=4)
        >>> [round(value, 6) for value in line["x"]]
        [1.0, 0.0, -1.0, -0.0, 1.0]
    """
    (a, b), (_, d) = curvature
    if not (a > 0 and a * d > b * b):
        refuse("level lines are ellipses where the curvature is positive", curvature)
    # Cholesky: H = L L^T, and L^T (w - center) goes once around a circle.
    first, below = math.sqrt(a), b / math.sqrt(a)
    second, radius = math.sqrt(d - below**2), math.sqrt(2 * loss)
    xs, ys = [], []
    for number in range(points + 1):
        angle = 2 * math.pi * number / points
        y = radius * math.sin(angle) / second
        xs.append(center[0] + (radius * math.cos(angle) - below * y) / first)
        ys.append(center[1] + y)
    return {"x": xs, "y": ys}
