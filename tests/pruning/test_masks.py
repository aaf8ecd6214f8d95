"""Masks by the contract: exact counts, ties, nesting, n:m, equal to an oracle that sorts; files; refusals."""

import json
import math
from fractions import Fraction

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays_of

from nnopt_lib import Masks, make_masks, shuffle_masks
from nnopt_lib.checks import NnoptError
from nnopt_lib.pruning import topk as selection
from nnopt_lib.pruning.scores import magnitude
from tests.conftest import small_files

TYPES = (np.float16, ml_dtypes.bfloat16, np.float32, np.float64, np.int8, np.int64, np.uint8)


# ---------------------------------------------------------------- the oracle: sort, take, mark


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
    for place in np.ndindex(array.shape):
        if place[1] % m:
            continue
        run = [(place[0], place[1] + k, *place[2:]) for k in range(m)]
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


# ---------------------------------------------------------------- random cases


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


# The same answers, whatever is read at a time and however badly the sample misleads: (CHUNK, SAMPLE)
PATHS = ((selection.CHUNK, selection.SAMPLE), (5, 3))


def test_3500_random_cases_on_both_paths_equal_the_oracle(monkeypatch):
    """Both scopes, with `previous` in half of them; 7,000 in all."""
    random = np.random.default_rng(20)
    for case in range(3500):
        scores = random_scores(random)
        copies = {name: array.copy() for name, array in scores.items()}
        size = sum(array.size for array in scores.values())
        sparsity, by_layer = random_sparsity(random, size), bool(random.integers(2))
        given, previous = scores, None
        if random.integers(2):
            given = magnitude(scores)  # computed while it is read, in the type of all layers together
            scores = {name: np.abs(array) for name, array in scores.items()}
        if random.integers(2):
            lower = sparsity * random.random()
            other = {name: random.random(array.shape) for name, array in scores.items()}
            previous = make_masks(other, sparsity=lower, scope="layer" if by_layer else "global")
        if by_layer:
            expected = oracle_by_layer(scores, sparsity, previous)
        else:
            expected = oracle(scores, round(sparsity * size), previous)
        for chunk, sample in PATHS:
            monkeypatch.setattr(selection, "CHUNK", chunk)
            monkeypatch.setattr(selection, "SAMPLE", sample)
            masks = make_masks(
                given, sparsity=sparsity, scope="layer" if by_layer else "global", previous=previous
            )
            try:
                assert_same(masks, expected)
            except AssertionError:
                print(
                    f"case {case}: sparsity {sparsity}, by layer {by_layer}, chunk {chunk}, scores {scores}"
                )
                raise
        for name, array in getattr(given, "weights", given).items():
            assert array.tobytes() == copies[name].tobytes()  # arguments are never changed


def test_2000_random_cases_of_n_of_m_equal_the_oracle():
    random = np.random.default_rng(21)
    refused = 0
    for _ in range(2000):
        m = int(random.integers(2, 9))
        n = int(random.integers(1, m))
        kind = TYPES[random.choice(len(TYPES))]
        spatial = tuple(int(k) for k in random.integers(1, 4, random.integers(0, 3)))
        shape = (int(random.integers(1, 4)), m * int(random.integers(1, 3)), *spatial)
        scores = {"a": random_array(random, shape, kind), "b": random_array(random, (2, m), kind)}
        previous = None
        if random.integers(2):
            other = {name: random.random(array.shape) for name, array in scores.items()}
            if random.integers(2):
                previous = make_masks(other, granularity=f"{random.integers(n, m)}:{m}")
            else:
                previous = make_masks(other, sparsity=0.3 * random.random())
        expected = {
            name: oracle_n_of_m(array, n, m, None if previous is None else previous[name])
            for name, array in scores.items()
        }
        wrong = next((name for name, mask in expected.items() if mask is None), None)
        if wrong is None:
            assert_same(make_masks(scores, granularity=f"{n}:{m}", previous=previous), expected)
        else:
            refused += 1
            with pytest.raises(NnoptError, match=f"'{wrong}'"):
                make_masks(scores, granularity=f"{n}:{m}", previous=previous)
    assert 50 < refused < 1000


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


# ---------------------------------------------------------------- rules, one by one


