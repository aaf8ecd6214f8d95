"""How figures look: the styles, and one drawing function per kind of figure, each from rows alone."""

from __future__ import annotations

import io
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from nnopt_lib.checks import check_number, refuse
from nnopt_lib.results.style import (
    COLORS,
    GOLDEN,
    HATCHES,
    INK,
    LINES,
    MARKERS,
    QUIET,
    STYLES,
    legend_above,
    line_width,
    name_ends,
    plain_decades,
    settings,
    wrap_labels,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Rows = Sequence[Mapping[str, Any]]

# ---------------------------------------------------------------- kinds


def _intervals(
    axes: Axes,
    rows: Rows,
    *,
    x_label: str,
    mark: str | None = None,
    mark_label: str = "",
    band: str | None = None,
    label: str = "label",
) -> None:
    """A dot with its 95 % interval per row, labels on the left; `mark` and `band` name fields.

    Rows have the fields `label`, mean, low, high; `band` is the half width around `mark`.
    """
    for field in filter(None, (mark, band)):
        if not any(field in row for row in rows):  # a row may lack it, but not all of them
            raise KeyError(field)
    for y, row in enumerate(rows):
        axes.plot([row["low"], row["high"]], [y, y], color=COLORS[0], solid_capstyle="round")
        axes.plot(row["mean"], y, "o", color=COLORS[0], label="mean, 95 % interval")
        if mark and row.get(mark) is not None:
            if band and row.get(band):
                _wide_line(axes, row[mark], row[band], y)
            axes.plot(row[mark], y, "D", color=COLORS[1], markerfacecolor="white", label=mark_label)
    _name_rows(axes, [row[label] for row in rows])
    axes.set_xlabel(x_label)
    if mark:
        legend_above(axes)


def _wide_line(axes: Axes, center: float, half_width: float, y: float) -> None:
    """A pale horizontal line behind a mark, from one end of its band to the other."""
    axes.plot(
        [center - half_width, center + half_width],
        [y, y],
        color=COLORS[1],
        linewidth=4 * line_width(),
        alpha=0.3,
        solid_capstyle="butt",  # round ends would reach beyond the band
    )


def _curves(
    axes: Axes,
    rows: Rows,
    *,
    x: str,
    y: str,
    x_label: str,
    y_label: str,
    series: str | None = None,
    low: str | None = None,
    high: str | None = None,
    x_log: bool = False,
    y_log: bool = False,
    steps: bool = False,
    markers: bool = True,
    y_from_zero: bool = False,
) -> None:
    """`y` against `x`, a line per value of `series` with its name at the right end, a band low to high."""
    if (low is None) != (high is None):
        refuse("a band needs both low and high", f"low={low!r}, high={high!r}")
    names = list(dict.fromkeys(row[series] for row in rows)) if series else [None]
    ends = []
    for index, name in enumerate(names):
        # A line joins its points in the order of the list, whatever the order of the rows was.
        points = sorted(
            (row for row in rows if series is None or row[series] == name), key=lambda row: row[x]
        )
        xs, ys = [row[x] for row in points], [row[y] for row in points]
        color = COLORS[index % len(COLORS)]
        options: dict[str, Any] = {"color": color, "linestyle": LINES[index % len(LINES)]}
        if markers:
            options |= {"marker": MARKERS[index % len(MARKERS)]}
        axes.plot(xs, ys, drawstyle="steps-mid" if steps else "default", **options)
        if low and high:
            lows, highs = ([row[bound] for row in points] for bound in (low, high))
            step: Any = "mid" if steps else None
            axes.fill_between(xs, lows, highs, color=color, alpha=0.18, linewidth=0, step=step)
        ends.append((ys[-1], xs[-1], name, color))
    _scale(axes, x_log, y_log, y_from_zero)
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.grid(axis="y")
    if series:
        name_ends(axes, ends)  # last: it reads where the scales have put the points


def _scale(axes: Axes, x_log: bool, y_log: bool, y_from_zero: bool) -> None:
    """The scales of curves; after the lines, since plain decades depend on what the axes span."""
    if x_log:
        axes.set_xscale("log")
        plain_decades(axes.xaxis)
    if y_log:
        axes.set_yscale("log")
        plain_decades(axes.yaxis)
    if y_from_zero:
        axes.set_ylim(bottom=0)


def _bars(axes: Axes, rows: Rows, *, fields: Mapping[str, str], x_label: str, label: str = "label") -> None:
    """A group of horizontal bars per row, labels on the left; `fields` maps fields to names."""
    thickness = 0.8 / len(fields)  # of a row's height of 1; the rest sets the groups apart
    for index, (field, name) in enumerate(fields.items()):
        offset = (index - (len(fields) - 1) / 2) * thickness  # the group is centered on its row
        heights = [y + offset for y in range(len(rows))]
        values = [row[field] for row in rows]
        axes.barh(heights, values, thickness * 0.9, color=COLORS[index], hatch=HATCHES[index], label=name)
    _name_rows(axes, [row[label] for row in rows])
    axes.set_xlabel(x_label)
    legend_above(axes)


def _name_rows(axes: Axes, names: Sequence[Any]) -> None:
    """Rows from the top downward, each with its name on the left."""
    axes.set_yticks(range(len(names)), [str(name) for name in names])
    axes.set_ylim(len(names) - 0.4, -0.6)  # the larger bound first turns the axis upside down
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x")


def _roofline(axes: Axes, rows: Rows) -> None:
    """Attainable rate against operational intensity; rows of kind "roof" and "point".

    A roof row has `flops_per_second` and `bytes_per_second` (the measured peaks); a point row has `label`,
    `intensity` (operations per byte) and `flops_per_second` (reached).
    """
    roof = next((row for row in rows if row["kind"] == "roof"), None)
    if roof is None:
        refuse("a roofline needs one row of kind 'roof'", "none")
    points = [row for row in rows if row["kind"] == "point"]
    peak, bandwidth = roof["flops_per_second"] / 1e9, roof["bytes_per_second"] / 1e9
    ridge = peak / bandwidth
    # Margins are factors and not widths: both axes are logarithmic.
    left = min([row["intensity"] for row in points] + [ridge]) / 3
    right = max([row["intensity"] for row in points] + [ridge]) * 6
    axes.plot([left, ridge, right], [left * bandwidth, peak, peak], color=INK)
    axes.axvline(ridge, color=QUIET, linestyle=":", linewidth=0.6 * line_width())
    for index, row in enumerate(points):
        marker, color = MARKERS[index % len(MARKERS)], COLORS[index % len(COLORS)]
        axes.plot(row["intensity"], row["flops_per_second"] / 1e9, marker, color=color, label=row["label"])
    axes.set_xscale("log")
    axes.set_yscale("log")
    lowest = min([row["flops_per_second"] / 1e9 for row in points] + [left * bandwidth])
    axes.set_xlim(left, right)
    axes.set_ylim(lowest / 2, peak * 3)
    axes.set_xlabel("operational intensity (FLOP per byte)")
    axes.set_ylabel("GFLOP/s")
    axes.grid()
    axes.legend(loc="lower right")


def _graph(axes: Axes, rows: Rows) -> None:
    """Layers from the top downward: on the left what reads what, on the right which are coupled.

    Rows of kind "node" have `label` and `group`, the name of those that leave together (None: cannot leave);
    rows of kind "edge" have `source` and `target`, labels of nodes. One color and marker per group.
    """
    nodes = [row for row in rows if row["kind"] == "node"]
    position = {row["label"]: index for index, row in enumerate(nodes)}
    for row in rows:
        if row["kind"] == "edge":
            _bow(axes, position[row["source"]], position[row["target"]], -1, QUIET, 0.5 * line_width())
    _draw_groups(axes, nodes)
    _name_rows(axes, [row["label"] for row in nodes])
    axes.set_xlim(-1.1, 1.1)
    axes.set_xticks([])
    axes.spines[["left", "bottom"]].set_visible(False)
    axes.text(-0.55, -0.6, "reads", ha="center", color=QUIET)
    axes.text(0.55, -0.6, "leave together", ha="center", color=INK)


def _draw_groups(axes: Axes, nodes: Rows) -> None:
    """The marks of all nodes, and curves between those that leave together."""
    groups: dict[str | None, list[int]] = {}
    for index, row in enumerate(nodes):
        groups.setdefault(row["group"], []).append(index)
    alone = groups.pop(None, [])
    for index, (name, members) in enumerate(groups.items()):
        color, marker = COLORS[index % len(COLORS)], MARKERS[index % len(MARKERS)]
        # Joined one by one: a curve from each member to each other would hide who they are.
        for upper, lower in itertools.pairwise(members):
            _bow(axes, upper, lower, 1, color, line_width())
        axes.plot([0] * len(members), members, marker, color=color)
        axes.text(1.1, members[0], str(name), va="center", color=color)
    axes.plot([0] * len(alone), alone, "o", color=QUIET, markerfacecolor="white")


def _bow(axes: Axes, start: int, end: int, side: int, color: str, width: float) -> None:
    """A curve between two rows, the farther out the longer; neighbors on the left are joined straight."""
    from matplotlib.patches import PathPatch
    from matplotlib.path import Path

    length = abs(end - start)
    # Farther with length, but never beyond 0.94: a cubic curve gets three quarters of the way to its
    # control points, and the axes end at 1.1.
    out = side * (0.0 if side < 0 and length == 1 else 1.25 * (1 - 0.72**length))
    codes = [Path.MOVETO, Path.CURVE4, Path.CURVE4, Path.CURVE4]
    path = Path([(0, start), (out, start), (out, end), (0, end)], codes)
    axes.add_patch(PathPatch(path, facecolor="none", edgecolor=color, linewidth=width, zorder=1))


KINDS: dict[str, Callable[..., None]] = {
    "intervals": _intervals,
    "curves": _curves,
    "bars": _bars,
    "roofline": _roofline,
    "graph": _graph,
}


# ---------------------------------------------------------------- drawing


def draw(figure: Mapping[str, Any], style: str, width_inches: float | None) -> Figure:
    """A matplotlib figure of `figure` (its kind, options and rows) in one of `STYLES`."""
    from matplotlib import rc_context

    # Not pyplot: it would keep every figure open, and choose a window system where there is none.
    from matplotlib.figure import Figure as Canvas

    look = STYLES[style]
    width = check_number("width_inches", width_inches or look["width"], above=0)
    rows = figure["rows"]
    scale = look["text"] / 11
    line = {"intervals": look["row"], "bars": 0.42 * scale, "graph": 0.28 * scale}.get(figure["kind"])
    if line:  # one per row, or per row that is a node
        height = 1.1 * scale + line * sum(row.get("kind") != "edge" for row in rows)
    else:
        height = width / GOLDEN
    with rc_context(settings(look)):
        drawn = Canvas((width, height), layout="constrained")
        axes = drawn.subplots()
        KINDS[figure["kind"]](axes, rows, **figure["options"])
        wrap_labels(axes)
    return drawn


def render(
    figure: Mapping[str, Any], style: str, width_inches: float | None, formats: Sequence[str]
) -> dict[str, bytes]:
    """The bytes of a file per format, drawn once. Equal rows give equal bytes: dates are left out."""
    from matplotlib import rc_context

    drawn, files = draw(figure, style, width_inches), {}
    undated: dict[str, Any] = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}
    for form in formats:
        buffer = io.BytesIO()
        with rc_context(settings(STYLES[style])):  # fonts and hashes are chosen when a file is written
            drawn.savefig(buffer, format=form, dpi=200, metadata=undated.get(form))
        files[form] = buffer.getvalue()
    return files
