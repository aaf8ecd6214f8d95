"""A mask is data: which weights are kept, decided on plain arrays, the same for both frameworks.

`make_masks` turns saliency scores into `Masks` by the rules of its docstring; nothing here knows a model.
Chapter 09 teaches it.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from nnopt_lib.checks import check_choice, check_fraction, check_int, nearest, refuse
from nnopt_lib.files import load_tensors, save_tensors
from nnopt_lib.pruning.allocation import LampScores, erk_counts
from nnopt_lib.pruning.scores import source_of
from nnopt_lib.pruning.topk import Selection, best_of_runs
from nnopt_lib.structure.weights import check_match, renamed

SCOPES = ("global", "layer")
ALLOCATIONS = ("uniform", "erk", "lamp")
_FORMAT = "nnopt-masks-1"


class Masks(Mapping[str, np.ndarray]):
    """Boolean arrays by canonical name, **True = keep**; read-only.

    Parameters:
        masks: ``{"dense_1/kernel": bool array (out, in, *spatial), ...}``; copied. Anything else is refused.

    Example:
        >>> masks = Masks({"dense_1/kernel": np.array([[True, False, False, True]])})
        >>> masks
        Masks(sparsity 0.5: 2 of 4 weights removed, 1 array)
    """

    _unit = "weights"

    def __init__(self, masks: Mapping[str, np.ndarray]) -> None:
        if not isinstance(masks, Mapping) or not masks:
            refuse("masks must be a mapping of names to boolean arrays, at least one", type(masks).__name__)
        for name, mask in masks.items():
            if not isinstance(name, str):
                refuse("mask names must be strings", repr(name))
            if getattr(mask, "dtype", None) != np.bool_:
                kind = getattr(mask, "dtype", type(mask).__name__)
                refuse(f"mask {name!r} must be a boolean array, True = keep", f"{kind}")
        self._arrays = {name: np.array(mask, order="C") for name, mask in masks.items()}
        self._seal()

    @classmethod
    def _of(cls, arrays: dict[str, np.ndarray]) -> Masks:
        """`Masks` that own these boolean arrays: nothing is copied."""
        masks = cls.__new__(cls)
        masks._arrays = arrays
        masks._seal()
        return masks

    def _seal(self) -> None:
        for mask in self._arrays.values():
            mask.flags.writeable = False
        self._removed = {name: _removed(mask) for name, mask in self._arrays.items()}

    def under(self, shapes: Mapping[str, tuple[int, ...]]) -> Masks | None:
        """The same masks under the names that a model has for its weights now; None where they do not fit."""
        arrays = renamed(self, shapes)
        return None if arrays is None else Masks._of(arrays)

    def __getitem__(self, name: str) -> np.ndarray:
        return self._arrays[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._arrays)

    def __len__(self) -> int:
        return len(self._arrays)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Masks):
            return NotImplemented
        return set(self) == set(other) and all(np.array_equal(self[name], other[name]) for name in self)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        arrays = f"{len(self)} array{'s' * (len(self) != 1)}"
        counts = f"{self.removed:,} of {self.size:,} {self._unit} removed"
        return f"{type(self).__name__}(sparsity {self.sparsity:.4g}: {counts}, {arrays})"

    @property
    def size(self) -> int:
        """The number of prunable weights."""
        return sum(mask.size for mask in self._arrays.values())

    @property
    def removed(self) -> int:
        """The number of removed weights."""
        return sum(self._removed.values())

    @property
    def sparsity(self) -> float:
        """Removed over prunable weights."""
        return self.removed / self.size

    @property
    def density(self) -> float:
        """Kept over prunable weights."""
        return 1 - self.sparsity

    @property
    def weights(self) -> Masks:
        """The same as masks on a model's weights: themselves, unless they are masks on nodes."""
        return self

    def sparsities(self) -> dict[str, float]:
        """The sparsity of every array."""
        return {name: count / max(self._arrays[name].size, 1) for name, count in self._removed.items()}

    def save(self, path: str | Path) -> None:
        """Write to a safetensors file, eight weights a byte, whole or not at all."""
        write_parts(path, {"": self})

    @classmethod
    def load(cls, path: str | Path) -> Masks:
        """Read what `save` wrote; a file that is damaged or something else is refused in one sentence.

        Of saved `NodeMasks` these are the masks by layer: enough to remove nodes, and `NodeMasks.load` reads
        the rest, which `hold` needs.
        """
        parts, _ = read_parts(path, f"{path} must be a whole file that Masks.save wrote")
        return cls._of(parts.get("layers") or parts[""])


