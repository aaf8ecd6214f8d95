"""What a lab's notebook imports: a seed of one's own, settings drawn from it, a comparison of two arrays."""

from __future__ import annotations

import hashlib
import io
import textwrap
import unicodedata
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from nnopt_lib.checks import refuse
from nnopt_lib.course.labs.drawing import Drawing, drawing
from nnopt_lib.course.labs.marking import carried, given, mark, same_words, verdict
from nnopt_lib.results.style import COLORS, INK, QUIET

__all__ = [
    "Drawing",
    "carried",
    "choose",
    "compare",
    "drawing",
    "given",
    "mark",
    "same_words",
    "seed_of",
    "verdict",
]
SHADE, WRONG = COLORS[:2]  # blue and vermilion, which every reader can tell apart
LARGEST = 12  # rows and columns that are drawn


def seed_of(student: str, key: str = "") -> int:
    """The seed of a student: a whole number below 2**31 from the sha256 of the name.

    All that a lab draws comes from it, so that each student measures numbers of their own, and in another
    course, with another `key`, others again. Accents count the same however a system writes them. Refuses a
    name that is empty or no text.

    Example:
        >>> seed_of("ada") == seed_of("ada"), seed_of("ada") == seed_of("bob")
        (True, False)
    """
    if not isinstance(student, str) or not student.strip():
        refuse(
            "student must be a name between quotes",
            repr(student),
            'As your teacher\'s list has it: student = "ada".',
        )
    name = unicodedata.normalize("NFC", student.strip())
    # Not Python's `hash`, which is another number in every process.
    return _number_of(f"{key}\0{name}" if key else name)


def choose(seed: int, what: str, options: Sequence[Any]) -> Any:
    """One of `options`, by a seed and the name of the setting: the same whenever and wherever it is asked.

    Example:
        >>> choose(7, "width", [8, 16, 32]) == choose(7, "width", [8, 16, 32])
        True
    """
    if not options:
        refuse(f"there must be something to choose {what!r} from", "no options")
    return options[_number_of(f"{seed} {what}") % len(options)]


