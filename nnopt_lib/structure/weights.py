"""Arrays that belong to a description: first values, and whether given ones fit.

Names read ``dense_1/kernel``, kernels are (out, in, *spatial), as everywhere.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from nnopt_lib.checks import check_choice, check_int, refuse
from nnopt_lib.structure.operations import Shape
from nnopt_lib.structure.spec import NetSpec, split_name

Weights = Mapping[str, np.ndarray]
INITIALIZERS = ("glorot_uniform", "glorot_normal", "he_normal", "torch_default")


def initial_weights(spec: NetSpec, seed: int, init: str = "glorot_uniform") -> dict[str, np.ndarray]:
    """First weights for `spec`, drawn in NumPy so that both frameworks begin from the same numbers.

    Parameters:
        spec: the network.
        seed: whole number, at least 0.
        init: ``"glorot_uniform"`` (Keras's default), ``"glorot_normal"``, ``"he_normal"``, all with zero
            biases; or ``"torch_default"``, kernels and biases uniform within 1/sqrt(fan-in).

    Returns a new dict of float32 arrays in canonical layout, running statistics of batch norms included.
    Sources: Glorot & Bengio 2010; He et al. 2015. Glorot's normal is not truncated here, unlike Keras's.
    """
    check_choice("init", init, INITIALIZERS)
    random = np.random.default_rng(check_int("seed", seed, at_least=0))
    weights, bound = {}, 0.0
    for name, shape in spec.parameter_shapes(trainable=False).items():
        _, part = split_name(name)
        if part == "kernel":
            # Fans as both frameworks count them: inputs of one group, all filters.
            fan_in, fan_out = math.prod(shape[1:]), shape[0] * math.prod(shape[2:])
            bound = 1 / math.sqrt(fan_in)
            value = _draw_kernel(random, shape, fan_in, fan_out, init)
        elif part == "bias" and init == "torch_default":
            value = random.uniform(-bound, bound, shape)  # `bound` is that of the kernel just before it
        else:
            value = np.ones(shape) if part in ("scale", "variance") else np.zeros(shape)
        weights[name] = value.astype(np.float32)
    return weights


def _draw_kernel(
    random: np.random.Generator, shape: Shape, fan_in: int, fan_out: int, init: str
) -> np.ndarray:
    if init == "glorot_uniform":
        # A uniform draw within a bound has the variance bound^2 / 3: here 2 / (fan_in + fan_out).
        bound = math.sqrt(6 / (fan_in + fan_out))
        return random.uniform(-bound, bound, shape)
    if init == "glorot_normal":
        return random.normal(0, math.sqrt(2 / (fan_in + fan_out)), shape)
    if init == "he_normal":
        return random.normal(0, math.sqrt(2 / fan_in), shape)
    return random.uniform(-1 / math.sqrt(fan_in), 1 / math.sqrt(fan_in), shape)


def check_match(
    arrays: Mapping[str, np.ndarray], shapes: Mapping[str, tuple[int, ...]], what: str = "masks"
) -> None:
    """Refuse arrays whose names or shapes are not `shapes`, listing those that differ."""
    received = {name: np.shape(array) for name, array in arrays.items()}
    if received != dict(shapes):
        names = [name for name in {**received, **shapes} if received.get(name) != shapes.get(name)]
        differences = [f"{n} {received.get(n, 'missing')} for {shapes.get(n, 'none')}" for n in names]
        refuse(f"{what} must have the names and shapes of the model's weights", ", ".join(differences))


def renamed(
    arrays: Mapping[str, np.ndarray], shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, np.ndarray] | None:
    """The arrays under the names of `shapes`, in order, none copied; None where no rule below fits them all.

    1. Names that are all known are what they say. 2. Keras drops or adds outer names when it loads or clones
    a model, wrappers do too: a name ends as one of those of its shape does, and as no other. 3. Order: arrays
    stand for weights of their kind (``kernel``) and shape in the same order, in the only way that there is.
    """
    if all(name in shapes for name in arrays):
        fits = all(np.shape(array) == shapes[name] for name, array in arrays.items())
        return dict(arrays) if fits else None
    names = _by_ends(arrays, shapes) or _by_order(arrays, shapes)
    return {new: arrays[old] for old, new in names.items()} if names else None


def layers_renamed(masks: Mapping[str, np.ndarray], widths: Mapping[str, int]) -> Mapping[str, np.ndarray]:
    """Masks by layer under the names of layers of these widths, by `renamed`; else as they are."""
    if len(masks) == 1 and len(widths) > 1 and not set(masks) & set(widths):
        return masks  # one of several: a name that is not known may be a slip
    shapes = {f"{layer}/rows": (width,) for layer, width in widths.items()}
    found = renamed({f"{layer}/rows": mask for layer, mask in masks.items()}, shapes)
    return {name.removesuffix("/rows"): mask for name, mask in found.items()} if found else masks


def _by_ends(
    arrays: Mapping[str, np.ndarray], shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, str] | None:
    parts = {name: _split(name) for name in {**arrays, **shapes}}
    by_last: dict[tuple[str, ...], list[str]] = {}
    for name in shapes:
        by_last.setdefault(parts[name][-2:], []).append(name)
    names = {}
    for old, array in arrays.items():
        alike = [
            new
            for new in by_last.get(parts[old][-2:], ())
            if shapes[new] == np.shape(array)
            and all(a == b for a, b in zip(reversed(parts[old]), reversed(parts[new]), strict=False))
        ]
        if len(alike) != 1:
            return None
        names[old] = alike[0]
    return names if len(set(names.values())) == len(names) else None


def _by_order(
    arrays: Mapping[str, np.ndarray], shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, str] | None:
    wanted = [(name, (_split(name)[-1], np.shape(array))) for name, array in arrays.items()]
    found = [(name, (_split(name)[-1], shape)) for name, shape in shapes.items()]
    # The earliest and the latest places in order are the same only where there is one way.
    first = _greedy(wanted, found)
    return first if first and first == _greedy(wanted[::-1], found[::-1]) else None


def _greedy(
    wanted: Sequence[tuple[str, object]], found: Iterable[tuple[str, object]]
) -> dict[str, str] | None:
    left, names = iter(found), {}
    for old, kind in wanted:
        new = next((name for name, other in left if other == kind), None)
        if new is None:
            return None
        names[old] = new
    return names


def _split(name: str) -> tuple[str, ...]:
    """``("block", "0", "kernel")`` of ``block.0/kernel``."""
    return tuple(re.split("[./]", name))


def check_weights(spec: NetSpec, weights: Weights) -> dict[str, np.ndarray]:
    """Copies of the weights, if they are those of the network."""
    shapes = spec.parameter_shapes(trainable=False)
    check_match(weights, shapes, "weights")
    return {name: np.array(weights[name]) for name in shapes}