def write_parts(
    path: str | Path,
    parts: Mapping[str, Mapping[str, np.ndarray]],
    whole: Mapping[str, str] | None = None,
) -> None:
    """Write named groups of masks, or one group without a name, to one file; and why layers stay whole."""
    packed = {
        _key(part, name): np.packbits(mask) for part, masks in parts.items() for name, mask in masks.items()
    }
    shapes = {part: {name: mask.shape for name, mask in masks.items()} for part, masks in parts.items()}
    content = shapes.get("", {**shapes, "whole": dict(whole or {})})
    save_tensors(path, packed, _FORMAT, json.dumps(content))


def read_parts(path: str | Path, rule: str) -> tuple[dict[str, dict[str, np.ndarray]], dict[str, str]]:
    """What `write_parts` wrote; anything else is refused by `rule`."""
    remedy = "Save the masks again, or use another file."
    packed, text = load_tensors(path, _FORMAT, rule, remedy)
    try:
        shapes = json.loads(text)
        named = all(isinstance(one, dict) for one in shapes.values())
        whole = {
            str(layer): str(reason) for layer, reason in (shapes.pop("whole", {}) if named else {}).items()
        }
        groups = shapes if named else {"": shapes}
        parts = {
            part: {name: _unpacked(packed.pop(_key(part, name)), shape) for name, shape in group.items()}
            for part, group in groups.items()
        }
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        refuse(rule, f"shapes that do not fit ({type(error).__name__})", remedy)
    if packed or not parts or not all(parts.values()):
        refuse(rule, f"arrays without a shape: {', '.join(packed) or 'none at all'}", remedy)
    return parts, whole


def _key(part: str, name: str) -> str:
    return f"{part}:{name}" if part else name


