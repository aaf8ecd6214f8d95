"""Slow, exact answers to what masks must be, and random scores to ask them for."""

import ml_dtypes
import numpy as np

TYPES = (np.float16, ml_dtypes.bfloat16, np.float32, np.float64, np.int8, np.int64, np.uint8)


def numbers(array):
    """A flat list of Python numbers, which compare exactly."""
    kind = np.float64 if array.dtype.kind not in "iu" else array.dtype
    return np.asarray(array, kind).ravel().tolist()


def oracle(scores, remove, previous=None):
    """What is gone already comes first, then the lowest score, then the latest position."""
    entries, position = [], 0
    for name, array in scores.items():
        kept = [True] * array.size if previous is None else previous[name].ravel().tolist()
        for index, score in enumerate(numbers(array)):
            entries.append((kept[index], score, -position, name, index))
            position += 1
    entries.sort()
    masks = {name: np.ones(array.size, bool) for name, array in scores.items()}
    for *_, name, index in entries[:remove]:
        masks[name][index] = False
    return {name: mask.reshape(scores[name].shape) for name, mask in masks.items()}


def oracle_by_layer(scores, sparsity, previous=None):
    masks = {}
    for name, array in scores.items():
        alone = {name: array}
        before = None if previous is None else {name: previous[name]}
        masks |= oracle(alone, round(sparsity * array.size), before)
    return masks


def oracle_n_of_m(array, n, m, previous=None):
    """None where a run has fewer than n left."""
    mask = np.zeros(array.shape, bool)
    for index in np.ndindex(array.shape):
        if index[1] % m:
            continue
        run = [(index[0], index[1] + k, *index[2:]) for k in range(m)]
        left = [p for p in run if previous is None or previous[p]]
        if len(left) < n:
            return None
        exact = [(-array[p].item(), p[1], p) for p in left]
        for *_, p in sorted(exact)[:n]:
            mask[p] = True
    return mask


def assert_same(masks, expected):
    assert list(masks) == list(expected)
    for name, mask in expected.items():
        assert masks[name].dtype == bool and masks[name].shape == mask.shape
        assert np.array_equal(masks[name], mask), name


def random_array(random, shape, kind):
    """Continuous, few values, one value, with zeros of both signs, with infinities; any memory layout."""
    style = random.integers(5)
    if style == 0:
        value = random.normal(0, 30, shape)
    elif style == 1:
        value = random.integers(-2, 3, shape).astype(float)
    elif style == 2:
        value = np.full(shape, float(random.integers(-1, 2)))
    else:
        value = random.choice([-1.5, -0.0, 0.0, 1.0, 2.5], shape)
    if np.dtype(kind).kind in "iu":
        low = 0 if np.dtype(kind).kind == "u" else -100
        value = np.clip(value, low, 100)
        if kind is np.int64 and style == 0:
            value = value * 2**40  # still exact beside floating-point layers
    elif style == 4:
        value = np.where(random.random(shape) < 0.2, random.choice([-np.inf, np.inf]), value)
    array = np.asarray(value).astype(kind)
    layout = random.integers(4)
    if layout == 0:
        array = np.asfortranarray(array)
    elif layout == 1:
        array = np.repeat(array, 2, 0)[::2]  # not contiguous
    return array


def random_scores(random, most_layers=4):
    layers = 1 if random.random() < 0.3 else int(random.integers(1, most_layers + 1))
    one_kind = random.choice(len(TYPES))
    scores = {}
    for index in range(layers):
        kind = TYPES[one_kind if random.random() < 0.7 else random.choice(len(TYPES))]
        shape = tuple(int(n) for n in random.integers(1, 4, random.integers(1, 5)))
        shape = (0, *shape[1:]) if random.random() < 0.02 and index else shape
        scores[f"layer_{index}/kernel"] = random_array(random, shape, kind)
    return scores


def random_sparsity(random, size):
    """Anything, or a value whose product with the size ends in one half or is whole."""
    if random.random() < 0.5:
        return float(random.random() * 0.999)
    return min(float(random.integers(0, 2 * size)) / (2 * size), 0.999)