@pytest.mark.parametrize(
    ("size", "sparsity", "removed"), [(5, 0.5, 2), (7, 0.5, 4), (4, 0.125, 0), (4, 0.375, 2)]
)
def test_half_a_weight_rounds_to_even(size, sparsity, removed):
    scores = {"a": np.arange(size, dtype=np.float32)}
    for scope in ("global", "layer"):
        masks = make_masks(scores, sparsity=sparsity, scope=scope)
        assert masks.removed == removed == round(sparsity * size)
        assert masks["a"].tolist() == [False] * removed + [True] * (size - removed)


def test_of_equal_scores_the_earlier_is_kept_across_layers():
    scores = {"z": np.zeros((2, 2)), "a": np.zeros(3)}  # the mapping's order, not the alphabet's
    masks = make_masks(scores, sparsity=4 / 7)
    assert masks["z"].tolist() == [[True, True], [True, False]] and not masks["a"].any()


def test_zeros_of_both_signs_are_equal():
    masks = make_masks({"a": np.array([-0.0, 0.0, -0.0, 0.0])}, sparsity=0.5)
    assert masks["a"].tolist() == [True, True, False, False]


def test_infinities_are_scores_like_others():
    scores = {"a": np.array([np.inf, -np.inf, 1.0, np.inf]), "b": np.array([-np.inf, np.inf], np.float16)}
    masks = make_masks(scores, sparsity=0.5)
    assert masks["a"].tolist() == [True, False, False, True] and masks["b"].tolist() == [False, True]
    masks = make_masks(scores, sparsity=4 / 6)
    assert masks["a"].tolist() == [True, False, False, True] and masks["b"].tolist() == [False, False]


def test_large_whole_numbers_are_compared_exactly():
    big = 2**62
    masks = make_masks({"a": np.array([big + 1, big, big + 2])}, sparsity=1 / 3)
    assert masks["a"].tolist() == [True, False, True]  # in float64 all three would be equal


def test_the_most_negative_integer_has_the_largest_magnitude():
    """abs(-128) is -128 in eight bits."""
    for kind in (np.int8, np.int16, np.int32, np.int64):
        weights = {"a": np.array([[np.iinfo(kind).min, 1, 2, 3]], kind)}
        assert make_masks(magnitude(weights), sparsity=0.75)["a"].tolist() == [[True, False, False, False]]
        assert make_masks(magnitude(weights), granularity="1:4")["a"].tolist() == [
            [True, False, False, False]
        ]
        lamp = make_masks(magnitude(weights), sparsity=0.75, scope="layer", allocation="lamp")
        assert lamp["a"].tolist() == [[True, False, False, False]]


def test_a_scalar_and_an_empty_array_are_weights_like_others():
    masks = make_masks({"a": np.array(2.0), "b": np.zeros((0, 3)), "c": np.array([1.0, 3.0])}, sparsity=0.5)
    assert masks.removed == 2 and masks["a"].shape == () and masks["b"].shape == (0, 3)
    assert masks["c"].tolist() == [False, True]
    assert make_masks({"a": np.array(2.0)}, sparsity=0.9)["a"].tolist() is False


def test_previous_masks_only_shrink_and_count():
    random = np.random.default_rng(5)
    scores = {"a": random.random((6, 7)), "b": random.random(31)}
    before = None
    for sparsity in (0.0, 0.2, 0.2, 0.36, 0.7, 0.99):
        scores = {
            name: random.random(array.shape) for name, array in scores.items()
        }  # other scores each time
        masks = make_masks(scores, sparsity=sparsity, previous=before)
        assert masks.removed == round(sparsity * 73)
        if before is not None:
            assert all(not (masks[name] & ~before[name]).any() for name in masks)
        before = masks


@given(
    st.lists(
        arrays_of.arrays(
            np.float32,
            arrays_of.array_shapes(min_dims=1, max_dims=4, max_side=4),
            elements=st.floats(-2, 2, width=32) | st.sampled_from([0.0, -0.0, 1.0, np.inf, -np.inf]),
        ),
        min_size=1,
        max_size=3,
    ),
    st.lists(st.floats(0, 0.99), min_size=1, max_size=3),
    st.sampled_from(["global", "layer"]),
)
@settings(max_examples=150, deadline=None)
def test_any_scores_give_the_oracles_masks_level_by_level(layers, sparsities, scope):
    scores = {str(index): array for index, array in enumerate(layers)}
    before = None
    for sparsity in sorted(sparsities):
        masks = make_masks(scores, sparsity=sparsity, scope=scope, previous=before)
        count = round(sparsity * sum(array.size for array in layers))
        assert_same(
            masks,
            oracle(scores, count, before) if scope == "global" else oracle_by_layer(scores, sparsity, before),
        )
        before = masks


