"""Random kernels that a format can store, drawn by hypothesis."""

from __future__ import annotations

import math

import numpy as np
from hypothesis import strategies as st

from nnopt_lib.formats import FORMATS


@st.composite
def cases(draw, formats=FORMATS, convolutions=True):
    """(kernel, format, options of `store`): any shape and sparsity, none kept and all kept included."""
    format = draw(st.sampled_from(formats))
    dimensions = draw(st.integers(0, 2 if convolutions else 0))
    spatial = tuple(draw(st.integers(1, 4)) for _ in range(dimensions))
    out, inputs = draw(st.integers(1, 24)), draw(st.integers(1, 40))
    options = {}
    if format == "bsr":
        block = draw(st.integers(1, 5)), draw(st.integers(1, 5))
        out, inputs, options = out * block[0], inputs * block[1], {"block": block}
    if format == "n:m":
        m = draw(st.integers(2, 9))
        options = {"m": m, "n": draw(st.integers(1, m))}
        inputs *= m
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    sparsity = draw(st.sampled_from([0.0, 0.5, 0.9, 0.99, 1.0]) | st.floats(0, 1))
    kernel = random.standard_normal((out, inputs, *spatial)).astype(np.float32)
    return kernel * kept(kernel.shape, format, sparsity, random, **options), format, options


def kept(shape, format, sparsity, random, *, block=(16, 16), n=2, m=4):
    """A random mask of about this sparsity, as the format needs it, True = keep."""
    ranks = random.random(shape)
    if format == "constant_fan_in":
        flat = ranks.reshape(shape[0], -1)
        return (flat.argsort(1).argsort(1) < round((1 - sparsity) * flat.shape[1])).reshape(shape)
    if format == "bsr":
        columns = math.prod(shape[1:])
        blocks = random.random((shape[0] // block[0], columns // block[1])) >= sparsity
        return np.kron(blocks, np.ones(block, bool)).reshape(shape)
    if format == "n:m":
        runs = np.moveaxis(ranks, 1, -1).reshape(-1, m)
        mask = (runs.argsort(1).argsort(1) < n) & (random.random(runs.shape) >= sparsity)
        return np.moveaxis(mask.reshape(shape[0], *shape[2:], shape[1]), -1, 1)
    return ranks >= sparsity
