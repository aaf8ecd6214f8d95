import ml_dtypes
import numpy as np
import pytest

from nnopt_lib import make_masks
from nnopt_lib.checks import NnoptError
from nnopt_lib.pruning import topk
from nnopt_lib.pruning.scores import magnitude
from tests.pruning.oracles import (
    TYPES,
    assert_same,
    oracle,
    oracle_by_layer,
    oracle_n_of_m,
    random_array,
    random_scores,
    random_sparsity,
)

PATHS = ((topk.CHUNK, topk.SAMPLE), (5, 3))


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
            monkeypatch.setattr(topk, "CHUNK", chunk)
            monkeypatch.setattr(topk, "SAMPLE", sample)
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