def test_arguments_stay_as_they_are():
    frozen = np.random.default_rng(0).random((4, 8))
    frozen.flags.writeable = False
    scores, before = {"a": frozen}, make_masks({"a": frozen}, sparsity=0.2)
    kept = before["a"].copy()
    for options in (
        {"sparsity": 0.5},
        {"sparsity": 0.5, "scope": "layer", "allocation": "lamp"},
        {"sparsity": 0.5, "scope": "layer", "allocation": "erk"},
    ):
        make_masks(scores, previous=before, **options)
    make_masks(scores, granularity="2:4")
    assert np.array_equal(before["a"], kept) and list(scores) == ["a"]


# ---------------------------------------------------------------- many weights

MANY = 2**18  # several chunks and samples of the selection
RANDOM = np.random.default_rng(3)
LARGE = {
    "normal": RANDOM.standard_normal(MANY + 17, np.float32),
    "all equal": np.full(MANY + 5, 0.25, np.float32),
    "two values": RANDOM.integers(0, 2, MANY).astype(np.float32),
    "one differs": np.where(np.arange(MANY) == 777, np.float32(-1), np.float32(0)),
    "int8 grid": RANDOM.integers(-127, 128, MANY + 3).astype(np.int8),
    "half zeros": np.where(RANDOM.random(MANY) < 0.5, 0, RANDOM.random(MANY)).astype(np.float32),
    "rising": np.arange(MANY, dtype=np.float32),
    "falling": np.arange(MANY, dtype=np.float64)[::-1],
    "periodic": (np.arange(MANY) % 1024 == 0).astype(np.float32),
    "long period": np.repeat(np.arange(16, dtype=np.float32), MANY // 16),
    "rare outliers": np.where(np.arange(MANY) % 99_991 == 0, 1e30, np.arange(MANY) % 3).astype(np.float32),
    "bfloat16": RANDOM.standard_normal(MANY, np.float32).astype(ml_dtypes.bfloat16),
    "float16": RANDOM.standard_normal(MANY, np.float32).astype(np.float16),
    "infinities": np.where(RANDOM.random(MANY) < 0.3, np.inf, RANDOM.standard_normal(MANY)),
    "int64": RANDOM.integers(-(2**62), 2**62, MANY),
}


def by_stable_sort(scores, remove):
    """The last of equal scores goes first: a stable sort of the reversed array."""
    wide = scores.astype(np.float64) if scores.dtype.kind not in "iu" else scores
    gone = len(scores) - 1 - np.argsort(wide[::-1], kind="stable")[:remove]
    mask = np.ones(len(scores), bool)
    mask[gone] = False
    return mask


@pytest.mark.parametrize("name", LARGE)
def test_many_weights_equal_a_stable_sort(name):
    scores = LARGE[name]
    cut = len(scores) // 3 + 1  # two layers, so that ties cross them
    layers = {"b": scores[:cut].reshape(-1, 1), "a": scores[cut:]}
    for sparsity in (0.001, 0.5, 0.9, 0.9999):
        masks = make_masks(layers, sparsity=sparsity)
        expected = by_stable_sort(scores, round(sparsity * len(scores)))
        assert np.array_equal(np.concatenate([mask.ravel() for mask in masks.values()]), expected)


def test_many_weights_level_by_level_with_zeros_of_the_level_before():
    weights = LARGE["normal"].copy()
    before = None
    for sparsity in (0.5, 0.75, 0.875):
        masks = make_masks(magnitude({"a": weights}), sparsity=sparsity, previous=before)
        assert masks.removed == round(sparsity * len(weights))
        assert np.array_equal(masks["a"], by_stable_sort(abs(weights), masks.removed))
        weights[~masks["a"]] = 0
        weights[masks["a"]] *= 2
        before = masks


def test_many_layers_of_many_sizes_equal_a_stable_sort():
    random = np.random.default_rng(9)
    layers = {f"{i}": random.standard_normal(int(2 ** random.uniform(0, 13)), np.float32) for i in range(300)}
    flat = np.concatenate(list(layers.values()))
    for sparsity in (0.1, 0.5, 0.99):
        masks = make_masks(magnitude(layers), sparsity=sparsity)
        expected = by_stable_sort(abs(flat), round(sparsity * len(flat)))
        assert np.array_equal(np.concatenate(list(masks.values())), expected)


def test_no_copy_of_the_model_is_made():
    """Below half of the model's bytes beside the masks (16 layers of 1 MB), whatever NumPy allocates."""
    import tracemalloc

    random = np.random.default_rng(0)
    weights = {f"{i}": random.standard_normal((512, 512), np.float32) for i in range(16)}
    model_bytes = sum(array.nbytes for array in weights.values())
    make_masks(magnitude(weights), sparsity=0.5)
    tracemalloc.start()
    masks = make_masks(magnitude(weights), sparsity=0.9)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak - sum(mask.nbytes for mask in masks.values()) < 0.5 * model_bytes


# ---------------------------------------------------------------- shuffled masks


def test_shuffled_masks_keep_their_counts_and_change_places():
    random = np.random.default_rng(0)
    masks = make_masks({"a": random.random((20, 30)), "b": random.random((5, 4, 3, 3))}, sparsity=0.7)
    before = {name: mask.copy() for name, mask in masks.items()}
    shuffled = shuffle_masks(masks, seed=1)
    assert isinstance(shuffled, Masks) and shuffled.sparsities() == masks.sparsities()
    assert all(shuffled[name].shape == masks[name].shape for name in masks)
    assert all(not np.array_equal(shuffled[name], masks[name]) for name in masks)
    assert shuffled == shuffle_masks(masks, seed=1) and shuffled != shuffle_masks(masks, seed=2)
    assert all(np.array_equal(masks[name], mask) for name, mask in before.items())


def test_shuffling_does_not_keep_rows_or_columns_together():
    mask = np.ones((10, 100), bool)
    mask[:5] = False
    for own in (mask, mask.T):
        shuffled = shuffle_masks(Masks({"a": own}), seed=0)["a"]
        for axis in (0, 1):
            assert shuffled.mean(axis).min() > 0 and shuffled.mean(axis).max() < 1


def test_shuffling_is_even_and_layers_of_one_shape_differ():
    mask = np.arange(20) < 5
    counts = sum(shuffle_masks(Masks({"a": mask}), seed=seed)["a"].astype(int) for seed in range(2000))
    assert counts.min() > 420 and counts.max() < 580  # 500 each, standard deviation 19
    twins = shuffle_masks(Masks({"a": np.arange(400) < 200, "b": np.arange(400) < 200}), seed=0)
    assert not np.array_equal(twins["a"], twins["b"])


# ---------------------------------------------------------------- the type


def some_masks():
    random = np.random.default_rng(4)
    return make_masks(
        {"dense_1/kernel": random.random((7, 5)), "conv/kernel": random.random((4, 3, 3, 3))}, sparsity=0.6
    )


def test_counts_of_masks():
    masks = Masks({"a": np.array([[True, False], [True, True]]), "b": np.array([False, False])})
    assert (masks.size, masks.removed, masks.sparsity, masks.density) == (6, 3, 0.5, 0.5)
    assert masks.sparsities() == {"a": 0.25, "b": 1.0}
    assert list(masks) == ["a", "b"] and len(masks) == 2 and "a" in masks
    assert repr(masks) == "Masks(sparsity 0.5: 3 of 6 weights removed, 2 arrays)"


def test_masks_are_copied_and_read_only():
    own = np.array([True, False])
    masks = Masks({"a": own})
    own[:] = False
    assert masks["a"].tolist() == [True, False]
    with pytest.raises(ValueError):
        masks["a"][0] = False
    made = make_masks({"a": np.arange(4.0)}, sparsity=0.5)
    with pytest.raises(ValueError):
        made["a"][0] = True
    with pytest.raises(TypeError):
        made["a"] = own  # a mapping that cannot be assigned to


def test_masks_are_equal_by_contents():
    first, second = some_masks(), some_masks()
    assert first == second and first is not second
    changed = {name: mask.copy() for name, mask in first.items()}
    changed["conv/kernel"][0, 0, 0, 0] ^= True
    assert first != Masks(changed)
    assert first != Masks({"conv/kernel": first["conv/kernel"]})
    assert first != dict(first) and first != 1
    assert Masks({"a": np.ones(4, bool)}) != Masks({"a": np.ones((2, 2), bool)})


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({}, "masks must be a mapping of names to boolean arrays, at least one; received dict."),
        (
            [np.ones(2, bool)],
            "masks must be a mapping of names to boolean arrays, at least one; received list.",
        ),
        ({"a": np.ones(2)}, "mask 'a' must be a boolean array, True = keep; received float64."),
        ({"a": np.ones(2, np.int8)}, "mask 'a' must be a boolean array, True = keep; received int8."),
        ({"a": [True, False]}, "mask 'a' must be a boolean array, True = keep; received list."),
        ({1: np.ones(2, bool)}, "mask names must be strings; received 1."),
    ],
)
def test_masks_of_something_else_are_refused(given, sentence):
    with pytest.raises(NnoptError) as error:
        Masks(given)
    assert str(error.value) == sentence


