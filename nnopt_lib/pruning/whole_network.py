"""One-shot methods by the curvature of the loss: a model's weights as one vector, its gradients as rows.

`curvature` decides on such arrays; here they are taken from a model. Chapter 12 teaches it.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from nnopt_lib.checks import refuse
from nnopt_lib.frameworks import gradient_backend_of, mask_backend_of
from nnopt_lib.pruning import curvature
from nnopt_lib.pruning.examples import Loss, count_of
from nnopt_lib.pruning.masks import Masks

Choice = Callable[[Mapping[str, np.ndarray]], Masks]  # masks by costs
Result = tuple[Masks, np.ndarray, float]  # masks, new weights, predicted rise of the loss


@dataclasses.dataclass(frozen=True)
class Flat:
    """The weights to rank as one vector, in order of names, then flat."""

    shapes: dict[str, tuple[int, ...]]
    w: np.ndarray  # (n,), float64
    alive: np.ndarray  # (n,): not removed before

    @classmethod
    def of(cls, model: Any, asked: Masks, previous: Masks | None) -> Flat:
        """The weights of `model` that `asked` names."""
        weights = mask_backend_of(model).weights(model, list(asked))
        shapes = {name: mask.shape for name, mask in asked.items()}
        w = np.concatenate([np.asarray(weights[name], np.float64).ravel() for name in shapes])
        kept = [
            np.ones(mask.size, bool) if previous is None else previous[name].ravel()
            for name, mask in asked.items()
        ]
        return cls(shapes, w, np.concatenate(kept))

    @property
    def size(self) -> int:
        """n."""
        return len(self.w)

    def join(self, arrays: Mapping[str, np.ndarray]) -> np.ndarray:
        """Arrays by name as one vector."""
        return np.concatenate([np.reshape(arrays[name], -1) for name in self.shapes])

    def split(self, vector: np.ndarray) -> dict[str, np.ndarray]:
        """One vector as arrays by name; views of it."""
        ends = np.cumsum([math.prod(shape) for shape in self.shapes.values()])
        parts = np.split(vector, ends[:-1])
        return {
            name: part.reshape(shape) for part, (name, shape) in zip(parts, self.shapes.items(), strict=True)
        }


def rows_of(model: Any, flat: Flat, x: Any, loss: Any) -> Iterator[np.ndarray]:
    """Each example's rows of the Gauss-Newton matrix, (outputs, n); 0 for what was removed before."""
    for outputs, slopes in gradient_backend_of(model).jacobians(model, list(flat.shapes), x):
        together = [slopes[name].reshape(len(outputs), -1) for name in flat.shapes]
        yield curvature.weighted_rows(outputs, np.concatenate(together, 1) * flat.alive, loss)


def obd(model: Any, flat: Flat, x: Any, loss: Any, choose: Choice) -> Result:
    """Optimal brain damage: by the diagonal of the Gauss-Newton matrix, which foresees no interplay."""
    costs = curvature.damage(flat.w, curvature.diagonal(rows_of(model, flat, x, loss), flat.size))
    masks = choose(flat.split(costs))
    return masks, flat.w, float(costs[~flat.join(masks)].sum())


def obs(
    model: Any, flat: Flat, x: Any, loss: Any, asked: Masks, group: np.ndarray, dampening: float
) -> Result:
    """Optimal brain surgery on the weights that are still there."""
    alive = flat.alive
    leaving = alive & ~flat.join(asked)
    quota = np.bincount(group[leaving], minlength=int(group.max()) + 1)
    rows = (example[:, alive] for example in rows_of(model, flat, x, loss))
    matrix = curvature.gauss_newton(rows, int(alive.sum()))
    kept, new, _, costs = curvature.surgeon(flat.w[alive], matrix, dampening, group[alive], quota)
    mask, weights = np.zeros(flat.size, bool), np.zeros(flat.size)
    mask[alive], weights[alive] = kept, new
    return Masks(flat.split(mask)), weights, float(costs.sum())


def woodfisher(
    model: Any,
    flat: Flat,
    x: Any,
    y: Any,
    loss: Loss,
    choose: Any,
    dampening: Any,
    block_size: int | str | None,
) -> Result:
    """Masks, weights and predicted rise by the empirical Fisher matrix of each example's gradient."""
    gradients = np.empty((count_of(x), flat.size))
    names = list(flat.shapes)
    for row, slopes in zip(
        gradients, gradient_backend_of(model).each(model, names, x, y, loss=loss), strict=True
    ):
        row[:] = flat.join(slopes)
    gradients *= flat.alive  # what was removed neither moves nor is moved for
    sizes = [math.prod(shape) for shape in flat.shapes.values()]
    blocks = curvature.blocks_of(sizes, block_size)
    masks = choose(flat.split(curvature.fisher_costs(flat.w, gradients, blocks, dampening)))
    new, predicted = curvature.fisher_update(flat.w, gradients, blocks, dampening, ~flat.join(masks))
    return masks, new, predicted


def check_size(asked: Masks, previous: Masks | None) -> None:
    """Refuse more weights than whose whole matrix can be inverted."""
    left = asked.size - (0 if previous is None else sum(int((~previous[name]).sum()) for name in asked))
    if left > curvature.LARGEST:
        rule = f"method 'obs' inverts the curvature of all weights and takes at most {curvature.LARGEST:,}"
        refuse(rule, f"{left:,}", "Pass method='woodfisher', or fewer layers by names=.")


def groups_of(asked: Masks, by_layer: bool, n_m: tuple[int, int] | None) -> np.ndarray:
    """For each weight the number of the group of which a fixed number goes: all, a layer, or a run of n:m."""
    parts, first = [], 0
    for mask in asked.values():
        if n_m:
            runs = mask.shape[1] // n_m[1]
            shape = (mask.shape[0], runs, 1, *mask.shape[2:])
            number = np.arange(int(np.prod(shape))).reshape(shape)
            group = np.broadcast_to(number, (*shape[:2], n_m[1], *shape[3:])).reshape(mask.shape)
        else:
            group = np.zeros(mask.shape, int)
        parts.append(first + group.ravel())
        first += int(group.max()) + 1 if n_m or by_layer else 0
    return np.concatenate(parts)
