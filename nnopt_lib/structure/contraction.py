"""What becomes of channels in a sum of products: matrix products, einsum, attention."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from nnopt_lib.structure.labels import NONE, Value, distinct, unlabeled, varying
from nnopt_lib.structure.reading import Reading


def contract(
    reading: Reading,
    operands: Sequence[Value],
    letters: Sequence[str],
    out: str,
    sizes: dict[str, int],
) -> Value | None:
    """The result of ``einsum`` of two operands; None where its channels cannot leave.

    letters: one for each axis of each operand, as in einsum; out: those of the result; sizes: of all letters.
    Channels that are summed over stay. Where these differ from slice to slice of a shared axis (the heads of
    attention), all of a slice leave together.
    """
    labels = [operand.labels for operand in operands]
    summed = (set(letters[0]) & set(letters[1])) - set(out)
    if (set(letters[0]) ^ set(letters[1])) - set(out):
        return None  # a letter of one operand alone that is summed
    shared = set(letters[0]) & set(letters[1]) & set(out)
    changing = [_changing(one, names) for one, names in zip(labels, letters, strict=True)]
    if any(names & summed for names in changing):
        if any(names & shared for names in changing):
            for i, names in enumerate(letters):
                for letter in summed & changing[i]:
                    labels[i] = reading.labels.join_along(labels[i], names.index(letter))
            heads = True
        else:  # a scale may be computed of how many they are, as attention does
            return None
    else:
        heads = False
    shape = [sizes[one] for one in out]
    free = [_changing(one, names) - shared for one, names in zip(labels, letters, strict=True)]
    if all(free):
        return None  # every number of the result would belong to two channels
    spread = [_aligned(one, names, out, shape) for one, names in zip(labels, letters, strict=True)]
    has = [bool((distinct(one) != NONE).any()) for one in spread]
    # Weights of attention, which are not 0 where queries and keys are, times values that are.
    heads = heads or (bool(summed) and all(has) and sorted(map(_zero, operands)) == [False, True])
    if heads:
        reading.heads.append(np.unique(np.concatenate([one[one != NONE].ravel() for one in spread])))
    if not any(has):
        return unlabeled(shape)
    zero = any(one and _zero(operand) for one, operand in zip(has, operands, strict=True))
    held = 0.0 if zero else np.nan
    if all(has):
        return Value(reading.labels.join(spread[0], spread[1]), held)
    return Value(spread[0] if has[0] else spread[1], held)


def _zero(value: Value) -> bool:
    return bool(np.all(np.asarray(value.held) == 0))


def _changing(labels: np.ndarray, letters: str) -> set[str]:
    """Letters along which the labels change."""
    return {letters[axis] for axis in varying(labels)}


def _aligned(labels: np.ndarray, letters: str, out: str, shape: list[int]) -> np.ndarray:
    """Labels of an operand where the result has its letters; they do not change along what is summed."""
    index = tuple(slice(None) if one in out else 0 for one in letters)
    left = [one for one in letters if one in out]
    labels = labels[index].transpose([left.index(one) for one in out if one in left])
    for position, one in enumerate(out):
        if one not in left:
            labels = np.expand_dims(labels, position)
    return np.broadcast_to(labels, shape)