# ---------------------------------------------------------------- files


@given(
    st.dictionaries(
        st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=9).filter(
            lambda name: name != "__metadata__"
        ),
        arrays_of.arrays(bool, arrays_of.array_shapes(min_dims=0, max_dims=4, max_side=5, min_side=0)),
        min_size=1,
        max_size=4,
    )
)
@settings(max_examples=60, deadline=None)
def test_what_is_saved_is_loaded(tmp_path_factory, given):
    path = tmp_path_factory.getbasetemp() / "any" / "masks.safetensors"
    Masks(given).save(path)
    loaded = Masks.load(path)
    assert_same(loaded, given)
    assert loaded == Masks(given) and list(path.parent.iterdir()) == [path]


def test_a_saved_file_is_small_safe_and_read_only_when_loaded(tmp_path):
    masks = make_masks({"a": np.random.default_rng(0).random((1000, 100))}, sparsity=0.9)
    masks.save(tmp_path / "masks.safetensors")
    assert (tmp_path / "masks.safetensors").stat().st_size < 100_000 / 8 + 500
    loaded = Masks.load(str(tmp_path / "masks.safetensors"))
    assert loaded.sparsity == 0.9 and loaded.removed == 90_000
    with pytest.raises(ValueError):
        loaded["a"][0, 0] = True
    from safetensors import safe_open

    with safe_open(str(tmp_path / "masks.safetensors"), "numpy") as file:
        assert json.loads(file.metadata()["text"]) == {"a": [1000, 100]}