def _number_of(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") % 2**31


class Comparison(Figure):
    """A figure that a notebook shows with its sentence as alternative text."""

    sentence = ""

    def __repr__(self) -> str:
        return self.sentence

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> tuple[dict, dict]:
        png = io.BytesIO()
        self.savefig(png, format="png", dpi=110, metadata={"Software": None})
        data = {"image/png": png.getvalue(), "text/plain": self.sentence}
        return data, {"image/png": {"alt": self.sentence}}


def compare(received: Any, expected: Any, *, title: str = "") -> Figure:
    """Draw two small arrays side by side, with their values, and mark the cells that differ.

    Parameters:
        received: what your code gave; anything at all, since this never fails because of it.
        expected: numbers or booleans in one or two dimensions, what a correct answer gives.
        title: stands above the picture.

    A cell differs if the values are not equal to six digits; it gets a thick frame and the sign ≠. Of large
    arrays the first 12 rows and columns are drawn. Returns the matplotlib figure; its repr says in words what
    it shows.

    Example:
        >>> compare([1, 2, 4], [1, 2, 3])
        1 of 3 cells differs, first at [2]: received 4, expected 3.
    """
    wanted = np.asarray(expected)
    if wanted.ndim not in (1, 2) or wanted.size == 0 or wanted.dtype.kind not in "buif":
        refuse("expected must be numbers in one or two dimensions", repr(expected))
    array, problem = _as_numbers(received)
    if array is not None and array.shape != wanted.shape:
        problem = f"The shape differs: received {array.shape}, expected {wanted.shape}."
    differs = np.zeros(wanted.shape, bool) if array is None or problem else ~_same(array, wanted)
    sentence = problem or _in_words(array, wanted, differs)
    # The largest finite value gets the darkest cell, an infinite one none; all zeros are drawn against 1.
    scale = float(np.nanmax(np.abs(np.where(np.isfinite(wanted), wanted, 0.0)), initial=0)) or 1.0
    marks = differs if array is not None and array.shape == wanted.shape else None
    return _figure(title, sentence, array, wanted, scale, marks)


def _figure(
    title: str,
    sentence: str,
    array: np.ndarray | None,
    wanted: np.ndarray,
    scale: float,
    marks: np.ndarray | None,
) -> Comparison:
    """The picture of a comparison, with its sentence above it and as alternative text."""
    figure = Comparison(figsize=_size(wanted), layout="constrained")
    figure.sentence = sentence
    width = int(figure.get_figwidth() * 13)  # letters of this size that fit
    lines = [line for text in (title, sentence) for line in textwrap.wrap(text, width)]
    figure.suptitle("\n".join(lines), fontsize=10, color=INK)
    left, right = figure.subplots(1, 2) if wanted.ndim == 2 else figure.subplots(2, 1)
    _draw(left, "received", array, scale, marks)
    _draw(right, "expected", wanted, scale, None)
    return figure


def _as_numbers(received: Any) -> tuple[np.ndarray | None, str]:
    """`received` as an array that can be drawn, or None; and what is wrong with it, if anything is."""
    try:
        if hasattr(received, "detach"):  # a tensor of PyTorch may belong to a graph
            received = received.detach().cpu()
        array = np.asarray(received)
    except Exception:  # whatever a student's object does when it is looked at
        array = np.asarray(None)
    if array.dtype.kind not in "buif":
        return None, f"What was received is not an array of numbers but of type {type(received).__name__}."
    if array.ndim not in (1, 2) or array.size == 0:
        return None, f"What was received has the shape {array.shape}, which is not drawn."
    return array, ""


def _same(array: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    return np.isclose(array.astype(float), wanted.astype(float), rtol=1e-6, atol=1e-9, equal_nan=True)


def _in_words(array: np.ndarray | None, wanted: np.ndarray, differs: np.ndarray) -> str:
    if array is None or not differs.any():
        return f"All {wanted.size} cells are equal."
    count, first = int(differs.sum()), tuple(int(axis[0]) for axis in np.nonzero(differs))
    values = f"received {_text(array[first])}, expected {_text(wanted[first])}"
    verb = "differs" if count == 1 else "differ"
    return f"{count} of {wanted.size} cells {verb}, first at {list(first)}: {values}."


def _text(value: Any) -> str:
    return str(bool(value)) if np.asarray(value).dtype.kind == "b" else f"{float(value):.6g}"


def _size(wanted: np.ndarray) -> tuple[float, float]:
    rows, columns = (1, len(wanted)) if wanted.ndim == 1 else wanted.shape
    wide = max(0.75 * min(columns, LARGEST), 2.5)
    high = 0.5 * min(rows, LARGEST) + 0.4
    return (2 * wide, high + 0.7) if wanted.ndim == 2 else (max(wide, 5.0), 2 * high + 0.7)


def _draw(axes: Axes, name: str, values: np.ndarray | None, scale: float, differs: np.ndarray | None) -> None:
    """One array as a grid of cells, darker the larger; differing cells framed and signed."""
    axes.set_title(name, fontsize=10, color=INK)
    axes.set_axis_off()
    if values is None:
        axes.text(0.5, 0.5, "nothing to draw", ha="center", va="center", transform=axes.transAxes)
        return
    cells = np.atleast_2d(values)[:LARGEST, :LARGEST]
    marks = np.zeros(cells.shape, bool) if differs is None else np.atleast_2d(differs)[:LARGEST, :LARGEST]
    axes.set_xlim(-0.06, cells.shape[1] + 0.06)
    axes.set_ylim(cells.shape[0] + 0.06, -0.06)
    for (row, column), value in np.ndenumerate(cells):
        strength = min(abs(float(value)) / scale, 1.0) if np.isfinite(value) else 0.0
        axes.add_patch(Rectangle((column, row), 1, 1, facecolor=SHADE, alpha=0.35 * strength, linewidth=0))
        axes.add_patch(Rectangle((column, row), 1, 1, fill=False, edgecolor=QUIET, linewidth=0.6))
        sign = "≠ " if marks[row, column] else ""
        axes.text(column + 0.5, row + 0.5, sign + _text(value), ha="center", va="center", fontsize=9)
        if sign:
            frame = Rectangle((column + 0.05, row + 0.05), 0.9, 0.9, fill=False, zorder=3)
            frame.set(edgecolor=WRONG, linewidth=2.5)
            axes.add_patch(frame)
