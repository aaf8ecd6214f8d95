"""Layers named by patterns: which to skip, how much each is to lose."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase

from nnopt_lib.checks import check_fraction, nearest, refuse


def matching(patterns: Sequence[str], layers: Iterable[str], option: str) -> set[str]:
    """The layers that a pattern fits, as the shell's (``*``, ``?``, ``[ab]``); one that fits none is refused.

    A name without such a sign stands for what is inside, too: ``"layer4"`` fits ``layer4.0.conv1``.
    """
    layers = list(layers)
    if isinstance(patterns, str):
        refuse(
            f"{option} must be a list of layers or patterns",
            f"the string {patterns!r}",
            f"Pass [{patterns!r}].",
        )
    found: set[str] = set()
    for pattern in patterns:
        fit = {layer for layer in layers if _fits(pattern, layer)}
        if not fit:
            refuse(
                f"{option} names no layer with prunable weights by {pattern!r}",
                None,
                nearest(pattern, layers),
            )
        found |= fit
    return found


def fractions_of(sparsity: Mapping[str, float], layers: Iterable[str]) -> dict[str, float]:
    """The sparsity of each layer that a pattern fits; of several patterns the first holds."""
    layers = list(layers)
    for pattern, fraction in sparsity.items():
        matching([pattern], layers, "sparsity")
        check_fraction(f"sparsity[{pattern!r}]", fraction)
    fits = {layer: [p for p in sparsity if _fits(p, layer)] for layer in layers}
    return {layer: float(sparsity[patterns[0]]) for layer, patterns in fits.items() if patterns}


def _fits(pattern: str, layer: str) -> bool:
    inside = layer.startswith((f"{pattern}.", f"{pattern}/"))
    return layer == pattern or inside or fnmatchcase(layer, pattern)