def assert_whole_file_sentence(sentence, path):
    assert sentence.startswith(f"{path} must be a whole file that Masks.save wrote; received ")
    assert sentence.endswith(". Save the masks again, or use another file.") and "\n" not in sentence


def assert_refused_as_a_file(path, received=None):
    """The one sentence: rule with the file's name, what is wrong, remedy."""
    with pytest.raises(NnoptError) as error:
        Masks.load(path)
    sentence = str(error.value)
    assert_whole_file_sentence(sentence, path)
    if received is not None:
        assert sentence.split("; received ", 1)[1].startswith(received)
    return sentence


@pytest.mark.parametrize(
    "change", [lambda b: b ^ 1, lambda b: 0, lambda b: ord("7")], ids=["bit", "0", "digit"]
)
def test_a_damaged_byte_anywhere_is_noticed(tmp_path, change):
    """Every byte of header and data in turn. A change that leaves the masks what they were is none."""
    path = tmp_path / "masks.safetensors"
    masks = some_masks()
    masks.save(path)
    whole = path.read_bytes()
    harmless = 0
    for place, byte in enumerate(whole):
        if change(byte) == byte:
            continue
        path.write_bytes(whole[:place] + bytes([change(byte)]) + whole[place + 1 :])
        try:
            assert Masks.load(path) == masks, f"byte {place}: other masks were loaded"
            harmless += 1
        except NnoptError as error:
            assert_whole_file_sentence(str(error), path)
    assert harmless < 0.1 * len(whole) + whole.count(b" ")


