"""From a figure as data to a picture: its axes (one, a grid of panels, a broken one), its size, its files."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from nnopt_lib.checks import check_int, check_number, refuse
from nnopt_lib.results.plots import KINDS, Rows
from nnopt_lib.results.style import GOLDEN, INK, STYLES, place_names_again, settings, wrap_labels

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Options that are not of one pair of axes but of how many there are, with what they are by default.
LAYOUTS: dict[str, dict[str, Any]] = {
    "intervals": {"panel": None, "panel_columns": 2, "panel_scales": "shared"},
    "curves": {"panel": None, "panel_columns": 2, "panel_scales": "shared", "y_break": None},
    "images": {"columns": 5},
}
NARROWEST_PANEL = 2.4  # inches; a grid of narrower ones gets fewer columns
HEIGHT_OF_A_ROW = {"bars": 0.42, "graph": 0.28, "pairs": 0.5}  # inches on the screen; intervals: STYLES


def draw(figure: Mapping[str, Any], style: str, width_inches: float | None) -> Figure:
    """A matplotlib figure of `figure` (its kind, options and rows) in one of `STYLES`.

    Besides the options of its kind: `panel`, a field with small multiples, one for each of its values, in
    `panel_columns` columns, with the same axes, or with `panel_scales="own"` each with its own scale
    of x; `y_break`, a range of y without points that is left out.
    """
    from matplotlib import rc_context

    # Not pyplot: it would keep every figure open, and choose a window system where there is none.
    from matplotlib.figure import Figure as Canvas

    look = STYLES[style]
    width = check_number("width_inches", width_inches or look["width"], above=0)
    kind, rows, options = figure["kind"], figure["rows"], dict(figure["options"])
    layout = {name: options.pop(name, value) for name, value in LAYOUTS.get(kind, {}).items()}
    with rc_context(settings(look)):
        if kind == "images":
            return _gallery(Canvas, rows, look, width, options, layout["columns"])
        if layout.get("panel") and layout.get("y_break"):
            refuse("a figure has panels or y_break", "both")
        if layout.get("panel"):
            return _panels(Canvas, figure, look, width, options, layout)
        if layout.get("y_break"):
            drawn = Canvas((width, width / GOLDEN), layout="constrained")
            _broken(drawn, rows, options, layout["y_break"])
            return drawn
        drawn = Canvas((width, _height(kind, rows, look, width)), layout="constrained")
        axes = drawn.subplots()
        KINDS[kind](axes, rows, **options)
        wrap_labels(axes)
    return drawn


def _gallery(
    canvas: Any, rows: Rows, look: Mapping[str, Any], width: float, options: Mapping[str, Any], columns: Any
) -> Figure:
    """Pictures in a grid, each below its label; the figure is as high as they need."""
    columns = min(check_int("columns", columns, at_least=1), len(rows))
    letters = max(4, int(0.95 * width / columns * 72 / (0.6 * look["text"])))  # that fit above a picture
    titles = [textwrap.fill(str(row["label"]), letters) for row in rows]
    title = (1.4 * max(text.count("\n") + 1 for text in titles) + 1) * look["text"] / 72
    lines = -(-len(rows) // columns)
    drawn: Figure = canvas((width, lines * (width / columns * _shape_of(rows) + title)), layout="constrained")
    for axes, row, text in zip(_grid(drawn, len(rows), columns), rows, titles, strict=True):
        KINDS["images"](axes, [row], **options)
        axes.set_title(text, fontsize="medium")
    return drawn


def _shape_of(rows: Rows) -> float:
    """The height of the highest picture, by its width; a signal is half as high as it is wide."""
    shapes = [
        len(row["pixels"]) / len(row["pixels"][0])
        for row in rows
        if row["pixels"] and isinstance(row["pixels"][0], (list, tuple)) and row["pixels"][0]
    ]
    return max(shapes, default=0.5)


def _height(kind: str, rows: Rows, look: Mapping[str, Any], width: float) -> float:
    """Of a figure with one pair of axes: by the number of its rows where each has a line, else golden."""
    scale = look["text"] / 11
    line = look["row"] if kind == "intervals" else scale * HEIGHT_OF_A_ROW.get(kind, 0)
    if not line:
        return width / GOLDEN
    return 1.1 * scale + line * sum(row.get("kind") != "edge" for row in rows)


def _grid(drawn: Figure, count: int, columns: int, **options: Any) -> list[Axes]:
    """`count` axes in a grid, line by line; what is left of the last line is taken away."""
    axes = drawn.subplots(-(-count // columns), columns, squeeze=False, **options).ravel()
    for spare in axes[count:]:
        spare.remove()
    return list(axes[:count])


def _panels(
    canvas: Any,
    figure: Mapping[str, Any],
    look: Mapping[str, Any],
    width: float,
    options: Mapping[str, Any],
    layout: Mapping[str, Any],
) -> Figure:
    """Small multiples: the rows of each value of a field on axes of their own."""
    kind, rows, field = figure["kind"], figure["rows"], layout["panel"]
    groups: dict[Any, list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault(row[field], []).append(row)
    columns = min(check_int("panel_columns", layout["panel_columns"], at_least=1), len(groups))
    columns = max(1, min(columns, int(width / NARROWEST_PANEL)))
    lines = -(-len(groups) // columns)
    highest = max(groups.values(), key=len)
    each = _height(kind, highest, look, width / columns if columns > 1 else 0.8 * width)
    # Names stand on the left of a line of panels only, where all of them have the same.
    alike = (
        kind == "curves" or len({tuple(row.get("label") for row in rows) for rows in groups.values()}) == 1
    )
    drawn: Figure = canvas((width, lines * each + 0.5 * look["text"] / 11), layout="constrained")
    scales = layout.get("panel_scales", "shared")
    if scales not in ("shared", "own"):
        refuse("panel_scales must be 'shared' or 'own'", repr(scales))
    axes = _grid(drawn, len(groups), columns, sharex=scales == "shared", sharey=alike)
    if options.get("series"):
        options = {**options, "names": list(dict.fromkeys(row[options["series"]] for row in rows))}
    for index, (one, (name, panel_rows)) in enumerate(zip(axes, groups.items(), strict=True)):
        KINDS[kind](one, panel_rows, **options)
        if legend := one.get_legend():
            if index == 0:  # it says it for all
                entries: Any = legend.legend_handles, [text.get_text() for text in legend.get_texts()]
                drawn.legend(*entries, loc="outside upper left", ncols=1 if width < 5 else len(entries[0]))
            legend.remove()
        one.set_title(str(name), loc="left", fontsize="medium", color=INK)
        if index % columns and kind == "curves":
            one.set_ylabel("")
        if index + columns < len(groups):
            one.set_xlabel("")
        elif index // columns < lines - 1:  # nothing below it: its ticks are the lowest of its column
            one.tick_params(labelbottom=True)
    for one in axes:
        wrap_labels(one)
        place_names_again(one)  # only now do all have the same scales
    return drawn


def _broken(drawn: Figure, rows: Rows, options: Mapping[str, Any], y_break: Sequence[float]) -> None:
    """Curves on two axes, one above the other, with a range of y between them left out."""
    if isinstance(y_break, str) or not isinstance(y_break, Sequence) or len(y_break) != 2:
        refuse("y_break must be two numbers, the ends of the range that is left out", repr(y_break))
    low, high = (check_number("y_break", bound) for bound in y_break)
    fields = [options[name] for name in ("y", "low", "high") if options.get(name)]
    values = [float(row[field]) for row in rows for field in fields]
    hidden = [value for value in values if low < value < high]
    if hidden or not low < high or max(values) <= high or min(values) >= low:
        rule = "y_break must be a range, from low to high, with points below and above it and none within"
        refuse(rule, f"{low:g} to {high:g}, with {len(hidden)} within")
    shares = [max(values) - high, low - min(values)]
    ratios = [max(share / sum(shares), 0.2) for share in shares]
    upper, lower = drawn.subplots(2, 1, sharex=True, gridspec_kw={"height_ratios": ratios})
    for axes in (upper, lower):
        KINDS["curves"](axes, rows, **options)
        wrap_labels(axes)
    margin = 0.05 * sum(shares)
    upper.set_ylim(high, max(values) + margin)
    lower.set_ylim(0 if options.get("y_from_zero") else min(values) - margin, low)
    for axes in (upper, lower):
        for text in list(axes.texts):  # names of lines that end on the other side
            if (text.xy[1] >= high) is not (axes is upper):
                text.remove()
    upper.spines["bottom"].set_visible(False)
    upper.tick_params(bottom=False)
    upper.set_xlabel("")
    (lower if ratios[0] < ratios[1] else upper).set_ylabel(options["y_label"])
    (upper if ratios[0] < ratios[1] else lower).set_ylabel("")
    mark: dict[str, Any] = {"marker": [(-1, -0.6), (1, 0.6)], "linestyle": "none", "color": INK}
    mark |= {"clip_on": False, "markersize": 8}
    upper.plot([0], [0], transform=upper.transAxes, **mark)
    lower.plot([0], [1], transform=lower.transAxes, **mark)
    for axes in (upper, lower):
        place_names_again(axes)


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
