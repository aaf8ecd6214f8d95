"""What a plot shows, as data: so that a plot of a student's can be checked, and can leave their kernel."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np

from nnopt_lib.checks import refuse


@dataclasses.dataclass(frozen=True, eq=False)
class Series:
    """One line, cloud of points or set of bars: `x` and `y` of equal shape (n,), and its label."""

    kind: str
    x: np.ndarray
    y: np.ndarray
    label: str


@dataclasses.dataclass(frozen=True, eq=False)
class Drawing:
    """What axes show: each series, and the words and scales beside them."""

    series: tuple[Series, ...]
    xlabel: str = ""
    ylabel: str = ""
    title: str = ""
    xscale: str = "linear"
    yscale: str = "linear"


def drawing(plot: Any) -> Drawing:
    """The data of a matplotlib figure, of its axes (the first that show anything), or of a `Drawing` itself.

    Lines and error bars, points of ``scatter`` and bars are read; images, texts and areas are not. Refuses
    anything that is no plot.
    """
    if isinstance(plot, Drawing):
        return plot
    for axes in _axes_of(plot):
        series = tuple(_series(axes))
        if series:
            words = {"xlabel": axes.get_xlabel(), "ylabel": axes.get_ylabel(), "title": axes.get_title()}
            return Drawing(series, **words, xscale=axes.get_xscale(), yscale=axes.get_yscale())
    return Drawing(())


def _axes_of(plot: Any) -> list[Any]:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    if isinstance(plot, Axes):
        return [plot]
    if isinstance(plot, Figure):
        return list(plot.axes)
    if isinstance(plot, (list, tuple, np.ndarray)) and len(plot) and all(_is_part(one) for one in plot):
        return [one.axes for one in plot]
    return refuse(
        "a plot must be a matplotlib figure or axes",
        f"an object of type {type(plot).__name__}",
        "Return what plt.subplots() gave.",
    )


def _is_part(artist: Any) -> bool:
    """Whether this is something drawn on axes, as the list of lines that ``plot`` returns."""
    return getattr(artist, "axes", None) is not None


def _series(axes: Any) -> Iterator[Series]:
    for line in axes.get_lines():
        yield _one("line", line.get_xdata(orig=False), line.get_ydata(orig=False), line)
    for cloud in axes.collections:
        offsets = np.asarray(cloud.get_offsets(), float)
        if type(cloud).__name__ == "PathCollection" and offsets.ndim == 2:
            yield _one("points", offsets[:, 0], offsets[:, 1], cloud)
    for bars in axes.containers:
        patches = [patch for patch in bars if hasattr(patch, "get_height")]
        if patches:
            # Of lying bars the length is the width.
            lying = getattr(bars, "orientation", "vertical") == "horizontal"
            x = [p.get_y() + p.get_height() / 2 if lying else p.get_x() + p.get_width() / 2 for p in patches]
            y = [p.get_width() if lying else p.get_height() for p in patches]
            yield _one("bars", x, y, bars)


def _one(kind: str, x: Any, y: Any, artist: Any) -> Series:
    label = str(artist.get_label() or "")
    shown = "" if label.startswith("_") else label
    return Series(kind, np.asarray(x, float).ravel(), np.asarray(y, float).ravel(), shown)