def test_a_truncated_or_longer_file_is_refused(tmp_path):
    path = tmp_path / "masks.safetensors"
    some_masks().save(path)
    whole = path.read_bytes()
    for length in (0, 1, 7, 8, 9, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        assert_refused_as_a_file(path)
    path.write_bytes(whole + b"\0")
    assert_refused_as_a_file(path)


def test_other_files_are_refused(tmp_path):
    from safetensors.numpy import save

    path = tmp_path / "other"
    assert_refused_as_a_file(path, "")  # there is none
    path.mkdir()
    assert_refused_as_a_file(path, "")
    path = tmp_path / "text.json"
    path.write_text('{"a": [true, false]}' * 20)
    assert_refused_as_a_file(path, "")
    path = tmp_path / "weights.safetensors"
    path.write_bytes(save({"dense_1/kernel": np.zeros((3, 2), np.float32)}))
    assert_refused_as_a_file(path, "format None.")
    path.write_bytes(save({"dense_1/kernel": np.zeros(2, np.uint8)}, {"format": "pt"}))
    assert_refused_as_a_file(path, "format 'pt'.")
    path.write_bytes(save({"dense_1/kernel": np.zeros(2, np.uint8)}, {"format": "nnopt-masks-1"}))
    assert_refused_as_a_file(path)


def test_a_file_whose_seal_fits_but_whose_shapes_do_not_is_refused(tmp_path):
    """Written by hand, or by a version with a mistake: one sentence all the same."""
    from nnopt_lib.files import save_tensors

    path = tmp_path / "masks.safetensors"
    packed = {"a": np.zeros(1, np.uint8)}
    for shapes in (
        '{"a": [9]}',
        '{"b": [4]}',
        '{"a": [4], "b": [4]}',
        '{"a": "4"}',
        "[]",
        "no json",
        '{"a": [-8]}',
    ):
        save_tensors(path, packed, "nnopt-masks-1", shapes)
        assert_refused_as_a_file(path)


def test_a_full_disk_is_one_sentence_and_the_old_masks_stay(tmp_path):
    path = tmp_path / "masks.safetensors"
    some_masks().save(path)

    with pytest.raises(NnoptError) as refusal, small_files():
        shuffle_masks(some_masks(), seed=0).save(path)
    assert str(refusal.value) == (
        f"{path} could not be written: File too large. Free some space and run again; "
        "what was there before is untouched."
    )
    assert Masks.load(path) == some_masks() and list(tmp_path.iterdir()) == [path]


# ---------------------------------------------------------------- refusals

SCORES = {"a": np.arange(8.0).reshape(2, 4), "b": np.arange(6.0)}
KEPT = make_masks(SCORES, sparsity=0.5)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"sparsity": 80}, "sparsity must be at least 0 and below 1; received 80. For 80 %, pass 0.8."),
        ({"sparsity": 1.0}, "sparsity must be at least 0 and below 1; received 1."),
        ({"sparsity": -0.1}, "sparsity must be at least 0 and below 1; received -0.1."),
        ({"sparsity": math.nan}, "sparsity must be at least 0 and below 1; received nan."),
        ({"sparsity": "0.5"}, "sparsity must be at least 0 and below 1; received '0.5'."),
        ({}, "sparsity must be at least 0 and below 1; received None."),
        (
            {"sparsity": 0.5, "scope": "globl"},
            "scope must be one of global, layer; received 'globl'. Did you mean 'global'?",
        ),
        (
            {"sparsity": 0.5, "scope": "layer", "allocation": "erks"},
            "allocation must be one of uniform, erk, lamp; received 'erks'. Did you mean 'erk'?",
        ),
        (
            {"sparsity": 0.5, "allocation": "erk"},
            "allocation shares sparsity among layers; received scope='global'. Pass scope='layer' with it.",
        ),
        (
            {"sparsity": 0.5, "granularity": "node"},
            "granularity must be 'weight' or n:m with 1 <= n < m, such as '2:4'; received 'node'. "
            "Choose from 2:4, weight.",
        ),
        (
            {"granularity": "4:2"},
            "granularity must be 'weight' or n:m with 1 <= n < m, such as '2:4'; received '4:2'.",
        ),
        (
            {"granularity": "0:4"},
            "granularity must be 'weight' or n:m with 1 <= n < m, such as '2:4'; received '0:4'.",
        ),
        (
            {"granularity": "2:4", "sparsity": 0.6},
            "sparsity must be 0.5 with granularity '2:4'; received 0.6. Leave it out.",
        ),
        (
            {"granularity": "2:4", "scope": "layer"},
            "granularity '2:4' ranks within its runs; received scope='layer'. Leave scope out.",
        ),
        (
            {"granularity": "2:3"},
            "granularity '2:3' needs inputs in multiples of 3; received a of shape (2, 4). "
            "Leave this layer out by names=.",
        ),
        (
            {"granularity": "2:4"},
            "granularity '2:4' needs inputs in multiples of 4; received b of shape (6,). "
            "Leave this layer out by names=.",
        ),
        (
            {"sparsity": 0.3, "previous": KEPT},
            "sparsity must not fall, and the previous masks removed 7 weights of all layers together; "
            "received a target of 4. Pass a higher sparsity, or leave previous out.",
        ),
        (
            {
                "sparsity": 0.6,
                "scope": "layer",
                "previous": Masks({"a": np.ones((2, 4), bool), "b": np.arange(6) < 1}),
            },
            "sparsity must not fall, and the previous masks removed 5 weights of b; received a target of 4. "
            "Pass a higher sparsity, or leave previous out.",
        ),
        (
            {"sparsity": 0.5, "previous": Masks({"a": np.ones((4, 2), bool), "c": np.ones(2, bool)})},
            "masks must have the names and shapes of the model's weights; received a (4, 2) for (2, 4), "
            "c (2,) for none, b missing for (6,).",
        ),
    ],
)
def test_bad_calls_are_refused_in_one_sentence(options, sentence):
    with pytest.raises(NnoptError) as error:
        make_masks(SCORES, **options)
    assert str(error.value) == sentence