def _unpacked(bits: np.ndarray, shape: list[int]) -> np.ndarray:
    size = math.prod(shape)
    if bits.dtype != np.uint8 or bits.shape != ((size + 7) // 8,):
        raise ValueError
    return np.unpackbits(bits, count=size).astype(bool).reshape(shape)


def _removed(mask: np.ndarray) -> int:
    return mask.size - int(np.count_nonzero(mask))


def make_masks(
    scores: Mapping[str, np.ndarray],
    *,
    sparsity: float | None = None,
    scope: str = "global",
    allocation: str = "uniform",
    granularity: str = "weight",
    previous: Masks | None = None,
) -> Masks:
    """Masks that remove the weights of lowest score, by exact count.

    Parameters:
        scores: ``{name: array}``, canonical layout; larger = keep. Numbers of any type, infinities too.
        sparsity: fraction in [0, 1) to remove: exactly ``round(sparsity * n)`` (half to even) of the n
            weights of each scope. May be left out for n:m.
        scope: ``"global"`` ranks all weights together, ``"layer"`` each array by itself.
        allocation: what each layer removes in layer scope. ``"uniform"``: the same fraction. ``"erk"``:
            densities in proportion to (sum of dimensions) / (their product), none above 1 (Evci et al. 2020,
            after Mocanu et al. 2018). ``"lamp"``: those of lowest s^2 / (sum of all s'^2 >= s^2 in the
            layer), all layers together (Lee et al. 2021). erk and lamp remove ``round(sparsity * n)`` of all.
        granularity: ``"weight"``, or n:m such as ``"2:4"``: of every m inputs in a row (axis 1), for each
            output and position, exactly n are kept; sparsity is then 1 - n/m.
        previous: masks of an earlier step. What they removed stays removed and counts toward the target.

    Returns new `Masks`; nothing is changed in place. At equal score the earlier weight is kept: order is that
    of the mapping, then the flat index. Time is linear (lamp sorts each layer); added memory is a few
    hundredths of the scores', for lamp some arrays of the largest layer. Errors: NaN in scores; a value out
    of range or unknown; masks with other names or shapes; a target below what is removed already; inputs
    that m does not divide.

    Example:
        >>> make_masks({"dense_1/kernel": np.array([[0.3, 0.1, 0.2, 0.4]])}, sparsity=0.5)["dense_1/kernel"]
        array([[ True, False, False,  True]])
    """
    check_choice("scope", scope, SCOPES)
    check_choice("allocation", allocation, ALLOCATIONS)
    pattern = n_and_m(granularity)
    shapes = _shapes(scores)
    sizes = {name: math.prod(shape) for name, shape in shapes.items()}
    if previous is not None:
        previous = previous.under(shapes) or previous
        check_match(previous, shapes)
    if scope == "global" and allocation != "uniform":
        refuse("allocation shares sparsity among layers", "scope='global'", "Pass scope='layer' with it.")
    if pattern:
        return _n_of_m(scores, pattern, sparsity, scope, previous)
    sparsity = check_fraction("sparsity", sparsity)
    if allocation == "lamp":
        scores, scope = LampScores(scores, previous), "global"
    if scope == "global":
        counts, groups = [round(sparsity * sum(sizes.values()))], [list(scores)]
    else:
        per_layer = erk_counts(shapes, sizes, sparsity) if allocation == "erk" else None
        counts = [per_layer[name] if per_layer else round(sparsity * sizes[name]) for name in scores]
        groups = [[name] for name in scores]
    arrays: dict[str, np.ndarray] = {}
    for group, count in zip(groups, counts, strict=True):
        arrays |= _selected(scores, group, count, previous)
    return Masks._of(arrays)


def _shapes(scores: Mapping[str, np.ndarray]) -> dict[str, tuple[int, ...]]:
    if not isinstance(scores, Mapping) or not scores:
        refuse("scores must be a mapping of names to arrays, at least one", type(scores).__name__)
    shapes = {}
    for name in scores:
        array, _ = source_of(scores, name)
        if array.dtype.kind not in "fiu" and array.dtype.name != "bfloat16":  # whose kind is V
            refuse(f"scores of {name!r} must be real numbers", f"type {array.dtype}")
        shapes[name] = array.shape
    if not any(map(math.prod, shapes.values())):
        refuse("there must be a weight to prune", "empty arrays only")
    return shapes


def _selected(
    scores: Mapping[str, np.ndarray], names: list[str], count: int, previous: Masks | None
) -> dict[str, np.ndarray]:
    """Masks of `names` that remove `count` weights of them, those that `previous` removed among them."""
    gone = sum(_removed(previous[name]) for name in names) if previous else 0
    if count < gone:
        what = names[0] if len(names) == 1 else "all layers together"
        refuse(
            f"sparsity must not fall, and the previous masks removed {gone} weights of {what}",
            f"a target of {count}",
            "Pass a higher sparsity, or leave previous out.",
        )
    return Selection(scores, names, previous).masks(count - gone)


def n_and_m(granularity: str) -> tuple[int, int] | None:
    """(2, 4) of ``"2:4"``; None for ``"weight"``."""
    if granularity == "weight":
        return None
    match = re.fullmatch(r"(\d+):(\d+)", str(granularity))
    if not match or not 1 <= int(match[1]) < int(match[2]):
        rule = "granularity must be 'weight' or n:m with 1 <= n < m, such as '2:4'"
        refuse(rule, repr(granularity), "" if match else nearest(granularity, ["weight", "2:4"]))
    return int(match[1]), int(match[2])


def _n_of_m(
    scores: Mapping[str, np.ndarray],
    pattern: tuple[int, int],
    sparsity: float | None,
    scope: str,
    previous: Masks | None,
) -> Masks:
    n, m = pattern
    if sparsity is not None and check_fraction("sparsity", sparsity) != 1 - n / m:
        refuse(f"sparsity must be {1 - n / m:g} with granularity '{n}:{m}'", f"{sparsity:g}", "Leave it out.")
    if scope != "global":
        refuse(f"granularity '{n}:{m}' ranks within its runs", f"scope={scope!r}", "Leave scope out.")
    return Masks._of({name: best_of_runs(name, scores[name], n, m, previous) for name in scores})


def shuffle_masks(masks: Masks, *, seed: int) -> Masks:
    """Each mask's entries in random order in the same array: the control that keeps only the counts.

    Example:
        >>> masks = Masks({"dense_1/kernel": np.array([[True, False, False, True]])})
        >>> shuffle_masks(masks, seed=1).sparsity
        0.5
    """
    check_int("seed", seed, at_least=0)
    return Masks._of(
        {
            name: np.random.default_rng([seed, number]).permutation(mask.ravel()).reshape(mask.shape)
            for number, (name, mask) in enumerate(masks.items())
        }
    )
