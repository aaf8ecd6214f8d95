import math
from fractions import Fraction

import numpy as np
import pytest

from nnopt_lib import make_masks
from nnopt_lib.checks import NnoptError
from tests.pruning.oracles import (
    assert_same,
    numbers,
    oracle,
    random_sparsity,
)


def lamp_by_definition(array, kept):
    """Exact: s^2 over the sum of the squares of all that are not smaller, what is removed counting as 0."""
    values = [int(v) if k else 0 for v, k in zip(numbers(array), kept, strict=True)]
    return [Fraction(v * v, sum(w * w for w in values if w >= v) or 1) for v in values]


def test_1000_random_cases_of_lamp_equal_a_brute_force():
    """Lee et al. 2021, eq. 4, ranked over all layers; small whole scores, so that both sides are exact."""
    random = np.random.default_rng(22)
    for _ in range(1000):
        shapes = [tuple(random.integers(1, 5, random.integers(1, 4))) for _ in range(random.integers(1, 4))]
        kind = random.choice([np.float16, np.float32, np.float64, np.int8])
        scores = {f"{i}": random.integers(0, 8, shape).astype(kind) for i, shape in enumerate(shapes)}
        size = sum(array.size for array in scores.values())
        sparsity, previous = random_sparsity(random, size), None
        if random.integers(2):
            other = {name: random.random(array.shape) for name, array in scores.items()}
            previous = make_masks(other, sparsity=sparsity * random.random())
        whole = {name: np.ones(array.shape, bool) for name, array in scores.items()}
        exact = {
            name: lamp_by_definition(array, (previous or whole)[name].ravel())
            for name, array in scores.items()
        }
        # ranks of the exact numbers are whole, so the same oracle sorts them
        ranks = {v: rank for rank, v in enumerate(sorted({v for values in exact.values() for v in values}))}
        ranked = {
            name: np.array([ranks[v] for v in values]).reshape(scores[name].shape)
            for name, values in exact.items()
        }
        masks = make_masks(scores, sparsity=sparsity, scope="layer", allocation="lamp", previous=previous)
        assert_same(masks, oracle(ranked, round(sparsity * size), previous))


def erk_removed(shapes, sparsity):
    """Exact, unrounded: densities in proportion to (sum of dimensions) / (their product), none above 1."""
    sizes = {name: math.prod(shape) for name, shape in shapes.items()}
    kept, full = (1 - Fraction(sparsity)) * sum(sizes.values()), set()
    while True:
        rest = [name for name in shapes if name not in full]
        budget = kept - sum(sizes[name] for name in full)
        scale = budget / sum(sum(shapes[name]) for name in rest) if rest else 0
        over = [name for name in rest if scale * sum(shapes[name]) > sizes[name]]
        if not over:
            return {n: 0 if n in full else sizes[n] - scale * sum(shapes[n]) for n in shapes}
        full |= set(over)


def test_500_random_cases_of_erk_have_its_densities_and_the_exact_total():
    random = np.random.default_rng(23)
    for _ in range(500):
        shapes = {
            f"{i}": tuple(int(n) for n in random.integers(1, 9, random.integers(1, 5)))
            for i in range(random.integers(1, 5))
        }
        scores = {name: random.integers(0, 5, shape).astype(np.float32) for name, shape in shapes.items()}
        size = sum(array.size for array in scores.values())
        sparsity = random_sparsity(random, size)
        masks = make_masks(scores, sparsity=sparsity, scope="layer", allocation="erk")
        assert masks.removed == round(sparsity * size)
        for name, exact in erk_removed(shapes, sparsity).items():
            removed = int((~masks[name]).sum())
            assert abs(removed - exact) < 1.0001
            assert_same({name: masks[name]}, oracle({name: scores[name]}, removed))


def test_erk_densities_counted_by_hand():
    """300 x 784, 100 x 300, 10 x 100 at 90 %: 26,620 weights are kept, in proportion 1084 : 400 : 110,
    which would be 18,103 and 6,680 and 1,837 of the last one's 1,000. So that one is dense, and the others
    share 25,620: 18,714.5 and 6,905.7."""
    shapes = {"dense_1/kernel": (300, 784), "dense_2/kernel": (100, 300), "dense_3/kernel": (10, 100)}
    random = np.random.default_rng(0)
    scores = {name: random.random(shape, np.float32) for name, shape in shapes.items()}
    masks = make_masks(scores, sparsity=0.9, scope="layer", allocation="erk")
    kept = {name: int(mask.sum()) for name, mask in masks.items()}
    assert kept == {"dense_1/kernel": 18714, "dense_2/kernel": 6906, "dense_3/kernel": 1000}
    assert masks.removed == 239_580 == round(0.9 * 266_200)


def test_erk_of_convolutions_counts_all_four_dimensions():
    """(20, 10, 5, 5) and (40, 20, 3, 3): sums 40 and 66; 5,000 + 7,200 weights, 10 % of them 1,220."""
    random = np.random.default_rng(0)
    scores = {"a": random.random((20, 10, 5, 5)), "b": random.random((40, 20, 3, 3))}
    masks = make_masks(scores, sparsity=0.9, scope="layer", allocation="erk")
    assert [int(mask.sum()) for mask in masks.values()] == [460, 760]  # 1220 * 40 / 106 = 460.4, 759.6


def test_lamp_refuses_negative_scores():
    with pytest.raises(NnoptError) as error:
        make_masks({"a": np.array([1.0, -1.0])}, sparsity=0.5, scope="layer", allocation="lamp")
    assert str(error.value) == "allocation 'lamp' needs scores of at least 0; received -1 in 'a'."


def test_lamp_of_very_large_and_very_small_scores():
    """Squares beyond float64 neither overflow into NaN nor vanish into ties."""
    for scale in (1e200, 1e-200):
        scores = {"a": np.array([1.0, 2.0, 3.0, 4.0]) * scale, "b": np.array([4.0, 3.0, 2.0]) * scale}
        masks = make_masks(scores, sparsity=3 / 7, scope="layer", allocation="lamp")
        expected = make_masks(
            {name: array / scale for name, array in scores.items()},
            sparsity=3 / 7,
            scope="layer",
            allocation="lamp",
        )
        assert masks == expected