@pytest.mark.parametrize(
    ("scores", "sentence"),
    [
        ({}, "scores must be a mapping of names to arrays, at least one; received dict."),
        ([np.ones(3)], "scores must be a mapping of names to arrays, at least one; received list."),
        ({"a": np.zeros((0, 3))}, "there must be a weight to prune; received empty arrays only."),
        ({"a": np.array(["x", "y"])}, "scores of 'a' must be real numbers; received type <U1."),
        ({"a": np.ones(3, complex)}, "scores of 'a' must be real numbers; received type complex128."),
        ({"a": np.ones(3, bool)}, "scores of 'a' must be real numbers; received type bool."),
        ({"a": np.ones(3, object)}, "scores of 'a' must be real numbers; received type object."),
    ],
)
def test_scores_that_cannot_be_ranked_are_refused(scores, sentence):
    with pytest.raises(NnoptError) as error:
        make_masks(scores, sparsity=0.5)
    assert str(error.value) == sentence


@pytest.mark.parametrize("kind", [np.float16, ml_dtypes.bfloat16, np.float32, np.float64])
@pytest.mark.parametrize(
    "options",
    [
        {"sparsity": 0.0},
        {"sparsity": 0.5},
        {"sparsity": 0.9},
        {"sparsity": 0.5, "scope": "layer"},
        {"sparsity": 0.5, "scope": "layer", "allocation": "erk"},
        {"sparsity": 0.5, "scope": "layer", "allocation": "lamp"},
        {"granularity": "1:2"},
    ],
    ids=str,
)
def test_scores_with_nan_are_refused_and_the_layer_is_named(kind, options):
    random = np.random.default_rng(0)
    for place in (0, 17, 39):
        scores = {"fine": random.random((3, 4)).astype(kind), "broken": random.random((10, 4)).astype(kind)}
        scores["broken"].flat[place] = np.nan
        with pytest.raises(NnoptError) as error:
            make_masks(scores, **options)
        assert str(error.value) == "scores must not hold NaN; received NaN in 'broken'."


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


def test_a_seed_that_is_none_is_refused():
    for seed in (-1, 0.5, None):
        with pytest.raises(NnoptError, match="seed must be a whole number, at least 0; received"):
            shuffle_masks(some_masks(), seed=seed)
